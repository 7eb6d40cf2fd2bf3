from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from plait.data.shapes import language
from plait.data.shapes.split import part
from plait.errors import ConfigError
from plait.evaluate import find, retrieval
from plait.evaluate.retrieval import ShapesRetrieval


def knows(pictures, texts):
    """Whether the sentence says what is in the scene."""
    right = [[p.source.scene.content == language.parse(t) for t in texts] for p in pictures]
    return torch.tensor(right).float(), torch.tensor(right).float().T


def one_way(pictures, texts):
    """Right about the texts of pictures, wrong the other way."""
    scores, _ = knows(pictures, texts)
    return scores, -scores.T


def model(**similarities):
    return SimpleNamespace(system=SimpleNamespace(similarities=similarities, name="it"))


def test_who_knows_finds_all():
    task = ShapesRetrieval(pairs=30)
    scores = task.run(model(knows=knows, one_way=one_way))
    right, wrong = {"r@1": 1.0, "r@5": 1.0, "r@10": 1.0, "n": 30}, {"r@1": 0.0, "r@5": 0.0, "r@10": 0.0, "n": 30}
    assert scores == {
        "knows": {"image_to_text": right, "text_to_image": right},
        "one_way": {"image_to_text": right, "text_to_image": wrong},
    }


def test_who_scores_all_alike_finds_nothing():
    scores = ShapesRetrieval(pairs=12).run(model(same=lambda p, t: (torch.zeros(12, 12), torch.zeros(12, 12))))
    assert scores["same"]["image_to_text"]["r@10"] == 0


def test_pairs_are_of_the_test_and_all_differ():
    examples = ShapesRetrieval(pairs=60, objects=(1, 2)).examples()
    assert len({e.scene.content for e in examples}) == len({e.caption for e in examples}) == len(examples) == 60
    assert {part(e.scene.content) for e in examples} == {"test"}
    assert {len(e.scene) for e in examples} == {1, 2}
    assert examples == ShapesRetrieval(pairs=60, objects=(1, 2)).examples()


def test_too_many_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(retrieval, "SEARCHED", 1)
    with pytest.raises(ConfigError, match=r"\d+ pairs that differ among 200 scenes of \(1,\) objects, 200 wanted"):
        ShapesRetrieval(pairs=200, objects=(1,)).examples()
    with pytest.raises(ConfigError, match="among 1 pairs"):
        ShapesRetrieval(pairs=1)


def test_a_system_that_compares_nothing_is_refused():
    with pytest.raises(ConfigError, match="it compares no pictures with texts"):
        ShapesRetrieval(pairs=2).run(SimpleNamespace(system=SimpleNamespace(name="it")))


def test_it_is_known_by_name():
    assert find("shapes/retrieval") == [ShapesRetrieval(pairs=500)]
    assert find("shapes/retrieval", 7) == [ShapesRetrieval(pairs=7)]
