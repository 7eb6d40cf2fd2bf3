"""Scores of drawings and captions against the scene that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from plait.data.shapes.language import parse
from plait.data.shapes.world import Facts, Scene


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
