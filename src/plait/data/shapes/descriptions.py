"""Things that are known by a description alone: two invented names, what they mean, and a picture of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.data.shapes.cases import Cases
from plait.data.shapes.episodes import Episode, Names
from plait.data.shapes.invented import distinct
from plait.data.shapes.split import SEEN_PAIRS, noisy, part
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Scene, SceneImage
from plait.document import Document, Image, Piece, Text
from plait.text.questions import DESCRIBED

CATEGORY = "the object"


@dataclass(frozen=True, kw_only=True)
class Descriptions(Cases):
    """A picture of one object, which one of two invented names means (KOSMOS-1, arXiv 2302.14045).

        "a dakub is red. a tivol is blue." image "Question:what is the name of the object in the picture? Answer:"
        | "dakub"

    Names mean colours, shapes or sizes, of which the picture has one. Names are drawn anew in each case, and none
    occurs in two parts.

    Chance: one half, by either name.

    Args:
        described: False tells the names and not what they mean.
        pictured: False tells in words what the picture would show.
    """

    name: ClassVar[str] = "descriptions"
    chance: ClassVar[float] = 0.5

    described: bool = True
    pictured: bool = True

    def case(self, i: int) -> Episode:
        """Case i."""
        chance = self.stream(i)
        labels = distinct(chance, self.split, 2)
        at = chance.below(3)
        meanings = chance.sample((COLOURS, SHAPES, SIZES)[at], 2)
        right = chance.below(2)
        while True:
            facts = (*chance.choice(SEEN_PAIRS), chance.choice(SIZES), chance.choice(PLACES))
            if facts[at] == meanings[right] and part([facts]) == self.split:
                break
        told = [
            f"a {label} is {'a ' if at == 1 else ''}{meaning}." for label, meaning in zip(labels, meanings, strict=True)
        ]
        names = f"the names are {labels[0]} and {labels[1]}."
        colour, shape, size, _ = facts
        seen: Piece = Text(f"a {size} {colour} {shape}.")
        if self.pictured:
            seen = Image(SceneImage(Scene((noisy(chance, facts),)), self.resolution))
        pieces: list[Piece] = [
            Text(" ".join(told) if self.described else names),
            seen,
            Text(DESCRIBED.format(category=CATEGORY)),
        ]
        candidates = tuple(Document(label) for label in labels)
        return Episode(
            document=Document([*pieces, Text(labels[right])]),
            prompt=Document(pieces),
            check=Names(labels[right], labels),
            reply=candidates[right],
            candidates=candidates,
            right=right,
        )
