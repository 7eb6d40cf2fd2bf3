from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from plait.data.inspect import CELL, LINE_HEIGHT, LINES, MARGIN, Spread, contact_sheet, inspect
from plait.data.shards import ShardSource, ShardWriter
from plait.document import Blank, Document, Image, Text, Turn, Video
from plait.errors import InputError


def square(side: int, colour: tuple[int, int, int] = (10, 200, 30)) -> Image:
    return Image(PIL.Image.new("RGB", (side, side // 2), colour))


@pytest.fixture
def documents() -> list[Document]:
    return [
        Document(["four", square(10)]),
        Document(["a longer text", square(20), Blank("text"), square(40)]),
        Document([Turn("user", ["hm", Video((square(30), square(30)))]), Turn("assistant", "no")]),
        Document(["broken", Image(b"nothing")]),
        Document([square(50)]),
    ]


def test_counts_sizes_and_lengths(documents: list[Document]) -> None:
    found = inspect(documents, tokenize=lambda text: [0] * len(text.split()))
    assert (found.documents, found.inspected, found.turns) == (5, 5, 2)
    assert found.pieces == {"text": 5, "image": 5, "video": 1, "blank": 1}
    assert found.width == Spread(10, 30, 50) and found.height == Spread(5, 15, 25)
    assert found.characters == Spread(4, 5, 13) and found.tokens == Spread(1, 1, 3)
    assert [i for i, _ in found.broken] == [3] and "no picture" in found.broken[0][1]
    assert found.sheet is None


def test_rows(documents: list[Document], tmp_path: Path) -> None:
    rows = dict(inspect(documents, tmp_path / "new/sheet.png").rows())
    assert rows["documents"] == "5" and rows["image pieces"] == "5" and rows["turns"] == "2"
    assert rows["image width (min / median / max)"] == "10 / 30 / 50"
    assert rows["broken"] == "1" and rows["  document 3"].startswith("image bytes: no picture")
    assert rows["contact sheet"] == str(tmp_path / "new/sheet.png")
    assert not any(name.startswith("tokens") for name in rows)
    assert not any(name.startswith("image") for name in dict(inspect([Document("only text")]).rows()))


def test_a_limit_takes_documents_from_everywhere() -> None:
    seen = [Document("x" * (i + 1)) for i in range(100)]
    found = inspect(seen, limit=5)
    assert (found.documents, found.inspected) == (100, 5)
    assert found.characters == Spread(1, 51, 100)


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (3, 0)])
def test_nothing_to_look_at(count: int, limit: int) -> None:
    with pytest.raises(InputError, match=f"{count} documents and a limit of {limit}"):
        inspect([Document("x")] * count, limit=limit)


def test_a_document_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "out") as writer:
        writer.add("a", Document("fine"))
        writer.add("b", Document(Text("gone")))
    tar = tmp_path / "out/shard-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"text":"gone"', b'"tent":"gone"'))
    found = inspect(ShardSource(tmp_path / "out"), tmp_path / "sheet.png")
    assert [i for i, _ in found.broken] == [1] and "sample b: a piece is one of" in found.broken[0][1]
    assert found.pieces == {"text": 1}


def test_the_contact_sheet(documents: list[Document], tmp_path: Path) -> None:
    many = [documents[i % 5] for i in range(60)]
    many[0] = Document([" ".join(["word"] * 200), square(400, (0, 0, 255))])
    many[-1] = Document("y" * 300)
    contact_sheet(many, tmp_path / "sheet.png", columns=3, rows=2)
    sheet = PIL.Image.open(tmp_path / "sheet.png")
    step_x, step_y = CELL + MARGIN, CELL + LINES * LINE_HEIGHT + MARGIN
    assert sheet.format == "PNG" and sheet.size == (3 * step_x + MARGIN, 2 * step_y + MARGIN)
    pixels = np.asarray(sheet)
    middle = MARGIN + CELL // 2
    assert pixels[middle, middle].tolist() == [0, 0, 255]
    assert (pixels[middle, [MARGIN, MARGIN + CELL - 1]] == [0, 0, 255]).all()  # the whole width of the cell
    assert (pixels[MARGIN + 2, middle] == 255).all()  # and half its height
    below = pixels[MARGIN + CELL : MARGIN + CELL + LINES * LINE_HEIGHT, MARGIN : MARGIN + CELL]
    assert all((below[n * LINE_HEIGHT : (n + 1) * LINE_HEIGHT] < 128).any() for n in range(LINES))
    assert (pixels[MARGIN + CELL + LINES * LINE_HEIGHT :][:MARGIN] == 255).all()  # nothing runs on below
    assert (pixels[:, MARGIN + CELL : MARGIN + step_x] == 255).all()  # nor beside


def test_a_broken_document_is_a_red_cell(documents: list[Document], tmp_path: Path) -> None:
    contact_sheet(documents[3:4], tmp_path / "sheet.png")
    assert PIL.Image.open(tmp_path / "sheet.png").getpixel((MARGIN + 5, MARGIN + 5)) == (200, 60, 60)
