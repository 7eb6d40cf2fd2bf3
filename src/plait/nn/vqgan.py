"""VQGAN (arXiv 2012.09841; the tokenizer of Make-A-Scene, CM3Leon and Chameleon), after taming-transformers.

A convolutional encoder, a codebook, a convolutional decoder, and the patch discriminator that it is trained against.
All convolutions are biased (the discriminator's normalised ones are not); there is no tanh at the end. An image
becomes `grid` x `grid` codes in raster order; any height and width that are multiples of `factor` work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.quantise import GumbelQuantiser, Quantised, VectorQuantiser


@dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Sizes of a VQGAN; the published names stand in brackets.

    Raises:
        ConfigError: the resolution cannot be halved as often as there are levels.
    """

    resolution: int = 256
    """Side of the images in pixels."""
    in_channels: int = 3
    channels: int = 128
    """Width at full resolution (ch)."""
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    """Width of each level, in units of `channels`; each level but the last halves the side (ch_mult)."""
    blocks: int = 2
    """Residual blocks of a level; the decoder has one more (num_res_blocks)."""
    attention_resolutions: tuple[int, ...] = (32,)
    """Sides, of maps of an image of `resolution`, at which each block is followed by attention (attn_resolutions)."""
    latent_channels: int = 256
    """Channels that the encoder gives (z_channels)."""
    code_width: int = 256
    """Channels of a code (embed_dim)."""
    codes: int = 8192
    """Size of the codebook (n_embed)."""
    quantiser: Literal["nearest", "gumbel"] = "nearest"
    """How a code is chosen: the nearest vector, or the largest logit (taming's gumbel_f8)."""
    dropout: float = 0.0
    groups: int = 32
    """Groups of all norms, 32 in every published one. A group of one channel, as 32 groups make of 32 channels, wipes
    out the channel's mean over the image: narrow models learn far faster with some 4 channels in a group."""
    local: bool = False
    """Codes that tell of their own surroundings alone: BatchNorm for all norms, no attention in the middle, and at the
    encoder's lowest level convolutions of 1x1 and no middle. Not published. A norm or attention over the map, and a
    wide view, give the same patch other codes in every picture, which a small model that reads them learns slowly."""

    def __post_init__(self) -> None:
        if not self.multipliers or self.resolution % self.factor:
            raise ConfigError(
                f"resolution {self.resolution} is no multiple of {self.factor}, the factor of {len(self.multipliers)} "
                "levels: change resolution or multipliers"
            )

    @property
    def factor(self) -> int:
        """Pixels along the side of a code."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Codes along the side of an image."""
        return self.resolution // self.factor

    @property
    def codes_per_image(self) -> int:
        """Codes of a square image of `resolution`."""
        return self.grid**2

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level are followed by attention; level 0 is full resolution."""
        return self.resolution // 2**level in self.attention_resolutions

    def width(self, level: int) -> int:
        """Channels of a level."""
        return self.channels * self.multipliers[level]

    def norm(self, channels: int) -> nn.Module:
        """The norm of a map."""
        return nn.BatchNorm2d(channels) if self.local else group_norm(channels, self.groups)


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """`groups` groups; where they do not divide the channels, the most that divide both."""
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, width_in: int, width_out: int, config: VQGANConfig, kernel: int = 3) -> None:
        super().__init__()
        self.norm1 = config.norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)
        self.norm2 = config.norm(width_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(width_out, width_out, kernel, padding=kernel // 2)
        self.shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """The block's output, at the same height and width."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        return self.shortcut(x) + y


