"""Matrices: one candidate fits, each other breaks one rule, and the candidates alone do not tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from plait.data.shapes.chance import Chance
from plait.data.shapes.matrices import ATTRIBUTES, CANDIDATES, ORDERED, RADII, Cell, Matrices, implied, picture
from plait.data.shapes.world import COLOURS
from plait.document import Document, Image
from plait.errors import ConfigError

SOURCE = Matrices(seed=8, length=900, resolution=32)
MATRICES = [SOURCE.matrix(i) for i in range(len(SOURCE))]


def follows(matrix, attribute):
    """The values of an attribute that a rule can give the last cell, from the cells that are shown."""
    values = [getattr(cell, attribute) for cell in matrix.cells[:-1]]
    return implied(
        [values[at : at + matrix.columns] for at in range(0, len(values), matrix.columns)], attribute in ORDERED
    )


@pytest.mark.parametrize(
    ("rows", "ordered", "expected"),
    [
        ([[3, 3, 3], [5, 5, 5], [0, 0]], True, {0}),
        ([[1, 2, 3], [5, 6, 7], [2, 3]], True, {4}),
        ([[1, 2, 3], [5, 6, 7], [2, 3]], False, set()),
        ([[1, 2, 4], [4, 1, 2], [2, 4]], True, {1}),
        ([[1, 2, 4], [4, 1, 2], [2, 3]], True, set()),
        ([[7, 5, 3], [6, 4, 2], [8, 6]], True, {4}),
        ([[1, 3], [3]], True, {1, 5}),  # two rules differ: no such matrix is asked
        ([[1, 3], [3]], False, {1}),
        ([[1, 1], [4]], False, {4}),
    ],
)
def test_implied(rows, ordered, expected):
    assert implied(rows, ordered) == expected


def test_one_candidate_fits_and_each_other_breaks_one_rule():
    for matrix in MATRICES:
        assert len(set(matrix.candidates)) == CANDIDATES
        several = matrix.cells[0].place < 0
        for attribute in ATTRIBUTES:
            if attribute == "place" and several:
                continue
            assert follows(matrix, attribute) == {getattr(matrix.cells[-1], attribute)}
        for candidate in matrix.candidates:
            broken = [a for a in ATTRIBUTES if getattr(candidate, a) != getattr(matrix.cells[-1], a)]
            assert broken == ([] if candidate == matrix.cells[-1] else [matrix.asked])


def test_all_attributes_sizes_and_rules_are_asked():
    assert set(Counter((m.columns, m.asked) for m in MATRICES)) == {(n, a) for n in (2, 3) for a in ATTRIBUTES}
    for attribute in ATTRIBUTES:
        rules = Counter()
        for matrix in MATRICES:
            if matrix.asked == attribute:
                row = [getattr(cell, attribute) for cell in matrix.cells[-matrix.columns :]]
                steps = {b - a for a, b in pairwise(row)}
                rules["constant" if steps == {0} else "other"] += 1
        assert 0.25 < rules["constant"] / rules.total() < 0.6


def test_the_right_place_is_uniform():
    counts = Counter(matrix.right for matrix in MATRICES)
    assert set(counts) == set(range(CANDIDATES))
    assert max(counts.values()) / len(MATRICES) < 0.2


def test_the_candidate_most_alike_to_the_others_is_right_one_time_in_six():
    right = []
    for matrix in MATRICES[:500]:
        alike = [
            [sum(a == b for a, b in zip(one, other, strict=True)) for other in matrix.candidates]
            for one in matrix.candidates
        ]
        assert len({sum(row) for row in alike}) == 1  # by what is drawn none is
        pixels = np.stack([np.asarray(picture(c, Chance(1)).draw(32), dtype=float) for c in matrix.candidates])
        distance = np.abs(pixels[:, None] - pixels[None]).sum(axis=(1, 2, 3, 4))
        right.append((distance.argmin() == matrix.right, distance.argmax() == matrix.right))
    most, least = np.mean(right, axis=0)
    print(f"most alike in pixels {most:.3f}, least alike {least:.3f}")
    assert most == pytest.approx(1 / 6, abs=0.04)
    assert least == pytest.approx(1 / 6, abs=0.04)


def test_the_most_frequent_value_of_training_is_right_one_time_in_six():
    """Who knows how often each value was right, and sees the candidates alone."""
    half = len(MATRICES) // 2
    values = Counter((m.asked, getattr(m.cells[-1], m.asked)) for m in MATRICES[:half])
    right = [
        max(range(CANDIDATES), key=lambda k: values[m.asked, getattr(m.candidates[k], m.asked)]) == m.right
        for m in MATRICES[half:]
    ]
    assert np.mean(right) == pytest.approx(1 / 6, abs=0.05)


def test_pictures_of_cells():
    scene = picture(Cell(2, 1, 0, 4, -1), Chance(0))
    assert len(scene) == 4
    assert {item.facts[:2] for item in scene.objects} == {("blue", "square")}
    (item,) = picture(Cell(2, 1, 5, 1, 8), Chance(0)).objects
    assert (item.place, item.scale) == ("bottom right", 1)
    assert len({round(radius * 64, 3) for radius in RADII}) == CANDIDATES


def test_the_candidates_as_prompts_to_judge():
    for i in range(50):
        case = SOURCE.case(i)
        context, columns = case.prompt.images[:-CANDIDATES], MATRICES[i].columns
        assert len(context) == columns**2 - 1
        for number, prompt in enumerate(case.candidates):
            texts = [piece.text for piece in prompt if not isinstance(piece, Image)]
            assert texts == [
                f"Here are {'eight' if columns == 3 else 'three'} images:",
                "The following image is:",
                "Is it correct?",
            ]
            assert prompt.images == [*context, case.prompt.images[columns**2 - 1 + number]]
        assert case.candidates[case.right].images[-1] == case.prompt.images[columns**2 - 1 + MATRICES[i].right]


def test_to_judge_is_yes_half_the_time():
    source = replace(SOURCE, form="judge", length=400)
    answers = Counter()
    for case in source.cases():
        right = case.prompt == case.candidates[case.right]
        assert case.prompt in case.candidates
        assert case.reply.text == ("Yes" if right else "No")
        answers[case.reply.text] += 1
    assert answers["Yes"] / 400 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("changes", [{"columns": (4,)}, {"columns": ()}, {"form": "draw"}])
def test_wrong_fields_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(SOURCE, **changes)


def test_a_judge_says_no_behind_the_attribute_that_follows_no_rule():
    source = replace(SOURCE, form="judge", steps=True, length=200)
    for i, case in enumerate(source.cases()):
        steps, answer = (piece.text for piece in case.reply)
        matrix, looked = MATRICES[i], steps.removesuffix(": ").split("; ")
        assert case.document.pieces == (*case.prompt, *case.reply) and case.check(case.reply) == 1
        assert case.check(Document("Yes" if answer == "No" else "No")) == 0
        no = [step.split()[0] for step in looked if step.endswith(" no")]
        assert no == ([] if answer == "Yes" else [matrix.asked])
        assert {step.split()[0] for step in looked} == {*ATTRIBUTES} - {
            "place" if matrix.cells[0].place < 0 else "number"
        }
        *rows, last = looked[0].removeprefix("colour ").split(", ")
        assert " ".join(rows).split() == [COLOURS[cell.colour] for cell in matrix.cells]
        assert (last.split()[0] == rows[-1].split()[-1]) == (matrix.asked != "colour" or answer == "Yes")
    with pytest.raises(ConfigError, match="only judges take steps"):
        replace(SOURCE, steps=True)
