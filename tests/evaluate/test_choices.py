"""Tasks by what is likeliest, scored with models whose likelihoods are known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import plait
from plait.data.shapes.matrices import Matrices
from plait.data.shapes.nouns import NOUNS
from plait.data.shapes.words import Writing
from plait.document import Document, Text
from plait.errors import ConfigError
from plait.evaluate import find
from plait.evaluate.choices import (
    ShapesCommonsense,
    ShapesDescriptions,
    ShapesMatrices,
    ShapesNames,
    ShapesOpinions,
)
from plait.generate.engine import Reply, Settings

NAMES = ("matrices", "opinions", "opinions-steps", "descriptions", "commonsense", "names")


class Likely:
    """Scores by a function of the prompt and the candidate; says what another makes of the prompt."""

    def __init__(self, score=None, say=lambda document: "", among=None):
        self._score, self.say, self.among = score, say, among
        self.format = SimpleNamespace(presets={})
        self.asked = []

    def settings(self, preset=None, **overrides):
        return Settings(**overrides)

    def generate(self, documents, settings=None, **overrides):
        say = self.among if "among" in overrides else self.say
        return [Reply(document=Document(say(document)), runs=(), stop="end") for document in documents]

    def score(self, documents, candidates, ended=True):
        self.asked += documents
        assert not ended
        return [self._score(*pair) for pair in zip(documents, candidates, strict=True)]


def test_the_candidate_with_the_likeliest_yes_is_chosen():
    task = ShapesMatrices(count=8)
    source = Matrices(seed=task.seed, length=8, split="test", resolution=32, form="judge")
    right = {case.candidates[case.right] for case in source.cases()}
    model = Likely(lambda document, candidate: float(any(document == one for one in right)))
    scores = task.run(model)
    assert scores["accuracy"] == 1 and scores["n"] == 8 and len(model.asked) == 48
    assert sum(group["n"] for group in scores["by_attribute"].values()) == 8
    first = task.run(Likely(lambda document, candidate: 0.0))
    assert first["accuracy"] == sum(case.right == 0 for case in source.cases()) / 8
    assert model.asked[0].pieces[-1] == Text("Is it correct?")


def test_matrices_are_looked_at_before_yes_is_weighed():
    task = ShapesMatrices(count=6, steps=True)
    source = Matrices(seed=task.seed, length=6, split="test", resolution=32, form="judge")
    looked = {
        prompt: f"{'; '.join(matrix.look(cell))}: No"
        for case, matrix in ((source.case(i), source.matrix(i)) for i in range(6))
        for prompt, cell in zip(case.candidates, matrix.candidates, strict=True)
    }
    model = Likely(lambda document, _: float(" no" not in document.pieces[-1].text), say=looked.__getitem__)
    assert task.run(model)["accuracy"] == 1 and len(model.asked) == 36
    assert all(document.pieces[-1].text.endswith(": ") for document in model.asked)
    silent = Likely(lambda document, _: 0.0)
    task.run(silent)
    assert [document.pieces[-1].text for document in silent.asked] == ["Is it correct?"] * 36


def opinion(document):
    source = document.images[0].source
    assert isinstance(source, Writing)
    return " ".join(source.lines)


def feeling(text):
    from plait.data.shapes.words import GOOD

    return "positive" if any(word in text for word in GOOD) != (" not " in text) else "negative"


def test_opinions_are_read_from_the_picture():
    task = ShapesOpinions(count=30)
    scores = task.run(Likely(lambda document, candidate: float(candidate == feeling(opinion(document)))))
    assert scores == {"accuracy": 1.0, "n": 30, "chance": 0.5}
    wrong = task.run(Likely(lambda document, candidate: float(candidate != feeling(opinion(document)))))
    assert wrong["accuracy"] == 0


def test_in_steps_the_answer_follows_from_what_was_told():
    task = ShapesOpinions(count=20, steps=True)

    def score(document, candidate):
        told = document.pieces[1]
        return float(candidate == feeling(told.text)) if len(document.pieces) == 3 else 0.0

    scores = task.run(Likely(score, say=lambda document: f"the picture says {opinion(document)}."))
    assert scores == {"accuracy": 1.0, "n": 20, "chance": 0.5, "read": 1.0}
    silent = Likely(score)
    assert task.run(silent)["read"] == 0
    assert [len(document.pieces) for document in silent.asked] == [2] * 40  # nothing was told


def test_descriptions_tell_which_name_is_meant():
    def score(document, candidate):
        words = [sentence.split() for sentence in document.pieces[0].text.split(".") if " is " in sentence]
        told = {name: meaning for _, name, *_, meaning in words}
        (item,) = document.images[0].source.scene.objects
        return float(told.get(candidate) in (item.colour, item.shape, item.size))

    scores = ShapesDescriptions(count=40).run(Likely(score))
    assert scores["accuracy"] == 1 and 0.2 < scores["undescribed_accuracy"] < 0.8 and scores["chance"] == 0.5


def test_common_sense_is_asked_of_every_noun_in_text_alone():
    def score(document, candidate):
        assert not document.images
        nouns = [noun for noun in NOUNS if f"a {noun}" in document.text.replace("?", " ").replace(",", " ")]
        if candidate in NOUNS:
            return float(NOUNS[candidate][2] == "large")
        return float(candidate in NOUNS[nouns[0]])

    task = ShapesCommonsense()
    scores = task.run(Likely(score))
    assert scores["accuracy"] == 1 and list(scores["by_kind"]) == ["colour", "shape", "size", "larger"]
    assert scores["by_kind"]["colour"]["n"] == 48 and scores["by_kind"]["larger"]["n"] == 144
    chances = {kind: found["chance"] for kind, found in scores["by_kind"].items()}
    assert chances == pytest.approx({"colour": 1 / 6, "shape": 1 / 6, "size": 0.5, "larger": 0.5})
    assert ShapesCommonsense(limit=3).run(Likely(score))["n"] == 12


def test_names_are_said_freely_and_chosen():
    def named(document):
        (item,) = document.images[0].source.scene.objects
        return f"{item.colour} {item.shape}"

    model = Likely(say=lambda document: f" {named(document)}. and more", among=named)
    scores = ShapesNames(count=5).run(model)
    assert (scores["accuracy"], scores["constrained_accuracy"], scores["n"]) == (1, 1, 5)
    assert set(scores["by_pairs"]) == {"seen", "never seen"} and scores["chance"] == 1 / 48
    longer = ShapesNames(count=5).run(Likely(say=lambda document: f"large {named(document)}", among=named))
    assert (longer["accuracy"], longer["constrained_accuracy"]) == (0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_from_end_to_end(name):
    torch.manual_seed(0)
    model = plait.build("kosmos1", "tiny")
    (task,) = find(f"shapes/{name}", 2)
    scores = task.run(model)
    assert task.name == name and 0 <= scores["accuracy"] <= 1 and json.loads(json.dumps(scores)) == scores


@pytest.mark.parametrize(
    "task", [ShapesMatrices, ShapesOpinions, ShapesDescriptions, ShapesNames], ids=lambda task: task.__name__
)
def test_there_must_be_items(task):
    with pytest.raises(ConfigError, match="0 items: give at least 1"):
        task(count=0)
