"""Tasks on the shapes world, scored with models that know, that say nothing, and that guess."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plait.data.shapes import language
from plait.data.shapes.split import part
from plait.data.shapes.told import read
from plait.data.shapes.world import Object, Scene, SceneImage
from plait.document import Document, Image, Text
from plait.errors import ConfigError
from plait.evaluate import TASKS, evaluate, find
from plait.evaluate.shapes import (
    Held,
    ShapesCaption,
    ShapesDescription,
    ShapesDraw,
    ShapesDrawings,
    ShapesQuestions,
    ShapesTextQuestions,
    majority,
    tasks,
)
from plait.generate.engine import Reply
from plait.generate.model import Model
from plait.images import from_array
from plait.systems.cm3leon import TINY, CM3Leon
from plait.text.bpe import BPE
from plait.text.requests import DRAW

HELD = Held(seed=3, scenes=30, never_seen=12, three=10)


class Oracle:
    """A model that knows the world, and nothing but what it is shown and asked."""

    def __init__(self, held):
        self.answers = {
            (item.example.scene, question.text): question.answer
            for item in held.items()
            for question in item.example.questions
        }

    def generate(self, documents, settings):
        return [Reply(document=Document(self.answer(document)), runs=(), stop="end") for document in documents]

    def answer(self, document):
        if not document.turns:
            facts = language.parse(document.text)
            return [Image(SceneImage(Scene(tuple(Object(*fact) for fact in facts)), 32))]
        scene = document.images[0].source.scene
        if document.text in language.REQUESTS:
            return [Text(language.say(scene.objects, language.WORDINGS[0]))]
        return [Text(self.answers.get((scene, document.text), "no") + ".")]


class Silent(Oracle):
    """Says nothing and draws nothing."""

    def answer(self, document):
        return []


class Careless(Oracle):
    """Leaves out the last object, and answers every question with yes."""

    def answer(self, document):
        if not document.turns:
            facts = language.parse(document.text)
            return [Image(SceneImage(Scene(tuple(Object(*fact) for fact in facts[:-1])), 32))]
        if document.text in language.REQUESTS:
            objects = document.images[0].source.scene.objects[:-1]
            return [Text(language.say(objects, language.WORDINGS[0]) if objects else "hm")]
        return [Text("yes")]


class Picky(Oracle):
    """Leaves out the last object but for every third drawing, and likes the pictures in which it finds all."""

    def generate(self, documents, settings):
        careful, careless = Oracle(HELD), Careless(HELD)
        said = [
            (careful if one.seed % 3 == 2 else careless).answer(document)
            for document, one in zip(documents, settings, strict=True)
        ]
        return [Reply(document=Document(answer), runs=(), stop="end") for answer in said]

    def score(self, documents, candidates):
        scenes = [document.images[0].source.scene for document in documents]
        told = [language.parse(text) for text in candidates]
        return [float(len(scene.objects) - len(facts)) for scene, facts in zip(scenes, told, strict=True)]


def run(model):
    return evaluate(model, [ShapesCaption(held=HELD), ShapesQuestions(held=HELD), ShapesDraw(held=HELD)])


@pytest.fixture(scope="module")
def perfect():
    return run(Oracle(HELD))


def test_who_knows_scores_one(perfect):
    assert perfect["caption"]["object_f1"] == 1
    assert perfect["caption"]["unread"] == 0
    assert perfect["vqa"]["accuracy"] == 1
    assert perfect["draw"]["object_accuracy"] == 1
    assert perfect["draw"]["exact"] == 1
    assert perfect["vqa"]["blind_accuracy"] < 0.5
    assert perfect["vqa"]["majority_accuracy"] < 0.6
    for kind, scores in perfect["vqa"]["by_kind"].items():
        assert scores["accuracy"] == 1, kind
        assert scores["blind_accuracy"] < 0.9, kind


def test_steps_before_an_answer_are_not_judged():
    class Reasoning(Oracle):
        """Answers rightly behind steps, which are right or wrong."""

        def __init__(self, held, steps):
            super().__init__(held)
            for item in held.items():
                for question in item.example.questions:
                    self.answers[item.example.scene, question.text] = f"{steps}: {question.answer}"

    for steps in ("red circle yes", "circle: no"):
        assert ShapesQuestions(held=HELD).run(Reasoning(HELD, steps))["accuracy"] == 1
    reversed_ = Reasoning(HELD, "red circle yes")
    reversed_.answers = {key: ": ".join(answer.split(": ")[::-1]) for key, answer in reversed_.answers.items()}
    assert ShapesQuestions(held=HELD).run(reversed_)["accuracy"] == 0


def test_the_best_of_several_drawings_is_the_one_that_the_model_would_describe_so():
    scores = ShapesDraw(held=HELD, best_of=3).run(Picky(HELD))
    assert scores["object_accuracy"] == 1
    careless = ShapesDraw(held=HELD).run(Careless(HELD))
    assert scores["first"] == {name: careless[name] for name in ("object_accuracy", "exact", "n")}


def test_descriptions_that_fail_are_counted_by_their_fault():
    says = {
        1: "a small ring at the top",
        2: "a small red ring at the top, a small red ring at the top.",
    }

    class Failing(Oracle):
        """Says a fragment of one object, something twice of two, nothing of three."""

        def answer(self, document):
            return [Text(says[len(scene)])] if len(scene := document.images[0].source.scene) < 3 else []

    (right, wrong) = (ShapesDescription(held=HELD).run(model) for model in (Oracle(HELD), Failing(HELD)))
    assert right["failed"] == 0 and set(right["by_fault"].values()) == {0}
    assert (wrong["failed"], wrong["n"]) == (1, 60)
    assert wrong["by_fault"] == {"empty": 0, "foreign": 0, "repetition": 0.5, "fragment": 0.5}
    assert wrong["by_objects"]["3"] == {"failed": 1, "n": 10} and wrong["by_pairs"]["never seen"]["n"] == 24
    says[1] = says[2] = "le rouge."
    assert ShapesDescription(held=HELD).run(Failing(HELD))["by_fault"]["foreign"] == 1
    says[1] = "a big red ring in the middle."  # wrong, and a description all the same
    assert ShapesDescription(held=HELD).run(Failing(HELD))["failed"] == 0.5


class Reader(Oracle):
    """Knows nothing but what it is told in words."""

    def __init__(self, held):
        super().__init__(held)
        self.answers = {(scene.content, question): answer for (scene, question), answer in self.answers.items()}

    def answer(self, document):
        words, question = re.fullmatch(r"<Img> (.*) </Img> (.*)", document.text).groups()
        return [Text(self.answers.get((read(words), question), "no"))]


def test_who_is_told_knows():
    scores = evaluate(Reader(HELD), [ShapesTextQuestions(held=HELD)])["told"]
    assert scores["accuracy"] == 1 and scores["n"] == 120
    assert scores["by_objects"]["3"]["accuracy"] == scores["by_pairs"]["never seen"]["accuracy"] == 1
    assert 0 < scores["blind_accuracy"] < 0.4  # with nothing told it says no


def test_the_groups(perfect):
    for task, each in (("caption", 1), ("vqa", 2), ("draw", 1)):
        scores = perfect[task]
        assert scores["n"] == 60 * each
        assert {key: group["n"] for key, group in scores["by_objects"].items()} == {
            "1": 30 * each,
            "2": 30 * each,
            "3": 10 * each,
        }
        assert {key: group["n"] for key, group in scores["by_pairs"].items()} == {
            "seen": 60 * each,
            "never seen": 24 * each,
        }
    assert sum(group["n"] for group in perfect["vqa"]["by_kind"].values()) == 120
    for task, asked in (("vqa", 120), ("draw", 60)):  # wordings are read there, those of the test alone among them
        groups = {key: group["n"] for key, group in perfect[task]["by_wordings"].items()}
        assert set(groups) == {"seen", "never seen"} and sum(groups.values()) == asked
        assert 0 < groups["never seen"] < asked / 3
    assert "by_wordings" not in perfect["caption"]
    assert json.loads(json.dumps(perfect)) == perfect


def test_who_says_nothing_scores_zero():
    scores = run(Silent(HELD))
    assert scores["caption"]["object_f1"] == 0
    assert scores["caption"]["unread"] == 1
    assert scores["vqa"]["accuracy"] == 0
    assert scores["draw"]["object_accuracy"] == 0


def test_pictures_are_given_again_by_every_way():
    def again(pictures, texts, generators):
        return [Image(picture.open()) for picture in pictures]

    def told(pictures, texts, generators):
        return [Image(SceneImage(Scene(tuple(Object(*fact) for fact in language.parse(text))), 32)) for text in texts]

    def noise(pictures, texts, generators):
        values = [torch.rand(3, 32, 32, generator=generator) * 2 - 1 for generator in generators]
        return [Image(from_array(value.numpy())) for value in values]

    system = SimpleNamespace(name="it", drawings={"again": again, "told": told, "noise": noise})
    model = SimpleNamespace(system=system)
    scores = ShapesDrawings(held=HELD).run(model)
    assert scores["again"]["object_accuracy"] == scores["told"]["exact"] == 1.0
    assert scores["again"]["n"] == 60 and scores["again"]["by_objects"]["3"]["n"] == 10
    assert scores["noise"]["object_accuracy"] < 0.2
    assert ShapesDrawings(held=HELD, seed=0).run(model)["noise"] == scores["noise"]
    assert find("shapes/drawings", 5)[0].held.scenes == 5
    with pytest.raises(ConfigError, match="it gives no pictures again: score it by another task"):
        ShapesDrawings(held=HELD).run(SimpleNamespace(system=SimpleNamespace(name="it", drawings={})))


def test_half_right():
    scores = run(Careless(HELD))
    assert scores["caption"]["by_objects"]["1"]["object_f1"] == 0
    assert scores["caption"]["by_objects"]["2"]["object_f1"] == pytest.approx(2 / 3)  # all said is right, half of all
    assert scores["caption"]["object_f1"] == pytest.approx(2 * 30 / (30 + 90))
    assert scores["draw"]["by_objects"]["2"]["object_accuracy"] == 0.5
    assert scores["draw"]["by_objects"]["3"]["object_accuracy"] == pytest.approx(2 / 3)
    assert scores["draw"]["object_accuracy"] == 0.25
    assert scores["draw"]["exact"] == 0
    assert scores["vqa"]["accuracy"] == scores["vqa"]["blind_accuracy"]  # it never looks
    assert 0 < scores["vqa"]["accuracy"] < 0.5


def test_a_model_that_is_not_spoken_to_is_shown_the_picture_alone():
    class Captioner(Oracle):
        def answer(self, document):
            (image,) = document.pieces
            caption = language.say(image.source.scene.objects, language.WORDINGS[0])
            return [Text(f"{caption}\nand more that does not count")]

    scores = evaluate(Captioner(HELD), [ShapesCaption(held=HELD, asked=False)])["caption"]
    assert scores["object_f1"] == 1 and scores["unread"] == 0


def test_the_held_out_scenes():
    items = Held().items()
    assert sum(item.counts for item in items) == 500
    counts = Counter((item.objects, item.pairs) for item in items)
    assert counts == {(1, "seen"): 250, (2, "seen"): 250, (3, "seen"): 200, (1, "held-out"): 100, (2, "held-out"): 100}
    assert {part(item.example.scene.content) for item in items} == {"test"}
    assert all(len(item.example.scene) == item.objects for item in items)
    assert [item.number for item in items] == list(range(900))
    single = {item.example.scene.content for item in items if item.objects == 1 and item.counts}
    assert len(single) > 90  # of the 103 that the test has
    assert Held().items() == items
    assert replace(Held(), seed=1).items() != items
    with pytest.raises(ConfigError, match="0 scenes"):
        Held(scenes=0)


def test_majority_is_what_the_world_says_of_it():
    items = [item for item in Held().items() if item.counts]
    guess = majority(5)
    right = [guess(question) == question.answer for item in items for question in item.example.questions]
    assert sum(right) / len(right) == pytest.approx(0.31, abs=0.06)  # docs/shapes.md


def test_the_blind_picture_is_empty():
    asked = []

    class Watching(Silent):
        def answer(self, document):
            asked.append(document)
            return []

    ShapesQuestions(held=HELD).run(Watching(HELD))
    blind = asked[-1].images[0].open()
    assert blind.size == (32, 32)
    assert np.ptp(np.asarray(blind)) == 0
    assert [turn.role for turn in asked[-1].turns] == ["user"]


def test_a_model_from_end_to_end():
    torch.manual_seed(0)
    config = replace(TINY, width=24, depth=1, heads=2)
    held = Held.at_most(3)
    system = CM3Leon(config, BPE.train([item.example.caption for item in held.items()], 320))
    scores = evaluate(Model(system), tasks(3))
    assert scores["caption"]["n"] == scores["draw"]["n"] == 6
    assert scores["vqa"]["n"] == 12
    for name, key in (("caption", "object_f1"), ("vqa", "accuracy"), ("draw", "object_accuracy")):
        assert 0 <= scores[name][key] < 0.5
    assert evaluate(Model(system), tasks(3)) == scores


OWN = """
NUMBER = 3


