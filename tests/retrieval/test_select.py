from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plait.errors import ConfigError
from plait.retrieval.memory import Embedded, Memory
from plait.retrieval.select import Selection, best, diverse, draw, query_dropout, select

AXES = torch.eye(6)


def towards(*parts: tuple[int, float]) -> torch.Tensor:
    """A unit vector along some axes."""
    return torch.nn.functional.normalize(sum(weight * AXES[axis] for axis, weight in parts), dim=0)  # type: ignore[arg-type]


def documents(
    text: list[torch.Tensor | None], pictures: list[torch.Tensor | None], content: list[int], shown: list[int]
) -> Embedded:
    stacked = [torch.stack([torch.zeros(6) if v is None else v for v in part]) for part in (text, pictures)]
    digests = [np.array(part, np.uint64) for part in (content, shown)]
    return Embedded(text=stacked[0], pictures=stacked[1], content=digests[0], picture_content=digests[1])


def memory_of(folder: Path, made: Embedded, style: str = "unit") -> Memory:
    memory = Memory.create(folder, 6, style=style)  # type: ignore[arg-type]
    with memory.appending():
        memory.append("bank", range(len(made)), made)
    return memory


@pytest.fixture
def bank() -> Embedded:
    """Text and picture of document i agree; they come ever closer to axis 0 from 0 on; 2 is 1 again."""
    near = [towards((0, 1), (i + 1, 1 - 0.2 * i)) for i in range(4)]
    near[2] = near[1]
    return documents(near, near, [10, 11, 11, 13], [20, 21, 21, 23])


# ---------------------------------------------------------------------------------------------------- parts


def test_dropout_leaves_out_by_the_draw() -> None:
    words = [f"word{i}" for i in range(2000)]
    kept = query_dropout(words, 0.2, np.random.default_rng(0))
    drawn = np.random.default_rng(0).random(2000)
    assert kept == [word for word, u in zip(words, drawn, strict=True) if u >= 0.2]
    assert 1500 < len(kept) < 1700
    assert query_dropout(words, 0.0, np.random.default_rng(0)) == words


def test_what_is_too_near_is_skipped() -> None:
    vectors = torch.stack((towards((0, 1)), towards((0, 1), (1, 0.1)), towards((1, 1)), towards((2, 1))))
    scores = torch.tensor([0.95, 0.8, 0.7, 0.6])
    assert diverse(scores, vectors, 4) == [1, 2, 3]
    assert diverse(scores - 0.1, vectors, 4) == [0, 2, 3]
    assert diverse(scores - 0.1, vectors, 2) == [0, 2]
    assert diverse(scores - 0.1, vectors, 4, cut=0.999) == [0, 1, 2, 3]
    assert diverse(scores - 0.1, vectors, 4, taken=vectors[2:3]) == [0, 3]
    assert diverse(scores[:0], vectors[:0], 2) == []


def test_how_many_are_drawn() -> None:
    taken = np.array([4, 9, -1, 7])
    rng = np.random.default_rng(0)
    drawn = [draw(taken, (0, 1, 2), rng) for _ in range(300)]
    counts = np.bincount([len(rows) for rows in drawn], minlength=4)
    assert counts[3] == 0 and counts[:3].min() > 70
    assert {row for rows in drawn for row in rows} == {4, 9, 7}
    assert all(len(set(rows)) == len(rows) for rows in drawn)
    assert sorted(draw(taken, (5,), rng)) == [4, 7, 9]
    assert draw(taken, (2,), np.random.default_rng(1)) == draw(taken, (2,), np.random.default_rng(1))


def test_the_best_take_turns() -> None:
    assert best(np.array([1, 2, 3, 4]), 3) == [1, 3, 2]
    assert best(np.array([-1, -1, 3, 4]), 1) == [3]
    assert best(np.array([-1, -1, -1, -1]), 2) == []


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="each=0"):
        Selection(each=0)
    with pytest.raises(ConfigError, match=r"dropout=1\.0"):
        Selection(dropout=1.0)


