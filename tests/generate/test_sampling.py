from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.errors import ConfigError
from plait.generate.sampling import Rules, Sampling, contrast, draw, history, keep_top_k, keep_top_p, penalise, repeated
from plait.systems.base import Contrast

WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


def nucleus(probabilities: list[float], top_p: float) -> set[int]:
    """The likeliest ids, the earlier first among equals, until their mass reaches `top_p`."""
    kept: set[int] = set()
    mass = 0.0
    for id in sorted(range(len(probabilities)), key=lambda id: (-probabilities[id], id)):
        if mass >= top_p:
            break
        kept.add(id)
        mass += probabilities[id]
        assume(abs(mass - top_p) > 1e-5)  # else rounding decides
    return kept


@settings(max_examples=150, deadline=None)
@given(weights=WEIGHTS, top_p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_it(weights: list[int], top_p: float) -> None:
    probabilities = [w / sum(weights) for w in weights]
    kept = keep_top_p(torch.tensor([probabilities]), torch.tensor([top_p]))[0]
    expected = nucleus(probabilities, top_p)
    assert kept.tolist() == pytest.approx([p if i in expected else 0.0 for i, p in enumerate(probabilities)])


def test_the_crossing_id_is_kept() -> None:
    probabilities = torch.tensor([[0.125, 0.5, 0.25, 0.125]])
    for top_p, kept in [(0.1, [1]), (0.5, [1]), (0.51, [1, 2]), (0.76, [0, 1, 2]), (0.9, [0, 1, 2, 3])]:
        assert keep_top_p(probabilities, torch.tensor([top_p]))[0].nonzero().flatten().tolist() == kept


def test_top_p_of_one_row_leaves_the_others_alone() -> None:
    probabilities = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)
    top_p = torch.ones(64)
    top_p[0] = 0.5
    assert torch.equal(keep_top_p(probabilities, top_p)[1:], probabilities[1:])


def test_the_least_number_is_kept() -> None:
    probabilities = torch.tensor([[0.125, 0.5, 0.25, 0.125]])
    assert keep_top_p(probabilities, torch.tensor([0.1]), least=2)[0].nonzero().flatten().tolist() == [1, 2]


def test_top_k_keeps_ties_at_the_border() -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 0.5, -1.0]]).repeat(6, 1)
    kept = keep_top_k(scores, torch.tensor([0, 1, 2, 3, 4, 9])).isfinite()
    assert kept.sum(-1).tolist() == [5, 1, 3, 3, 4, 5]
    assert torch.equal(keep_top_k(scores, torch.zeros(6).long()), scores)


def test_top_k_comes_behind_temperature_and_before_top_p() -> None:
    logits = [math.log(w) for w in (4, 3, 2, 1)]
    third = [one(logits, top_p=0.85, top_k=k, u=0.999)[0] for k in (0, 1, 2, 3, 4)]
    assert third == [2, 0, 1, 2, 2]  # of the three likeliest, 7/9 is not yet 0.85
    assert one(logits, top_k=2, u=0.999) == (1, pytest.approx(math.log(3 / 7)))
    assert one(logits, [False, True, True, True], top_k=1, u=0.999)[0] == 1


def history_of(rows: list[list[int]]) -> Tensor:
    return history(rows, torch.device("cpu"))


def test_each_id_is_penalised_once() -> None:
    scores = torch.tensor([[2.0, -2.0, 1.0, 4.0]]).repeat(3, 1)
    said = history_of([[0, 1, 1, 0], [3], []])
    got = penalise(scores, said, torch.tensor([2.0, 4.0, 2.0]))
    assert got.tolist() == [[1.0, -4.0, 1.0, 4.0], [2.0, -2.0, 1.0, 1.0], [2.0, -2.0, 1.0, 4.0]]


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=9), st.integers(0, 4)), min_size=1, max_size=5))
def test_no_ngram_is_said_twice(rows: list[tuple[list[int], int]]) -> None:
    barred = repeated(history_of([ids for ids, _ in rows]), torch.tensor([n for _, n in rows]), 4)
    for row, (ids, n) in zip(barred.tolist(), rows, strict=True):
        there = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)} if n else set()
        assert row == [len(ids) >= n - 1 and tuple([*ids, id][len(ids) + 1 - n :]) in there for id in range(4)]


def rules(settings: list[Sampling], until: list[int]) -> Rules | None:
    """Of three ids, of which the last ends a reply."""
    return Rules.of(settings, until, [[2]] * len(settings), 3, torch.device("cpu"))


def test_rules_that_no_row_asks_for_are_none() -> None:
    assert rules([Sampling(temperature=0.5, top_k=3, top_p=0.4)] * 2, [0, 0]) is None


def test_rules_hold_for_the_rows_that_ask() -> None:
    asked = [Sampling(repetition_penalty=2.0), Sampling(no_repeat_ngram=2), Sampling(), Sampling()]
    held = rules(asked, [0, 0, 3, 3])
    assert held is not None
    said = history_of([[0], [1, 0, 1], [0, 1], [0, 1, 1]])
    scores, allowed = held(torch.ones(4, 3), torch.ones(4, 3, dtype=torch.bool), said)
    assert scores.tolist() == [[0.5, 1, 1], *[[1.0, 1, 1]] * 3]
    assert allowed.tolist() == [[True] * 3, [False, True, True], [True, True, False], [True] * 3]


def test_a_rule_that_leaves_nothing_is_let_go() -> None:
    held = rules([Sampling(no_repeat_ngram=1)] * 2, [0, 0])
    assert held is not None
    only = torch.tensor([[True, False, False], [True, False, True]])
    _, allowed = held(torch.ones(2, 3), only, history_of([[0], [0]]))
    assert allowed.tolist() == [[True, False, False], [False, False, True]]


