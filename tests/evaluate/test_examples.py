"""Few-shot episodes: examples by chance or by likeness, and a query."""

from __future__ import annotations

import pytest

from plait.document import Document, Image, Text, joined
from plait.errors import ConfigError
from plait.evaluate.examples import ShapesExamples, examples_of, without_pictures
from plait.generate.model import Model
from plait.systems.emu import Emu


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
