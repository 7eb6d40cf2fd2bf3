"""Scenes told in words: what is told is whole, and answers follow from it."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.language import REQUESTS, parse
from plait.data.shapes.split import part
from plait.data.shapes.told import KINDS, Told, read
from plait.document import Text, Turn
from plait.errors import ConfigError

SHAPES = Shapes(seed=1, length=300, objects=(1, 2, 3), questions_each=3)
SOURCE = Told(shapes=SHAPES)


def only(kind, **changes):
    return replace(SOURCE, mix={kind: 1}, **changes)


def told(document):
    """What is told, and what is asked behind it."""
    first = document.turns[0] if document.turns else document.pieces[0]
    match = re.fullmatch(r"<Img> (.*) </Img> (.*)", first.text)
    assert match
    return match.groups()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"caption"}))
def test_what_is_told_is_whole(kind):
    source, forms = only(kind), set()
    for i in range(200):
        words, _ = told(source[i])
        assert read(words) == SHAPES.scene(i).content
        assert not source[i].images
        forms.add(parse(words) is None)
    assert forms == {False, True}  # captions, and bare words


def test_what_is_not_whole_is_not_read():
    assert read("large red circle top left") == (("red", "circle", "large", "top left"),)
    for words in ("", "red circle top left", "large red circle", "large red red circle top", "large red circle here"):
        assert read(words) is None


def test_captions_and_descriptions():
    for i in range(50):
        caption = SHAPES.example(i).caption
        assert only("caption")[i].pieces == (Text(caption),)
        user, assistant = only("describe")[i].turns
        assert told(only("describe")[i])[1] in REQUESTS
        assert assistant == Turn("assistant", caption) and user.role == "user"


def test_questions():
    for i in range(50):
        document, expected = only("questions")[i], SHAPES.example(i).questions
        assert [turn.role for turn in document.turns] == ["user", "assistant"] * 3
        answers = [turn.text for turn in document.turns[1::2]]
        asked = [told(document)[1], *(turn.text for turn in document.turns[2::2])]
        assert list(zip(asked, answers, strict=True)) == [(one.text, one.answer) for one in expected]


def test_the_split_is_that_of_the_scenes():
    for split in ("train", "validation", "test"):
        source = only("questions", shapes=replace(SHAPES, split=split))
        assert {part(read(told(source[i])[0])) for i in range(100)} == {split}


def test_a_pure_function():
    longer = replace(SOURCE, shapes=replace(SHAPES, length=10_000))
    assert len(SOURCE) == 300
    assert [SOURCE[i] for i in (5, 3, 299)] == [longer[i] for i in (5, 3, 299)]
    assert pickle.loads(pickle.dumps(SOURCE))[17] == SOURCE[17]
    assert SOURCE[1] != replace(SOURCE, shapes=replace(SHAPES, seed=2))[1]
    with pytest.raises(IndexError, match="300 of 300"):
        SOURCE[300]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"tell": 1}}, "of caption, describe"),
        ({"mix": {"questions": 0}}, "not all 0"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SOURCE, **changes)
