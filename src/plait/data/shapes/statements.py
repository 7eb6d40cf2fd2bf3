"""Plain text of the world: stories on scenes that are told and not shown, whose last statement is to be completed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from plait.data.shapes import language
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.naming import NUMBERS, name_of, plural, value_of
from plait.data.shapes.score import says
from plait.data.shapes.split import draw_scene
from plait.data.shapes.world import COLOURS, OPPOSITE, SIZES, VALUES, Scene
from plait.document import Document, Text

COUNTED = (2, 3, 4, 5, 6, 7, 8, 9)  # objects of a scene of which only numbers are told
TOLD = (2, 3)  # objects of a scene that is told in whole

WORDINGS = {
    "sum": Wordings(
        ("you see {n} and {m}. together there are", "{n} and {m} make", "there are {n} and {m}. the number of all is"),
        ("you see {n} and {m}. the number of all is",),
    ),
    "rest": Wordings(
        (
            "there are {n}, of which {m} {is} {v}. the number of the others is",
            "you see {n}. {m} of them {is} {v}. the number of objects that are not {v} is",
            "there are {n}. without {m} of them there are",
        ),
        ("you see {n}. without {m} of them there are",),
    ),
    "count": Wordings(
        ("{s} the number of {b} is", "{s} how many {b} are there? there are"), ("{s} the picture has so many {b}:",)
    ),
    "colour": Wordings(("{s} the colour of {a} is", "{s} {a} has the colour"), ("{s} {a} is of the colour",)),
    "shape": Wordings(("{s} the shape of {a} is", "{s} {a} has the shape"), ("{s} {a} is of the shape",)),
    "place": Wordings(("{s} the place of {a} is", "{s} {a} has the place"), ("{s} {a} is in the place",)),
    "beside": Wordings(("{s} seen from {b}, {a} is", "{s} beside {b}, {a} is"), ("{s} {a}, seen from {b}, is",)),
}


class Statement(NamedTuple):
    """What fills a wording, and what completes it."""

    words: dict[str, str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Statements(Cases):
    """Text alone: two numbers of objects to add or to subtract, or a caption and a statement that follows from it.

    The reply completes the last statement; what stands before its first dot is checked, word for word.

    Chance: the most frequent completion of the same last sentence, values and numbers left out.
    """

    name: ClassVar[str] = "statements"
    chance: ClassVar[float] = 0.16

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        form, made = chance.choice(tuple(WORDINGS)), None
        while made is None:
            scene = draw_scene(chance, COUNTED if form in ("sum", "rest") else TOLD, self.split)
            made = _MAKERS[form](scene, chance)
        told = language.caption(scene, chance, train=self.split != "test").text if "s" in made.words else ""
        begun = WORDINGS[form].pick(chance, self.split).format(**{**made.words, "s": told})
        return Case(
            document=Document([Text(f"{begun} {made.answer}.")]),
            prompt=Document([Text(begun)]),
            check=partial(completes, made.answer),
            reply=Document([Text(f" {made.answer}.")]),
        )


def completes(answer: str, reply: Document) -> float:
    """1 for a reply that is the answer up to its first dot; else 0."""
    return says(answer, Document(reply.text.partition(".")[0]))


def _sum(scene: Scene, chance: Chance) -> Statement | None:
    sizes = [item.size for item in scene.objects]
    first, second = chance.sample(SIZES, 2)
    if len(set(sizes)) < 2:
        return None
    n, m = (_counted(sizes.count(size), f"{size} object") for size in (first, second))
    return Statement({"n": n, "m": m}, NUMBERS[len(scene)])


def _rest(scene: Scene, chance: Chance) -> Statement | None:
    attribute = chance.choice(("colour", "size"))
    present = [value_of(item, attribute) for item in scene.objects]
    value = chance.choice(COLOURS if attribute == "colour" else SIZES)
    count = present.count(value)
    if not 0 < count < len(scene):
        return None
    words = {"n": _counted(len(scene), "object"), "m": NUMBERS[count], "v": value, "is": "is" if count == 1 else "are"}
    return Statement(words, NUMBERS[len(scene) - count])


def _counted(count: int, name: str) -> str:
    return f"{NUMBERS[count]} {name}{'' if count == 1 else 's'}"


def _count(scene: Scene, chance: Chance) -> Statement:
    attribute = chance.choice(("colour", "shape", "size"))
    present = [value_of(item, attribute) for item in scene.objects]
    counts = sorted({present.count(value) for value in VALUES[attribute]})
    wanted = chance.choice(counts)
    value = chance.choice([value for value in VALUES[attribute] if present.count(value) == wanted])
    return Statement({"b": plural(attribute, value), "s": ""}, NUMBERS[wanted])


def _attribute(attribute: str) -> Callable[[Scene, Chance], Statement | None]:
    def make(scene: Scene, chance: Chance) -> Statement | None:
        item = chance.choice(scene.objects)
        name = name_of(scene, item, attribute, chance)
        return None if name is None else Statement({"a": "the " + name, "s": ""}, value_of(item, attribute))

    return make


def _beside(scene: Scene, chance: Chance) -> Statement | None:
    item, anchor = chance.sample(scene.objects, 2)
    relations = [relation for relation in OPPOSITE if item.lies(relation, anchor)]
    name, other = (name_of(scene, one, "place", chance) for one in (item, anchor))
    if len(relations) != 1 or name is None or other is None:
        return None
    words = {"a": "the " + name, "b": "the " + other, "s": ""}
    return Statement(words, relations[0].removesuffix(" of"))


_MAKERS: dict[str, Callable[[Scene, Chance], Statement | None]] = {
    "sum": _sum,
    "rest": _rest,
    "count": _count,
    **{attribute: _attribute(attribute) for attribute in ("colour", "shape", "place")},
    "beside": _beside,
}