class Mine:
    name = "mine"

    def __init__(self, limit):
        self.limit = limit

    def run(self, model):
        return {}


def mine(limit):
    return [Mine(limit)]


def numbers(limit):
    return [1, 2]
"""


def test_find(tmp_path):
    assert [task.name for task in find("shapes", 5)] == ["caption", "vqa", "draw"]
    assert {task.held for task in find("shapes", 5)} == {Held(scenes=5, never_seen=5, three=5)}
    assert find("shapes/draw")[0].held == Held()
    assert {name: [task.name for task in factory(None)] for name, factory in TASKS.items()}["shapes/vqa"] == ["vqa"]
    (tmp_path / "own_tasks.py").write_text(OWN)
    assert [task.limit for task in find(f"{tmp_path}/own_tasks.py:mine", 7)] == [7]
    assert [task.limit for task in find(f"{tmp_path}/own_tasks.py:Mine", 8)] == [8]  # one alone
    for name, message in [("NUMBER", "is a int: name a function"), ("numbers", "gives a int: a task has a name and")]:
        with pytest.raises(ConfigError, match=message):
            find(f"{tmp_path}/own_tasks.py:{name}")
    with pytest.raises(ConfigError, match="did you mean 'shapes'"):
        find("shape")
    with pytest.raises(ConfigError, match="at least 1"):
        find("shapes", 0)


def test_scores_have_the_form_of_the_report(perfect, tmp_path):
    from plait.train.report import write_report

    (tmp_path / "scores.json").write_text(json.dumps(perfect))
    page = write_report(tmp_path).read_text()
    assert all(word in page for word in ("object f1", "by objects", "never seen", "blind accuracy", "relation"))


def test_who_is_asked_in_a_conversation_draws_too():
    class Asked(Oracle):
        """Reads the caption out of what it is asked."""

        def answer(self, document):
            (turn,) = document.turns
            (facts,) = (facts for way in DRAW if (facts := named(way.asked, turn.text)))
            return [Text("Here."), Image(SceneImage(Scene(tuple(Object(*fact) for fact in facts)), 32))]

    def named(asked, text):
        before, after = asked.split("{}")
        fits = text.startswith(before) and text.endswith(after)
        return language.parse(text.removeprefix(before).removesuffix(after)) if fits else None

    scores = ShapesDraw(held=HELD, asked=True).run(Asked(HELD))
    assert scores["object_accuracy"] == scores["exact"] == 1 and scores["n"] == 60
