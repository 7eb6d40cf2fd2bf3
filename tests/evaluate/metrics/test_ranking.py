from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from plait.errors import InputError
from plait.evaluate.metrics.ranking import choose, ndcg, one_hot, ranks, retrieval

GOLDENS = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[4] / "shared")) / "goldens/metrics/visdial"
golden = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the goldens of VisDial are not here")
INF = math.inf


def test_ranks_by_hand() -> None:
    scores = tensor([[0.1, 0.7, 0.3], [0.1, 0.7, 0.3], [0.5, 0.5, 0.1], [-INF, -INF, -INF]])
    assert ranks(scores, one_hot(tensor([2, 1, 0, 0]), 3)).tolist() == [2, 1, 2, 3]


def test_the_best_positive_counts_and_positives_do_not_stand_in_its_way() -> None:
    scores = tensor([[0.9, 0.8, 0.8, 0.1], [0.9, 0.8, 0.8, 0.1]])
    positives = tensor([[False, True, True, False], [True, True, False, False]])
    assert ranks(scores, positives).tolist() == [2, 1]


def test_scoring_all_alike_is_worth_nothing() -> None:
    found = ranks(torch.zeros(5, 7), one_hot(torch.arange(5), 7))
    assert retrieval(found) == {"r@1": 0, "r@5": 0, "r@10": 1, "median": 7, "mean": 7, "mrr": pytest.approx(1 / 7)}
    assert not choose(torch.zeros(5, 7), torch.arange(5)).any()


def test_retrieval_by_hand() -> None:
    assert retrieval(tensor([1, 2, 4, 12])) == pytest.approx(
        {"r@1": 0.25, "r@5": 0.75, "r@10": 0.75, "median": 3, "mean": 19 / 4, "mrr": (1 + 1 / 2 + 1 / 4 + 1 / 12) / 4}
    )
    assert retrieval(tensor([3, 1, 2]), cuts=(2,)) == pytest.approx(
        {"r@2": 2 / 3, "median": 2, "mean": 2, "mrr": (1 / 3 + 1 + 1 / 2) / 3}
    )


def test_ndcg_by_hand() -> None:
    relevance = tensor([[1.0, 0.5, 0.0]]).repeat(4, 1)
    scores = tensor([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    second = 1 / math.log2(3)
    best = 1 + 0.5 * second
    wanted = [0.5 / best, 1, 0.5 * second / best, 0.5 * second / best]  # cut at 2; ties: the less relevant first
    assert ndcg(scores, relevance).tolist() == pytest.approx(wanted)


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Scores with ties, and relevance."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (6, 9), generator=generator).double()
    relevance = torch.randint(0, 3, (6, 9), generator=generator).double() / 2
    relevance[:, 0] = 1
    return scores, relevance


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(9)))
def test_the_order_of_candidates_is_nothing(seed: int, order: list[int]) -> None:
    scores, relevance = drawn(seed)
    assert torch.equal(ranks(scores[:, order], relevance[:, order] > 0), ranks(scores, relevance > 0))
    torch.testing.assert_close(ndcg(scores[:, order], relevance[:, order]), ndcg(scores, relevance))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_only_the_order_of_scores_counts_and_no_way_to_break_ties_is_worse(seed: int) -> None:
    scores, relevance = drawn(seed)
    assert torch.equal(ranks(scores.exp() * 3, relevance > 0), ranks(scores, relevance > 0))
    assert torch.equal(ndcg(scores.exp() * 3, relevance), ndcg(scores, relevance))
    broken = scores + torch.rand(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 2
    assert bool((ranks(broken, relevance > 0) <= ranks(scores, relevance > 0)).all())
    assert bool((ndcg(broken, relevance) >= ndcg(scores, relevance) - 1e-12).all())
    torch.testing.assert_close(ndcg(relevance, relevance), torch.ones(6, dtype=torch.float64))


def test_choices_by_sum_and_by_mean() -> None:
    scores = tensor([[-4.0, -3.0, -INF], [-4.0, -6.0, -5.0]])
    answers = tensor([0, 0])
    assert choose(scores, answers).tolist() == [False, True]
    lengths = tensor([[4.0, 1.0, 1.0], [1.0, 3.0, 1.0]])
    assert choose(scores, answers, lengths).tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks(torch.zeros(2, 3), torch.ones(2, 4).bool()), r"scores of shape \(2, 3\), beside them \(2, 4\)"),
        (lambda: ndcg(torch.zeros(0, 3), torch.zeros(0, 3)), r"scores of shape \(0, 3\)"),
        (lambda: choose(torch.zeros(3), tensor([0])), r"scores of shape \(3,\)"),
        (lambda: choose(torch.zeros(1, 2), tensor([0]), torch.ones(2, 2)), r"\(1, 2\), beside them \(2, 2\)"),
        (lambda: ranks(tensor([[math.nan, 1.0]]), tensor([[True, False]])), "1 of 2 scores are NaN"),
        (lambda: ranks(torch.zeros(2, 3), torch.zeros(2, 3).bool()), "2 of 2 queries without a positive"),
        (lambda: ndcg(torch.zeros(2, 3), torch.zeros(2, 3)), "2 of 2 queries without a relevant candidate"),
        (lambda: ndcg(torch.zeros(1, 2), tensor([[1.0, -1.0]])), "1 of 2 relevances below 0 or NaN"),
        (lambda: ndcg(torch.zeros(1, 2), tensor([[1.0, math.nan]])), "1 of 2 relevances below 0 or NaN"),
        (lambda: one_hot(tensor([0, 3]), 3), "index 3 of 3 candidates"),
        (lambda: choose(torch.zeros(2, 3), tensor([0])), "2 questions but 1 answers"),
        (lambda: choose(torch.zeros(1, 2), tensor([0]), tensor([[1.0, 0.0]])), "a choice of length 0"),
        (lambda: retrieval(tensor([], dtype=torch.int64)), "0 queries: give at least 1"),
    ],
)
def test_what_cannot_be_ranked(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@golden
def test_golden_of_sparse_scores() -> None:
    wanted = json.loads((GOLDENS / "expected.json").read_text())["sparse"]
    with np.load(GOLDENS / "case.npz") as file:
        scores, indices = torch.from_numpy(file["scores"]), torch.from_numpy(file["gt_index"])
    found = retrieval(ranks(scores.flatten(0, 1), one_hot(indices.flatten(), scores.shape[-1])))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)  # theirs are float32


@golden
def test_golden_of_ndcg() -> None:
    wanted = json.loads((GOLDENS / "expected.json").read_text())
    with np.load(GOLDENS / "case.npz") as file:
        scores = torch.from_numpy(file["scores"])[:, wanted["ndcg_round_index"]]
        relevance = torch.from_numpy(file["relevance_round3"])
    assert float(ndcg(scores, relevance).mean()) == pytest.approx(wanted["ndcg"], rel=1e-6)
