"""Imports of pictures with captions from tars in the WebDataset layout, as img2dataset writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plait.data.intake import Entry, ImportReport, Skipped, Skips, existing_folder, visible, write_shards
from plait.data.shards import PICTURES, SHARD_SIZE, caption_of, meta_of, splits
from plait.data.tarindex import Member, parse_sample, scan_members
from plait.errors import InputError

MAX_TEXT = 2**24  # bytes of a caption or of the JSON beside it


def webdataset(source: str | Path, out: str | Path, *, shard_size: int = SHARD_SIZE) -> ImportReport:
    """Import tars of pictures with captions: a document [caption, image] for each sample.

    A sample is `key.jpg` (or png, webp, gif, bmp, tif) with `key.txt`, `key.json` or both. The caption is the text,
    else "caption" in the JSON; `ShardSource.meta` gives the rest of the JSON with {"file": "00000.tar:key.jpg"}. Other
    members and other files are not looked at. The headers of a tar are read first; then its pictures pass in their
    order, some tens at a time. Nothing is unpacked. Of a tar that is cut short the samples before the cut are kept, and
    the one that the cut goes through is not.

    Args:
        source: a folder of tars; a folder with such a folder for each split; or one tar.

    Raises:
        InputError: no tars; tars beside folders of tars; nothing left to import; `out` is not empty.
    """
    source = Path(source)
    skips = Skips()
    tars = _find_tars(source)
    entries = {split: _entries(source, found, skips) for split, found in tars.items()}
    return write_shards("webdataset", source, out, entries, skips, shard_size=shard_size)


def _find_tars(source: Path) -> dict[str, list[Path]]:
    """The tars by split."""
    if source.is_file():
        return {"": [source]}
    top, below = _tars(existing_folder(source)), splits(source)
    if top and below:
        raise InputError(f"{source}: {len(top)} tars beside folders of tars ({', '.join(below)}); give one of them")
    if not top and not below:
        raise InputError(f"{source}: holds no *.tar, nor do its folders; give the folder of the tars")
    return {split: _tars(source / split) for split in below} or {"": top}


def _tars(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.suffix == ".tar" and path.is_file()]


def _entries(source: Path, tars: list[Path], skips: Skips) -> Iterator[Entry]:
    for tar in tars:
        place = tar.name if tar == source else tar.relative_to(source).as_posix()
        for key, members in _samples(tar, place, skips).items():
            name = f"{place}:{key}"
            try:
                entry = _entry(place, name, members, skips)
            except InputError as error:
                skips.broken.append(Skipped(name, str(error).removeprefix(f"{name}: ")))
                continue
            if entry is not None:
                yield entry


def _samples(tar: Path, place: str, skips: Skips) -> dict[str, dict[str, Member]]:
    """The samples that are whole: key -> extension -> member."""
    samples: dict[str, dict[str, Member]] = {}
    key = ""
    try:
        for key, extension, member in scan_members(tar):
            if extension in samples.setdefault(key, {}):
                skips.duplicates.append(Skipped(f"{place}:{member.name}", "is in this tar already"))
            else:
                samples[key][extension] = member
    except InputError as error:
        last = samples.pop(key, {})
        through = any(member.offset + member.size > tar.stat().st_size for member in last.values())
        if through or len(last) < max(map(len, samples.values()), default=0):
            skips.broken.append(Skipped(f"{place}:{key}", "the cut of its tar goes through it"))
        elif last:  # all that the others have
            samples[key] = last
        fault = str(error).removeprefix(f"{tar}: ")
        skips.broken.append(Skipped(place, f"{fault}; {len(samples)} samples before that place were read"))
    return samples


def _entry(place: str, name: str, members: Mapping[str, Member], skips: Skips) -> Entry | None:
    """A sample with one picture and a caption, or none: then it is noted what is missing.

    Raises:
        InputError: the sample is broken.
    """
    for extension in ("txt", "json"):
        if extension in members and members[extension].size > MAX_TEXT:
            raise InputError(f"{name}: {members[extension].size} bytes of {extension}, above the limit of {MAX_TEXT}")
    value: dict[str, Any] = parse_sample(members["json"].read(), name) if "json" in members else {}
    pictures = [member for extension, member in members.items() if extension.lower() in PICTURES]
    caption = caption_of(value, members)
    if len(pictures) > 1:
        raise InputError(f"{name}: {len(pictures)} pictures for 1 caption")
    if not pictures or not caption:
        status = f" (status {value['status']})" if value.get("status") else ""
        skips.missing.append(Skipped(name, f"no {'caption' if pictures else 'picture'}{status}"))
        return None
    meta = {**meta_of(value, name), "file": f"{place}:{pictures[0].name}"}
    return Entry(pictures[0], name, (caption,), meta)
