"""What there is: objects in a scene of nine places, and the picture of a scene, drawn when it is opened."""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image

from plait.data.shapes import draw

COLOURS = tuple(draw.COLOURS)
SHAPES = tuple(draw.SHAPES)
SIZES = tuple(draw.SIZES)
PLACES = tuple(draw.PLACES)  # in reading order, three a row
VALUES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

Facts = tuple[str, str, str, str]
"""Colour, shape, size and place of an object."""


@dataclass(frozen=True, slots=True)
class Object:
    """A coloured shape at one of nine places.

    `dx` and `dy` shift it (fractions of the picture's side), `scale` multiplies its radius, `shade` adds that share
    to its brightness: noise that says nothing.
    """

    colour: str
    shape: str
    size: str
    place: str
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    shade: float = 0.0

    @property
    def facts(self) -> Facts:
        """Colour, shape, size, place."""
        return self.colour, self.shape, self.size, self.place

    def changed(self, attribute: str, value: str) -> Object:
        """The same object, noise and all, but for one of colour, shape, size and place."""
        facts = {"colour": self.colour, "shape": self.shape, "size": self.size, "place": self.place, attribute: value}
        return Object(**facts, dx=self.dx, dy=self.dy, scale=self.scale, shade=self.shade)

    def lies(self, relation: str, other: Object) -> bool:
        """Whether it is left of (right of, above, below) the other, by column or by row alone."""
        match relation:
            case "left of":
                return self.column < other.column
            case "right of":
                return self.column > other.column
            case "above":
                return self.row < other.row
        return self.row > other.row

    @property
    def column(self) -> int:
        """0 left, 1 middle, 2 right."""
        return PLACES.index(self.place) % 3

    @property
    def row(self) -> int:
        """0 top, 1 middle, 2 bottom."""
        return PLACES.index(self.place) // 3


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects at different places."""

    objects: tuple[Object, ...]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def in_order(self) -> list[Object]:
        """The objects in the order of reading: from top left to bottom right."""
        return sorted(self.objects, key=lambda item: PLACES.index(item.place))

    @property
    def content(self) -> tuple[Facts, ...]:
        """The facts of the objects, sorted: equal for scenes that differ in noise or in order alone."""
        return tuple(sorted(item.facts for item in self.objects))

    def draw(self, resolution: int, style: str = "plain") -> PIL.Image.Image:
        """The picture in RGB, `resolution` pixels a side, in one of `draw.STYLES` or `draw.MAPS`."""
        return PIL.Image.fromarray(draw.render(self.objects, resolution, style))


@dataclass(frozen=True, slots=True)
class SceneImage:
    """A scene as a source of `plait.document.Image`: it is drawn when it is opened."""

    scene: Scene
    resolution: int
    style: str = "plain"

    def open(self) -> PIL.Image.Image:
        """The picture in RGB."""
        return self.scene.draw(self.resolution, self.style)
