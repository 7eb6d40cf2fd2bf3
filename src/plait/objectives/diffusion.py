"""How what draws is trained (latent diffusion, arXiv 2112.10752): a VAE, and U-Nets that take noise out of its latents.

    give back   (x - decode(z))^2 + w KL(encode(x), N(0, 1)),   z drawn from encode(x)
    denoise     (f(a z + s e, t, condition) - wanted)^2,        wanted: the noise e, or the velocity a e - s z

z is the mean of encode(x) times the VAE's scaling factor, e is noise, t is uniform, and a^2 + s^2 = 1 as the scheduler
has it at t, which also says what is wanted (velocity: arXiv 2202.00512). Some pictures are denoised without their
condition, so that one can be guided away from that when drawing (2207.12598). Terms are means over a picture, summed
over pictures. Published VAEs have a perceptual and an adversarial term beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.images import from_clip
from plait.nn.clip import CLIPImage
from plait.nn.diffusion import LatentDiffusion, UnCLIP, VectorDiffusion, scheduler
from plait.objectives.contrastive import captions
from plait.objectives.reconstruction import per_picture, pictures
from plait.sequence import Batch


class HasVAE(Protocol):
    """A system with a VAE of diffusers; its pictures come with CLIP's mean and deviation taken out."""

    @property
    def vae(self) -> Any:
        """What is trained."""
        ...


class HasUnCLIP(Protocol):
    """A system that draws from image embeddings."""

    @property
    def embedder(self) -> CLIPImage:
        """Makes the embeddings."""
        ...

    @property
    def unclip(self) -> UnCLIP:
        """Draws from them."""
        ...


class HasPainter(Protocol):
    """A system that draws from texts."""

    @property
    def painter(self) -> VectorDiffusion:
        """What draws."""
        ...

    def look(self, ids: Int[Tensor, "m t"], real: Bool[Tensor, "m t"]) -> Float[Tensor, "m n e"]:
        """What it looks at; `real` is false where a text has no symbol, and everywhere for no text."""
        ...


@dataclass(frozen=True, kw_only=True)
class GiveBack:
    """Trains `system.vae` to give pictures back."""

    kl: float = 1e-6
    """Weight of the divergence from N(0, 1), a mean over the latents; the published one of a sum is of this size."""

    def weights(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """Of both terms."""
        return {"pixel": 1.0, "kl": self.kl}

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pictures."""
        return dict.fromkeys(self.weights(), float(len(batch.images)))

    def __call__(
        self, system: HasVAE, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Sums over pictures of the squared error and of the divergence."""
        pixels, worth = pictures(batch)
        pixels = from_clip(pixels)
        found = system.vae.encode(pixels).latent_dist
        noise = torch.randn(found.mean.shape, generator=generator).to(pixels.device)
        made = system.vae.decode(found.mean + found.std * noise).sample
        mean, variance, log = found.mean.float(), found.var.float(), found.logvar.float()
        apart = (mean.square() + variance - 1 - log) / 2
        terms = {"pixel": per_picture((made.float() - pixels).square()).sum(), "kl": per_picture(apart).sum()}
        return {name: worth * term for name, term in terms.items()}


@dataclass(frozen=True, kw_only=True)
class _Denoising:
    """Noise is taken out of pictures that have a condition, or now and then none."""

    dropped: float = 0.1
    """Share of the pictures without condition: labels of zeros, or no text."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropped < 1:
            raise ConfigError(f"dropped={self.dropped}: give a share of the conditions, at least 0 and below 1")

    def weights(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """One term."""
        return {"noise": 1.0}


@dataclass(frozen=True, kw_only=True)
class DrawEmbedding(_Denoising):
    """Trains `system.unclip`, and `system.embedder` where the stage says so, to draw pictures from their embeddings."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pictures."""
        return {"noise": float(len(batch.images))}

    def __call__(
        self, system: HasUnCLIP, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sum over pictures."""
        shown, worth = pictures(batch)
        vectors = system.embedder(shown)
        labels = system.unclip.labels(vectors, torch.randn(vectors.shape, generator=generator).to(vectors.device))
        without = drop(len(labels), self.dropped, generator).to(labels.device)
        labels = labels.masked_fill(without[:, None], 0.0)
        seen = system.unclip.prompt(len(labels))
        return {"noise": worth * denoising(system.unclip.diffusion, shown, seen, generator, labels).sum()}


@dataclass(frozen=True, kw_only=True)
class DrawText(_Denoising):
    """Trains `system.painter`, and what it looks through where the stage says so, to draw pictures from captions."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pictures that have a caption."""
        return {"noise": float(captions(batch).told.sum())}

    def __call__(
        self, system: HasPainter, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sum over pictures that have a caption."""
        texts = captions(batch)
        without = drop(len(texts.ids), self.dropped, generator).to(texts.ids.device)
        seen = system.look(texts.ids, texts.real & ~without[:, None])
        each = denoising(system.painter.diffusion, batch.images, seen, generator)
        return {"noise": (each * texts.told).sum()}


def denoising(
    diffusion: LatentDiffusion,
    shown: Float[Tensor, "m 3 y x"],
    seen: Float[Tensor, "m n e"],
    generator: torch.Generator,
    labels: Float[Tensor, "m f"] | None = None,
) -> Float[Tensor, " m"]:
    """`noise_loss` of pixels with CLIP's mean and deviation taken out."""
    return noise_loss(diffusion, from_clip(shown), seen, generator, labels)


def noise_loss(
    diffusion: LatentDiffusion,
    pixels: Float[Tensor, "m 3 y x"],
    seen: Float[Tensor, "m n e"],
    generator: torch.Generator,
    labels: Float[Tensor, "m f"] | None = None,
) -> Float[Tensor, " m"]:
    """The loss of each picture at a time of its own; times are spread evenly over the pictures.

    Args:
        pixels: in [-1, 1].
        seen: what the U-Net looks at.
        generator: of times and noise, on the CPU.
        labels: what goes to each of its layers, where it has labels.

    Raises:
        ConfigError: the scheduler says that neither the noise nor the velocity is predicted.
    """
    settings = scheduler(diffusion.config.scheduler)
    kind, share = settings.config.prediction_type, settings.alphas_cumprod
    if kind not in ("epsilon", "v_prediction"):
        raise ConfigError(
            f"a scheduler with prediction_type {kind!r}: noise or velocity is learned, set epsilon or v_prediction"
        )
    with torch.no_grad():
        latents = diffusion.latents(pixels).float()
    m = len(latents)
    even = (torch.arange(m) + torch.rand(m, generator=generator)) / m
    time = (even * len(share)).long().clamp(max=len(share) - 1)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    kept = share[time].sqrt()[:, None, None, None].to(latents.device)  # (m, 1, 1, 1)
    rest = (1 - share[time]).sqrt()[:, None, None, None].to(latents.device)
    noised, beside = kept * latents + rest * noise, diffusion.map(seen, labels)
    made = diffusion.predict(noised, time.to(latents.device), seen, labels, beside)
    wanted = noise if kind == "epsilon" else kept * noise - rest * latents
    return per_picture((made - wanted).square())


def drop(count: int, share: float, generator: torch.Generator) -> Bool[Tensor, " m"]:
    """Which of so many conditions are left out, each by chance."""
    return torch.rand(count, generator=generator) < share
