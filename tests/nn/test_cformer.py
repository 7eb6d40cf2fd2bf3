"""The causal transformer. That it computes what the original does: tests/parity."""

from __future__ import annotations

import torch

from plait.nn.cformer import CFormer, CFormerConfig

SMALL = CFormerConfig(
    width=12, depth=2, heads=3, head_width=8, hidden=16, queries=5, image_width=10, buckets=4, longest=6, dropout=0.5
)


def test_a_query_knows_those_before_it_alone() -> None:
    torch.manual_seed(0)
    former = CFormer(SMALL).eval()
    image = torch.randn(2, 7, 10)
    before = former(image)
    with torch.no_grad():
        former.queries[:, 3] += 1.0
    after = former(image)
    changed = (before != after).any(-1).any(0)
    assert changed.tolist() == [False, False, False, True, True]


def test_there_is_dropout_in_training_alone() -> None:
    torch.manual_seed(0)
    former, image = CFormer(SMALL), torch.randn(1, 7, 10)
    assert not torch.equal(former(image), former(image))
    former.eval()
    assert torch.equal(former(image), former(image))


def test_half_precision_in_training_is_the_same_sum() -> None:
    torch.manual_seed(0)
    half, image = CFormer(SMALL).eval().bfloat16(), torch.randn(2, 7, 10).bfloat16()
    written_out = half(image)  # with gradients
    whole = half.float()(image.float()).detach()
    assert written_out.requires_grad
    assert ((written_out.detach().float() - whole).abs().max() / whole.abs().max()).item() < 0.05
