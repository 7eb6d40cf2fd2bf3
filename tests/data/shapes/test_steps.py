"""Steps: what is said of the picture is true, and the conclusion alone is judged."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from plait.data.shapes import language
from plait.data.shapes.steps import SO, Steps, conclusion
from plait.document import Document


def test_the_objects_are_named_before_the_answer():
    for case in Steps(seed=1, length=60).cases():
        said, answer = case.reply.text.split(f" {SO} ")
        assert language.parse(said) == case.prompt.images[0].source.scene.content
        assert answer.endswith(".") and case.check(Document(f"i do not know. {SO} {answer.upper()}")) == 1


def test_the_last_conclusion_counts():
    case = next(case for case in Steps(seed=1, length=60).cases() if conclusion(case.reply.text) == " two.")
    for reply, worth in ((f"{SO} two", 1), (f"{SO} one. {SO} two.", 1), (f"{SO} two. {SO} one.", 0), ("two", 0)):
        assert case.check(Document(reply)) == worth
    assert conclusion("two.") == ""


def test_the_chance_level(worth, form):
    known = defaultdict(Counter)
    for case in Steps(seed=0, length=3000).cases():
        for key in (_question(case), form(_question(case)), ""):
            known[key][conclusion(case.reply.text).strip()] += 1

    def guess(case):
        key = next(key for key in (_question(case), form(_question(case)), "") if key in known)
        return Document(f"{SO} {known[key].most_common(1)[0][0]}")

    assert worth(Steps, guess) == pytest.approx(Steps.chance, abs=0.03)


def _question(case):
    return case.prompt.text.removeprefix("think step by step: ").partition("?")[0]
