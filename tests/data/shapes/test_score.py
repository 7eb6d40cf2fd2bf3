"""Scores of drawings and captions."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from plait.data.shapes.score import (
    Counts,
    drawing,
    draws,
    match,
    object_accuracy,
    object_counts,
    overlap,
    says,
)
from plait.data.shapes.world import Object, Scene
from plait.document import Document, Image, Text

RED = ("red", "circle", "large", "top")
BLUE = ("blue", "ring", "small", "left")
SCENE = Scene((Object(*RED), Object(*BLUE)))


def test_match_is_one_to_one():
    assert match([RED, BLUE], [BLUE, BLUE]) == [BLUE]
    assert match([RED], [("red", "circle", "small", "top")]) == []


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        ([RED, BLUE], [BLUE, RED], 1),
        ([RED, BLUE], [RED], 1 / 2),
        ([RED], [RED, BLUE], 1 / 2),
        ([RED], [], 0),
        ([], [], 1),
        ([RED, BLUE], [BLUE, BLUE, RED], 2 / 3),
    ],
)
def test_object_accuracy(asked, found, expected):
    assert object_accuracy(asked, found) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a large red circle at the top and a small blue ring at the left.", (2, 2, 2)),
        ("a small red circle at the top.", (1, 1, 2)),  # size is not counted
        ("a large red circle at the top and a large red circle at the top.", (1, 2, 2)),
        ("a circle", (0, 0, 2)),
    ],
)
def test_object_counts(sentence, expected):
    assert object_counts(SCENE, sentence) == expected


def test_f1():
    assert Counts(1, 1, 2).f1 == pytest.approx(2 / 3)
    assert Counts(0, 0, 2).f1 == 0
    assert Counts(0, 0, 0).f1 == 1


@pytest.mark.parametrize(
    ("reply", "expected"), [("top left", 1), (" Top  left. ", 1), ("top", 0), ("the top left", 0), ("", 0)]
)
def test_says(reply, expected):
    assert says("top left", Document(reply)) == expected


def test_draws_reads_the_first_picture():
    picture = Image(SCENE.draw(64))
    assert draws(SCENE.content, Document([Text("so: "), picture, Image(Scene(()).draw(64))])) == 1
    assert draws(SCENE.content, Document([Image(SCENE.draw(64, "pastel"))]), "pastel") == 1
    assert draws([RED], Document([picture])) == 1 / 2
    assert draws([RED], Document("a red circle")) == 0


def test_a_drawing_is_square_or_nothing():
    assert drawing(Document([Image(PIL.Image.new("RGB", (40, 20)))])).size == (40, 40)
    assert drawing(Document([Image(b"no picture")])) is None
    assert drawing(Document()) is None


def test_overlap_leaves_the_background_out():
    asked = np.array([[0, 0, 1, 2]])
    for found, expected in (([0, 0, 1, 2], 1), ([0, 0, 0, 0], 0), ([0, 0, 1, 1], 1 / 2), ([2, 0, 1, 2], 2 / 3)):
        assert overlap(asked, np.array([found])) == pytest.approx(expected)
    assert overlap(np.zeros((2, 2), int), np.zeros((2, 2), int)) == 1


@pytest.mark.parametrize(
    ("reply", "worth"), [("red circle", 1), (" Red circle. ", 1), ("red", 0), ("", 0), ("red circle and ring", 0)]
)
def test_other_words_are_worth_nothing(reply, worth):
    assert says("red circle", Document(reply)) == worth
    assert says("Red circle.", Document(reply)) == worth
