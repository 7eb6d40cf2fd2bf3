"""The CM3 objective (arXiv 2201.07520; CM3Leon, section 2): spans move to the end, behind the symbol that stands in.

    <eos> A small dog <break> codes <eos>   ->   <eos> A <mask:0> <break> codes <eos> <infill:0> small dog <eoss>

A span never crosses a boundary symbol (CM3Leon: `<break>`), and never holds one. Places are drawn as in metaseq's code:
two for a single span; for n spans n^2 pairs, tried from the last to the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from plait.sequence import Sequence, join, tokens

Span = tuple[int, int]  # elements [start, stop)


@dataclass(frozen=True, kw_only=True)
class CM3Mask:
    """Sequence x generator -> sequence with spans moved to its end; it grows by three tokens a span.

    A sequence that already holds a sentinel (an answered document) is left as it is.
    """

    sentinels: tuple[int, ...]
    end: int
    """<eoss>"""
    boundaries: tuple[int, ...]
    """<break>, <eos>; none: spans lie anywhere."""
    expectation: float = 1.0
    """Spans are drawn from Poisson(expectation), at most as many as there are sentinels."""
    fixed: int | None = None
    """So many spans in every sequence, in place of a drawn number (metaseq's modes fixed and fim: 1)."""
    opening: bool = False
    """A span may hold the boundary symbol that opens its segment, as in metaseq's code."""
    whole: float = 0.0
    """The share of sequences in which, instead, one whole segment without codes is masked: what an unconditional
    picture and a description are asked with."""
    sentinel_weight: float = 0.0
    """Weight of sentinels as targets: 0 in the CM3 paper, 1 in metaseq's code."""

    def __call__(self, sequence: Sequence, generator: np.random.Generator) -> Sequence:
        """The masked sequence."""
        ids = sequence.ids()
        if np.isin(ids, self.sentinels).any():
            return sequence
        segments = self.segments(ids)
        if self.whole:
            texts = [(a, b) for a, b in segments if (ids[a:b] >= 0).all()]
            if texts and generator.random() < self.whole:
                return self.move(sequence, [texts[generator.integers(len(texts))]])
        wanted = int(generator.poisson(self.expectation)) if self.fixed is None else self.fixed
        drawn = _draw(min(wanted, len(self.sentinels)), len(ids), generator)
        clipped = (clip(span, segments) for span in drawn)
        return self.move(sequence, sorted((start, stop) for start, stop in clipped if start < stop))

    def move(self, sequence: Sequence, spans: list[Span]) -> Sequence:
        """Moves the elements of `spans`, which are in order and do not intersect, behind the end."""
        if not spans:
            return sequence
        kept, moved, at = [], [], 0
        for (start, stop), sentinel in zip(spans, self.sentinels, strict=False):
            symbol = Sequence((tokens([sentinel], weight=self.sentinel_weight),), sequence.origin)
            kept += [sequence.cut(at, start), symbol]
            moved += [symbol, sequence.cut(start, stop), Sequence((tokens([self.end]),))]
            at = stop
        return join([*kept, sequence.cut(at, len(sequence)), *moved])

    def segments(self, ids: np.typing.NDArray[np.int64]) -> list[Span]:
        """Runs between boundary symbols, these left out, or with the one that opens them."""
        edges = np.flatnonzero(np.isin(ids, self.boundaries)).tolist()
        if not self.opening:
            return [(a + 1, b) for a, b in pairwise([-1, *edges, len(ids)]) if b > a + 1]
        last = [len(ids)] if not edges or edges[-1] < len(ids) - 1 else []  # what ends a block opens nothing
        return [(a, b) for a, b in pairwise([0, *edges, *last]) if b > a]


def clip(span: Span, segments: Iterable[Span]) -> Span:
    """The part of a span in the segment that holds most of it, the first of several; it may be empty."""
    parts = ((max(span[0], start), min(span[1], stop)) for start, stop in segments)
    return max(parts, key=lambda part: part[1] - part[0], default=(0, 0))


def _draw(count: int, length: int, generator: np.random.Generator) -> list[Span]:
    """At most `count` spans that do not intersect, in the order in which they were found; some may be empty."""
    drawn = generator.random((count**2, 2))
    pairs = (np.sort(drawn) if count == 1 else drawn) * length
    spans: list[Span] = []
    for first, second in pairs[::-1]:
        start, stop = sorted((int(first), int(second + 0.5)))
        if all(stop <= a or start >= b for a, b in spans):
            spans.append((start, stop))
        if len(spans) == count:
            break
    return spans
