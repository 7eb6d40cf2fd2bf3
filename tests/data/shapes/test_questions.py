"""Questions: one right answer each, and little to gain without looking."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from plait.data.shapes import Shapes, correct
from plait.data.shapes.chance import Chance
from plait.data.shapes.questions import HELD_OUT_WORDINGS, KINDS, WORDINGS, questions
from plait.data.shapes.split import HELD_OUT_PAIRS
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, Object, Scene

TRAIN = Shapes(seed=5, length=5000)
TEST = replace(TRAIN, split="test")

SCENE = Scene(
    (
        Object("red", "circle", "large", "top left"),
        Object("red", "square", "small", "right"),
        Object("blue", "circle", "small", "bottom"),
    )
)


def ask(scenes, n, per_scene=4, train=True):
    made = []
    for i in range(n // per_scene):
        made += questions(scenes.scene(i), Chance(9, i), per_scene, train)
    return made


def blind(train, test):
    """Share of `test` that the most frequent answer of `train` to the same text, or else kind, gets right, by kind."""
    by_text, by_kind, right = defaultdict(Counter), defaultdict(Counter), defaultdict(list)
    for question in train:
        by_text[question.text][question.answer] += 1
        by_kind[question.kind][question.answer] += 1
    for question in test:
        known = by_text.get(question.text) or by_kind[question.kind]
        right[question.kind].append(correct(question, known.most_common(1)[0][0]))
    return {kind: sum(r) / len(r) for kind, r in right.items()}, sum(map(sum, right.values())) / len(test)


@pytest.mark.parametrize("objects", [(1,), (2,), (3,), (1, 2), (1, 2, 3)])
@pytest.mark.parametrize("pairs", ["seen", "held-out"])
def test_who_does_not_look_scores_low(objects, pairs):
    train = ask(replace(TRAIN, objects=objects), 5000)
    test = ask(replace(TEST, objects=objects, pairs=pairs), 2000, train=False)
    by_kind, overall = blind(train, test)
    print(objects, pairs, f"{overall:.3f}", {kind: round(value, 3) for kind, value in by_kind.items()})
    assert overall < 0.4
    assert sum(by_kind.values()) / len(by_kind) < 0.42
    assert max(by_kind.values()) < (0.7 if objects == (1,) else 0.6)


@pytest.mark.parametrize("objects", [(1,), (2,), (1, 2)])
def test_yes_and_no_are_even(objects):
    answers = defaultdict(Counter)
    for question in ask(replace(TRAIN, objects=objects), 16_000):
        if question.answer in ("yes", "no"):
            answers[question.kind][question.answer] += 1
    assert {"comparison", "existence", "yes-no"} <= set(answers)
    for kind, counts in answers.items():
        assert counts["yes"] / counts.total() == pytest.approx(0.5, abs=0.05), kind
    assert sum(counts.total() for counts in answers.values()) < 16_000 * 0.35


def test_answers_of_the_open_kinds_are_spread():
    made = ask(TRAIN, 12_000)
    shares = {k: Counter(q.answer for q in made if q.kind == k) for k in ("colour", "shape", "place", "count")}
    assert set(shares["colour"]) == set(COLOURS)
    assert set(shares["shape"]) == set(SHAPES)
    assert set(shares["place"]) == set(PLACES)
    for kind, most in (("colour", 0.16), ("shape", 0.21), ("place", 0.15), ("count", 0.55)):
        assert max(shares[kind].values()) / shares[kind].total() < most
    assert set(Counter(q.kind for q in made)) == set(KINDS)


def test_kinds_are_asked_by_their_shares():
    source = replace(TRAIN, length=1000, asks={"count": 1.0, "existence": 3.0, "colour": 0.0})
    kinds = Counter(q.kind for example in source.examples() for q in example.questions)
    assert set(kinds) == {"count", "existence"}
    assert kinds["existence"] / kinds.total() == pytest.approx(0.75, abs=0.05)


def test_a_scene_without_a_question_of_the_kind_is_asked_what_exists():
    source = replace(TRAIN, length=2, objects=(1,), asks={"relation": 1.0})
    assert {q.kind for example in source.examples() for q in example.questions} == {"existence"}


def test_all_kinds_are_answered_rightly_on_one_scene():
    """Every question on SCENE is checked against answers worked out by hand."""
    expected = {
        "what colour is the square?": "red",
        "what colour is the small circle?": "blue",
        "what colour is the object at the bottom?": "blue",
        "what shape is the large object?": "circle",
        "what shape is the blue object?": "circle",
        "where is the red square?": "right",
        "where is the blue circle?": "bottom",
        "how many circles are there?": "two",
        "how many small objects are there?": "two",
        "how many green objects are there?": "zero",
        "how many objects are there?": "three",
        "what is below the square?": "blue circle",
        "what is above the blue circle?": None,  # two are
        "what is right of the blue object?": "red square",
        "is the square right of the blue object?": "yes",
        "is the square left of the blue object?": "no",
        "is the large object above the square?": "yes",
        "is the square right of the large object?": None,  # so is another
        "which is larger, the square or the red circle?": "red circle",
        "do the square and the blue circle have the same size?": "yes",
        "do the square and the object at the bottom have the same colour?": "no",
        "do the square and the large object have the same colour?": "yes",
        "do the square and the blue circle have the same colour?": None,  # tells one
        "is the square small?": "yes",
        "is the square large?": "no",
        "is the blue object a circle?": "yes",
        "is the square at the right?": "yes",
        "is there a blue circle?": "yes",
        "is there a blue square?": "no",
        "what colour is the circle?": None,  # two are circles
        "what colour is the large red circle?": None,  # tells it
        "is there a black circle?": None,  # a held-out pair
    }
    made = {}
    chance = Chance(2)
    for _ in range(3000):
        for question in questions(SCENE, chance, 4):
            assert made.setdefault(question.text, question.answer) == question.answer
    assert {text: made.get(text) for text in expected} == expected


def test_answers_are_short_and_right():
    for question in ask(replace(TEST, objects=(1, 2, 3)), 2000, train=False):
        assert 1 <= len(question.answer.split()) <= 2
        assert correct(question, question.answer)
        assert correct(question, f" {question.answer.upper()}. ")
        assert not correct(question, question.answer + " x")


def test_no_held_out_wording_or_pair_in_training():
    held = sum(map(len, HELD_OUT_WORDINGS.values()))
    assert held / (held + sum(map(len, WORDINGS.values()))) == pytest.approx(0.1, abs=0.01)
    known = set(" ".join(text for texts in WORDINGS.values() for text in texts).replace("?", "").split())
    new = set(" ".join(text for texts in HELD_OUT_WORDINGS.values() for text in texts).replace("?", "").split())
    assert new - known == {"shows"}  # a word of captions
    pairs = {f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS}
    made = ask(replace(TRAIN, objects=(1, 2, 3)), 20_000)
    assert all(question.seen for question in made)
    assert not any(pair in question.text or pair == question.answer for question in made for pair in pairs)
    test = ask(TEST, 4000, train=False)
    assert 0.03 < sum(not question.seen for question in test) / len(test) < 0.2


def test_questions_on_one_scene_differ():
    made = questions(SCENE, Chance(0), 12)
    assert len({question.text for question in made}) == 12
    assert len(questions(Scene(SCENE.objects[:1]), Chance(0), 40)) == 40
