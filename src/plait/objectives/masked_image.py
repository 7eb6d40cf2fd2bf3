"""EVA's objective (arXiv 2211.07636): to tell what CLIP sees where patches are hidden.

    loss = 1 - cos(CLIP's feature of a patch, what is predicted from the picture without it)

CLIP's features are those behind its last block and norm, its class token left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.clip import CLIP
from plait.nn.vit import ViT
from plait.sequence import Batch


class HasTowers(Protocol):
    """A system with a teacher and a tower that learns from it."""

    @property
    def clip(self) -> CLIP:
        """The teacher; it stays as it is."""
        ...

    @property
    def eva(self) -> ViT:
        """The tower that is trained."""
        ...


class Predictor(nn.Module):
    """What a tower is given in place of hidden patches, and what makes a teacher's features of its patches."""

    def __init__(self, width: int, teacher: int) -> None:
        super().__init__()
        self.instead = nn.Parameter(torch.empty(width))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, teacher)
        nn.init.trunc_normal_(self.instead, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n t"]:
        """Each patch by itself."""
        return self.head(self.norm(x))


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """Trains `system.eva` to predict the features that `system.clip` has of hidden patches.

    The companion "predictor" (a `Predictor`) is needed. In EVA nothing is asked of the patches that are shown.
    """

    hidden: float = 0.4
    """Share of the patches, drawn anew for each picture. EVA hides them in blocks, here each is drawn by itself."""
    shown: float = 0.0
    """Weight of the same loss over the patches that are shown: what small towers learn sooner."""

    def __post_init__(self) -> None:
        if not 0 < self.hidden < 1:
            raise ConfigError(f"hidden={self.hidden}: give a share between 0 and 1 of the patches")

    def weights(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """Of both terms."""
        return {"hidden": 1.0, "shown": self.shown} if self.shown else {"hidden": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pictures."""
        return dict.fromkeys(self.weights(), float(len(batch.images)))

    def __call__(
        self, system: HasTowers, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sum over pictures of the mean over patches."""
        predictor, pixels = companions["predictor"], batch.images
        assert isinstance(predictor, Predictor)
        with torch.no_grad():
            wanted = system.clip.image(pixels)[:, 1:].float()
        hidden = hide(len(pixels), wanted.shape[1], self.hidden, generator).to(pixels.device)
        made = predictor(system.eva(pixels, hidden, predictor.instead)[:, 1:]).float()
        far = 1 - nn.functional.cosine_similarity(made, wanted, dim=-1)  # (b, n)
        terms = {"hidden": hidden, "shown": ~hidden}
        return {name: ((far * terms[name]).sum(1) / terms[name].sum(1)).sum() for name in self.weights()}


def hide(pictures: int, patches: int, share: float, generator: torch.Generator) -> Bool[Tensor, "b n"]:
    """As many patches of every picture: the share, at least one, and not all.

    Raises:
        ConfigError: a single patch.
    """
    if patches < 2:
        raise ConfigError(f"{patches} patches, of which one is to be hidden: make them smaller")
    count = min(max(round(share * patches), 1), patches - 1)
    order = torch.rand(pictures, patches, generator=generator).argsort(1)
    return order.argsort(1) < count
