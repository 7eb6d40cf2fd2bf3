"""Instructions: the answer in the form that was asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from plait.data.shapes import language
from plait.data.shapes.boxes import read
from plait.data.shapes.instructions import FORMATS, Instructions, mentioned
from plait.data.shapes.world import COLOURS, SHAPES
from plait.document import Document

SOURCE = Instructions(seed=4, length=600)


def form(case):
    text = case.prompt.text
    return next(name for name, wordings in FORMATS.items() if any(one in text for one in wordings.seen))


def cases(name, contained=""):
    return [case for case in SOURCE.cases() if form(case) == name and contained in case.prompt.text]


def test_every_form_is_asked_and_kept():
    counts = Counter()
    for case in SOURCE.cases():
        name, answer = form(case), case.reply.text
        counts[name] += 1
        match name:
            case "word":
                assert len(answer.split()) == 1
            case "sentence":
                assert len(answer.split()) > 2 and answer.endswith(".")
            case "yes-no":
                assert answer in ("yes", "no")
            case "list":
                assert set(answer.split(", ")) <= set(COLOURS) | set(SHAPES)
            case "numbers":
                assert read(answer)
    assert set(counts) == set(FORMATS)
    assert min(counts.values()) > 80


def test_the_form_stands_before_or_behind():
    starts = Counter(case.prompt.text.startswith(FORMATS[form(case)].seen) for case in SOURCE.cases())
    assert min(starts.values()) > 200


def test_a_word_is_no_sentence_and_a_sentence_no_word():
    sentence = next(case for case in cases("sentence") if case.reply.text in {f"it is {colour}." for colour in COLOURS})
    colour = sentence.reply.text.removeprefix("it is ").removesuffix(".")
    wrong = "pink" if colour != "pink" else "red"
    assert sentence.check(Document(f"The square is {colour}.")) == 1
    for other in (colour, f"{colour}.", f"the square is {colour}", f"it is {colour} or {wrong}.", f"it is {wrong}."):
        assert sentence.check(Document(other)) == 0
    word = cases("word")[0]
    assert word.check(Document(f"it is {word.reply.text}.")) == 0


def test_descriptions_are_worth_their_objects():
    described = next(
        case
        for case in cases("sentence")
        if case.prompt.text.count("picture") or "what do you see?" in case.prompt.text
    )
    scene = described.document.images[0].source.scene
    said = language.say(scene.objects[:1], language.WORDINGS[0])
    assert described.check(Document(said)) == pytest.approx(1 / len(scene))
    assert described.check(Document(said.removesuffix("."))) == 0


def test_a_list_is_worth_its_values():
    listed = next(case for case in cases("list") if len(set(case.reply.text.split(", "))) == 2)
    values = listed.reply.text.split(", ")
    assert listed.check(Document(", ".join(reversed(values)))) == 1
    assert listed.check(Document(values[0])) == pytest.approx(1 / len(values))
    assert listed.check(Document(" and ".join(values))) == 0


def test_what_is_mentioned():
    assert mentioned("place", "it is at the top left.") == ["top left"]
    assert mentioned("place", "at the top, not in the bottom left corner") == ["top", "bottom left"]
    assert mentioned("colour", "Red, or redder than green?") == ["red", "green"]
    assert mentioned("count", "there are two of one kind.") == ["two", "one"]


def test_chance(worth, learned):
    guess = worth(Instructions, learned(Instructions))
    print(f"{guess:.3f}")
    assert guess == pytest.approx(Instructions.chance, abs=0.06)
