"""Dialogues whose answers are ranked."""

from __future__ import annotations

import pytest

from plait.document import Document
from plait.errors import ConfigError
from plait.evaluate.dialogues import ANSWERS, ShapesDialogueRanking
from plait.generate.model import Model
from plait.systems.emu import build


def test_answers_of_dialogues_are_ranked() -> None:
    system = build("tiny")
    system.converse()
    model = Model(system)
    task = ShapesDialogueRanking(count=3, candidates=5)
    answers, at = task._candidates("red", 0)
    assert answers[at] == "red" and len(set(answers)) == 5 and set(answers) <= set(ANSWERS)
    scores = task.run(model)
    assert scores["n"] == 3 and scores["chance_mrr"] == pytest.approx(0.457, abs=1e-3) and 0.2 <= scores["mrr"] <= 1

    class Knows:
        """Finds all answers as likely."""

        def score(self, prompt: Document, candidates: list[str]) -> list[float]:
            return [0.0] * len(candidates)

    assert task.run(Knows())["mrr"] == pytest.approx(0.2)  # type: ignore[arg-type]  # the last of those that tie
    with pytest.raises(ConfigError, match="2 to"):
        ShapesDialogueRanking(candidates=1)
