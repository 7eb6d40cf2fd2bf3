"""Invented nouns: shown, never described."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from plait.data.shapes.kinds import CASES
from plait.data.shapes.nouns import ASKED, NOUNS, NounQuestions, Nouns
from plait.data.shapes.split import HELD_OUT_PAIRS
from plait.data.shapes.world import COLOURS, SHAPES, SIZES
from plait.document import Document
from plait.errors import ConfigError

DESCRIBING = {*COLOURS, *SHAPES, *SIZES}


def words(text):
    return set(re.findall(r"\w+", text))


def test_twelve_things_evenly_chosen():
    assert len(NOUNS) == len(set(NOUNS.values())) == 12
    assert not {thing[:2] for thing in NOUNS.values()} & HELD_OUT_PAIRS
    colours, shapes, sizes = (Counter(values) for values in zip(*NOUNS.values(), strict=True))
    assert set(colours) == set(COLOURS) and max(colours.values()) == 2
    assert shapes == dict.fromkeys(SHAPES, 2)
    assert sizes == dict.fromkeys(SIZES, 6)


def test_no_text_of_training_describes_a_noun():
    named = Counter()
    for case in Nouns(seed=1, length=1000).cases():
        said = words(case.document.text)
        assert said & set(NOUNS) and not said & DESCRIBING
        named.update(said & set(NOUNS))
    assert set(named) == set(NOUNS)
    for name, kind in CASES.items():
        if name not in ("nouns", "noun-questions"):
            source = kind(seed=1, length=100)
            assert not any(words(source[i].text) & set(NOUNS) for i in range(100)), name


def test_pictures_show_what_the_nouns_mean():
    for case in Nouns(seed=2, length=200, split="test").cases():
        scene = case.document.images[0].source.scene
        things = {(item.colour, item.shape, item.size): item.place for item in scene.objects}
        assert set(things) <= set(NOUNS.values())
        said = [noun for noun in NOUNS if noun in words(case.document.text)]
        if case.reply.text == "no":
            assert all(NOUNS[noun] not in things for noun in said)
        else:
            assert all(NOUNS[noun] in things for noun in said)
        if case.reply.text in things.values():
            assert things[NOUNS[said[0]]] == case.reply.text


def test_there_are_no_questions_on_nouns_in_training():
    for split in ("train", "validation"):
        with pytest.raises(ConfigError, match=f"'{split}' is not one of test"):
            NounQuestions(seed=0, length=1, split=split)
    assert NounQuestions(seed=0, length=1).split == "test"


def answers():
    """The replies of 600 questions by their wording, nouns left out."""
    found = defaultdict(list)
    for case in NounQuestions(seed=3, length=600).cases():
        found[re.sub("|".join(NOUNS), "x", case.prompt.text)].append(case)
    return found


def test_questions_are_answered_by_what_the_nouns_mean():
    for wording, cases in answers().items():
        for case in cases:
            asked = [NOUNS[word] for word in re.findall(r"\w+", case.prompt.text) if word in NOUNS]
            reply = case.reply.text
            assert not case.prompt.images
            if reply in ("yes", "no"):
                at = 0 if "colour" in wording else 1 if "shape" in wording else 2
                assert (reply == "yes") == (asked[0][at] == asked[1][at])
            elif len(asked) == 2:
                assert NOUNS[reply] in asked and NOUNS[reply][2] == "large"
            elif asked:
                assert reply in asked[0]
            else:
                assert set(NOUNS[reply]) <= words(wording)


def test_answers_are_words(worth):
    case = next(case for case in NounQuestions(seed=0, length=50).cases() if case.reply.text in COLOURS)
    assert case.check(Document(f" {case.reply.text.upper()}. ")) == 1
    assert case.check(Document(f"it is {case.reply.text}")) == 0


def test_chance_of_nouns(worth, learned, form):
    def keys(case):
        text = form(re.sub("|".join(NOUNS), "x", case.prompt.text))
        return text, ""

    guess = worth(Nouns, learned(Nouns, keys))
    print(f"{guess:.3f}")
    assert guess == pytest.approx(Nouns.chance, abs=0.05)


def test_chance_of_noun_questions(worth):
    guesses = {"colour": "red", "shape": "circle", "size": "small", "call": "dax", "same": "yes"}

    def guess(case):
        text = case.prompt.text
        form = next(
            name
            for name, wordings in ASKED.items()
            if any(re.fullmatch(re.sub(r"{\w}", ".*", one.replace("?", r"\?")), text) for one in wordings.seen)
        )
        return Document(guesses.get(form) or next(word for word in re.findall(r"\w+", text) if word in NOUNS))

    found = worth(NounQuestions, guess)
    print(f"{found:.3f}")
    assert found == pytest.approx(NounQuestions.chance, abs=0.06)
