"""Storyboards: a video as small frames on sheets, with its subtitles (YT-Storyboard-1B of Emu, arXiv 2307.05222).

Frames and subtitles become one document in the order of their times.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import PIL.Image

from plait.document import Document, Image, Piece, Text
from plait.errors import DocumentError


@dataclass(frozen=True, kw_only=True)
class Subtitle:
    """A line, and when it begins."""

    text: str
    start: float
    """Seconds."""


def frames_of(sheets: Items[PIL.Image.Image], grids: Items[tuple[int, int]], counts: Items[int]) -> tuple[Image, ...]:
    """The frames on sheets, row by row, as many as there are on all together.

    As in the released code, the empty places of a sheet that is not full count as frames where another one follows.

    Args:
        grids: columns and rows of each sheet.
        counts: frames of each.

    Raises:
        DocumentError: not one grid and one count for each sheet.
    """
    if not len(sheets) == len(grids) == len(counts):
        raise DocumentError(f"{len(sheets)} sheets, {len(grids)} grids and {len(counts)} counts: give one of each")
    frames = []
    for sheet, (columns, rows) in zip(sheets, grids, strict=True):
        width, height = sheet.width // columns, sheet.height // rows
        for top in range(0, rows * height, height):
            for left in range(0, columns * width, width):
                frames.append(Image(sheet.crop((left, top, left + width, top + height))))
    return tuple(frames[: sum(counts)])


def interleaved(frames: Items[Image], duration: float, subtitles: Items[Subtitle]) -> Document:
    """Frames with what was said before each, and since the one before; a frame comes before what begins with it.

    Args:
        duration: of the video, in seconds; between two frames lies the same whole number of them.
        subtitles: in any order.

    Raises:
        DocumentError: no frames.
    """
    if not frames:
        raise DocumentError("a storyboard of 0 frames: leave it out")
    distance = round(duration / len(frames))
    events: list[tuple[float, Image | str]] = [(number * distance, frame) for number, frame in enumerate(frames)]
    events += [(one.start, one.text) for one in subtitles]
    pieces: list[Piece] = []
    said: list[str] = []
    for _, event in sorted(events, key=lambda event: event[0]):
        if isinstance(event, str):
            said.append(event)
            continue
        pieces += [Text(" ".join(said)), event] if said else [event]
        said = []
    return Document([*pieces, Text(" ".join(said))] if said else pieces)
