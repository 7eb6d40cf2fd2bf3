"""A memory: documents and the vectors that they are found by, on disk.

A document's text and its pictures are embedded apart, each to a vector of length 1, and averaged. Kept is the average
brought to length 1, and the length that it had: "unit" compares the former, as RA-CM3 does (arXiv 2211.12561), "raw"
the average itself, as CM3Leon's wording has it (arXiv 2309.02591).

    DIR/memory.json      how many records are whole, the width, which towers embedded, which sources there are
    DIR/vectors.f32      (n, c) of length 1, or vectors.f16; mapped, not read
    DIR/records.bin      (n,) `RECORD`
    DIR/broken.jsonl     {"source", "number", "reason"} of documents that were left out
    DIR/<style>.faiss    an index, where there are more vectors than are compared one by one

Documents are not copied: a record says which one of which source it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.document import Document
from plait.errors import ConfigError, InputError, hint
from plait.retrieval.search import Index, exact
from plait.retrieval.store import Store

RECORD = np.dtype(
    [
        ("number", "<i8"),  # of the document in its source
        ("content", "<u8"),  # digest of its text and pictures
        ("pictures", "<u8"),  # digest of its pictures; 0 without any
        ("length", "<f4"),  # of the average of its parts
        ("source", "<u2"),
        ("parts", "<u2"),  # 1: text, 2: pictures, 3: both
    ]
)
TEXT, PICTURES = 1, 2
BOTH = TEXT | PICTURES
EXACT = 1_000_000
"""Vectors up to which all are compared."""
PROPOSED = 4
"""Candidates that an index proposes for each wanted; they are compared exactly."""

Style = Literal["unit", "raw"]
How = Literal["auto", "exact", "faiss"]
Type = Literal["float32", "float16"]
_FILES: Mapping[str, str] = {"float32": "vectors.f32", "float16": "vectors.f16"}
_RECORDS, _BROKEN = "records.bin", "broken.jsonl"


class Documents(Protocol):
    """Documents by number, such as a source of training data."""

    def __getitem__(self, i: int, /) -> Document: ...


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Documents as they are found: (n, c) vectors of length 1, and zeros where there is no such part."""

    text: Tensor
    pictures: Tensor
    content: NDArray[np.uint64]
    picture_content: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.text)

    @property
    def parts(self) -> NDArray[np.uint16]:
        """(n,) TEXT, PICTURES or BOTH."""
        has = [(part != 0).any(1).cpu().numpy() for part in (self.text, self.pictures)]
        return (has[0] * TEXT + has[1] * PICTURES).astype(np.uint16)

    def joined(self) -> tuple[Tensor, Tensor]:
        """The average of the parts that there are, as unit vectors (n, c) and lengths (n,)."""
        counts = (self.text != 0).any(1).float() + (self.pictures != 0).any(1).float()
        mean = (self.text.float() + self.pictures.float()) / counts.clamp(min=1)[:, None]
        lengths = mean.norm(dim=1)
        return torch.nn.functional.normalize(mean, dim=1), lengths


@dataclass(frozen=True)
class Found:
    """Scores (q, k) in falling order, and rows of the memory (q, k)."""

    scores: Tensor
    rows: Tensor


