"""Steps: what one looks at before an answer."""

from __future__ import annotations

import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.chance import Chance
from plait.data.shapes.looking import FIRST, SECOND, called, either, look, the, valued
from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.questions import SO, concluded, correct, questions
from plait.data.shapes.world import Object, Scene

LOW = Object("blue", "circle", "small", "bottom")
HIGH = Object("red", "circle", "large", "top left")
RIGHT = Object("red", "square", "small", "right")
SCENE = Scene((LOW, HIGH, RIGHT))


def test_objects_stand_in_the_order_of_reading_by_what_is_asked_about():
    shape = frozenset({"shape"})
    assert look(SCENE, shape | {"colour"}, the(LOW)) == ("red circle no", "red square no", "blue circle yes")
    assert look(SCENE, frozenset({"place", "size"}), either(RIGHT, HIGH)) == (
        "large top left second",
        "small right first",
        "small bottom no",
    )
    assert look(SCENE, shape, called("square", shape)) == ("circle no", "square yes", "circle no")
    assert look(SCENE, shape, valued("size", "small")) == ("circle no", "square yes", "circle yes")
    assert look(SCENE, shape, valued("colour", "blue", "red")) == ("circle second", "square second", "circle first")


def test_steps_of_questions_worked_out_by_hand():
    expected = {
        "what colour is the small circle?": "large red circle no, small red square no, small blue circle yes: blue",
        "where is the square?": "circle top left no, square right yes, circle bottom no: right",
        "how many circles are there?": "circle yes, square no, circle yes: two",
        "how many objects are there?": "circle yes, square yes, circle yes: three",
        "what is below the square?": "right, bottom: blue circle",
        "is the square left of the blue object?": "right, bottom: no",
        "are there more red objects than blue objects?": "red first, red first, blue second: yes",
        "which is larger, the square or the red circle?": "large red circle second, small red square first, "
        "small blue circle no: red circle",
        "do the square and the blue circle have the same size?": "large red circle no, small red square first, "
        "small blue circle second: yes",
        "is the blue object a circle?": "red circle no, red square no, blue circle yes, circle: yes",
        "is there a blue square?": "red circle no, red square no, blue circle no: no",
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
                    assert question.steps[-1] in question.steps[seen.index("yes")]
                case "relation":
                    assert len(question.steps) == 2
            assert not correct(question, f"{', '.join(question.steps)}{SO}never")


def test_documents_hold_the_steps_where_they_are_asked_for():
    source = Shapes(seed=3, length=20, mix={"questions": 1.0}, steps=True)
    for i in range(len(source)):
        example = source.example(i)
        answers = [turn.text for turn in source[i].turns if turn.role == "assistant"]
        assert answers == [question.said(steps=True) for question in example.questions[: len(answers)]]
