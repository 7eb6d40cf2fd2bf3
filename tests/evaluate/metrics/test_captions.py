from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from plait.errors import InputError
from plait.evaluate.metrics.captions import cider

GOLDENS = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[4] / "shared")) / "goldens/metrics/caption"
golden = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the goldens of captions are not here")
EXACT = 1e-12  # float64, another order of summation


def slow_cider(candidates: list[str], references: list[list[str]]) -> list[float]:
    """The formulas, word by word, for captions that are their words."""

    def grams(text: str, order: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

    scores = []
    for candidate, captions in zip(candidates, references, strict=True):
        total = 0.0
        for caption in captions:
            delta = sum(grams(candidate, 2).values()) - sum(grams(caption, 2).values())
            for order in (1, 2, 3, 4):
                given, wanted = grams(candidate, order), grams(caption, order)
                weight = {
                    gram: math.log(len(references))
                    - math.log(max(1, sum(any(gram in grams(one, order) for one in image) for image in references)))
                    for gram in given | wanted
                }
                dot = sum(min(given[gram], wanted[gram]) * wanted[gram] * weight[gram] ** 2 for gram in given)
                norms = [
                    math.hypot(*(count * weight[gram] for gram, count in side.items())) for side in (given, wanted)
                ]
                if all(norms):
                    total += dot / norms[0] / norms[1] * math.exp(-(delta**2) / 72)
        scores.append(10 * total / 4 / len(captions))
    return scores


def corpus(seed: int, images: int = 7) -> tuple[list[str], list[list[str]]]:
    """Captions of 0 to 9 words out of eight."""
    random = np.random.default_rng(seed)

    def caption() -> str:
        return " ".join(random.choice(list("bcdefghi"), random.integers(0, 10)))

    return [caption() for _ in range(images)], [
        [caption() for _ in range(random.integers(1, 5))] for _ in range(images)
    ]


def test_the_same_words_are_worth_ten() -> None:
    texts = ["red fish swim home", "blue birds fly far"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx([10, 10])
    assert cider(["red fish", "Blue birds."], [["red fish"], ["blue birds"]]) == pytest.approx([5, 5])  # no 3-, 4-grams


def test_by_hand() -> None:
    scores = cider(["red fish swim home", "blue blue"], [["red fish"], ["blue birds"]])
    longer = math.exp(-4 / 72) * (2 / (2 * math.sqrt(2)) + 1 / math.sqrt(3)) * 10 / 4
    clipped = 1 / (2 * math.sqrt(2)) * 10 / 4
    assert scores == pytest.approx([longer, clipped])


def test_words_of_every_image_are_worth_nothing() -> None:
    assert cider(["fish", "fish"], [["fish"], ["fish"]]) == pytest.approx([0, 0])
    assert cider(["", "birds"], [["fish"], ["birds"]]) == pytest.approx([0, 2.5])


@pytest.mark.parametrize("seed", range(5))
def test_as_the_formulas_say(seed: int) -> None:
    candidates, references = corpus(seed)
    assert cider(candidates, references) == pytest.approx(slow_cider(candidates, references), abs=EXACT)


def test_the_order_of_images_and_references_is_nothing() -> None:
    candidates, references = corpus(9)
    scores = cider(candidates, references)
    assert scores.max() > 0
    assert cider(candidates, [captions[::-1] for captions in references]) == pytest.approx(scores, abs=EXACT)
    assert cider(candidates[::-1], references[::-1])[::-1] == pytest.approx(scores, abs=EXACT)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 captions but references of 1 images: give one caption"),
        (["a"], [["a"]], "CIDEr of 1 image: .* give at least 2"),
        (["a", "b"], [["a"], []], "1 of 2 images without a reference, such as number 1"),
    ],
)
def test_what_cannot_be_scored(candidates: list[str], references: list[list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cider(candidates, references)


@golden
@pytest.mark.parametrize("name", ["good", "bad"])
def test_golden_of_clipscore(name: str) -> None:
    wanted = json.loads((GOLDENS / "expected.json").read_text())["clipscore_example"][name]["CIDEr"]
    captions = json.loads((GOLDENS / f"{name}_captions.json").read_text())
    references = json.loads((GOLDENS / "refs.json").read_text())
    assert cider(list(captions.values()), [references[key] for key in captions]).mean() == pytest.approx(
        wanted, rel=EXACT
    )


@golden
def test_golden_of_two_sentences() -> None:
    wanted = json.loads((GOLDENS / "expected.json").read_text())["aac_readme"]
    scores = cider(wanted["candidates"], wanted["references"])
    assert scores.mean() == pytest.approx(wanted["CIDEr"], rel=EXACT)
    assert scores == pytest.approx(wanted["CIDEr_per"], abs=1e-8)  # as printed


@golden
def test_golden_of_464_items() -> None:
    wanted = json.loads((GOLDENS / "expected.json").read_text())["aac_example_1_csv"]["CIDEr"]
    with (GOLDENS / "aac_example_1.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert len(rows) == 464
    assert cider([row[0] for row in rows], [row[1:] for row in rows]).mean() == pytest.approx(wanted, rel=EXACT)
