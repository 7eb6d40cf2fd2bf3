"""Scores of predictions that lie in files: what `plait score` prints. `METRICS` holds what it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import InputError, hint
from plait.evaluate.files import (
    as_index,
    as_list,
    as_matrix,
    as_numbers,
    as_text,
    is_array,
    read_array,
    read_one,
    read_texts,
    same_ids,
)

if TYPE_CHECKING:
    from torch import Tensor

    from plait.evaluate.metrics.frechet import Moments

ROWS = 8192  # of features, read and added at once


@dataclass(frozen=True)
class Metric:
    """Scores from a file of predictions, a file of references and a variant; the first variant is the default."""

    score: Callable[[Path, Path, str], dict[str, Any]]
    variants: tuple[str, ...] = ()


def score(name: str, predictions: Path, references: Path, variant: str | None = None) -> dict[str, Any]:
    """Plain data: the metric's name and variant, the number of items as `n`, and the scores.

    Raises:
        InputError: an unknown metric or variant, files that cannot be read, ids or counts that do not agree.
    """
    if name not in METRICS:
        raise InputError(f"no metric {name!r}; {hint(name, METRICS)}")
    metric = METRICS[name]
    if variant is not None and variant not in metric.variants:
        remedy = f"there are {', '.join(metric.variants)}" if metric.variants else "it has none: leave --variant out"
        raise InputError(f"no variant {variant!r} of {name}; {remedy}")
    if not metric.variants:
        return {"metric": name} | metric.score(predictions, references, "")
    variant = variant or metric.variants[0]
    return {"metric": name, "variant": variant} | metric.score(predictions, references, variant)


def _cider(predictions: Path, references: Path, variant: str) -> dict[str, Any]:
    from plait.evaluate.metrics.captions import cider

    captions, wanted = _texts(predictions, references, "caption", "caption")
    return {"n": len(captions), "cider": float(cider(captions, wanted).mean())}


def _vqa(predictions: Path, references: Path, variant: str) -> dict[str, Any]:
    from plait.evaluate.metrics.vqa import vqa_accuracy

    answers, wanted = _texts(predictions, references, "answer", "answers")
    return {"n": len(answers), "accuracy": float(vqa_accuracy(answers, wanted, variant).mean())}


def _texts(predictions: Path, references: Path, field: str, wanted: str) -> tuple[list[str], list[list[str]]]:
    """One text and its references for each id."""
    said = {key: as_text(predictions, key, value) for key, value in read_one(predictions, field).items()}
    known = read_texts(references, wanted)
    ids = same_ids(said, known)
    return [said[key] for key in ids], [known[key] for key in ids]


def _fid(predictions: Path, references: Path, variant: str) -> dict[str, Any]:
    from plait.evaluate.metrics.frechet import frechet_distance

    made, real = _moments(predictions), _moments(references)
    return {"n": made.count, "n_references": real.count, "fid": frechet_distance(made, real)}


def _moments(path: Path) -> Moments:
    """Of an array of features, (n, d), without holding it in memory."""
    import torch

    from plait.evaluate.metrics.frechet import Moments

    if not is_array(path):
        raise InputError(f"{path}: features are read from .npy or .npz")
    features = read_array(path)
    if features.ndim != 2 or not features.size or features.dtype.kind not in "fiu":
        raise InputError(f"{path}: {features.dtype} of shape {features.shape}; give rows of features, (n, d)")
    batches = (features[at : at + ROWS] for at in range(0, len(features), ROWS))
    first, *rest = (Moments.of(torch.tensor(batch, dtype=torch.float64)) for batch in batches)
    return sum(rest, first)


def _retrieval(predictions: Path, references: Path, variant: str) -> dict[str, Any]:
    from plait.evaluate.metrics.ranking import ranks, retrieval

    scores, positives = _scored(predictions, references, "positives")
    return {"n": len(scores), **retrieval(ranks(scores, positives > 0))}


def _ndcg(predictions: Path, references: Path, variant: str) -> dict[str, Any]:
    from plait.evaluate.metrics.ranking import ndcg

    scores, relevance = _scored(predictions, references, "relevance")
    return {"n": len(scores), "ndcg": float(ndcg(scores, relevance).mean())}


def _scored(predictions: Path, references: Path, field: str) -> tuple[Tensor, Tensor]:
    """Scores, and what each candidate is worth, both (q, c): arrays by order, JSON by ids.

    References are a value for each candidate, or for each query the index of the one that is worth 1.
    """
    import torch

    from plait.evaluate.metrics.ranking import one_hot

    if is_array(predictions) != is_array(references):
        raise InputError(f"{predictions} and {references}: give both as arrays, or both as JSON by ids")
    if is_array(predictions):
        scores, worth = read_array(predictions), read_array(references)
    else:
        given, wanted = read_one(predictions, "scores"), read_one(references, field)
        ids = same_ids(given, wanted)
        scores = as_matrix(predictions, {key: given[key] for key in ids})
        worth = as_matrix(references, {key: wanted[key] for key in ids})
    if scores.ndim < 2 or worth.shape not in (scores.shape, scores.shape[:-1]):
        raise InputError(
            f"scores of shape {scores.shape} but references of shape {worth.shape}: give a row of "
            "scores to each query, and beside it a value for each candidate or one index"
        )
    rows = torch.tensor(scores, dtype=torch.float64).flatten(0, -2)
    if worth.shape == scores.shape:
        return rows, torch.tensor(worth, dtype=torch.float64).flatten(0, -2)
    if worth.dtype.kind not in "iu":
        raise InputError(f"{references}: indices of type {worth.dtype}: give whole numbers")
    return rows, one_hot(torch.tensor(worth, dtype=torch.int64).flatten(), rows.shape[1]).double()


def _choice(predictions: Path, references: Path, variant: str) -> dict[str, Any]:
    import torch

    from plait.evaluate.metrics.ranking import choose

    given, wanted = read_one(predictions, "scores"), read_one(references, "answer")
    ids = same_ids(given, wanted)
    counts = [len(as_list(predictions, key, given[key])) for key in ids]
    scores = torch.full((len(ids), max(counts)), -torch.inf, dtype=torch.float64)
    tokens = torch.ones_like(scores)
    for row, key in enumerate(ids):
        for column, value in enumerate(given[key]):
            if isinstance(value, list):
                logprobs = as_numbers(predictions, key, value)
                scores[row, column], tokens[row, column] = sum(logprobs), len(logprobs)
            elif variant == "mean":
                raise InputError(
                    f"{predictions}: {key!r}: variant mean needs a list of the tokens' scores for each choice"
                )
            else:
                (scores[row, column],) = as_numbers(predictions, key, [value])
    answers = torch.tensor([as_index(references, key, wanted[key], n) for key, n in zip(ids, counts, strict=True)])
    right = choose(scores, answers, tokens if variant == "mean" else None)
    chance = sum(1 / count for count in counts) / len(counts)
    return {"n": len(ids), "accuracy": float(right.double().mean()), "chance": chance}


METRICS: dict[str, Metric] = {
    "cider": Metric(_cider),
    "vqa": Metric(_vqa, ("official", "lavis_emu_minigpt4", "always_normalise_lmms_eval_head")),
    "fid": Metric(_fid),
    "retrieval": Metric(_retrieval),
    "ndcg": Metric(_ndcg),
    "choice": Metric(_choice, ("sum", "mean")),
}
