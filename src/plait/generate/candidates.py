"""Several pictures of one prompt: drawn in one batch, half by other settings if asked, and ranked by a judge.

CM3Leon draws 8 pictures of a caption and keeps the one that CLIP likes best; half by top-p and half by CD-K, which
find different pictures (arXiv 2309.02591, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch

from plait.document import Document, Image, Turn
from plait.errors import ConfigError, InputError
from plait.generate.engine import Reply, Settings
from plait.generate.model import Model

Judge = Callable[[Document, Items[Image]], Items[float]]
"""A prompt and pictures -> how well each of them fits, the better the higher."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The replies to a prompt in the order of their seeds, and what the judge gave each."""

    replies: tuple[Reply, ...]
    scores: tuple[float, ...]

    @property
    def best(self) -> Reply:
        """Of the highest score, the first of those that tie."""
        return self.best_of(len(self.replies))

    def best_of(self, count: int) -> Reply:
        """The best of the first `count`: what so many candidates would have given."""
        return self.replies[max(range(count), key=lambda i: self.scores[i])]


def halves(settings: Settings, count: int) -> list[Settings]:
    """`count` settings, of which the first half has no contrast, and the others nothing but it.

    Guidance and top-p are the first half's; what the expert of the others says is not guided. Of an odd number, the
    first half is the larger one.

    Raises:
        ConfigError: the settings have no contrast.
    """
    if settings.contrast is None:
        raise ConfigError("half of the candidates by a contrast, and none is set: give a contrast")
    plain = replace(settings, contrast=None)
    image = replace(settings.image, top_k=None, top_p=1.0)
    contrasted = replace(settings, guidance=1.0, image_guidance=None, image=image)
    return [plain if 2 * i < count else contrasted for i in range(count)]


def candidates(model: Model, documents: Items[Document], judge: Judge, settings: Items[Settings]) -> list[Candidates]:
    """Candidates for each document, all of them drawn side by side and then judged.

    Candidate j of document i is drawn with the seed of its settings + i * len(settings) + j: asked for alone with it,
    it is the same.

    Args:
        settings: one for each candidate: `[Settings(...)] * 8`, or what `halves` gives.

    Raises:
        InputError: no settings; or what `Model.generate` raises.
    """
    n = len(settings)
    if n == 0:
        raise InputError("0 candidates: give the settings of at least one")
    asked = [document for document in documents for _ in range(n)]
    each = [replace(one, seed=one.seed + i * n + j) for i in range(len(documents)) for j, one in enumerate(settings)]
    replies = model.generate(asked, each)
    return [_judged(document, replies[i * n : (i + 1) * n], judge) for i, document in enumerate(documents)]


def _judged(document: Document, replies: Items[Reply], judge: Judge) -> Candidates:
    """By their first pictures; a reply without one comes last."""
    drawn = [i for i, reply in enumerate(replies) if reply.document.images]
    scores = [-float("inf")] * len(replies)
    if drawn:
        given = judge(document, [replies[i].document.images[0] for i in drawn])
        if len(given) != len(drawn):
            raise InputError(f"the judge gave {len(given)} scores for {len(drawn)} pictures: it must give one for each")
        for i, score in zip(drawn, given, strict=True):
            scores[i] = float(score)
    return Candidates(replies=tuple(replies), scores=tuple(scores))


def judge_of(model: Model) -> Judge:
    """How like the text of a prompt a picture is: the cosine of what a system's towers make of them.

    Raises:
        ConfigError: the system has no towers (`System.towers`).
    """
    towers = model.system.towers

    @torch.inference_mode()
    def judge(document: Document, pictures: Items[Image]) -> list[float]:
        likeness: list[float] = (towers.pictures(pictures) @ towers.texts([document.text])[0]).float().tolist()
        return likeness

    return judge


def reader_of(model: Model, request: str = "") -> Judge:
    """How likely a model that reads pictures finds the text of a prompt, given a picture: a log-probability.

    The model may be the one that draws: CogView ranks its own pictures so (arXiv 2105.13290, self-reranking).

    Args:
        request: what the model is asked about the picture; none: the text stands behind it.
    """

    def judge(document: Document, pictures: Items[Image]) -> list[float]:
        asked = [Document([Turn("user", [one, request])] if request else [one]) for one in pictures]
        return model.score(asked, [document.text] * len(asked))

    return judge
