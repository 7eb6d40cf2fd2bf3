"""Ranks from a matrix of scores, and what is computed from them: R@k, MRR, NDCG, multiple choice.

Ties never flatter: what is scored like the wrong answers stands behind them. A model that scores all alike gets the
worst ranks there are, whatever the order of the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plait.errors import InputError

CUTS = (1, 5, 10)


def ranks(scores: Float[Tensor, "q c"], positives: Bool[Tensor, "q c"]) -> Int[Tensor, " q"]:
    """The rank of each query's best positive, from 1: one more than the negatives that score as high or higher.

    Raises:
        InputError: shapes that differ, NaN, or a query without a positive.
    """
    _check(scores, positives)
    bare = int((~positives.any(1)).sum())
    if bare:
        raise InputError(f"{bare} of {len(positives)} queries without a positive: leave them out")
    best = scores.masked_fill(~positives, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~positives).sum(1)


def retrieval(ranks: Int[Tensor, " q"], cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """`r@k`: the share of ranks up to k; and the `median`, the `mean` and the mean inverse (`mrr`) of ranks.

    With several positives a query (five captions of an image) the best of them counts, as retrieval on COCO and
    Flickr30k has it. VisDial's sparse scores (Das et al., arXiv 1611.08669) are the same with one positive.

    Raises:
        InputError: no ranks.
    """
    if not len(ranks):
        raise InputError("0 queries: give at least 1")
    exact = ranks.double()
    recalls = {f"r@{k}": float((ranks <= k).double().mean()) for k in cuts}
    middle = exact.sort().values[[(len(ranks) - 1) // 2, len(ranks) // 2]]
    return recalls | {"median": float(middle.mean()), "mean": float(exact.mean()), "mrr": float((1 / exact).mean())}


def ndcg(scores: Float[Tensor, "q c"], relevance: Float[Tensor, "q c"]) -> Float[Tensor, " q"]:
    """Normalised discounted cumulative gain of each query, in float64, cut at the number of relevant candidates.

    The gain is the relevance itself, the discount log2(1 + rank), as in the VisDial challenge. Of candidates with one
    score the less relevant comes first.

    Raises:
        InputError: shapes that differ, NaN, relevance below 0, or a query without a relevant candidate.
    """
    _check(scores, relevance)
    wrong = int((~(relevance >= 0)).sum())
    if wrong:
        raise InputError(f"{wrong} of {relevance.numel()} relevances below 0 or NaN: give 0 to what is irrelevant")
    relevant = (relevance > 0).sum(1, keepdim=True)
    bare = int((relevant == 0).sum())
    if bare:
        raise InputError(f"{bare} of {len(relevance)} queries without a relevant candidate: leave them out")
    rising, order = relevance.double().sort(1)
    ranked = rising.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
    place = torch.arange(relevance.shape[1], device=relevance.device)
    discount = torch.where(place < relevant, 1 / torch.log2(place.double() + 2), 0.0)  # (q, c)
    return (ranked * discount).sum(1) / (rising.flip(1) * discount).sum(1)


def choose(
    scores: Float[Tensor, "q c"], answers: Int[Tensor, " q"], lengths: Float[Tensor, "q c"] | None = None
) -> Bool[Tensor, " q"]:
    """Whether each question's answer scores strictly above all its other choices.

    Args:
        scores: log-probability of each choice as a whole; -inf where a question has fewer choices.
        answers: the index of the right one.
        lengths: to score by the mean over a choice's tokens, their number; None scores by the sum.

    Raises:
        InputError: shapes that differ, NaN, an answer that is not among the choices, or a length below 1.
    """
    _check(scores, scores if lengths is None else lengths)
    if answers.shape != scores.shape[:1]:
        raise InputError(f"{len(scores)} questions but {len(answers)} answers: give one for each")
    if lengths is not None:
        if not bool((lengths >= 1).all()):
            raise InputError(f"a choice of length {float(lengths.min()):g}: a choice has at least 1 token")
        scores = scores / lengths
    return ranks(scores, one_hot(answers, scores.shape[1])) == 1


def one_hot(indices: Int[Tensor, " q"], candidates: int) -> Bool[Tensor, "q c"]:
    """One positive a query, by its index.

    Raises:
        InputError: an index outside the candidates.
    """
    wrong = indices[(indices < 0) | (indices >= candidates)]
    if len(wrong):
        raise InputError(f"index {int(wrong[0])} of {candidates} candidates: indices count from 0")
    return indices[:, None] == torch.arange(candidates, device=indices.device)


def _check(scores: Tensor, others: Tensor) -> None:
    if scores.ndim != 2 or not scores.numel() or scores.shape != others.shape:
        shapes = f"scores of shape {tuple(scores.shape)}, beside them {tuple(others.shape)}"
        raise InputError(f"{shapes}: give two matrices alike, a row for each query")
    wrong = int(scores.isnan().sum())
    if wrong:
        raise InputError(f"{wrong} of {scores.numel()} scores are NaN: a candidate without a score is -inf")
