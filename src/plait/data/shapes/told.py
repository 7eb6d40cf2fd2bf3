"""Scenes that are told and not shown: documents of text alone, in which words stand where a picture would.

They teach a language model the world's language, and to look up what it was told, so that one that is frozen can later
be given vectors of a picture in place of the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plait.data.shapes import language
from plait.data.shapes.chance import Chance
from plait.data.shapes.source import Shapes
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Facts, Scene
from plait.document import Document, Text, Turn
from plait.errors import ConfigError
from plait.text.templates import CLOSE, OPEN

KINDS = ("caption", "describe", "questions")

TERSE = 0.85  # share of scenes told in bare words, "red circle top left, ..."; the others are told by a caption
ORDERS = (
    ("size", "colour", "shape", "place"),
    ("colour", "shape", "size", "place"),
    ("place", "size", "colour", "shape"),
    ("colour", "shape", "place", "size"),
)
SEPARATORS = (", ", " and ", "; ")

_PURPOSE = 4  # of `Shapes.chance`; the first that `Shapes` leaves free


@dataclass(frozen=True, kw_only=True)
class Told:
    """The examples of `shapes` in words: element i tells the scene of document i, as a function of that and of i alone.

    What is told is whole: colour, shape, size and place of every object, in any order. It stands between the words
    that are written around a picture. The kinds of document, by the shares of `mix`:

        caption    the caption alone
        describe   turns: scene and request, caption
        questions  turns: scene and first question, answer, second question, answer, ...

    Args:
        shapes: the scenes, captions and questions; its `mix` has no say here.
        mix: share of each kind of document; they need not sum to one.

    Raises:
        ConfigError: shares of no known kind, or all 0.
    """

    shapes: Shapes
    mix: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))

    def __post_init__(self) -> None:
        if set(self.mix) - set(KINDS) or min(self.mix.values(), default=0) < 0 or not sum(self.mix.values()):
            raise ConfigError(f"mix={dict(self.mix)}: give shares, not all 0, of {', '.join(KINDS)}")

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> Document:
        example, chance = self.shapes.example(i), self.shapes.chance(i, _PURPOSE)
        kind = chance.weighted(self.mix)
        if kind == "caption":
            return Document([Text(example.caption)])
        scene = tell(example.scene, chance)
        if kind == "describe":
            return asked(scene, [(chance.choice(language.REQUESTS), example.caption)])
        return asked(scene, [(question.text, question.said(self.shapes.steps)) for question in example.questions])


def tell(scene: Scene, chance: Chance) -> str:
    """The facts of all objects: in bare words, or as a caption."""
    if chance.unit() >= TERSE:
        return language.caption(scene, chance).text
    order, separator = chance.choice(ORDERS), chance.choice(SEPARATORS)
    objects = chance.sample(scene.objects, len(scene))
    return separator.join(" ".join(getattr(item, attribute) for attribute in order) for item in objects)


def asked(told: str, said: list[tuple[str, str]]) -> Document:
    """Questions and answers in turns on a scene that is told before the first; an answer may be missing ("")."""
    turns = []
    for at, (question, answer) in enumerate(said):
        turns.append(Turn("user", question if at else f"{OPEN} {told} {CLOSE} {question}"))
        turns += [Turn("assistant", answer)] if answer else []
    return Document(turns)


def read(told: str) -> tuple[Facts, ...] | None:
    """The facts that `tell` told, sorted as in `Scene.content`; None where they are not whole."""
    if facts := language.parse(told):
        return facts
    found = [_object(part) for part in told.replace(" and ", ", ").replace("; ", ", ").split(", ")]
    return tuple(sorted(facts for facts in found if facts)) if all(found) else None


def _object(words: str) -> Facts | None:
    rest = words.split()
    facts = []
    for values in (COLOURS, SHAPES, SIZES):
        found = [word for word in rest if word in values]
        if len(found) != 1:
            return None
        facts += found
        rest.remove(found[0])
    place = " ".join(rest)
    return (facts[0], facts[1], facts[2], place) if place in PLACES else None
