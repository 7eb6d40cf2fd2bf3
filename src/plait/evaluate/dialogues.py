"""Dialogues about a picture, whose last answer is ranked among candidates, as VisDial has it (arXiv 1611.08669)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from plait.data.shapes.dialogues import Dialogues
from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES
from plait.errors import ConfigError
from plait.evaluate.counted import Counted
from plait.evaluate.metrics.ranking import one_hot, ranks, retrieval
from plait.generate.model import Model

ANSWERS = (*COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS[:5], "yes", "no")


@dataclass(frozen=True, kw_only=True)
class ShapesDialogueRanking(Counted):
    """Rank the answers to the last question of a dialogue by their log-probability, as a whole.

    Args:
        count: dialogues.
        candidates: of each, the right one among them; they are drawn of all answers of the world.
    """

    name: ClassVar[str] = "dialogue_ranking"
    count: int = 250
    candidates: int = 20

    def __post_init__(self) -> None:
        if self.count < 1 or not 2 <= self.candidates <= len(ANSWERS):
            raise ConfigError(
                f"{self.count} dialogues with {self.candidates} candidates: give at least 1, and 2 to {len(ANSWERS)}"
            )

    def run(self, model: Model) -> dict[str, Any]:
        """{"mrr", "r@1", "r@5", "r@10", "mean", "median"} of the right answers' ranks; "chance_mrr" and "n"."""
        source = Dialogues(seed=self.seed, length=self.count, split="test", resolution=self.resolution)
        scores, right = [], []
        for number, case in enumerate(source.cases()):
            answers, at = self._candidates(case.reply.text, number)
            scores.append(model.score(case.prompt, answers))
            right.append(at)
        positives = one_hot(torch.tensor(right), self.candidates)
        found = retrieval(ranks(torch.tensor(scores), positives))
        chance = sum(1 / rank for rank in range(1, self.candidates + 1)) / self.candidates
        return {**found, "chance_mrr": chance, "n": self.count}

    def _candidates(self, answer: str, number: int) -> tuple[list[str], int]:
        """Different answers, and where the right one is among them."""
        random = np.random.default_rng((self.seed, number))
        others = [one for one in ANSWERS if one != answer]
        chosen = [others[i] for i in random.permutation(len(others))[: self.candidates - 1]]
        at = int(random.integers(self.candidates))
        return [*chosen[:at], answer, *chosen[at:]], at
