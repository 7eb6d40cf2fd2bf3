"""Few-shot episodes, ways to ask, and dialogues whose answers are ranked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plait.document import Document, Image, Text, joined
from plait.errors import ConfigError
from plait.evaluate import find
from plait.evaluate.asking import ShapesPrompted
from plait.evaluate.dialogues import ANSWERS, ShapesDialogueRanking
from plait.evaluate.examples import ShapesExamples, examples_of, without_pictures
from plait.evaluate.shapes import Held
from plait.generate.engine import Reply, Settings
from plait.generate.model import Model
from plait.systems.emu import Emu, build

HELD = Held(scenes=2, never_seen=0, three=0)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(build("tiny"))


def test_an_episode_is_a_pool_and_a_query() -> None:
    task = ShapesExamples(count=2, shots=(2,), pool=3)
    *pool, query = examples_of(task.episodes()[0])
    assert len(pool) == 6 and [len(one) for one in (*pool, query)] == [2] * 6 + [1]
    prompt = joined([*pool[:2], query])
    assert [type(piece) for piece in prompt] == [Image, Text, Image, Text, Image]
    assert [len(one.images) for one in without_pictures(pool)] == [0] * 6


class Told:
    """A model that finds likely what stands behind the last example, and its own towers."""

    def __init__(self, system: Emu) -> None:
        self.system = system
        self.prompts: list[Document] = []

    def score(self, prompts: list[Document], candidates: list[str], ended: bool = True) -> list[float]:
        self.prompts += prompts
        texts = [[piece.text for piece in prompt if isinstance(piece, Text)] for prompt in prompts]
        return [float(told[-1:] == [one]) for told, one in zip(texts, candidates, strict=True)]


def test_as_many_examples_as_are_asked_for_by_both_ways(model: Model) -> None:
    told = Told(model.system)  # type: ignore[arg-type]
    scores = ShapesExamples(count=20, shots=(0, 1, 4), pool=3).run(told)  # type: ignore[arg-type]
    assert scores["n"] == 20 and scores["chance"] == 0.5 and scores.keys() == {"random", "alike", "chance", "n"}
    assert {len(prompt.images) for prompt in told.prompts} == {1, 2, 5}
    assert 0.2 < scores["random"]["1"] < 0.8
    assert ShapesExamples.at_most(3).count == 3
    with pytest.raises(ConfigError, match=r"no more examples than there are"):
        ShapesExamples(shots=(13,))


def test_towers_compare_pictures_alone(model: Model) -> None:
    towers = model.system.towers
    with pytest.raises(ConfigError, match="no tower of texts"):
        towers.texts(["a"])
    assert ShapesExamples(count=2, shots=(2,)).run(model)["alike"].keys() == {"2"}


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
