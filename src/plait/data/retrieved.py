"""Memories of data directories, and training on documents with what a memory holds on them in front.

    shards ──embed──▶ memory ──search, once for each document──▶ neighbours ──draw by (seed, number)──▶ documents

The neighbours of a source lie in a file beside the memory: a loader's workers search nothing, and read the documents
that are drawn alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.data.packs import Source
from plait.data.shards import ShardSource
from plait.document import Document
from plait.errors import ConfigError, DocumentError, InputError
from plait.retrieval.embed import Embedder
from plait.retrieval.memory import Memory, Style
from plait.retrieval.retriever import check_towers
from plait.retrieval.select import Selection, draw, query_dropout, select

BATCH = 256
"""Documents that are embedded together, and lost together by an interruption."""


def shard_name(source: ShardSource) -> str:
    """What the shards of a data directory are called in a memory: where they lie."""
    return str(source.root.resolve())


def open_memory(
    folder: str | Path, documents: Mapping[str, Source] | None = None, style: Style | None = None
) -> Memory:
    """A memory with its sources.

    Args:
        documents: those of its sources that are no data directories, by name, or that lie elsewhere now.

    Raises:
        InputError: no memory; a data directory that is not where it was, nor where it was from the memory.
    """
    memory = Memory(folder, documents, style)
    for source in memory.sources:
        if source["name"] not in memory.documents and "relative" in source:
            memory.documents[source["name"]] = _shards_of(memory, source)
    return memory


def _shards_of(memory: Memory, source: Mapping[str, Any]) -> ShardSource:
    """Where they were when they were added, or where that is from the memory, if both have been moved."""
    places = [Path(source["name"]), memory.folder / source["relative"]]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise InputError(
            f"{places[0]}: is gone, and {memory.folder} has {source['done']} documents of it: move it back, or give it "
            "to open_memory by that name"
        )
    shards = ShardSource(place)
    if len(shards) < source["done"]:
        raise InputError(
            f"{place}: {len(shards)} documents but {memory.folder} was made of {source['done']}: these are other shards"
        )
    return shards


def remember(
    memory: Memory,
    name: str,
    source: Source,
    embedder: Embedder,
    *,
    batch: int = BATCH,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Adds the documents of a source that a memory has not looked at yet; what it knows of the source then.

    A document that cannot be read is left out, counted and listed (`Memory.broken`). An interruption loses the batch
    under way alone.

    Args:
        name: of the source; data directories have `shard_name`.

    Raises:
        InputError: other towers than the memory's; another process appends; fewer documents than before.
        ConfigError: no document in a batch.
    """
    if batch < 1:
        raise ConfigError(f"{batch} documents in a batch: give at least 1")
    check_towers(memory, embedder)
    about: dict[str, Any] = {"documents": len(source)}
    if isinstance(source, ShardSource):
        about["relative"] = os.path.relpath(source.root.resolve(), memory.folder.resolve())
    with memory.appending():
        done = memory.source(name)["done"]
        if done > len(source):
            raise InputError(
                f"{name}: {len(source)} documents, but the memory has looked at {done}: give the same data"
            )
        for start in range(done, len(source), batch):
            numbers = range(start, min(start + batch, len(source)))
            documents, broken = _read(source, numbers)
            embedded, places, wrong = embedder.readable(list(documents.values()))
            read = list(documents)
            broken |= {read[place]: reason for place, reason in wrong.items()}
            kept = [read[place] for place in places]
            memory.append(name, kept, embedded, done=numbers.stop, broken=broken, about=about)
            tell(f"embedded {numbers.stop} of {len(source)} documents")
    memory.documents[name] = source
    return memory.source(name)


def _read(source: Source, numbers: range) -> tuple[dict[int, Document], dict[int, str]]:
    """Documents by their numbers, and why the others cannot be read."""
    documents: dict[int, Document] = {}
    broken: dict[int, str] = {}
    for number in numbers:
        try:
            documents[number] = source[number]
        except DocumentError as error:
            broken[number] = str(error)
    return documents, broken


