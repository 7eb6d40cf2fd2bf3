"""What a guess without looking is worth, for the kinds of cases."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import pytest

from plait.data.shapes.cases import Case, Cases
from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.world import VALUES
from plait.document import Document, Text

Guess = Callable[[Case], Document]
Keys = Callable[[Case], Iterable[str]]

CANDIDATES, TRIED = 40, 60  # replies of training that are tried for a key, and cases that each is tried on
_VALUES = {value: f"<{name}>" for name, values in {**VALUES, "number": NUMBERS}.items() for value in values}
_VALUE = re.compile(r"\b(?:" + "|".join(sorted(_VALUES, key=len, reverse=True)) + r")\b")


def said(case: Case) -> str:
    """What was said last: the text of the last turn of the user, or of the prompt."""
    users = [turn for turn in case.prompt.turns if turn.role == "user"]
    return users[-1].text if users else case.prompt.text


def without_values(text: str) -> str:
    """The text with its colours, shapes, sizes, places and numbers left out."""
    return re.sub(r"\d+", "0", _VALUE.sub(lambda match: _VALUES[match[0]], text))


@pytest.fixture(scope="session")
def form() -> Callable[[str], str]:
    """`without_values`."""
    return without_values


@pytest.fixture(scope="session")
def worth() -> Callable[..., float]:
    """What a guess is worth: its mean over 300 cases of the test."""

    def measured(kind: type[Cases], guess: Guess, count: int = 300) -> float:
        cases = list(kind(seed=1, length=count, split="test").cases())
        return sum(case.check(guess(case)) for case in cases) / count

    return measured


@pytest.fixture(scope="session")
def learned() -> Callable[..., Guess]:
    """A guess in words: for the first key of a case that occurs in training, the reply that is worth most there.

    The keys are by default the text that was said last, its form, the first three words of that, nothing.
    """

    def keys_by_text(case: Case) -> Iterable[str]:
        text = said(case)
        return text, without_values(text), " ".join(without_values(text).split()[:3]), ""

    def learn(kind: type[Cases], keys: Keys = keys_by_text, count: int = 2000) -> Guess:
        known: defaultdict[str, list[Case]] = defaultdict(list)
        for case in kind(seed=0, length=count, split=kind.parts[0]).cases():
            for key in keys(case):
                known[key].append(case)
        best: dict[str, Document] = {}

        def guess(case: Case) -> Document:
            key = next((key for key in keys(case) if key in known), "")
            if key not in best:
                replies = Counter(case.reply.text for case in known[key] if not case.reply.images)
                tried = [Document([Text(text)]) for text, _ in replies.most_common(CANDIDATES)] or [Document([])]
                best[key] = max(tried, key=lambda reply: sum(case.check(reply) for case in known[key][:TRIED]))
            return best[key]

        return guess

    return learn


@pytest.fixture(scope="session")
def copied() -> Guess:
    """A guess: the first picture of the prompt."""
    return lambda case: Document([case.prompt.images[0]])
