from __future__ import annotations

import pytest
import torch

from plait.nn.norms import RMSNorm, plain_layer_norm

X = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm(eps: float) -> None:
    norm = RMSNorm(16, eps)
    torch.nn.init.normal_(norm.weight)
    exact = X.double() / (X.double().square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight.double()
    for grad in (True, False):  # a CPU has two ways
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(norm(X), exact.float())
    assert not list(RMSNorm(16, affine=False).parameters())
    torch.testing.assert_close(RMSNorm(16, eps, affine=False)(X) * norm.weight, norm(X))


def test_the_mean_square_of_low_precision_is_taken_in_fp32() -> None:
    x = torch.full((1, 4096), 300.0).half()  # its square overflows fp16
    assert RMSNorm(4096, affine=False)(x).eq(1).all() and RMSNorm(4096, affine=False)(x).dtype == torch.float16


def test_plain_layer_norm_has_no_parameters() -> None:
    norm = plain_layer_norm(16)
    assert not list(norm.parameters())
    exact = (X.double() - X.double().mean(-1, keepdim=True)) / (
        X.double().var(-1, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(norm(X), exact.float(), atol=1e-6, rtol=1e-5)
