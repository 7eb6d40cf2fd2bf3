"""Boxes: around the pixels, in text, and back."""

from __future__ import annotations

import numpy as np
import pytest

from plait.data.shapes import draw
from plait.data.shapes.boxes import Boxes, box, iou, read, read_list, written
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene
from plait.document import Document


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_the_box_is_around_the_pixels(shape, size, place):
    item = Object("red", shape, size, place, dx=0.01, dy=-0.012, scale=1.03)
    pixels = np.asarray(Scene((item,)).draw(400)).astype(int)
    rows, columns = np.nonzero((np.abs(pixels - draw.BACKGROUND) > 90).any(axis=-1))
    seen = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / 4
    assert np.abs(seen - np.array(box(item))).max() <= 1.5


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 9, 9), (0, 0, 9, 9), 1),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0),
        ((0, 0, 9, 9), (5, 0, 14, 9), 1 / 3),
        ((0, 0, 9, 9), (0, 0, 4, 4), 1 / 4),
        ((5, 5, 5, 5), (5, 5, 5, 5), 1),
    ],
)
def test_iou(first, second, expected):
    assert iou(first, second) == iou(second, first) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "1 2 3 4 5", "1 2 3 100", "9 0 3 9", "0 9 9 3", "1, 2, 3, 4", "a b c d", "-1 2 3 4"]
)
def test_what_is_no_box_is_not_read(text):
    assert read(text) is None


def test_boxes_and_lists_are_read_back():
    for case in Boxes(seed=0, length=100).cases():
        scene = case.document.images[0].source.scene
        for item in scene.objects:
            assert read(f" {written(box(item))}. ") == box(item)
    listed = "red circle 1 2 3 4, and so on, Blue Ring 5 6 7 8."
    assert read_list(listed) == [("red circle", (1, 2, 3, 4)), ("blue ring", (5, 6, 7, 8))]


def case(form):
    return next(case for case in Boxes(seed=1, length=200).cases() if form in case.prompt.text)


def test_a_box_is_worth_its_iou():
    grounding = case("give the box of")
    left, top, right, bottom = read(grounding.reply.text)
    shifted = (left, top, right, bottom - (bottom - top + 1) // 2)
    assert 0.4 < grounding.check(Document(written(shifted))) < 0.6
    assert grounding.check(Document("0 0 0 0")) == 0 or (left, top) == (0, 0)


def test_a_name_must_be_right():
    reading = case("what is in the box")
    colour, shape = reading.reply.text.split()
    assert colour in COLOURS and shape in SHAPES
    assert reading.check(Document(f"{colour} {shape}.")) == 1
    assert reading.check(Document(shape)) == 0


def test_a_list_is_worth_its_entries():
    listing = next(
        case
        for case in Boxes(seed=1, length=400).cases()
        if "boxes" in case.prompt.text and case.reply.text.count(",") == 1
    )
    first, second = listing.reply.text.split(", ")
    assert listing.check(Document(f"{second}, {first}")) == 1
    assert listing.check(Document(first)) == 1 / 2
    assert listing.check(Document(f"{first}, {first}, {second}")) == pytest.approx(2 / 3)
    assert listing.check(Document(f"{first}, {second.split()[0]}")) == 1 / 2


def test_chance(worth, learned):
    guess = worth(Boxes, learned(Boxes))
    print(f"{guess:.3f}")
    assert guess == pytest.approx(Boxes.chance, abs=0.02)
