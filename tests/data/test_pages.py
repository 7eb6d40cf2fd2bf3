from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from plait import cli
from plait.data.pages import Rules, cut, pages
from plait.data.shards import ShardSource
from plait.document import Document, Image, Piece, Text
from plait.errors import InputError

WORDS = "This is what the people of that town have for their tea."
DUTCH = "Dit is wat de mensen in het dorp bij de thee eten en drinken."


def picture(seed: int, side: int = 64, suffix: str = "png") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, suffix)
    return file.getvalue()


def plain(colour: int, suffix: str = "jpeg") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (80, 80), (colour, 10, 200)).save(file, suffix)
    return file.getvalue()


def save(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def answer(address: str, body: bytes, kind: str = "text/html", status: str = "200 OK") -> bytes:
    """A record of an archive."""
    block = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body
    fields = f"WARC-Type: response\r\nWARC-Target-URI: {address}\r\nContent-Length: {len(block)}"
    return f"WARC/1.0\r\n{fields}\r\n\r\n".encode() + block + b"\r\n\r\n"


def said(document: Document) -> list[str]:
    return [piece.text if isinstance(piece, Text) else "*" for piece in document.pieces]


def two(first: str, second: str, words: str = WORDS) -> str:
    return f"<p>{words}<p><img src='{first}'><p>{words}<p><img src='{second}'><p>{words}"


def test_a_page_that_is_kept(tmp_path: Path) -> None:
    """Pictures may lie below, in the page itself, or beside it; texts around them are cut."""
    inline = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    text = f"One. Two? Three! {WORDS}<p><img src='a%20b.png'>between<img src='{inline}'>{WORDS} Two. Three. Four."
    source = save(tmp_path / "source", {"deep/page.html": text, "deep/a b.png": picture(0)})
    report = pages(source, tmp_path / "out")
    (document,) = (ShardSource(tmp_path / "out")[i] for i in range(1))
    assert said(document) == [f"Two? Three! {WORDS}", "*", "between", "*", f"{WORDS} Two. Three."]
    assert [image.content() for image in document.images] == [picture(0), picture(1)]
    assert ShardSource(tmp_path / "out").meta(0) == {"address": "deep/page.html"}
    assert report.to_json() == json.loads((tmp_path / "out/report.json").read_text())
    assert (report.pages, report.documents, report.pictures, report.kept_pictures) == (1, 1, 2, 2)
    assert not report.dropped_pages and not report.dropped_pictures


def test_every_page_and_picture_that_is_left_out_is_counted_with_its_reason(tmp_path: Path) -> None:
    good = two("a.png", "b.png")
    source = save(
        tmp_path / "source",
        {
            "a.png": picture(0),
            "b.png": picture(1),
            "small.png": picture(2, side=63),
            "plain.jpg": plain(77),
            "broken.png": picture(3)[:50],
            "0.html": good,
            "1.html": good,
            "2.html": two("a.png", "b.png", DUTCH),
            "3.html": "<p>The tea.<img src=a.png>",
            "4.html": f"<p>{WORDS}",
            "5.html": f"<p>{WORDS}<img src=small.png><img src=plain.jpg><img src=broken.png><img src=none.png><img>",
            "6.html": "<img src=a.png>" + "<p>#the #of #and www.the.of https://of.the #that #it #with" * 3,
            "7.html": f"<p>{WORDS}<img src=%2e%2e/source.png><img src=https://a.org/a.png>",
            "8.html": f"<p>{WORDS}" + "<img src=a.png>between" * 7 + WORDS,
        },
    )
    save(tmp_path, {"source.png": picture(0)})
    report = pages(source, tmp_path / "out")
    assert report.dropped_pages == {
        "the same again": 1,
        "language": 1,
        "few words": 1,
        "no picture": 1,
        "no picture kept": 2,
        "no text kept": 1,
    }
    assert report.dropped_pictures == {
        "of a page left out": 2 + 1 + 1,
        "small": 1,
        "single colour": 1,
        "unreadable": 1,
        "missing": 1 + 2,
        "no address": 1,
        "beyond 5": 2,
    }
    assert report.dropped_texts == {"gibberish": 3}
    assert report.pages == report.documents + report.dropped_pages.total() == 9
    assert report.pictures == report.kept_pictures + report.dropped_pictures.total()
    lines = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert {"page": "2.html", "reason": "language"} in lines
    assert {"page": "5.html", "picture": "small.png", "reason": "small"} in lines
    assert said(ShardSource(tmp_path / "out")[1]) == [WORDS, *["*", "between"] * 5]


def test_half_of_the_pages_with_a_single_picture_go(tmp_path: Path) -> None:
    files: dict[str, Any] = {f"{i}.html": f"<p>{WORDS}<img src=a.png><p>Number {i} of many." for i in range(200)}
    source = save(tmp_path / "source", files | {"a.png": picture(0)})
    report = pages(source, tmp_path / "out")
    assert report.dropped_pages == {"a single picture": 200 - report.documents} and 70 < report.documents < 130
    save(source, {f"again/{name}": text for name, text in list(files.items())[:20]} | {"again/a.png": picture(0)})
    kept = {ShardSource(tmp_path / "out").meta(i)["address"] for i in range(report.documents)}
    again = pages(save(tmp_path / "other", dict(list(files.items())[:50]) | {"a.png": picture(0)}), tmp_path / "second")
    same = {ShardSource(tmp_path / "second").meta(i)["address"] for i in range(again.documents)}
    assert same == kept & {f"{i}.html" for i in range(50)}  # what a page holds decides, not where it stands


def test_archives_with_pictures_before_and_behind_their_pages(tmp_path: Path) -> None:
    first = answer("https://a.org/a.png?x=1", picture(0), "image/png")
    page = answer("https://a.org/page", two("a.png?x=1", "//b.org/b.jpg#top").encode(), "text/html; charset=utf-8")
    last = answer("https://b.org/b.jpg", picture(1, suffix="jpeg"), "image/jpeg")
    gone = answer("https://a.org/gone", b"gone", status="404 Not Found")
    strange = answer("https://a.org/strange", b"", "text/html\r\nContent-Encoding: br")
    source = save(tmp_path / "source", {"0.warc": first + page + gone, "deep/1.warc": strange + last})
    report = pages(source, tmp_path / "out")
    assert said(ShardSource(tmp_path / "out")[0]) == [WORDS, "*", WORDS, "*", WORDS]
    assert ShardSource(tmp_path / "out").meta(0) == {"address": "https://a.org/page"}
    assert report.dropped_pages == {"unreadable": 1} and report.pages == 2


def test_pictures_in_a_folder_of_their_own(tmp_path: Path) -> None:
    source = save(tmp_path / "source", {"page.html": two("https://a.org/deep/a.png", "https://a.org/b.png")})
    beside = save(tmp_path / "beside", {"deep/a.png": picture(0), "b.png": picture(1)})
    report = pages(source, tmp_path / "out", images=beside)
    assert report.kept_pictures == 2
    with pytest.raises(InputError, match="is no folder"):
        pages(source, tmp_path / "other", images=tmp_path / "nowhere")


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 pages; give \*\.warc"):
        pages(save(tmp_path / "empty", {"a.txt": ""}), tmp_path / "out")
    with pytest.raises(InputError, match=r"nothing left to import of 1 pages \(1 few words\)"):
        pages(save(tmp_path / "poor", {"a.html": "<p>the"}), tmp_path / "out")
    with pytest.raises(InputError, match="1 archives beside 1 saved pages"):
        pages(save(tmp_path / "both", {"a.html": "", "b.warc": ""}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "gibberish"),
    [
        (WORDS, False),
        ("See www.example.org for what people in that town have with their tea.", False),
        ("#tea #town www.tea.org", True),
        ("So good 😀😀 🎉", True),
        ("*** 12 / 34 ***", True),
        ("Das Wetter ist schön → morgen auch", False),
    ],
)
def test_gibberish(text: str, gibberish: bool) -> None:
    assert Rules().is_gibberish(text) == gibberish


def test_the_language_is_told_by_common_words() -> None:
    assert Rules().is_english([WORDS]) and not Rules().is_english([DUTCH])
    assert not Rules().is_english(["Ce que les gens de cette ville mangent avec leur thé."])
    assert not Rules().is_english([])


def test_texts_around_pictures_are_cut_and_neighbours_joined() -> None:
    image = Image(b"")
    before: list[Piece] = [Text("One. Two."), Text("Three. Four.")]
    assert cut([*before, image, *before, image, *before], 3) == [
        Text("Two. Three. Four."),
        image,
        Text("One. Two. Three. Four."),
        image,
        Text("One. Two. Three."),
    ]
    assert cut([image, Text("One. Two. Three. Four.")], 3) == [image, Text("One. Two. Three.")]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "source", {"page.html": two("a.png", "none.png"), "a.png": picture(0)})
    beside = save(tmp_path / "beside", {"none.png": picture(1)})
    command = ["data", "import", "pages", str(source), "--out", str(tmp_path / "out"), "--images", str(beside)]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "kept_pictures" in told and "dropped_pages" in told and len(ShardSource(tmp_path / "out")) == 1
    assert cli.main([*command[:-2], "--table", "none.csv"]) == 2
    assert "data of kind pages has no use for --table" in capsys.readouterr().err
