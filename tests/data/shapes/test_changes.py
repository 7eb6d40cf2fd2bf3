"""Changes: of one object, within the pairs that training shows."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from plait.data.shapes.chance import Chance
from plait.data.shapes.changes import Change, Kind, draw_change
from plait.data.shapes.split import SEEN_PAIRS, draw_distinct
from plait.data.shapes.world import PLACES, Object, Scene


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_change_does_what_its_kind_says(kind):
    attribute = {"moves": "place", "turns": "colour", "resizes": "size"}.get(kind)
    for i in range(200):
        chance = Chance(0, i)
        scene = draw_distinct(chance, 3)
        change = draw_change(kind, scene, chance)
        after = change.apply(scene)
        assert len(after) == 3 + {"appears": 1, "vanishes": -1}.get(kind, 0)
        assert len({item.place for item in after.objects}) == len(after)
        pairs = [item.facts[:2] for item in after.objects]
        assert len(set(pairs)) == len(pairs)
        assert set(pairs) <= set(SEEN_PAIRS)
        common = Counter(scene.content) & Counter(after.content)
        assert common.total() == (3 if kind == "appears" else 2)
        if attribute:
            names = ("colour", "shape", "size", "place", "dx", "dy", "scale", "shade")
            assert [n for n in names if getattr(change.before, n) != getattr(change.after, n)] == [attribute]


def test_what_is_spared_stays_and_what_is_past_is_not_taken():
    scene = Scene((Object("red", "circle", "large", "top"), Object("blue", "ring", "small", "left")))
    past = [Object("pink", "cross", "small", place) for place in PLACES if place not in ("top", "left", "right")]
    for i in range(50):
        change = draw_change("moves", scene, Chance(1, i), spared=scene.objects[:1], past=past)
        assert change == Change(scene.objects[1], Object("blue", "ring", "small", "right"))
        assert draw_change("appears", scene, Chance(1, i), past=past).after.place == "right"


def test_no_room():
    one = Scene((Object("red", "circle", "large", "top"),))
    everywhere = [Object("pink", "cross", "small", place) for place in PLACES]
    assert draw_change("vanishes", one, Chance(0)) is None
    assert draw_change("moves", one, Chance(0), past=everywhere) is None
    assert draw_change("appears", one, Chance(0), past=everywhere) is None
    assert draw_change("turns", one, Chance(0), spared=one.objects) is None
