"""How things look: colours, shapes, sizes, places, and the drawing of objects into pixels.

Shapes are signed distances (negative inside), in units of the radius, u to the right and v down. The coverage of a
pixel is the distance of its centre from the edge in pixels, clipped to a band one pixel wide: analytic anti-aliasing.
Lengths are fractions of the picture's side; comments give them in pixels of a picture of 32.

A style is a background, a palette and a texture: how strongly the colour covers at each point of the shape. Since
every pixel is so a mixture of the background and one colour, the oracle can read all styles in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from plait.data.shapes.world import Object

Array = NDArray[np.float32]

BACKGROUND = (240, 240, 240)

# Least distance of two of them in RGB: 132; of one from the background: 131. Orange would stand 94 from yellow.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 20, 20),
    "green": (10, 160, 60),
    "blue": (30, 60, 220),
    "yellow": (250, 215, 20),
    "purple": (140, 20, 150),
    "cyan": (0, 190, 210),
    "pink": (255, 120, 190),
    "black": (20, 20, 20),
}

SIZES: dict[str, float] = {"small": 3.2 / 32, "large": 4.6 / 32}  # radii

_LINES = (
    5.5 / 32,
    16 / 32,
    26.5 / 32,
)  # 10.5 px apart: large neighbours, noise and all, meet at tips of diamonds alone
PLACES: dict[str, tuple[float, float]] = {
    "top left": (_LINES[0], _LINES[0]),
    "top": (_LINES[1], _LINES[0]),
    "top right": (_LINES[2], _LINES[0]),
    "left": (_LINES[0], _LINES[1]),
    "middle": (_LINES[1], _LINES[1]),
    "right": (_LINES[2], _LINES[1]),
    "bottom left": (_LINES[0], _LINES[2]),
    "bottom": (_LINES[1], _LINES[2]),
    "bottom right": (_LINES[2], _LINES[2]),
}

SHIFT = 0.5 / 32  # noise of the place, each way
STRETCH = 0.03  # noise of the radius
SHADING = 0.06  # noise of the brightness

_SLOPE = math.hypot(1.85, 1)


def _circle(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 1


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.9)


def _triangle(u: Array, v: Array) -> Array:
    side: Array = (np.float32(1.85) * np.abs(u) - (v + 1)) / np.float32(_SLOPE)
    return np.maximum(side, v - np.float32(0.85))


def _diamond(u: Array, v: Array) -> Array:
    return (np.abs(u) + np.abs(v) - np.float32(1.05)) * np.float32(math.sqrt(0.5))


def _cross(u: Array, v: Array) -> Array:
    across, along, half = np.abs(u), np.abs(v), np.float32(0.31)
    return np.minimum(np.maximum(across - 1, along - half), np.maximum(across - half, along - 1))


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.74)) - np.float32(0.26)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
}

Texture = Callable[[Array, Array, Array, float], Array]
"""(u, v, signed distance, side of a pixel), in radii: how strongly the colour covers, 0 to 1; u (1, w) and v (h, 1)."""


def _rim(width: float, inside: float) -> Texture:
    """Full along the edge, `width` radii wide, and fainter inside."""

    def texture(u: Array, v: Array, distance: Array, pixel: float) -> Array:
        depth = np.clip(np.float32(0.5) - (distance + np.float32(width)) / np.float32(pixel), 0, 1)
        return np.float32(1) - np.float32(1 - inside) * depth

    return texture


def _checks(u: Array, v: Array, distance: Array, pixel: float) -> Array:
    waves = np.sin(np.float32(math.pi / 0.5) * u) * np.sin(np.float32(math.pi / 0.5) * v)
    return np.float32(0.3) + np.float32(0.7) * np.clip(np.float32(0.5) + np.float32(1.5) * waves, 0, 1)


def _stripes(u: Array, v: Array, distance: Array, pixel: float) -> Array:
    waves = np.sin(np.float32(2 * math.pi) * v)
    return np.float32(0.3) + np.float32(0.7) * np.clip(np.float32(0.5) + waves, 0, 1)


def _fading(u: Array, v: Array, distance: Array, pixel: float) -> Array:
    return np.clip(np.float32(0.6) - np.float32(0.4) * v, 0, 1)


@dataclass(frozen=True)
class Style:
    """How a scene is drawn: the colour behind it, what its colours look like, and a texture, or none for full cover."""

    background: tuple[int, int, int] = BACKGROUND
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: COLOURS)
    texture: Texture | None = None
    shaded: bool = True
    """Whether the noise of brightness shows."""
    crisp: bool = False
    """Whether a pixel is covered in full or not at all."""

    @cached_property
    def palette(self) -> dict[str, Array]:
        """Each colour as (3,)."""
        return {name: np.array(rgb, dtype=np.float32) for name, rgb in self.colours.items()}


def _pale(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(value + 0.45 * (255 - value)) for value in rgb)
    return red, green, blue


STYLES: dict[str, Style] = {
    "plain": Style(),
    "outlined": Style(texture=_rim(0.2, 0.4)),
    "hollow": Style(texture=_rim(0.2, 0.0)),
    "checkered": Style(texture=_checks),
    "striped": Style(texture=_stripes),
    "fading": Style(texture=_fading),
    "dark": Style(background=(70, 70, 90)),
    "pastel": Style(background=(255, 252, 240), colours={name: _pale(rgb) for name, rgb in COLOURS.items()}),
}

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
MAPS: dict[str, Style] = {  # on black, where what is black in the picture is white
    "segments": Style(background=_BLACK, colours={**COLOURS, "black": _WHITE}, shaded=False, crisp=True),
    "edges": Style(background=_BLACK, colours=dict.fromkeys(COLOURS, _WHITE), texture=_rim(0.25, 0.0), shaded=False),
}
ALL = {**STYLES, **MAPS}


@cache
def _centres(resolution: int) -> Array:
    return (np.arange(resolution, dtype=np.float32) + np.float32(0.5)) / np.float32(resolution)  # (resolution,)


def coverage(shape: str, x: Array, y: Array, radius: float, pixel: float, texture: Texture | None = None) -> Array:
    """How much of each pixel the shape covers, 0 to 1: (h, w).

    Args:
        x: (w,) of pixel centres, from the centre of the shape; y: (h,) likewise.
        radius: in the unit of x and y; pixel: the side of a pixel in the same unit.
    """
    u, v = (x / np.float32(radius))[None, :], (y / np.float32(radius))[:, None]
    distance = SHAPES[shape](u, v)
    strength = None if texture is None else texture(u, v, distance, pixel / radius)
    distance *= np.float32(-radius / pixel)
    distance += np.float32(0.5)
    np.clip(distance, 0, 1, out=distance)
    return distance if strength is None else distance * strength


def render(objects: Sequence[Object], resolution: int, style: str = "plain") -> NDArray[np.uint8]:
    """The picture of the objects in one of `STYLES` or `MAPS`: (resolution, resolution, 3)."""
    look = ALL[style]
    canvas = np.empty((resolution, resolution, 3), dtype=np.float32)
    canvas[:] = look.background
    centres = _centres(resolution)
    for item in objects:
        x, y = PLACES[item.place]
        x, y = x + item.dx, y + item.dy
        radius = SIZES[item.size] * item.scale
        left, right = _window(x, radius, resolution)
        top, bottom = _window(y, radius, resolution)
        across, along = centres[left:right] - x, centres[top:bottom] - y
        mask = coverage(item.shape, across, along, radius, 1 / resolution, look.texture)
        if look.crisp:
            mask = np.rint(mask)
        patch = canvas[top:bottom, left:right]
        brightness = np.float32(1 + item.shade * look.shaded)
        patch += mask[:, :, None] * (look.palette[item.colour] * brightness - patch)
    canvas += np.float32(0.5)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def _window(centre: float, radius: float, resolution: int) -> tuple[int, int]:
    return max(0, int((centre - radius) * resolution) - 1), min(resolution, int((centre + radius) * resolution) + 2)
