"""BLIP-2's first stage (arXiv 2301.12597, section 3.1): a Q-Former learns by three losses what is worth reading.

    contrast   pictures by their nearest query against texts, both ways (`objectives.contrastive`)
    matching   does the text belong to the picture? each pair, and with it a wrong text and a wrong picture
    caption    the text word by word, from what the queries have read

Wrong ones are drawn by how like they are, so that they are hard (ALBEF, arXiv 2107.07651). The second stage, in which a
frozen language model speaks, is `objectives.tokens.NextToken` on documents of a picture and its caption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.qformer import Memory, QFormer, QFormerHeads
from plait.objectives.contrastive import Captions, captions, info_nce, same_texts
from plait.objectives.gather import joined_rows
from plait.sequence import Batch


class HasQFormer(Protocol):
    """A system with a Q-Former that has a text branch."""

    @property
    def qformer(self) -> QFormer:
        """What is trained."""
        ...

    @property
    def heads_of_qformer(self) -> QFormerHeads:
        """What it is trained by."""
        ...

    @property
    def begin(self) -> int:
        """The id that stands for the first of a text where it is to be captioned; [DEC]."""
        ...

    def see(self, pixels: Tensor) -> Tensor:
        """The vectors of pictures that the queries read."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadAndTell:
    """Trains `system.qformer` by its three losses.

    Contrast is over the whole batch, hence no accumulation; wrong texts and pictures are of the same rank.
    """

    whole_batch = True

    smoothing: float = 0.1
    """Share of the target's mass that is spread over all candidates, in contrast and captions."""
    matched: float = 1.0
    """Share of the pairs that are matched; of the three losses it takes the most time, and in BLIP-2 all are."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """A factor for some of the terms."""

    def __post_init__(self) -> None:
        if not 0 < self.matched <= 1:
            raise ConfigError(f"matched={self.matched}: give a share of the pairs, above 0 and at most 1")

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pairs; what is to be matched, three for each pair of which it is asked; words."""
        texts = captions(batch)
        pairs = float(texts.told.sum())
        words = float((texts.real[:, 1:] & texts.told[:, None]).sum())
        matched = 3 * float(texts.told[: self._asked(len(texts.told))].sum())
        return {"contrast": pairs, "matching": matched, "caption": words}

    def _asked(self, pairs: int) -> int:
        """How many of the pairs are matched: the first, since their order is random."""
        return math.ceil(self.matched * pairs)

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        """1 each, as published, times its scale."""
        return {name: self.scale.get(name, 1.0) for name in ("contrast", "matching", "caption")}

    def __call__(
        self, system: HasQFormer, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The sums of the three."""
        texts = captions(batch)
        image = system.see(batch.images)  # (m, n, c)
        memory = Memory()
        queries = system.qformer(image, attend=memory.keep)
        contrast, similarity = self._contrast(system, queries, texts)
        return {
            "contrast": contrast,
            "matching": self._matching(system, image, texts, similarity, generator),
            "caption": self.caption(system.qformer, system.heads_of_qformer, texts, memory, system.begin),
        }

    def _contrast(self, system: HasQFormer, queries: Tensor, texts: Captions) -> tuple[Tensor, Float[Tensor, "m m"]]:
        """The loss, and how like this rank's pictures are to its texts."""
        heads = system.heads_of_qformer
        image = heads.image_features(queries).float()
        words = system.qformer.read_text(texts.ids, texts.real)[:, :1]
        text = heads.text_features(words)[:, 0].float()
        same, there = same_texts(texts)
        (images, _), (every, own) = joined_rows(image), joined_rows(text)
        of_images = heads.similarity(image, every)
        both = of_images, heads.similarity(images, text).T
        rows = [info_nce(one, same, there, self.smoothing) * texts.told for one in both]
        return (rows[0] + rows[1]).sum() / 2, of_images[:, own].detach()

    def _matching(
        self,
        system: HasQFormer,
        image: Tensor,
        texts: Captions,
        similarity: Float[Tensor, "m m"],
        generator: torch.Generator,
    ) -> Tensor:
        m = torch.arange(self._asked(len(image)), device=image.device)
        alike = (texts.ids[m, None] == texts.ids).all(-1)
        allowed = ~alike & texts.told & texts.told[m, None]
        wrong_text = hard(similarity[m], allowed, generator)
        wrong_image = hard(similarity.T[m], allowed, generator)
        picture, text = torch.cat((m, wrong_image, m)), torch.cat((m, m, wrong_text))
        both = system.qformer.read_both(image[picture], texts.ids[text], texts.real[text])
        logits = system.heads_of_qformer.match(both[:, : system.qformer.config.queries]).float()
        labels = (torch.arange(len(logits), device=image.device) < len(m)).long()
        worth = torch.cat((texts.told[m], allowed.any(1), allowed.any(1)))
        return (nn.functional.cross_entropy(logits, labels, reduction="none") * worth).sum()

    def caption(self, qformer: QFormer, heads: QFormerHeads, texts: Captions, memory: Memory, begin: int) -> Tensor:
        """The sum over words, of texts after what the queries have read; `begin` stands for their first ids."""
        assert qformer.text is not None and heads.captioning is not None, "these heads only compare"
        given = texts.ids.clone()
        given[:, 0] = begin
        states = qformer.continue_text(given[:, :-1], texts.real[:, :-1], memory)
        counted = texts.real[:, 1:] & texts.told[:, None]
        logits = heads.captioning(states[counted][None], qformer.text.words.weight)[0].float()
        wanted = texts.ids[:, 1:][counted]
        return nn.functional.cross_entropy(logits, wanted, reduction="sum", label_smoothing=self.smoothing)


def hard(
    similarity: Float[Tensor, "m n"], allowed: Bool[Tensor, "m n"], generator: torch.Generator
) -> Int[Tensor, " m"]:
    """One allowed candidate for each row, drawn by the softmax of similarities; any where none is allowed."""
    likely = similarity.float().masked_fill(~allowed, -torch.inf).softmax(1).nan_to_num(0.0)
    likely = likely + 1e-4 * (allowed | ~allowed.any(1, keepdim=True))
    return torch.multinomial(likely.cpu(), 1, generator=generator)[:, 0].to(similarity.device)
