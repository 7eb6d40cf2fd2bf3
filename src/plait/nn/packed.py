"""Linear layers that only multiply: weights in the blocks in which oneDNN multiplies them soonest on a CPU.

PyTorch's own products of a few rows read a weight row by row; in blocks they take a quarter to two thirds of the time
(benchmarks/decoding.py). On CPUs of Intel that holds for several rows by a large weight alone: MKL, which was written
for them, multiplies one row as soon, and small weights sooner (benchmarks/kosmos1.py).
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.errors import InputError

SMALL = 2**20
"""Elements of a weight; with fewer it is left as it is on a CPU of Intel."""


class PackedLinear(nn.Module):
    """What a linear layer was, for inference alone. A state dict holds its weight as it was, to the bit."""

    def __init__(self, weight: Float[Tensor, "o i"], bias: nn.Parameter | None = None) -> None:
        super().__init__()
        blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.weight = nn.Parameter(blocks, requires_grad=False)
        self.bias = bias
        self.training = False

    def forward(self, x: Float[Tensor, "*any i"]) -> Float[Tensor, "*any o"]:
        """x weight^T + bias."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product

    def train(self, mode: bool = True) -> PackedLinear:
        """Evaluation mode is the only one."""
        if mode:
            raise InputError("packed layers cannot be trained: load the model with packed=False")
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.detach().to_dense()


class TiedEmbedding(nn.Embedding):
    """A table of vectors that is the output too: the logit of an id is the product with its vector.

    Once packed, the rows that are asked for together are kept as a `PackedLinear` beside the table, which is looked up
    as before: up to another table, and once more those of each range of ids.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        self._packed: dict[tuple[int, int], PackedLinear] | None = None

    def pack(self) -> None:
        """From now on rows are packed when they are first asked for: the table must not change any more."""
        self._packed = {}

    def logits(
        self, hidden: Float[Tensor, "*any c"], first: int = 0, last: int | None = None
    ) -> Float[Tensor, "*any v"]:
        """Those of the ids first .. last - 1; of all, unless they are given."""
        rows = self.weight[first:last]
        if self._packed is None:
            return nn.functional.linear(hidden, rows)
        at = (first, first + len(rows))
        if at not in self._packed:
            self._packed[at] = PackedLinear(rows)
        product: Tensor = self._packed[at](hidden)
        return product

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TiedEmbedding:
        self._packed = None  # elsewhere, or in another precision
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def pack(module: nn.Module) -> None:
    """Packs the linear layers within `module`, one by one, so that no second copy of all weights is ever held.

    Those that oneDNN does not multiply here stay as they are: on another device, in another precision than fp32 and
    bf16, or without oneDNN. So do small ones (`SMALL`) where they would be multiplied later.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}  # of each layer, which itself is not held
    for parent in module.modules():
        if isinstance(parent, TiedEmbedding) and _packs(parent.weight):
            parent.pack()
        for name, child in parent.named_children():
            if type(child) is nn.Linear and _packs(child.weight):
                places.setdefault(id(child), []).append((parent, name))
    for found in places.values():
        linear = found[0][0].get_submodule(found[0][1])
        packed = PackedLinear(linear.weight, linear.bias)  # type: ignore[arg-type]
        del linear
        for parent, name in found:
            setattr(parent, name, packed)


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN multiplies it here, and sooner."""
    if not torch.backends.mkldnn.is_available() or not weight.is_cpu:  # type: ignore[no-untyped-call]
        return False
    if weight.numel() < SMALL and _intel():
        return False
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or half


@functools.cache
def _intel() -> bool:
    """By the name of its maker, which never changes: what is packed must not differ from run to run."""
    told = Path("/proc/cpuinfo")
    return "GenuineIntel" in (told.read_text() if told.exists() else platform.processor())
