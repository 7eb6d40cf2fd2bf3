"""Few-shot tasks, scored with models that know and models that do not, and by a random one from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import plait
from plait.config import from_plain, to_plain
from plait.data.shapes.split import part
from plait.document import Document, Image, Text
from plait.errors import ConfigError
from plait.evaluate import find
from plait.evaluate.shots import TRAINED, ShapesEpisodes, ShapesPages, ShapesShots, behind_steps
from plait.generate.engine import Reply, Settings


class Knowing:
    """Says what stands in a table under the last picture and the last text of a prompt; with examples, or always."""

    def __init__(self, table, examples=0):
        self.table, self.examples = table, examples
        self.format = SimpleNamespace(presets={})
        self.asked = []

    def settings(self, preset=None, **overrides):
        return Settings(**overrides)

    def generate(self, documents, settings=None, **overrides):
        self.asked += documents
        return [Reply(document=Document(self.say(document)), runs=(), stop="end") for document in documents]

    def say(self, document):
        shown = len(document.images)
        if not shown or shown <= self.examples:
            return "who knows"
        return self.table.get((document.images[-1].source, document.pieces[-1]), "") + ". Question: and more?"

    def score(self, documents, candidates, ended=True):
        self.asked += documents
        return [self._likely(*pair) for pair in zip(documents, candidates, strict=True)]

    def _likely(self, document, candidate):
        wanted = self.table.get((document.images[-1].source, "name"))
        return float(candidate == wanted) if len(document.images) > self.examples else 0.0


def questions(task):
    prompts = [(task._prompt(*one), one[1].answer) for one in task.asked()]
    return {(prompt.images[0].source, prompt.pieces[-1]): answer for prompt, answer in prompts}


def test_who_knows_is_right_and_who_needs_examples_is_right_behind_them():
    task = ShapesShots(count=40, shots=(0, 2))
    scores = task.run(Knowing(questions(task)))
    assert scores["accuracy"] == 1 and scores["n"] == 40 and scores["blind_accuracy"] == 0
    for found in scores["by_shots"].values():
        assert found["accuracy"] == found["trained"]["accuracy"] == found["new"]["accuracy"] == 1
        assert found["trained"]["n"] + found["new"]["n"] == sum(one["n"] for one in found["by_kind"].values()) == 40
    few = task.run(Knowing(questions(task), examples=1))
    assert few["accuracy"] == few["by_shots"]["0"]["accuracy"] == 0 and few["by_shots"]["2"]["accuracy"] == 1
    assert json.loads(json.dumps(scores)) == scores


def test_examples_are_of_training_of_the_same_kind_and_answered():
    task = ShapesShots(count=10, shots=(2,))
    model = Knowing(questions(task))
    task.run(model)
    for prompt, (scene, question) in zip(model.asked, task.asked(), strict=False):
        *examples, last = [image.source.scene for image in prompt.images]
        assert last == scene and part(scene.content) == "test"
        assert [part(one.content) for one in examples] == ["train"] * 2
        assert prompt.pieces[-1] == Text(f"Question: {question.text} Answer:")
        assert all(piece.text.endswith(".") for piece in prompt.pieces[2:-1:3])
        if question.kind == "count":
            assert all(piece.text[:-1].isalpha() for piece in prompt.pieces[2:-1:3])


def test_the_likest_pictures_may_be_the_examples(monkeypatch):
    def towers(pictures):
        return torch.tensor([[float(len(image.source.scene)), 1.0] for image in pictures])

    embedder = SimpleNamespace(pictures=towers, texts=lambda texts: torch.ones(len(texts), 2), width=2)
    asked = []
    monkeypatch.setattr(
        "plait.evaluate.shots.load_embedder", lambda folder: asked.append(folder) or plait_embedder(embedder)
    )
    task = ShapesShots(count=4, shots=(1,), towers="somewhere", pool=5)
    assert task.run(Knowing(questions(task)))["accuracy"] == 1
    assert set(asked) == {"somewhere"}


def plait_embedder(towers):
    from plait.retrieval.embed import Embedder

    return Embedder(towers, {})


def episodes(task):
    return {(case.prompt.images[-1].source, "name"): case.reply.text for case in task.cases()}


def test_episodes_behind_more_and_more_examples():
    task = ShapesEpisodes(count=30)
    scores = task.run(Knowing(episodes(task), examples=4))
    by_shots = {count: found["accuracy"] for count, found in scores["by_shots"].items()}
    assert by_shots["4"] == by_shots["8"] == scores["accuracy"] == 1 and scores["chance"] == 0.5
    guess = sum(case.right == 0 for case in task.cases()) / 30
    assert by_shots["0"] == by_shots["2"] == guess


def test_episodes_are_named_behind_what_each_picture_shows():
    task = ShapesEpisodes(count=10, steps=True, shots=(2,))
    model = Knowing({})
    model.say = lambda document: f"so many: {len(document.images)} pictures"
    task.run(model)
    asked, ranked = model.asked[:10], model.asked[10:]
    assert {document.pieces[-1] for document in ranked} == {Text("so many: ")}
    assert {document.pieces[:-1] for document in ranked} == {document.pieces for document in asked}


def test_steps_may_be_longer_than_answers():
    model = Knowing({})
    model.say = lambda document: "so many: steps"
    asked = []
    generate = model.generate
    model.generate = lambda documents, settings: asked.append(settings) or generate(documents, settings)
    model.settings = lambda preset=None, **overrides: Settings(**{"max_new_tokens": 9, "stop": ((5,),), **overrides})
    assert behind_steps(model, [Document("how many?")], 40)[0].text == "how many?so many: "
    assert asked == [Settings(max_new_tokens=40, stop=((5,),))]


def test_examples_of_an_episode_are_as_many_of_each_name():
    for case in ShapesEpisodes(count=20).cases():
        for count in (0, 2, 4, 8):
            prompt = ShapesEpisodes.prompt(case, count)
            told = [piece.text for piece in prompt.pieces if isinstance(piece, Text)]
            assert len(prompt.images) == count + 1 and prompt.pieces[-1] == case.prompt.pieces[-1]
            assert {told.count(candidate.text) for candidate in case.candidates} == {count // 2}


def test_pages_with_their_pictures_and_without():
    task = ShapesPages(count=12)
    model = Knowing({})
    model.say = lambda document: "green" if document.images else "red"
    scores = task.run(model)
    seen, unseen = model.asked[:12], model.asked[12:]
    assert all(len(one.images) > 1 and not two.images for one, two in zip(seen, unseen, strict=True))
    assert [one.text for one in seen] == [two.text for two in unseen]
    assert all(one.pieces[-1].text.startswith("Question: ") for one in seen)
    assert scores["n"] == 12 and scores["accuracy"] > 0 and not any(isinstance(p, Image) for p in unseen[0].pieces)


def test_they_are_found_by_name_and_written_down():
    (shots,), (shown,), (web,) = (find(f"shapes/{name}", 7) for name in ("few-shot", "episodes", "pages"))
    assert shots == ShapesShots(count=7) == from_plain(ShapesShots, to_plain(shots))
    assert (shown, web) == (ShapesEpisodes(count=7), ShapesPages(count=7))
    assert shots.trained == TRAINED and find("shapes/pages")[0].count == ShapesPages.count
    with pytest.raises(ConfigError, match="give at least 1 question"):
        ShapesShots(trained=("colours",))
    with pytest.raises(ConfigError, match="even numbers of examples"):
        ShapesEpisodes(shots=(3,))
    with pytest.raises(ConfigError, match="0 pages: give at least 1"):
        ShapesPages(count=0)


def test_a_model_from_end_to_end():
    torch.manual_seed(0)
    model = plait.build("kosmos1", "tiny")
    tasks = [ShapesShots(count=2, shots=(0, 1)), ShapesEpisodes(count=2), ShapesPages(count=2)]
    for task in tasks:
        scores = task.run(model)
        assert 0 <= scores["accuracy"] <= 1 and scores == replace(task).run(model)
