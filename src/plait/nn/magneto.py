"""MAGNETO (arXiv 2210.06423) on the one decoder: a second norm within each sublayer, and weights scaled by the depth.

    x ─▶ norm ─▶ attention ─▶ inner norm ─▶ linear ─▶ + ─▶ norm ─▶ linear ─▶ GELU ─▶ inner norm ─▶ linear ─▶ +

As KOSMOS-1 has it (arXiv 2302.14045, released code): embeddings times sqrt(width), xPos or sinusoids, a tied output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.attention import Attend, SelfAttention
from plait.nn.blocks import MLP, Block, Decoder
from plait.nn.packed import TiedEmbedding
from plait.nn.positions import NoRotation, SinusoidalPositions, XPos


@dataclass(frozen=True, kw_only=True)
class MagnetoConfig:
    """The sizes.

    Raises:
        ConfigError: lengths or a dropout that make no sense.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    """Of the feed-forward layer."""
    length: int = 2048
    """Elements of the longest sequence."""
    positions: Literal["xpos", "sinusoidal"] = "xpos"
    """xPos, as KOSMOS-1's paper says; or fairseq's sinusoids at the embedding, as in all released weights."""
    sharpen_from: int | None = None
    """With xPos, queries at positions t beyond it grow by ln t / ln sharpen_from (2048 in the code); None: none."""
    dropout: float = 0.0
    """Of the embedding and of what each sublayer adds, in training; 0.1 as published."""
    eps: float = 1e-5
    """Of all norms."""

    def __post_init__(self) -> None:
        if self.sharpen_from is not None and self.sharpen_from < 2:
            raise ConfigError(f"sharpen_from {self.sharpen_from}: its logarithm divides, so it must be at least 2")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}: it must be at least 0 and below 1")


class SubNormAttention(SelfAttention):
    """`SelfAttention` with a norm over all heads before the last product."""

    def __init__(self, width: int, heads: int, rotation: nn.Module, eps: float = 1e-5) -> None:
        super().__init__(width, heads, rotation, bias=True)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """Every element gathers from those that `attend` lets it see."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (b, t, 3, h, d)
        q, k = self.rotation(qkv[:, :, :2], position).unbind(2)
        return self.out(self.norm(attend(q, k, qkv[:, :, 2]).flatten(-2)))


class NormedActivation(nn.Module):
    """A norm of the exact GELU: what stands between the two products of the feed-forward layer."""

    def __init__(self, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, x: Float[Tensor, "b t f"]) -> Float[Tensor, "b t f"]:
        """Each element by itself."""
        normed: Tensor = self.norm(nn.functional.gelu(x))
        return normed


class DroppedBlock(Block):
    """`Block` with dropout on what its sublayers add."""

    def __init__(
        self, attention_norm: nn.Module, attention: nn.Module, mlp_norm: nn.Module, mlp: nn.Module, dropout: float
    ) -> None:
        super().__init__(attention_norm, attention, mlp_norm, mlp)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """One round of gathering and thinking."""
        x = x + self.dropout(self.attention(self.attention_norm(x), position, attend))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class SharpenedQueries(nn.Module):
    """A rotation whose queries at positions t beyond `first` grow by ln t / ln first."""

    def __init__(self, rotation: nn.Module, first: int) -> None:
        super().__init__()
        self.rotation = rotation
        self.first = first

    def forward(self, qk: Float[Tensor, "b t 2 h d"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t 2 h d"]:
        """Queries and keys, turned, the queries sharpened."""
        q, k = self.rotation(qk, position).unbind(2)
        factor = (position.clamp(min=1).float().log() / math.log(self.first)).clamp(min=1)
        return torch.stack((q * factor[..., None, None].to(q.dtype), k), dim=2)


class Magneto(nn.Module):
    """Embedding, positions, decoder; the embedding is the output too."""

    def __init__(self, config: MagnetoConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = TiedEmbedding(config.vocabulary, config.width)
        sinusoidal = config.positions == "sinusoidal"
        self.positions = SinusoidalPositions(config.width) if sinusoidal else None
        self.dropout = nn.Dropout(config.dropout)
        rotation: nn.Module = NoRotation() if sinusoidal else XPos(config.width // config.heads, config.length)
        if config.sharpen_from is not None and not sinusoidal:
            rotation = SharpenedQueries(rotation, config.sharpen_from)
        blocks: list[nn.Module] = [_block(config, rotation) for _ in range(config.depth)]
        self.decoder = Decoder(blocks, nn.LayerNorm(config.width, eps=config.eps))
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Callable[[int], Attend]
    ) -> Float[Tensor, "b t c"]:
        """Hidden states, after the last norm, of embedded inputs that are not scaled yet."""
        states: Tensor = self.decoder(self.placed(x, position), position, attend)
        return states

    def placed(self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """What goes into the first block: inputs times sqrt(width), positions added."""
        x = math.sqrt(self.config.width) * x
        if self.positions is not None:
            x = x + self.positions(position).to(x.dtype)
        dropped: Tensor = self.dropout(x)
        return dropped


def _block(config: MagnetoConfig, rotation: nn.Module) -> Block:
    """As it begins in the released code: values, outputs and feed-forward layers times sqrt(ln(2 depth)).

    MAGNETO's paper begins with Xavier's normals; the code keeps PyTorch's uniform ones, and scales the biases too.
    """
    attention = SubNormAttention(config.width, config.heads, rotation, config.eps)
    mlp = MLP(config.width, config.hidden, NormedActivation(config.hidden, config.eps), bias=True)
    gain = math.sqrt(math.log(2 * config.depth))
    linears = (attention.out, mlp.hidden, mlp.out)
    with torch.no_grad():
        values = (attention.qkv.weight[2 * config.width :], attention.qkv.bias[2 * config.width :])
        for tensor in (*values, *(t for linear in linears for t in (linear.weight, linear.bias))):
            tensor.mul_(gain)
    return DroppedBlock(
        attention_norm=nn.LayerNorm(config.width, eps=config.eps),
        attention=attention,
        mlp_norm=nn.LayerNorm(config.width, eps=config.eps),
        mlp=mlp,
        dropout=config.dropout,
    )
