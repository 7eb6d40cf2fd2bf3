"""Low-rank adapters (LoRA, arXiv 2106.09685) on linear layers, also on some of several that are one product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.errors import ConfigError, InputError
from plait.nn.attention import SelfAttention
from plait.nn.blocks import GatedMLP

Layer = Literal["q", "k", "v", "o", "gate", "up", "down"]
"""A matrix of a block, by transformers' name of it."""

_PLACES: tuple[tuple[type[nn.Module], str, tuple[Layer, ...]], ...] = (
    (SelfAttention, "qkv", ("q", "k", "v")),
    (SelfAttention, "out", ("o",)),
    (GatedMLP, "gate_hidden", ("gate", "up")),
    (GatedMLP, "out", ("down",)),
)
"""Where they stand: a module, its linear layer, and which matrices that is, one above the other."""

LAYERS = tuple(layer for *_, layers in _PLACES for layer in layers)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adapters on every self-attention, or on every gated MLP too; those of MiniGPT-v2 where nothing is given.

    Raises:
        ConfigError: a rank below 1, or layers that there are not, or named twice.
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05
    layers: tuple[Layer, ...] = ("q", "v")
    """Those with an adapter each."""

    def __post_init__(self) -> None:
        known = set(self.layers) <= set(LAYERS) and len(set(self.layers)) == len(self.layers)
        if self.rank < 1 or not self.layers or not known:
            raise ConfigError(
                f"adapters of rank {self.rank} on {self.layers}: "
                f"give a rank of at least 1 and some of {', '.join(LAYERS)}, each once"
            )


class LoRA(nn.Module):
    """linear(x) + alpha / rank * up(down(dropout(x))), the linear layer frozen; at first the linear layer alone.

    Args:
        linear: the layer.
        rank: r.
        alpha: the scale, times r.
        dropout: on the adapters' input alone.
        parts: how many layers of equal width `linear` is, one after the other in its rows: 3 for queries, keys, values.
        on: which of them have an adapter, each one of its own.

    Raises:
        ConfigError: rows that do not divide into parts, or a part that is not there.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        parts: int = 1,
        on: tuple[int, ...] = (0,),
    ) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        if rows % parts:
            raise ConfigError(f"{rows} rows do not divide into {parts} parts: give a number that does")
        if not on or not set(on) <= set(range(parts)):
            raise ConfigError(f"adapters on parts {on} of {parts}: give numbers from 0 to {parts - 1}")
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        self.parts = parts
        self.on = on
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Parameter(linear.weight.new_empty(len(on), rank, columns))  # (n, r, i)
        self.up = nn.Parameter(linear.weight.new_zeros(len(on), rows // parts, rank))  # (n, o, r)
        nn.init.kaiming_uniform_(self.down.view(-1, columns), a=5**0.5)

    def forward(self, x: Float[Tensor, "*any i"]) -> Float[Tensor, "*any o"]:
        """The layer with its adapters."""
        out: Tensor = self.linear(x)
        x = self.dropout(x).to(self.down.dtype)
        added = self.scale * torch.einsum("...i,nri,nor->...no", x, self.down, self.up)
        whole = out.view(*out.shape[:-1], self.parts, -1)
        index = torch.tensor(self.on, device=out.device)
        return whole.index_add(-2, index, added.to(out.dtype)).flatten(-2)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear layer with the adapters added to its weight, which can be trained again."""
        self.linear.weight.copy_(self.merge(self.linear.weight, self.down, self.up))
        return self.linear.requires_grad_(True)

    @torch.no_grad()
    def merge(
        self,
        weight: Float[Tensor, "o i"],
        down: Float[Tensor, "n r i"],
        up: Float[Tensor, "n p r"],
    ) -> Float[Tensor, "o i"]:
        """A weight with adapters added, all of which may lie outside the module. In the adapters' precision."""
        whole = weight.to(down.dtype, copy=True).view(self.parts, -1, weight.shape[1])
        whole[list(self.on)] += self.scale * up @ down
        return whole.view_as(weight).to(weight.dtype)


def add(module: nn.Module, names: list[str], rank: int, alpha: float, **settings: object) -> None:
    """Puts adapters on the linear layers of these names.

    Args:
        settings: further ones of `LoRA`.

    Raises:
        InputError: a name that is no linear layer.
    """
    for name in names:
        linear = module.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise InputError(f"{name} is a {type(linear).__name__}: adapters go on linear layers")
        module.set_submodule(name, LoRA(linear, rank, alpha, **settings))  # type: ignore[arg-type]


def adapt(module: nn.Module, config: LoRAConfig) -> None:
    """Puts adapters on the layers of every self-attention and gated MLP within a module.

    Raises:
        InputError: there is none, or it has adapters already.
    """
    for kind, linear, layers in _PLACES:
        on = tuple(layers.index(layer) for layer in config.layers if layer in layers)
        if not on:
            continue
        names = [f"{name}.{linear}" for name, child in module.named_modules() if isinstance(child, kind)]
        if not names:
            what = "self-attention" if kind is SelfAttention else "gated MLP"
            raise InputError(f"{type(module).__name__} has no {what}: adapters have no place in it")
        add(module, names, config.rank, config.alpha, dropout=config.dropout, parts=len(layers), on=on)


def merge(module: nn.Module) -> None:
    """Adds all adapters within a module to their layers, which then stand alone again."""
    for name, child in list(module.named_modules()):
        if isinstance(child, LoRA):
            module.set_submodule(name, child.merged())


def taken_away(module: nn.Module) -> set[str]:
    """The names of a module's tensors that are there no more once all adapters are merged."""
    adapted = [(f"{name}." if name else "", child) for name, child in module.named_modules() if isinstance(child, LoRA)]
    return {f"{prefix}{name}" for prefix, child in adapted for name in child.state_dict()}


def merged_state(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A state of `module`, one by one, as it is once all adapters are merged; the module's own weights are not read.

    Args:
        state: names and tensors, which can be read when they are asked for.
    """
    adapted = {f"{name}." if name else "": child for name, child in module.named_modules() if isinstance(child, LoRA)}
    inner = {f"{prefix}linear.": prefix for prefix in adapted}
    taken = {f"{prefix}{name}" for prefix in adapted for name in ("down", "up")}
    for name in state:
        stem = name.rpartition(".")[0] + "."
        if stem not in inner:
            if name not in taken:
                yield name, state[name]
            continue
        prefix = inner[stem]
        tensor, outer = state[name], prefix + name.removeprefix(stem)
        if name == f"{stem}weight":
            tensor = adapted[prefix].merge(tensor, state[f"{prefix}down"], state[f"{prefix}up"])
        yield outer, tensor
