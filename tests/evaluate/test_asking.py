"""Ways to ask: in one step or two, with examples in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plait.document import Document, Text
from plait.errors import ConfigError
from plait.evaluate import find
from plait.evaluate.asking import ShapesPrompted
from plait.evaluate.shapes import Held
from plait.generate.engine import Reply, Settings
from plait.generate.model import Model

HELD = Held(scenes=2, never_seen=0, three=0)


@pytest.mark.parametrize("task", find("shapes/asking", 1))
def test_ways_to_ask(model: Model, task: ShapesPrompted) -> None:
    task = replace(task, held=HELD)
    item = HELD.items()[0]
    question = item.example.questions[0]
    prompt = task.prompt(item, "a red circle", question)
    assert bool(prompt.images) == (task.steps == "one" or task.looks)
    assert prompt.text.endswith(f"based on the picture, {question.text} short answer:")
    assert ("a picture of a red circle." in prompt.text) == (task.steps == "two")
    scores = task.run(model)
    assert scores["n"] == 8 and 0 <= scores["accuracy"] <= 1


def test_texts_alone_stand_before_a_prompt() -> None:
    task = ShapesPrompted(held=HELD, steps="one", examples=2)
    assert task.name == "vqa_one_step_2_texts"
    item = HELD.items()[0]
    prompt = task.prompt(item, "", item.example.questions[0])
    assert prompt.text.count("short answer:") == 3 and len(prompt.images) == 1
    assert isinstance(prompt.pieces[0], Text)
    with pytest.raises(ConfigError, match="looks for two steps alone"):
        ShapesPrompted(steps="one", looks=True)


def test_what_counts_ends_with_the_first_full_stop() -> None:
    task = ShapesPrompted(held=HELD, steps="two")

    class Says:
        """Describes every picture alike, and answers rightly."""

        def __init__(self) -> None:
            self.asked: list[str] = []

        def generate(self, prompts: list[Document], settings: Settings) -> list[Reply]:
            self.asked += [prompt.text for prompt in prompts]
            questions = [question for item in HELD.items() for question in item.example.questions]
            looking = len(prompts) < len(questions)
            said = [" a ring. and more"] * len(prompts) if looking else [f" {one.answer}. no" for one in questions]
            return [Reply(document=Document(text), runs=(), stop="end") for text in said]

    model = Says()
    assert task.run(model) == {"accuracy": 1.0, "n": 8}  # type: ignore[arg-type]
    assert all(text.startswith("a picture of a ring. based on") for text in model.asked[-8:])