# ------------------------------------------------------------------------------------------------- the whole


def test_each_way_of_asking_has_its_columns(tmp_path: Path) -> None:
    vectors = [towards((axis, 1)) for axis in range(4)]
    made = documents([*vectors], [*vectors], [1, 2, 3, 4], [1, 2, 3, 4])
    memory = memory_of(tmp_path, made)
    query = documents([towards((0, 1), (1, 0.9))], [towards((2, 1), (3, 0.9))], [50], [50])
    assert select(memory, query, Selection(each=2)).tolist() == [[2, 3, 0, 1]]
    blind = replace(query, pictures=torch.zeros(1, 6))
    assert select(memory, blind, Selection(each=1)).tolist() == [[-1, 0]]
    nothing = replace(blind, text=torch.zeros(1, 6))
    assert select(memory, nothing, Selection(each=1)).tolist() == [[-1, -1]]


@pytest.mark.parametrize("style", ["unit", "raw"])
def test_a_document_stands_once_in_front_of_another(tmp_path: Path, bank: Embedded, style: str) -> None:
    memory = memory_of(tmp_path, bank, style)
    query = documents([towards((0, 1))], [towards((0, 1))], [50], [50])
    taken = select(memory, query, Selection(each=2, cut=2.0))  # by pictures the nearest, by text what is left
    assert taken.tolist() == [[3, 1, 0, -1]]


@pytest.mark.parametrize("style", ["unit", "raw"])
@pytest.mark.parametrize(
    ("content", "shown", "own", "left"),
    [
        (50, 50, None, [0, 1, 3]),
        (50, 50, ("bank", 3), [0, 1]),  # by its number
        (50, 50, ("elsewhere", 3), [0, 1, 3]),
        (13, 50, None, [0, 1]),  # by its content
        (50, 23, None, [0, 1]),  # by its picture
        (11, 21, None, [0, 3]),  # with its duplicate
        (50, 0, None, [0, 1, 3]),
    ],
)
def test_a_query_never_gets_itself(
    tmp_path: Path, bank: Embedded, style: str, content: int, shown: int, own: tuple[str, int] | None, left: list[int]
) -> None:
    query = documents([towards((0, 1))], [towards((0, 1))], [content], [shown])
    taken = select(memory_of(tmp_path, bank, style), query, Selection(each=4, cut=2.0), {0: own} if own else None)
    assert sorted(taken[taken >= 0].tolist()) == left


@pytest.mark.parametrize("style", ["unit", "raw"])
def test_nor_what_is_embedded_as_it_is(tmp_path: Path, bank: Embedded, style: str) -> None:
    again = documents([bank.text[3]], [bank.pictures[3]], [50], [50])  # the same picture in another file
    taken = select(memory_of(tmp_path, bank, style), again, Selection(each=4, cut=2.0))
    assert 3 not in taken


def test_documents_with_both_come_first(tmp_path: Path) -> None:
    text = [towards((0, 1), (1, 0.6)), towards((0, 1), (2, 0.9)), towards((0, 1), (3, 2))]
    pictures = [None, None, text[2]]
    memory = memory_of(tmp_path, documents([*text], pictures, [1, 2, 3], [0, 0, 3]))
    query = documents([towards((0, 1))], [None], [50], [0])
    assert select(memory, query, Selection(each=2)).tolist() == [[-1, -1, 2, 0]]
    assert select(memory, query, Selection(each=2, prefer_both=False)).tolist() == [[-1, -1, 0, 1]]


def test_an_empty_memory_has_nothing(tmp_path: Path) -> None:
    memory = Memory.create(tmp_path, 6)
    query = documents([towards((0, 1))], [None], [50], [0])
    assert select(memory, query, Selection()).tolist() == [[-1] * 4]
