"""Vision transformers (arXiv 2010.11929): EVA's (2211.07636), which Emu, MiniGPT-4 and SEED-LLaMA look through.

    pixels ──convolution──▶ patches ─┐
                       class token ──┴─ + positions ─▶ blocks, each patch sees all ─▶ norm ─▶ (b, 1 + n, c)

`ViT` is put together from what a tower hands it: the convolution, the norm behind the embedding, the blocks, the last
norm. `eva_vit` hands it EVA's. Published towers are cut: BLIP-2 takes 39 of EVA ViT-g's 40 blocks and no last norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from plait.errors import ConfigError, InputError
from plait.nn.attention import SelfAttention, whole
from plait.nn.blocks import MLP, Block
from plait.nn.positions import NoRotation


@dataclass(frozen=True, kw_only=True)
class VITConfig:
    """Sizes of a vision transformer.

    Raises:
        ConfigError: the image does not divide into patches.
    """

    image_size: int
    """Side of the pictures in pixels, for which there are positions."""
    patch: int
    """Side of a patch in pixels."""
    width: int
    depth: int
    """Blocks that are run; a published tower may have more."""
    heads: int
    hidden: int
    """Width within the MLPs."""
    eps: float = 1e-6
    """Of the blocks' LayerNorms."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ConfigError(
                f"image_size {self.image_size} is no multiple of patch {self.patch}: change one of the two"
            )

    @property
    def grid(self) -> int:
        """Patches along the side of a picture."""
        return self.image_size // self.patch


EVA_VIT_G = VITConfig(image_size=224, patch=14, width=1408, depth=39, heads=16, hidden=6144)
"""As BLIP-2 cuts it: the output of the last block but one of 40."""


class ViT(nn.Module):
    """Pictures to one vector for each patch, and one for the class token, which comes first.

    Args:
        patch: a convolution whose stride is its kernel.
        grid: patches along the side of the pictures for which there are positions.
        embed_norm: behind the embedding (CLIP has one there); nn.Identity for none.
        blocks: in order.
        norm: behind the last block; nn.Identity for none.
    """

    def __init__(
        self, patch: nn.Conv2d, grid: int, embed_norm: nn.Module, blocks: list[Block], norm: nn.Module
    ) -> None:
        super().__init__()
        self.patch = patch
        self.class_token = nn.Parameter(torch.empty(1, 1, patch.out_channels))
        self.positions = nn.Parameter(torch.empty(1, 1 + grid**2, patch.out_channels))
        self.embed_norm = embed_norm
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(
        self,
        pixels: Float[Tensor, "b 3 y x"],
        hidden: Bool[Tensor, "b p"] | None = None,
        instead: Float[Tensor, " c"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Class token, then patches in raster order. Positions are resized where the picture has another size.

        Args:
            pixels: of pictures of one size.
            hidden: patches that are not shown; None: all are.
            instead: what stands in their places.

        Raises:
            InputError: height or width is no multiple of the patch.
        """
        side = self.patch.kernel_size[0]
        height, width = pixels.shape[-2:]
        if height % side or width % side:
            raise InputError(
                f"a picture of {height} x {width} pixels does not divide into patches of {side} x {side}: resize it"
            )
        patches = self.patch(pixels).flatten(2).transpose(1, 2)  # (b, n - 1, c)
        if hidden is not None and instead is not None:
            patches = torch.where(hidden[..., None], instead.to(patches.dtype), patches)
        x = torch.cat((self.class_token.expand(len(pixels), -1, -1), patches), dim=1)
        x = self.embed_norm(x + resize_positions(self.positions, height // side, width // side))
        position = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        attend = whole()
        for block in self.blocks:
            x = block(x, position, attend)
        return self.norm(x)


def eva_vit(config: VITConfig, norm: nn.Module) -> ViT:
    """EVA's tower: pre-norm blocks, exact GELU, biases everywhere.

    The published one has no bias of keys. It has no effect, since it shifts all scores of a query alike; here it
    stands in the fused bias and is zero on import.

    Args:
        config: sizes.
        norm: behind the last block; nn.Identity for none.
    """
    patch = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
    c = config
    blocks = [vit_block(c.width, c.heads, c.hidden, c.eps, i) for i in range(c.depth)]
    return ViT(patch, c.grid, nn.Identity(), blocks, norm)


def vit_block(width: int, heads: int, hidden: int, eps: float, index: int) -> Block:
    """A pre-norm block with exact GELU and biases, number `index` of a stack, from 0."""
    attention = SelfAttention(width, heads, NoRotation(), bias=True)
    mlp = MLP(width, hidden, nn.GELU(), bias=True)
    for linear in (attention.qkv, attention.out, mlp.hidden, mlp.out):
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    with torch.no_grad():
        for linear in (attention.out, mlp.out):  # what a block adds; block 1 is the first
            linear.weight.div_(math.sqrt(2 * (index + 1)))
    norms = (nn.LayerNorm(width, eps=eps) for _ in range(2))
    return Block(next(norms), attention, next(norms), mlp)


def resize_positions(positions: Float[Tensor, "1 n c"], height: int, width: int) -> Float[Tensor, "1 m c"]:
    """Positions of a square grid for one of height x width patches: bicubic, the class token's kept.

    They are returned as they are where the grid is that already.
    """
    first, grid = positions[:, :1], positions[:, 1:]
    side = math.isqrt(grid.shape[1])
    if (height, width) == (side, side):
        return positions
    grid = grid.transpose(1, 2).reshape(1, -1, side, side)  # (1, c, side, side)
    grid = nn.functional.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
    return torch.cat((first, grid.flatten(2).transpose(1, 2)), dim=1)
