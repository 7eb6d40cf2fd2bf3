"""Which letter stands where: what a small tower is asked until it can read.

    loss = -log p(letter of a cell | token of the patch that the cell lies in)

No published stage has it. CLIP's tower reads, after 400 million pictures of the web; told of whole texts alone, a small
one learns no letter in as many steps as this one takes to learn most (docs/kosmos1.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.vit import ViT
from plait.sequence import Batch


class HasVision(Protocol):
    """A system with a tower."""

    @property
    def vision(self) -> ViT:
        """It gives a class token and a token of each patch."""
        ...


class Speller(nn.Module):
    """Tokens of patches to letters of cells, so many to a patch.

    Args:
        width: of a token.
        split: cells along a patch's side.
        letters: that there are, nothing among them.
    """

    def __init__(self, width: int, split: int, letters: int) -> None:
        super().__init__()
        self.split = split
        self.head = nn.Linear(width, split * split * letters)

    def forward(self, seen: Float[Tensor, "m s e"]) -> Float[Tensor, "m cells v"]:
        """Logits, the cells of a picture row by row."""
        side, split = math.isqrt(seen.shape[1]), self.split
        if side * side != seen.shape[1]:
            raise ConfigError(f"{seen.shape[1]} patches are no square: leave the class token out")
        cells = self.head(seen).unflatten(2, (split, split, -1)).unflatten(1, (side, side))  # (m, y, x, v, u, letters)
        return cells.transpose(2, 3).flatten(1, 4)


@dataclass(frozen=True, kw_only=True)
class Letters:
    """Trains `system.vision` and the companion "speller" (a `Speller`) to tell the letters of all cells.

    On pictures by themselves, with targets of the kind "letter", 0 for none (`plait.data.shapes.words.Lettered`).
    """

    def counts(self, batch: Batch) -> dict[str, float]:
        """Letters: cells without one, which are most, do not count."""
        return {"letter": float((batch.targets["letter"].value > 0).sum())}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """Of the only term."""
        return {"letter": 1.0}

    def __call__(
        self, system: HasVision, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sum over all cells, those without a letter too."""
        targets = batch.targets["letter"]
        told = companions["speller"](system.vision(batch.images)[:, 1:])  # (m, cells, v)
        logits = told[targets.image, targets.offset].float()
        return {"letter": nn.functional.cross_entropy(logits, targets.value, reduction="sum")}
