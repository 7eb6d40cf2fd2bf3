"""Which letter stands where, and which words there are: what a small tower is asked until it reads.

    loss = -log p(letter of a cell | token of the patch that the cell lies in)
           -log p(word of the text | all vectors that are made of the picture)

No published stage has it. CLIP's tower reads, after 400 million pictures of the web; told of whole texts alone, a small
one learns no letter in as many steps as this takes to learn most (docs/kosmos1.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.objectives.contrastive import captions
from plait.sequence import Batch


class Looks(Protocol):
    """A system with a tower, and vectors that are made of what it sees."""

    @property
    def resampler(self) -> nn.Module:
        """Tokens of pictures (m, s, e) to vectors (m, n, c)."""
        ...

    def look(self, pixels: Tensor) -> Tensor:
        """A class token and a token of each patch, each of length 1: (m, s, e)."""
        ...


class Speller(nn.Module):
    """Tokens of patches to letters of cells, so many to a patch.

    Args:
        width: of a token.
        split: cells along a patch's side.
        letters: that there are, nothing among them.
    """

    def __init__(self, width: int, split: int, letters: int) -> None:
        super().__init__()
        self.split = split
        self.head = nn.Linear(width, split * split * letters)

    def forward(self, seen: Float[Tensor, "m s e"]) -> Float[Tensor, "m cells v"]:
        """Logits, the cells of a picture row by row; of tokens of length 1."""
        side, split = math.isqrt(seen.shape[1]), self.split
        if side * side != seen.shape[1]:
            raise ConfigError(f"{seen.shape[1]} patches are no square: leave the class token out")
        told = self.head(seen * math.sqrt(seen.shape[2]))
        cells = told.unflatten(2, (split, split, -1)).unflatten(1, (side, side))  # (m, y, x, v, u, letters)
        return cells.transpose(2, 3).flatten(1, 4)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Trains a system's tower and resampler to tell letters and words of documents of one written picture and its text.

    Two companions are needed: "speller" (a `Speller`), and "words", from all vectors of a picture to logits of ids. The
    order of words is not asked. Letters are targets of the kind "letter", of which 0 is none
    (`plait.data.shapes.words.Lettered`), words those of the kind "token".
    """

    def counts(self, batch: Batch) -> dict[str, float]:
        """Letters, without the cells that have none and are most; words."""
        _, real = _said(batch)
        return {"letter": float((batch.targets["letter"].value > 0).sum()), "word": float(real.sum())}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """Of both terms."""
        return {"letter": 1.0, "word": 1.0}

    def __call__(
        self, system: Looks, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sums over all cells, those without a letter too, and over all words."""
        letters, (words, real) = batch.targets["letter"], _said(batch)
        seen = system.look(batch.images)  # (m, s, e)
        cells = companions["speller"](seen[:, 1:])[letters.image, letters.offset].float()
        held = companions["words"](system.resampler(seen).flatten(1)).float()  # (m, v)
        return {
            "letter": nn.functional.cross_entropy(cells, letters.value, reduction="sum"),
            "word": -(held.log_softmax(-1).gather(1, words) * real).sum(),
        }


def _said(batch: Batch) -> tuple[Int[Tensor, "m t"], Bool[Tensor, "m t"]]:
    """The words of each picture's document, and which of them there are."""
    texts = captions(batch)
    return texts.ids[:, 1:], texts.real[:, 1:]
