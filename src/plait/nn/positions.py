"""Positions: where an element stands, put in at the embedding or at the queries and keys.

Two seams. An embedding (`LearnedPositions`) maps positions to vectors that are added to the input. A rotation
(`NoRotation`, `Rotary`) maps queries and keys at given positions; keys enter the cache already rotated.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A table of position vectors. OPT's keeps `offset` = 2 rows in front: row 1 for pads (zero), row 0 unused."""

    def __init__(self, length: int, width: int, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(length + offset, width))
        nn.init.normal_(self.weight, std=0.02)

    @property
    def length(self) -> int:
        """How many positions there are."""
        return len(self.weight) - self.offset

    def forward(self, position: Int[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """The vector of each position."""
        return nn.functional.embedding(position + self.offset, self.weight)


class NoRotation(nn.Module):
    """Queries and keys as they are."""

    def forward(
        self, q: Float[Tensor, "b t h d"], k: Float[Tensor, "b t h d"], position: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t h d"], Float[Tensor, "b t h d"]]:
        """(q, k)."""
        return q, k


class Rotary(nn.Module):
    """Rotary positions (RoFormer, arXiv 2104.09864): pairs (i, i + d/2) turned by position * base^(-2i/d).

    `adjacent` pairs (2i, 2i + 1) instead, as Chameleon does.
    """

    def __init__(self, head_width: int, base: float = 10_000.0, adjacent: bool = False) -> None:
        super().__init__()
        self.head_width = head_width
        self.base = base
        self.adjacent = adjacent
        self._frequency: Tensor | None = None  # no buffer: `.to(bfloat16)` would round it, the meta device lose it

    def forward(
        self, q: Float[Tensor, "b t h d"], k: Float[Tensor, "b t h d"], position: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t h d"], Float[Tensor, "b t h d"]]:
        """q and k, turned."""
        angle = position[..., None, None].float() * self._on(position.device)  # (b, t, 1, d / 2)
        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        return self._turn(q, cos, sin), self._turn(k, cos, sin)

    def _on(self, device: torch.device) -> Tensor:
        if self._frequency is None or self._frequency.device != device:
            exponent = torch.arange(0, self.head_width, 2, dtype=torch.float64, device="cpu") / self.head_width
            self._frequency = (self.base**-exponent).float().to(device)
        return self._frequency

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.adjacent:
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
