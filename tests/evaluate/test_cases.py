"""Tasks on kinds of cases, scored with models that know, that copy, and that look at nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from plait.config import from_plain, to_plain
from plait.data.shapes.split import part
from plait.data.shapes.world import SceneImage
from plait.document import Document, Image, Video
from plait.errors import ConfigError
from plait.evaluate import TASKS, evaluate, find
from plait.evaluate.cases import SUBJECTS, ShapesCases
from plait.generate.engine import Reply
from plait.generate.model import Model
from plait.systems.cm3leon import TINY, CM3Leon
from plait.text.bpe import BPE

FEW = 24
DRAWN = ("edit", "segmentation", "edges", "boxes", "writing", "composition", "in_context")
every = pytest.mark.parametrize("name", SUBJECTS)


def pictures(document):
    """Those of videos too."""
    frames = [frame for piece in document.pieces if isinstance(piece, Video) for frame in piece.frames]
    return [*document.images, *frames]


class Knowing:
    """A model that gives the right reply to every prompt that it was told, and nothing to others."""

    def __init__(self, task):
        self.replies = {self.key(case.prompt): case.reply for case in task.cases()}
        self.asked = []

    def key(self, prompt):
        return prompt.text, *(image.source for image in pictures(prompt))

    def generate(self, documents, settings):
        self.asked += documents
        self.settings = settings
        return [Reply(document=self.reply(document), runs=(), stop="end") for document in documents]

    def reply(self, document):
        return self.replies.get(self.key(document), Document())


class Copying(Knowing):
    """Gives back the first picture of the prompt."""

    def reply(self, document):
        return Document(document.images[:1])


@every
def test_who_knows_scores_one(name):
    task = ShapesCases(name=name, count=FEW)
    model = Knowing(task)
    scores = task.run(model)
    measures = list(SUBJECTS[name].measures)
    assert [scores[measure] for measure in measures] == [1] * len(measures) and scores["n"] == FEW
    assert (model.settings.max_new_tokens == 0) == (name in DRAWN)
    shown = bool(pictures(model.asked[0]))
    assert len(model.asked) == FEW * (1 + shown) and (f"blind_{measures[0]}" in scores) == shown
    assert scores.get(f"blind_{measures[0]}", 0) == 0
    assert (f"copied_{measures[0]}" in scores) == (shown and name in DRAWN) != ("chance" in scores)
    for group in SUBJECTS[name].groups:
        assert len(scores[group]) > 1 and sum(part["n"] for part in scores[group].values()) == FEW
    assert json.loads(json.dumps(scores)) == scores


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "in_context"])
def test_who_tells_first_may_write_and_is_judged_by_the_picture(name):
    task = ShapesCases(name=name, count=FEW, steps=True)
    model = Knowing(task)
    scores, measure = task.run(model), next(iter(SUBJECTS[name].measures))
    assert scores[measure] == 1 and model.settings.max_new_tokens > 0
    assert all(reply.text and len(reply.images) == 1 for reply in model.replies.values())
    model.replies = {key: Document(reply.text) for key, reply in model.replies.items()}
    assert task.run(model)[measure] == 0


@every
def test_cases_are_of_the_test_and_always_the_same(name):
    task = ShapesCases(name=name, count=FEW)
    cases, again = list(task.cases()), list(ShapesCases(name=name, count=2 * FEW).cases())
    assert [case.document for case in cases] == [case.document for case in again[:FEW]]
    shown = [image.source for case in cases for image in pictures(case.document)]
    enough = any if name in ("in_context", "video") else all  # of pictures side by side, that which is asked about
    for case in cases:
        scenes = [one.source.scene for one in pictures(case.document) if isinstance(one.source, SceneImage)]
        assert not scenes or enough(part(scene.content) == "test" for scene in scenes)
    assert {source.resolution for source in shown} == {32}
    assert next(iter(replace(task, seed=1).cases())).document != cases[0].document


def test_a_copy_is_no_picture_of_a_map():
    for name in ("segmentation", "edges"):
        task = ShapesCases(name=name, count=FEW)
        scores = task.run(Copying(task))
        assert scores["object_accuracy"] == scores["copied_object_accuracy"] == scores["blind_object_accuracy"] == 0
        assert scores["overlap"] < 0.2


def test_a_copy_is_not_the_edit():
    task = ShapesCases(name="edit", count=60)
    scores = task.run(Copying(task))
    assert scores["done"] == 0 and scores["object_accuracy"] == scores["copied_object_accuracy"]
    assert 0.4 < scores["object_accuracy"] < 0.75  # one object of two or three is wrong
    assert set(scores["by_change"]) == {"add", "remove", "colour", "shape", "size", "place"}
    for case in task.cases():
        (group,) = (group for name, group in SUBJECTS["edit"].groups.items() if name == "by_change")
        words = case.prompt.text
        assert (group(case) == "remove") == any(word in words for word in ("remove", "away", "without"))


def test_the_blind_see_an_empty_scene():
    task = ShapesCases(name="dialogue", count=3)
    model = Knowing(task)
    task.run(model)
    seen, blind = model.asked[:3], model.asked[3:]
    assert [d.text for d in blind] == [d.text for d in seen]
    assert [[turn.role for turn in d.turns] for d in blind] == [[turn.role for turn in d.turns] for d in seen]
    assert all(len(d.images[0].source.scene) == 0 for d in blind)


def test_a_model_from_end_to_end():
    torch.manual_seed(0)
    names = [name for name in SUBJECTS if name != "video"]  # which it does not read
    tasks = [ShapesCases(name=name, count=1) for name in names]
    texts = [piece.document.text for task in tasks for piece in task.cases()]
    model = Model(CM3Leon(replace(TINY, width=24, depth=1, heads=2), BPE.train(texts, 320)))
    scores = evaluate(model, tasks)
    assert list(scores) == names
    assert all(0 <= scores[name][measure] <= 1 for name in names for measure in SUBJECTS[name].measures)
    assert evaluate(model, tasks[:1]) == {"edit": scores["edit"]}


def test_they_are_found_by_name_and_written_down():
    assert {f"shapes/{name}" for name in SUBJECTS} <= set(TASKS)
    (task,) = find("shapes/edit", 7)
    assert task == ShapesCases(name="edit", count=7) == from_plain(ShapesCases, to_plain(task))
    assert find("shapes/edit-steps", 7) == [replace(task, steps=True)] and "shapes/in_context-steps" not in TASKS
    with pytest.raises(ConfigError, match="2 tasks have the name 'edit'"):
        evaluate(Knowing(task), [task, replace(task, steps=True)])
    assert find("shapes/boxes")[0].count == ShapesCases.count
    with pytest.raises(ConfigError, match="no cases are scored as 'edits'; did you mean 'edit'"):
        ShapesCases(name="edits")
    with pytest.raises(ConfigError, match="dialogue: steps=True, but its replies are no pictures"):
        ShapesCases(name="dialogue", steps=True)
    with pytest.raises(ConfigError, match="0 cases: give at least 1"):
        ShapesCases(name="edit", count=0)


def test_a_picture_that_cannot_be_read_is_worth_nothing():
    (case,) = ShapesCases(name="edit", count=1).cases()
    for measure in SUBJECTS["edit"].measures.values():
        assert measure(case, Document(Image(b"no picture"))) == measure(case, Document()) == 0
