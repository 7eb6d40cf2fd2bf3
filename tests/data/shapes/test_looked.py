"""Documents in the words that the pretrained Emu is prompted with."""

from __future__ import annotations

import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.looked import FORMS, Looked
from plait.document import Image, Text
from plait.errors import ConfigError
from plait.text.instructions import PROMPTS

SHAPES = Shapes(seed=1, length=40)


@pytest.mark.parametrize("form", FORMS)
def test_a_document_of_each_form(form):
    source = Looked(shapes=SHAPES, mix={form: 1.0})
    assert len(source) == 40
    for i, document in enumerate(source[i] for i in range(40)):
        example = SHAPES.example(i)
        assert [type(piece) for piece in document] == ([Text] if form == "told" else [Image, Text])
        question = example.questions[0]
        caption = example.caption.removesuffix(".")
        asked = f"based on the picture, {question.text} short answer: {question.answer}."
        if form == "look":
            start = PROMPTS["look"].removeprefix("<ImageHere> ")
            assert document.text == f"{start} {caption}."
        elif form == "direct":
            assert document.text.startswith(asked) and document.text.endswith(".")
        else:
            assert document.text == f"a picture of {caption}. {asked}"


def test_some_hold_several_questions():
    source = Looked(shapes=SHAPES, mix={"direct": 1.0})
    assert {source[i].text.count("?") for i in range(40)} == {1, 2, 3, 4}
    assert {source[i].text.count("short answer:") for i in range(40)} == {1}


def test_unknown_forms_are_refused():
    with pytest.raises(ConfigError, match="give shares, not all 0, of look, direct"):
        Looked(shapes=SHAPES, mix={"seen": 1.0})
