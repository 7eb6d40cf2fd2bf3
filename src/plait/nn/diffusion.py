"""Pictures by latent diffusion (arXiv 2112.10752), and by unCLIP, which draws from CLIP's image embedding (2204.06125).

    what the U-Net looks at ──┐
    class labels, if any ─────┼─▶ U-Net, step by step, guided away from a negative ─▶ latents ─▶ VAE ─▶ pixels
    noise ────────────────────┘

U-Net, VAE and schedulers are those of diffusers, in its own words: configurations are its JSON files, schedulers go by
name. unCLIP's U-Net looks at the vectors of an empty prompt; its labels are an image embedding with noise of a level,
and the level. Emu's has no labels, and looks at the vectors that its language model wrote (`VectorDiffusion`).

Not as published, a small U-Net may have channels beside those of the latents, with a map of what belongs where: a
published one finds out where it is from the edges of its convolutions, which takes many times as long as all of a small
training.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError, hint
from plait.nn.attention import CrossAttention, whole
from plait.nn.clip import CLIPTextConfig, TextTower

PRIVATE = "_"
"""Begins the keys of diffusers' configurations that are no settings."""


STABLE_VAE: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
STABLE_SCHEDULER: Mapping[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}
"""What the releases of Stable Diffusion share, 1.5 to 2.1."""


TINY_UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "out_channels": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
}
TINY_VAE: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 16, 32),
    "latent_channels": 8,
    "norm_num_groups": 4,
    "sample_size": 32,
    "scaling_factor": 1.0,
}
"""For pictures of 32 pixels a side, whose latents have 8. How many channels the U-Net is given is for its owner to say:
with those of the latents alone, it learns no places in a short training."""


class ImageDecoder(Protocol):
    """Turns vectors into pictures."""

    def draw(
        self,
        vectors: Tensor,
        generators: Items[torch.Generator],
        negative: Tensor | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "m 3 y x"]:
        """Pixels, in [-1, 1] but for what overshoots.

        Args:
            vectors: (m, ...), those of each picture.
            generators: of the noise of each, on the CPU; one may stand for several, which then take theirs in order.
            negative: what the pictures are guided away from, one for all or one for each; None: as it was published.
            guidance: how far; None: as the configuration says.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Sizes and schedule of a latent diffusion model, as diffusers writes them."""

    unet: Mapping[str, Any]
    """Of a UNet2DConditionModel. Its first channels are those of the latents; for more see `LatentDiffusion`."""
    vae: Mapping[str, Any]
    """Of an AutoencoderKL."""
    scheduler: Mapping[str, Any]
    """With its name as `_class_name`."""
    steps: int = 20
    guidance: float = 10.0
    """How far from the negative; 1 is none."""
    rows: int = 8
    """Pictures that are drawn at once."""

    @property
    def side(self) -> int:
        """Pixels of a picture: each level of the VAE but the last halves it."""
        side: int = self.unet["sample_size"] * 2 ** (len(self.vae["block_out_channels"]) - 1)
        return side


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The tower of texts and the symbols of an empty prompt. Those of Stable Diffusion 2 are the defaults."""

    text: CLIPTextConfig
    activation: str = "gelu"
    begin: int = 49_406
    end: int = 49_407
    pad: int = 0


@dataclass(frozen=True, kw_only=True)
class UnCLIPConfig:
    """Sizes of an unCLIP."""

    diffusion: DiffusionConfig
    embedding: int
    """Width of the image embedding."""
    noising: Mapping[str, Any]
    """The scheduler by which embeddings get noise."""
    level: int = 0
    """How much of it; 0 is little, not none."""
    prompt: PromptConfig | None = None
    """None: the U-Net looks at one vector of zeros."""


def diffusers(name: str) -> Any:
    """A class of diffusers.

    Raises:
        ConfigError: it is not installed, or has no such class.
    """
    try:
        module = importlib.import_module("diffusers")
    except ImportError as error:
        raise ConfigError('pictures by diffusion need diffusers: pip install "plait[diffusion]"') from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise ConfigError(f"diffusers {module.__version__} has no {name!r}: give the name of one of its classes")
    return found


def settings_of(name: str) -> list[str]:
    """The settings that a class of diffusers takes."""
    return [key for key in inspect.signature(diffusers(name).__init__).parameters if key not in ("self", "kwargs")]


def make(name: str, config: Mapping[str, Any]) -> Any:
    """An object of diffusers.

    Raises:
        ConfigError: a setting that it does not take.
    """
    given = {key: value for key, value in config.items() if not key.startswith(PRIVATE)}
    known = settings_of(name)
    for key in given:
        if key not in known:
            raise ConfigError(f"{name} has no setting {key!r}; {hint(key, known)}")
    return diffusers(name)(**given)


def scheduler(config: Mapping[str, Any]) -> Any:
    """A scheduler by its name.

    Raises:
        ConfigError: no name, or that of something else.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or not name.endswith("Scheduler"):
        raise ConfigError(f"a scheduler with _class_name {name!r}: give one of diffusers' schedulers by name")
    return make(name, config)


