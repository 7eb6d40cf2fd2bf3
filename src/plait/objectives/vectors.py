"""Next tokens, and vectors that are predicted by regression (Emu, arXiv 2307.05222, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from plait.objectives.tokens import NextToken
from plait.sequence import Batch, Targets
from plait.systems.base import Hidden, System


@dataclass(frozen=True, kw_only=True)
class NextTokenAndVector:
    """Cross-entropy of the tokens, and the squared distance of every vector that is a target from what is predicted.

    What is a target is what the model itself puts there, and gets no gradient. Emu's weight and reduction are not
    published.
    """

    tokens: NextToken = field(default_factory=NextToken)
    target: str = "vector"
    weight: float = 1.0
    """Of the mean over vectors, beside the mean over tokens."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the numbers of a vector."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """The sum of weights of each kind."""
        targets = batch.targets.get(self.target)
        return {**self.tokens.counts(batch), self.target: float(targets.weight.sum()) if targets else 0.0}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """Those of the tokens, and the configured one."""
        tokens = {kind: count for kind, count in counts.items() if kind != self.target}
        return {**self.tokens.weights(tokens), self.target: self.weight}

    def __call__(
        self, system: System, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Sums of weight x loss over the targets of each kind."""
        hidden = system(batch)
        losses = self.tokens.sums(system, batch, hidden)
        flat = hidden.states.flatten(0, 1)  # (b * t, c)
        targets = batch.targets.get(self.target)
        if targets is None:
            return {
                **losses,
                self.target: system.heads[self.target](flat[:1]).sum() * 0.0,
            }  # the same graph on all ranks
        predicted = system.heads[self.target](flat[targets.at]).float()
        squared = (predicted - wanted(system, batch, hidden, targets).float()).square()
        each = squared.mean(-1) if self.reduction == "mean" else squared.sum(-1)
        return {**losses, self.target: (each * targets.weight).sum()}


@torch.no_grad()
def wanted(system: System, batch: Batch, hidden: Hidden, targets: Targets) -> Tensor:
    """(e, c): the embeddings of ids, and what readers made of pictures."""
    vectors = system.word_vectors(targets.value.clamp(min=0))
    for number, reader in enumerate(batch.readers):
        if reader in hidden.own:
            own = (targets.value < 0) & (targets.reader == number)
            read = hidden.own[reader].detach()[targets.image * own, targets.offset * own]
            vectors = torch.where(own[:, None], read.to(vectors.dtype), vectors)
    return vectors
