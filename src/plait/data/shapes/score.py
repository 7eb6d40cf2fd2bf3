"""Scores of replies: words, drawings, captions and maps against what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from plait.data.shapes import oracle
from plait.data.shapes.language import bare, parse
from plait.data.shapes.world import Facts, Scene
from plait.document import Document
from plait.errors import ImageError


class Counts(NamedTuple):
    """Objects that were said rightly, said, and there; sum them over captions before taking `f1`."""

    right: int
    said: int
    true: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 when nothing was said and nothing was there."""
        return 2 * self.right / (self.said + self.true) if self.said + self.true else 1.0


def match(asked: Iterable[Facts], found: Iterable[Facts]) -> list[Facts]:
    """The objects that are in both, one to one, equal in colour, shape, size and place."""
    return sorted((Counter(asked) & Counter(found)).elements())


def object_accuracy(asked: Sequence[Facts], found: Sequence[Facts]) -> float:
    """Matches over the larger of the two numbers of objects; 1 when there is none in either."""
    return len(match(asked, found)) / max(len(asked), len(found), 1) if asked or found else 1.0


def object_counts(asked: Scene, sentence: str) -> Counts:
    """How far a caption names the objects of the scene by colour, shape and place.

    A sentence that the grammar of captions cannot read says nothing.
    """
    true = Counter((colour, shape, place) for colour, shape, _, place in asked.content)
    said = Counter((colour, shape, place) for colour, shape, _, place in parse(sentence) or ())
    return Counts((true & said).total(), said.total(), true.total())


def says(answer: str, reply: Document) -> float:
    """1 for a reply of these words, up to case, white space and a final dot; else 0."""
    return float(bare(reply.text) == bare(answer))


def drawing(reply: Document) -> PIL.Image.Image | None:
    """The first picture of a reply, square; None where there is none that can be read."""
    try:
        picture = reply.images[0].open() if reply.images else None
    except ImageError:
        return None
    return picture if picture is None or picture.width == picture.height else picture.resize((picture.width,) * 2)


def draws(content: Sequence[Facts], reply: Document, style: str = "plain") -> float:
    """`object_accuracy` of the picture that the reply holds, by the oracle; 0 without a picture."""
    picture = drawing(reply)
    return 0.0 if picture is None else object_accuracy(content, oracle.read(picture, style).content)


def overlap(asked: NDArray[np.integer], found: NDArray[np.integer]) -> float:
    """Agreement of two maps of labels, 0 for the background: the pixels that have the same label other than 0 in both,
    over those that have one in either. The background that both leave empty counts for nothing."""
    either = np.count_nonzero((asked > 0) | (found > 0))
    return np.count_nonzero((asked == found) & (asked > 0)) / either if either else 1.0
