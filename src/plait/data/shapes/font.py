"""Letters and digits as bitmaps of 5 by 7 dots, and text drawn with them: at any place, size, angle, in any colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from plait.data.shapes.draw import Array

WIDTH, HEIGHT = 5, 7
ADVANCE, LEADING = WIDTH + 1, HEIGHT + 2  # dots from one letter to the next, from one line to the next

# Two rows of letters at a time, seven lines of dots each.
_SHEETS = (
    (
        "abcdefghijkl",
        """
        ..... #.... ..... ....# ..... ..##. ..... #.... ..#.. ...#. #.... .#...
        ..... #.... ..... ....# ..... .#..# ..... #.... ..... ..... #.... .#...
        .###. #.##. .#### .##.# .###. .#... .#### #.##. .##.. ..##. #..#. .#...
        ....# ##..# #.... #..## #...# ###.. #...# ##..# ..#.. ...#. #.#.. .#...
        .#### #...# #.... #...# ##### .#... .#### #...# ..#.. ...#. ##... .#...
        #...# #...# #.... #...# #.... .#... ....# #...# ..#.. #..#. #.#.. .#...
        .#### ####. .#### .#### .###. .#... .###. #...# .###. .##.. #..#. ..##.
        """,
    ),
    (
        "mnopqrstuvwx",
        """
        ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... .....
        ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... .....
        ##.#. #.##. .###. ####. .##.# #.##. .#### ####. #...# #...# #...# #...#
        #.#.# ##..# #...# #...# #..## ##..# #.... .#... #...# #...# #...# .#.#.
        #.#.# #...# #...# ####. .#### #.... .###. .#... #...# #...# #.#.# ..#..
        #.#.# #...# #...# #.... ....# #.... ....# .#... #..## .#.#. #.#.# .#.#.
        #.#.# #...# .###. #.... ....# #.... ####. ..##. .##.# ..#.. .#.#. #...#
        """,
    ),
    (
        "yz0123456789",
        """
        ..... ..... .###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
        ..... ..... #...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
        #...# ##### #..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
        #...# ...#. #.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
        .#### ..#.. ##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
        ....# .#... #...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
        .###. ##### .###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
        """,
    ),
)


def _glyphs() -> dict[str, Array]:
    glyphs = {" ": np.zeros((HEIGHT, WIDTH), dtype=np.float32)}
    for letters, sheet in _SHEETS:
        rows = [line.split() for line in sheet.strip().splitlines()]
        for column, letter in enumerate(letters):
            glyphs[letter] = np.array([[dot == "#" for dot in row[column]] for row in rows], dtype=np.float32)
    return glyphs


GLYPHS = _glyphs()
"""Each letter as dots, 0 or 1: (HEIGHT, WIDTH). The first is the space between words."""


def wrap(text: str, most: int) -> tuple[str, ...]:
    """The words in lines of at most `most` letters, as many in each as fit; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) <= most or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return tuple(lines)


def extent(lines: Sequence[str]) -> tuple[int, int]:
    """Width and height in dots."""
    return ADVANCE * max(map(len, lines)) - 1, LEADING * len(lines) - 2


def _placed(lines: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Each letter with its left and upper dot, within the extent."""
    width, _ = extent(lines)
    for number, line in enumerate(lines):
        left = (width - extent([line])[0]) // 2
        for place, letter in enumerate(line):
            yield letter, left + ADVANCE * place, LEADING * number


def middles(
    lines: Sequence[str], resolution: int, x: float, y: float, dot: float, angle: float
) -> Iterator[tuple[str, float, float]]:
    """Each letter with the place of its middle in pixels, across and down, where `cover` puts it."""
    width, height = extent(lines)
    across, down = math.cos(angle) * dot, math.sin(angle) * dot
    for letter, left, top in _placed(lines):
        u, v = left + (WIDTH - width) / 2, top + (HEIGHT - height) / 2  # in dots, from the middle of all
        yield letter, x * resolution + across * u - down * v, y * resolution + down * u + across * v


@cache
def _grid(resolution: int) -> Array:
    return np.arange(resolution, dtype=np.float32) + np.float32(0.5)


def cover(lines: Sequence[str], resolution: int, x: float, y: float, dot: float, angle: float) -> Array:
    """How much of each pixel the ink covers, 0 to 1, between dots linearly: (resolution, resolution).

    Args:
        lines: letters of `GLYPHS`, centred above each other.
        x, y: the text's middle, as shares of the side; dot: the side of a dot in pixels.
        angle: in radians, clockwise as seen.
    """
    width, height = extent(lines)
    sheet = np.zeros((height + 4, width + 4), dtype=np.float32)  # a rim of two dots, so that nothing is read outside
    for letter, left, top in _placed(lines):
        sheet[2 + top : 2 + top + HEIGHT, 2 + left : 2 + left + WIDTH] = GLYPHS[letter]
    across = (_grid(resolution) - np.float32(x * resolution))[None, :]
    down = (_grid(resolution) - np.float32(y * resolution))[:, None]
    cosine, sine = np.float32(math.cos(angle) / dot), np.float32(math.sin(angle) / dot)
    u: Array = cosine * across + sine * down + np.float32(width / 2 + 1.5)  # in dots, whose centres are whole numbers
    v: Array = cosine * down - sine * across + np.float32(height / 2 + 1.5)
    np.clip(u, 0, width + 2.99, out=u)
    np.clip(v, 0, height + 2.99, out=v)
    column, row = u.astype(np.int32), v.astype(np.int32)
    u -= column.astype(np.float32)
    v -= row.astype(np.float32)
    upper = sheet[row, column] + u * (sheet[row, column + 1] - sheet[row, column])
    lower = sheet[row + 1, column] + u * (sheet[row + 1, column + 1] - sheet[row + 1, column])
    covered: Array = upper + v * (lower - upper)
    return covered
