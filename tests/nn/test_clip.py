from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plait.errors import ConfigError
from plait.nn.clip import (
    CLIP,
    CLIP_L14,
    CLIP_VIT_L14,
    WARMEST,
    CLIPConfig,
    CLIPImage,
    CLIPTextConfig,
    QuickGELU,
    clip_vit,
)
from plait.nn.vit import VITConfig

TINY = CLIPConfig(
    image=VITConfig(image_size=12, patch=4, width=8, depth=2, heads=2, hidden=20, eps=1e-5),
    text=CLIPTextConfig(vocabulary=30, positions=7, width=12, depth=2, heads=2, hidden=16),
    shared=6,
)
IDS = torch.tensor([[1, 5, 6, 7, 9], [1, 8, 9, 0, 0]])
REAL = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


@pytest.fixture
def clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP(TINY)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        tower = clip_vit(CLIP_VIT_L14, nn.LayerNorm(CLIP_VIT_L14.width))
        model = CLIP(CLIP_L14)
    assert sum(weight.numel() for weight in tower.parameters()) == 303_179_776
    assert sum(weight.numel() for weight in model.parameters()) == 427_616_513
    assert CLIP_VIT_L14.eps == 1e-5


def test_features_have_length_one(clip: CLIP) -> None:
    image, text = clip.image_features(torch.rand(3, 3, 12, 12)), clip.text_features(IDS, REAL)
    assert image.shape == (3, 6) and text.shape == (2, 6)
    for features in (image, text):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    torch.testing.assert_close(clip.similarity(image, text), image @ text.T / 0.07)


def test_the_factor_of_similarities_is_bounded(clip: CLIP) -> None:
    nn.init.constant_(clip.log_scale, 9.0)
    assert clip.scale.item() == WARMEST
    nn.init.constant_(clip.log_scale, 1.0)
    assert clip.scale.item() == pytest.approx(2.71828, rel=1e-4)


def test_a_text_is_read_at_its_end(clip: CLIP) -> None:
    alone = clip.text_features(IDS[1:, :3], REAL[1:, :3])
    other = IDS.clone()
    other[1, 3:] = 4
    torch.testing.assert_close(clip.text_features(IDS, REAL)[1:], alone)
    torch.testing.assert_close(clip.text_features(other, REAL)[1:], alone)
    other[1, 1] = 4
    assert not torch.allclose(clip.text_features(other, REAL)[1:], alone)


def test_words_see_those_before_them_alone(clip: CLIP) -> None:
    seen: list[torch.Tensor] = []
    clip.text.blocks[-1].register_forward_hook(lambda module, given, made: seen.append(made))
    clip.text(IDS, REAL)
    changed = IDS.clone()
    changed[0, 3] = 20
    clip.text(changed, REAL)
    torch.testing.assert_close(seen[0][0, :3], seen[1][0, :3])
    assert not torch.allclose(seen[0][0, 4], seen[1][0, 4])


def test_the_class_token_stands_for_the_picture(clip: CLIP) -> None:
    pixels = torch.rand(1, 3, 12, 12)
    seen = clip.image(pixels)
    assert seen.shape == (1, 10, 8)
    expected = clip.image_projection(seen[:, 0])
    torch.testing.assert_close(clip.image_features(pixels), expected / expected.norm())
    assert clip.image.patch.bias is None and isinstance(clip.image.embed_norm, nn.LayerNorm)


def test_a_vector_of_all_patches_is_not_made_of_the_class_token(clip: CLIP) -> None:
    tower = CLIPImage(clip.config.image, 5, patches=True)
    pixels = torch.randn(2, 3, clip.config.image.image_size, clip.config.image.image_size)
    states = tower.image(pixels)[:, 1:].flatten(1)
    torch.testing.assert_close(tower(pixels), states @ tower.image_projection.weight.T)


def test_the_tower_of_pictures_alone_leads_to_the_same_place(clip: CLIP) -> None:
    config = clip.config
    alone = CLIPImage(config.image, config.shared, config.activation)
    alone.load_state_dict({name: t for name, t in clip.state_dict().items() if name in alone.state_dict()})
    pixels = torch.randn(2, 3, config.image.image_size, config.image.image_size)
    embedding = alone(pixels)
    assert not torch.allclose(embedding.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(nn.functional.normalize(embedding), clip.image_features(pixels))


def test_activations_are_as_named() -> None:
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x))
    assert isinstance(clip_vit(TINY.image, nn.Identity()).blocks[0].mlp.activation, QuickGELU)
    assert isinstance(CLIP(replace(TINY, activation="gelu")).text.blocks[0].mlp.activation, nn.GELU)
    with pytest.raises(ConfigError, match="no activation 'swish'; there are gelu, quick"):
        replace(TINY, activation="swish")
