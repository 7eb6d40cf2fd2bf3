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
        "small circle? top left red circle no",
        "small circle? right red square no",
        "small circle? bottom blue circle yes",
    )
    assert look(SCENE, frozenset({"size"}), either(RIGHT, shape, HIGH, frozenset({"colour", "shape"}))) == (
        "square or red circle? top left large second",
        "square or red circle? right small first",
        "square or red circle? bottom small no",
    )
    assert look(SCENE, shape, ANY) == ("top left circle yes", "right square yes", "bottom circle yes")
    assert look(SCENE, shape, valued("size", "small")) == (
        "small? top left circle no",
        "small? right square yes",
        "small? bottom circle yes",
    )
    assert look(SCENE, shape, valued("colour", "blue", "red")) == (
        "blue or red? top left circle second",
        "blue or red? right square second",
        "blue or red? bottom circle first",
    )


def test_what_is_sought_need_not_be_there():
    named = frozenset({"colour", "shape"})
    assert look(SCENE, named, like(RIGHT.changed("colour", "blue"), named)) == (
        "blue square? top left red circle no",
        "blue square? right red square no",
        "blue square? bottom blue circle no",
    )


def test_steps_of_questions_worked_out_by_hand():
    expected = {
        "what colour is the small circle?": "small circle? top left large red circle no, "
        "small circle? right small red square no, small circle? bottom small blue circle yes: blue",
        "where is the square?": "square? top left circle no, square? right square yes, square? bottom circle no: right",
        "how many circles are there?": "circle? top left circle yes, circle? right square no, "
        "circle? bottom circle yes: two",
        "how many objects are there?": "top left circle yes, right square yes, bottom circle yes: three",
        "what is below the square?": "square? top left red circle no, square? right red square yes, "
        "square? bottom blue circle no: blue circle",
        "is the square left of the blue object?": "square or blue? top left red circle no, "
        "square or blue? right red square first, square or blue? bottom blue circle second: no",
        "are there more red objects than blue objects?": "red or blue? top left red first, "
        "red or blue? right red first, red or blue? bottom blue second: yes",
        "which is larger, the square or the red circle?": "square or red circle? top left large red circle second, "
        "square or red circle? right small red square first, square or red circle? bottom small blue circle no: "
        "red circle",
        "do the square and the blue circle have the same size?": "square or blue circle? top left large red circle no, "
        "square or blue circle? right small red square first, square or blue circle? bottom small blue circle second: "
        "yes",
        "is the blue object a circle?": "blue? top left red circle no, blue? right red square no, "
        "blue? bottom blue circle yes, circle? circle: yes",
        "is there a blue square?": "blue square? top left red circle no, blue square? right red square no, "
        "blue square? bottom blue circle no: no",
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
