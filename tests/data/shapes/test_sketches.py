"""Sketches: three turns, two drawings, and a question on the second."""

from __future__ import annotations

import pytest

from plait.data.shapes.language import parse
from plait.data.shapes.sketches import Sketches
from plait.data.shapes.split import part


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_first_drawing_is_what_was_said_and_the_second_differs_in_an_object(split):
    for case in Sketches(seed=1, length=60, split=split).cases():
        asked, first, changed, second, question, answer = case.document.turns
        before, after = (turn.pieces[0].source.scene for turn in (first, second))
        assert parse(asked.text.partition(": ")[2]) == before.content
        assert len(set(before.objects) ^ set(after.objects)) in (1, 2) and len(after)
        assert part(before.content) == part(after.content) == split
        assert changed.text and question.text.endswith("?") and answer.text == case.reply.text


def test_chance(worth, learned):
    guess = worth(Sketches, learned(Sketches))
    assert guess == pytest.approx(Sketches.chance, abs=0.05), guess
