from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

import plait
from plait.document import Document, Image, Text
from plait.errors import ConfigError
from plait.evaluate.prompting import AtRandom, FewShot, Nearest, answering, best, rank, two_steps
from plait.generate.engine import Reply, Settings
from plait.retrieval.embed import Embedder

POOL = [Document([Text(f"question {i}"), Text(f"answer {i}.")]) for i in range(10)]
PROMPT = Document([Text("question")])


class Saying:
    """A model that answers with what it was asked, and has settings for answers if it is given some."""

    def __init__(self, presets=()):
        self.format = SimpleNamespace(presets=dict(presets))

    def settings(self, preset=None, **overrides):
        return Settings(**{**(self.format.presets[preset] if preset else {}), **overrides})

    def generate(self, documents, settings):
        self.given = settings
        return [Reply(document=Document(f"said {document.text}"), runs=(), stop="end") for document in documents]

    def score(self, documents, candidates, ended=True):
        assert len(documents) == len(candidates)
        return [-float(len(candidate)) - 10 * ended for candidate in candidates]


def test_examples_stand_in_front():
    shown = FewShot(POOL, 3)(PROMPT, 0)
    *examples, last = shown.pieces
    assert last == Text("question") and len(examples) == 6
    numbers = [piece.text.split()[1] for piece in examples[::2]]
    assert [piece.text for piece in examples[1::2]] == [f"answer {number}." for number in numbers]
    assert len(set(numbers)) == 3


def test_they_are_drawn_by_the_number_of_the_prompt():
    ways = FewShot(POOL, 4)
    assert ways(PROMPT, 5) == ways(PROMPT, 5) != ways(PROMPT, 6)
    assert FewShot(POOL, 4, AtRandom(seed=1))(PROMPT, 5) != ways(PROMPT, 5)
    assert {piece.text for i in range(40) for piece in FewShot(POOL, 1)(PROMPT, i).pieces[:1]} == {
        f"question {i}" for i in range(10)
    }


def test_none_leaves_the_prompt_and_more_than_there_are_is_refused():
    assert FewShot(POOL, 0)(PROMPT, 0) is PROMPT
    with pytest.raises(ConfigError, match="11 examples of a pool of 10"):
        FewShot(POOL, 11)


def test_the_likest_pictures_come_last():
    def grey(level):
        return Image(PIL.Image.new("RGB", (2, 2), (level, 255 - level, 0)))

    def look(pictures):
        mean = torch.tensor(np.stack([np.asarray(p.open()).mean((0, 1)) for p in pictures]), dtype=torch.float32)
        return torch.nn.functional.normalize(mean, dim=1)

    towers = SimpleNamespace(width=3, texts=lambda texts: torch.ones(len(texts), 3), pictures=look)
    pool = [Document([grey(level), Text(str(level))]) for level in (0, 200, 100, 250, 50)]
    chosen = Nearest.of(pool, Embedder(towers, {}))
    assert FewShot(pool, 3, chosen)(Document([grey(240)]), 0).text == "100200250"


def test_the_second_step_sees_what_the_first_said():
    model = Saying()
    prompts = two_steps(model, POOL[:2], lambda number, text: Document(f"{number}: {text}"))
    assert [prompt.text for prompt in prompts] == ["0: said question 0answer 0.", "1: said question 1answer 1."]
    assert model.given.max_new_tokens == 24


def test_candidates_are_ranked_with_and_without_the_end():
    model = Saying()
    assert rank(model, POOL[:2], [["yes", "no"], ["a"]]) == [[-13.0, -12.0], [-11.0]]
    assert rank(model, POOL[:1], [["yes"]], ended=False) == [[-3.0]]
    assert best([-2.0, -1.0, -1.0]) == 1


def test_settings_for_answers_are_the_systems_own():
    assert answering(Saying()) == Settings(max_new_tokens=24)
    assert answering(Saying({"answers": {"max_new_tokens": 9, "stop": ((5,),)}})) == Settings(
        max_new_tokens=9, stop=((5,),)
    )
    model = plait.build("kosmos1", "tiny")
    assert answering(model, 7) == Settings(max_new_tokens=7, stop=((model.format.image,),))