def one(
    logits: list[float],
    allowed: list[bool] | None = None,
    temperature: float = 1,
    top_p: float = 1,
    u: float = 0.5,
    top_k: int | None = None,
) -> tuple[int, float]:
    allowed = allowed or [True] * len(logits)
    settings = (torch.tensor([x]).float() for x in (temperature, top_p, u))
    k = None if top_k is None else torch.tensor([top_k])
    ids, logprobs = draw(torch.tensor([logits]), torch.tensor([allowed]), *settings, k)
    return int(ids), float(logprobs)


@settings(max_examples=200, deadline=None)
@given(
    weights=WEIGHTS,
    temperature=st.floats(0.2, 3.0),
    top_p=st.floats(0.05, 1.0),
    u=st.floats(0, 0.999),
    data=st.data(),
)
def test_the_first_id_whose_cumulated_probability_exceeds_u(
    weights: list[int], temperature: float, top_p: float, u: float, data: st.DataObject
) -> None:
    allowed = data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)).filter(any))
    powers = [w ** (1 / temperature) if ok else 0.0 for w, ok in zip(weights, allowed, strict=True)]
    probabilities = [p / sum(powers) for p in powers]
    if top_p < 1:
        kept = nucleus(probabilities, top_p)
        probabilities = [p if i in kept else 0.0 for i, p in enumerate(probabilities)]
    probabilities = [p / sum(probabilities) for p in probabilities]
    mass = 0.0
    expected = None
    for id, p in enumerate(probabilities):
        mass += p
        assume(abs(mass - u) > 1e-5)
        if expected is None and mass > u:
            expected = id
    got, logprob = one([math.log(w) for w in weights], allowed, temperature, top_p, u)
    assert got == expected
    assert logprob == pytest.approx(math.log(probabilities[got]), abs=1e-3)


def test_uniform_numbers_at_the_ends() -> None:
    allowed = [False, True, False, True, False]
    assert one([9.0, 0.0, 9.0, 0.0, 9.0], allowed, u=0.0)[0] == 1
    assert one([9.0, 0.0, 9.0, 0.0, 9.0], allowed, u=0.5)[0] == 3  # exceeds, not reaches
    assert one([9.0, 0.0, 9.0, 0.0, 9.0], allowed, u=1.0)[0] == 3  # what a number just below 1 is rounded to


@pytest.mark.parametrize("temperature", [0.0, 1e-44, 1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("top_p", [1e-6, 0.9, 1.0])
@pytest.mark.parametrize("u", [0.0, 0.3, 0.9999999])
def test_only_allowed_ids_are_drawn_however_extreme_the_logits(temperature: float, top_p: float, u: float) -> None:
    for logits in (
        [3e38, -3e38, -1e30, 5.0],
        [1e30, 0.0, 0.0, 0.0],
        [0.0, -3e38, -3e38, -3e38],
        [0.0, 3e38, 1.0, 3e38],
    ):
        id, logprob = one(logits, [False, True, True, True], temperature, top_p, u)
        assert id in (1, 2, 3)
        assert math.isfinite(logprob) and logprob <= 1e-6


def test_temperature_0_takes_the_likeliest_of_those_allowed() -> None:
    assert one([5.0, 1.0, 3.0, 3.0], [False, True, True, True], temperature=0, u=0.99) == (2, 0.0)
    assert one([1.0, 2.0, 3.0], temperature=1e-3, u=0.99)[0] == 2


def test_rows_have_their_own_settings() -> None:
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 2
    allowed = torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.7
    temperature = torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(10)
    top_p = torch.tensor([1.0, 0.9, 0.5, 1.0, 0.2]).repeat(8)
    u = torch.rand(40, generator=torch.Generator().manual_seed(2))
    top_k = torch.tensor([0, 3, 1, 40]).repeat_interleave(10)
    together = draw(logits, allowed, temperature, top_p, u, top_k)
    for i in range(40):
        row: list[Tensor] = [x[i : i + 1] for x in (logits, allowed, temperature, top_p, u, top_k)]
        assert [x.item() for x in draw(*row)] == [x[i].item() for x in together]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1: it must be at least 0"),
        ({"top_p": 0.0}, "top_p 0.0: it must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_k": -1}, "top_k -1: it must be at least 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0: it must be above 0; 1 is none"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram -1: it must be at least 0"),
        ({"min_new_tokens": -1}, "min_new_tokens -1: it must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


def test_contrast_takes_the_ids_that_the_expert_knows_better() -> None:
    expert = torch.tensor([[0.0, 3.0, 2.9, 1.0, 9.0]]).repeat(4, 1)
    amateur = torch.tensor([[0.0, 3.0, 0.0, -4.0, -9.0]]).repeat(4, 1)
    allowed = torch.tensor([[True, True, True, True, False]]).repeat(4, 1)
    alpha, k = torch.tensor([0.5, 0.05, 0.5, 1.0]), torch.tensor([1, 1, 3, 0])
    score = contrast(expert, amateur, allowed, alpha, k)
    kept = [[1, 2], [1, 2, 3], [1, 2, 3]]  # exp(-0.1) > 0.5; exp(-2) > 0.05; half of the third largest
    assert [row.isfinite().nonzero().flatten().tolist() for row in score[:3]] == kept
    assert score[:3].argmax(-1).tolist() == [2, 3, 3]
    torch.testing.assert_close(score[0, 2] - score[0, 1], torch.tensor(2.9))
    assert torch.equal(score[3], expert[3])  # no contrast


def test_a_contrast_is_checked() -> None:
    for alpha, k, message in [(0.0, 1, "alpha 0.0: it must be above 0"), (0.1, 0, "k 0: it must be at least 1")]:
        with pytest.raises(ConfigError, match=message):
            Contrast(alpha=alpha, k=k)
