"""The kinds of cases, by name."""

from __future__ import annotations

from plait.data.shapes.boxes import Boxes
from plait.data.shapes.cases import Cases
from plait.data.shapes.dialogues import Dialogues
from plait.data.shapes.edits import Edits
from plait.data.shapes.episodes import Episodes
from plait.data.shapes.instructions import Instructions
from plait.data.shapes.maps import Edges, Maps
from plait.data.shapes.matrices import Matrices
from plait.data.shapes.nouns import NounQuestions, Nouns
from plait.data.shapes.pages import Pages
from plait.data.shapes.statements import Statements
from plait.data.shapes.stories import Stories
from plait.data.shapes.styles import Restylings, StyleDrawings, StyleNames
from plait.data.shapes.videos import Videos
from plait.data.shapes.words import Opinions, Words

_KINDS: tuple[type[Cases], ...] = (
    Dialogues,
    Edits,
    Maps,
    Edges,
    Boxes,
    Instructions,
    Statements,
    StyleNames,
    StyleDrawings,
    Restylings,
    Nouns,
    NounQuestions,
    Videos,
    Stories,
    Matrices,
    Words,
    Opinions,
    Pages,
    Episodes,
)
CASES: dict[str, type[Cases]] = {kind.name: kind for kind in _KINDS}
