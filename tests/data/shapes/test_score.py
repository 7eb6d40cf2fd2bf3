"""Scores of drawings and captions."""

from __future__ import annotations

import pytest

from plait.data.shapes.score import Counts, match, object_accuracy, object_counts
from plait.data.shapes.world import Object, Scene

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
