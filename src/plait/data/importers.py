"""Imports of foreign data into shards (`plait.data.shards`).

`captions`: a folder of pictures and a table with the columns `image` and `caption`. `classes`: a folder for each
class. Pictures go in with their bytes unchanged, after they were decoded once; what is missing, double or broken is
left out, counted and listed in `report.json`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from plait import images as pictures
from plait.data.shards import PICTURES, SHARD_SIZE, ShardWriter, fresh_directory, write_json
from plait.document import Document, Image
from plait.errors import ImageError, InputError

TEMPLATE = "a photo of a {name}."
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
class _Entry:
    """A picture to import: the file and its name in the report, its texts, and the meta of its sample."""

    path: Path
    name: str
    texts: tuple[str, ...]
    meta: Mapping[str, Any]


class _Skips:
    """The entries left out so far."""

    def __init__(self) -> None:
        self.missing: list[Skipped] = []
        self.duplicates: list[Skipped] = []
        self.broken: list[Skipped] = []

    def frozen(self) -> dict[str, tuple[Skipped, ...]]:
        """As fields of the report."""
        return {name: tuple(found) for name, found in vars(self).items()}


def captions(
    source: str | Path,
    out: str | Path,
    *,
    table: str | Path | None = None,
    images: str | Path | None = None,
    splits: Mapping[str, str | Path] | None = None,
    shard_size: int = SHARD_SIZE,
) -> ImportReport:
    """Import a folder of pictures with a table of captions: one document [caption, image] for each row.

    The rows of one picture share a sample, so its bytes are stored once; `ShardSource.meta` gives {"file": its name}.

    Args:
        source: holds the table (`captions.txt`, `captions.csv` or the only `*.csv`) and the pictures (a folder
            `images`, or the only folder with picture files).
        table: the table, where it is not found by looking.
        images: the folder of the pictures, where it is not found by looking.
        splits: split name -> a file with one picture's name on each line; shards go to `out/NAME`.

    Raises:
        InputError: no table or no pictures found, or several; no column `image` or `caption`; a picture in two
            splits; nothing left to import; `out` is not empty.
    """
    source = Path(source)
    table = Path(table) if table is not None else _find_table(source)
    folder = Path(images) if images is not None else _find_images(source)
    skips = _Skips()
    texts = _read_captions(table, skips)
    members = {"": list(texts)}
    unlisted: list[str] = []
    if splits:
        members = _read_splits(splits)
        listed = {name for names in members.values() for name in names}
        unlisted = [name for name in texts if name not in listed]
    entries: dict[str, list[_Entry]] = {}
    for split, names in members.items():
        entries[split] = []
        for name in names:
            place = PurePosixPath(name)
            path = folder / place
            if place.is_absolute() or ".." in place.parts:
                skips.broken.append(Skipped(name, f"leaves the folder {folder}"))
            elif name not in texts or not path.is_file():
                skips.missing.append(Skipped(name, "no such file" if not path.is_file() else f"no row in {table.name}"))
            else:
                entries[split].append(_Entry(path, name, tuple(texts[name]), {"file": name}))
    return _import("captions", source, out, entries, skips, tuple(unlisted), shard_size)


def classes(
    source: str | Path,
    out: str | Path,
    *,
    templates: Sequence[str] = (TEMPLATE,),
    shard_size: int = SHARD_SIZE,
) -> ImportReport:
    """Import `SOURCE/<class>/*` or `SOURCE/<split>/<class>/*`: a document [caption, image] for each template.

    The caption is a template with the name of the class, `_` and `-` read as spaces, for `{name}`; an `a` before it
    becomes `an` where the name begins with a vowel. `ShardSource.meta` gives {"class", "label", "file"}; labels
    number the classes of all splits in alphabetical order. Of files with the same bytes in a split, the first stays.

    Raises:
        InputError: a template without `{name}`; folders that are neither of the two forms; nothing left to import;
            `out` is not empty.
    """
    source = Path(source)
    if isinstance(templates, str) or not templates or not all("{name}" in template for template in templates):
        raise InputError(f"templates {templates!r}: give a list, each with {{name}} where the class belongs")
    folders = _class_folders(source)
    labels = {name: label for label, name in enumerate(sorted({name for found in folders.values() for name in found}))}
    skips = _Skips()
    entries: dict[str, list[_Entry]] = {}
    for split, found in folders.items():
        entries[split] = []
        for name, folder in found.items():
            texts = tuple(dict.fromkeys(class_caption(template, name) for template in templates))
            files = [path for path in _visible(folder) if path.is_file()]
            if not files:
                skips.missing.append(Skipped(folder.relative_to(source).as_posix(), "no file in the class"))
            for path in files:
                file = path.relative_to(source).as_posix()
                entries[split].append(_Entry(path, file, texts, {"class": name, "label": labels[name], "file": file}))
    return _import("classes", source, out, entries, skips, (), shard_size, unique=True)


KINDS: dict[str, Callable[..., ImportReport]] = {"captions": captions, "classes": classes}


def class_caption(template: str, name: str) -> str:
    """The template with the name of a class: "a photo of a {name}." and "tree_frog" give "a photo of a tree frog."."""
    name = re.sub(r"[_-]+", " ", name).strip()
    article = "n" if name[:1].lower() in tuple("aeiou") else ""
    return re.sub(r"\b([Aa])n? \{name\}", rf"\1{article} {{name}}", template).replace("{name}", name)


def _import(
    kind: str,
    source: Path,
    out: str | Path,
    entries: Mapping[str, Sequence[_Entry]],
    skips: _Skips,
    unlisted: tuple[str, ...],
    shard_size: int,
    unique: bool = False,
) -> ImportReport:
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


def _readable(entries: Sequence[_Entry], skips: _Skips, unique: bool) -> Iterator[tuple[_Entry, bytes]]:
    """The entries whose pictures decode, in order, with their bytes; threads help, since Pillow decodes without GIL."""
    seen: dict[bytes, str] = {}
    rest = iter(entries)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        while window := list(islice(rest, WINDOW)):
            for entry, content in zip(window, pool.map(_check, window), strict=True):
                if isinstance(content, str):
                    skips.broken.append(Skipped(entry.name, content))
                    continue
                first = seen.setdefault(hashlib.sha256(content).digest(), entry.name) if unique else entry.name
                if first != entry.name:
                    skips.duplicates.append(Skipped(entry.name, f"the same bytes as {first}"))
                    continue
                yield entry, content


def _check(entry: _Entry) -> bytes | str:
    """The bytes of a readable picture, or what is wrong with it."""
    try:
        size = entry.path.stat().st_size
        if size > MAX_BYTES:
            return f"{size} bytes, above the limit of {MAX_BYTES}"
        content = entry.path.read_bytes()
        pictures.decode(content, entry.name)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ImageError as error:
        return str(error).removeprefix(f"{entry.name}: ")
    return content


def _nothing_left(source: Path, split: str, skips: _Skips) -> str:
    found = skips.frozen()
    counts = ", ".join(f"{len(items)} {name}" for name, items in found.items())
    first = next((f"; first: {item.name}: {item.reason}" for items in found.values() for item in items), "")
    where = f"split {split!r} of {source}" if split else str(source)
    return f"{where}: nothing left to import ({counts}{first}); check the names and the pictures"


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: is no folder; check the path")
    return path


def _find_table(source: Path) -> Path:
    found = [path for path in _visible(_folder(source)) if path.name.lower() in ("captions.txt", "captions.csv")]
    found = found or [path for path in _visible(source) if path.suffix.lower() == ".csv"]
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InputError(f"{source}: {len(found)} tables of captions{names}; name the one with --table FILE")
    return found[0]


def _find_images(source: Path) -> Path:
    folders = _subfolders(_folder(source))
    found = [path for path in folders if path.name.lower() == "images"]
    found = found or [path for path in (source, *folders) if _has_pictures(path)]
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InputError(f"{source}: {len(found)} folders of pictures{names}; name the one with --images DIR")
    return found[0]


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower().removeprefix(".") in PICTURES for path in _visible(folder))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _read_captions(table: Path, skips: _Skips) -> dict[str, list[str]]:
    """The captions by picture, in the order of the table."""
    reader = csv.reader(io.StringIO(_read_text(table), newline=""), strict=True)
    texts: dict[str, list[str]] = {}
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        image, caption = header.index("image"), header.index("caption")
    except (csv.Error, ValueError) as error:
        raise InputError(f"{table}: its first line has no columns 'image' and 'caption'; add them") from error
    while True:
        row = f"row {reader.line_num + 1} of {table.name}"
        try:
            cells = next(reader)
        except StopIteration:
            return texts
        except csv.Error as error:
            skips.broken.append(Skipped(row, f"{error}; up to line {reader.line_num}"))
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            reason = f"{len(cells)} cells for {len(header)} columns; a caption with commas needs quotes"
            skips.broken.append(Skipped(row, reason))
            continue
        name, text = cells[image].strip(), cells[caption].strip()
        if not name or not text:
            skips.broken.append(Skipped(row, "no caption" if name else "no image"))
        elif text in texts.setdefault(name, []):
            skips.duplicates.append(Skipped(row, f"{name} has this caption already"))
        else:
            texts[name].append(text)


def _read_splits(splits: Mapping[str, str | Path]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, path in splits.items():
        if not re.fullmatch(r"[\w-]+", split):
            raise InputError(f"split {split!r}: a name has letters, digits, - and _ only")
        names = [line.strip() for line in _read_text(Path(path)).split("\n") if line.strip()]
        members[split] = list(dict.fromkeys(names))
        for name in members[split]:
            if owner.setdefault(name, split) != split:
                raise InputError(f"{path}: {name} is in the splits {owner[name]} and {split}; take it out of one")
    return members


def _class_folders(source: Path) -> dict[str, dict[str, Path]]:
    """Split -> class -> folder; the split "" where the classes lie directly in the source."""
    tops = _subfolders(_folder(source))
    deep = [top for top in tops if _subfolders(top)]
    if not tops or (deep and len(deep) != len(tops)):
        raise InputError(
            f"{source}: {len(deep)} of {len(tops)} folders have folders in them; "
            "all or none must: SRC/<class>/* or SRC/<split>/<class>/*"
        )
    if not deep:
        return {"": {top.name: top for top in tops}}
    for folder in (folder for top in tops for folder in _subfolders(top)):
        below = _subfolders(folder)
        if below:
            raise InputError(f"{below[0]}: lies below a class; put the files into SRC/<split>/<class>")
    return {top.name: {folder.name: folder for folder in _subfolders(top)} for top in tops}
