"""MAGNETO's decoder: where its norms stand, how it begins, what it does with positions; and the resampler."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plait.errors import ConfigError
from plait.nn.attention import KVCache, Visibility
from plait.nn.magneto import Magneto, MagnetoConfig, SharpenedQueries
from plait.nn.positions import NoRotation
from plait.nn.resampler import Resampler

CONFIG = MagnetoConfig(vocabulary=40, width=32, depth=3, heads=4, hidden=48, length=64)


def built(config: MagnetoConfig) -> Magneto:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Magneto(config).eval()


def run(model: Magneto, ids: Tensor) -> Tensor:
    sight = Visibility(torch.zeros_like(ids), torch.full_like(ids, -1))
    return model(model.embed(ids), torch.arange(ids.shape[1]).expand(ids.shape), lambda layer: sight.attend)


def test_the_first_weights() -> None:
    width = 256
    model = built(replace(CONFIG, width=width, hidden=512, depth=6))
    block = model.decoder.blocks[0]
    bound, gain = width**-0.5, math.sqrt(math.log(12))
    q, k, v = block.attention.qkv.weight.chunk(3)
    for plain in (q, k, *block.attention.qkv.bias.chunk(3)[:2]):
        assert 0.9 * bound < plain.abs().max() <= bound
    scaled = (v, block.attention.qkv.bias.chunk(3)[2], block.attention.out.weight, block.mlp.hidden.bias)
    for tensor in scaled:
        assert 0.9 * gain * bound < tensor.abs().max() <= gain * bound
    assert block.mlp.out.weight.abs().max() > 0.9 * gain * 512**-0.5
    assert model.embed.weight.std().item() == pytest.approx(width**-0.5, rel=0.05)


def test_inner_norms_make_scales_meaningless() -> None:
    """What the first products of the sublayers are multiplied by is lost in the norm behind them."""
    model = built(CONFIG)
    ids = torch.arange(10)[None]
    before = run(model, ids)
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.attention.qkv.weight[64:] *= 3
            block.attention.qkv.bias[64:] *= 3
    torch.testing.assert_close(run(model, ids), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
def test_a_cache_changes_nothing(positions: str) -> None:
    model = built(replace(CONFIG, positions=positions))
    ids = torch.randint(0, 40, (1, 12), generator=torch.Generator().manual_seed(0))
    whole = run(model, ids)
    cache, parts = KVCache(1), []
    for first, last in ((0, 7), (7, 8), (8, 12)):
        position = cache.advance(torch.tensor([last - first]))
        parts.append(model(model.embed(ids[:, first:last]), position, cache.attend))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-5)
    turned = run(model, ids.flip(1)).flip(1)
    assert not torch.allclose(turned, whole, atol=1e-2)


def test_dropout_is_for_training() -> None:
    model, ids = built(replace(CONFIG, dropout=0.5)), torch.arange(10)[None]
    assert torch.equal(run(model, ids), run(model, ids))
    model.train()
    assert not torch.equal(run(model, ids), run(model, ids))
    assert torch.equal(run(model.eval(), ids), run(built(CONFIG), ids))


def test_queries_far_away_are_sharpened() -> None:
    qk = torch.ones(1, 5, 2, 2, 4)
    turned = SharpenedQueries(NoRotation(), 4)(qk, torch.tensor([[0, 1, 4, 8, 16]]))
    torch.testing.assert_close(turned[0, :, 0, 0, 0], torch.tensor([1.0, 1.0, 1.0, 1.5, 2.0]))
    assert torch.equal(turned[:, :, 1], qk[:, :, 1])


def test_what_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="sharpen_from 1"):
        replace(CONFIG, sharpen_from=1)
    with pytest.raises(ConfigError, match="dropout 1"):
        replace(CONFIG, dropout=1.0)


def test_the_resampler_looks_at_a_picture_and_at_its_queries() -> None:
    torch.manual_seed(0)
    resampler = Resampler(count=5, source_width=24, width=32, heads=4)
    seen = torch.randn(3, 17, 24)
    made = resampler(seen)
    assert made.shape == (3, 5, 32)
    torch.testing.assert_close(resampler(seen[1:2]), made[1:2])
    torch.testing.assert_close(resampler(seen[:, torch.randperm(17)]), made, atol=1e-5, rtol=1e-4)  # it has no places
    for matrix in (resampler.attention.q.weight, *resampler.attention.kv.weight.chunk(2)):
        bound = math.sqrt(6 / 64 / 2)  # Xavier's of a square matrix, over sqrt 2
        assert 0.95 * bound < matrix.abs().max() <= bound
    assert not resampler.attention.out.bias.any()
    with torch.no_grad():
        before = resampler(seen)
        resampler.queries[0] += 1
        assert not torch.allclose(resampler(seen)[:, 1:], before[:, 1:])  # others see the first
