"""Makes the list of kinds in docs/shapes.md and a sheet of pictures for each, docs/images/shapes/<kind>.png.

Also one of the documents of `Shapes`, documents.png.

python tools/docs_shapes.py

The cases are the first of seed 0, not chosen by hand.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from plait.data.shapes import Shapes
from plait.data.shapes.cases import Case, Cases
from plait.data.shapes.kinds import CASES
from plait.data.shapes.source import KINDS
from plait.document import Document, Image, Piece, Text, Video

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, SHEETS = DOCS / "shapes.md", DOCS / "images" / "shapes"
BEGIN, END = "<!-- kinds: written by tools/docs_shapes.py -->", "<!-- end of kinds -->"
ROWS, SIDE, GAP, WIDTH, LINE = 4, 96, 8, 720, 14
LETTER = 5.5  # width of one, on the average
COLOURS = 255  # of a sheet's palette


def main() -> None:
    """Writes the sheets, then the page between its marks."""
    SHEETS.mkdir(parents=True, exist_ok=True)
    sections = []
    for name, kind in CASES.items():
        source = kind(seed=0, length=ROWS, split=kind.parts[0], resolution=64)
        cases = list(source.cases())
        save(name, [(pictures(case.document), list(written(case))) for case in cases])
        sections.append(section(name, kind, cases[0]))
    kinds = [
        Shapes(seed=0, mix={kind: 1.0}, resolution=64, questions_each=4, length=len(KINDS))[i]
        for i, kind in enumerate(KINDS)
    ]
    save("documents", [(pictures(document), list(turns(document))) for document in kinds])
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{''.join(sections)}{END}{after}", encoding="utf-8")
    total = sum(path.stat().st_size for path in SHEETS.glob("*.png"))
    print(f"{len(sections)} kinds in {PAGE.relative_to(DOCS.parent)}, {total / 1000:.0f} kB of sheets")


def section(name: str, kind: type[Cases], case: Case) -> str:
    """What the page says of a kind: its docstring, one case, the sheet."""
    told, level = inspect.cleandoc(kind.__doc__ or ""), f"Chance level {kind.chance:.2f}"
    told = told.replace("Chance:", f"{level}:") if "Chance:" in told else f"{told}\n\n{level}."
    lines = [f"    {line}" for line in written(case)]
    return f"### {name}\n\n{told}\n\n{chr(10).join(lines)}\n\n![{name}](images/shapes/{name}.png)\n\n"


def written(case: Case) -> Iterator[str]:
    """The case in words, one turn a line; a picture is [picture]."""
    yield from turns(case.prompt)
    yield f"reply: {said(case.reply.pieces)}"


def turns(document: Document) -> Iterator[str]:
    """A document in words, one turn a line."""
    for turn in document.turns:
        if any(isinstance(piece, Text | Image | Video) for piece in turn.pieces):
            yield f"{turn.role}: {said(turn.pieces)}"
    if not document.turns:
        yield f"prompt: {said(document.pieces)}"


def said(pieces: tuple[Piece, ...]) -> str:
    """Pieces in words."""
    names = {Image: "[picture]", Video: "[video]"}
    return " ".join(
        piece.text.strip() if isinstance(piece, Text) else names.get(type(piece), "") for piece in pieces
    ).strip()


def pictures(document: Document) -> list[PIL.Image.Image]:
    """The pictures, and the frames of videos, in order."""
    found = []
    for piece in document:
        if isinstance(piece, Image | Video):
            found += [image.open() for image in (piece.frames if isinstance(piece, Video) else [piece])]
    return found


def save(name: str, rows: list[tuple[list[PIL.Image.Image], list[str]]]) -> None:
    """A sheet under this name."""
    sheet(rows).quantize(COLOURS, dither=PIL.Image.Dither.NONE).save(SHEETS / f"{name}.png", optimize=True)


def sheet(rows: list[tuple[list[PIL.Image.Image], list[str]]]) -> PIL.Image.Image:
    """One row for each: its pictures, and what is said."""
    columns = min(max(len(shown) for shown, _ in rows), 4)
    left = columns * (SIDE + GAP)
    letters = int((WIDTH - left - 2 * GAP) / LETTER)
    wrapped = [[part for line in lines for part in textwrap.wrap(line, letters)] for _, lines in rows]
    heights = [
        max(-(-len(shown) // 4) * (SIDE + GAP) - GAP if shown else 0, LINE * len(lines))
        for (shown, _), lines in zip(rows, wrapped, strict=True)
    ]
    page = PIL.Image.new("RGB", (WIDTH, sum(heights) + GAP * (len(rows) + 1)), "white")
    pen, y = PIL.ImageDraw.Draw(page), GAP
    for (shown, _), lines, height in zip(rows, wrapped, heights, strict=True):
        for i, picture in enumerate(shown):
            at = GAP + i % 4 * (SIDE + GAP), y + i // 4 * (SIDE + GAP)
            page.paste(picture.resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST), at)
        pen.multiline_text((left + GAP, y), "\n".join(lines), fill="black", spacing=2)
        y += height + GAP
    return page


if __name__ == "__main__":
    main()