class LatentDiffusion(nn.Module):
    """A U-Net that takes noise out of latents, and the VAE that they are of.

    Where the U-Net has more channels than the latents, the others hold a map of its condition (`canvas`), by which it
    knows what stands where: of its labels, or, if it has none, of what it looks at.

    Raises:
        ConfigError: diffusers is not installed, or does not know a setting; or fewer channels than the latents have.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.unet: Any = make("UNet2DConditionModel", config.unet)
        self.vae: Any = make("AutoencoderKL", config.vae)
        scheduler(config.scheduler)  # says what is wrong with it now
        sizes, own = self.unet.config, self.vae.config.latent_channels
        if sizes.in_channels < own:
            raise ConfigError(f"a U-Net of {sizes.in_channels} channels for latents of {own}: raise its in_channels")
        beside, side = sizes.in_channels - own, sizes.sample_size
        self.canvas: LabelCanvas | Canvas | None = None
        if beside and (labels := sizes.projection_class_embeddings_input_dim):
            self.canvas = LabelCanvas(labels, beside, side)
        elif beside:
            self.canvas = Canvas(sizes.cross_attention_dim, beside, side)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture."""
        side = self.unet.config.sample_size
        return self.vae.config.latent_channels, side, side

    def map(
        self, seen: Float[Tensor, "m t e"], labels: Float[Tensor, "m f"] | None = None
    ) -> Float[Tensor, "m p y x"] | None:
        """What stands beside the latents, if anything does."""
        if self.canvas is None:
            return None
        made: Tensor = self.canvas(seen if labels is None else labels)
        return made

    def predict(
        self,
        latents: Float[Tensor, "m c y x"],
        time: Int[Tensor, "*any"],
        seen: Float[Tensor, "m t e"],
        labels: Float[Tensor, "m f"] | None = None,
        beside: Float[Tensor, "m p y x"] | None = None,
    ) -> Float[Tensor, "m c y x"]:
        """What the U-Net says of noised latents with their `map` beside them, in fp32."""
        if beside is not None:
            latents = torch.cat((latents, beside.to(latents.dtype)), dim=1)
        said: Tensor = self.unet(latents, time, encoder_hidden_states=seen, class_labels=labels).sample
        return said.float()

    def reschedule(self, name: str, steps: int | None = None, **settings: Any) -> None:
        """Draws by another scheduler of diffusers from now on.

        Args:
            name: its class, such as "DDIMScheduler". It keeps what it knows of the settings of the one before.
            steps: None: as many as before.
            settings: others of it.

        Raises:
            ConfigError: no such scheduler or setting.
        """
        known = settings_of(name) if name.endswith("Scheduler") else []
        kept = {key: value for key, value in self.config.scheduler.items() if key in known}
        config = {**kept, **settings, "_class_name": name}
        scheduler(config)
        self.config = replace(self.config, scheduler=config, steps=steps or self.config.steps)

    def draw(
        self,
        latents: Float[Tensor, "m c y x"],
        seen: Float[Tensor, "m t e"],
        labels: Float[Tensor, "m f"] | None = None,
        negative: Float[Tensor, "m f"] | None = None,
        away: Float[Tensor, "m t e"] | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "m 3 height width"]:
        """Pixels of noise, `rows` pictures at once; see `denoise`."""
        made = []
        for first in range(0, len(latents), self.config.rows):
            rows = slice(first, first + self.config.rows)
            labelled, without, looked = (None if one is None else one[rows] for one in (labels, negative, away))
            made.append(self.pixels(self.denoise(latents[rows], seen[rows], labelled, without, looked, guidance)))
        return torch.cat(made)

    def denoise(
        self,
        latents: Float[Tensor, "m c y x"],
        seen: Float[Tensor, "_ t e"],
        labels: Float[Tensor, "m f"] | None = None,
        negative: Float[Tensor, "m f"] | None = None,
        away: Float[Tensor, "_ t e"] | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "m c y x"]:
        """Latents of pictures from noise, all at once; they stay in fp32 between the steps.

        Args:
            latents: noise.
            seen: what the U-Net looks at; one for all or one for each.
            labels: what goes to each of its layers, where it has labels.
            negative: the labels that are guided away from; without guidance they are of no use.
            away: what is looked at in place of `seen` there; None: the same.
            guidance: how far; None: as the configuration says.
        """
        dtype, scale = self.unet.dtype, self.config.guidance if guidance is None else guidance
        guided = scale != 1
        ways = 2 if guided else 1
        each = [seen if away is None else away, seen] if guided else [seen]
        looked = torch.cat([one.expand(len(latents), -1, -1) for one in each]).to(dtype)
        if labels is not None:
            labels = (torch.cat((negative, labels)) if guided and negative is not None else labels).to(dtype)
        beside = self.map(looked, labels)
        steps = scheduler(self.config.scheduler)
        steps.set_timesteps(self.config.steps)
        latents = latents * steps.init_noise_sigma
        for time in steps.timesteps:
            rows = steps.scale_model_input(latents.repeat(ways, 1, 1, 1), time).to(dtype)
            noise = self.predict(rows, time, looked, labels, beside)
            if guided:
                from_there, towards = noise.chunk(2)
                noise = from_there + scale * (towards - from_there)
            latents = steps.step(noise, time, latents).prev_sample
        return latents

    def latents(self, pixels: Float[Tensor, "m 3 height width"]) -> Float[Tensor, "m c y x"]:
        """What the VAE makes of pixels in [-1, 1]; of what it may draw, the mean."""
        found: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mean
        return found * self.vae.config.scaling_factor

    @torch.no_grad()
    def whiten(self, pixels: Float[Tensor, "m 3 height width"]) -> None:
        """Brings latents to mean 0 and deviation 1 in each channel, those of these pixels; pictures come out the same.

        The VAE's first and last layers that see latents take up the change: its scaling factor stays.
        """
        convolve, back = self.vae.quant_conv, self.vae.post_quant_conv
        found = self.latents(pixels).float() / self.vae.config.scaling_factor
        mean, deviation = found.mean((0, 2, 3)), found.std((0, 2, 3)).clamp(min=1e-6)
        c = len(mean)
        back.bias += back.weight[:, :, 0, 0] @ mean
        back.weight *= deviation[None, :, None, None]
        convolve.bias[:c] = (convolve.bias[:c] - mean) / deviation
        convolve.weight[:c] /= deviation[:, None, None, None]
        convolve.bias[c:] -= 2 * deviation.log()  # the second half are logarithms of variances

    def pixels(self, latents: Float[Tensor, "m c y x"]) -> Float[Tensor, "m 3 height width"]:
        """What the VAE makes of latents."""
        scaled = latents / self.vae.config.scaling_factor
        return self.vae.decode(scaled.to(self.vae.dtype)).sample.float()


