"""Documents in tar shards of the WebDataset layout, as a random-access source.

A shard is a plain tar. A sample is the members that share a key, the part of their name before its first dot:

    00000017.json    {"documents": [{"pieces": [{"text": "A cat."}, {"image": "0.jpg"}]}], "meta": {"file": "cat.jpg"}}
    00000017.0.jpg   the bytes of the file as it came

A sample of one document may hold its "pieces" or "turns" directly. Anyone's shards are read too: a picture with a
`.txt`, or with a `.json` that has a "caption", is the document [caption, image], and the rest of that JSON its meta.

Beside `shard-000000.tar` lies `shard-000000.idx.npz`: where each member begins and how long it is, so that a document
is a few `pread` away. `manifest.json` says what a whole set of shards must hold.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.data.tarindex import BLOCK, NAME, Member, ShardIndex, parse_sample
from plait.document import Document, Image, Piece, Turn, Video
from plait.errors import DocumentError, ImageError, InputError

SHARD_SIZE = 256 * 2**20  # bytes: few files, and each still quick to copy or to scan again
MANIFEST = "manifest.json"
PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
_RESERVED = frozenset({"documents", "pieces", "turns", "before", "caption", "meta"})
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*\0": "tif"}


class ShardWriter:
    """Writes documents into shards `out/shard-000000.tar` and so on; a context manager.

    Everything is written into a hidden folder beside `out`, which takes its name at the end: after an error or an
    interruption there is no `out`.

    Raises:
        InputError: `out` is not empty.
    """

    def __init__(self, out: str | Path, shard_size: int = SHARD_SIZE) -> None:
        self.out = Path(out)
        self.shard_size = shard_size
        self._stack = ExitStack()
        self._shards: list[dict[str, Any]] = []
        self._samples: list[tuple[int, list[tuple[str, int, int]]]] = []
        self._keys: set[str] = set()
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        self._folder = self._stack.enter_context(fresh_directory(self.out))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                if self._tar is not None:
                    self._tar.close()
                raise error  # through the stack: the folder goes
            self._seal()
            write_json(
                self._folder / MANIFEST,
                {
                    "format": 1,
                    "samples": sum(shard["samples"] for shard in self._shards),
                    "documents": sum(shard["documents"] for shard in self._shards),
                    "shards": self._shards,
                },
            )

    def add(self, key: str, documents: Document | Sequence[Document], meta: Mapping[str, Any] | None = None) -> None:
        """Write one sample. Pictures that its documents share are stored once; bytes and files go in unchanged.

        Args:
            key: letters, digits, - and _; not used before.
            meta: any JSON object, given back by `ShardSource.meta`.

        Raises:
            InputError: a bad key.
            ImageError: a picture that cannot be read.
        """
        if not re.fullmatch(r"[\w-]+", key) or key in self._keys:
            fault = "is used twice" if key in self._keys else "holds more than letters, digits, - and _"
            raise InputError(f"the key {key!r} {fault}: give each sample a key of its own, as 00000017")
        self._keys.add(key)
        documents = [documents] if isinstance(documents, Document) else documents
        stored: dict[bytes, str] = {}

        def store(image: Image) -> Image:
            content = _content(image)
            return Image(stored.setdefault(content, f"{len(stored)}.{_extension(content)}"))

        forms = [_with_images(document, store).to_json() for document in documents]
        value: dict[str, Any] = dict(forms[0]) if len(forms) == 1 else {"documents": forms}
        if meta is not None:
            value["meta"] = dict(meta)
        form = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        members = {"json": form.encode("utf-8", "backslashreplace")}  # as write_json does
        members |= {extension: content for content, extension in stored.items()}
        self._append(key, len(forms), members)

    def _append(self, key: str, count: int, members: Mapping[str, bytes]) -> None:
        if self._tar is not None and self._tar.offset >= self.shard_size:
            self._seal()
        if self._tar is None:
            self._tar = tarfile.open(self._folder / f"shard-{len(self._shards):06d}.tar", "w")  # noqa: SIM115
        rows = []
        for extension, content in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
            rows.append((info.name, self._tar.offset - -(-info.size // BLOCK) * BLOCK, info.size))
        self._samples.append((count, rows))

    def _seal(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        tar = self._folder / f"shard-{len(self._shards):06d}.tar"
        index = ShardIndex.build(self._samples, tar.stat().st_size)
        index.save(_index_path(tar))
        counts = {"samples": len(self._samples), "documents": int(index.documents[-1])}
        self._shards.append({"name": tar.name, "bytes": index.tar_bytes, **counts})
        self._samples = []


@dataclass(init=False, eq=False)
class ShardSource:
    """The documents of a folder of shards (or of one tar), by number; pictures are read when they are opened.

    As a setting of a run it is the folder. It can be pickled and shared by threads. A tar without an index gets one,
    beside it or, in a folder that cannot be written, in memory.

    Args:
        root: a folder of tars, a folder with one such folder for each split, or one tar.
        split: the split to read, where there are several.

    Raises:
        InputError: no shards, a shard that is missing or cut, several splits and none chosen.
    """

    root: Path

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = _find(Path(root), split)
        self._tars, self._expected = _listing(self.root)
        self._kept: dict[int, ShardIndex] = {}  # those that could not be saved
        self._loaded: dict[int, ShardIndex] = {}
        counts = self._expected or [int(self._index(number).documents[-1]) for number in range(len(self._tars))]
        self._first: NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}}

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, i: int) -> Document:
        """Document i.

        Raises:
            IndexError: i is not in [0, len).
            DocumentError: the sample is no document, or names a picture that it does not have.
        """
        where, value, members, number = self._sample(i)
        if "documents" in value:
            forms = value["documents"]
            if not isinstance(forms, list) or number >= len(forms):
                raise DocumentError(f"{where}: 'documents' is no list with an item {number}; write the shard again")
            return _attach(forms[number], members, where)
        if "pieces" in value or "turns" in value:
            return _attach(value, members, where)
        return _pair(value, members, where)

    def meta(self, i: int) -> dict[str, Any]:
        """What the sample of document i says beside its documents: the source's file name, its class, its address."""
        where, value, _, _ = self._sample(i)
        return meta_of(value, where)

    @property
    def shards(self) -> list[tuple[Path, range]]:
        """Each tar, and the numbers of its documents."""
        return [
            (tar, range(int(first), int(last)))
            for tar, first, last in zip(self._tars, self._first, self._first[1:], strict=False)
        ]

    def _sample(self, i: int) -> tuple[str, dict[str, Any], dict[str, Member], int]:
        if not 0 <= i < len(self):
            raise IndexError(f"document {i} of {len(self)} in {self.root}")
        shard = int(np.searchsorted(self._first, i, side="right")) - 1
        index, tar = self._index(shard), str(self._tars[shard])
        local = int(i - self._first[shard])
        sample = int(np.searchsorted(index.documents, local, side="right")) - 1
        members: dict[str, Member] = {}
        key = ""
        for m in range(int(index.members[sample]), int(index.members[sample + 1])):
            name = index.name(m)
            match = NAME.fullmatch(name)
            assert match is not None, name
            key, extension = match.groups()
            members[extension] = Member(tar, name, int(index.offsets[m]), int(index.sizes[m]))
        where = f"{tar}: sample {key}"
        value = parse_sample(members["json"].read(), where) if "json" in members else {}
        return where, value, members, local - int(index.documents[sample])

    def _index(self, number: int) -> ShardIndex:
        index = self._kept.get(number) or self._loaded.get(number)
        if index is not None:
            return index
        tar = self._tars[number]
        path = _index_path(tar)
        if path.is_file():
            index = self._loaded[number] = ShardIndex.load(path)
            _check_size(tar, index.tar_bytes, f"its index {path.name}")
        else:
            index = ShardIndex.scan(tar)
            try:
                index.save(path)
                self._loaded[number] = index
            except OSError:  # a folder that cannot be written
                self._kept[number] = index
        if self._expected and index.documents[-1] != self._expected[number]:
            raise InputError(
                f"{tar}: {index.documents[-1]} documents but {self._expected[number]} in {MANIFEST}; fetch it again"
            )
        return index


