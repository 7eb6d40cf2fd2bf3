"""Invented words: two syllables, such as "dakub", that mean nothing."""

from __future__ import annotations

from plait.data.shapes.chance import Chance
from plait.data.shapes.split import Part, hashed

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def invented(chance: Chance, split: Part) -> str:
    """A word that its hash puts into the part: no word is invented in two parts. There are 68,600."""
    while True:
        word = "".join(chance.choice(letters) for letters in (_CONSONANTS, _VOWELS) * 2 + (_CONSONANTS,))
        if hashed(word) == split:
            return word
