"""Steps: what one looks at before an answer."""

from __future__ import annotations

import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.chance import Chance
from plait.data.shapes.looking import ANY, FIRST, SECOND, either, like, look, valued
from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.questions import SO, concluded, correct, questions
from plait.data.shapes.world import Object, Scene

LOW = Object("blue", "circle", "small", "bottom")
HIGH = Object("red", "circle", "large", "top left")
RIGHT = Object("red", "square", "small", "right")
SCENE = Scene((LOW, HIGH, RIGHT))


def test_objects_stand_in_the_order_of_reading_each_behind_what_is_sought():
    shape, small = frozenset({"shape"}), frozenset({"size", "shape"})
    assert look(SCENE, shape | {"colour"}, like(LOW, small)) == (
        "small circle? red circle no",
        "small circle? red square no",
        "small circle? blue circle yes",
    )
    assert look(SCENE, frozenset({"place", "size"}), either(RIGHT, shape, HIGH, frozenset({"colour", "shape"}))) == (
        "square or red circle? large top left second",
        "square or red circle? small right first",
        "square or red circle? small bottom no",
    )
    assert look(SCENE, shape, ANY) == ("circle yes", "square yes", "circle yes")
    assert look(SCENE, shape, valued("size", "small")) == (
        "small? circle no",
        "small? square yes",
        "small? circle yes",
    )
    assert look(SCENE, shape, valued("colour", "blue", "red")) == (
        "blue or red? circle second",
        "blue or red? square second",
        "blue or red? circle first",
    )


def test_what_is_sought_need_not_be_there():
    named = frozenset({"colour", "shape"})
    assert look(SCENE, named, like(RIGHT.changed("colour", "blue"), named)) == (
        "blue square? red circle no",
        "blue square? red square no",
        "blue square? blue circle no",
    )


def test_steps_of_questions_worked_out_by_hand():
    expected = {
        "what colour is the small circle?": "small circle? large red circle no, small circle? small red square no, "
        "small circle? small blue circle yes: blue",
        "where is the square?": "square? circle top left no, square? square right yes, square? circle bottom no: right",
        "how many circles are there?": "circle? circle yes, circle? square no, circle? circle yes: two",
        "how many objects are there?": "circle yes, square yes, circle yes: three",
        "what is below the square?": "square? red circle top left no, square? red square right yes, "
        "square? blue circle bottom no: blue circle",
        "is the square left of the blue object?": "square or blue? red circle top left no, "
        "square or blue? red square right first, square or blue? blue circle bottom second: no",
        "are there more red objects than blue objects?": "red or blue? red first, red or blue? red first, "
        "red or blue? blue second: yes",
        "which is larger, the square or the red circle?": "square or red circle? large red circle second, "
        "square or red circle? small red square first, square or red circle? small blue circle no: red circle",
        "do the square and the blue circle have the same size?": "square or blue circle? large red circle no, "
        "square or blue circle? small red square first, square or blue circle? small blue circle second: yes",
        "is the blue object a circle?": "blue? red circle no, blue? red square no, blue? blue circle yes, "
        "circle? circle: yes",
        "is there a blue square?": "blue square? red circle no, blue square? red square no, "
        "blue square? blue circle no: no",
    }
    chance, made = Chance(2), {}
    for _ in range(3000):
        made |= {question.text: question.said(steps=True) for question in questions(SCENE, chance, 4)}
    assert {text: made.get(text) for text in expected} == expected


@pytest.mark.parametrize("train", [True, False])
def test_the_answer_follows_from_the_steps(train):
    source = Shapes(seed=3, length=1500, split="train" if train else "test", objects=(1, 2, 3))
    for example in source.examples():
        for question in example.questions:
            said = question.said(steps=True)
            assert question.said(steps=False) == question.answer
            assert said == f"{', '.join(question.steps)}{SO}{question.answer}"
            assert correct(question, said)
            assert concluded(said) == question.answer
            seen = [step.rpartition(" ")[2] for step in question.steps]
            match question.kind:
                case "colour" | "shape" | "place":
                    assert seen.count("yes") == 1
                    assert question.answer in question.steps[seen.index("yes")]
                case "count":
                    assert NUMBERS[seen.count("yes")] == question.answer
                case "existence":
                    assert ("yes" if "yes" in seen else "no") == question.answer
                case "comparison" if " more " in question.text:
                    assert ("yes" if seen.count(FIRST) > seen.count(SECOND) else "no") == question.answer
                case "comparison":
                    assert seen.count(FIRST) == seen.count(SECOND) == 1
                case "yes-no":
                    assert seen.count("yes") == 1
                    said, found = question.steps[-1].split("? ")
                    assert question.answer == ("yes" if said == found else "no")
                    assert found in question.steps[seen.index("yes")]
                case "relation":
                    assert seen.count("yes") == 1 or seen.count(FIRST) == seen.count(SECOND) == 1
            assert not correct(question, f"{', '.join(question.steps)}{SO}never")


def test_documents_hold_the_steps_where_they_are_asked_for():
    source = Shapes(seed=3, length=20, mix={"questions": 1.0}, steps=True)
    for i in range(len(source)):
        example = source.example(i)
        answers = [turn.text for turn in source[i].turns if turn.role == "assistant"]
        assert answers == [question.said(steps=True) for question in example.questions[: len(answers)]]
