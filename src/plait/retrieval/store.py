"""Files that only grow, and how much of each is whole.

    DIR/memory.json    {"format": 1, "sizes": {file: bytes}, ...facts}: replaced at once, never written into
    DIR/<file>         at least so many bytes; what lies behind them was begun and never acknowledged

An append writes behind the whole part of each file, brings that to the disk, and only then replaces memory.json.
Whatever ends the process leaves a memory as it was before the append, or as it is after it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plait.errors import InputError

FACTS = "memory.json"
FORMAT = 1
_LOCK = ".lock"


class Store:
    """A folder of such files, as it was when it was opened or last appended to.

    Args:
        folder: of a store.

    Raises:
        InputError: no store, of another format, or a file that is shorter than it must be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.refresh()

    @classmethod
    def create(cls, folder: str | Path, files: tuple[str, ...], facts: Mapping[str, Any]) -> Store:
        """A new one, of empty files.

        Raises:
            InputError: the folder is not empty.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(not _empty(path) for path in folder.iterdir())):
            raise InputError(f"{folder}: is not empty and holds no memory; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            (folder / name).touch()
        _replace(folder, {"format": FORMAT, "sizes": dict.fromkeys(files, 0), **facts})
        return cls(folder)

    def refresh(self) -> None:
        """Looks again at what is whole: another process may have appended."""
        path = self.folder / FACTS
        if not path.is_file():
            raise InputError(f"{self.folder}: holds no memory; build one with: plait data memory SHARDS --out DIR")
        try:
            value = dict(json.loads(path.read_text(encoding="utf-8")))
            version = value.pop("format")
            self.sizes = {str(name): int(size) for name, size in value.pop("sizes").items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: no readable memory ({error!r}); build it again") from error
        if version != FORMAT:
            raise InputError(f"{path}: format {version}, this Plait reads {FORMAT}; build it again")
        self.facts = value
        for name, size in self.sizes.items():
            found = (self.folder / name).stat().st_size if (self.folder / name).is_file() else 0
            if found < size:
                raise InputError(
                    f"{self.folder / name}: {found} bytes but {size} in {FACTS}; the file is cut, copy it again"
                )

    @contextmanager
    def appending(self) -> Iterator[None]:
        """While it lasts this is the only one that appends, here or in another process.

        Raises:
            InputError: another one does.
        """
        with (self.folder / _LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{self.folder}: another process appends to it; wait until it ends") from error
            self.refresh()
            yield

    def append(self, parts: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        """Adds bytes to files and changes facts, all or nothing. When this returns, it is on the disk.

        Only within `appending`.
        """
        sizes = dict(self.sizes)
        for name, content in parts.items():
            sizes[name] += _write(self.folder / name, self.sizes[name], content)
        changed = {**self.facts, **facts}
        _replace(self.folder, {"format": FORMAT, "sizes": sizes, **changed})
        self.sizes, self.facts = sizes, changed


def _empty(path: Path) -> bool:
    """Whether it is what a process left that was ended before there was a memory."""
    return path.is_file() and (path.name.startswith(".") or not path.stat().st_size)


def _write(path: Path, at: int, content: bytes) -> int:
    """Writes bytes at a place, behind which the file ends; how many."""
    with path.open("r+b") as file:
        file.truncate(at)  # what an append left that was never acknowledged
        file.seek(at)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return file.tell() - at


def _replace(folder: Path, value: Mapping[str, Any]) -> None:
    partial = folder / f".{FACTS}.partial"
    with partial.open("wb") as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / FACTS)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # the new name too
    finally:
        os.close(directory)
