"""The transformer block and the decoder, put together from the parts that a system hands them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.nn.attention import Attend


class MLP(nn.Module):
    """out(activation(hidden(x)))."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden, bias=bias)
        self.activation = activation
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Each element by itself."""
        return self.out(self.activation(self.hidden(x)))


class GatedMLP(nn.Module):
    """out(activation(gate(x)) * hidden(x)) (GLU variants, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.hidden = nn.Linear(width, hidden, bias=bias)
        self.activation = activation
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Each element by itself."""
        return self.out(self.activation(self.gate(x)) * self.hidden(x))


class SquaredReLU(nn.Module):
    """relu(x)^2 (Primer, arXiv 2109.08668)."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Element by element."""
        return torch.relu(x).square()


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the pre-norm block."""

    def __init__(self, attention_norm: nn.Module, attention: nn.Module, mlp_norm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """One round of gathering and thinking."""
        x = x + self.attention(self.attention_norm(x), position, attend)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Blocks and a last norm over embedded inputs.

    Args:
        blocks: in order.
        norm: applied to the last block's output.
    """

    def __init__(self, blocks: list[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Callable[[int], Attend]
    ) -> Float[Tensor, "b t c"]:
        """Hidden states; `attend(i)` is what block i sees through."""
        for i, block in enumerate(self.blocks):
            x = block(x, position, attend(i))
        return self.norm(x)
