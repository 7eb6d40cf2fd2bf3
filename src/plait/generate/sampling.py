"""Drawing the next id from logits.

In the order of the published code (transformers 4.31, Chameleon's for pictures): how rows are joined (`Joined`), with
repetition penalty, n-grams, least length (`Rules`), then what is allowed, temperature, top-k, top-p (`draw`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plait.errors import ConfigError
from plait.systems.base import Join


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How ids are drawn. What counts as said is what the reply holds so far, not its prompt."""

    temperature: float = 1.0
    """0 takes the likeliest."""
    top_k: int | None = None
    """Only the likeliest so many, and those that tie with the last of them; 0 or None: all."""
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    """Logits of ids that were said are divided by it, or multiplied where they are negative (CTRL, 1909.05858)."""
    no_repeat_ngram: int = 0
    """No so many ids in a row are said twice; 0: they may be."""
    min_new_tokens: int = 0
    """Ids of text before which no run of text ends."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature {self.temperature}: it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: it must be above 0 and at most 1")
        if self.repetition_penalty <= 0:
            raise ConfigError(f"repetition_penalty {self.repetition_penalty}: it must be above 0; 1 is none")
        for name in ("top_k", "no_repeat_ngram", "min_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} {value}: it must be at least 0")


def penalise(
    scores: Float[Tensor, "n v"], said: Int[Tensor, "n t"], penalty: Float[Tensor, " n"]
) -> Float[Tensor, "n v"]:
    """Scores of ids that occur in `said` divided by the penalty, negative ones multiplied; -1 in `said` is no id."""
    once = _marked(said, scores.shape[-1])
    penalty = penalty[:, None]
    return torch.where(once, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def repeated(said: Int[Tensor, "n t"], size: Int[Tensor, " n"], vocabulary: int) -> Bool[Tensor, "n v"]:
    """Ids that would complete `size` ids that stand in `said` already; size 0: none.

    Rows of `said` are filled up with -1 from the left, so that all end in the last column.
    """
    t = said.shape[1]
    barred = torch.zeros(len(said), vocabulary, dtype=torch.bool, device=said.device)
    for one in set(size.tolist()):
        if 0 < one <= t:
            windows = said.unfold(1, one, 1)  # (n, t - one + 1, one)
            same = (windows[..., :-1] == said[:, None, t - one + 1 :]).all(-1) & (windows[..., 0] >= 0)
            same &= (size == one)[:, None]
            barred |= _marked(torch.where(same, windows[..., -1], -1), vocabulary)
    return barred


def _marked(ids: Tensor, vocabulary: int) -> Tensor:
    """(n, v): which ids occur in (n, t); -1 is none."""
    marked = torch.zeros(len(ids), vocabulary + 1, dtype=torch.bool, device=ids.device)
    return marked.scatter_(1, torch.where(ids < 0, vocabulary, ids), True)[:, :vocabulary]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What n rows should not say again, or not yet. None: no row asks for it."""

    penalty: Float[Tensor, " n"] | None = None
    ngram: Int[Tensor, " n"] | None = None
    until: Int[Tensor, " n"] | None = None
    """How many ids must have been said before one of `ends` may come."""
    ends: Bool[Tensor, "n v"] | None = None

    @classmethod
    def of(
        cls,
        settings: Items[Sampling],
        until: Items[int],
        ends: Items[Collection[int]],
        vocabulary: int,
        device: torch.device,
    ) -> Rules | None:
        """Those of n rows with their settings; None if there are none.

        Args:
            until: for each row, how many ids must have been said before one of its `ends`; 0: none.
        """
        penalty = [one.repetition_penalty for one in settings]
        ngram = [one.no_repeat_ngram for one in settings]
        penalises, bars, waits = any(value != 1 for value in penalty), any(ngram), any(until)
        if not (penalises or bars or waits):
            return None
        marked = torch.zeros(len(ends) if waits else 0, vocabulary, dtype=torch.bool)
        for row, ids in zip(marked, ends, strict=False):
            row[list(ids)] = True
        return cls(
            penalty=torch.tensor(penalty, device=device) if penalises else None,
            ngram=torch.tensor(ngram, device=device) if bars else None,
            until=torch.tensor(until, device=device) if waits else None,
            ends=marked.to(device) if waits else None,
        )

    def __call__(
        self, scores: Float[Tensor, "n v"], allowed: Bool[Tensor, "n v"], said: Int[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "n v"], Bool[Tensor, "n v"]]:
        """The scores with the penalty, and what is still allowed: never nothing, a row is let off sooner.

        Args:
            scores: logits, or log-probabilities.
            said: filled up with -1 from the left.
        """
        if self.penalty is not None:
            scores = penalise(scores, said, self.penalty)
        left = allowed
        if self.ngram is not None:
            left = left & ~repeated(said, self.ngram, scores.shape[-1])
        if self.until is not None and self.ends is not None:
            left = left & ~(self.ends & ((said >= 0).sum(-1) < self.until)[:, None])
        return scores, allowed if left is allowed else torch.where(left.any(-1, keepdim=True), left, allowed)


def history(ids: Items[Items[int]], device: torch.device) -> Int[Tensor, "n t"]:
    """Rows of ids as `Rules` wants them: filled up with -1 from the left."""
    longest = max(map(len, ids), default=0)
    return torch.tensor([[-1] * (longest - len(row)) + list(row) for row in ids], device=device).long()


def keep_top_k(scores: Float[Tensor, "n v"], top_k: Int[Tensor, " n"]) -> Float[Tensor, "n v"]:
    """-inf below the `top_k` largest; what ties with the least of them stays. 0: all stay."""
    largest = scores.topk(max(1, min(int(top_k.max()), scores.shape[-1]))).values
    border = largest.gather(-1, top_k.clamp(1, largest.shape[-1])[:, None] - 1)
    return scores.masked_fill((scores < border) & (top_k > 0)[:, None], -torch.inf)


