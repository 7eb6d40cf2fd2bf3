"""The kinds of cases, by name."""

from __future__ import annotations

from typing import Any

from plait.data.shapes.boxes import Boxes
from plait.data.shapes.cases import Cases, Drawings
from plait.data.shapes.contexts import Contexts
from plait.data.shapes.dialogues import Dialogues
from plait.data.shapes.edits import Edits
from plait.data.shapes.episodes import Episodes
from plait.data.shapes.instructions import Instructions
from plait.data.shapes.maps import Edges, Maps
from plait.data.shapes.matrices import Matrices
from plait.data.shapes.nouns import NounQuestions, Nouns
from plait.data.shapes.pages import Pages
from plait.data.shapes.placements import Placements
from plait.data.shapes.sketches import Sketches
from plait.data.shapes.statements import Statements
from plait.data.shapes.steps import Steps
from plait.data.shapes.stories import Stories
from plait.data.shapes.styles import Compositions, Restylings, StyleDrawings, StyleNames
from plait.data.shapes.videos import Videos
from plait.data.shapes.words import Opinions, Words
from plait.data.shapes.writings import Writings

_KINDS: tuple[type[Cases], ...] = (
    Dialogues,
    Edits,
    Sketches,
    Maps,
    Edges,
    Boxes,
    Placements,
    Steps,
    Instructions,
    Statements,
    StyleNames,
    StyleDrawings,
    Restylings,
    Compositions,
    Nouns,
    NounQuestions,
    Videos,
    Stories,
    Matrices,
    Words,
    Opinions,
    Writings,
    Pages,
    Episodes,
    Contexts,
)
CASES: dict[str, type[Cases]] = {kind.name: kind for kind in _KINDS}


def cases(kind: str, *, steps: bool = False, **fields: Any) -> Cases:
    """Cases of a kind by its name; with steps where its replies are pictures (`Drawings`)."""
    of = CASES[kind]
    if steps and issubclass(of, Drawings):
        fields["steps"] = True
    return of(**fields)
