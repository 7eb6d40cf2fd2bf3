"""Templates of tasks: the published text, what a model is asked, and what it is to answer."""

from __future__ import annotations

import doctest

import pytest

from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, DocumentError
from plait.text import tasks
from plait.text.tasks import FEATURES, TASKS, Template, located

A, B = Image("a.jpg"), Image("b.jpg")
EVERY = [(name, template) for name, templates in TASKS.items() for template in templates]


def values(template: Template) -> dict[str, str | Image]:
    return {**{name: f"({name})" for name in template.texts}, **dict.fromkeys(template.pictures, A)}


def test_a_drawing_is_asked_for_with_all_but_the_last_picture() -> None:
    (edit,) = TASKS["edit"]
    given: dict[str, str | Image] = {"before": A, "instruction": "make it red", "after": B}
    told = (Text("Edit first image following the instruction"), A, Text("make it red"))
    assert edit.draws and (edit.texts, edit.pictures) == (("instruction",), ("before", "after"))
    assert edit.document(given) == edit.asked(given) == Document([*told, B])
    del given["after"]
    assert edit.prompt(given) == Document([*told, Blank("image")])


def test_an_answer_in_words_begins_where_it_stands_in_the_text() -> None:
    given: dict[str, str | Image] = {"question": "what is it?", "answer": "a cat", "image": A}
    texts = ["Question: what is it? Answer: a cat.", "Question: what is it? \n a cat"]
    texts.append("Question: what is it? The answer is a cat.")
    for template, text in zip(TASKS["vqa"], texts, strict=True):
        assert not template.draws and template.document(given) == Document([Text(text), A])
        user, assistant = template.asked(given).turns
        assert user.text + assistant.text == text and assistant.text.startswith("a cat")
        assert user.pieces[0] == A and template.prompt({"question": "what is it?", "image": A}) == Document(user)


def test_a_caption_may_stand_alone() -> None:
    plain, requested = TASKS["caption"]
    given: dict[str, str | Image] = {"caption": "A cat.", "image": A}
    assert plain.asked(given) == Document([Turn("user", [A]), Turn("assistant", "A cat.")])
    assert plain.document(given) == Document(["A cat.", A])
    assert requested.prompt({"image": A}) == Document(Turn("user", [A, "Describe the given picture. "]))


def test_steps_end_with_the_answer() -> None:
    (template,) = TASKS["steps"]
    given = values(template)
    user, assistant = template.asked(given).turns
    assert user.text.endswith(" \n Options: (choices) \n Answer: Let's think step-by-step: ")
    assert assistant.text == "(explanation) So the answer is (answer)."


@pytest.mark.parametrize(("name", "template"), EVERY, ids=[f"{i}-{name}" for i, (name, _) in enumerate(EVERY)])
def test_every_template(name: str, template: Template) -> None:
    given = values(template)
    whole, asked, prompt = template.document(given), template.asked(given), template.prompt(given)
    assert len(whole.images) == len(template.pictures) > 0
    assert asked.text == whole.text and asked.images == whole.images
    assert all(f"({text})" in whole.text for text in template.texts)
    assert whole.text.startswith(prompt.text) and template.draws == (prompt.pieces[-1] == Blank("image"))
    whole.text.encode("ascii")
    assert template.draws == (name in ("edit", "write", "boxes", "boxes-with") or name.startswith("from-"))


def test_the_features_are_those_of_the_paper() -> None:
    assert list(FEATURES.values())[:2] == ["canny edge features", "a segmentation map"]
    told = TASKS["from-scribbles"][0].document({"features": A, "caption": "a house", "image": B})
    first = "Make high quality image from children's scribbles"
    assert told == Document([first, A, "a house", B])


def test_boxes_in_words() -> None:
    assert doctest.testmod(tasks).failed == 0
    (template,) = TASKS["boxes"]
    told = template.prompt({"caption": "a kitchen", "boxes": located([("sink", (1, 2, 30, 40))])})
    assert told.text == "Generate high quality image of a kitchen with segmentations sink at (1, 2) -> (30, 40)"


def test_words_make_no_break_and_no_place() -> None:
    told = TASKS["write"][0].document({"words": "a <break> {words} [image]", "image": A})
    assert told == Document(['draw "a <break> {words} [image]"', A])


def test_what_does_not_fit_is_refused() -> None:
    (template,) = TASKS["write"]
    with pytest.raises(DocumentError, match=r"\{words\} of 'draw .*' is a NoneType: give text"):
        template.document({"image": A})
    with pytest.raises(DocumentError, match=r"\[image\] of 'draw .*' is a str: give an Image"):
        template.document({"words": "a", "image": "b"})
    for written, answer in (("{a} <break> [b]", "c"), ("[a] <break> {b}", "a"), ("{a} <break> [b] <break> {c}", "a")):
        with pytest.raises(ConfigError, match="it must be the last picture, or in the only text"):
            Template(written=written, answer=answer)
