"""How SEED's tokenizer is trained (arXiv 2310.01218, section 3; released code), in two stages.

    contrast    pictures by the last of the causal queries, which has seen all others, against texts, both ways
    codes       5 (commitment + 0.25 codebook) + 2 (1 - cos) + 0.5 |e - CLIP(pixels)|^2

In the first, what others have is only compared with: no gradient passes to it (released code; in CLIP and BLIP-2 it
does). In the second, cos compares the Q-Former's vectors with what the codes give of them again, and e is the image
embedding that the codes give. Stage two trains the codes and both branches; what is before them stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.objectives.contrastive import Captions, captions, info_nce, same_texts, told
from plait.objectives.gather import all_gather_rows
from plait.objectives.reconstruction import companion, keep_up, observe, per_picture, pictures
from plait.sequence import Batch
from plait.systems.seed_tokenizer import SeedTokenizer


class HasSeedTokenizer(Protocol):
    """A system with SEED's tokenizer, or the tokenizer itself."""

    @property
    def tokenizer(self) -> SeedTokenizer:
        """What is trained."""
        ...


@dataclass(frozen=True, kw_only=True)
class CausalContrast:
    """Trains `system.tokenizer.qformer`, which has a text branch. The whole batch is compared: no accumulation."""

    whole_batch = True

    smoothing: float = 0.1
    """Share of the target's mass that is spread over all candidates."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pairs."""
        return {"contrast": told(batch)}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """One term."""
        return {"contrast": 1.0}

    def __call__(
        self, system: HasSeedTokenizer, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sum over this rank's pairs of both directions' mean."""
        return {"contrast": self.loss(system.tokenizer, batch.images, captions(batch))}

    def loss(self, tokenizer: SeedTokenizer, pixels: Float[Tensor, "m 3 y x"], texts: Captions) -> Float[Tensor, ""]:
        """The same of pictures and their texts."""
        image = tokenizer.image_features(pixels).float()
        text = tokenizer.text_features(texts.ids, texts.real).float()
        same, there = same_texts(texts)
        temperature = tokenizer.temperature
        both = image @ all_gather_rows(text).T / temperature, text @ all_gather_rows(image).T / temperature
        rows = [info_nce(one, same, there, self.smoothing) * texts.told for one in both]
        return (rows[0] + rows[1]).sum() / 2


@dataclass(frozen=True, kw_only=True)
class CodesAndEmbedding:
    """Trains codes and both branches of `system.tokenizer`.

    Companions: "teacher", a module that maps the pixels of the batch to CLIP's image embeddings (m, d), of any length;
    "upkeep" (a CodebookUpkeep) keeps the codebook in use, if given. The published training had none.
    """

    quantised: float = 5.0
    """Weight of the two distances between vectors and codes together."""
    codebook: float = 0.25
    """Of the term that moves the codes, within them; that which moves the vectors has 1."""
    again: float = 2.0
    """Of the Q-Former's vectors, reconstructed."""
    embedding: float = 0.5
    """Of CLIP's image embedding."""

    def weights(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """The weight of each term."""
        return {
            "commitment": self.quantised,
            "codebook": self.quantised * self.codebook,
            "again": self.again,
            "embedding": self.embedding,
        }

    def counts(self, batch: Batch) -> dict[str, float]:
        """The number of pictures, for each term."""
        return dict.fromkeys(self.weights(), float(len(batch.images)))

    def __call__(
        self, system: HasSeedTokenizer, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Sums over pictures of each term's mean over a picture.

        Raises:
            ConfigError: there is no teacher.
        """
        teacher = companion(companions, "teacher")
        pixels, worth = pictures(batch)
        made = system.tokenizer.tokenise(pixels)
        with torch.no_grad():
            wanted = teacher(pixels).float()
        observe(companions, made.quantised, generator, worth)
        terms = {
            "commitment": made.quantised.commitment.sum(),
            "codebook": made.quantised.codebook.sum(),
            "again": per_picture(1 - F.cosine_similarity(made.again.float(), made.read.detach().float(), dim=-1)).sum(),
            "embedding": per_picture((made.embedding.float() - wanted).square()).sum(),
        }
        return {name: worth * term for name, term in terms.items()}

    def after_step(
        self, system: HasSeedTokenizer, companions: Mapping[str, nn.Module], step: int, generator: torch.Generator
    ) -> None:
        """Upkeep of the codebook after step `step` (from 0); `generator` must be the same on all ranks."""
        keep_up(system.tokenizer.quantiser.codebook.weight, companions, step, generator)