class LabelCanvas(nn.Linear):
    """A map of labels: of each place its own linear function."""

    def __init__(self, labels: int, channels: int, side: int) -> None:
        super().__init__(labels, channels * side**2)
        self.side = side

    def forward(self, labels: Float[Tensor, "m f"]) -> Float[Tensor, "m p y x"]:
        """The map."""
        return super().forward(labels.to(self.weight.dtype)).view(len(labels), -1, self.side, self.side)


class Canvas(nn.Module):
    """A map of what is looked at: each place asks in its own way for what belongs there, and shows it in its own."""

    def __init__(self, seen: int, channels: int, side: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.side = side
        self.places = nn.Parameter(torch.randn(1, side**2, width))
        self.look = CrossAttention(width, seen, heads)
        self.out = nn.Parameter(torch.randn(side**2, width, channels) / width**0.5)

    def forward(self, seen: Float[Tensor, "m t e"]) -> Float[Tensor, "m p y x"]:
        """The map."""
        found = self.look(self.places.expand(len(seen), -1, -1), seen.to(self.out.dtype), whole())  # (m, y x, c)
        return torch.einsum("mnc,ncp->mpn", found, self.out).reshape(len(seen), -1, self.side, self.side)


class UnCLIP(nn.Module):
    """An image embedding to a picture.

    Raises:
        ConfigError: as `LatentDiffusion`; or labels of another width than the embedding with its level.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: UnCLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.diffusion = LatentDiffusion(config.diffusion)
        self.text = TextTower(config.prompt.text, config.prompt.activation) if config.prompt else None
        self.register_buffer("mean", torch.zeros(1, config.embedding))
        self.register_buffer("std", torch.ones(1, config.embedding))
        labels = self.diffusion.unet.config.projection_class_embeddings_input_dim
        if labels != 2 * config.embedding:
            raise ConfigError(
                f"projection_class_embeddings_input_dim {labels} for embeddings of {config.embedding}: it must be "
                f"{2 * config.embedding}, the embedding and its level"
            )
        scheduler(config.noising)

    @torch.no_grad()
    def draw(
        self,
        vectors: Float[Tensor, "m d"],
        generators: Items[torch.Generator],
        negative: Tensor | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "m 3 y x"]:
        """See `ImageDecoder`; without a negative, labels of zeros are what is guided away from.

        Each picture takes from its generator the noise of its latents, that of its embedding, and that of its negative.
        """
        count, shape = len(vectors), self.diffusion.latent_shape
        if negative is not None:
            negative = negative.expand(count, -1)
        latents, noise, other = [], [], []
        for generator in generators:
            latents.append(torch.randn(shape, generator=generator))
            noise.append(torch.randn(self.config.embedding, generator=generator))
            if negative is not None:
                other.append(torch.randn(self.config.embedding, generator=generator))
        device = vectors.device
        labels = self.labels(vectors, torch.stack(noise).to(device))
        against = torch.zeros_like(labels) if negative is None else self.labels(negative, torch.stack(other).to(device))
        return self.diffusion.draw(
            torch.stack(latents).to(device), self.prompt(count), labels, against, guidance=guidance
        )

    def labels(self, vectors: Float[Tensor, "m d"], noise: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Embeddings with noise of the level, and the level as sines and cosines."""
        level = torch.full((len(vectors),), self.config.level, device=vectors.device)
        mean, std = self.mean.float(), self.std.float()
        noised = scheduler(self.config.noising).add_noise((vectors.float() - mean) / std, noise, level)
        return torch.cat((noised * std + mean, level_embedding(level, self.config.embedding)), dim=1)

    def prompt(self, count: int = 1) -> Float[Tensor, "m t e"]:
        """The states of an empty prompt, which the U-Net looks at, for so many pictures."""
        prompt = self.config.prompt
        if self.text is None or prompt is None:
            return torch.zeros(count, 1, self.diffusion.unet.config.cross_attention_dim, device=self.mean.device)
        ids = torch.full((1, prompt.text.positions), prompt.pad, device=self.mean.device)
        ids[0, 0], ids[0, 1] = prompt.begin, prompt.end
        return self.text.states(ids).expand(count, -1, -1)


class VectorDiffusion(nn.Module):
    """Vectors to a picture: the U-Net looks at them as it looked at those of a text (Emu, arXiv 2307.05222).

    Args:
        config: the U-Net's `cross_attention_dim` is the width of the vectors.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.diffusion = LatentDiffusion(config)

    @torch.no_grad()
    def draw(
        self,
        vectors: Float[Tensor, "m n c"],
        generators: Items[torch.Generator],
        negative: Float[Tensor, "_ n c"] | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "m 3 y x"]:
        """See `ImageDecoder`; without a negative nothing is guided away from, since none was published."""
        latents = torch.stack([torch.randn(self.diffusion.latent_shape, generator=one) for one in generators])
        if negative is None:
            guidance = 1.0
        else:
            negative = negative.expand(len(vectors), -1, -1)
        return self.diffusion.draw(latents.to(vectors.device), vectors, away=negative, guidance=guidance)


def level_embedding(level: Int[Tensor, " m"], width: int) -> Float[Tensor, "m e"]:
    """Cosines, then sines of a level times frequencies from 1 down to nearly 1/10,000; at level 0 ones and zeros."""
    half = width // 2
    frequencies = 10_000 ** (-torch.arange(half, device=level.device) / half)
    angles = level.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)
