"""The transformer block and the decoder, put together from the parts that a system hands them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
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
    """out(activation(gate) * hidden), gate and hidden by one product (GLU variants, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, bias: bool = False) -> None:
        super().__init__()
        self.gate_hidden = nn.Linear(width, 2 * hidden, bias=bias)
        self.activation = activation
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Each element by itself."""
        gate, hidden = self.gate_hidden(x).chunk(2, dim=-1)
        return self.out(self.activation(gate) * hidden)


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
        self._step: Callable[..., Tensor] | None = None

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Callable[[int], Attend]
    ) -> Float[Tensor, "b t c"]:
        """Hidden states; `attend(i)` is what block i sees through."""
        if self._step is not None and x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._step(x, position, attend)
        return self._through(x, position, attend)

    def _through(self, x: Tensor, position: Tensor, attend: Callable[[int], Attend]) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, position, attend(i))
        return self.norm(x)

    def compile_step(self) -> None:
        """Compiles what is run for one new element a row, when it is first run: for inference on a CPU.

        Its weights become constants of what is compiled, and must not change any more. Other numbers of rows, masks
        and lengths than those before compile anew, some five times in all.

        Raises:
            ConfigError: no C++ compiler; or another device.
        """
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        device = next(self.parameters()).device.type
        if device != "cpu":
            raise ConfigError(f"compile is for models on a CPU, this one is on {device}: leave it out")
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise ConfigError("compile needs a C++ compiler and found none: install g++, or leave it out") from error

        def backend(graph: Any, inputs: list[Tensor]) -> Any:  # one of its own: so no other decoder finds its code
            from torch._inductor.compile_fx import compile_fx

            return compile_fx(graph, inputs)

        unguarded = torch.compiler.skip_guard_on_all_nn_modules_unsafe  # they do not change, and checks take time
        compiled = torch.compile(self._through, backend=backend, options={"guard_filter_fn": unguarded})

        def step(x: Tensor, position: Tensor, attend: Callable[[int], Attend]) -> Tensor:
            # Set for the call, since it may compile; the limit counts all decoders of the process together.
            with inductor.patch(freezing=True, cpp_wrapper=True), dynamo.patch(recompile_limit=256):
                return compiled(x, position, attend)

        self._step = step
