"""Linear layers that only multiply: weights in the blocks in which oneDNN multiplies them soonest on a CPU.

PyTorch's own products of a few rows read a weight row by row; in blocks they take a quarter to two thirds of the time
(benchmarks/decoding.py).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.errors import InputError


class PackedLinear(nn.Module):
    """What a linear layer was, for inference alone. A state dict holds its weight as it was, to the bit."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        blocks = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = nn.Parameter(blocks, requires_grad=False)
        self.bias = linear.bias
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


def pack(module: nn.Module) -> None:
    """Packs the linear layers within `module`, one by one, so that no second copy of all weights is ever held.

    Those that oneDNN does not multiply here stay as they are: on another device, in another precision than fp32 and
    bf16, or without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    dtypes = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    places: dict[int, list[tuple[nn.Module, str]]] = {}  # of each layer, which itself is not held
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight.is_cpu and child.weight.dtype in dtypes:
                places.setdefault(id(child), []).append((parent, name))
    for found in places.values():
        packed = PackedLinear(found[0][0].get_submodule(found[0][1]))  # type: ignore[arg-type]
        for parent, name in found:
            setattr(parent, name, packed)
