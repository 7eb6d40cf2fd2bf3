"""LLaMA (arXiv 2302.13971) on the one decoder: pre-norm blocks, RMSNorm, rotary positions, SwiGLU, no biases."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.nn.attention import Attend, SelfAttention
from plait.nn.blocks import Block, Decoder, GatedMLP
from plait.nn.norms import RMSNorm
from plait.nn.positions import Rotary


@dataclass(frozen=True, kw_only=True)
class LLaMAConfig:
    """The sizes; those of 7B where none are given."""

    vocabulary: int = 32_000
    width: int = 4096
    hidden: int = 11_008
    """Of the feed-forward layer."""
    depth: int = 32
    heads: int = 32
    positions: int = 2048
    """Elements of the longest sequence."""
    eps: float = 1e-6
    """Of the norms; LLaMA-2 has 1e-5."""
    base: float = 10_000.0
    """Of the rotary angles."""


LLAMA_7B = LLaMAConfig()
LLAMA_13B = LLaMAConfig(width=5120, hidden=13_824, depth=40, heads=40)
LLAMA2_7B = LLaMAConfig(positions=4096, eps=1e-5)


class LLaMA(nn.Module):
    """Embedding, decoder and output table (not tied)."""

    def __init__(self, config: LLaMAConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        rotation = Rotary(config.width // config.heads, config.base)
        blocks: list[nn.Module] = [_block(config, rotation) for _ in range(config.depth)]
        self.decoder = Decoder(blocks, RMSNorm(config.width, config.eps))
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(weight, std=0.02)

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Callable[[int], Attend]
    ) -> Float[Tensor, "b t c"]:
        """Hidden states, after the last norm, of embedded inputs."""
        states: Tensor = self.decoder(x, position, attend)
        return states

    @torch.no_grad()
    def extend(self, alike: Items[Items[int]]) -> None:
        """Adds words behind the last: each begins, in both tables, as the mean of the rows of the ids that it names."""
        for table in (self.embed, self.head):
            rows = [table.weight[list(ids)].mean(0) for ids in alike]
            table.weight = nn.Parameter(torch.cat([table.weight, torch.stack(rows)]))
        self.config = replace(self.config, vocabulary=self.config.vocabulary + len(alike))
        self.embed.num_embeddings = self.head.out_features = self.config.vocabulary


def _block(config: LLaMAConfig, rotation: nn.Module) -> Block:
    return Block(
        attention_norm=RMSNorm(config.width, config.eps),
        attention=SelfAttention(config.width, config.heads, rotation),
        mlp_norm=RMSNorm(config.width, config.eps),
        mlp=GatedMLP(config.width, config.hidden, nn.SiLU()),
    )
