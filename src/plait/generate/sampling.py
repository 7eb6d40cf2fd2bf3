"""Drawing the next id from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plait.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How ids are drawn. Temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature {self.temperature}: it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: it must be above 0 and at most 1")


def keep_top_p(probabilities: Float[Tensor, "n v"], top_p: Float[Tensor, " n"]) -> Float[Tensor, "n v"]:
    """Zero outside the smallest set of likeliest ids whose mass reaches `top_p`; the crossing id is kept."""
    ranked, order = probabilities.sort(descending=True, stable=True)
    outside = ranked.cumsum(-1) - ranked >= top_p[:, None]
    outside &= (top_p < 1)[:, None]  # a rounded sum may reach 1 before the last id
    return probabilities.masked_fill(outside.gather(-1, order.argsort(-1)), 0.0)


def draw(
    logits: Float[Tensor, "n v"],
    allowed: Bool[Tensor, "n v"],
    temperature: Float[Tensor, " n"],
    top_p: Float[Tensor, " n"],
    uniform: Float[Tensor, " n"],
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Ids and their log-probabilities under what they are drawn from.

    In this order: restriction to `allowed`, temperature, top-p, then the inverse of the cumulated distribution at
    `uniform`: the first id, in the order of ids, whose cumulated probability exceeds it.
    """
    logits = torch.where(allowed, logits.float(), -torch.inf)
    greedy = temperature == 0
    top, best = logits.max(-1, keepdim=True)
    if bool(greedy.all()):
        return best[:, 0], torch.zeros_like(top[:, 0])
    probabilities = ((logits - top) / torch.where(greedy, 1.0, temperature)[:, None]).softmax(-1)
    if bool((top_p < 1).any()):
        probabilities = keep_top_p(probabilities, top_p)
    mass = probabilities.cumsum(-1)
    drawn = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)[:, 0]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)  # u * mass may round up to mass
    ids = torch.where(greedy, best[:, 0], torch.minimum(drawn, last))
    logprob = torch.log(probabilities.gather(-1, ids[:, None])[:, 0] / mass[:, -1])
    return ids, torch.where(greedy, 0.0, logprob)
