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


def test_objects_stand_in_the_order_of_reading_each_behind_its_place_and_beside_what_is_sought():
    shape, small = frozenset({"shape"}), frozenset({"size", "shape"})
    assert look(SCENE, like(LOW, small), "colour") == (
        "top left small large circle circle red no",
        "right small small circle square red no",
        "bottom small small circle circle blue yes",
    )
    assert look(SCENE, either(RIGHT, shape, HIGH, frozenset({"colour", "shape"})), "size") == (
        "top left red red square circle circle large second",
        "right red red square circle square small first",
        "bottom red blue square circle circle small no",
    )
    assert look(SCENE, ANY, "shape") == ("top left circle yes", "right square yes", "bottom circle yes")
    assert look(SCENE, valued("size", "small"), "size") == (
        "top left small large no",
        "right small small yes",
        "bottom small small yes",
    )
    assert look(SCENE, valued("colour", "blue", "red")) == (
        "top left blue red red second",
        "right blue red red second",
        "bottom blue red blue first",
    )


def test_what_is_sought_need_not_be_there():
    named = frozenset({"colour", "shape"})
    assert look(SCENE, like(RIGHT.changed("colour", "blue"), named)) == (
        "top left blue red square circle no",
        "right blue red square square no",
        "bottom blue blue square circle no",
    )


def test_steps_of_questions_worked_out_by_hand():
    expected = {
        "what colour is the small circle?": "top left small large circle circle red no, "
        "right small small circle square red no, bottom small small circle circle blue yes: blue",
        "where is the square?": "top left square circle no, right square square yes, bottom square circle no: right",
        "how many circles are there?": "top left circle circle yes, right circle square no, "
        "bottom circle circle yes: two",
        "how many objects are there?": "top left circle yes, right square yes, bottom circle yes: three",
        "what is below the square?": "top left square circle red no, right square square red yes, "
        "bottom square circle blue no: blue circle",
        "is the square left of the blue object?": "top left blue red square circle no, "
        "right blue red square square first, bottom blue blue square circle second: no",
        "are there more red objects than blue objects?": "top left red blue red first, "
        "right red blue red first, bottom red blue blue second: yes",
        "which is larger, the square or the red circle?": "top left red red square circle circle large second, "
        "right red red square circle square small first, bottom red blue square circle circle small no: red circle",
        "do the square and the blue circle have the same size?": "top left blue red square circle circle large no, "
        "right blue red square circle square small first, bottom blue blue square circle circle small second: yes",
        "is the blue object a circle?": "top left blue red circle no, right blue red square no, "
        "bottom blue blue circle yes, circle circle: yes",
        "is there a blue square?": "top left blue red square circle no, right blue red square square no, "
        "bottom blue blue square circle no: no",
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
                    words = question.steps[-1].split()
                    half = len(words) // 2
                    assert question.answer == ("yes" if words[:half] * 2 == words else "no")
                    assert words[-1] in question.steps[seen.index("yes")].split()
                case "relation":
                    assert seen.count("yes") == 1 or seen.count(FIRST) == seen.count(SECOND) == 1
            assert not correct(question, f"{', '.join(question.steps)}{SO}never")


def test_documents_hold_the_steps_where_they_are_asked_for():
    source = Shapes(seed=3, length=20, mix={"questions": 1.0}, steps=True)
    for i in range(len(source)):
        example = source.example(i)
        answers = [turn.text for turn in source[i].turns if turn.role == "assistant"]
        assert answers == [question.said(steps=True) for question in example.questions[: len(answers)]]