class Memory:
    """Documents that are found by their vectors.

    Args:
        folder: of a memory.
        documents: its sources by name. Needed for the documents themselves alone.
        style: in which its vectors are compared; None: what it was built for.

    Raises:
        InputError: no memory, or a damaged one.
        ConfigError: no such style.
    """

    def __init__(
        self, folder: str | Path, documents: Mapping[str, Documents] | None = None, style: Style | None = None
    ) -> None:
        self.store = Store(folder)
        self.documents = dict(documents or {})
        self.style: Style = style or self.store.facts["style"]
        if self.style not in get_args(Style):
            raise ConfigError(f"vectors are compared as unit or raw, not {self.style!r}")
        self._index: Index | None = None

    @classmethod
    def create(
        cls,
        folder: str | Path,
        width: int,
        *,
        dtype: Type = "float32",
        style: Style = "unit",
        embedder: Mapping[str, Any] | None = None,
        documents: Mapping[str, Documents] | None = None,
    ) -> Memory:
        """An empty one.

        Args:
            embedder: what made the vectors: JSON, which those that are appended must agree with.

        Raises:
            InputError: the folder is not empty.
            ConfigError: no such type or style.
        """
        if dtype not in _FILES or style not in get_args(Style):
            raise ConfigError(f"a memory of {dtype!r} compared as {style!r}: give float32 or float16, unit or raw")
        facts: dict[str, Any] = {
            "width": width,
            "dtype": dtype,
            "style": style,
            "embedder": dict(embedder or {}),
            "sources": [],
        }
        Store.create(folder, (_FILES[dtype], _RECORDS, _BROKEN), facts)
        return cls(folder, documents)

    def __len__(self) -> int:
        return self.store.sizes[_RECORDS] // RECORD.itemsize

    def __getitem__(self, row: int) -> Document:
        """The document of a row.

        Raises:
            IndexError: no such row.
            InputError: its source was not given.
            DocumentError: it cannot be read any more.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} in {self.folder}")
        record = self.records[row]
        name = self.sources[int(record["source"])]["name"]
        if name not in self.documents:
            raise InputError(
                f"{self.folder}: row {row} is of the source {name!r}, which was not given: give it by name"
            )
        return self.documents[name][int(record["number"])]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.store.folder

    @property
    def width(self) -> int:
        """Of its vectors."""
        return int(self.store.facts["width"])

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Of each its "name", how many of its documents were looked at ("done") and left out ("broken"), and more."""
        return list(self.store.facts["sources"])

    @cached_property
    def records(self) -> NDArray[Any]:
        """(n,) `RECORD`, mapped."""
        return self._mapped(_RECORDS, RECORD, (len(self),))

    @cached_property
    def vectors(self) -> NDArray[Any]:
        """(n, c) of length 1, mapped."""
        dtype = self.store.facts["dtype"]
        return self._mapped(_FILES[dtype], np.dtype(dtype), (len(self), self.width))

    def _mapped(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if not shape[0]:
            return np.zeros(shape, dtype)
        return np.memmap(self.folder / name, dtype, "c", shape=shape)  # c: torch takes no array that it may not write

    def broken(self) -> Iterator[dict[str, Any]]:
        """Documents that were left out, and why."""
        with (self.folder / _BROKEN).open("rb") as file:
            whole = file.read(self.store.sizes[_BROKEN])
        return map(json.loads, whole.splitlines())

    def rows(self) -> list[tuple[str, str]]:
        """What it is, for a table."""
        parts = np.bincount(self.records["parts"], minlength=BOTH + 1)
        embedder = self.store.facts["embedder"].get("checkpoint", "")
        told = [
            ("documents", f"{len(self):,}"),
            ("with text and pictures", f"{parts[BOTH]:,}"),
            ("with text alone", f"{parts[TEXT]:,}"),
            ("with pictures alone", f"{parts[PICTURES]:,}"),
            ("vectors", f"{self.width} wide, {self.store.facts['dtype']}, compared as {self.style}"),
            ("embedded by", str(embedder)),
        ]
        for one in self.sources:
            of = f" of {one['documents']:,}" if "documents" in one else ""
            told.append((one["name"], f"{one['done']:,}{of} looked at, {one['broken']:,} left out"))
        return told + [
            (f"left out: {one['source']} {one['number']}", one["reason"]) for one in islice(self.broken(), 3)
        ]

    def said(self, row: int) -> str:
        """Where a row's document is and what it says, in one line."""
        record = self.records[row]
        name = self.sources[int(record["source"])]["name"]
        text = shorten(self[row].text, 60, placeholder=" ...") if name in self.documents else ""
        return f"{name} {record['number']}  {text}".rstrip()

    def source(self, name: str) -> dict[str, Any]:
        """What is known of a source, as in `sources`; of a new one, that nothing was looked at."""
        return next((one for one in self.sources if one["name"] == name), {"name": name, "done": 0, "broken": 0})

    @contextmanager
    def appending(self) -> Iterator[None]:
        """While it lasts this process alone appends.

        Raises:
            InputError: another process does.
        """
        with self.store.appending():
            self._forget()
            yield

    def append(
        self,
        source: str,
        numbers: Items[int],
        embedded: Embedded,
        *,
        done: int | None = None,
        broken: Mapping[int, str] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds documents; when this returns they are on the disk, and before that none of them is there.

        Only within `appending`.

        Args:
            source: the name of the source.
            numbers: which of its documents these are.
            done: how many of its documents were looked at by now; None: up to the last of these.
            broken: number -> why a document that was looked at is left out.
            about: what else to keep on the source, in JSON.

        Raises:
            InputError: vectors of another width, or not finite.
        """
        vectors, lengths = embedded.joined()
        if vectors.shape != (len(numbers), self.width):
            raise InputError(
                f"{self.folder}: vectors of {list(vectors.shape)} for {len(numbers)} documents in a memory of width "
                f"{self.width}: embed with the towers that it was built with"
            )
        if not bool(vectors.isfinite().all()):
            raise InputError(f"{self.folder}: vectors that are not finite; the towers' weights are damaged")
        sources, broken = self.sources, broken or {}
        known = self.source(source)
        at = next((i for i, one in enumerate(sources) if one["name"] == source), len(sources))
        records = np.zeros(len(numbers), RECORD)
        for field, values in {
            "number": numbers,
            "content": embedded.content,
            "pictures": embedded.picture_content,
            "length": lengths.cpu().numpy(),
            "source": at,
            "parts": embedded.parts,
        }.items():
            records[field] = values
        looked = max(numbers, default=known["done"] - 1) + 1 if done is None else done
        said = {**known, **(about or {}), "done": looked, "broken": known["broken"] + len(broken)}
        lines = [{"source": source, "number": number, "reason": reason} for number, reason in broken.items()]
        dtype = self.store.facts["dtype"]
        self.store.append(
            {
                _FILES[dtype]: vectors.cpu().numpy().astype(dtype).tobytes(),
                _RECORDS: records.tobytes(),
                _BROKEN: "".join(json.dumps(line) + "\n" for line in lines).encode(),
            },
            {"sources": [*sources[:at], said, *sources[at + 1 :]]},
        )
        self._forget()

    def _forget(self) -> None:
        """What was mapped is as long as the memory was."""
        for name in ("records", "vectors"):
            self.__dict__.pop(name, None)

    def weights(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """What products with unit vectors are multiplied by: 1, or the lengths of the averages."""
        if self.style == "raw":
            return np.ascontiguousarray(self.records["length"][rows])
        return np.ones(len(self.records[rows]), np.float32)

    def compared(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, c) vectors as they are compared, in fp32."""
        return torch.from_numpy(self.vectors[rows].astype(np.float32) * self.weights(rows)[:, None])

    def search(self, queries: Tensor, count: int, index: How = "auto", cells: int = 32) -> Found:
        """The documents of the largest inner products.

        Args:
            queries: (q, c), as they are: of length 1, if scores are to be cosines.
            count: for each query; fewer where the memory holds fewer.
            index: exact compares all, on the device of the queries; faiss those that an index proposes, which is
                made, and saved beside the memory, where it is missing; auto is exact up to `EXACT` vectors.
            cells: of the index, that are looked at for each query.

        Raises:
            InputError: queries of another width.
            ConfigError: faiss is asked for and not installed; no such way.
        """
        if index not in get_args(How):
            raise ConfigError(f"index={index!r}: {hint(index, get_args(How))}")
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise InputError(f"queries of {list(queries.shape)} in a memory of width {self.width}: use its own towers")
        if index == "exact" or (index == "auto" and len(self) <= EXACT) or not len(self):
            return Found(*exact(self.vectors, self.weights(), queries, count))
        return self._by_index(queries, count, cells)

    def _by_index(self, queries: Tensor, count: int, cells: int) -> Found:
        """Candidates of the index and all that came after it was made, compared exactly."""
        built = self.index()
        proposed = torch.from_numpy(built.candidates(queries, PROPOSED * count, cells))
        near = [_again(self, query, rows[rows >= 0], count) for query, rows in zip(queries, proposed, strict=True)]
        late = len(built)
        scores, rows = (torch.stack(part) for part in zip(*near, strict=True))
        if late < len(self):
            more, at = exact(self.vectors[late:], self.weights(slice(late, None)), queries, count)
            scores, rows = torch.cat((scores, more.cpu()), 1), torch.cat((rows, at.cpu() + late), 1)
        best, order = scores.sort(dim=1, descending=True, stable=True)
        return Found(best[:, :count], rows.gather(1, order)[:, :count])

    def index(self) -> Index:
        """The index, read from its file, or made where it is missing or knows less than half.

        Raises:
            ConfigError: faiss is not installed.
        """
        path = self.folder / f"{self.style}.faiss"
        if self._index is None and path.is_file():
            self._index = Index.load(path)
        if self._index is None or not len(self) // 2 <= len(self._index) <= len(self):
            self._index = Index.build(self.vectors, self.weights())
            self._index.save(path)
        return self._index


def _again(memory: Memory, query: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best `count` of some rows by exact scores; -inf and row 0 where there are fewer."""
    scores = memory.compared(rows.numpy()) @ query.float().cpu()
    best, order = scores.topk(min(count, len(scores)))
    missing = count - len(best)
    pad = torch.nn.functional.pad
    return pad(best, (0, missing), value=-torch.inf), pad(rows[order], (0, missing))
