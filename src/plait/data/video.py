"""Video files through PyAV, and subtitles in SRT or WebVTT."""

from __future__ import annotations

import html
import importlib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.data.intake import read_text
from plait.document import Image, Video
from plait.errors import ConfigError, InputError

QUALITY = 90  # of frames as JPEG
SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"})
SUBTITLES = (".srt", ".vtt")

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"{_TIME}\s*-->\s*{_TIME}")
_MARKS = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # <i>, <c.yellow>, <00:00:01.000>, {\an8}


@dataclass(frozen=True, kw_only=True)
class Subtitle:
    """A line, and when it begins."""

    text: str
    start: float
    """Seconds."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames of a video file, at equal distances, as JPEG."""

    video: Video
    duration: float
    """Seconds."""


def read_video(path: str | Path, every: float | None = None, most: int | None = None) -> Clip:
    """The first frame at or behind each multiple of `every` seconds, upright.

    Args:
        every: None: all frames.
        most: if there were more frames, they are further apart instead.

    Raises:
        InputError: no video, or a broken one.
        ConfigError: PyAV is not installed, or a distance that is none.
    """
    if (every is not None and not every > 0) or (most is not None and most < 1):
        raise ConfigError(f"frames every {every} seconds, at most {most}: give more than 0, and at least 1")
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ConfigError('videos need PyAV: pip install "plait[video]"') from error
    try:
        with av.open(str(path)) as container:
            return _clip(container, str(path), every, most)
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"{path}: no video that can be read ({error}); give another file") from error


def _clip(container: Any, path: str, every: float | None, most: int | None) -> Clip:
    if not container.streams.video:
        raise InputError(f"{path}: has no pictures; give a video")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    length = container.duration / 1e6 if container.duration else 0.0  # in microseconds
    if most and length:
        every = max(every or 0.0, length / most)
    frames: list[Image] = []
    times: list[float] = []
    first = last = -math.inf
    gap = float(1 / stream.average_rate) if stream.average_rate else 0.0
    for frame in container.decode(stream):
        first = frame.time if math.isinf(first) else first
        last = frame.time - first
        if every is None or last >= len(frames) * every - gap / 2:
            frames.append(_stored(frame))
            times.append(last)
        if most and len(frames) == most:
            break
    if not frames:
        raise InputError(f"{path}: a video of 0 frames; give another file")
    return Clip(video=Video(tuple(frames), tuple(times)), duration=max(length, last + gap))


def _stored(frame: Any) -> Image:
    picture = frame.to_image()
    if turned := getattr(frame, "rotation", 0):
        picture = picture.rotate(turned, expand=True)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return Image(buffer.getvalue())


def read_subtitles(path: str | Path) -> list[Subtitle]:
    """The cues of an SRT or WebVTT file in order, without marks; what a cue repeats of the one before is left out.

    Subtitles that are made by machine roll: each cue holds the line before it once more.

    Raises:
        InputError: no cue in it, or no UTF-8.
    """
    lines = [line.strip() for line in read_text(Path(path)).splitlines()]
    cues: list[Subtitle] = []
    before: list[str] = []
    at = 0
    while at < len(lines):
        times = _CUE.search(lines[at])
        at += 1
        if times is None:
            continue
        said: list[str] = []
        while at < len(lines) and lines[at]:
            said.append(_plain(lines[at]))
            at += 1
        new = " ".join(line for line in said if line and line not in before)
        before = said
        if new:
            cues.append(Subtitle(text=new, start=_seconds(times)))
    if not cues:
        raise InputError(f"{path}: no cue such as '00:00:01,000 --> 00:00:02,500'; give SRT or WebVTT")
    return cues


def _plain(line: str) -> str:
    return " ".join(html.unescape(_MARKS.sub("", line)).split())


def _seconds(times: re.Match[str]) -> float:
    hours, minutes, seconds, part = (times[i] for i in range(1, 5))
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(part) / 10 ** len(part)
