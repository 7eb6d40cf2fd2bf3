from __future__ import annotations

import re
from pathlib import Path

import memory_search
import numpy as np
import pytest
import torch

from plait.document import Document
from plait.errors import ConfigError, InputError
from plait.retrieval import memory as module
from plait.retrieval.memory import BOTH, PICTURES, TEXT, Embedded, Memory

WIDTH = 8


def unit(n: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def embedded(n: int, seed: int = 0) -> Embedded:
    text, pictures = unit(n, seed), unit(n, seed + 1000)
    numbers = np.arange(n, dtype=np.uint64) + 100 * seed
    return Embedded(text=text, pictures=pictures, content=numbers, picture_content=numbers)


def add(memory: Memory, made: Embedded, source: str = "s", **known: object) -> None:
    first = memory.source(source)["done"]
    with memory.appending():
        memory.append(source, range(first, first + len(made)), made, **known)  # type: ignore[arg-type]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory.create(tmp_path / "memory", WIDTH)


def test_the_average_of_the_parts_that_there_are() -> None:
    text, pictures = unit(3, 0), unit(3, 1)
    text[1], pictures[2] = 0, 0
    numbers = np.zeros(3, np.uint64)
    made = Embedded(text=text, pictures=pictures, content=numbers, picture_content=numbers)
    vectors, lengths = made.joined()
    torch.testing.assert_close(vectors[0] * lengths[0], (text[0] + pictures[0]) / 2)
    torch.testing.assert_close(vectors[1:], torch.stack((pictures[1], text[2])))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert made.parts.tolist() == [BOTH, PICTURES, TEXT]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_vectors_come_back(tmp_path: Path, dtype: module.Type, tolerance: float) -> None:
    parts = [embedded(5), embedded(1, 1), embedded(70, 2)]
    memory = Memory.create(tmp_path / "memory", WIDTH, dtype=dtype)
    for part in parts:
        add(memory, part)
    again = Memory(tmp_path / "memory")
    assert len(again) == len(memory) == 76
    wanted = torch.cat([part.joined()[0] for part in parts])
    assert (torch.from_numpy(again.vectors.astype(np.float32)) - wanted).abs().max() < tolerance
    assert again.records["number"].tolist() == list(range(76))
    assert again.records["content"].tolist() == [n for part in parts for n in part.content.tolist()]
    assert again.source("s") == {"name": "s", "done": 76, "broken": 0}


@pytest.mark.parametrize("style", ["unit", "raw"])
def test_scores_are_of_the_style(tmp_path: Path, style: module.Style) -> None:
    made, queries = embedded(40), unit(3, 7)
    add(Memory.create(tmp_path / "memory", WIDTH), made)
    memory = Memory(tmp_path / "memory", style=style)
    vectors, lengths = made.joined()
    wanted = queries @ (vectors if style == "unit" else vectors * lengths[:, None]).T
    found = memory.search(queries, 40)
    torch.testing.assert_close(found.scores, wanted.sort(descending=True).values)
    torch.testing.assert_close(memory.compared(found.rows[0].numpy()) @ queries[0], found.scores[0])


def test_documents_are_those_of_their_sources(memory: Memory) -> None:
    add(memory, embedded(2), "first")
    add(memory, embedded(3, 1), "second")
    add(memory, embedded(1, 2), "first")
    sources = {name: [Document(f"{name} {i}") for i in range(4)] for name in ("first", "second")}
    again = Memory(memory.folder, sources)
    told = [again[row].text for row in range(6)]
    assert told == ["first 0", "first 1", "second 0", "second 1", "second 2", "first 2"]
    with pytest.raises(IndexError, match="row 6 of 6"):
        again[6]
    with pytest.raises(InputError, match="'second', which was not given"):
        Memory(memory.folder, {"first": sources["first"]})[3]


def test_what_is_left_out_is_listed(memory: Memory) -> None:
    add(memory, embedded(2), done=4, broken={2: "no picture"}, about={"documents": 9})
    assert memory.source("s") == {"name": "s", "done": 4, "broken": 1, "documents": 9}
    add(memory, embedded(1, 1), done=6, broken={5: "cut"})
    again = Memory(memory.folder)
    assert [*again.broken()] == [
        {"source": "s", "number": 2, "reason": "no picture"},
        {"source": "s", "number": 5, "reason": "cut"},
    ]
    assert again.source("s") == {"name": "s", "done": 6, "broken": 2, "documents": 9}
    assert dict(again.rows())["s"] == "6 of 9 looked at, 2 left out"
    assert dict(again.rows())["left out: s 5"] == "cut"


def test_an_open_memory_sees_what_it_appends_alone(memory: Memory) -> None:
    add(memory, embedded(3))
    other = Memory(memory.folder)
    assert len(other.vectors) == 3
    add(memory, embedded(2, 1))
    assert len(memory.vectors) == len(memory.records) == 5
    assert len(other.vectors) == len(other) == 3
    other.store.refresh()
    with other.appending():
        assert len(other.records) == 5


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            Embedded(
                text=unit(2, 0)[:, :4], pictures=unit(2, 1)[:, :4], content=np.zeros(2), picture_content=np.zeros(2)
            ),
            r"vectors of [2, 4] for 2 documents in a memory of width 8",
        ),
        (
            Embedded(
                text=unit(2, 0) * torch.nan, pictures=unit(2, 1), content=np.zeros(2), picture_content=np.zeros(2)
            ),
            "not finite",
        ),
    ],
)
def test_vectors_that_do_not_fit_are_refused(memory: Memory, made: Embedded, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        add(memory, made)
    assert len(Memory(memory.folder)) == 0


def test_wrong_questions_are_refused(memory: Memory) -> None:
    add(memory, embedded(3))
    with pytest.raises(InputError, match=r"queries of \[1, 4\] in a memory of width 8"):
        memory.search(torch.ones(1, 4), 1)
    with pytest.raises(ConfigError, match="index='fais': did you mean 'faiss'"):
        memory.search(torch.ones(1, 8), 1, "fais")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="compared as unit or raw, not 'cosine'"):
        Memory(memory.folder, style="cosine")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'int8'"):
        Memory.create(memory.folder / "other", WIDTH, dtype="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["unit", "raw"])
def test_an_index_and_what_came_after_it(memory: Memory, monkeypatch: pytest.MonkeyPatch, style: module.Style) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(module, "EXACT", 100)
    add(memory, embedded(300))
    memory = Memory(memory.folder, style=style)
    queries = unit(20, 7)
    wanted = memory.search(queries, 5, "exact")
    found = memory.search(queries, 5, cells=1000)  # all of them: nothing is missed
    assert torch.equal(found.rows, wanted.rows)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert (memory.folder / f"{style}.faiss").is_file()
    add(memory, embedded(50, 1))
    again = Memory(memory.folder, style=style)
    assert len(again.index()) == 300
    assert torch.equal(again.search(queries, 5, cells=1000).rows, again.search(queries, 5, "exact").rows)
    add(again, embedded(400, 2))
    assert len(again.index()) == 750


@pytest.mark.slow
def test_no_vector_is_lost_or_half_there(tmp_path: Path) -> None:
    told = memory_search.kills(tmp_path / "killed", 3)
    assert told["acknowledged_vectors_lost"] == told["wrong_or_half_records"] == 0
    assert told["vectors_at_the_end"] > 0


def test_where_candidates_are_few_the_rest_is_marked(memory: Memory) -> None:
    pytest.importorskip("faiss")
    assert memory.search(unit(1, 7), 5, "faiss").rows.shape == (1, 0)
    add(memory, embedded(3))
    found = memory.search(unit(1, 7), 5, "faiss")
    assert found.scores.isfinite().sum() == 3 and sorted(found.rows[0, :3].tolist()) == [0, 1, 2]
