from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from plait.errors import InputError
from plait.evaluate import score
from plait.evaluate.metrics.vqa import CONTRACTIONS, VARIANTS, normalise, vqa_accuracy, without_punctuation

FILE = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[4] / "shared")) / "goldens/metrics/vqa/cases.json"
golden = pytest.mark.skipif(not FILE.is_file(), reason="the goldens of VQA are not here")
OFFICIAL, LAVIS, ALWAYS = VARIANTS


@pytest.mark.parametrize(
    ("answer", "signs", "normal"),
    [
        ("Yes!", "Yes ", "yes"),
        ("Red, white", "Red white", "red white"),
        ("12,500", "12500", "12500"),
        ("12,500/day", "12500day", "12500day"),  # a comma between digits takes every sign with it
        ("v-neck", "v neck", "v neck"),
        ("red - white", "red  white", "red white"),
        ("3.5 in.", "3.5 in", "3.5 in"),
        ("The two of an A", "The two of an A", "2 of"),
        ("None", "None", "0"),
        ("eleven", "eleven", "eleven"),
        ("hes wouldntve hed've Im", "hes wouldntve hed've Im", "he's wouldntve he'd've im"),
        ("let's", "let's", "let's"),
        ("lets", "lets", "lets"),
        ("." * 33, ".", "."),
        ("", "", ""),
    ],
)
def test_normalisation(answer: str, signs: str, normal: str) -> None:
    assert without_punctuation(answer) == signs
    assert normalise(answer) == normal


def test_contractions() -> None:
    wanted = {"y'alld've": "y'all'd've", "'ow'sat": "'ow's'at", "twas": "'twas", "somebody'd": "somebodyd"}
    assert wanted.items() <= CONTRACTIONS.items()
    assert all(value.replace("'", "") == key.replace("'", "") for key, value in CONTRACTIONS.items())


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_the_others_must_agree(matches: int, accuracy: float) -> None:
    references = ["cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy(["cat"], [references]) == pytest.approx([accuracy])


def test_the_variants_differ() -> None:
    alike = ["red"] * 10
    number = ["2"] * 3 + ["two"] * 7
    wanted = {OFFICIAL: [0, 1], LAVIS: [1, 0.9], ALWAYS: [1, 1]}
    for variant, accuracies in wanted.items():
        assert vqa_accuracy(["Red.", "two"], [alike, number], variant) == pytest.approx(accuracies), variant


def test_the_order_of_people_is_nothing() -> None:
    references = ["two", "2", "a dog", "Two!", "3"]
    for variant in VARIANTS:
        assert vqa_accuracy(["two"], [references], variant) == vqa_accuracy(["two"], [references[::-1]], variant)


def test_few_people() -> None:
    assert vqa_accuracy(["cat", "cat"], [["cat"], ["cat", "cat"]]) == pytest.approx([0, 1 / 3])


@pytest.mark.parametrize(
    ("predictions", "references", "variant", "message"),
    [
        (["a"], [["a"], ["b"]], OFFICIAL, "1 answers but references of 2 questions"),
        (["a"], [[]], OFFICIAL, "1 of 1 questions without a reference"),
        (["a"], [["a"]], "mine", "no variant 'mine'; there are official, lavis"),
    ],
)
def test_what_cannot_be_scored(predictions: list[str], references: Any, variant: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vqa_accuracy(predictions, references, variant)


def test_the_command_knows_the_variants() -> None:
    assert score.METRICS["vqa"].variants == tuple(VARIANTS)


@golden
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden(variant: str) -> None:
    content = json.loads(FILE.read_text())
    cases, wanted = content["cases"], content[variant]
    found = vqa_accuracy([case["pred"] for case in cases.values()], [case["gt"] for case in cases.values()], variant)
    assert {key: round(100 * value, 2) for key, value in zip(cases, found, strict=True)} == {
        key: value for key, value in wanted.items() if key != "overall"
    }
    assert round(100 * found.mean(), 2) == wanted["overall"]


@golden
def test_golden_of_normalisation() -> None:
    wanted = json.loads(FILE.read_text())["normalisation"]
    assert {answer: [without_punctuation(answer), normalise(answer)] for answer in wanted} == wanted
