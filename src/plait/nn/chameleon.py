"""Chameleon's decoder (arXiv 2405.09818) from the common parts: CM3Leon's successor, whose weights were released.

LLaMA's blocks (RMSNorm, rotary positions in adjacent pairs, SwiGLU, no biases) with a LayerNorm on each head's queries
and keys; the larger size has its norms behind the sublayers, as Swin Transformer v2 has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.nn.attention import Attend, GroupedSelfAttention, SelfAttention
from plait.nn.blocks import Block, Decoder, GatedMLP
from plait.nn.norms import RMSNorm
from plait.nn.positions import Rotary


@dataclass(frozen=True, kw_only=True)
class ChameleonConfig:
    """What such a decoder has, besides width, depth and heads."""

    hidden: int
    """Of the feed-forward layers."""
    key_heads: int | None = None
    """Heads of keys and values; None: as many as of queries."""
    eps: float = 1e-5
    """Of the RMSNorms; those of queries and keys have 1e-5."""
    base: float = 10_000.0
    """Of the rotary angles."""
    normed_heads: bool = True
    """A LayerNorm on the queries and one on the keys of every head (qk_normalization)."""
    norms_behind: bool = False
    """Norms behind attention and feed-forward layer, in place of before them (swin_norm)."""


class NormedRotation(nn.Module):
    """A rotation of queries and keys that are normed first, each head by itself, by weights that all heads share."""

    def __init__(self, head_width: int, rotation: nn.Module) -> None:
        super().__init__()
        self.query = nn.LayerNorm(head_width)
        self.key = nn.LayerNorm(head_width)
        self.rotation = rotation

    def forward(self, qk: Float[Tensor, "b t 2 h d"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t 2 h d"]:
        """Queries and keys, normed and turned."""
        normed = torch.stack((self.query(qk[:, :, 0]), self.key(qk[:, :, 1])), dim=2)
        turned: Tensor = self.rotation(normed, position)
        return turned


class BehindBlock(Block):
    """x + norm(attention(x)), then x + norm(mlp(x)): Swin Transformer v2's block (arXiv 2111.09883)."""

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """One round of gathering and thinking."""
        x = x + self.attention_norm(self.attention(x, position, attend))
        return x + self.mlp_norm(self.mlp(x))


def chameleon_decoder(width: int, depth: int, heads: int, config: ChameleonConfig) -> Decoder:
    """The blocks and the last norm."""
    rotary = Rotary(width // heads, config.base, adjacent=True)
    return Decoder([_block(width, heads, rotary, config) for _ in range(depth)], RMSNorm(width, config.eps))


def _block(width: int, heads: int, rotary: Rotary, config: ChameleonConfig) -> Block:
    rotation = NormedRotation(width // heads, rotary) if config.normed_heads else rotary
    kind = BehindBlock if config.norms_behind else Block
    return kind(
        attention_norm=RMSNorm(width, config.eps),
        attention=(
            GroupedSelfAttention(width, heads, config.key_heads, rotation)
            if config.key_heads
            else SelfAttention(width, heads, rotation)
        ),
        mlp_norm=RMSNorm(width, config.eps),
        mlp=GatedMLP(width, config.hidden, nn.SiLU()),
    )
