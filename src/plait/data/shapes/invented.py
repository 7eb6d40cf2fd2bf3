"""Invented words, such as "dakub", that mean nothing."""

from __future__ import annotations

from plait.data.shapes.chance import Chance
from plait.data.shapes.split import Part, hashed

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def invented(chance: Chance, split: Part, letters: int = 5) -> str:
    """A word that its hash puts into the part: no word is invented in two parts. Of five letters there are 68,600."""
    while True:
        word = "".join(chance.choice(_VOWELS if i % 2 else _CONSONANTS) for i in range(letters))
        if hashed(word) == split:
            return word


def distinct(chance: Chance, split: Part, count: int) -> tuple[str, ...]:
    """Words of five letters, no two alike."""
    words: dict[str, None] = {}
    while len(words) < count:
        words[invented(chance, split)] = None
    return tuple(words)
