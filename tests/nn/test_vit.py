from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from plait.errors import ConfigError, InputError
from plait.nn.vit import EVA_VIT_G, ViT, VITConfig, eva_vit, resize_positions

TINY = VITConfig(image_size=12, patch=4, width=8, depth=2, heads=2, hidden=20)


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tower(config: VITConfig = TINY, norm: nn.Module | None = None) -> ViT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return eva_vit(config, norm or nn.Identity()).eval()


def test_the_published_tower() -> None:
    with torch.device("meta"):
        model = eva_vit(EVA_VIT_G, nn.Identity())
    key_biases = EVA_VIT_G.depth * EVA_VIT_G.width  # zeros that no file holds
    assert sum(weight.numel() for weight in model.parameters()) - key_biases == 985_894_528
    assert EVA_VIT_G.grid == 16 and EVA_VIT_G.hidden == int(1408 * 4.3637)


def test_an_image_that_does_not_divide_into_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match="14 is no multiple of patch 4"):
        replace(TINY, image_size=14)
    with pytest.raises(InputError, match="12 x 14 pixels does not divide"):
        tower()(pixels(1, 3, 12, 14))


def test_the_class_token_comes_first_and_every_patch_sees_all() -> None:
    model = tower(replace(TINY, depth=1))
    x = pixels(2, 3, 12, 12)
    other = x.clone()
    other[..., 8:, 8:] = 0.0  # the last patch
    with torch.no_grad():
        model.positions.zero_()
        model.class_token.normal_(generator=torch.Generator().manual_seed(1))
        assert model(x).shape == (2, 10, 8)
        changed = (model(x) != model(other)).any(-1)
        assert changed.all()
        model.blocks = nn.ModuleList()  # what is embedded
        changed = (model(x) != model(other)).any(-1)
        torch.testing.assert_close(model(x)[:, :1], model.class_token.expand(2, 1, 8))
        torch.testing.assert_close(model(x)[:, 2], model.patch(x)[:, :, 0, 1])  # raster order
    assert changed.nonzero().tolist() == [[0, 9], [1, 9]]


def test_the_last_norm_is_what_is_handed_in() -> None:
    norm = nn.LayerNorm(8)
    x = pixels(1, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(tower(norm=norm)(x), norm(tower()(x)))


def test_the_bias_of_keys_has_no_effect() -> None:
    model, x = tower(), pixels(1, 3, 12, 12)
    with torch.no_grad():
        before = model(x)
        for block in model.blocks:
            block.attention.qkv.bias[8:16] = 3.0
        torch.testing.assert_close(model(x), before)


def test_deeper_blocks_begin_smaller() -> None:
    wide = VITConfig(image_size=4, patch=4, width=64, depth=3, heads=2, hidden=256)
    for i, block in enumerate(tower(wide).blocks):
        for added in (block.attention.out, block.mlp.out):
            assert math.isclose(added.weight.std().item(), 0.02 / math.sqrt(2 * (i + 1)), rel_tol=0.1)
        assert math.isclose(block.attention.qkv.weight.std().item(), 0.02, rel_tol=0.1)


def test_pictures_of_another_size_get_resized_positions() -> None:
    model, x = tower(), pixels(1, 3, 20, 8)
    with torch.no_grad():
        resized = resize_positions(model.positions, 5, 2)
        model.blocks = nn.ModuleList()
        torch.testing.assert_close(model(x)[:, 1:], model.patch(x).flatten(2).mT + resized[:, 1:])


def test_resized_positions() -> None:
    positions = torch.arange(10.0).view(1, 10, 1).expand(1, 10, 4)
    assert resize_positions(positions, 3, 3) is positions
    larger = resize_positions(positions, 6, 9)
    assert larger.shape == (1, 55, 4)
    assert larger[0, 0].tolist() == [0.0] * 4  # the class token's
    flat = resize_positions(torch.ones(1, 10, 4), 7, 2)
    torch.testing.assert_close(flat, torch.ones(1, 15, 4))


def test_hidden_patches_are_not_seen() -> None:
    model, first = tower(), pixels(1, 3, 12, 12)
    hidden = torch.zeros(1, 9, dtype=torch.bool)
    hidden[0, 4] = True
    second = first.clone()
    second[..., 4:8, 4:8] = 0.3  # the patch in the middle
    assert not torch.allclose(model(first), model(second))
    instead = torch.full((8,), 0.1)
    torch.testing.assert_close(model(first, hidden, instead), model(second, hidden, instead))
    assert not torch.allclose(model(first, hidden, instead), model(first, hidden, 2 * instead))
    torch.testing.assert_close(model(first, torch.zeros_like(hidden), instead), model(first))
