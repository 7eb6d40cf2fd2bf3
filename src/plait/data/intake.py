"""What every import shares: pictures are checked, written into shards, and what is left out is counted and listed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from plait import images as pictures
from plait.data.shards import PICTURES, SHARD_SIZE, ShardWriter, fresh_directory, write_json
from plait.data.tarindex import Member
from plait.document import Document, Image
from plait.errors import InputError

REPORT = "report.json"
MAX_BYTES = 2**30  # of one picture: more than the largest that is decoded can need
WINDOW = 64  # pictures that are read ahead of the writer


@dataclass(frozen=True)
class Skipped:
    """An entry that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import kept and what it left out; `samples` and `documents` count by split, "" where there are none."""

    kind: str
    source: str
    samples: Mapping[str, int]
    documents: Mapping[str, int]
    missing: tuple[Skipped, ...] = ()
    duplicates: tuple[Skipped, ...] = ()
    broken: tuple[Skipped, ...] = ()
    unlisted: tuple[str, ...] = ()  # pictures that no split list names

    def to_json(self) -> dict[str, Any]:
        """The form in `report.json`: the totals first."""
        value = asdict(self)
        lists = ("missing", "duplicates", "broken", "unlisted")
        totals = {"kept": sum(self.samples.values()), **{name: len(value[name]) for name in lists}}
        return {"kind": value.pop("kind"), "source": value.pop("source"), "totals": totals, **value}


@dataclass(frozen=True)
class Entry:
    """A picture to import: where its bytes are, its name in the report, its texts, and the meta of its sample."""

    content: Path | Member
    name: str
    texts: tuple[str, ...]
    meta: Mapping[str, Any]


class Skips:
    """The entries left out so far."""

    def __init__(self) -> None:
        self.missing: list[Skipped] = []
        self.duplicates: list[Skipped] = []
        self.broken: list[Skipped] = []

    def frozen(self) -> dict[str, tuple[Skipped, ...]]:
        """As fields of the report."""
        return {name: tuple(found) for name, found in vars(self).items()}


def write_shards(
    kind: str,
    source: Path,
    out: str | Path,
    entries: Mapping[str, Iterable[Entry]],
    skips: Skips,
    *,
    unlisted: tuple[str, ...] = (),
    unique: bool = False,
    shard_size: int = SHARD_SIZE,
) -> ImportReport:
    """Write what can be read of the entries into a fresh folder, with a report of the rest.

    Args:
        entries: by split, "" where there are none; taken one after the other, so that they may be made on the way.
        skips: what was left out before; the rest is added.
        unique: of pictures with the same bytes in a split, the first alone is kept.

    Raises:
        InputError: nothing is left of a split; `out` is not empty.
    """
    samples: dict[str, int] = {}
    documents: dict[str, int] = {}
    with fresh_directory(out) as folder:
        for split, rows in entries.items():
            samples[split] = documents[split] = 0
            with ShardWriter(folder / split, shard_size) as writer:
                for entry, content in _readable(rows, skips, unique):
                    image = Image(content)
                    forms = [Document([text, image]) for text in entry.texts]
                    writer.add(f"{samples[split]:08d}", forms, entry.meta)
                    samples[split] += 1
                    documents[split] += len(forms)
            if not samples[split]:
                raise InputError(_nothing_left(source, split, skips))
        report = ImportReport(
            kind=kind, source=str(source), samples=samples, documents=documents, unlisted=unlisted, **skips.frozen()
        )
        write_json(folder / REPORT, report.to_json())
    return report


def _readable(entries: Iterable[Entry], skips: Skips, unique: bool) -> Iterator[tuple[Entry, bytes]]:
    """The entries whose pictures decode, in order, with their bytes; threads help, since Pillow decodes without GIL."""
    seen: dict[bytes, str] = {}
    rest = iter(entries)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        while window := list(islice(rest, WINDOW)):
            for entry, content in zip(window, pool.map(content_of, window), strict=True):
                if isinstance(content, str):
                    skips.broken.append(Skipped(entry.name, content))
                    continue
                first = seen.setdefault(hashlib.sha256(content).digest(), entry.name) if unique else entry.name
                if first != entry.name:
                    skips.duplicates.append(Skipped(entry.name, f"the same bytes as {first}"))
                    continue
                yield entry, content


def content_of(entry: Entry) -> bytes | str:
    """The bytes of a readable picture, or what is wrong with it."""
    where = entry.content
    try:
        size = where.size if isinstance(where, Member) else where.stat().st_size
        if size > MAX_BYTES:
            return f"{size} bytes, above the limit of {MAX_BYTES}"
        content = where.read() if isinstance(where, Member) else where.read_bytes()
        pictures.decode(content, entry.name)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except InputError as error:
        return str(error).removeprefix(f"{entry.name}: ")
    return content


def _nothing_left(source: Path, split: str, skips: Skips) -> str:
    found = skips.frozen()
    counts = ", ".join(f"{len(items)} {name}" for name, items in found.items())
    first = next((f"first: {item.name}: {item.reason}" for items in found.values() for item in items), "")
    first = "; " + " ".join(first.split()) if first else ""  # names may hold line breaks
    where = f"split {split!r} of {source}" if split else str(source)
    return f"{where}: nothing left to import ({counts}{first}); check the names and the pictures"


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder."""
    return [path for path in visible(folder) if path.is_dir()]


def existing_folder(path: Path) -> Path:
    """The path of a folder, or an error."""
    if not path.is_dir():
        raise InputError(f"{path}: is no folder; check the path")
    return path


def find_images(source: Path) -> Path:
    """The folder of the pictures: `images`, or the only one that holds picture files, the source itself included.

    Raises:
        InputError: none, or several.
    """
    folders = subfolders(existing_folder(source))
    found = [path for path in folders if path.name.lower() == "images"]
    found = found or [path for path in (source, *folders) if _has_pictures(path)]
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InputError(f"{source}: {len(found)} folders of pictures{names}; name the one with --images DIR")
    return found[0]


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower().removeprefix(".") in PICTURES for path in visible(folder))


def find_picture(folder: Path, name: str, skips: Skips) -> Path | None:
    """The file that a table names, or none: then it is noted why."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        skips.broken.append(Skipped(name, f"leaves the folder {folder}"))
    elif not os.path.isfile(folder / place):  # not Path.is_file, which a name that is too long makes fail
        skips.missing.append(Skipped(name, "no such file"))
    else:
        return folder / place
    return None


def check_split(name: str) -> None:
    """Refuses what cannot be the name of a folder of shards."""
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"split {name!r}: a name has letters, digits, - and _ only")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or an error that names it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
