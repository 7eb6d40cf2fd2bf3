"""Boxes in plain text: "red circle 12 30 45 62" is where it begins and ends, in hundredths of the picture's side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from plait.data.shapes import draw
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.language import bare
from plait.data.shapes.naming import name_of
from plait.data.shapes.score import says
from plait.data.shapes.split import draw_scene
from plait.data.shapes.world import Object, SceneImage
from plait.document import Document, Image

OBJECTS = (1, 2, 3)
SIDE = 100  # whole numbers 0 to 99

Box = tuple[int, int, int, int]
"""Left, top, right, bottom: the first and the last cell of 100 by 100 that the object reaches."""

GROUNDING = Wordings(
    ("give the box of {a}.", "what is the box of {a}?", "which box does {a} have?", "{a} has which box?"),
    ("{a} is in which box?",),
)
READING = Wordings(
    ("what is in the box {b}?", "which object is in the box {b}?", "what do you see in the box {b}?"),
    ("the box {b} has which object?",),
)
LISTING = Wordings(
    ("name the objects with their boxes.", "which objects are there, and in which boxes?"),
    ("give the objects with their boxes.",),
)

# How far each shape reaches from its centre, in radii: to the sides, up, down.
REACH: dict[str, tuple[float, float, float]] = {
    "circle": (1, 1, 1),
    "square": (0.9, 0.9, 0.9),
    "triangle": (1, 1, 0.85),
    "diamond": (1.05, 1.05, 1.05),
    "cross": (1, 1, 1),
    "ring": (1, 1, 1),
}


@dataclass(frozen=True, kw_only=True)
class Boxes(Cases):
    """The box of a named object, the name of what is in a box, or names and boxes of all objects, as often.

    A box is worth the IoU with the true one; a name (colour and shape) must be right; a list is worth the IoU of the
    objects that it names rightly, one to one, over the larger of the two numbers of objects.

    Chance: of 40 answers of training to the same kind of request, the one that is worth most there.
    """

    name: ClassVar[str] = "boxes"
    chance: ClassVar[float] = 0.02

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene = draw_scene(chance, OBJECTS, self.split)
        image = Image(SceneImage(scene, self.resolution))
        item = chance.choice(scene.objects)
        form, name = chance.below(3), name_of(scene, item, "place", chance)
        if form == 0 and name is not None:  # no two objects are alike but in their place
            asked = GROUNDING.pick(chance, self.split).format(a="the " + name)
            return Case.asked([image, asked], written(box(item)), partial(found, box(item)))
        if form == 1:
            asked, answer = READING.pick(chance, self.split).format(b=written(box(item))), kind(item)
            return Case.asked([image, asked], answer, partial(says, answer))
        objects = scene.in_order
        answer = ", ".join(f"{kind(item)} {written(box(item))}" for item in objects)
        right = [(kind(item), box(item)) for item in objects]
        return Case.asked([image, LISTING.pick(chance, self.split)], answer, partial(_listed, right))


def kind(item: Object) -> str:
    """ "red circle"."""
    return f"{item.colour} {item.shape}"


def box(item: Object) -> Box:
    """The box around the object, noise and all."""
    x, y = draw.PLACES[item.place]
    x, y, radius = x + item.dx, y + item.dy, draw.SIZES[item.size] * item.scale
    side, up, down = REACH[item.shape]
    left, top, right, bottom = x - side * radius, y - up * radius, x + side * radius, y + down * radius
    return _cell(left), _cell(top), _cell(right), _cell(bottom)


def iou(box: Box, other: Box) -> float:
    """Intersection over union of two boxes, in cells."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    both = max(width, 0) * max(height, 0)
    return both / (_area(box) + _area(other) - both)


def written(box: Box) -> str:
    """ "12 30 45 62"."""
    return " ".join(map(str, box))


def read(text: str) -> Box | None:
    """The box that a text of four numbers gives; None for any other text, and for a box inside out."""
    if re.fullmatch(r"(\d{1,2} ){3}\d{1,2}", words := bare(text)) is None:
        return None
    left, top, right, bottom = map(int, words.split())
    return (left, top, right, bottom) if left <= right and top <= bottom else None


def read_list(text: str) -> list[tuple[str, Box]]:
    """The names and boxes of a list; an entry that is not of that form is left out."""
    entries = (re.fullmatch(r"(.*?) ((?:\d+ ){3}\d+)", entry.strip()) for entry in bare(text).split(","))
    pairs = ((match[1], read(match[2])) for match in entries if match)
    return [(name, box) for name, box in pairs if box is not None]


def found(right: Box, reply: Document) -> float:
    """`iou` of the box that the reply gives with the right one; 0 without a box."""
    said = read(reply.text)
    return 0.0 if said is None else iou(said, right)


def _cell(at: float) -> int:
    return min(max(int(at * SIDE), 0), SIDE - 1)


def _area(box: Box) -> int:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def _listed(right: list[tuple[str, Box]], reply: Document) -> float:
    said, worth = read_list(reply.text), 0.0
    entries = bare(reply.text).count(",") + 1
    for name, there in right:
        nearest = max(
            (entry for entry in said if entry[0] == name), key=lambda entry: iou(entry[1], there), default=None
        )
        if nearest is not None:
            said.remove(nearest)
            worth += iou(nearest[1], there)
    return worth / max(len(right), entries)
