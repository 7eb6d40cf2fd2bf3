"""Dialogues: what is said of one picture, and back to what was said."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from plait.data.shapes.dialogues import Dialogues
from plait.data.shapes.questions import WORDINGS
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, VALUES
from plait.document import Document, Text

SOURCE = Dialogues(seed=1, length=400)
BACK = ("it", "the other one")


def turns(case):
    said = [turn.text for turn in case.document.turns]
    return list(zip(said[::2], said[1::2], strict=True))


def test_the_picture_stands_in_the_first_turn_and_the_last_answer_is_asked():
    lengths = Counter()
    for case in SOURCE.cases():
        first, *rest = case.document.turns
        assert len(first.pieces) == 2 and all(len(turn.pieces) == 1 for turn in rest)
        assert case.prompt.turns == case.document.turns[:-1]
        assert case.reply == Document([Text(case.document.turns[-1].text)])
        lengths[len(case.document.turns) // 2] += 1
    assert set(lengths) == {2, 3, 4}
    assert min(lengths.values()) > 100


def test_later_questions_cannot_be_understood_alone():
    """They say "it" or "the other one", or do not say what is asked."""
    attributes = [
        form.split("{a}")[0] for kind in ("colour", "shape", "place") for form in WORDINGS[kind] if "{a}" in form
    ]
    for case in SOURCE.cases():
        (first, _), *later = turns(case)
        assert not any(f" {word}" in f" {first}" for word in BACK)
        for question, _ in later:
            back = any(f" {word}" in f" {question}" for word in BACK)
            assert back or not any(question.startswith(start) for start in attributes if start), question


def spoken_of(question, objects, focus):
    """The object that a question is on: "it", "the other one", or the one that is named."""
    if re.search(r"\bit\b", question):
        return focus
    if "the other one" in question:
        return next(item for item in objects if item is not focus)
    words = set(
        re.findall(
            r"\w+",
            question.split(
                "the ", 2 if "the colour" in question or "the shape" in question or "the place" in question else 1
            )[-1],
        )
    )
    place = next(
        (place for place in sorted(PLACES, key=len, reverse=True) if re.search(f"(at|in) the {place}\\b", question)), ""
    )
    (found,) = [
        item
        for item in objects
        if all(value in item.facts for value in words & {*COLOURS, *SHAPES, *SIZES}) and place in ("", item.place)
    ]
    return found


def test_answers_are_those_of_the_scene():
    """Every dialogue is followed: which object a question is on, and what it asks of it."""
    for case in SOURCE.cases():
        objects, focus, attribute = case.document.images[0].source.scene.objects, None, ""
        for question, answer in turns(case):
            focus = spoken_of(question, objects, focus)
            beside = re.search("(left of|right of|above|below) it", question)
            said = re.search("colour|shape|where|place", question)
            if beside:
                (focus,) = [item for item in objects if item.lies(beside[1], focus)]
                assert answer == f"{focus.colour} {focus.shape}"
            elif answer in ("yes", "no"):
                value = max((v for vs in VALUES.values() for v in vs if re.search(rf"\b{v}\b", question)), key=len)
                assert (answer == "yes") == (value in focus.facts), (question, focus)
            else:
                attribute = said[0].replace("where", "place") if said else attribute
                assert answer == getattr(focus, attribute), (question, focus)


def test_nothing_is_asked_twice():
    for case in SOURCE.cases():
        said = turns(case)
        assert len(set(said)) == len(said)


@pytest.mark.parametrize("reply", ["Red.", "red ", "RED"])
def test_answers_are_checked_word_for_word(reply):
    case = next(case for case in SOURCE.cases() if case.reply.text == "red")
    assert case.check(Document(reply)) == 1
    assert case.check(Document("it is red")) == case.check(Document("blue")) == 0


def test_chance(worth, learned, form):
    def keys(case):
        before, asked = case.prompt.turns[-2].text, case.prompt.turns[-1].text
        again = re.search("colour|shape|where|place|$", case.prompt.turns[-3].text)[0]
        return str((form(asked), again, before)), str((form(asked), again)), form(asked), ""

    guess = worth(Dialogues, learned(Dialogues, keys))
    print(f"{guess:.3f}")
    assert guess == pytest.approx(Dialogues.chance, abs=0.06)
