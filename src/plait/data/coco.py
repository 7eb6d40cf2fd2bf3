"""Imports of pictures with captions in COCO's form (cocodataset.org, "Data format", Image Captioning)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    visible,
    write_shards,
)
from plait.data.shards import SHARD_SIZE, clean
from plait.errors import InputError

_NAME = re.compile(r"captions_([A-Za-z][\w-]*?)_?(\d{4})?")  # captions_train2017: the split and the year


def coco(
    source: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    splits: Mapping[str, str | Path] | None = None,
    shard_size: int = SHARD_SIZE,
) -> ImportReport:
    """Import COCO's captions: one document [caption, image] for each annotation; a picture's share a sample.

    A JSON file is a split. `captions_train2017.json` is `train`, its pictures lie in `train2017`; a single file with
    a name of another form is no split. `ShardSource.meta` gives {"file": name, "image_id": id}. Of pictures with the
    same bytes in a split, the first stays.

    Args:
        source: holds `captions_*.json` (or the only `*.json`), directly or in `annotations`; or is such a file.
        images: the pictures, or a folder of such folders; by default looked for beside the JSON or its folder.
        splits: split name -> its JSON file, instead of those that are found.

    Raises:
        InputError: no JSON or no pictures found, or several of the same split; a JSON of another form; a picture in
            two splits; nothing left to import; `out` is not empty.
    """
    source = Path(source)
    files = {split: Path(file) for split, file in splits.items()} if splits else _find_files(source)
    skips = Skips()
    entries: dict[str, list[Entry]] = {}
    owner: dict[Path | str, str] = {}
    for split, file in files.items():
        if split:
            check_split(split)
        entries[split] = _entries(file, _find_pictures(source, file, images), skips)
        for entry in entries[split]:
            if isinstance(entry.content, Path) and owner.setdefault(entry.content, split) != split:
                raise InputError(
                    f"{file}: {entry.name} is in the splits {owner[entry.content]} and {split}; take it out of one"
                )
    return write_shards("coco", source, out, entries, skips, unique=True, shard_size=shard_size)


def _find_files(source: Path) -> dict[str, Path]:
    """The JSON files by split."""
    if source.is_file():
        found = [source]
    else:
        folders = [folder for folder in (existing_folder(source), source / "annotations") if folder.is_dir()]
        every = [path for folder in folders for path in visible(folder) if path.suffix.lower() == ".json"]
        found = [path for path in every if path.name.startswith("captions")] or every
    names = [match[1] if (match := _NAME.fullmatch(path.stem)) else "" for path in found]
    if not found or len(set(names)) < len(names) or (len(names) > 1 and "" in names):
        listed = f" ({', '.join(path.name for path in found[:5])})" if found else ""
        raise InputError(
            f"{source}: {len(found)} JSON files of captions{listed} for {len(set(names))} splits; "
            "name each with --split NAME=FILE"
        )
    return dict(zip(names, found, strict=True))


def _find_pictures(source: Path, file: Path, images: str | Path | None) -> Path:
    """The folder of the pictures that a JSON names: for `captions_train2017.json`, `train2017` where there is one."""
    part = file.stem.removeprefix("captions_")
    if images is not None:
        root = existing_folder(Path(images))
        return root / part if (root / part).is_dir() else root
    root = source.parent if source.is_file() else source
    root = root.parent if root.name == "annotations" else root
    own = next((folder for folder in (root / part, root / "images" / part) if folder.is_dir()), None)
    return own or find_images(root)


def _entries(file: Path, folder: Path, skips: Skips) -> list[Entry]:
    """What a JSON file lists and its folder holds, in the order of its pictures."""
    pictures, annotations = _read(file)
    names = _read_names(pictures, file.name, skips)
    texts = _read_texts(annotations, names, file.name, skips)
    entries = []
    for number, name in names.items():
        path = None if name is None else find_picture(folder, name, skips)
        if name is None or path is None:
            continue
        if number in texts:
            entries.append(Entry(path, name, tuple(texts[number]), {"file": name, "image_id": number}))
        else:
            skips.missing.append(Skipped(name, f"no caption in {file.name}"))
    return entries


def _read(file: Path) -> tuple[list[Any], list[Any]]:
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: no readable JSON ({error}); fetch it again") from error
    pictures, annotations = (value.get("images"), value.get("annotations")) if isinstance(value, dict) else (None, None)
    if not isinstance(pictures, list) or not isinstance(annotations, list):
        raise InputError(f"{file}: its JSON has no lists 'images' and 'annotations'; give COCO's captions")
    return pictures, annotations


def _read_names(pictures: list[Any], file: str, skips: Skips) -> dict[int | str, str | None]:
    """The file of each id; none for a file that another id has already."""
    names: dict[int | str, str | None] = {}
    first: dict[str, int | str] = {}
    for i, picture in enumerate(pictures):
        number, name = (picture.get("id"), picture.get("file_name")) if isinstance(picture, dict) else (None, None)
        if not isinstance(number, int | str) or not isinstance(name, str) or not name:
            skips.broken.append(Skipped(f"image {i + 1} of {file}", "no 'id' or no 'file_name'"))
        elif number in names:
            skips.duplicates.append(Skipped(f"image {i + 1} of {file}", f"id {number} is there already"))
        elif name in first:
            skips.duplicates.append(Skipped(f"image {i + 1} of {file}", f"{name} is image id {first[name]} already"))
            names[number] = None
        else:
            first[name] = number
            names[number] = name
    return names


def _read_texts(
    annotations: list[Any], names: Mapping[int | str, str | None], file: str, skips: Skips
) -> dict[int | str, list[str]]:
    """The captions by picture, in the order of the file."""
    texts: dict[int | str, list[str]] = {}
    for i, annotation in enumerate(annotations):
        where = f"annotation {i + 1} of {file}"
        found = annotation if isinstance(annotation, dict) else {}
        number, caption = found.get("image_id"), found.get("caption")
        text = clean(caption) if isinstance(caption, str) else ""
        if not isinstance(number, int | str) or not text:
            skips.broken.append(Skipped(where, "no 'caption'" if isinstance(number, int | str) else "no 'image_id'"))
        elif number not in names:
            skips.missing.append(Skipped(where, f"no image has the id {number}"))
        elif text in texts.setdefault(number, []):
            skips.duplicates.append(Skipped(where, f"image id {number} has this caption already"))
        else:
            texts[number].append(text)
    return texts
