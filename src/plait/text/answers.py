"""What is taken of a reply as the answer to a question, or as a caption (Emu's released evaluation)."""

from __future__ import annotations

_OPENINGS = ("it is ", "it's ", "a ", "an ", "the ")


def first_sentence(text: str) -> str:
    """The first line up to its first full stop, in small letters: a caption."""
    return text.split("\n")[0].split(". ")[0].strip().removesuffix(".").lower()


def short_answer(text: str) -> str:
    """What stands before the first line break, full stop, double quote or comma, without what answers begin with."""
    for mark in ("\n", ". ", '"', ", "):
        text = text.split(mark)[0]
    text = text.strip().lower().removesuffix(".")
    for opening in _OPENINGS:
        text = text.removeprefix(opening)
    return text
