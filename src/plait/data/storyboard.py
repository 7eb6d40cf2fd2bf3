"""Storyboards: a video as small frames on sheets, with its subtitles (YT-Storyboard-1B of Emu, arXiv 2307.05222).

Frames and subtitles become one document in the order of their times. `storyboard` imports them: of videos, whose frames
are taken now, and of sheets, as video sites have them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from collections.abc import Sequence as Items
from pathlib import Path

import PIL.Image

from plait.data.intake import REPORT, ImportReport, Skipped, Skips, existing_folder, read_text, visible
from plait.data.shards import PICTURES, SHARD_SIZE, ShardWriter, fresh_directory, write_json
from plait.data.video import SUBTITLES, SUFFIXES, Subtitle, read_subtitles, read_video
from plait.document import Document, Image, Piece, Text
from plait.errors import DocumentError, ImageError, InputError

EVERY = 2.0  # seconds between two frames


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
    return in_time(frames, [number * distance for number in range(len(frames))], subtitles)


def in_time(frames: Items[Image], times: Items[float], subtitles: Items[Subtitle]) -> Document:
    """The same of frames whose times are known, in seconds."""
    events: list[tuple[float, Image | str]] = list(zip(times, frames, strict=True))
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


# --------------------------------------------------------------------------------------------------- import


def storyboard(
    source: str | Path, out: str | Path, *, every: float = EVERY, shard_size: int = SHARD_SIZE
) -> ImportReport:
    """Import videos with their subtitles, or sheets of their frames with these: one document for each video.

    Subtitles lie beside a video and have its name: NAME.srt, NAME.vtt, or one with a language, NAME.en.vtt. A video
    without them is left out. Of one on sheets NAME.json says {"sb": [[width, height, columns, rows, frames, type], ...
    ], "duration": seconds}, and NAME.0.jpg, NAME.1.jpg ... are the sheets. `ShardSource.meta` gives {"file": name,
    "duration": seconds}.

    Args:
        source: a folder of videos, of sheets, or of both; or one video.
        every: seconds between two frames that are taken of a video.

    Raises:
        InputError: nothing left to import; `out` is not empty.
        ConfigError: PyAV is not installed.
    """
    source = Path(source)
    folder = source.parent if source.is_file() else existing_folder(source)
    names = [source] if source.is_file() else visible(folder)
    skips = Skips()
    count = 0
    with fresh_directory(out) as made:
        with ShardWriter(made, shard_size) as writer:
            for name, document, duration in _documents(names, every, skips):
                writer.add(f"{count:08d}", document, {"file": name, "duration": round(duration, 3)})
                count += 1
        if not count:
            raise InputError(
                f"{source}: nothing left to import ({len(skips.missing)} without subtitles, {len(skips.broken)} "
                f"broken{_first(skips)}); put NAME.srt or NAME.vtt beside NAME.mp4"
            )
        report = ImportReport(
            kind="storyboard",
            source=str(source),
            samples={"": count},
            documents={"": count},
            missing=tuple(skips.missing),
            broken=tuple(skips.broken),
        )
        write_json(made / REPORT, report.to_json())
    return report


def _documents(names: Items[Path], every: float, skips: Skips) -> Iterator[tuple[str, Document, float]]:
    """Name, document and seconds of each video that can be read."""
    for path in names:
        sheets = path.suffix.lower() == ".json"
        if not sheets and path.suffix.lower() not in SUFFIXES:
            continue
        subtitles = _subtitles(path)
        if subtitles is None:
            skips.missing.append(Skipped(path.name, "no subtitles beside it"))
            continue
        try:
            told = read_subtitles(subtitles)
            document, duration = _of_sheets(path, told) if sheets else _of_video(path, every, told)
        except (InputError, DocumentError, ImageError) as error:
            skips.broken.append(Skipped(path.name, str(error)))
            continue
        yield path.name, document, duration


def _of_video(path: Path, every: float, subtitles: Items[Subtitle]) -> tuple[Document, float]:
    clip = read_video(path, every)
    return in_time(clip.video.frames, clip.video.times, subtitles), clip.duration


def _of_sheets(path: Path, subtitles: Items[Subtitle]) -> tuple[Document, float]:
    try:
        said = json.loads(read_text(path))
        boards, duration = [(int(b[2]), int(b[3]), int(b[4])) for b in said["sb"]], float(said["duration"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: no 'sb' of sheets and 'duration' ({error}); write them as docs/data.md says"
        ) from error
    sheets = [_sheet(path, number) for number in range(len(boards))]
    frames = frames_of(sheets, [board[:2] for board in boards], [board[2] for board in boards])
    return interleaved([_stored(frame) for frame in frames], duration, subtitles), duration


def _sheet(path: Path, number: int) -> PIL.Image.Image:
    found = [file for kind in sorted(PICTURES) if (file := path.with_suffix(f".{number}.{kind}")).is_file()]
    if len(found) != 1:
        raise InputError(f"{path.with_suffix(f'.{number}.*')}: {len(found)} files for sheet {number}; give one")
    return Image(found[0]).open()


def _stored(frame: Image) -> Image:
    """As a file without loss: frames of sheets are small."""
    buffer = io.BytesIO()
    frame.open().save(buffer, "PNG")
    return Image(buffer.getvalue())


def _subtitles(path: Path) -> Path | None:
    """The file with the name of a video; else the first of those with a language behind it."""
    for suffix in SUBTITLES:
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    beside = [one for one in visible(path.parent) if one.suffix in SUBTITLES and one.stem.startswith(f"{path.stem}.")]
    return beside[0] if beside else None


def _first(skips: Skips) -> str:
    found = [*skips.broken, *skips.missing]
    return f"; first: {found[0].name}: {found[0].reason}" if found else ""
