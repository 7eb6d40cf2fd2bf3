"""Statements: what follows from a story."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.statements import Statements, completes
from plait.document import Document

SOURCE = Statements(seed=1, length=1000)


def test_text_alone_that_ends_with_the_answer():
    for case in SOURCE.cases():
        assert not case.document.turns and not case.document.images
        assert case.document.text == case.prompt.text + case.reply.text
        assert re.fullmatch(r" [a-z ]+\.", case.reply.text)
        assert "  " not in case.document.text and "{" not in case.document.text


def numbers(text):
    return [NUMBERS.index(word) for word in re.findall(r"[a-z]+", text) if word in NUMBERS]


def test_sums_and_differences_are_right():
    counts = Counter()
    for case in SOURCE.cases():
        first, *rest = numbers(case.document.text) or [0]
        if re.search(r" make |together|number of all", case.prompt.text):
            assert first + rest[0] == rest[1]
            counts["sum"] += 1
        elif re.search(r"of the others|that are not|without", case.prompt.text):
            assert first - rest[0] == rest[1] > 0
            counts["rest"] += 1
    assert min(counts["sum"], counts["rest"]) > 60


def test_small_numbers_are_singular():
    text = " ".join(case.document.text for case in SOURCE.cases())
    assert re.search(r"\bone (small|large) object\b", text)
    assert not re.search(r"\bone (small |large )?objects\b|\b(two|three) (small |large )?object\b", text)
    assert "one of them is " in text and "one of them are" not in text


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(" three.", 1), ("Three", 1), ("three. there are two", 1), ("three objects", 0), ("two", 0), ("", 0)],
)
def test_completes(reply, expected):
    assert completes("three", Document(reply)) == expected


def test_relations_hold():
    """ "seen from the ring, the circle is left": by the places in the caption."""
    seen = 0
    for case in SOURCE.cases():
        story, _, last = case.prompt.text.partition(". ")
        if (
            (match := re.fullmatch(r"(?:seen from|beside) the (?:\w+ )*(\w+), the (?:\w+ )*(\w+) is", last)) is None
            or "object" in last
            or any(story.split().count(shape) != 1 for shape in match.groups())
        ):
            continue
        row, column = {}, {}
        for phrase in re.split(r", | and ", story):
            for shape in match.groups():
                if shape in phrase:
                    row[shape] = ("top" in phrase) - ("bottom" in phrase)
                    column[shape] = ("right" in phrase) - ("left" in phrase)
        anchor, item = match.groups()
        across, along = column[item] - column[anchor], row[item] - row[anchor]
        assert (across == 0) != (along == 0)
        expected = ("right" if across > 0 else "left") if across else ("above" if along > 0 else "below")
        assert case.reply.text == f" {expected}."
        seen += 1
    assert seen > 10


def test_chance(worth, learned, form):
    def keys(case):
        last = re.split(r"(?<=[.?]) ", case.prompt.text)[-1]
        return form(last), ""

    guess = worth(Statements, learned(Statements, keys))
    print(f"{guess:.3f}")
    assert guess == pytest.approx(Statements.chance, abs=0.06)
