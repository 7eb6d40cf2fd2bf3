"""Invented words: many, short, and none in two parts."""

from __future__ import annotations

from plait.data.shapes.chance import Chance
from plait.data.shapes.invented import invented


def test_invented_words():
    words = {part: {invented(Chance(0, i), part) for i in range(1000)} for part in ("train", "validation", "test")}
    assert len(words["train"]) > 980
    assert {len(word) for said in words.values() for word in said} == {5}
    assert not words["train"] & words["validation"]
    assert not words["train"] & words["test"]
    assert not words["validation"] & words["test"]
