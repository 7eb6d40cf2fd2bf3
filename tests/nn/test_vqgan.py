from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plait.errors import ConfigError
from plait.nn.vqgan import VQGAN, Discriminator, VQGANConfig, group_norm

TINY = VQGANConfig(
    resolution=16,
    channels=8,
    multipliers=(1, 2, 3),
    blocks=1,
    attention_resolutions=(8,),
    latent_channels=12,
    code_width=4,
    codes=32,
)


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_sizes_are_derived() -> None:
    config = VQGANConfig()
    assert (config.factor, config.grid, config.codes_per_image) == (8, 32, 1024)
    chameleon = VQGANConfig(resolution=512, multipliers=(1, 1, 2, 2, 4), attention_resolutions=())
    assert (chameleon.factor, chameleon.grid, chameleon.codes_per_image) == (16, 32, 1024)


def test_a_resolution_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="18 is no multiple of 4"):
        replace(TINY, resolution=18)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (96, 32), (64, 32), (48, 16), (24, 8), (16, 16), (20, 4)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_narrow_models_can_have_fewer_groups() -> None:
    model = VQGAN(replace(TINY, groups=2))
    assert {part.num_groups for part in model.modules() if isinstance(part, nn.GroupNorm)} == {2}


def test_local_codes_know_their_surroundings_alone() -> None:
    torch.manual_seed(0)
    config = replace(TINY, local=True, attention_resolutions=())
    model = VQGAN(config).eval()
    assert not any(isinstance(part, nn.GroupNorm) for part in model.modules())
    one = pixels(1, 3, 64, 64)
    other = one.clone()
    other[..., 32:, 32:] = 0.9  # the lower right quarter
    with torch.no_grad():
        before, after = model.to_codes(model.encoder(one)), model.to_codes(model.encoder(other))
    changed = (before != after).any(1)[0]  # (16, 16)
    assert changed[8:, 8:].all()
    assert not changed[:5].any() and not changed[:, :5].any()  # three codes, 12 pixels, away
    assert model(one).pixels.shape == one.shape


def test_the_full_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        chameleon = VQGAN(VQGANConfig(resolution=512, multipliers=(1, 1, 2, 2, 4), attention_resolutions=()))
    # published.json, file vqgan.ckpt
    assert sum(p.numel() for p in chameleon.encoder.parameters()) == 27_194_880
    assert sum(p.numel() for p in chameleon.decoder.parameters()) == 39_294_851


def test_codes_and_back() -> None:
    model = VQGAN(TINY).eval()
    with torch.no_grad():
        made = model(pixels(2, 3, 16, 16))
        ids = model.encode(pixels(2, 3, 16, 16))
        assert torch.equal(ids, made.quantised.ids)
        torch.testing.assert_close(model.decode(ids), made.pixels, atol=1e-5, rtol=1e-5)
    assert ids.shape == (2, TINY.grid, TINY.grid)
    assert made.pixels.shape == (2, 3, 16, 16)


def test_any_multiple_of_the_factor_works_and_no_other_side() -> None:
    model = VQGAN(TINY)
    assert model(pixels(1, 3, 8, 20)).pixels.shape == (1, 3, 8, 20)
    with pytest.raises(ConfigError, match="8 x 18 pixels, but a code covers 4 x 4"):
        model.encode(pixels(1, 3, 8, 18))


def test_every_weight_learns() -> None:
    model = VQGAN(TINY)
    made = model(pixels(2, 3, 16, 16))
    (made.pixels.square().mean() + made.quantised.codebook.mean()).backward()
    # The bias of a key shifts all scores of a place alike: its gradient is 0 up to rounding.
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in silent if not name.endswith("k.bias")]


def test_memory_format_changes_rounding_only() -> None:
    model = VQGAN(TINY).eval()
    x = pixels(2, 3, 16, 16)
    with torch.no_grad():
        latent = model.encoder(x)
        other = model.to(memory_format=torch.channels_last).encoder(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(latent, other, atol=1e-5, rtol=1e-5)


def test_the_discriminator_judges_patches() -> None:
    model = Discriminator()
    assert sum(p.numel() for p in model.parameters()) == 2_765_633  # as published: taming, f16
    assert model(pixels(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    assert model(pixels(2, 3, 32, 32)).shape == (2, 1, 2, 2)
    imported = Discriminator(norm=nn.BatchNorm2d)
    assert [k for k in imported.state_dict() if "running" not in k and "tracked" not in k] == list(model.state_dict())
