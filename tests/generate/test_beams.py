from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.errors import ConfigError
from plait.generate.beams import Beams, BeamSearch, FairseqSearch, Hypothesis, beam_search
from plait.generate.sampling import Sampling

END = 2


class Chain:
    """Ids that depend on the one before: logits (r, v, v), one table a row, of which row 0 is also the start."""

    def __init__(self, rows: int, vocabulary: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = (torch.randn(rows, vocabulary, vocabulary, generator=generator) * 2).log_softmax(-1)
        self.row = torch.arange(rows)
        self.steps = 0

    def search(self, beams: Beams, ends: tuple[int, ...] = (END,), **more: Any) -> list[list[Hypothesis]]:
        return beam_search(BeamSearch(beams, ends, **more), self.table[:, 0], self.step, self.reorder)

    def step(self, ids: Tensor) -> Tensor:
        self.steps += 1
        return self.table[self.row, ids]

    def reorder(self, index: Tensor) -> None:
        self.row = self.row[index]

    def total(self, row: int, ids: list[int]) -> float:
        return float(sum(self.table[row, a, b] for a, b in zip([0, *ids[:-1]], ids, strict=True)))


def found(replies: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[reply.ids for reply in row] for row in replies]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.sampled_from([0.0, 1.0, 2.0]), longest=st.integers(1, 4))
def test_enough_beams_find_the_best_of_all(seed: int, power: float, longest: int) -> None:
    chain = Chain(2, 4, seed)
    replies = chain.search(Beams(beams=4**longest, max_new_tokens=longest, length_penalty=power, returned=3))
    for row, best in enumerate(replies):
        every = {ids[: ids.index(END) + 1] if END in ids else ids for ids in product(range(4), repeat=longest)}
        ranked = sorted((chain.total(row, list(ids)) / len(ids) ** power for ids in every), reverse=True)
        assert [reply.score for reply in best] == pytest.approx(ranked[:3], abs=1e-5)
        assert len({tuple(reply.ids) for reply in best} & every) == 3
        for reply in best:
            total = chain.total(row, reply.ids)
            assert sum(reply.logprobs) == pytest.approx(total, abs=1e-5)
            assert reply.score == pytest.approx(total / len(reply.ids) ** power, abs=1e-5)
            assert reply.ended == (reply.ids[-1] == END)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    beams=st.integers(1, 4),
    power=st.sampled_from([-1.0, 0.0, 1.0]),
    early=st.sampled_from([True, False, "never"]),
    sampling=st.sampled_from(
        [Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=1.5, no_repeat_ngram=2, min_new_tokens=3)]
    ),
    ends=st.sampled_from([(END,), (END, 3, 4)]),
)
def test_rows_do_not_depend_on_their_neighbours(
    seed: int, beams: int, power: float, early: Any, sampling: Sampling, ends: tuple[int, ...]
) -> None:
    asked = Beams(
        beams=beams,
        max_new_tokens=6,
        length_penalty=power,
        early_stopping=early,
        returned=beams,
        sampling=sampling,
    )
    together = found(Chain(3, 9, seed).search(asked, ends))
    for row in range(3):
        alone = Chain(3, 9, seed)
        alone.table, alone.row = alone.table[row : row + 1], torch.zeros(1).long()
        assert found(alone.search(asked, ends)) == [together[row]]


def test_one_beam_that_stops_early_is_greedy() -> None:
    chain = Chain(5, 12, 0)
    replies = chain.search(Beams(beams=1, max_new_tokens=10, early_stopping=True))
    for row, (reply,) in enumerate(replies):
        id, ids = 0, []
        while id != END and len(ids) < 10:
            id = int(chain.table[row, id].argmax())
            ids.append(id)
        assert reply.ids == ids
    assert chain.steps == max(len(reply.ids) for (reply,) in replies) - 1


def test_a_trie_holds_and_is_not_asked_about_what_is_over() -> None:
    leaves = [[3, 4], [3, 5, 6], [7]]
    asked: list[list[int]] = []

    def allowed(row: int, ids: list[int]) -> list[int]:
        asked.append(ids)
        assert ids[0] == 1
        whole = [[1, *leaf, END] for leaf in leaves]
        return [leaf[len(ids)] for leaf in whole if leaf[: len(ids)] == ids and len(leaf) > len(ids)]

    for seed, n in product(range(10), (3, 5)):  # there are no more than 3
        beams = Beams(beams=n, max_new_tokens=6, returned=n, early_stopping="never")
        replies = Chain(2, 9, seed).search(beams, said=[1], allowed=allowed)
        for row in replies:
            assert sorted(reply.ids for reply in row) == sorted([*leaf, END] for leaf in leaves)
    assert all(ids[-1] >= 0 for ids in asked)


