"""The oracle: a scene read back from the pixels of a picture, without learning.

The picture is brought to 32 pixels a side, and each of the nine cells is compared with every shape in both sizes and
all colours, at 25 offsets and four degrees of blur. With D the pixels' difference from the background, m the coverage
of a template and c its colour's difference, the best one has the least |D - m c|²; where none is below |D|², the cell
is empty.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import PIL.Image

from plait.data.shapes import draw
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene

SIDE = 32

_OFFSETS = np.linspace(-0.8, 0.8, 5) / SIDE  # beyond the noise of places, which is 0.5 px
_BLURS = 4  # passes of (1, 2, 1) / 4: 0, 0.7, 1, 1.2 px
_EDGES = (0, 11, 21, 32)  # between the cells; a large neighbour reaches at most 0.5 px over
_EMPTY = 64.0  # a cell without a pixel this far from the background needs no comparison; half the distance of pink
_FAINT = (
    0.4  # share of its colour that an object's strongest pixel must reach; a small ring under a blur of 1.2 px has 0.5
)
_PALETTE = np.array([draw.COLOURS[name] for name in COLOURS], dtype=np.float32)  # (colours, 3)
_KINDS = tuple((shape, size) for shape in SHAPES for size in SIZES)


def read(picture: PIL.Image.Image) -> Scene:
    """The scene that the picture shows, objects in reading order; without any, the scene is empty.

    Args:
        picture: square, of any side; its background covers more than half of it.
    """
    small = picture.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    background = np.median(pixels.reshape(-1, 3), axis=0)
    difference, colours = pixels - background, _PALETTE - background
    found = (_object(difference, colours, place) for place in PLACES)
    return Scene(tuple(item for item in found if item is not None))


def _object(difference: draw.Array, colours: draw.Array, place: str) -> Object | None:
    cell = difference[_window(place)].reshape(-1, 3)
    if np.square(cell).sum(axis=1).max() < _EMPTY**2:
        return None
    masks, squares = _templates(place)
    # |D|² - |D - m c|², for each template and colour
    gain = 2 * (masks @ cell) @ colours.T - squares[:, None] * np.square(colours).sum(axis=1)
    template, colour = divmod(int(gain.argmax()), len(colours))
    if gain[template, colour] <= 0 or (cell @ colours[colour]).max() < _FAINT * np.square(colours[colour]).sum():
        return None
    shape, size = _KINDS[template // (len(masks) // len(_KINDS))]
    return Object(COLOURS[colour], shape, size, place)


def _window(place: str) -> tuple[slice, slice]:
    row, column = divmod(PLACES.index(place), 3)
    return slice(_EDGES[row], _EDGES[row + 1]), slice(_EDGES[column], _EDGES[column + 1])


@cache
def _templates(place: str) -> tuple[draw.Array, draw.Array]:
    """Coverage (templates, pixels of the cell), as many for each of `_KINDS` in order, and |m|² (templates,)."""
    window = _window(place)
    x, y = draw.PLACES[place]
    centres = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIDE)
    masks = []
    for shape, size in _KINDS:
        for dx in _OFFSETS:
            for dy in _OFFSETS:
                across, along = centres - np.float32(x + dx), centres - np.float32(y + dy)
                mask = draw.coverage(shape, across, along, draw.SIZES[size], 1 / SIDE)
                for _ in range(_BLURS):
                    masks.append(mask[window].ravel())
                    mask = _blurred(mask)
    stacked = np.stack(masks)
    return stacked, np.square(stacked).sum(axis=1)


def _blurred(mask: draw.Array) -> draw.Array:
    """(1, 2, 1) / 4 along both sides; what leaves at one edge comes back at the other, which no cell's mask reaches."""
    wide: draw.Array = (np.roll(mask, 1, 0) + 2 * mask + np.roll(mask, -1, 0)) / np.float32(4)
    both: draw.Array = (np.roll(wide, 1, 1) + 2 * wide + np.roll(wide, -1, 1)) / np.float32(4)
    return both
