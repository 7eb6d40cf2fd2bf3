"""Norms, with and without parameters."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square in fp32 (LLaMA's and T5's norm). `affine=False`: without the weight."""

    def __init__(self, width: int, eps: float = 1e-6, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Float[Tensor, "*any c"]) -> Float[Tensor, "*any c"]:
        """Over the last axis."""
        if x.dtype == torch.float32:
            if x.is_cpu and not torch.is_grad_enabled():
                return self._decoding(x)
            return nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        scaled = (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)).type_as(x)
        return scaled if self.weight is None else scaled * self.weight

    def _decoding(self, x: Tensor) -> Tensor:
        """PyTorch's own takes 7 steps on a CPU, of which the mean is slow: twice as long for single elements."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scaled = x * length.square_().mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return scaled if self.weight is None else scaled.mul_(self.weight)


def plain_layer_norm(width: int, eps: float = 1e-5) -> nn.LayerNorm:
    """A LayerNorm without weight and bias (CM3Leon; metaseq's `disable_affine_ln`)."""
    return nn.LayerNorm(width, eps=eps, elementwise_affine=False)
