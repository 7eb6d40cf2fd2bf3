"""Next-token prediction, for text tokens and image codes alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plait.sequence import Batch
from plait.systems.base import Hidden, System


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross-entropy of every target of `kinds`, each weighted by its own weight; a mean for each kind."""

    kinds: tuple[str, ...] = ("token",)
    joint: bool = True
    """The loss is one mean over the targets of all kinds, rather than the sum of the means."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """A factor for some kinds."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """The sum of weights of each kind."""
        return {kind: float(batch.targets[kind].weight.sum()) if kind in batch.targets else 0.0 for kind in self.kinds}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """The share of each kind in all targets, or 1, times its scale."""
        total = sum(counts.values())
        shares = {kind: counts[kind] / total if self.joint and total else 1.0 for kind in self.kinds}
        return {kind: share * self.scale.get(kind, 1.0) for kind, share in shares.items()}

    def __call__(
        self, system: System, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Sums of weight x -log p over the targets of each kind."""
        return self.sums(system, batch, system(batch))

    def sums(self, system: System, batch: Batch, hidden: Hidden) -> dict[str, Tensor]:
        """The same of a forward pass that was made already."""
        flat = hidden.states.flatten(0, 1)  # (b * t, c)
        losses = {}
        for kind in self.kinds:
            if kind not in batch.targets:
                losses[kind] = flat.sum() * 0.0  # every rank runs the same graph
                continue
            targets = batch.targets[kind]
            value = targets.value
            for number, reader in enumerate(batch.readers):
                if reader in hidden.own and hidden.own[reader].ndim == 2:  # ids, not vectors
                    own = (value < 0) & (targets.reader == number)
                    resolved = hidden.own[reader][targets.image * own, targets.offset * own]
                    value = torch.where(own, resolved, value)
            logits = system.heads[kind](flat[targets.at]).float()
            nll = nn.functional.cross_entropy(logits, value, reduction="none")
            losses[kind] = (nll * targets.weight).sum()
        return losses
