"""The nearest of many vectors by inner product: all of them compared, or those that an index of faiss proposes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.errors import ConfigError

CHUNK = 32_768
"""Vectors that are compared at once: 64 MB of width 512 in fp32."""
QUERIES = 1024
"""Queries that are compared at once."""
TRAINED_ON = 64
"""Vectors for each cell of an index, of which the cells are learned."""

Numbers = NDArray[Any]


def exact(vectors: Numbers, weights: Numbers, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of weight * (vector, query), by comparing all.

    Args:
        vectors: (n, c) in fp32 or fp16, such as a mapped file; compared in fp32.
        weights: (n,) fp32.
        queries: (q, c).

    Returns:
        Scores (q, k) in falling order and rows (q, k), k = min(count, n); equal scores in the order of rows.
    """
    device, n = queries.device, len(vectors)
    best = torch.empty(len(queries), 0, device=device)
    rows = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    for start in range(0, n, CHUNK):
        block = torch.from_numpy(vectors[start : start + CHUNK]).to(device, torch.float32)
        scale = torch.from_numpy(np.ascontiguousarray(weights[start : start + CHUNK])).to(device)
        found = [_best(block, scale, part, count) for part in torch.split(queries.float(), QUERIES)]
        best = torch.cat((best, torch.cat([scores for scores, _ in found])), 1)
        rows = torch.cat((rows, torch.cat([at for _, at in found]) + start), 1)
        best, order = _first(best, count)
        rows = rows.gather(1, order)
    return best, rows


def _best(block: Tensor, scale: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and places of the best of a block, (q, k) each, in the order of their places."""
    scores = queries @ block.T * scale  # (q, n)
    at = scores.topk(min(count, len(block)), dim=1, sorted=False).indices.sort(dim=1).values
    return scores.gather(1, at), at


def _first(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of (q, m), in falling order; of equal ones the first."""
    ordered, at = scores.sort(dim=1, descending=True, stable=True)
    return ordered[:, :count], at[:, :count]


class Index:
    """An inverted file of faiss over the first vectors of a memory: cells by k-means, values in fp16.

    On vectors without structure it finds few of the nearest, whatever is looked at; on embeddings it is near to exact
    (docs/retrieval.md).
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @classmethod
    def build(cls, vectors: Numbers, weights: Numbers, seed: int = 0) -> Index:
        """Of weight * vector.

        Raises:
            ConfigError: faiss is not installed.
        """
        faiss = _faiss()
        n, width = vectors.shape
        cells = max(1, min(int(math.sqrt(n)), n // 39))  # faiss warns of fewer than 39 vectors each
        index = faiss.index_factory(width, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
        chosen = np.sort(np.random.default_rng(seed).choice(n, min(n, TRAINED_ON * cells), replace=False))
        index.train(_scaled(vectors[chosen], weights[chosen]))
        for start in range(0, n, CHUNK):
            index.add(_scaled(vectors[start : start + CHUNK], weights[start : start + CHUNK]))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> Index:
        """From a file, which stays mapped.

        Raises:
            ConfigError: faiss is not installed.
        """
        faiss = _faiss()
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))

    def save(self, path: Path) -> None:
        """To a file, which appears whole."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _faiss().write_index(self._index, str(partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def candidates(self, queries: Tensor, count: int, cells: int) -> NDArray[np.int64]:
        """(q, count) rows; -1 where fewer were found.

        Args:
            cells: that are looked at for each query.
        """
        self._index.nprobe = min(cells, self._index.nlist)
        return np.asarray(self._index.search(queries.float().cpu().numpy(), count)[1])


def _scaled(vectors: Numbers, weights: Numbers) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors.astype(np.float32) * weights[:, None])


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError('an index needs faiss: pip install "plait[search]", or search by index="exact"') from error
    return faiss