def splits(root: str | Path) -> list[str]:
    """The names of the splits in a folder: its sub-folders with shards, in order; empty where there are none."""
    folders = sorted(Path(root).iterdir()) if Path(root).is_dir() else []
    return [f.name for f in folders if not f.name.startswith(".") and f.is_dir() and any(f.glob("*.tar"))]


def training(root: str | Path) -> ShardSource:
    """What a folder has to train on: its split "train", or all where it has no such split."""
    return ShardSource(root, "train" if "train" in splits(root) else None)


def meta_of(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the JSON of a sample says beside its documents.

    Raises:
        DocumentError: its "meta" is no object.
    """
    meta = value.get("meta", {})
    if not isinstance(meta, dict):
        raise DocumentError(f"{where}: 'meta' is an object, not {type(meta).__name__}; write the shard again")
    return {name: item for name, item in value.items() if name not in _RESERVED} | meta


def caption_of(value: Mapping[str, Any], members: Mapping[str, Member]) -> str:
    """The caption in another's sample: its `.txt`, else the "caption" of its JSON, else ""."""
    text = members["txt"].read().decode("utf-8", errors="replace").strip() if "txt" in members else ""
    said = value.get("caption")
    return text or (clean(said) if isinstance(said, str) else "")


def clean(text: str) -> str:
    """Text from JSON without blanks around it, and `?` for halves of characters, which have no UTF-8."""
    return text.encode("utf-8", errors="replace").decode("utf-8").strip()


@contextmanager
def fresh_directory(out: str | Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write into; it takes the name `out` at the end, or goes if there is an error.

    Raises:
        InputError: `out` is not empty.
    """
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: is not empty; choose another folder, or delete this one first")
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a readable JSON file; bytes of a name that are no UTF-8 stand as escapes."""
    path.write_bytes((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def _index_path(tar: Path) -> Path:
    return tar.with_name(tar.name.removesuffix(".tar") + ".idx.npz")


def _find(root: Path, split: str | None) -> Path:
    folder = root if split is None else root / split
    if folder.is_file() or any(folder.glob("*.tar")) or (folder / MANIFEST).is_file():
        return folder
    names = splits(root)
    if not names:
        raise InputError(f"{root}: holds no shards; make some with: plait data import KIND SRC --out {root}")
    if len(names) == 1 and split is None:
        return root / names[0]
    asked = "none is chosen" if split is None else f"{split!r} is none of them"
    raise InputError(f"{root}: holds {len(names)} splits ({', '.join(names)}) and {asked}; name one of them")


def _listing(root: Path) -> tuple[list[Path], list[int]]:
    """The tars of a folder and, where it has a manifest, the number of documents in each."""
    if root.is_file():
        return [root], []
    tars = sorted(path for path in root.glob("*.tar") if not path.name.startswith("."))
    path = root / MANIFEST
    if not path.is_file():
        indices = sorted(root.glob("*.idx.npz"))
        gone = [index for index in indices if index not in map(_index_path, tars)]
        if gone:
            raise InputError(
                f"{gone[0]}: its shard is missing; {len(indices)} indices but {len(tars)} shards in the folder: fetch "
                "the shard again, or delete the index too"
            )
        return tars, []
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        expected = {root / shard["name"]: (int(shard["bytes"]), int(shard["documents"])) for shard in shards}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no readable manifest ({error!r}); import the data again") from error
    wrong = sorted(set(tars) ^ set(expected))
    if wrong:
        raise InputError(
            f"{wrong[0]}: {'is missing' if wrong[0] in expected else 'is not in the manifest'}; {len(expected)} shards "
            f"in {MANIFEST} but {len(tars)} in the folder: fetch or import the data again"
        )
    for tar, (size, _) in expected.items():
        _check_size(tar, size, MANIFEST)
    return list(expected), [documents for _, documents in expected.values()]


def _check_size(tar: Path, expected: int, said_by: str) -> None:
    size = tar.stat().st_size
    if size != expected:
        fault = "is cut" if size < expected else "was changed"
        raise InputError(
            f"{tar}: {size} bytes but {expected} in {said_by}; the shard {fault}, fetch or import it again"
        )


def _content(image: Image) -> bytes:
    source = image.source
    if isinstance(source, bytes):
        return source
    if isinstance(source, Member):
        return source.read()
    if isinstance(source, str | Path):
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise ImageError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    buffer = io.BytesIO()
    image.open().save(buffer, format="PNG")
    return buffer.getvalue()


def _extension(content: bytes) -> str:
    return next((extension for magic, extension in _MAGIC.items() if content.startswith(magic)), "bin")


def _with_images(document: Document, place: Callable[[Image], Image]) -> Document:
    """The document with every picture, in videos too, put through `place`."""

    def exchange(piece: Piece) -> Piece:
        match piece:
            case Image():
                return place(piece)
            case Video(frames, times):
                return Video(tuple(place(frame) for frame in frames), times)
        return piece

    before = [_with_images(one, place) for one in document.before]
    if document.turns:
        turns = [Turn(turn.role, [exchange(piece) for piece in turn.pieces]) for turn in document.turns]
        return Document(turns, before=before)
    return Document([exchange(piece) for piece in document.pieces], before=before)


def _attach(form: Any, members: Mapping[str, Member], where: str) -> Document:
    """The document of a JSON form whose pictures are members; a shard can name no file outside itself."""

    def attach(image: Image) -> Image:
        if isinstance(image.source, bytes):
            return image
        name = str(image.source)
        if name not in members:
            raise DocumentError(
                f"names the picture {name} but has the members {sorted(members)}; write the shard again"
            )
        return Image(members[name])

    if not isinstance(form, Mapping):
        raise DocumentError(f"{where}: a document is an object, not {type(form).__name__}; write the shard again")
    try:
        kinds = {name: form[name] for name in ("pieces", "turns", "before") if name in form}
        return _with_images(Document.from_json(kinds), attach)
    except DocumentError as error:
        raise DocumentError(f"{where}: {error}") from error


def _pair(value: Mapping[str, Any], members: Mapping[str, Member], where: str) -> Document:
    """The document of another's sample: its caption, where it has one, and its picture."""
    pictures = [member for extension, member in members.items() if extension.lower() in PICTURES]
    if len(pictures) > 1:
        raise DocumentError(f"{where}: {len(pictures)} pictures for 1 caption; give it a .json with 'pieces'")
    if value and "txt" not in members and not isinstance(value.get("caption"), str):
        raise DocumentError(f"{where}: its JSON has {sorted(value)} but no 'caption', 'pieces', 'turns' or 'documents'")
    caption = caption_of(value, members)
    content: list[str | Image] = [*([caption] if caption else []), *(Image(member) for member in pictures)]
    if not content:
        raise DocumentError(f"{where}: neither text nor picture among its members {sorted(members)}")
    return Document(content)
