"""Writings: every letter is read as itself, also from a picture that is not sharp, and no text of the test is known."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from plait.data.shapes import font
from plait.data.shapes.split import hashed
from plait.data.shapes.writings import Print, Writings, read
from plait.document import Document, Image

SIGNS = [letter for letter in font.GLYPHS if letter != " "]


@pytest.mark.parametrize("resolution", [16, 32, 50, 64, 256])
def test_every_letter_is_read_as_itself(resolution):
    for first, second in zip(SIGNS, SIGNS[1:] + SIGNS[:1], strict=True):
        for text in (first + second, first + second + second + first):
            assert read(Print(text, resolution).open()) == text


def test_letters_stand_in_two_lines():
    dots = np.asarray(Print("ab1", 16).open())[:, :, 0] < 128
    for letter, (row, column) in {"a": (1, 1), "b": (1, 9), "1": (9, 1)}.items():
        assert np.array_equal(dots[row : row + 7, column : column + 5], font.GLYPHS[letter] > 0)
    assert not dots[8:, 8:].any()
    assert read(Print("", 32).open()) == ""


def test_what_is_not_sharp_is_read_too():
    random = np.random.default_rng(0)
    source = Writings(seed=0, length=100, resolution=32)
    right = []
    for i in range(100):
        soft = Print(source.text(i), 32).open().filter(PIL.ImageFilter.GaussianBlur(0.8))
        noisy = np.clip(np.asarray(soft) + random.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
        right.append(read(PIL.Image.fromarray(noisy)) == source.text(i))
    assert np.mean(right) > 0.95


def test_words_and_numbers_of_the_test_are_never_written_in_training():
    texts = {split: set(map(Writings(seed=1, length=500, split=split).text, range(500))) for split in ("train", "test")}
    assert not texts["train"] & texts["test"]
    for split, found in texts.items():
        assert {hashed(text) for text in found} == {split}
        assert {len(text) for text in found} == {2, 3, 4}
        assert 0.3 < sum(text.isdigit() for text in found) / len(found) < 0.7


def test_a_letter_that_is_wrong_is_a_text_that_is_wrong():
    case = Writings(seed=0, length=9, resolution=32).case(1)
    text = case.reply.images[0].source.text
    other = Print(text[:-1] + ("1" if text[-1] != "1" else "2"), 32)
    assert case.check(Document(Image(other))) == 0
    assert case.check(Document(Image(Print(text[:-1], 32)))) == 0
    assert f'"{text}"' in case.prompt.text


def test_the_chance_level(worth):
    assert worth(Writings, lambda case: Document(Image(Print("da", 64)))) == pytest.approx(Writings.chance, abs=0.01)
