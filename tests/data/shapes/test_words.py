"""Text in pictures can be read, without learning, by who knows where it stands; opinions are even."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from plait.data.shapes.chance import Chance
from plait.data.shapes.font import ADVANCE, GLYPHS, HEIGHT, LEADING, WIDTH, extent
from plait.data.shapes.words import (
    BAD,
    GOOD,
    JUDGE_HELD_OUT,
    LONGEST,
    PAPERS,
    READ_HELD_OUT,
    SUBJECTS,
    Lettered,
    Opinions,
    Words,
    write,
)
from plait.document import Image
from plait.errors import ConfigError, DocumentError
from plait.sequence import Sequence, Slot, Span, tokens

LETTERS = [letter for letter in GLYPHS if letter != " "]
NUMBERED = " " + "".join(LETTERS)


def blurred(glyph):
    """(1, 4, 1) / 6 along both sides: as a letter of a pixel a dot comes back."""
    wide = np.pad(glyph, 1)
    wide = (wide[:-2] + 4 * wide[1:-1] + wide[2:]) / 6
    return (wide[:, :-2] + 4 * wide[:, 1:-1] + wide[:, 2:]) / 6


def centred(dots):
    """Rows of mean 0 and length 1."""
    dots = dots - dots.mean(axis=-1, keepdims=True)
    return dots / np.linalg.norm(dots, axis=-1, keepdims=True)


SHEET = centred(np.stack([blurred(GLYPHS[letter]).ravel() for letter in LETTERS]))


def read(writing):
    """The letters, each the one whose dots are most like the ink at the places of the dots."""
    pixels = np.asarray(writing.open(), dtype=float)
    paper, ink = np.array(writing.paper, dtype=float), np.array(writing.ink, dtype=float)
    amount = (pixels - paper) @ (ink - paper) / ((ink - paper) @ (ink - paper))
    side, dot = writing.resolution, writing.dot * writing.resolution
    width, height = extent(writing.lines)
    lines = []
    for row, line in enumerate(writing.lines):
        said = ""
        for at, letter in enumerate(line):
            left = (width - extent([line])[0]) // 2 + ADVANCE * at
            u = (left + np.arange(WIDTH) - (width - 1) / 2)[None, :] * dot
            v = (LEADING * row + np.arange(HEIGHT) - (height - 1) / 2)[:, None] * dot
            x = writing.x * side + math.cos(writing.angle) * u - math.sin(writing.angle) * v - 0.5
            y = writing.y * side + math.sin(writing.angle) * u + math.cos(writing.angle) * v - 0.5
            assert x.min() > -1 and x.max() < side and y.min() > -1 and y.max() < side  # all within the picture
            x, y = np.clip(x, 0, side - 1.001), np.clip(y, 0, side - 1.001)
            c, r = x.astype(int), y.astype(int)
            fx, fy = x - c, y - r
            upper = amount[r, c] * (1 - fx) + amount[r, c + 1] * fx
            dots = upper * (1 - fy) + (amount[r + 1, c] * (1 - fx) + amount[r + 1, c + 1] * fx) * fy
            said += " " if letter == " " else LETTERS[int((SHEET @ centred(dots.ravel())).argmax())]
        lines.append(said)
    return " ".join(lines)


@pytest.mark.parametrize("kind", [Words, Opinions])
def test_what_is_written_can_be_read(kind):
    source = kind(seed=1, length=100)
    writings = [document.images[0].source for document in source]
    right = [read(writing) == " ".join(writing.lines) for writing in writings]
    print(f"{kind.name}: {np.mean(right):.2f} of the texts are read whole")
    assert np.mean(right) > 0.9


def test_words_and_numbers_are_written_whole():
    source = Words(seed=2, length=300)
    for i, document in enumerate(source):
        assert " ".join(document.images[0].source.lines) == source.text(i) == document.turns[1].text
    lengths = Counter(" ".join("9" if word.isdigit() else "a" for word in source.text(i).split()) for i in range(300))
    assert set(lengths) == {"9", "a", "a a"}
    assert min(lengths.values()) > 70
    numbers = [source.text(i) for i in range(300) if source.text(i).isdigit()]
    assert {len(number) for number in numbers} == {2, 3, 4, 5}


def test_opinions_say_what_they_are_said_to():
    for split in ("train", "test"):
        source = Opinions(seed=3, length=600, split=split)
        positive = 0
        for i, document in enumerate(source):
            text, good = source.opinion(i)
            words = set(text.split())
            assert len(words & {*GOOD, *BAD}) == 1
            assert good == (bool(words & set(GOOD)) != ("not" in words))
            assert document.turns[1].text == ("positive" if good else "negative")
            positive += good
        assert positive / 600 == pytest.approx(0.5, abs=0.06)
        turned = ["not" in source.opinion(i)[0] for i in range(600)]
        assert sum(turned) / 600 == pytest.approx(1 / 3, abs=0.06)


def test_each_word_alone_tells_two_times_in_three_and_a_subject_half_the_time():
    source = Opinions(seed=4, length=3000)
    by_subject = {subject: Counter() for subject in SUBJECTS}
    for i in range(3000):
        text, good = source.opinion(i)
        by_subject[next(word for word in text.split() if word in SUBJECTS)][good] += 1
    assert all(0.3 < counts[True] / counts.total() < 0.7 for counts in by_subject.values())
    assert not {*GOOD} & {*BAD}
    assert max(map(len, (*GOOD, *BAD, *SUBJECTS))) <= LONGEST


def test_text_stays_in_the_picture_on_paper_that_it_can_be_read_on():
    chance = Chance(5)
    for _ in range(200):
        writing = write("the painting was not brilliant", 64, chance)
        assert writing.dot * 64 >= 0.999
        assert max(abs(a - b) for a, b in zip(writing.paper, writing.ink, strict=True)) > 120
    assert set(PAPERS) >= {writing.paper}


def test_held_out_requests_come_in_the_test_alone():
    for kind, held_out in ((Words, READ_HELD_OUT), (Opinions, JUDGE_HELD_OUT)):
        asked = {split: {d.turns[0].text for d in kind(seed=6, length=200, split=split)} for split in ("train", "test")}
        assert not set(held_out) & asked["train"]
        assert set(held_out) <= asked["test"]


def test_letters_need_room():
    with pytest.raises(ConfigError, match=r"resolution=48.*at least 64"):
        Words(seed=0, length=1, resolution=48)


def test_cells_tell_the_letters_that_stand_in_them():
    for document in Opinions(seed=7, length=60):
        writing = document.images[0].source
        said = "".join("".join(line.split()) for line in writing.lines)
        for cells in (16, 64):
            grid = writing.letters(cells)
            assert grid.shape == (cells, cells)
            assert sorted(NUMBERED[number] for number in grid[grid > 0]) == sorted(said)
    level = replace(writing, lines=("ab", "c"), x=0.5, y=0.5, dot=2 / 64, angle=0.0)
    # eleven dots by sixteen of two pixels: a and b have their middles 6 dots apart, c stands in the middle below
    assert {NUMBERED[n]: (x, y) for (y, x), n in np.ndenumerate(level.letters(64)) if n} == {
        "a": (26, 23),
        "b": (38, 23),
        "c": (32, 41),
    }
    turned = replace(level, angle=math.pi / 2).letters(64)  # clockwise: what stood above stands at the right
    assert NUMBERED[turned[26, 41]] == "a" and NUMBERED[turned[32, 23]] == "c"


def test_cells_are_targets_row_by_row():
    image = Opinions(seed=8, length=1)[0].images[0]
    words = tokens([1, 2])
    laid = Lettered(cells=16)(Sequence((Span(Slot("vision", image), 8), words), "here"), np.random.default_rng(0))
    span, after = laid.spans
    (target,) = span.targets
    assert (len(laid), laid.origin, target.kind) == (258, "here", "letter") and span.fill == Slot("vision", image)
    assert target.value.tolist() == image.source.letters(16).ravel().tolist() and (target.weight == 1).all()
    assert after is words
    with pytest.raises(DocumentError, match="nobody knows what is written"):
        Lettered(cells=16)(Sequence((Span(Slot("vision", Image("a.png")), 8),)), np.random.default_rng(0))
