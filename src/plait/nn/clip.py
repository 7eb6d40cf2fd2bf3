"""CLIP (arXiv 2103.00020): two towers that put a picture and what is said of it in the same place.

    pixels ─▶ ViT ─▶ class token ─▶ linear ─┐
                                            ├─▶ vectors of length 1, compared by their products over a temperature
    text ─▶ causal transformer ─▶ end ──────┘ linear

Both are pre-norm; the picture's has one more norm behind the embedding, and the norm behind its last block is taken of
all patches, though only the class token is compared. KOSMOS-1 reads the picture's, EVA learned from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.attention import SelfAttention, whole
from plait.nn.blocks import MLP, Block
from plait.nn.positions import LearnedPositions, NoRotation
from plait.nn.vit import ViT, VITConfig

WARMEST = 100.0
"""The largest factor of similarities; beyond it training was unstable (section 2.5)."""


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): the GELU of the published weights."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Element by element; through silu(1.702 x), which keeps one tensor for the backward pass and not two."""
        return nn.functional.silu(1.702 * x).mul_(1 / 1.702)


ACTIVATIONS = {"gelu": nn.GELU, "quick": QuickGELU}


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """Sizes of the tower of texts."""

    vocabulary: int
    positions: int
    """Longest text, its first and last symbols included."""
    width: int
    depth: int
    heads: int
    hidden: int
    """Width within the MLPs."""
    eps: float = 1e-5
    """Of all LayerNorms."""


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Sizes of both towers.

    Raises:
        ConfigError: no such activation.
    """

    image: VITConfig
    text: CLIPTextConfig
    shared: int
    """Width of the space in which they meet."""
    activation: str = "quick"
    """A name in `ACTIVATIONS`."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"no activation {self.activation!r}; there are {', '.join(ACTIVATIONS)}")


CLIP_VIT_H14 = VITConfig(image_size=224, patch=14, width=1280, depth=32, heads=16, hidden=5120, eps=1e-5)
"""That of LAION-2B, with the exact GELU; it leads to 1,024 channels."""
CLIP_VIT_L14 = VITConfig(image_size=224, patch=14, width=1024, depth=24, heads=16, hidden=4096, eps=1e-5)
CLIP_L14 = CLIPConfig(
    image=CLIP_VIT_L14,
    text=CLIPTextConfig(vocabulary=49_408, positions=77, width=768, depth=12, heads=12, hidden=3072),
    shared=768,
)


def clip_vit(config: VITConfig, norm: nn.Module, activation: str = "quick") -> ViT:
    """CLIP's tower of pictures: a norm behind the embedding, no bias of the patches.

    Args:
        config: sizes.
        norm: behind the last block; nn.Identity where it is left out.
        activation: a name in `ACTIVATIONS`.
    """
    patch = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
    blocks = [_block(config, activation) for _ in range(config.depth)]
    vit = ViT(patch, config.grid, nn.LayerNorm(config.width, eps=config.eps), blocks, norm)
    for table in (vit.class_token, vit.positions):
        nn.init.normal_(table, std=config.width**-0.5)
    return vit


class TextTower(nn.Module):
    """Texts to one vector each: what stands at their last symbol, which has seen all before it."""

    def __init__(self, config: CLIPTextConfig, activation: str = "quick") -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = LearnedPositions(config.positions, config.width)
        self.blocks = nn.ModuleList(_block(config, activation) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)

    def forward(self, ids: Int[Tensor, "m t"], real: Bool[Tensor, "m t"]) -> Float[Tensor, "m c"]:
        """`real` is false at pads, which stand behind a text."""
        x = self.states(ids)
        last = real.sum(1) - 1
        return x[torch.arange(len(x), device=x.device), last]

    def states(self, ids: Int[Tensor, "m t"]) -> Float[Tensor, "m t c"]:
        """What stands at every symbol; those at pads, which stand behind a text, see it too."""
        order = torch.arange(ids.shape[1], device=ids.device)
        position = order.expand(ids.shape)
        x = self.words(ids) + self.positions(position)
        attend = whole((order[:, None] >= order).expand(len(ids), -1, -1))
        for block in self.blocks:
            x = block(x, position, attend)
        return self.norm(x)


class CLIPImage(nn.Module):
    """The tower of pictures alone, and where it leads to: vectors of any length, which unCLIP draws from.

    Args:
        patches: the vector is made of all patches, and not, as published, of the class token. It takes a small tower
            long to gather in one token where everything is.
    """

    def __init__(self, config: VITConfig, shared: int, activation: str = "gelu", patches: bool = False) -> None:
        super().__init__()
        self.image = clip_vit(config, nn.LayerNorm(config.width, eps=config.eps), activation)
        self.patches = patches
        width = config.width * (self.image.positions.shape[1] - 1 if patches else 1)
        self.image_projection = nn.Linear(width, shared, bias=False)
        nn.init.normal_(self.image_projection.weight, std=width**-0.5)

    def forward(self, pixels: Float[Tensor, "m 3 y x"]) -> Float[Tensor, "m f"]:
        """One vector a picture; its names are those of `CLIP`."""
        states = self.image(pixels)
        return self.image_projection(states[:, 1:].flatten(1) if self.patches else states[:, 0])


class CLIP(nn.Module):
    """Both towers, and how they are compared."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        norm = nn.LayerNorm(config.image.width, eps=config.image.eps)
        self.image = clip_vit(config.image, norm, config.activation)
        self.text = TextTower(config.text, config.activation)
        self.image_projection = nn.Linear(config.image.width, config.shared, bias=False)
        self.text_projection = nn.Linear(config.text.width, config.shared, bias=False)
        self.log_scale = nn.Parameter(torch.empty(()))
        nn.init.constant_(self.log_scale, math.log(1 / 0.07))
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)

    def image_features(self, pixels: Float[Tensor, "m 3 y x"]) -> Float[Tensor, "m f"]:
        """Vectors of length 1."""
        return nn.functional.normalize(self.image_projection(self.image(pixels)[:, 0]), dim=-1)

    def text_features(self, ids: Int[Tensor, "m t"], real: Bool[Tensor, "m t"]) -> Float[Tensor, "m f"]:
        """Vectors of length 1."""
        return nn.functional.normalize(self.text_projection(self.text(ids, real)), dim=-1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What products are multiplied by, at most `WARMEST`."""
        return self.log_scale.exp().clamp(max=WARMEST)

    def similarity(self, image: Float[Tensor, "m f"], text: Float[Tensor, "k f"]) -> Float[Tensor, "m k"]:
        """How like each picture is to each text."""
        return self.scale * image @ text.T


def _block(config: VITConfig | CLIPTextConfig, activation: str) -> Block:
    attention = SelfAttention(config.width, config.heads, NoRotation(), bias=True)
    mlp = MLP(config.width, config.hidden, ACTIVATIONS[activation](), bias=True)
    narrow, added = config.width**-0.5, (2 * config.width * config.depth) ** -0.5
    for linear, std in (
        (attention.qkv, narrow),
        (attention.out, added),
        (mlp.hidden, (2 * config.width) ** -0.5),
        (mlp.out, added),
    ):
        nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(linear.bias)
    norms = (nn.LayerNorm(config.width, eps=config.eps) for _ in range(2))
    return Block(next(norms), attention, next(norms), mlp)
