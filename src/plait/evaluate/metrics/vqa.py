"""Accuracy on VQAv2, OK-VQA and VizWiz: how many of ten people gave the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from plait.errors import InputError

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
THOUSANDS = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # the released program hands a flag over as the count
ARTICLES = ("a", "an", "the")
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
"""
CONTRACTIONS = (
    {  # each, with any one of its apostrophes left out
        word[:i] + word[i + 1 :]: word for word in CONTRACTED.split() for i, sign in enumerate(word) if sign == "'"
    }
    | {"somebody'd": "somebodyd"}
)  # sic in the released program


def clean(answer: str) -> str:
    """An answer in one line, without space around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def without_punctuation(answer: str) -> str:
    """Signs become a space, or nothing where one touches a space or a comma stands between digits; periods go, unless a
    digit follows."""
    joined = THOUSANDS.search(answer) is not None
    kept = answer
    for sign in PUNCTUATION:
        if sign in answer:
            touches = f"{sign} " in answer or f" {sign}" in answer
            kept = kept.replace(sign, "" if touches or joined else " ")
    return PERIOD.sub("", kept, count=MOST_PERIODS)


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """The official normalisation: no punctuation, lower case, digits up to ten, no articles, apostrophes set."""
    words = (NUMBERS.get(word, word) for word in without_punctuation(answer).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


Compared = tuple[str, list[str]]


def _official(prediction: str, references: Sequence[str]) -> Compared:
    prediction, references = clean(prediction), [clean(answer) for answer in references]
    if len(set(references)) == 1:
        return prediction, references
    return normalise(prediction), [normalise(answer) for answer in references]


def _lavis(prediction: str, references: Sequence[str]) -> Compared:
    prediction = normalise(clean(prediction))
    if len(set(references)) == 1:
        return prediction, list(references)
    return prediction, [without_punctuation(answer) for answer in references]


def _always(prediction: str, references: Sequence[str]) -> Compared:
    return normalise(clean(prediction)), [normalise(clean(answer)) for answer in references]


VARIANTS: dict[str, Callable[[str, Sequence[str]], Compared]] = {
    "official": _official,
    "lavis_emu_minigpt4": _lavis,
    "always_normalise_lmms_eval_head": _always,
}
"""What is compared, from a prediction and the references of people:

* `official`, of the VQA challenge: both normalised, but neither where the references are all equal.
* `lavis_emu_minigpt4`, the older copy in LAVIS, with which Emu and MiniGPT-4 were scored: the prediction is always
  normalised; of the references only punctuation goes, and only where they differ.
* `always_normalise_lmms_eval_head`: both, always.
"""


def vqa_accuracy(
    predictions: Sequence[str], references: Sequence[Sequence[str]], variant: str = "official"
) -> NDArray[np.float64]:
    """Accuracy of each answer: for each person, min(1, matches among the *others* / 3); the mean over persons. # (n,)

    Antol et al. (arXiv 1505.00468) as released with VQAv2; ten references each, and any number here.

    Raises:
        InputError: counts that differ, a question without a reference, or an unknown variant.
    """
    if variant not in VARIANTS:
        raise InputError(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
    if len(predictions) != len(references):
        raise InputError(
            f"{len(predictions)} answers but references of {len(references)} questions: give one answer each"
        )
    people = np.array([len(answers) for answers in references])
    if not people.all():
        raise InputError(f"{(people == 0).sum()} of {len(people)} questions without a reference: leave them out")
    compared = map(VARIANTS[variant], predictions, references)
    matches = np.array([answers.count(answer) for answer, answers in compared])
    agreeing = matches * np.minimum((matches - 1) / 3, 1)  # a person who agrees is not among the others
    return (agreeing + (people - matches) * np.minimum(matches / 3, 1)) / people
