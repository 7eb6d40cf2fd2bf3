"""Few-shot: pictures with invented names in front of one that is to be named, as many as are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, ClassVar

from plait.data.shapes.episodes import Episode, Episodes
from plait.document import Document
from plait.errors import ConfigError
from plait.evaluate.counted import Counted
from plait.evaluate.prompting import SHOTS, AtRandom, Choice, FewShot, Nearest, best, rank
from plait.generate.model import Model
from plait.retrieval.embed import Embedder


@dataclass(frozen=True, kw_only=True)
class ShapesExamples(Counted):
    """Name the last picture of held-out episodes, whose names occur in no training, behind k examples.

    The k are taken of all pictures of the episode: by chance, or those most like the last one by the system's tower,
    the most alike last (RICES). The name is the one whose reply the model finds likeliest.

    Args:
        count: episodes.
        shots: numbers of examples.
        ways: names in an episode, one in `ways` is right by chance.
        pool: pictures of each name that examples are taken of.
    """

    name: ClassVar[str] = "examples"
    count: int = 300
    shots: tuple[int, ...] = SHOTS
    ways: int = 2
    pool: int = 6

    def __post_init__(self) -> None:
        if self.count < 1 or not self.shots or not 0 <= min(self.shots) <= max(self.shots) <= self.ways * self.pool:
            raise ConfigError(
                f"{self.count} episodes with {self.shots} examples of {self.ways * self.pool}: give at least 1 "
                "episode, and no more examples than there are"
            )

    def episodes(self) -> list[Episode]:
        """All of the test's part of the world."""
        source = Episodes(
            seed=self.seed,
            length=self.count,
            split="test",
            ways=self.ways,
            shots=self.pool,
            resolution=self.resolution,
        )
        return [source.case(i) for i in range(self.count)]

    def run(self, model: Model) -> dict[str, Any]:
        """{"random", "alike"}, each with the share of right names by the number of examples; "chance" and "n".

        Without towers there is no "alike".
        """
        episodes = self.episodes()
        ways: dict[str, list[Choice]] = {"random": [AtRandom(self.seed)] * self.count}
        if embedder := _embedder(model):
            ways["alike"] = [Nearest.of(examples_of(episode)[:-1], embedder) for episode in episodes]
        scores = {
            way: {str(k): self._accuracy(model, episodes, k, choices) for k in self.shots}
            for way, choices in ways.items()
        }
        return {**scores, "chance": 1 / self.ways, "n": self.count}

    def _accuracy(self, model: Model, episodes: Items[Episode], k: int, choices: Items[Choice]) -> float:
        prompts = []
        for number, (episode, choose) in enumerate(zip(episodes, choices, strict=True)):
            *pool, query = examples_of(episode)
            prompts.append(FewShot(pool, k, choose)(query, number))
        scores = rank(model, prompts, [[one.text for one in episode.candidates] for episode in episodes])
        right = [best(found) == episode.right for found, episode in zip(scores, episodes, strict=True)]
        return sum(right) / len(right)


def examples_of(episode: Episode) -> list[Document]:
    """The pictures of an episode, each with its sentence; and the last, without one."""
    pieces = episode.prompt.pieces
    return [Document(pieces[at : at + 2]) for at in range(0, len(pieces), 2)]


def without_pictures(examples: Items[Document]) -> list[Document]:
    """The texts of examples alone: what Flamingo and Emu put before a prompt where they show no example."""
    return [Document([one.text]) for one in examples]


def _embedder(model: Model) -> Embedder | None:
    """Of a system that compares pictures."""
    try:
        towers = model.system.towers
    except ConfigError:
        return None
    identity: Mapping[str, Any] = {"checkpoint": model.system.name}
    return Embedder(towers, identity)
