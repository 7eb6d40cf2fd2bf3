"""The CM3 objective (arXiv 2201.07520; CM3Leon, section 2): spans move to the end, behind the symbol that stands in.

    <eos> A small dog <break> codes <eos>   ->   <eos> A <mask:0> <break> codes <eos> <infill:0> small dog <eoss>

A span never crosses a boundary symbol (CM3Leon: `<break>`), and never holds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from plait.sequence import Sequence, join, tokens


@dataclass(frozen=True, kw_only=True)
class CM3Mask:
    """Sequence x generator -> sequence with spans moved to its end; it grows by three tokens a span.

    A sequence that already holds a sentinel (an answered document) is left as it is.
    """

    sentinels: tuple[int, ...]
    end: int
    """<eoss>"""
    boundaries: tuple[int, ...]
    """<break>, <eos>"""
    expectation: float = 1.0
    """Spans are drawn from Poisson(expectation), at most as many as there are sentinels."""
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
        segments = self._segments(ids)
        texts = [(a, b) for a, b in segments if (ids[a:b] >= 0).all()]
        if texts and generator.random() < self.whole:
            return self.move(sequence, [texts[generator.integers(len(texts))]])
        count = min(int(generator.poisson(self.expectation)), len(self.sentinels))
        return self.move(sequence, self._draw(count, len(ids), segments, generator))

    def move(self, sequence: Sequence, spans: list[tuple[int, int]]) -> Sequence:
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

    def _segments(self, ids: np.typing.NDArray[np.int64]) -> list[tuple[int, int]]:
        """Runs between boundary symbols, these left out."""
        edges = [-1, *np.flatnonzero(np.isin(ids, self.boundaries)).tolist(), len(ids)]
        return [(a + 1, b) for a, b in pairwise(edges) if b > a + 1]

    def _draw(
        self, count: int, length: int, segments: list[tuple[int, int]], generator: np.random.Generator
    ) -> list[tuple[int, int]]:
        """Spans between two uniform places each, clipped to the segment that they overlap most, without intersection.

        As in metaseq's code, `count`^2 candidates are tried for more than one span.
        """
        spans: list[tuple[int, int]] = []
        for _ in range(count if count < 2 else count**2):
            a, b = np.sort(generator.random(2) * length)
            start, stop = int(a), int(b + 0.5)
            clipped = max(
                ((max(start, s), min(stop, e)) for s, e in segments), key=lambda x: x[1] - x[0], default=(0, 0)
            )
            if clipped[1] > clipped[0] and all(clipped[1] <= s or clipped[0] >= e for s, e in spans):
                spans.append(clipped)
            if len(spans) == count:
                break
        return sorted(spans)
