"""Pictures by diffusion: what every image decoder promises, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plait.errors import ConfigError
from plait.nn.diffusion import (
    Canvas,
    ImageDecoder,
    LabelCanvas,
    LatentDiffusion,
    UnCLIP,
    UnCLIPConfig,
    level_embedding,
    make,
    scheduler,
)
from plait.systems.seed_tokenizer import SeedTokenizer, SeedTokenizerConfig


class Blurred:
    """A decoder that is none: the vector's first three channels as a flat colour, with noise."""

    def draw(self, vectors: Tensor, generators: Sequence[torch.Generator], negative: Tensor | None = None) -> Tensor:
        noise = torch.stack([torch.randn(3, 2, 2, generator=generator) for generator in generators])
        shift = 0.0 if negative is None else -negative[:, :3, None, None]
        return vectors[:, :3, None, None] + 0.1 * noise + shift


@pytest.fixture(params=["unclip", "fake"])
def decoder(request: pytest.FixtureRequest, seed_tokenizer: SeedTokenizer) -> ImageDecoder:
    if request.param == "fake":
        return Blurred()
    assert seed_tokenizer.decoder is not None
    return seed_tokenizer.decoder


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_picture_depends_on_its_vector_and_its_generator_alone(decoder: ImageDecoder) -> None:
    vectors = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))  # more than are drawn at once
    drawn = decoder.draw(vectors, seeded(1, 2, 3, 4, 5))
    assert len(drawn) == 5 and drawn.shape[1] == 3
    alone = decoder.draw(vectors[3:4], seeded(4))
    torch.testing.assert_close(drawn[3:4], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drawn[3:4], decoder.draw(vectors[3:4], seeded(5)), atol=1e-2)
    assert not torch.allclose(drawn[3:4], decoder.draw(vectors[2:3], seeded(4)), atol=1e-4)


def test_one_generator_gives_pictures_their_noise_in_order(decoder: ImageDecoder) -> None:
    vectors = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    one = torch.Generator().manual_seed(7)
    both = decoder.draw(vectors, [one, one])
    (again,) = seeded(7)
    apart = torch.cat([decoder.draw(vectors[i : i + 1], [again]) for i in range(2)])
    torch.testing.assert_close(both, apart, atol=1e-5, rtol=1e-5)


def test_a_negative_for_all_is_one_for_each(decoder: ImageDecoder) -> None:
    vectors = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    away = vectors[:1] + 1
    drawn = decoder.draw(vectors, seeded(1, 2), away)
    torch.testing.assert_close(drawn, decoder.draw(vectors, seeded(1, 2), away.repeat(2, 1)))
    assert not torch.allclose(drawn, decoder.draw(vectors, seeded(1, 2)), atol=1e-4)


def unclip_config(config: SeedTokenizerConfig) -> UnCLIPConfig:
    assert config.decoder is not None
    return config.decoder


def test_without_guidance_a_negative_changes_nothing(seed_tokenizer_config: SeedTokenizerConfig) -> None:
    config = unclip_config(seed_tokenizer_config)
    model = UnCLIP(replace(config, diffusion=replace(config.diffusion, guidance=1.0)))
    given = [torch.randn(1, *model.diffusion.latent_shape), torch.randn(1, 1, 8), torch.randn(1, 24)]
    with torch.no_grad():
        first, second = (model.diffusion.denoise(*given, torch.full((1, 24), value)) for value in (0.0, 5.0))
    assert torch.equal(first, second)


def test_level_zero_is_ones_then_zeros_and_still_noise(seed_tokenizer: SeedTokenizer) -> None:
    assert level_embedding(torch.tensor([0]), 6).tolist() == [[1, 1, 1, 0, 0, 0]]
    assert level_embedding(torch.tensor([3]), 6)[0, [0, 3]].tolist() == pytest.approx([-0.98999, 0.14112], abs=1e-5)
    model = seed_tokenizer.decoder
    assert model is not None
    vector = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    first, second = (model.labels(vector, torch.full((1, 12), value)) for value in (0.0, 1.0))
    apart = (second - first)[0]
    assert (apart[:12] > 1e-3).all() and not apart[12:].any()
    assert (first[0, :12] - vector[0]).abs().max() < 1e-3


def test_what_diffusers_does_not_know_is_refused(seed_tokenizer_config: SeedTokenizerConfig) -> None:
    config = unclip_config(seed_tokenizer_config)
    with pytest.raises(ConfigError, match=r"AutoencoderKL has no setting 'latent_chanels'; did you mean"):
        make("AutoencoderKL", {"latent_chanels": 4})
    with pytest.raises(ConfigError, match="a scheduler with _class_name 'UNet2DConditionModel'"):
        scheduler({"_class_name": "UNet2DConditionModel"})
    with pytest.raises(ConfigError, match="has no 'DreamScheduler'"):
        scheduler({"_class_name": "DreamScheduler"})
    with pytest.raises(ConfigError, match="input_dim 24 for embeddings of 10: it must be 20"):
        UnCLIP(replace(config, embedding=10))


@pytest.mark.parametrize("labelled", [True, False])
def test_channels_beside_the_latents_are_a_map_of_the_condition(
    seed_tokenizer_config: SeedTokenizerConfig, labelled: bool
) -> None:
    config = unclip_config(seed_tokenizer_config).diffusion
    unet = {**config.unet, "in_channels": config.unet["in_channels"] + 4}
    if not labelled:
        unet = {**unet, "class_embed_type": None, "projection_class_embeddings_input_dim": None}
    torch.manual_seed(0)
    model = LatentDiffusion(replace(config, unet=unet))
    given: list[Tensor] = []
    model.unet.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    latents, looked, labels = torch.randn(2, *model.latent_shape), torch.randn(2, 3, 8), torch.randn(2, 24)
    model.denoise(latents, looked, labels if labelled else None, guidance=1.0)
    assert isinstance(model.canvas, LabelCanvas if labelled else Canvas)
    made = model.canvas(labels if labelled else looked)
    assert made.shape == (2, 4, 4, 4) and torch.equal(given[0][:, :8], latents)
    assert all(torch.equal(one[:, 8:], made) for one in given) and len(given) > 1  # at each step
    places = made.flatten(2).transpose(1, 2)  # (m, y x, p)
    assert torch.cdist(places, places)[:, ~torch.eye(16, dtype=torch.bool)].min() > 1e-3  # told apart


def test_fewer_channels_than_the_latents_have_are_refused(seed_tokenizer_config: SeedTokenizerConfig) -> None:
    config = unclip_config(seed_tokenizer_config).diffusion
    with pytest.raises(ConfigError, match="a U-Net of 4 channels for latents of 8"):
        LatentDiffusion(replace(config, unet={**config.unet, "in_channels": 4}))
