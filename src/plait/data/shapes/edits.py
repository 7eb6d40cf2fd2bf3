"""Edits: a picture, what is to be changed in it, and the picture after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from plait.data.shapes import oracle
from plait.data.shapes.cases import Case, Drawings, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS, SIZE_WORDS
from plait.data.shapes.looking import NO, ORDER, Sought, like, look
from plait.data.shapes.naming import named_by, phrase
from plait.data.shapes.questions import behind
from plait.data.shapes.score import drawing, object_accuracy
from plait.data.shapes.split import SEEN_PAIRS, Part, another, draw_scene, noisy, part
from plait.data.shapes.world import PLACES, SIZES, Object, Scene, SceneImage
from plait.document import Document, Image

OBJECTS = (2, 3)
TRIES = 8  # edits of one kind before another scene is drawn

WORDINGS = {
    "colour": Wordings(
        ("make {a} {v}.", "paint {a} {v}.", "change the colour of {a} to {v}.", "{a} should be {v}."),
        ("change {a} to {v}.",),
    ),
    "shape": Wordings(
        ("make {a} a {v}.", "turn {a} into a {v}.", "change the shape of {a} to {v}.", "{a} should be a {v}."),
        ("change {a} into a {v}.",),
    ),
    "size": Wordings(
        ("make {a} {v}.", "{a} should be {v}.", "change the size of {a} to {v}."), ("{a}: change the size to {v}.",)
    ),
    "place": Wordings(
        ("move {a} {to}.", "put {a} {v}.", "{a} should be {v}.", "change the place of {a}: move it {to}."),
        ("{a} should move {to}.",),
    ),
    "remove": Wordings(("remove {a}.", "take {a} away.", "draw the picture without {a}."), ("take away {a}.",)),
    "add": Wordings(("add {b}.", "put {b} into the picture.", "draw {b} too."), ("{b} should be there too.",)),
}


class Edit(NamedTuple):
    """What is asked, the scene after it, and what is looked for in the one before."""

    words: dict[str, str]
    after: Scene
    sought: Sought = Sought({}, lambda item: NO)


@dataclass(frozen=True, kw_only=True)
class Edits(Drawings):
    """An instruction that changes one object: its colour, shape, size or place; or removes or adds one.

    Both scenes belong to the part. The reply is a picture; it is worth nothing unless the oracle finds the change done,
    and then the share of the other objects that are still as they were.

    Steps: the objects, which of them is meant, and a caption of the scene after.

    Chance: a copy of the picture, in which the change is not done.
    """

    name: ClassVar[str] = "edits"
    chance: ClassVar[float] = 0.0

    def case(self, i: int) -> Case:
        """Case i."""
        before, instruction, edit = drawn_edit(self.stream(i), self.split, OBJECTS)
        first, second = (Image(SceneImage(scene, self.resolution)) for scene in (before, edit.after))
        told = behind(look(before, edit.sought, *ORDER), self.told(edit.after)) if self.steps else ""
        return Case.asked([first, instruction], second, partial(_worth, before, edit.after), told=told)


def drawn_edit(chance: Chance, wanted: Part, objects: Sequence[int]) -> tuple[Scene, str, Edit]:
    """A scene of as many objects, an instruction of any kind, and the edit; both scenes of the part, and not empty."""
    kind = chance.choice(tuple(WORDINGS))
    before, edit = _drawn(kind, chance, wanted, objects)
    return before, WORDINGS[kind].pick(chance, wanted).format(**edit.words), edit


def _drawn(kind: str, chance: Chance, wanted: Part, objects: Sequence[int]) -> tuple[Scene, Edit]:
    while True:
        scene = draw_scene(chance, objects, wanted)
        for _ in range(TRIES):
            edit = _EDITS[kind](scene, chance)
            if edit is not None and edit.after.objects and part(edit.after.content) == wanted:
                return scene, edit


def done(before: Scene, after: Scene, found: Scene) -> float:
    """How far a picture `found` is the scene `after` an edit: 0 if the change is not done, else how well the objects
    that it leaves alone are kept (`object_accuracy`)."""
    was, wanted, there = (set(scene.content) for scene in (before, after, found))
    if not wanted - was <= there or (was - wanted) & there:
        return 0.0
    return object_accuracy(sorted(was & wanted), sorted(there - (wanted - was)))


def _worth(before: Scene, after: Scene, reply: Document) -> float:
    picture = drawing(reply)
    return 0.0 if picture is None else done(before, after, oracle.read(picture))


def _exchanged(scene: Scene, item: Object, new: tuple[Object, ...]) -> Scene:
    """The scene with one object replaced by those given."""
    return Scene(tuple(other for old in scene.objects for other in (new if old is item else (old,))))


def _place(scene: Scene, chance: Chance) -> str:
    return chance.choice([place for place in PLACES if all(item.place != place for item in scene.objects)])


def _change(attribute: str) -> Callable[[Scene, Chance], Edit | None]:
    def edit(scene: Scene, chance: Chance) -> Edit | None:
        item = chance.choice(scene.objects)
        named = named_by(scene, item, "", chance)
        if named is None:
            return None
        value = _place(scene, chance) if attribute == "place" else another(item, attribute, chance, train=True)
        said = chance.choice(PLACE_WORDS[value] if attribute == "place" else SIZE_WORDS.get(value, (value,)))
        words = {
            "a": "the " + phrase(item, named),
            "v": said,
            "to": "to " + said.split(" ", 1)[-1],
        }  # "in the middle", "to the middle"
        return Edit(words, _exchanged(scene, item, (item.changed(attribute, value),)), like(item, named))

    return edit


def _remove(scene: Scene, chance: Chance) -> Edit | None:
    item = chance.choice(scene.objects)
    named = named_by(scene, item, "", chance)
    if named is None:
        return None
    return Edit({"a": "the " + phrase(item, named)}, _exchanged(scene, item, ()), like(item, named))


def _add(scene: Scene, chance: Chance) -> Edit:
    (colour, shape), size, place = chance.choice(SEEN_PAIRS), chance.choice(SIZES), _place(scene, chance)
    said = f"a {chance.choice(SIZE_WORDS[size])} {colour} {shape} {chance.choice(PLACE_WORDS[place])}"
    return Edit({"b": said}, Scene((*scene.objects, noisy(chance, (colour, shape, size, place)))))


_EDITS: dict[str, Callable[[Scene, Chance], Edit | None]] = {
    **{attribute: _change(attribute) for attribute in ("colour", "shape", "size", "place")},
    "remove": _remove,
    "add": _add,
}
