"""Invented nouns: twelve names of objects that are shown in pictures and never described, for what carries over.

Who has learned from pictures that a dax is what captions call a small red circle can say what colour a dax is, although
no text of training says it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS
from plait.data.shapes.questions import WORDINGS
from plait.data.shapes.score import draws, says
from plait.data.shapes.split import Part, noisy, part
from plait.data.shapes.world import PLACES, Scene, SceneImage
from plait.document import Image

# Every shape twice, every size six times, every colour once or twice; no pair is held out.
NOUNS: dict[str, tuple[str, str, str]] = {  # colour, shape, size
    "dax": ("red", "circle", "small"),
    "wug": ("blue", "square", "large"),
    "blicket": ("green", "cross", "small"),
    "toma": ("yellow", "ring", "large"),
    "fep": ("purple", "diamond", "small"),
    "zorp": ("cyan", "triangle", "large"),
    "rif": ("pink", "cross", "large"),
    "lorp": ("black", "square", "small"),
    "tulver": ("red", "diamond", "large"),
    "gazzer": ("blue", "ring", "small"),
    "pim": ("green", "circle", "large"),
    "koba": ("yellow", "triangle", "small"),
}
OBJECTS = (1, 2, 3)

SHOWN = {
    "draw": Wordings(("draw {s}.", "draw a picture of {s}.", "draw the picture: {s}."), ("{s}: draw it.",)),
    "name": Wordings(
        ("name the things in the picture.", "what are the things called?", "which things are there, and where?"),
        ("name the things.",),
    ),
    "place": Wordings(
        ("where is the {a}?", "in which place is the {a}?", "what is the place of the {a}?"), ("the {a} is where?",)
    ),
    "call": Wordings(
        ("what is {p} called?", "what is the name of what is {p}?", "which thing is {p}?"), ("{p} is what?",)
    ),
    "existence": Wordings(
        ("is there a {a}?", "do you see a {a}?", "does the picture show a {a}?"), ("there is a {a}, yes or no?",)
    ),
}
ASKED = {  # by the words of other questions, which training knows
    "colour": Wordings(WORDINGS["colour"]),
    "shape": Wordings(WORDINGS["shape"]),
    "size": Wordings(("is {a} small or large?", "what size is {a}?")),
    "larger": Wordings(WORDINGS["larger"]),
    "same": Wordings(WORDINGS["same"]),
    "call": Wordings(("what is {a} called?", "what is the name of {a}?")),
}


class Asked(NamedTuple):
    """What fills a wording, and the answer."""

    words: dict[str, str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Nouns(Cases):
    """Pictures of things that have an invented noun as their only name: to draw and to name them, and where they are.

    The picture of a sentence is worth the objects that the oracle finds; names and answers are checked word for word.

    Chance: the most frequent answer to the same question with its noun and place left out; no drawing.
    """

    name: ClassVar[str] = "nouns"
    chance: ClassVar[float] = 0.12

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        nouns, scene = things(chance, self.split)
        form = chance.choice(tuple(SHOWN))
        wording, image = SHOWN[form].pick(chance, self.split), Image(SceneImage(scene, self.resolution))
        at = chance.below(len(nouns))
        noun, place = nouns[at], scene.objects[at].place
        if form == "draw":
            return Case.asked([wording.format(s=said(nouns, scene))], image, partial(draws, scene.content))
        if form == "name":
            answer = said(nouns, scene) + "."
        elif form == "existence":
            answer = "yes" if chance.unit() < 0.5 else "no"
            noun = noun if answer == "yes" else chance.choice([other for other in NOUNS if other not in nouns])
        else:
            answer = place if form == "place" else noun
        asked = wording.format(a=noun, p=PLACE_WORDS[place][0])
        return Case.asked([image, asked], answer, partial(says, answer))


@dataclass(frozen=True, kw_only=True)
class NounQuestions(Cases):
    """Questions without a picture on what only pictures tell: colour, shape and size of the things that nouns name.

    There are none for training: what is asked must never have been said. Answers are checked word for word.

    Chance: red, circle, small, yes; dax, or of two nouns the first.
    """

    name: ClassVar[str] = "noun-questions"
    chance: ClassVar[float] = 0.32
    parts: ClassVar[tuple[Part, ...]] = ("test",)

    split: Part = "test"

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        form, made = chance.choice(tuple(ASKED)), None
        while made is None:
            made = _MAKERS[form](chance)
        question = ASKED[form].pick(chance, self.split).format(**made.words)
        return Case.asked([question], made.answer, partial(says, made.answer))


def said(nouns: list[str], scene: Scene) -> str:
    """ "a dax at the top and a wug in the middle": the things of a scene in reading order."""
    pairs = sorted(zip(nouns, scene.objects, strict=True), key=lambda pair: PLACES.index(pair[1].place))
    phrases = [f"a {noun} {PLACE_WORDS[item.place][0]}" for noun, item in pairs]
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def things(chance: Chance, wanted: Part) -> tuple[list[str], Scene]:
    """Different nouns, and a scene of the part with what they name, in the same order."""
    count = chance.choice(OBJECTS)
    while True:
        nouns, places = chance.sample(tuple(NOUNS), count), chance.sample(PLACES, count)
        facts = [(*NOUNS[noun], place) for noun, place in zip(nouns, places, strict=True)]
        if part(facts) == wanted:
            return nouns, Scene(tuple(noisy(chance, item) for item in facts))


def _attribute(at: int) -> Callable[[Chance], Asked | None]:
    def make(chance: Chance) -> Asked | None:
        noun = chance.choice(tuple(NOUNS))
        return Asked({"a": f"a {noun}"}, NOUNS[noun][at])

    return make


def _larger(chance: Chance) -> Asked | None:
    first, second = chance.sample(tuple(NOUNS), 2)
    if NOUNS[first][2] == NOUNS[second][2]:
        return None
    return Asked({"a": f"a {first}", "b": f"a {second}"}, first if NOUNS[first][2] == "large" else second)


def _same(chance: Chance) -> Asked | None:
    at, yes = chance.below(3), chance.unit() < 0.5
    pairs = [
        (first, second)
        for first in NOUNS
        for second in NOUNS
        if first != second and (NOUNS[first][at] == NOUNS[second][at]) == yes
    ]
    first, second = chance.choice(pairs)
    words = {"a": f"a {first}", "b": f"a {second}", "r": ("colour", "shape", "size")[at]}
    return Asked(words, "yes" if yes else "no")


def _call(chance: Chance) -> Asked | None:
    noun = chance.choice(tuple(NOUNS))
    colour, shape, size = NOUNS[noun]
    return Asked({"a": f"a {size} {colour} {shape}"}, noun)


_MAKERS: dict[str, Callable[[Chance], Asked | None]] = {
    "colour": _attribute(0),
    "shape": _attribute(1),
    "size": _attribute(2),
    "larger": _larger,
    "same": _same,
    "call": _call,
}
