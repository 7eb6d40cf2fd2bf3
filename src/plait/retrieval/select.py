"""Which of the documents that were found are taken (CM3Leon, arXiv 2309.02591; RA-CM3, arXiv 2211.12561)."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.errors import ConfigError
from plait.retrieval.memory import BOTH, Embedded, How, Memory

SAME = 0.9999
"""Two whole documents whose cosine is above it are one document; fp16 keeps it above that of two."""
LOOKED_AT = 32
"""Candidates of a query for each document that is wanted."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is taken for a query document: `each` by its pictures and `each` by its text.

    Raises:
        ConfigError: nothing is taken, or a share is none.
    """

    each: int = 2
    cut: float = 0.9
    """A candidate whose product with the query, or with one that was taken, is above it is skipped."""
    prefer_both: bool = True
    """Documents with text and pictures before others, however relevant these are."""
    dropout: float = 0.0
    """Share of the words of a text query that are left out; 0.2 in CM3Leon's training."""
    index: How = "auto"
    """How the memory is searched."""

    def __post_init__(self) -> None:
        if self.each < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"each={self.each}, dropout={self.dropout}: take at least 1, drop a share below 1")

    @property
    def most(self) -> int:
        """How many documents are taken at most."""
        return 2 * self.each


def query_dropout(tokens: Items[T], rate: float, generator: np.random.Generator) -> list[T]:
    """The tokens of a query without those whose uniform number is below `rate`; one is drawn for each.

    The papers do not say what a token is; for a text query Plait takes words, so that any tower can be asked.
    """
    return [token for token, u in zip(tokens, generator.random(len(tokens)), strict=True) if u >= rate]


def diverse(scores: Tensor, vectors: Tensor, count: int, cut: float = 0.9, taken: Tensor | None = None) -> list[int]:
    """Places of at most `count` candidates, taken in their order.

    One is skipped whose score is above `cut`, or whose product with one that was taken is.

    Args:
        scores: (n,) products with the query.
        vectors: (n, c) as they are compared.
        taken: (m, c) vectors that were taken before.
    """
    kept: list[int] = []
    before = vectors.new_zeros(0, vectors.shape[1]) if taken is None else taken
    allowed = (scores <= cut) & ~((vectors @ before.T > cut).any(1))
    alike = vectors @ vectors.T > cut  # (n, n)
    for place in range(len(scores)):
        if len(kept) == count:
            break
        if bool(allowed[place]):
            kept.append(place)
            allowed &= ~alike[place]
    return kept


def select(
    memory: Memory, query: Embedded, selection: Selection, own: Mapping[int, tuple[str, int]] | None = None
) -> NDArray[np.int64]:
    """Rows that are taken for each of several query documents: (q, 2 each), by pictures, then by text; -1 for none.

    A query never gets itself: neither the record of its own number, nor one of the same content, nor of the same
    pictures, nor one whose vector is the same. Nor does it get a document twice.

    Args:
        query: its text vectors may be of texts from which words were dropped.
        own: place -> name of the source and number, of queries that are documents of the memory.
    """
    taken = np.full((len(query), selection.most), -1, np.int64)
    foreign = _Foreign(memory, query, own or {})
    for column, part in ((0, query.pictures), (selection.each, query.text)):
        asked = (part != 0).any(1).nonzero()[:, 0]
        if not len(asked) or not len(memory):
            continue
        found = memory.search(part[asked], LOOKED_AT * selection.each, selection.index)
        for place, scores, rows in zip(asked.tolist(), found.scores.cpu(), found.rows.cpu(), strict=True):
            before = taken[place][taken[place] >= 0]
            order = foreign(place, rows.numpy(), before, scores.isfinite().numpy())
            candidates = rows.numpy()[order]
            if selection.prefer_both:
                last = np.argsort(memory.records["parts"][candidates] != BOTH, kind="stable")
                order, candidates = order[last], candidates[last]
            chosen = diverse(
                scores[order], memory.compared(candidates), selection.each, selection.cut, memory.compared(before)
            )
            taken[place, column : column + len(chosen)] = candidates[chosen]
    return taken


class _Foreign:
    """Which candidates are neither their query nor a document that was taken."""

    def __init__(self, memory: Memory, query: Embedded, own: Mapping[int, tuple[str, int]]) -> None:
        self.memory = memory
        self.query = query
        self.whole = query.joined()[0].cpu()  # (q, c)
        names = {one["name"]: i for i, one in enumerate(memory.sources)}
        self.own = {place: (names[name], number) for place, (name, number) in own.items() if name in names}

    def __call__(
        self, place: int, rows: NDArray[np.int64], before: NDArray[np.int64], real: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The places of those candidates of query `place`, each content once."""
        records, query = self.memory.records[rows], self.query
        kept = real & (records["content"] != query.content[place])
        kept &= (records["pictures"] == 0) | (records["pictures"] != query.picture_content[place])
        kept &= ~np.isin(records["content"], self.memory.records["content"][before])
        if place in self.own:
            source, number = self.own[place]
            kept &= (records["source"] != source) | (records["number"] != number)
        units = torch.nn.functional.normalize(self.memory.compared(rows), dim=1)
        kept &= (units @ self.whole[place] <= SAME).numpy()
        first = np.unique(records["content"], return_index=True)[1]
        return np.intersect1d(np.flatnonzero(kept), first)


def draw(taken: NDArray[np.int64], counts: Items[int], generator: np.random.Generator) -> list[int]:
    """Rows for one query, in random order: as many as one of `counts` says, each as likely, or all if there are fewer.

    CM3Leon's training takes three of two by image and two by text: (3,). RA-CM3's takes (0, 1, 2).
    """
    rows = taken[taken >= 0]
    count = counts[int(generator.integers(len(counts)))]
    return [int(row) for row in generator.permutation(rows)[:count]]


def best(taken: NDArray[np.int64], count: int) -> list[int]:
    """The first `count` rows for one query: by pictures and by text in turn, the most relevant first."""
    each = len(taken) // 2
    turns = taken.reshape(2, each).T.flatten()
    return [int(row) for row in turns[turns >= 0][:count]]
