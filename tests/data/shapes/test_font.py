"""The font: letters that differ, and text that is drawn where and as large as it was asked."""

from __future__ import annotations

import math
import string

import numpy as np
import pytest

from plait.data.shapes.font import ADVANCE, GLYPHS, HEIGHT, WIDTH, cover, extent, wrap


def test_letters_and_digits_differ():
    assert set(GLYPHS) == set(string.ascii_lowercase + string.digits + " ")
    letters = [glyph for letter, glyph in GLYPHS.items() if letter != " "]
    assert {glyph.shape for glyph in letters} == {(HEIGHT, WIDTH)}
    for at, glyph in enumerate(letters):
        assert set(np.unique(glyph)) == {0, 1}
        assert all(np.abs(glyph - other).sum() >= 2 for other in letters[:at])


def test_lines():
    assert wrap("the soup was awful", 9) == ("the soup", "was awful")
    assert wrap("a wonderful tea", 9) == ("a", "wonderful", "tea")
    assert wrap("a", 9) == ("a",)
    assert extent(("ab", "c")) == (2 * ADVANCE - 1, 2 * HEIGHT + 2)


def test_a_dot_of_two_pixels_is_the_bitmap_doubled():
    """16 pixels: the middle of a letter of 5 by 7 dots lies on the middle of a dot."""
    covered = cover(("e",), 17, 0.5, 0.5, 2, 0)
    dots = np.zeros((9, 9))
    dots[1:8, 2:7] = GLYPHS["e"]
    assert np.allclose(covered[::2, ::2], dots, atol=1e-5)


def test_ink_is_kept_at_any_angle_and_place():
    ink = sum(GLYPHS[letter].sum() for letter in "soup")
    for angle, x in ((0, 0.5), (0.14, 0.45), (-0.14, 0.55)):
        covered = cover(("soup",), 96, x, 0.5, 2.5, angle)
        assert covered.sum() == pytest.approx(ink * 2.5**2, rel=0.04)
        middle = (covered.sum(axis=0) * np.arange(96)).sum() / covered.sum() / 96
        assert middle == pytest.approx(x, abs=0.02)


def test_a_positive_angle_turns_clockwise():
    covered = cover(("ll",), 64, 0.5, 0.5, 3, math.radians(20))
    left, right = covered[:, :32], covered[:, 32:]
    heights = [(half.sum(axis=1) * np.arange(64)).sum() / half.sum() for half in (left, right)]
    assert heights[0] < heights[1] - 3
