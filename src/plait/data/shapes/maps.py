"""Maps: where the objects of a picture are, and where their edges run; from the picture, and back to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from plait.data.shapes import draw
from plait.data.shapes.cases import Case, Drawings, Wordings
from plait.data.shapes.score import drawing, overlap
from plait.data.shapes.split import draw_scene
from plait.data.shapes.world import Scene, SceneImage
from plait.document import Document, Image

OBJECTS = (1, 2, 3)

SEGMENTING = Wordings(
    ("draw the map of the objects.", "which pixels are objects?", "draw the objects on black."),
    ("on black, draw the objects.",),
)
FILLING = Wordings(
    ("draw the picture of this map.", "draw the picture that has this map.", "which picture is it?"),
    ("this map has which picture?",),
)
TRACING = Wordings(
    ("draw the edges of the objects.", "where are the edges?", "draw the edges on black."),
    ("on black, draw the edges.",),
)
COLOURING = Wordings(
    ("draw the picture of these edges in {}.", "draw the picture that has these edges in {}.", "paint it {}."),
    ("in {} draw the picture of these edges.",),
)


@dataclass(frozen=True, kw_only=True)
class Maps(Drawings):
    """The segmentation map of a picture, or the picture of a map, as often.

    In a map each object is its flat colour on black, a black one white. The reply is compared pixel by pixel, each
    taken as the nearest of the colours: those that are right and no background, over those that are no background in
    one of the two.

    Chance: a copy of the picture or the map. (One colour at all places is worth 0.01.)
    """

    name: ClassVar[str] = "maps"
    chance: ClassVar[float] = 0.07

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene = draw_scene(chance, OBJECTS, self.split)
        back = chance.unit() < 0.5
        request = (FILLING if back else SEGMENTING).pick(chance, self.split)
        picture, mapped = (Image(SceneImage(scene, self.resolution, style)) for style in ("plain", "segments"))
        asked: list[Image | str] = [mapped if back else picture, request]
        return _case(scene, asked, self.resolution, "plain" if back else "segments", self.told(scene))


@dataclass(frozen=True, kw_only=True)
class Edges(Drawings):
    """The edges of a picture, white lines on black along the objects' rims, or the picture of such edges, as often.

    For the way back the colours are said in reading order, the places are not. Pixels are compared as those of `Maps`;
    the colours of a map of edges are white and black.

    Chance: rims at all nine places; the first of the colours at all nine places.
    """

    name: ClassVar[str] = "edges"
    chance: ClassVar[float] = 0.06

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene = draw_scene(chance, OBJECTS, self.split)
        back = chance.unit() < 0.5
        request = (COLOURING if back else TRACING).pick(chance, self.split).format(colours(scene))
        picture, traced = (Image(SceneImage(scene, self.resolution, style)) for style in ("plain", "edges"))
        asked: list[Image | str] = [traced if back else picture, request]
        return _case(scene, asked, self.resolution, "plain" if back else "edges", self.told(scene))


def colours(scene: Scene) -> str:
    """The colours of the objects in reading order: "red, blue and red"."""
    said = [item.colour for item in scene.in_order]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def labels(pixels: NDArray[np.uint8], style: str) -> NDArray[np.integer]:
    """Of each pixel the nearest colour of a style, from 1, or 0 for its background: (h, w) of (h, w, 3)."""
    known = _known(style)
    flat = pixels.reshape(-1, 3).astype(np.float32)
    nearest = (np.square(known).sum(axis=1) - 2 * flat @ known.T).argmin(axis=1)
    return nearest.reshape(pixels.shape[:2])


def agreement(scene: Scene, resolution: int, style: str, reply: Document) -> float:
    """`overlap` of the reply's picture with the scene in a style; 0 without a picture."""
    picture = drawing(reply)
    if picture is None:
        return 0.0
    same = picture if picture.width == resolution else picture.resize((resolution, resolution))
    asked = labels(draw.render(scene.objects, resolution, style), style)
    return overlap(asked, labels(np.asarray(same.convert("RGB")), style))


def _case(scene: Scene, question: Sequence[Image | str], resolution: int, style: str, told: str) -> Case:
    answer = Image(SceneImage(scene, resolution, style))
    return Case.asked(question, answer, partial(agreement, scene, resolution, style), told=told)


@cache
def _known(style: str) -> draw.Array:
    """(colours, 3), the background first."""
    look = draw.ALL[style]
    return np.array([look.background, *dict.fromkeys(look.colours.values())], dtype=np.float32)
