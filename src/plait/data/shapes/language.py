"""Captions: sentences that state colour, shape, size and place of every object, and the grammar that reads them back.

A wording is a frame for the sentence and a frame for each object. One in nine never occurs in training; it is made of
words that do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from plait.data.shapes.chance import Chance
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Facts, Object, Scene

Wording = tuple[str, str]
Fault = Literal["empty", "foreign", "repetition", "fragment"]

_SENTENCES = ("{}.", "there is {}.", "the picture shows {}.", "we see {}.")
_PHRASES = (
    "a {size} {colour} {shape} {place}",
    "one {size} {colour} {shape} {place}",
    "{place} a {size} {colour} {shape}",
    "a {size} {shape} in {colour} {place}",
)
WORDINGS: tuple[Wording, ...] = tuple((sentence, phrase) for sentence in _SENTENCES for phrase in _PHRASES)
HELD_OUT_WORDINGS: tuple[Wording, ...] = (
    ("the picture shows {}.", "{place} one {size} {colour} {shape}"),
    ("there is {}.", "a {size} {shape} {place} in {colour}"),
)

REQUESTS = ("describe the picture.", "what do you see?", "what does the picture show?")

READING_ORDER = 0.8  # share of captions that name the objects from top left to bottom right; the others in any order

# Two manners of speech; a caption keeps to one for sizes and to one for places.
SIZE_WORDS: dict[str, tuple[str, str]] = {"small": ("small", "little"), "large": ("large", "big")}
PLACE_WORDS: dict[str, tuple[str, str]] = {
    "top left": ("at the top left", "in the top left corner"),
    "top": ("at the top", "at the top edge"),
    "top right": ("at the top right", "in the top right corner"),
    "left": ("at the left", "at the left edge"),
    "middle": ("in the middle", "in the centre"),
    "right": ("at the right", "at the right edge"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom": ("at the bottom", "at the bottom edge"),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}


class Caption(NamedTuple):
    """A sentence on a scene; `seen` is false for a wording that never occurs in training."""

    text: str
    seen: bool


def caption(scene: Scene, chance: Chance, train: bool = True) -> Caption:
    """A caption of the scene; with `train` false, the held-out wordings may come too."""
    wording = chance.choice(WORDINGS if train else WORDINGS + HELD_OUT_WORDINGS)
    manner = chance.below(2), chance.below(2)
    ordered = chance.unit() < READING_ORDER
    objects = scene.in_order if ordered else chance.sample(scene.objects, len(scene))
    return Caption(say(objects, wording, manner), wording in WORDINGS)


def say(objects: Sequence[Object], wording: Wording, manner: tuple[int, int] = (0, 0)) -> str:
    """The sentence that names the objects in this order, by one wording and one manner of (sizes, places)."""
    sentence, phrase = wording
    phrases = [
        phrase.format(
            colour=item.colour,
            shape=item.shape,
            size=SIZE_WORDS[item.size][manner[0]],
            place=PLACE_WORDS[item.place][manner[1]],
        )
        for item in objects
    ]
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return sentence.format(listed)


def parse(sentence: str) -> tuple[Facts, ...] | None:
    """The facts that a caption states, sorted as in `Scene.content`; None when the grammar does not know the sentence.

    Phrases of several wordings may be mixed; case, white space and the final dot do not matter.
    """
    words = bare(sentence.replace(",", " , "))
    words = words.removeprefix(next((start for start in _STARTS if words.startswith(start)), ""))
    facts: list[Facts] = []
    for phrase in re.split(r" , | and ", words):
        found = next((match for pattern in _PATTERNS if (match := pattern.fullmatch(phrase))), None)
        if found is None:
            return None
        facts.append((found["colour"], found["shape"], _SIZE_OF[found["size"]], _PLACE_OF[found["place"]]))
    return tuple(sorted(facts))


def fault(description: str) -> Fault | None:
    """What is wrong with a description as language, whatever it says of the picture.

    "repetition" where it names an object twice. Where `parse` does not know it, the first that holds: "empty", no
    words; "foreign", a word that no caption of the world has; "repetition", words that are said again at once;
    "fragment". None: nothing is wrong.
    """
    facts = parse(description)
    if facts is not None:
        return "repetition" if len(set(facts)) < len(facts) else None
    words = re.findall(r"[^\s,]+", bare(description))
    if not words:
        return "empty"
    if not WORDS.issuperset(words):
        return "foreign"
    return "repetition" if _AGAIN.search(" ".join(word for word in words if word != "and")) else "fragment"


def bare(text: str) -> str:
    """The text without case, doubled or outer white space and a final dot."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def _pattern(phrase: str) -> re.Pattern[str]:
    alternatives = {"colour": COLOURS, "shape": SHAPES, "size": _SIZE_OF, "place": _PLACE_OF}
    return re.compile(phrase.format(**{name: f"(?P<{name}>{'|'.join(words)})" for name, words in alternatives.items()}))


_SIZE_OF = {word: size for size in SIZES for word in SIZE_WORDS[size]}
_PLACE_OF = {words: place for place in PLACES for words in PLACE_WORDS[place]}
_AGAIN = re.compile(r"\b(\w+(?: \w+)*)(?: \1)+\b")
WORDS: frozenset[str] = frozenset(
    word
    for text in (
        *(sentence for wording in WORDINGS + HELD_OUT_WORDINGS for sentence in wording),
        *(words for table in (SIZE_WORDS, PLACE_WORDS) for pair in table.values() for words in pair),
        *(*COLOURS, *SHAPES, "and"),
    )
    for word in re.findall(r"(?<!\{)\b\w+\b", text)
)
"""Every word that occurs in captions."""
_STARTS = tuple(sentence.removesuffix("{}.") for sentence in _SENTENCES[1:])
_PATTERNS = tuple(_pattern(phrase) for phrase in dict.fromkeys(w[1] for w in WORDINGS + HELD_OUT_WORDINGS))
