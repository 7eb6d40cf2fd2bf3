"""The oracle: a scene read back from the pixels of a picture, without learning.

The picture is brought to 32 pixels a side, and each of the nine cells is compared with every shape in both sizes and
all colours, at 25 offsets and four degrees of blur. With D the pixels' difference from the background, m the coverage
of a template and c its colour's difference, the best one has the least |D - m c|²; where none is below |D|², the cell
is empty. A style is told in the same way: the one in which the known objects come nearest to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import PIL.Image

from plait.data.shapes import draw
from plait.data.shapes.draw import STYLES
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene

SIDE = 32

_OFFSETS = np.linspace(-0.8, 0.8, 5) / SIDE  # beyond the noise of places, which is 0.5 px
_BLURS = 4  # passes of (1, 2, 1) / 4: 0, 0.7, 1, 1.2 px
_EDGES = (0, 11, 21, 32)  # between the cells; a large neighbour reaches at most 0.5 px over
_EMPTY = 0.489  # a cell without a pixel of this share of the palest colour needs no comparison
_FAINT = (
    0.4  # share of its colour that an object's strongest pixel must reach; a small ring under a blur of 1.2 px has 0.5
)
_FINE, _REACH = 64, 11  # pixels a side for styles; half the side of an object's window, which meets its neighbours'
_FINE_BLURS = (0, 1, 3, 6)  # passes: 0, 0.7, 1.2, 1.7 px of 64
_KINDS = tuple((shape, size) for shape in SHAPES for size in SIZES)


def read(picture: PIL.Image.Image, style: str = "plain") -> Scene:
    """The scene that the picture shows, objects in reading order; without any, the scene is empty.

    Args:
        picture: square, of any side; its background covers more than half of it.
        style: the one of `draw.STYLES` that it is drawn in.
    """
    small = picture.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    background = np.median(pixels.reshape(-1, 3), axis=0)
    difference, colours = pixels - background, np.stack(list(STYLES[style].palette.values())) - background
    found = (_object(difference, colours, place, style) for place in PLACES)
    return Scene(tuple(item for item in found if item is not None))


def style(picture: PIL.Image.Image, objects: Sequence[Object]) -> str:
    """The one of `draw.STYLES` in which these objects come nearest to the picture.

    They are tried with their noise, at the picture's resolution, and without, at every offset and degree of blur, at 64
    pixels a side: textures are fine.

    Args:
        picture: square, of any side.
    """
    shown = picture.convert("RGB")
    pixels = np.asarray(shown, dtype=np.float32)
    fine = np.asarray(shown.resize((_FINE, _FINE), PIL.Image.Resampling.BOX), dtype=np.float32)

    def distance(name: str) -> float:
        exact = np.square(pixels - draw.render(objects, len(pixels), name)).mean()
        return min(float(exact), _distance(fine, objects, name))

    return min(STYLES, key=distance)


def _distance(pixels: draw.Array, objects: Sequence[Object], name: str) -> float:
    """Mean square between the pixels (64, 64, 3) and the objects, each by its best template, in a style."""
    look = STYLES[name]
    difference = pixels - np.array(look.background, dtype=np.float32)
    rest, error = np.square(difference), 0.0
    for item in objects:
        x, y = (round(at * _FINE) for at in draw.PLACES[item.place])
        window = slice(y - _REACH, y + _REACH), slice(x - _REACH, x + _REACH)
        masks, squares = _fine_templates(item.shape, item.size, name)
        colour = look.palette[item.colour] - look.background
        # |m c|² - 2 D m c, for each template; |D|² is in the rest, and all there is where the object is missing
        gains = 2 * masks @ (difference[window].reshape(-1, 3) @ colour) - squares * np.square(colour).sum()
        error -= max(float(gains.max()), 0.0)
    return float(rest.sum() + error) / rest.size


@cache
def _fine_templates(shape: str, size: str, name: str) -> tuple[draw.Array, draw.Array]:
    """Coverage (templates, 22 * 22) around the middle of an object, and |m|² (templates,)."""
    centres = (np.arange(-_REACH, _REACH, dtype=np.float32) + np.float32(0.5)) / np.float32(_FINE)
    masks = _shifted(shape, size, name, centres, centres, 1 / _FINE)
    return _ready(np.concatenate([_blurred(masks, passes) for passes in _FINE_BLURS]))


def _object(difference: draw.Array, colours: draw.Array, place: str, style: str) -> Object | None:
    cell = difference[_window(place)].reshape(-1, 3)
    row, column = divmod(PLACES.index(place), 3)
    masks, squares, peak = _templates(row % 2, column % 2, style)  # the last row and column lie like the first
    lengths = np.square(colours).sum(axis=1)
    if np.square(cell).sum(axis=1).max() < (_EMPTY * peak) ** 2 * lengths.min():
        return None
    # |D|² - |D - m c|², for each template and colour
    gain = 2 * (masks @ cell) @ colours.T - squares[:, None] * lengths
    template, colour = divmod(int(gain.argmax()), len(colours))
    if gain[template, colour] <= 0 or (cell @ colours[colour]).max() < _FAINT * peak * lengths[colour]:
        return None
    shape, size = _KINDS[template // (len(masks) // len(_KINDS))]
    return Object(COLOURS[colour], shape, size, place)


def _window(place: str) -> tuple[slice, slice]:
    row, column = divmod(PLACES.index(place), 3)
    return slice(_EDGES[row], _EDGES[row + 1]), slice(_EDGES[column], _EDGES[column + 1])


@cache
def _templates(row: int, column: int, style: str) -> tuple[draw.Array, draw.Array, float]:
    """For a cell of the grid: coverage (templates, pixels of the cell), as many for each of `_KINDS` in order,
    |m|² (templates,), and the strongest pixel of the faintest kind."""
    place = PLACES[3 * row + column]
    x, y = draw.PLACES[place]
    centres = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIDE)
    masks = [_shifted(*kind, style, centres - np.float32(x), centres - np.float32(y), 1 / SIDE) for kind in _KINDS]
    blurred = [_blurred(mask, passes)[:, *_window(place)] for mask in masks for passes in range(_BLURS)]
    return *_ready(np.concatenate(blurred)), min(float(mask.max()) for mask in masks)


def _shifted(shape: str, size: str, style: str, x: draw.Array, y: draw.Array, pixel: float) -> draw.Array:
    """Coverage at every offset: (offsets, h, w) of x (w,) and y (h,) from the middle of the object."""
    texture = STYLES[style].texture
    return np.stack(
        [
            draw.coverage(shape, x - np.float32(dx), y - np.float32(dy), draw.SIZES[size], pixel, texture)
            for dx in _OFFSETS
            for dy in _OFFSETS
        ]
    )


def _ready(masks: draw.Array) -> tuple[draw.Array, draw.Array]:
    """The masks (n, h, w) as (n, h * w), and |m|² (n,)."""
    flat = masks.reshape(len(masks), -1)
    return flat, np.square(flat).sum(axis=1)


def _blurred(masks: draw.Array, passes: int) -> draw.Array:
    """(1, 2, 1) / 4 along both sides of (n, h, w), so many times; what leaves at one edge comes back at the other,
    which no mask reaches."""
    for _ in range(passes):
        for side in (1, 2):
            masks = (np.roll(masks, 1, side) + 2 * masks + np.roll(masks, -1, side)) / np.float32(4)
    return masks
