"""The causal transformer (Emu, arXiv 2307.05222, section 2.1): a picture's patches to vectors in an order of their own.

    patches ────────────────▶ keys, values ─┐
    queries ─▶ see those before them ─▶ look at the patches ─▶ MLP ─▶ ... ─▶ norm ─▶ (b, n, c)

The blocks are those of T5's decoder (1910.10683): RMSNorm before each part, no biases, products that are not scaled,
one relative bias for all layers; dropout in training alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.attention import Attend, CrossAttention, Score, SelfAttention, whole
from plait.nn.blocks import MLP
from plait.nn.norms import RMSNorm
from plait.nn.positions import NoRotation, RelativeBias

UNSCALED = 1.0


@dataclass(frozen=True, kw_only=True)
class CFormerConfig:
    """Sizes of a causal transformer; Emu's where none are given (T5 base)."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    head_width: int = 64
    hidden: int = 3072
    """Width within the MLPs."""
    queries: int = 32
    image_width: int = 1408
    """Of the patches that it looks at."""
    buckets: int = 32
    """Of distances between queries (`RelativeBias`)."""
    longest: int = 128
    """Distance from which on all share a bucket."""
    eps: float = 1e-6
    dropout: float = 0.1


class CFormerBlock(nn.Module):
    """x + attention(norm(x)), x + cross(norm(x), patches), x + mlp(norm(x))."""

    def __init__(self, config: CFormerConfig) -> None:
        super().__init__()
        c = config
        norm = partial(RMSNorm, c.width, c.eps)
        self.attention_norm = norm()
        self.attention = SelfAttention(c.width, c.heads, NoRotation(), head_width=c.head_width)
        self.cross_norm = norm()
        self.cross = CrossAttention(c.width, c.image_width, c.heads, head_width=c.head_width)
        self.mlp_norm = norm()
        self.mlp = MLP(c.width, c.hidden, nn.Sequential(nn.ReLU(), nn.Dropout(c.dropout)))
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self, x: Float[Tensor, "b n c"], attend: Attend, image: Float[Tensor, "b p e"], look: Attend
    ) -> Float[Tensor, "b n c"]:
        """`attend` is what the queries see each other through, `look` what they see the patches through."""
        position = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        x = x + self.dropout(self.attention(self.attention_norm(x), position, attend))
        x = x + self.dropout(self.cross(self.cross_norm(x), image, look))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class CFormer(nn.Module):
    """Learned queries that read a picture, each knowing those before it."""

    def __init__(self, config: CFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.bias = RelativeBias(config.buckets, config.heads, config.longest)
        self.blocks = nn.ModuleList(CFormerBlock(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    def forward(self, image: Float[Tensor, "b p e"]) -> Float[Tensor, "b n c"]:
        """What the queries read from a picture's patches."""
        order = torch.arange(self.config.queries, device=image.device)
        dropped = self.config.dropout if self.training else 0.0
        attend = whole((order[:, None] >= order)[None], Score(scale=UNSCALED, bias=self.bias), dropped)
        look = whole(score=Score(scale=UNSCALED), dropout=dropped)
        x = self.dropout(self.queries.expand(len(image), -1, -1))
        for block in self.blocks:
            x = block(x, attend, image, look)
        return self.dropout(self.norm(x))

    def _initialise(self) -> None:
        """T5's: products begin small, since they are not scaled."""
        c = self.config
        nn.init.normal_(self.queries, std=0.02)
        nn.init.normal_(self.bias.weight, std=c.width**-0.5)
        for block in self.blocks:
            assert isinstance(block, CFormerBlock)
            for linear in (block.attention.qkv, block.cross.kv, block.mlp.hidden, block.attention.out, block.cross.out):
                nn.init.normal_(linear.weight, std=c.width**-0.5)
            nn.init.normal_(block.mlp.out.weight, std=c.hidden**-0.5)
            small = (c.width * c.head_width) ** -0.5
            nn.init.normal_(block.cross.q.weight, std=small)
            nn.init.normal_(block.attention.qkv.weight[: c.heads * c.head_width], std=small)
