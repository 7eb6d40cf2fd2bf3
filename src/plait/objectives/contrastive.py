"""Contrastive learning of pictures and texts (CLIP, arXiv 2103.00020, figure 3), and the pairs that a batch holds.

    loss = (cross-entropy of texts given pictures + of pictures given texts) / 2

A picture is compared with the texts of all ranks, and a text with all pictures. Texts that are the same to the letter
are no negatives of each other: they share the mass of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.errors import TrainingError
from plait.nn.clip import CLIP
from plait.objectives.gather import all_gather_rows, joined_rows
from plait.sequence import Batch


@dataclass(frozen=True, kw_only=True)
class Captions:
    """The texts of a batch's pictures, one for each, in the order of the pictures."""

    ids: Int[Tensor, "m t"]
    """The first symbol of the document, then the caption to its end; 0 at pads. At least two wide."""
    real: Bool[Tensor, "m t"]
    told: Bool[Tensor, " m"]
    """False where there is no text to learn from, as with a picture that could not be read."""


def captions(batch: Batch) -> Captions:
    """What is said of each picture: the tokens that its document must predict.

    Raises:
        TrainingError: no pictures, several readers, or a document with several pictures.
    """
    pictures = len(batch.images)
    (slots,) = batch.slots.values()
    rows, width = batch.ids.shape
    number = batch.document + torch.arange(rows, device=batch.ids.device)[:, None] * width
    number = torch.where(batch.document >= 0, number, -1).flatten()  # of the document that each input belongs to
    owner = number.new_full((pictures,), -1)
    owner[slots.image[:-1]] = number[slots.at[:-1]]  # the last entry fills no input (`Collator.arrays`)
    documents = 1 + int((owner.diff() != 0).sum())  # in order
    if documents != pictures:
        raise TrainingError(f"{pictures} pictures in {documents} documents: pairs have one picture each")
    starts = ((batch.position.flatten() == 0) & (number >= 0)).nonzero().flatten()
    first = batch.ids.flatten()[starts[torch.searchsorted(number[starts], owner)]]
    said = batch.targets.get("token")
    values, of = (said.value, number[said.at]) if said else (number[:0], number[:0])
    mine = torch.searchsorted(owner, of).clamp(max=pictures - 1)
    paired = owner[mine] == of  # documents without a picture tell nothing of one
    values, mine = values[paired], mine[paired]
    lengths = mine.bincount(minlength=pictures)
    within = torch.arange(len(mine), device=mine.device) - (lengths.cumsum(0) - lengths)[mine]
    ids = values.new_zeros(pictures, 1 + max(int(lengths.max()), 1))
    ids[:, 0] = first
    ids[mine, 1 + within] = values
    real = torch.arange(ids.shape[1], device=ids.device) <= lengths[:, None]
    return Captions(ids=ids, real=real, told=lengths > 0)


def told(batch: Batch) -> float:
    """How many of a batch's pictures have a text."""
    return float(captions(batch).told.sum())


def same_texts(texts: Captions) -> tuple[Bool[Tensor, "m n"], Bool[Tensor, " n"]]:
    """For this rank's texts and those of all ranks: whether they are equal; and which of all there are.

    Texts are told apart by a hash of 64 bits.
    """
    place = torch.arange(texts.ids.shape[1], device=texts.ids.device)
    mixed = (texts.ids + 1) * 0x1F3D5B79A8C6E451 + (place + 1) * 0x5851F42D4C957F2D  # both wrap around
    mixed = (mixed ^ (mixed >> 31)) * 0x2545F4914F6CDD1D
    own = ((mixed ^ (mixed >> 29)) * texts.real).sum(1)
    every, there = all_gather_rows(own), all_gather_rows(texts.told)
    return own[:, None] == every, there


def info_nce(
    similarity: Float[Tensor, "m n"],
    same: Bool[Tensor, "m n"],
    there: Bool[Tensor, " n"],
    smoothing: float = 0.0,
) -> Float[Tensor, " m"]:
    """Cross-entropy of each row against its candidates, those that are `same` alike sharing the target's mass.

    Args:
        similarity: products over the temperature.
        same: right candidates; at least one a row.
        there: the candidates that there are.
        smoothing: share of the mass that is spread over all candidates.
    """
    same = same & there
    target = same / same.sum(1, keepdim=True).clamp(min=1)
    target = (1 - smoothing) * target + smoothing * there / there.sum().clamp(min=1)
    logs = similarity.float().masked_fill(~there, -torch.inf).log_softmax(1)
    return -(target * logs.masked_fill(~there, 0.0)).sum(1)


class HasCLIP(Protocol):
    """A system with CLIP."""

    @property
    def clip(self) -> CLIP:
        """What is trained."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Trains `system.clip` to put pictures and their texts together. The whole batch is compared: no accumulation."""

    whole_batch = True

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pairs."""
        return {"contrast": told(batch)}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """One term."""
        return {"contrast": 1.0}

    def __call__(
        self, system: HasCLIP, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sum over this rank's pairs of both directions' mean."""
        texts, clip = captions(batch), system.clip
        image = clip.image_features(batch.images).float()
        text = clip.text_features(texts.ids, texts.real).float()
        same, there = same_texts(texts)
        images, _ = joined_rows(image)
        every, _ = joined_rows(text)
        both = clip.similarity(image, every), clip.similarity(images, text).T
        return {"contrast": sum((info_nce(rows, same, there) * texts.told).sum() / 2 for rows in both)}  # type: ignore[dict-item]
