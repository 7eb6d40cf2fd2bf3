"""Placements: who draws what is asked where it is asked is right, and a box of another size or place is not."""

from __future__ import annotations

import pytest

from plait.data.shapes.boxes import box, kind, written
from plait.data.shapes.placements import Placements, placed
from plait.data.shapes.world import PLACES, SIZES, Object, Scene, SceneImage
from plait.document import Document, Image


def picture(*objects):
    return Document(Image(SceneImage(Scene(objects), 32)))


def objects(case):
    return case.reply.images[0].source.scene.objects


def test_the_request_tells_kind_and_box_of_every_object():
    for case in Placements(seed=1, length=40).cases():
        told = [f"{kind(item)} {written(box(item))}" for item in objects(case)]
        assert all(one in case.prompt.text for one in told)
        assert case.prompt.text.count(", ") == len(told) - 1


def test_noise_does_not_matter_and_size_and_place_do():
    for case in Placements(seed=2, length=200, split="test", resolution=32).cases():
        plain = [Object(*item.facts) for item in objects(case)]
        assert case.check(picture(*plain)) == 1
        first, *rest = plain
        resized = first.changed("size", SIZES[1 - SIZES.index(first.size)])
        free = next(place for place in PLACES if all(item.place != place for item in plain))
        for wrong in (resized, first.changed("place", free)):
            assert case.check(picture(wrong, *rest)) == pytest.approx(len(rest) / len(plain))


def test_more_than_asked_and_other_colours_count_against_it():
    one, other = Object("red", "circle", "large", "top"), Object("blue", "square", "small", "left")
    asked = [(kind(one), box(one))]
    assert placed(asked, picture(one)) == 1
    assert placed(asked, picture(one, other)) == 0.5
    assert placed(asked, picture(one.changed("colour", "green"))) == 0
    assert placed([*asked, (kind(other), box(other))], picture(one)) == 0.5
    assert placed(asked, Document()) == placed(asked, picture()) == 0


def test_the_chance_level(worth):
    def ordered(case):
        found = sorted(objects(case), key=lambda item: PLACES.index(item.place))
        return picture(*(Object(*item.facts[:2], "large", place) for item, place in zip(found, PLACES, strict=False)))

    assert worth(Placements, ordered) == pytest.approx(Placements.chance, abs=0.02)
