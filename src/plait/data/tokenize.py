"""Pictures of whole sets of shards as codes, once for all: `plait data tokenize`.

For each shard there is a file of JSON lines with its name, line i for document i. `{"codes": [[...], null]}`: those of
its pictures in order, null for one that cannot be read; `{"error": "..."}`: a document that cannot be read. A file
appears when its shard is done, and a shard whose file is there is not done again. `manifest.json` holds the counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data.shards import MANIFEST, ShardSource, splits, write_json
from plait.document import Document, Image
from plait.errors import DocumentError, ImageError, InputError
from plait.sequence import Prepare
from plait.systems.base import System

SETTINGS = "settings.json"
_AHEAD = 256  # documents whose pictures are read together


@dataclass(kw_only=True)
class Counts:
    """What a set held."""

    shards: int = 0
    documents: int = 0
    unreadable_documents: int = 0
    pictures: int = 0
    unreadable_pictures: int = 0

    def add(self, other: Counts) -> None:
        """Those of another set, too."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


def tokenize(
    source: str | Path,
    out: str | Path,
    identity: Mapping[str, Any],
    load: Callable[[], System],
    batch: int = 64,
    tell: Callable[[str], None] = lambda line: None,
) -> Counts:
    """Writes the codes of all shards of a data directory, of each split into a folder of its name.

    Args:
        source: a folder of shards, or of splits, or one tar.
        out: the same call goes on with what it holds.
        identity: what decides about the codes; another one than that of `out` is refused.
        load: gives the system, if there is anything left to do.
        batch: pictures that are read at once.

    Raises:
        InputError: `out` is of other settings, or holds something else; no shards.
        ConfigError: the system makes no codes of pictures.
    """
    root, out = Path(source), Path(out)
    _begin(out, {**identity, "source": str(root.absolute())})
    names: list[str | None] = list(splits(root)) or [None]
    system: System | None = None
    total = Counts()
    for name in names:
        shards, folder = ShardSource(root, name), out / name if name else out
        folder.mkdir(exist_ok=True)
        counts = Counts()
        for shard, documents in shards.shards:
            path = folder / f"{shard.stem}.jsonl"
            if not path.is_file():
                tell(f"{shard}: {len(documents)} documents")
                system = system or load()
                _write(path, (shards, documents), system, batch)
            counts.add(_counted(path))
        write_json(folder / MANIFEST, {"format": 1, **vars(counts)})
        total.add(counts)
    return total


def _begin(out: Path, settings: Mapping[str, Any]) -> None:
    path = out / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in sorted(before.keys() | settings.keys()):
            if before.get(key) != settings.get(key):
                raise InputError(
                    f"{out}: was begun with {key} {before.get(key)!r}, not {settings.get(key)!r}: choose another folder"
                )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(settings))


def _write(path: Path, documents: tuple[ShardSource, range], system: System, batch: int) -> None:
    """The file of a shard, which appears whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for line in _lines(*documents, system, batch):
            file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n")
    partial.replace(path)


def _lines(source: ShardSource, numbers: range, system: System, batch: int) -> Iterator[dict[str, Any]]:
    prepare = next(iter(system.format.preprocess().values()))  # others are of what is drawn
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(numbers), _AHEAD):
            read = [_document(source, number) for number in numbers[first : first + _AHEAD]]
            pictures = [image for one in read if isinstance(one, Document) for image in one.images]
            pixels = list(pool.map(lambda image: _pixels(prepare, image), pictures))
            codes = iter(_codes(pixels, system, batch))
            for one in read:
                if isinstance(one, Document):
                    yield {"codes": list(islice(codes, len(one.images)))}
                else:
                    yield {"error": one}


def _document(source: ShardSource, number: int) -> Document | str:
    try:
        return source[number]
    except DocumentError as error:
        return str(error)


def _pixels(prepare: Prepare, image: Image) -> NDArray[np.float32] | None:
    try:
        return prepare(image)
    except ImageError:
        return None


@torch.inference_mode()
def _codes(pixels: list[NDArray[np.float32] | None], system: System, batch: int) -> list[list[int] | None]:
    there = [one for one in pixels if one is not None]
    made: list[list[int]] = []
    for first in range(0, len(there), batch):
        some = torch.from_numpy(np.stack(there[first : first + batch]))
        made += system.picture_codes(some.to(system.device)).tolist()
    left = iter(made)
    return [None if one is None else next(left) for one in pixels]


def _counted(path: Path) -> Counts:
    counts = Counts(shards=1)
    with path.open(encoding="utf-8") as file:
        for line in file:
            codes = json.loads(line).get("codes")
            counts.documents += 1
            counts.unreadable_documents += codes is None
            counts.pictures += len(codes or [])
            counts.unreadable_pictures += (codes or []).count(None)
    return counts
