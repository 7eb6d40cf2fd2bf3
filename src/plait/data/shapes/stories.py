"""Stories of one scene that changes sentence by sentence: pictures between the sentences, to be drawn or told on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from plait.data.shapes import oracle
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.changes import Change, Kind, draw_change
from plait.data.shapes.language import PLACE_WORDS, caption
from plait.data.shapes.score import drawing, object_accuracy
from plait.data.shapes.split import Part, belong, draw_distinct
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene, SceneImage
from plait.document import Blank, Document, Image, Piece, Text
from plait.errors import ConfigError

Form = Literal["draw", "tell"]

MOST_OBJECTS = 3
_KINDS: tuple[Kind, ...] = (*("moves", "turns", "appears") * 3, "vanishes", "resizes")  # the last two are easy guesses

WORDINGS: dict[Kind, tuple[str, ...]] = {
    "appears": ("a {size} {colour} {shape} appears {at}.", "now there is a {size} {colour} {shape} {at}."),
    "vanishes": ("the {a} vanishes.", "the {a} goes away."),
    "moves": ("the {a} moves to {to}.", "the {a} goes to {to}.", "now the {a} is {at}."),
    "turns": ("the {a} becomes {colour}.", "the {a} turns {colour}."),
    "resizes": ("the {a} becomes {size}.", "now the {a} is {size}."),
}
HELD_OUT_WORDINGS: dict[Kind, tuple[str, ...]] = {
    "appears": ("now a {size} {colour} {shape} appears {at}.",),
    "moves": ("now the {a} moves to {to}.",),
    "turns": ("now the {a} is {colour}.",),
}


@dataclass(frozen=True, slots=True)
class Redraws:
    """The worth of a reply's first picture, read by the oracle: how far it gets from one scene to the next.

    1 for the scene `after`, 0 for one no nearer to it than `before` (by `object_accuracy`): a copy of the last picture
    is worth nothing.
    """

    before: Scene
    after: Scene

    def __call__(self, reply: Document) -> float:
        """The worth of the reply; 0 without a picture that can be read."""
        picture = drawing(reply)
        if picture is None:
            return 0.0
        found = oracle.read(picture).content
        still = object_accuracy(self.after.content, self.before.content)
        return max(0.0, (object_accuracy(self.after.content, found) - still) / (1 - still))


@dataclass(frozen=True, slots=True)
class Tells:
    """Worth 1 when the reply is one sentence that makes the scene `after` of `before`, in any known wording; else 0."""

    before: Scene
    after: Scene

    def __call__(self, reply: Document) -> float:
        """The worth of the reply."""
        change = parse(reply.text, self.before)
        return float(change is not None and change.apply(self.before).content == self.after.content)


@dataclass(frozen=True, kw_only=True)
class Stories(Cases):
    """A scene told and shown, then changed sentence by sentence: one to three changes, of one object each.

    A document is text and pictures by turns. In a story to draw each sentence stands before its picture, and the last
    picture is to be drawn; in a story to tell it stands after, and the last sentence is to be told:

        draw  "a large red circle at the top." image "the red circle moves to the left." image ... | image
        tell  image "a large red circle at the top." image "the red circle moves to the left." image ... | "..."

    Objects are named by colour and shape, which tell them apart. A drawing is judged by what it gains over a copy of
    the picture before (`Redraws`), a sentence by what it makes of the scene (`Tells`).

    Chance: nothing for drawings, as a copy is; for sentences, whoever reads the text but sees no picture says that an
    object vanishes where there are two or more, and else that the only one changes its size.

    Args:
        forms: which of "draw" and "tell", each as likely.
        changes: numbers of changes, each as likely.
    """

    name: ClassVar[str] = "stories"
    chance: ClassVar[float] = 0.035

    forms: tuple[Form, ...] = ("draw", "tell")
    changes: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.forms or not set(self.forms) <= set(get_args(Form)):
            raise ConfigError(f"forms={self.forms}: give some of {', '.join(get_args(Form))}")
        if not self.changes or min(self.changes) < 1:
            raise ConfigError(f"changes={self.changes}: give numbers of at least 1")

    def form(self, i: int) -> Form:
        """Whether case i is to draw or to tell."""
        return self.stream(i, 1).choice(self.forms)

    def scenes(self, i: int) -> list[Scene]:
        """The scenes of case i, each one change after the one before."""
        return self._plot(i)[0]

    def case(self, i: int) -> Case:
        """Case i."""
        scenes, told = self._plot(i)
        form, chance = self.form(i), self.stream(i, 2)
        texts = [caption(scenes[0], chance, self.split != "test").text]
        texts += [_say(change, kind, chance, self.split) for kind, change in told]
        pieces: list[Piece] = []
        for scene, text in zip(scenes, texts, strict=True):
            image = Image(SceneImage(scene, self.resolution))
            pieces += [Text(text), image] if form == "draw" else [image, Text(text)]
        check = (Redraws if form == "draw" else Tells)(*scenes[-2:])
        blank = [Blank("image")] if form == "draw" else []
        return Case(Document(pieces), Document([*pieces[:-1], *blank]), check, Document(pieces[-1]))

    def _plot(self, i: int) -> tuple[list[Scene], list[tuple[Kind, Change]]]:
        """The scenes, and what happens between them."""
        chance = self.stream(i)
        objects, changes = 1 + chance.below(2), chance.choice(self.changes)
        while True:
            scenes, told = [draw_distinct(chance, objects)], list[tuple[Kind, Change]]()
            while len(told) < changes:
                kind = chance.choice(_KINDS)
                change = draw_change(kind, scenes[-1], chance)
                if change and len(after := change.apply(scenes[-1])) <= MOST_OBJECTS:
                    scenes.append(after)
                    told.append((kind, change))
            if belong(scenes, scenes[-1], self.split):
                return scenes, told


def parse(sentence: str, scene: Scene) -> Change | None:
    """The change that the sentence tells of the scene; None when no wording fits, or it names what is not there."""
    words = " ".join(sentence.lower().split()).removesuffix(".").rstrip()
    for kind, pattern in _PATTERNS:
        if found := pattern.fullmatch(words):
            return _told(kind, found.groupdict(), scene)
    return None


def _told(kind: Kind, said: dict[str, str], scene: Scene) -> Change | None:
    before = next((item for item in scene.objects if f"{item.colour} {item.shape}" == said.get("a")), None)
    if before is None and kind != "appears":
        return None
    if kind == "vanishes":
        return Change(before, None)
    facts = dict(zip(_FACTS, before.facts, strict=True)) if before else {}
    facts |= {name: said[name] for name in _FACTS if name in said}
    if "at" in said or "to" in said:
        facts["place"] = _PLACE_OF[said.get("at") or said["to"]]
    return Change(before, Object(facts["colour"], facts["shape"], facts["size"], facts["place"]))


def _say(change: Change, kind: Kind, chance: Chance, split: Part) -> str:
    wordings = Wordings(WORDINGS[kind], HELD_OUT_WORDINGS.get(kind, ()))
    old, new = change.before or change.after, change.after or change.before
    assert old is not None and new is not None
    return wordings.pick(chance, split).format(
        a=f"{old.colour} {old.shape}",
        at=PLACE_WORDS[new.place][0],
        to=_NOUNS[new.place],
        colour=new.colour,
        shape=new.shape,
        size=new.size,
    )


_FACTS = ("colour", "shape", "size", "place")
_NOUNS = {place: words[0].split(" ", 1)[1] for place, words in PLACE_WORDS.items()}  # "the top left"
_PLACE_OF = {words: place for place in PLACES for words in (PLACE_WORDS[place][0], _NOUNS[place])}


def _pattern(wording: str) -> re.Pattern[str]:
    named: dict[str, Iterable[str]] = {
        "colour": COLOURS,
        "shape": SHAPES,
        "size": SIZES,
        "at": [PLACE_WORDS[p][0] for p in PLACES],
    }
    named |= {"to": list(_NOUNS.values()), "a": [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]}
    groups = {name: f"(?P<{name}>{'|'.join(words)})" for name, words in named.items()}
    return re.compile(wording.removesuffix(".").format(**groups))


_PATTERNS = tuple(
    (kind, _pattern(wording)) for kind in WORDINGS for wording in WORDINGS[kind] + HELD_OUT_WORDINGS.get(kind, ())
)
