"""Losses of what draws, on a VAE and a U-Net whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.images import from_clip
from plait.nn.clip import CLIPImage
from plait.nn.diffusion import STABLE_SCHEDULER, LatentDiffusion, UnCLIP, UnCLIPConfig, scheduler
from plait.nn.vit import VITConfig
from plait.objectives.diffusion import DrawEmbedding, DrawText, GiveBack, denoising, drop
from plait.systems.seed_tokenizer import SeedTokenizerConfig

VISION = VITConfig(image_size=8, patch=4, width=16, depth=1, heads=2, hidden=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Told(nn.Module):
    """A U-Net that keeps what it is asked, and gives what it is told to."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer, self.asked = answer, {}

    def forward(self, latents: Tensor, time: Tensor, **asked: Any) -> Any:
        self.asked: Mapping[str, Any] = {"latents": latents, "time": time, **asked}
        return SimpleNamespace(sample=torch.zeros_like(latents) if self.answer is None else self.answer)


@pytest.fixture
def diffusion(seed_tokenizer_config: SeedTokenizerConfig) -> LatentDiffusion:
    assert seed_tokenizer_config.decoder is not None
    torch.manual_seed(0)
    return LatentDiffusion(seed_tokenizer_config.decoder.diffusion)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=seeded())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_right_answer_has_no_loss(diffusion: LatentDiffusion, pixels: Tensor, kind: str) -> None:
    diffusion.config = replace(diffusion.config, scheduler={**STABLE_SCHEDULER, "prediction_type": kind})
    diffusion.unet = asked = Told()
    seen = torch.zeros(6, 1, 8)
    off = denoising(diffusion, pixels, seen, seeded(1))
    share = scheduler(diffusion.config.scheduler).alphas_cumprod[asked.asked["time"]][:, None, None, None]
    latents = diffusion.latents(from_clip(pixels)).detach()
    noise = (asked.asked["latents"] - share.sqrt() * latents) / (1 - share).sqrt()
    wanted = noise if kind == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * latents
    torch.testing.assert_close(off, wanted.square().flatten(1).mean(1), rtol=1e-3, atol=1e-3)
    diffusion.unet = Told(wanted)
    assert denoising(diffusion, pixels, seen, seeded(1)).max() < 1e-5


def test_times_are_spread_over_all(diffusion: LatentDiffusion, pixels: Tensor) -> None:
    diffusion.unet = asked = Told()
    denoising(diffusion, pixels, torch.zeros(6, 1, 8), seeded(1))
    steps = len(scheduler(diffusion.config.scheduler).alphas_cumprod)
    assert (asked.asked["time"] * 6 // steps).tolist() == [0, 1, 2, 3, 4, 5]


def test_other_predictions_are_refused(diffusion: LatentDiffusion, pixels: Tensor) -> None:
    odd = {"_class_name": "DDIMScheduler", "prediction_type": "sample"}
    diffusion.config = replace(diffusion.config, scheduler=odd)
    with pytest.raises(ConfigError, match="prediction_type 'sample': noise or velocity is learned"):
        denoising(diffusion, pixels, torch.zeros(6, 1, 8), seeded())


class Drawers:
    """What the objectives ask of a system and of a batch."""

    def __init__(self, config: UnCLIPConfig, images: Tensor) -> None:
        torch.manual_seed(0)
        self.unclip = UnCLIP(config)
        self.embedder = CLIPImage(VISION, config.embedding)
        self.vae = self.unclip.diffusion.vae
        self.images = images


def test_dropped_embeddings_are_labels_of_zeros(seed_tokenizer_config: SeedTokenizerConfig, pixels: Tensor) -> None:
    assert seed_tokenizer_config.decoder is not None
    system = Drawers(seed_tokenizer_config.decoder, pixels)
    system.unclip.diffusion.unet = asked = Told()
    asked.config = SimpleNamespace(cross_attention_dim=8)
    loss = DrawEmbedding(dropped=0.5)(system, {}, system, seeded(3))["noise"]  # type: ignore[arg-type]
    labels = asked.asked["class_labels"]
    assert labels.shape == (6, 24) and loss > 0
    assert 0 < int((labels == 0).all(1).sum()) < 6
    assert DrawEmbedding().counts(system) == {"noise": 6.0}  # type: ignore[arg-type]


def test_what_is_given_back_is_measured_by_squares(seed_tokenizer_config: SeedTokenizerConfig, pixels: Tensor) -> None:
    assert seed_tokenizer_config.decoder is not None
    system = Drawers(seed_tokenizer_config.decoder, pixels)
    objective = GiveBack(kl=0.25)
    assert objective.weights() == {"pixel": 1.0, "kl": 0.25} and objective.counts(system)["kl"] == 6  # type: ignore[arg-type]
    with torch.no_grad():
        terms = objective(system, {}, system, seeded(4))  # type: ignore[arg-type]
        found = system.vae.encode(from_clip(pixels)).latent_dist
        drawn = found.mean + found.std * torch.randn(found.mean.shape, generator=seeded(4))
        made = system.vae.decode(drawn).sample
    torch.testing.assert_close(terms["pixel"], (made - from_clip(pixels)).square().flatten(1).mean(1).sum())
    torch.testing.assert_close(terms["kl"], found.kl().sum() / found.mean[0].numel())


def test_shares_of_what_is_dropped() -> None:
    assert not drop(100, 0.0, seeded()).any() and 20 < int(drop(100, 0.3, seeded()).sum()) < 40
    for kind in (DrawEmbedding, DrawText):
        with pytest.raises(ConfigError, match=r"dropped=1: give a share"):
            kind(dropped=1)
