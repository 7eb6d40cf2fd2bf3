"""Placements: objects and their boxes in words, and the picture that has each object in its box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from plait.data.shapes import oracle
from plait.data.shapes.boxes import Box, box, iou, kind, written
from plait.data.shapes.cases import Case, Drawings, Wordings
from plait.data.shapes.score import drawing
from plait.data.shapes.split import draw_scene
from plait.data.shapes.world import SceneImage
from plait.document import Document, Image

OBJECTS = (1, 2, 3)
INSIDE = 0.6  # IoU from which an object is in its box: the oracle tells its place and size without their noise

PLACING = Wordings(
    ("draw {}.", "draw the picture of {}.", "draw these objects in their boxes: {}.", "a picture with {}."),
    ("in their boxes draw {}.",),
)


@dataclass(frozen=True, kw_only=True)
class Placements(Drawings):
    """Objects with the boxes that they are to fill, and the picture.

    Boxes are written as in `Boxes`. An object that the oracle finds is in its box where it has the colour and the
    shape, and the IoU of its box with the one asked for is at least 0.6. A drawing is worth these over the larger of
    the numbers of objects asked for and found.

    Chance: the objects asked for, all large, at the places in reading order.
    """

    name: ClassVar[str] = "placements"
    chance: ClassVar[float] = 0.07

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene = draw_scene(chance, OBJECTS, self.split)
        objects = scene.in_order
        asked = [(kind(item), box(item)) for item in objects]
        listed = ", ".join(f"{name} {written(where)}" for name, where in asked)
        request = PLACING.pick(chance, self.split).format(listed)
        image = Image(SceneImage(scene, self.resolution))
        return Case.asked([request], image, partial(placed, asked), told=self.told(scene))


def placed(asked: Sequence[tuple[str, Box]], reply: Document) -> float:
    """The share of the objects asked for that the reply's picture has in their boxes; 0 without a picture."""
    picture = drawing(reply)
    if picture is None:
        return 0.0
    there = [(kind(item), box(item)) for item in oracle.read(picture).objects]
    inside = sum(
        any(said == name and iou(at, where) >= INSIDE for said, at in there) for name, where in asked
    )  # boxes of different places do not overlap so far, so that none counts twice
    return inside / max(len(asked), len(there))
