"""A metric in a user's own file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from plait import Document, Image, Model
from plait.data.shapes import Object, Scene, SceneImage
from plait.data.shapes.language import PLACE_WORDS
from plait.evaluate import evaluate, find
from plait.systems.cm3leon import CM3Leon

FILE = Path(__file__).resolve().parents[2] / "examples" / "colour_and_place.py"


@pytest.fixture
def tasks() -> Iterator[tuple]:
    yield tuple(find(f"{FILE}:tasks", 20))
    sys.modules.pop("colour_and_place", None)


class Always:
    """A model that says and draws the same, whatever it is asked."""

    def __init__(self, *objects: Object) -> None:
        self.picture = Image(SceneImage(Scene(objects), 32))
        self.said = " and ".join(f"a {o.size} {o.colour} {o.shape} {PLACE_WORDS[o.place][0]}" for o in objects) + "."

    def generate(self, documents, settings):
        reply = SimpleNamespace(document=Document([self.picture]), text=self.said)
        return [reply] * len(documents)


def test_colours_and_places_are_told_apart(tasks: tuple) -> None:
    asked = [example.scene.content[0] for example in tasks[0].scenes.examples()]
    colour, shape, size, place = asked[0]
    colours = sum(one[0] == colour for one in asked) / 20
    places = sum(one[3] == place for one in asked) / 20
    both = sum((one[0], one[3]) == (colour, place) for one in asked) / 20
    assert 0 < both < min(colours, places) < max(colours, places) < 1
    scores = evaluate(Always(Object(colour, shape, size, place)), tasks)
    expected = {"colour": colours, "place": places, "both": both, "n": 20}
    assert scores == {"read": expected, "draw": expected}


def test_any_system_can_be_scored(cm3leon: CM3Leon) -> None:
    tasks = find(f"{FILE}:tasks", 2)
    scores = evaluate(Model(cm3leon), tasks)
    assert all(0 <= scores[name][key] <= 1 for name in ("read", "draw") for key in ("colour", "place", "both"))
    assert scores["read"]["n"] == scores["draw"]["n"] == 2


def test_two_objects_where_one_was_asked_for_are_wrong(tasks: tuple) -> None:
    two = Always(Object("black", "cross", "large", "middle"), Object("red", "circle", "small", "top"))
    assert evaluate(two, tasks)["draw"] == {"colour": 0, "place": 0, "both": 0, "n": 20}