def test_a_stop_ends_all_rows_as_they_are() -> None:
    def stop(said: Tensor) -> bool:
        return said.shape[1] == 3

    beams = Beams(beams=2, max_new_tokens=9, returned=2, sampling=Sampling(temperature=0, min_new_tokens=9))
    replies = Chain(2, 9, 1).search(beams, stop=stop)
    assert all(len(reply.ids) == 3 and not reply.ended for row in replies for reply in row)


def test_lengths_of_open_replies_count_what_was_said() -> None:
    beams = Beams(beams=2, max_new_tokens=3, sampling=Sampling(temperature=0, min_new_tokens=3))
    (plain,), (longer,) = (Chain(1, 9, 0).search(beams, said=said)[0] for said in ([], [7]))
    assert longer.ids == plain.ids
    assert longer.score == pytest.approx(plain.score * 3 / 4)


def test_drawn_beams_come_from_their_random_numbers() -> None:
    beams = Beams(beams=3, max_new_tokens=8, returned=3, sampling=Sampling(temperature=1.5, top_k=5, top_p=0.95))

    def drawn(seed: int) -> list[list[list[int]]]:
        return found(Chain(2, 12, 0).search(beams, random=np.random.default_rng(seed)))

    assert drawn(1) == drawn(1)
    assert len({str(drawn(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Beams(beams=0, max_new_tokens=1), "0 beams of 1 ids: at least 1 of 1 is needed"),
        (lambda: Beams(beams=2, max_new_tokens=1, returned=3), "3 replies of 2 beams"),
        (lambda: Beams(beams=2, max_new_tokens=1, early_stopping="always"), "early_stopping 'always'"),  # type: ignore[arg-type]
        (lambda: BeamSearch(Beams(beams=2, max_new_tokens=1, sampling=Sampling()), [END]), "drawn beams need random"),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ------------------------------------------------------------------------------------------------- fairseq's rules


def fairseq(logprobs: list[list[float]], n: int, longest: int, released: bool, **changed: Any) -> list[Hypothesis]:
    """A search in which the next id depends on the last alone; id 0 ends, the prompt ends with the last id."""
    table = torch.tensor(logprobs).log_softmax(-1)
    start = len(logprobs) - 1
    search = FairseqSearch(
        Beams(beams=n, max_new_tokens=longest, returned=n, **changed),
        [0],
        prompt=[5, 1, 2, start],
        total=-4.0,
        released=released,
    )
    return beam_search(search, table[start][None], lambda ids: table[ids], lambda index: None)[0]


ENDS_FIRST = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 3.0, 0.0, 0.0], [5.0, 1.0, 0.0, 0.0]]


def test_an_end_that_comes_first_ends_a_reply_unless_as_released() -> None:
    (plain,) = fairseq(ENDS_FIRST, 1, 5, released=False)
    assert plain.ids == [0] and plain.ended
    (released,) = fairseq(ENDS_FIRST, 1, 5, released=True)
    assert released.ids[0] == 0 and len(released.ids) > 1


def test_the_prompt_counts() -> None:
    found = fairseq(ENDS_FIRST, 2, 5, released=False)
    assert len(found) == 2 and all(one.ended for one in found)
    for one in found:
        assert one.score == pytest.approx((sum(one.logprobs) - 4.0) / (3 + len(one.ids)), rel=1e-5)
    assert found[0].score >= found[1].score
    again = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0], [0.0, 0.0, 0.0, 9.0], [0.0, 9.0, 0.0, 0.0]]
    (free,) = fairseq(again, 1, 4, released=False)
    assert free.ids == [1, 2, 3, 0]  # the last is an end, whatever it costs
    barred = Sampling(temperature=0.0, no_repeat_ngram=3)
    (one,) = fairseq(again, 1, 4, released=False, sampling=barred)
    assert one.ids[:2] == [1, 2] and one.ids[2] != 3  # the prompt holds 1 2 3
