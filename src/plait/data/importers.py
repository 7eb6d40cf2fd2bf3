"""Imports of foreign data into shards (`plait.data.shards`): which kinds there are, and the two for plain folders.

`captions`: a folder of pictures and a table with the columns `image` and `caption`. `classes`: a folder for each
class. `coco`: pictures and captions in COCO's JSON. `webdataset`: tars of pictures with captions. `storyboard`: videos
with subtitles. `pages`: pages of the web. Pictures go in with their bytes unchanged, after they were decoded once; what
is missing, double or broken is left out, counted and listed in `report.json`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from plait.data.coco import coco
from plait.data.intake import (
    Entry,
    ImportReport,
    Skipped,
    Skips,
    check_split,
    existing_folder,
    find_images,
    find_picture,
    read_text,
    subfolders,
    visible,
    write_shards,
)
from plait.data.pages import PagesReport, pages
from plait.data.shards import SHARD_SIZE
from plait.data.storyboard import storyboard
from plait.data.webdataset import webdataset
from plait.errors import InputError

TEMPLATE = "a photo of a {name}."


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
    folder = Path(images) if images is not None else find_images(source)
    skips = Skips()
    texts = _read_captions(table, skips)
    members = {"": list(texts)}
    unlisted: list[str] = []
    if splits:
        members = _read_splits(splits)
        listed = {name for names in members.values() for name in names}
        unlisted = [name for name in texts if name not in listed]
    entries: dict[str, list[Entry]] = {}
    for split, names in members.items():
        entries[split] = []
        for name in names:
            path = find_picture(folder, name, skips)
            if path is not None and name not in texts:
                skips.missing.append(Skipped(name, f"no row in {table.name}"))
            elif path is not None:
                entries[split].append(Entry(path, name, tuple(texts[name]), {"file": name}))
    return write_shards("captions", source, out, entries, skips, unlisted=tuple(unlisted), shard_size=shard_size)


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
    skips = Skips()
    entries: dict[str, list[Entry]] = {}
    for split, found in folders.items():
        entries[split] = []
        for name, folder in found.items():
            texts = tuple(dict.fromkeys(class_caption(template, name) for template in templates))
            files = [path for path in visible(folder) if path.is_file()]
            if not files:
                skips.missing.append(Skipped(folder.relative_to(source).as_posix(), "no file in the class"))
            for path in files:
                file = path.relative_to(source).as_posix()
                entries[split].append(Entry(path, file, texts, {"class": name, "label": labels[name], "file": file}))
    return write_shards("classes", source, out, entries, skips, unique=True, shard_size=shard_size)


KINDS: dict[str, Callable[..., ImportReport | PagesReport]] = {
    "captions": captions,
    "classes": classes,
    "coco": coco,
    "webdataset": webdataset,
    "storyboard": storyboard,
    "pages": pages,
}


def class_caption(template: str, name: str) -> str:
    """The template with the name of a class: "a photo of a {name}." and "tree_frog" give "a photo of a tree frog."."""
    name = re.sub(r"[_-]+", " ", name).strip()
    article = "n" if name[:1].lower() in tuple("aeiou") else ""
    return re.sub(r"\b([Aa])n? \{name\}", rf"\1{article} {{name}}", template).replace("{name}", name)


def _find_table(source: Path) -> Path:
    found = [path for path in visible(existing_folder(source)) if path.name.lower() in ("captions.txt", "captions.csv")]
    found = found or [path for path in visible(source) if path.suffix.lower() == ".csv"]
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InputError(f"{source}: {len(found)} tables of captions{names}; name the one with --table FILE")
    return found[0]


def _read_captions(table: Path, skips: Skips) -> dict[str, list[str]]:
    """The captions by picture, in the order of the table."""
    reader = csv.reader(io.StringIO(read_text(table), newline=""), strict=True)
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
        check_split(split)
        names = [line.strip() for line in read_text(Path(path)).split("\n") if line.strip()]
        members[split] = list(dict.fromkeys(names))
        for name in members[split]:
            if owner.setdefault(name, split) != split:
                raise InputError(f"{path}: {name} is in the splits {owner[name]} and {split}; take it out of one")
    return members


def _class_folders(source: Path) -> dict[str, dict[str, Path]]:
    """Split -> class -> folder; the split "" where the classes lie directly in the source."""
    tops = subfolders(existing_folder(source))
    deep = [top for top in tops if subfolders(top)]
    if not tops or (deep and len(deep) != len(tops)):
        raise InputError(
            f"{source}: {len(deep)} of {len(tops)} folders have folders in them; "
            "all or none must: SRC/<class>/* or SRC/<split>/<class>/*"
        )
    if not deep:
        return {"": {top.name: top for top in tops}}
    for folder in (folder for top in tops for folder in subfolders(top)):
        below = subfolders(folder)
        if below:
            raise InputError(f"{below[0]}: lies below a class; put the files into SRC/<split>/<class>")
    return {top.name: {folder.name: folder for folder in subfolders(top)} for top in tops}
