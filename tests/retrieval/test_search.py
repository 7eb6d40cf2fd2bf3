from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plait.errors import ConfigError
from plait.retrieval import search
from plait.retrieval.search import Index, exact


def vectors(n: int, width: int = 8, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_exact_is_what_a_sort_of_all_gives(monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: type) -> None:
    monkeypatch.setattr(search, "CHUNK", chunk)
    monkeypatch.setattr(search, "QUERIES", 2)
    stored, queries = vectors(100).astype(dtype), torch.from_numpy(vectors(5, seed=1))
    weights = np.random.default_rng(2).random(100, dtype=np.float32)
    scores, rows = exact(stored, weights, queries, 12)
    whole = queries @ torch.from_numpy(stored.astype(np.float32) * weights[:, None]).T
    wanted, order = whole.sort(dim=1, descending=True)
    torch.testing.assert_close(scores, wanted[:, :12])
    assert torch.equal(rows, order[:, :12])


def test_of_equal_ones_the_first_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CHUNK", 3)
    stored = np.repeat(vectors(1), 8, axis=0)
    _, rows = exact(stored, np.ones(8, np.float32), torch.from_numpy(stored[:1]), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_of_few_there_are_few() -> None:
    stored = vectors(3)
    scores, rows = exact(stored, np.ones(3, np.float32), torch.from_numpy(stored[:2]), 5)
    assert scores.shape == rows.shape == (2, 3)
    scores, rows = exact(stored[:0], np.ones(0, np.float32), torch.from_numpy(stored[:2]), 5)
    assert scores.shape == rows.shape == (2, 0)


def test_an_index_finds_what_lies_in_its_cells(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    centres = vectors(20, 16)
    stored = np.repeat(centres, 50, axis=0) + 0.05 * vectors(1000, 16, 1)
    stored = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).astype(np.float32)
    Index.build(stored, np.ones(1000, np.float32)).save(tmp_path / "index")
    index = Index.load(tmp_path / "index")
    assert len(index) == 1000
    found = index.candidates(torch.from_numpy(stored[:100]), 10, 8)
    _, wanted = exact(stored, np.ones(1000, np.float32), torch.from_numpy(stored[:100]), 10)
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    assert np.mean(shared) > 9.5


def test_without_faiss_there_is_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r'pip install "plait\[search\]"'):
        Index.build(vectors(10), np.ones(10, np.float32))
    with pytest.raises(ConfigError, match=r'pip install "plait\[search\]"'):
        Index.load(tmp_path / "index")
