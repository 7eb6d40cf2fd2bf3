"""Videos and sheets with subtitles to documents. That frames and subtitles come as in the original: tests/parity."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from plait.cli import main
from plait.data.shards import ShardSource
from plait.data.storyboard import storyboard
from plait.data.video import Subtitle, read_subtitles, read_video
from plait.document import Document, Image, Text
from plait.errors import ConfigError, InputError

av = pytest.importorskip("av")

COLOURS = ((250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20))
SRT = """1
00:00:00,000 --> 00:00:00,900
first it is <i>red</i>,

2
00:00:01,000 --> 00:00:01,900
then green

3
00:00:02,500 --> 00:00:03,900
and blue &amp; more
with a second line
"""
VTT = """WEBVTT
Kind: captions

NOTE nothing of this counts

00:01.000 --> 00:02.000 align:start position:0%
one <00:00:01.500><c>two</c>

00:02.000 --> 00:03.000
one two
three

00:03.000 --> 00:04.000
three
"""


def film(path: Path, seconds_each: int = 1, rate: int = 8, size: tuple[int, int] = (48, 32)) -> Path:
    """A video of one colour a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for colour in COLOURS:
            picture = np.full((size[1], size[0], 3), colour, np.uint8)
            for _ in range(seconds_each * rate):
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def colour(image: Image) -> int:
    """The number of the colour that a picture is nearest to."""
    mean = np.asarray(image.open()).mean((0, 1))
    return int(np.abs(np.array(COLOURS) - mean).sum(1).argmin())


def told(document: Document) -> list[str | int]:
    return [piece.text if isinstance(piece, Text) else colour(piece) for piece in document]  # type: ignore[arg-type]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_frames_are_taken_at_equal_times(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    clip = read_video(path, every=1.0)
    assert clip.video.times == (0.0, 1.0, 2.0, 3.0) and clip.duration == pytest.approx(4.0, abs=0.2)
    assert [colour(frame) for frame in clip.video.frames] == [0, 1, 2, 3]
    assert all(frame.source.startswith(b"\xff\xd8\xff") for frame in clip.video.frames)
    assert len(read_video(path).video.frames) == 32
    fewer = read_video(path, most=4).video
    assert [colour(frame) for frame in fewer.frames] == [0, 1, 2, 3]
    for wrong in ({"every": 0.0}, {"most": 0}):
        with pytest.raises(ConfigError, match="more than 0"):
            read_video(path, **wrong)


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4: no video that can be read"):
        read_video(write(tmp_path / "a.mp4", "no video"))
    with pytest.raises(InputError, match=r"absent\.mp4: no video"):
        read_video(tmp_path / "absent.mp4")


def test_subtitles_lose_their_marks_and_what_they_repeat(tmp_path: Path) -> None:
    assert read_subtitles(write(tmp_path / "a.srt", SRT)) == [
        Subtitle(text="first it is red,", start=0.0),
        Subtitle(text="then green", start=1.0),
        Subtitle(text="and blue & more with a second line", start=2.5),
    ]
    assert read_subtitles(write(tmp_path / "a.vtt", VTT)) == [
        Subtitle(text="one two", start=1.0),
        Subtitle(text="three", start=2.0),
    ]
    with pytest.raises(InputError, match="no cue such as"):
        read_subtitles(write(tmp_path / "b.srt", "nothing"))


def test_a_video_becomes_frames_with_what_is_said_before_them(tmp_path: Path) -> None:
    source = tmp_path / "films"
    source.mkdir()
    film(source / "a.mp4")
    write(source / "a.srt", SRT)
    film(source / "b.mp4")
    write(source / "b.en.vtt", VTT)
    film(source / "silent.mp4")
    write(source / "broken.mp4", "no video")
    write(source / "broken.srt", SRT)
    report = storyboard(source, tmp_path / "out", every=1.0)
    shards = ShardSource(tmp_path / "out")
    assert told(shards[0]) == [0, "first it is red,", 1, "then green", 2, "and blue & more with a second line", 3]
    assert told(shards[1]) == [0, 1, "one two", 2, "three", 3]
    assert shards.meta(0) == {"file": "a.mp4", "duration": pytest.approx(4.0, abs=0.2)}
    assert [one.name for one in report.missing] == ["silent.mp4"] and [one.name for one in report.broken] == [
        "broken.mp4"
    ]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["totals"]["kept"] == 2


def test_sheets_are_cut_into_frames(tmp_path: Path) -> None:
    tiles = [PIL.Image.new("RGB", (16, 9), one) for one in COLOURS]
    sheet = PIL.Image.new("RGB", (32, 18))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (16 * (i % 2), 9 * (i // 2)))
    sheet.save(tmp_path / "c.0.png")
    (tmp_path / "c.json").write_text(json.dumps({"sb": [[16, 9, 2, 2, 3, "image/png"]], "duration": 3}))
    write(tmp_path / "c.srt", SRT)
    storyboard(tmp_path, tmp_path / "out")
    (document,) = ShardSource(tmp_path / "out")
    assert told(document) == [0, "first it is red,", 1, "then green", 2, "and blue & more with a second line"]
    assert np.array_equal(np.asarray(document.images[1].open()), np.asarray(tiles[1]))
    (tmp_path / "c.0.png").unlink()
    with pytest.raises(InputError, match=r"0 files for sheet 0; give one"):
        storyboard(tmp_path, tmp_path / "again")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = film(tmp_path / "a.mp4")
    assert main(["data", "import", "storyboard", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "nothing left to import (1 without subtitles, 0 broken; first: a.mp4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    write(tmp_path / "a.srt", SRT)
    words = ["data", "import", "storyboard", str(path), "--out", str(tmp_path / "out"), "--every", "2"]
    assert main(words) == 0 and "kept" in capsys.readouterr().out
    assert told(ShardSource(tmp_path / "out")[0])[0] == 0
    assert len(ShardSource(tmp_path / "out")[0].images) == 2
    assert main(["data", "import", "captions", str(tmp_path), "--out", str(tmp_path / "o"), "--every", "2"]) == 2
    assert "has no use for --every" in capsys.readouterr().err


def test_a_video_is_asked_about_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from plait.checkpoints.directory import save
    from plait.systems.emu import build

    torch.manual_seed(0)
    folder = save(build("tiny"), tmp_path / "emu")
    words = ["generate", str(folder), "--video", str(film(tmp_path / "a.mp4")), "--prompt", "what is seen?"]
    assert main([*words, "--max-new-tokens", "2"]) == 0
    assert "max_new_tokens" in (said := capsys.readouterr()).err or said.out
    assert main([*words[:2], "--video", str(write(tmp_path / "b.mp4", "")), "--prompt", "a"]) == 2


def test_a_picture_on_its_side_is_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plait.data.video import _stored

    class Turned:
        rotation = 90

        def to_image(self) -> PIL.Image.Image:
            return PIL.Image.new("RGB", (20, 10))

    assert PIL.Image.open(io.BytesIO(_stored(Turned()).source)).size == (10, 20)  # type: ignore[arg-type]