def keep_top_p(probabilities: Float[Tensor, "n v"], top_p: Float[Tensor, " n"], least: int = 1) -> Float[Tensor, "n v"]:
    """Zero outside the smallest set of likeliest ids whose mass reaches `top_p`; the crossing id is kept.

    Args:
        least: so many are kept in any case.
    """
    ranked, order = probabilities.sort(descending=True, stable=True)
    outside = ranked.cumsum(-1) - ranked >= top_p[:, None]
    outside &= (top_p < 1)[:, None]  # a rounded sum may reach 1 before the last id
    outside[:, :least] = False
    return probabilities.masked_fill(outside.gather(-1, order.argsort(-1)), 0.0)


def contrast(
    expert: Float[Tensor, "n v"],
    amateur: Float[Tensor, "n v"],
    allowed: Bool[Tensor, "n v"],
    alpha: Float[Tensor, " n"],
    k: Int[Tensor, " n"],
) -> Float[Tensor, "n v"]:
    """log p_expert - log p_amateur where p_expert is at least `alpha` times the `k`-th largest (`Contrast`), else -inf.

    Both are the softmax over what is allowed. Rows with k = 0 keep the expert's logits.
    """
    likely, unlikely = (x.masked_fill(~allowed, -torch.inf).log_softmax(-1) for x in (expert, amateur))
    largest = likely.topk(max(1, min(int(k.max()), likely.shape[-1]))).values
    border = largest.gather(-1, k.clamp(1, largest.shape[-1])[:, None] - 1) + alpha.log()[:, None]
    score = torch.where(allowed & (likely >= border), likely - unlikely, -torch.inf)
    return torch.where((k > 0)[:, None], score, expert)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """How the logits of r rows become those of n requests."""

    weights: Float[Tensor, "n r"]
    amateur: Float[Tensor, "n r"] | None
    """None: no request has a contrast."""
    alpha: Float[Tensor, " n"]
    k: Int[Tensor, " n"]
    """0: this request has none."""

    @classmethod
    def of(cls, joins: Items[Join], device: torch.device, dtype: torch.dtype = torch.float32) -> Joined:
        """Those of n requests, whose rows stand one behind the other."""
        contrasts = [one.contrast for one in joins]
        amateur = None
        if any(contrasts):
            amateur = _side_by_side([one.amateur or one.weights for one in joins]).to(device, dtype)
        return cls(
            weights=_side_by_side([one.weights for one in joins]).to(device, dtype),
            amateur=amateur,
            alpha=torch.tensor([one.alpha if one else 1.0 for one in contrasts], device=device, dtype=dtype),
            k=torch.tensor([one.k if one else 0 for one in contrasts], device=device),
        )

    def __call__(
        self,
        logits: Float[Tensor, "r v"],
        allowed: Bool[Tensor, "n v"],
        rules: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Float[Tensor, "n v"], Bool[Tensor, "n v"]]:
        """What is drawn from, and what of it is allowed.

        Args:
            rules: what else they change, logits and allowed (n, v), before a contrast is taken.
        """
        n, r = self.weights.shape
        joined = logits if n == r else self.weights @ logits
        if rules is not None:
            joined, allowed = rules(joined, allowed)
        if self.amateur is not None:
            joined = contrast(joined, self.amateur @ logits, allowed, self.alpha, self.k)
        return joined, allowed


def _side_by_side(rows: Items[tuple[float, ...]]) -> Tensor:
    wide = torch.zeros(len(rows), sum(map(len, rows)), dtype=torch.float64)
    at = 0
    for out, row in zip(wide, rows, strict=True):
        out[at : at + len(row)] = torch.tensor(row)
        at += len(row)
    return wide


def distribution(
    logits: Float[Tensor, "n v"],
    temperature: Float[Tensor, " n"],
    top_p: Float[Tensor, " n"],
    top_k: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n v"]:
    """What is drawn from, up to its sum: the softmax after temperature (above 0), top-k and top-p, in this order."""
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature[:, None]
    if top_k is not None:
        scaled = keep_top_k(scaled, top_k)
    probabilities = scaled.softmax(-1)
    return keep_top_p(probabilities, top_p) if bool((top_p < 1).any()) else probabilities


def draw(
    logits: Float[Tensor, "n v"],
    allowed: Bool[Tensor, "n v"],
    temperature: Float[Tensor, " n"],
    top_p: Float[Tensor, " n"],
    uniform: Float[Tensor, " n"],
    top_k: Int[Tensor, " n"] | None = None,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Ids and their log-probabilities under what they are drawn from.

    The likeliest of those allowed where the temperature is 0; else, in `distribution`, the inverse of the cumulated
    one at `uniform`: the first id, in the order of ids, whose cumulated probability exceeds it.
    """
    logits = torch.where(allowed, logits.float(), -torch.inf)
    greedy = temperature == 0
    top, best = logits.max(-1)
    if bool(greedy.all()):
        return best, torch.zeros_like(top)
    probabilities = distribution(logits, torch.where(greedy, 1.0, temperature), top_p, top_k)
    mass = probabilities.cumsum(-1)
    drawn = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)[:, 0]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)  # u * mass may round up to mass
    ids = torch.where(greedy, best, torch.minimum(drawn, last))
    logprob = torch.log(probabilities.gather(-1, ids[:, None])[:, 0] / mass[:, -1])
    return ids, torch.where(greedy, 0.0, logprob)
