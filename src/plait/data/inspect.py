"""A look at a source of documents: counts, sizes and lengths, what is broken, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from plait.document import Document, Image, Text, Video
from plait.errors import InputError

LIMIT = 1000  # documents looked at: a second or two
COLUMNS, ROWS = 6, 4  # of the contact sheet
CELL = 176  # pixels: the side of a picture in it
LINES, LINE_HEIGHT = 4, 14  # of caption below each picture; pixels
MARGIN = 8  # pixels
FONT_SIZE = 11


class Source(Protocol):
    """Documents by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Document: ...


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of some values."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        return f"{self.min:g} / {self.median:g} / {self.max:g}"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `inspect` found. A spread is None where nothing was measured."""

    documents: int  # in the source
    inspected: int  # of them, evenly spaced
    turns: int
    pieces: Mapping[str, int]  # kind -> number, in the inspected documents
    width: Spread | None  # pixels, of the pictures that decode
    height: Spread | None  # pixels
    characters: Spread | None  # of the text of a document that has text
    tokens: Spread | None  # the same, by the tokenizer that was given
    broken: tuple[tuple[int, str], ...]  # the documents that cannot be read in full, and why
    sheet: Path | None  # the contact sheet, where one was asked for

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for a table."""
        spreads = {
            "image width": self.width,
            "image height": self.height,
            "characters": self.characters,
            "tokens": self.tokens,
        }
        return [
            ("documents", f"{self.documents}"),
            ("inspected", f"{self.inspected}"),
            *([("turns", f"{self.turns}")] if self.turns else []),
            *((f"{kind} pieces", f"{count}") for kind, count in sorted(self.pieces.items())),
            *((f"{name} (min / median / max)", str(spread)) for name, spread in spreads.items() if spread),
            ("broken", f"{len(self.broken)}"),
            *((f"  document {i}", reason) for i, reason in self.broken[:5]),
            *([("contact sheet", str(self.sheet))] if self.sheet else []),
        ]


def inspect(
    source: Source,
    out: str | Path | None = None,
    limit: int = LIMIT,
    tokenize: Callable[[str], Sequence[int]] | None = None,
) -> Inspection:
    """Look at up to `limit` documents, evenly spaced over the source, and decode all their pictures.

    Args:
        out: the file for a contact sheet (PNG) of at most 24 documents: the first picture and the text of each.
        tokenize: text -> token ids, for lengths in tokens.

    Raises:
        InputError: no documents, or a limit below 1.
    """
    if not len(source) or limit < 1:
        raise InputError(f"{len(source)} documents and a limit of {limit}: there must be at least one to look at")
    chosen = _spaced(len(source), limit)
    pieces: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    texts: list[str] = []
    broken: list[tuple[int, str]] = []
    turns = 0
    for i in chosen:
        try:
            document = source[i]
        except InputError as error:
            broken.append((i, str(error)))
            continue
        pieces.update(type(piece).__name__.lower() for piece in document)
        turns += len(document.turns)
        if document.text:
            texts.append(document.text)
        try:
            sizes.extend(image.open().size for image in _pictures(document))
        except InputError as error:
            broken.append((i, str(error)))
    if out is not None:
        contact_sheet(source, out)
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    return Inspection(
        documents=len(source),
        inspected=len(chosen),
        turns=turns,
        pieces=dict(pieces),
        width=_spread(widths),
        height=_spread(heights),
        characters=_spread([len(text) for text in texts]),
        tokens=_spread([len(tokenize(text)) for text in texts]) if tokenize else None,
        broken=tuple(broken),
        sheet=None if out is None else Path(out),
    )


def contact_sheet(source: Source, out: str | Path, columns: int = COLUMNS, rows: int = ROWS) -> None:
    """A PNG with a grid of documents, evenly spaced over the source: the first picture of each, its text below.

    A document that cannot be read is a red cell with the reason.
    """
    chosen = _spaced(len(source), columns * rows)
    rows = -(-len(chosen) // columns)
    step_x, step_y = CELL + MARGIN, CELL + LINES * LINE_HEIGHT + MARGIN
    sheet = PIL.Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(FONT_SIZE)
    for place, i in enumerate(chosen):
        left, top = MARGIN + place % columns * step_x, MARGIN + place // columns * step_y
        try:
            document = source[i]
            picture, text = _thumbnail(document), _caption(document)
        except InputError as error:
            picture, text = PIL.Image.new("RGB", (CELL, CELL), (200, 60, 60)), str(error)
        if picture is not None:
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        for number, line in enumerate(_wrap(f"{i}: {text}", font)):
            draw.text((left, top + CELL + number * LINE_HEIGHT), line, fill="black", font=font)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, format="PNG")


def _spaced(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly spaced, the first and the last among them."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, limit)).round()]


def _spread(values: Sequence[int]) -> Spread | None:
    return Spread(min(values), float(np.median(values)), max(values)) if values else None


def _pictures(document: Document) -> list[Image]:
    """All pictures, the frames of videos too."""
    found: list[Image] = []
    for piece in document:
        match piece:
            case Image():
                found.append(piece)
            case Video(frames, _):
                found.extend(frames)
    return found


def _thumbnail(document: Document) -> PIL.Image.Image | None:
    pictures = _pictures(document)
    if not pictures:
        return None
    picture = pictures[0].open().copy()
    picture.thumbnail((CELL, CELL))
    return picture


def _caption(document: Document) -> str:
    """The text, with a mark where a later picture, a video or a blank stands."""
    parts = [piece.text if isinstance(piece, Text) else f"[{type(piece).__name__.lower()}]" for piece in document]
    if len(document.images) == 1 and "[image]" in parts:
        parts.remove("[image]")
    return " ".join(" ".join(parts).split())


def _wrap(text: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont) -> list[str]:
    """The first lines of a text, each at most as wide as a cell; what is left out is marked."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        while font.getlength(word) > CELL:  # a path or a word that no cell holds is cut
            word = word[:-1]
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= CELL:
            line = longer
            continue
        lines.append(line)
        line = word
    lines.append(line)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1][:-1] + "…"]
    return lines
