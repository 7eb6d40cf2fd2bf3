"""Ways to ask a model, for tasks of any kind: with examples in front, in two steps, or by the likelihood of answers.

    shown = FewShot(pool=shots, count=4)         # or choose=Nearest.of(pool, embedder): the likest pictures
    replies = model.generate([shown(prompt, number) for number, prompt in enumerate(prompts)])

Few-shot prompts are documents that are joined: the examples with their answers, then what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plait.document import Document, joined
from plait.errors import ConfigError
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.retrieval.embed import Embedder
from plait.retrieval.search import exact

ANSWER_TOKENS = 24
SHOTS = (0, 2, 4, 8)
"""Numbers of examples in both papers' tables."""


class Choice(Protocol):
    """Which of a pool stand before a prompt."""

    def __call__(self, prompt: Document, number: int, among: int, count: int, /) -> Items[int]:
        """Places in a pool of `among`, in the order in which they are shown."""
        ...


@dataclass(frozen=True)
class AtRandom:
    """Any, each as likely and none twice, drawn by the number of the prompt."""

    seed: int = 0

    def __call__(self, prompt: Document, number: int, among: int, count: int) -> Items[int]:
        """Places in the pool."""
        random = np.random.default_rng((self.seed, number))
        chosen: list[int] = random.choice(among, count, replace=False).tolist()
        return chosen


@dataclass(frozen=True)
class Nearest:
    """Those whose pictures are likest to the prompt's, the likest last (RICES, arXiv 2109.05014)."""

    embedder: Embedder
    vectors: Tensor
    """(n, c) of the pool."""

    @classmethod
    def of(cls, pool: Items[Document], embedder: Embedder) -> Nearest:
        """With the vectors of a pool.

        Raises:
            ImageError: a picture cannot be read.
        """
        return cls(embedder, _pictured(embedder, pool))

    def __call__(self, prompt: Document, number: int, among: int, count: int) -> Items[int]:
        """Places in the pool.

        Raises:
            ImageError: a picture cannot be read.
        """
        query = _pictured(self.embedder, [prompt])
        _, rows = exact(self.vectors.numpy(), np.ones(len(self.vectors), np.float32), query, count)
        found: list[int] = rows[0].tolist()
        return found[::-1]


def _pictured(embedder: Embedder, documents: Items[Document]) -> Tensor:
    """Of pictures alone: texts are not compared, and a system may have no tower of them."""
    return embedder([Document(document.images) for document in documents]).pictures


@dataclass(frozen=True)
class FewShot:
    """Puts `count` examples of a pool in front of prompts.

    Raises:
        ConfigError: more examples than the pool has.
    """

    pool: Items[Document]
    """Whole documents, with their answers."""
    count: int
    choose: Choice = AtRandom()

    def __post_init__(self) -> None:
        if not 0 <= self.count <= len(self.pool):
            raise ConfigError(f"{self.count} examples of a pool of {len(self.pool)}: give from 0 to as many")

    def __call__(self, prompt: Document, number: int) -> Document:
        """The prompt behind its examples.

        Args:
            number: of the prompt, which decides what is drawn at random.
        """
        if not self.count:
            return prompt
        chosen = self.choose(prompt, number, len(self.pool), self.count)
        return joined([*(self.pool[at] for at in chosen), prompt])


def two_steps(
    model: Model, first: Items[Document], then: Callable[[int, str], Document], settings: Settings | None = None
) -> list[Document]:
    """The prompts of the second step, made of what the model says to those of the first.

    Args:
        then: the number of a prompt and what was said -> the next prompt.
    """
    replies = model.generate(list(first), settings or answering(model))
    return [then(number, reply.text) for number, reply in enumerate(replies)]


def rank(
    model: Model, prompts: Items[Document], candidates: Items[Items[str]], ended: bool = True
) -> list[list[float]]:
    """The log-probability of each of a prompt's candidates as what is said next (`Model.score`), in common batches.

    Args:
        ended: whether the end of the reply counts.
    """
    pairs = [(prompt, option) for prompt, options in zip(prompts, candidates, strict=True) for option in options]
    scores = iter(model.score([prompt for prompt, _ in pairs], [option for _, option in pairs], ended))
    return [list(islice(scores, len(options))) for options in candidates]


def best(scores: Items[float]) -> int:
    """The place of the highest score, the first of those that tie."""
    return int(torch.tensor(scores, dtype=torch.float64).argmax())


def answering(model: Model, tokens: int = ANSWER_TOKENS) -> Settings:
    """The settings of a system's answers (preset `answers`), or the default ones, of at most so many ids."""
    preset = "answers" if "answers" in model.format.presets else None
    settings = model.settings(preset)
    return model.settings(preset, max_new_tokens=min(tokens, settings.max_new_tokens))
