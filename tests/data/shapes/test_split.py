"""Seen and unseen: nothing held out occurs in training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.chance import Chance
from plait.data.shapes.split import HELD_OUT_PAIRS, SEEN_PAIRS, belong, draw_distinct, draw_scene, hashed, part
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES

TRAIN = Shapes(seed=3, length=20_000, objects=(1, 2, 3))


@pytest.fixture(scope="module")
def train_contents():
    return [TRAIN.scene(i).content for i in range(len(TRAIN))]


def test_no_held_out_scene_in_training(train_contents):
    seen = set(train_contents)
    assert all(part(content) == "train" for content in seen)
    for split, pairs in (("validation", "seen"), ("test", "seen"), ("test", "held-out")):
        source = replace(TRAIN, split=split, pairs=pairs, length=1000)
        contents = {source.scene(i).content for i in range(len(source))}
        assert not contents & seen
        assert all(part(content) == split for content in contents)
        held_out = [any(item[:2] in HELD_OUT_PAIRS for item in content) for content in contents]
        assert all(held_out) if pairs == "held-out" else not any(held_out)


def test_held_out_pairs_are_a_tenth_and_leave_the_rest_frequent(train_contents):
    assert len(HELD_OUT_PAIRS) == round(len(COLOURS) * len(SHAPES) / 10)
    objects = [item for content in train_contents for item in content]
    assert not {item[:2] for item in objects} & HELD_OUT_PAIRS
    for position, values in enumerate((COLOURS, SHAPES, SIZES, PLACES)):
        counts = Counter(item[position] for item in objects)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.3 * min(counts.values())
    assert len({item[:2] for item in objects}) == len(COLOURS) * len(SHAPES) - len(HELD_OUT_PAIRS)


def test_part_does_not_depend_on_order_or_process():
    content = [("red", "circle", "small", "top"), ("blue", "ring", "large", "left")]
    assert part(content) == part(reversed(content))
    names = [part([("blue", "square", "small", place)]) for place in PLACES]
    assert names == ["train", "test", "train", "validation", "test", "train", "train", "train", "train"]


def test_shares_of_the_parts():
    every = Counter(
        part([(c, s, size, p)])
        for c in COLOURS
        for s in SHAPES
        for size in SIZES
        for p in PLACES
        if (c, s) not in HELD_OUT_PAIRS
    )
    assert every["test"] / every.total() == pytest.approx(2 / 16, abs=0.03)
    assert every["validation"] / every.total() == pytest.approx(1 / 16, abs=0.02)


def test_scenes_have_the_asked_number_of_objects_at_different_places():
    chance = Chance(0)
    for objects in ((1,), (2, 3), (9,)):
        scenes = [draw_scene(chance, objects, "train") for _ in range(50)]
        assert {len(scene) for scene in scenes} == set(objects)
        assert all(len({item.place for item in scene.objects}) == len(scene) for scene in scenes)


def test_a_scene_is_a_function_of_seed_and_index():
    assert TRAIN.scene(7) == replace(TRAIN, length=8).scene(7)
    assert TRAIN.scene(7) != TRAIN.scene(8)
    assert TRAIN.scene(7) != replace(TRAIN, seed=4).scene(7)
    assert TRAIN.scene(2).content == TRAIN.scene(2).content


def test_pictures_shown_together():
    chance = Chance(1)
    train, other, test = (draw_scene(chance, (2,), which) for which in ("train", "train", "test"))
    assert belong([train, other], other, "train")
    assert not belong([train, test], train, "train")  # nothing of the test beside
    assert belong([train, test], test, "test")
    assert not belong([train, test], train, "test")
    assert not belong([train, test], test, "validation")


def test_hashes_of_text_keep_to_the_shares():
    counts = Counter(hashed(str(number)) for number in range(8000))
    assert counts["test"] / 8000 == pytest.approx(2 / 16, abs=0.01)
    assert counts["validation"] / 8000 == pytest.approx(1 / 16, abs=0.01)


def test_distinct_objects():
    chance, parts = Chance(2), set()
    for _ in range(200):
        scene = draw_distinct(chance, 4)
        assert len({item.facts[:2] for item in scene.objects} & set(SEEN_PAIRS)) == 4
        assert len({item.place for item in scene.objects}) == 4
        parts.add(part(scene.content))
    assert parts == {"train", "validation", "test"}