def neighbours(
    memory: Memory,
    name: str,
    source: Source,
    embedder: Embedder,
    selection: Selection | None = None,
    *,
    seed: int = 0,
    batch: int = BATCH,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Finds what is taken for each document of a source, and keeps it beside the memory; the same call finds it there.

    Where it was interrupted it goes on. A document that cannot be read has none.

    Args:
        name: of the source; a document of the memory's source of that name is not its own neighbour.
        selection: None: two by image and two by text, of which a fifth of the words are left out (CM3Leon).
        seed: of the words that are left out.

    Raises:
        InputError: other towers than the memory's; another process appends, or finds neighbours.
    """
    check_towers(memory, embedder)
    selection = selection or Selection(dropout=0.2)
    identity = {
        "source": name,
        "documents": len(source),
        "rows": len(memory),
        "style": memory.style,
        "seed": seed,
        **asdict(selection),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = memory.folder / f"neighbours-{key}.npy"
    partial = path.with_suffix(".partial")
    width = selection.most
    if path.is_file():
        return path
    with memory.appending(), partial.open("ab") as out:
        done = out.tell() // (8 * width)
        out.truncate(done * 8 * width)  # half a row
        for start in range(done, len(source), batch):
            numbers = range(start, min(start + batch, len(source)))
            out.write(_taken(memory, name, source, embedder, selection, (seed, numbers)).astype("<i8").tobytes())
            tell(f"found the neighbours of {numbers.stop} of {len(source)} documents")
    np.save(path.with_suffix(".whole.npy"), np.fromfile(partial, "<i8").reshape(-1, width))
    path.with_suffix(".whole.npy").replace(path)
    partial.unlink()
    return path


def _taken(
    memory: Memory,
    name: str,
    source: Source,
    embedder: Embedder,
    selection: Selection,
    drawn: tuple[int, range],
) -> NDArray[np.int64]:
    """(n, 2 each) rows for some documents, each of whose queries loses words by (seed, number)."""
    seed, numbers = drawn
    documents, _ = _read(source, numbers)
    texts = [
        " ".join(query_dropout(document.text.split(), selection.dropout, np.random.default_rng((seed, number))))
        for number, document in documents.items()
    ]
    query, places, _ = embedder.readable(list(documents.values()), texts)
    kept = np.array(list(documents), np.int64)[places]
    rows = np.full((len(numbers), selection.most), -1, np.int64)
    rows[kept - numbers.start] = select(memory, query, selection, {i: (name, int(n)) for i, n in enumerate(kept)})
    return rows


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """The documents of a source, each behind some of its neighbours; a function of (seed, number) alone.

    Args:
        memory: its folder.
        neighbours: the file of this source, from `neighbours`.
        counts: how many stand in front, each number as likely: CM3Leon's (3,), RA-CM3's (0, 1, 2).
        sources: of the memory, those that are no data directories.

    Raises:
        ConfigError: no counts, or one below 0.
        InputError: neighbours of another number of documents.
    """

    source: Source
    memory: Path
    neighbours: Path
    counts: tuple[int, ...] = (3,)
    seed: int = 0
    sources: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0:
            raise ConfigError(f"counts={self.counts}: give numbers of retrieved documents, each at least 0")
        if len(self._rows) != len(self.source):
            raise InputError(
                f"{self.neighbours}: neighbours of {len(self._rows)} documents for {len(self.source)}: find them again"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_rows", "_memory")}

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        return np.load(self.neighbours, mmap_mode="r")

    @cached_property
    def _memory(self) -> Memory:
        return open_memory(self.memory, self.sources)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        """Document i.

        Raises:
            DocumentError: it cannot be read, or one of its neighbours.
        """
        rows = draw(self._rows[i], self.counts, np.random.default_rng((self.seed, i)))
        return self.source[i].behind([self._memory[row] for row in rows])
