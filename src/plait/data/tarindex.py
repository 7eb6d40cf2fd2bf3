"""Where things lie in a tar of samples (the WebDataset layout), and reading them by number.

An index is a small numpy file beside its tar. It is made when the tar is written, or by reading all headers of a tar
that came without one.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from plait import images
from plait.errors import DocumentError, InputError

BLOCK = 512  # bytes: tar pads its members to whole blocks and ends with blocks of zeros
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key and extension of a member
_CODEC = ("utf-8", "surrogateescape")  # as tarfile reads names: those of other encodings come back unchanged


@dataclass(frozen=True)
class Member:
    """A picture inside a shard. It holds no open file: it can be pickled, and read in any thread or process."""

    shard: str
    name: str
    offset: int  # bytes
    size: int  # bytes

    def read(self) -> bytes:
        """The bytes of the file as they were stored.

        Raises:
            InputError: the shard is gone or ends too early.
        """
        return _read(self.shard, self.name, self.offset, self.size)

    def open(self) -> PIL.Image.Image:
        """The picture in RGB, by the rule of `plait.images`.

        Raises:
            ImageError: no readable picture.
            InputError: the shard is gone or ends too early.
        """
        return images.decode(self.read(), f"{self.shard}:{self.name}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """Where the n samples of a shard and their m members lie; the members of a sample are neighbours here."""

    names: NDArray[np.uint8]  # the m names in UTF-8, a NUL after each
    offsets: NDArray[np.int64]  # (m,) bytes from the start of the tar to the content
    sizes: NDArray[np.int64]  # (m,) bytes
    members: NDArray[np.int64]  # (n + 1,) sample i has members[i] up to members[i + 1]
    documents: NDArray[np.int64]  # (n + 1,) sample i has documents[i] up to documents[i + 1]
    tar_bytes: int

    @classmethod
    def build(cls, samples: Sequence[tuple[int, Sequence[tuple[str, int, int]]]], tar_bytes: int) -> ShardIndex:
        """The index of samples, each a number of documents and its members as (name, offset, size)."""
        flat = [member for _, members in samples for member in members]
        return cls(
            names=np.frombuffer("".join(f"{name}\0" for name, _, _ in flat).encode(*_CODEC), dtype=np.uint8),
            offsets=np.array([offset for _, offset, _ in flat], dtype=np.int64),
            sizes=np.array([size for _, _, size in flat], dtype=np.int64),
            members=np.cumsum([0, *(len(members) for _, members in samples)], dtype=np.int64),
            documents=np.cumsum([0, *(count for count, _ in samples)], dtype=np.int64),
            tar_bytes=tar_bytes,
        )

    @classmethod
    def scan(cls, tar: Path) -> ShardIndex:
        """The index of a tar that has none, by reading all its headers.

        Raises:
            InputError: no tar, or a cut one.
        """
        samples: dict[str, dict[str, Member]] = {}
        for key, extension, member in scan_members(tar):
            if extension in samples.setdefault(key, {}):
                raise InputError(f"{tar}: {member.name} is there twice; give each sample a key of its own")
            samples[key][extension] = member
        rows = [
            (_count(members), [(member.name, member.offset, member.size) for member in members.values()])
            for members in samples.values()
        ]
        return cls.build(rows, tar.stat().st_size)

    @classmethod
    def load(cls, path: Path) -> ShardIndex:
        """The index in a file.

        Raises:
            InputError: no readable index.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(**{**arrays, "tar_bytes": int(arrays["tar_bytes"])})
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: no readable index ({error}); delete it and it is made anew") from error

    def save(self, path: Path) -> None:
        """Write the index: under another name first, so that no half of one is ever read."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **{name: getattr(self, name) for name in self.__dataclass_fields__})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.flatnonzero(self.names == 0) + 1])

    def name(self, member: int) -> str:
        """The name of a member in the tar."""
        return self.names[self._ends[member] : self._ends[member + 1] - 1].tobytes().decode(*_CODEC)


class _Descriptor:
    """An open file, closed when nobody holds it: a cache may drop it while another thread reads."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=128)
def _descriptor(path: str, inode: int, modified: int) -> _Descriptor:
    return _Descriptor(path)  # inode and time: a file that was replaced under its name is opened again


def _read(shard: str, name: str, offset: int, size: int) -> bytes:
    try:
        status = os.stat(shard)
        held = _descriptor(shard, status.st_ino, status.st_mtime_ns)  # by name: else it may be closed before it is read
        content = os.pread(held.number, size, offset)
    except OSError as error:
        raise InputError(f"{shard}: cannot be read ({error.strerror}); check the path") from error
    if len(content) != size:
        raise InputError(f"{shard}: {len(content)} of the {size} bytes of {name}; the shard is cut, fetch it again")
    return content


def scan_members(tar: Path) -> Iterator[tuple[str, str, Member]]:
    """The members of a tar by its headers, as (key, extension, member), without hidden ones and those of no extension.

    A name is a name: nothing is ever written where it points to.

    Raises:
        InputError: no tar, or one that is cut or damaged: after the members before that place, and after the one that
            the cut goes through, where its header is there.
    """
    for member in _members(tar):
        match = NAME.fullmatch(member.name)
        if match is not None:
            yield match[1], match[2], member


def _members(tar: Path) -> Iterator[Member]:
    size, end = tar.stat().st_size, 0
    try:
        with tarfile.open(tar, "r:") as file:
            while (header := _next_header(file)) is not None:
                if header.size < 0 or file.offset <= end:  # a damaged size leads back, and round and round
                    raise tarfile.ReadError(f"a member of {header.size} bytes at byte {header.offset}")
                end = file.offset
                if header.isreg() and not header.issparse():
                    yield Member(str(tar), header.name, header.offset_data, header.size)
    except Exception as error:  # damaged headers make tarfile raise almost anything
        raise InputError(f"{tar}: no readable tar of {size} bytes ({error}); fetch it again") from error
    with tar.open("rb") as content:
        content.seek(end)
        if content.read(BLOCK) != bytes(BLOCK):  # tarfile takes a cut at a header for the end
            raise InputError(f"{tar}: {size} bytes, no end mark at byte {end}; the shard is cut, fetch it again")


def _next_header(file: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return file.next()
    except tarfile.ReadError:  # the content before it is cut
        return None


def parse_sample(content: bytes, where: str) -> dict[str, Any]:
    """The object in the `.json` of a sample.

    Raises:
        DocumentError: no JSON object.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: no readable JSON ({error}); write the shard again") from error
    if not isinstance(value, dict):
        raise DocumentError(f"{where}: its JSON is an object, not {type(value).__name__}; write the shard again")
    return value


def count_documents(content: bytes, where: str) -> int:
    """How many documents the `.json` of a sample holds; a broken one keeps its place as one."""
    try:
        forms = parse_sample(content, where).get("documents", [None])
    except DocumentError:
        return 1
    return len(forms) if isinstance(forms, list) else 1


def _count(members: Mapping[str, Member]) -> int:
    """How many documents a sample holds."""
    found = members.get("json")
    return 1 if found is None else count_documents(found.read(), f"{found.shard}: {found.name}")