class MapAttention(nn.Module):
    """x plus attention of all places of a map to each other: one head, scale c^-0.5."""

    def __init__(self, width: int, config: VQGANConfig) -> None:
        super().__init__()
        self.norm = config.norm(width)
        self.q, self.k, self.v, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The map with what its places read from each other."""
        y = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))  # (b, h*w, c)
        read = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(read.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Half the side: a row and a column of zeros at bottom and right, then a 3x3 convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The map at half the height and width, rounded down."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the side: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The map at twice the height and width."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks at one resolution, each followed by attention or not, then the way to the next resolution."""

    def __init__(
        self, widths: list[int], attends: bool, resample: nn.Module, config: VQGANConfig, kernel: int = 3
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.blocks = nn.ModuleList(ResidualBlock(i, o, config, kernel) for i, o in pairs)
        self.attentions = nn.ModuleList(MapAttention(o, config) if attends else nn.Identity() for _, o in pairs)
        self.resample = resample

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """The map after blocks and resampling."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x))
        return self.resample(x)


class Middle(nn.Module):
    """Block, attention (unless codes are local), block at the lowest resolution."""

    def __init__(self, width: int, config: VQGANConfig) -> None:
        super().__init__()
        self.block1 = ResidualBlock(width, width, config)
        self.attention = nn.Identity() if config.local else MapAttention(width, config)
        self.block2 = ResidualBlock(width, width, config)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The map, every place having seen every other, or those around."""
        return self.block2(self.attention(self.block1(x)))


class Encoder(nn.Module):
    """Pixels to a map of `latent_channels` channels, `factor` times smaller."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        last = len(config.multipliers) - 1
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1)
        self.levels = nn.ModuleList()
        for level in range(last + 1):
            start = config.width(level - 1) if level else config.channels
            width = config.width(level)
            resample = Downsample(width) if level < last else nn.Identity()
            widths = [start] + [width] * config.blocks
            kernel = 1 if config.local and level == last else 3
            self.levels.append(Level(widths, config.attends(level), resample, config, kernel))
        self.middle = nn.Identity() if config.local else Middle(config.width(last), config)
        self.norm_out = config.norm(config.width(last))
        kernel = 1 if config.local else 3
        self.conv_out = nn.Conv2d(config.width(last), config.latent_channels, kernel, padding=kernel // 2)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l h2 w2"]:
        """The latent map of pixels in [-1, 1]."""
        x = self.conv_in(pixels)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """A map of `latent_channels` channels to pixels. `levels` are indexed as the encoder's: 0 is full resolution."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        last = len(config.multipliers) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, config.width(last), 3, padding=1)
        self.middle = Middle(config.width(last), config)
        self.levels = nn.ModuleList()
        for level in range(last + 1):
            start, width = config.width(min(level + 1, last)), config.width(level)
            resample = Upsample(width) if level else nn.Identity()
            widths = [start] + [width] * (config.blocks + 1)
            self.levels.append(Level(widths, config.attends(level), resample, config))
        self.norm_out = config.norm(config.width(0))
        self.conv_out = nn.Conv2d(config.width(0), config.in_channels, 3, padding=1)

    def forward(self, latent: Float[Tensor, "b l h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Pixels, about [-1, 1] and not clamped."""
        x = self.middle(self.conv_in(latent))
        for level in reversed(self.levels):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """What a VQGAN makes of pixels."""

    pixels: Float[Tensor, "b c h w"]
    quantised: Quantised


class VQGAN(nn.Module):
    """Images to codes and back.

    On a CPU `model.to(memory_format=torch.channels_last)` makes it faster; results differ in rounding only.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.to_codes = nn.Conv2d(config.latent_channels, config.code_width, 1)
        kind = GumbelQuantiser if config.quantiser == "gumbel" else VectorQuantiser
        self.quantiser = kind(config.codes, config.code_width)
        self.from_codes = nn.Conv2d(config.code_width, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Reconstructed:
        """Pixels encoded, quantised and decoded; the gradient passes the quantiser straight through."""
        quantised = self.quantise(pixels)
        return Reconstructed(pixels=self.draw(quantised.vectors), quantised=quantised)

    def quantise(self, pixels: Float[Tensor, "b c h w"]) -> Quantised:
        """The codes of pixels in [-1, 1], with their vectors and losses.

        Raises:
            ConfigError: height or width is no multiple of `factor`.
        """
        height, width = pixels.shape[-2:]
        if height % self.config.factor or width % self.config.factor:
            raise ConfigError(
                f"an image of {height} x {width} pixels, but a code covers {self.config.factor} x "
                f"{self.config.factor}: resize it to multiples of {self.config.factor}"
            )
        return self.quantiser(self.to_codes(self.encoder(pixels)))

    def encode(self, pixels: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h2 w2"]:
        """The codes of pixels in [-1, 1]."""
        return self.quantise(pixels).ids

    def decode(self, ids: Int[Tensor, "b h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The pixels of codes, about [-1, 1] and not clamped."""
        return self.draw(self.quantiser.lookup(ids).movedim(-1, 1))

    def draw(self, vectors: Float[Tensor, "b k h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The pixels of a map of code vectors."""
        return self.decoder(self.from_codes(vectors))


class Discriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004): real or made, judged for overlapping patches.

    4x4 convolutions: `layers` of stride 2, doubling the width up to 8 x `channels`, one more of stride 1, and one to
    a single channel; leaky ReLU 0.2, a norm after all but the first and last. The published one has BatchNorm, whose
    statistics differ between ranks: GroupNorm by default, `norm=nn.BatchNorm2d` to load published weights.
    """

    age: Tensor

    def __init__(
        self, channels: int = 64, layers: int = 3, in_channels: int = 3, norm: Callable[[int], nn.Module] = group_norm
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, layers + 1):
            start, width = width, channels * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            conv = nn.Conv2d(start, width, 4, stride=stride, padding=1, bias=False)  # the norm has a bias
            parts += [conv, norm(width), nn.LeakyReLU(0.2)]
        parts.append(nn.Conv2d(width, 1, 4, padding=1))
        self.main = nn.Sequential(*parts)
        # Finished steps of the run it is trained in: it joins late, and a resumed run must know.
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self.apply(_initialise_patch)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """A logit for each patch: high for real."""
        return self.main(pixels)


def _initialise_patch(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
