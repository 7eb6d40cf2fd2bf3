"""From documents to batches: one global order, cut into packs by a plan that anybody can compute again.

    sources ──mix, shuffle──▶ documents in global order ──layout, transforms──▶ sequences
        ──windows of fixed size──▶ rows of packed sequences ──▶ elements of `rows` rows ──▶ batches

A window is planned from the lengths of its laid-out sequences; no pixels are read for it. Which documents stand in
element k is therefore a function of the configuration alone: neither workers, nor ranks, nor a resume can change it.
"""

from __future__ import annotations

import bisect
import contextlib
import multiprocessing
import os
import re
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from plait.checkpoints.outside import Files
from plait.document import Document
from plait.errors import ConfigError, DocumentError, TrainingError
from plait.sequence import Collator, PackPolicy, Sequence, Transform, pack_complete, pack_isolated, pack_stream
from plait.systems.base import Format

Arrays = dict[str, NDArray[Any]]

_JOINED: dict[PackPolicy, Callable[[list[Sequence], int], list[Sequence]]] = {
    "stream": pack_stream,
    "complete": pack_complete,
}
"""Policies under which transforms work on blocks of several documents."""
SAMPLE = 64
"""Documents of each source that are laid out to know how many elements they have."""


class Source(Protocol):
    """Documents by index: any object that has these two methods and can be pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Document: ...


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a stage is trained on, and in what order and portions."""

    sources: Mapping[str, Source]
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each source; none given: in proportion to their lengths."""
    measure: Literal["documents", "elements"] = "documents"
    """What shares are of; elements as in the first documents of each source (`SAMPLE`)."""
    rows: int
    """Rows of an element: the micro-batch over all ranks."""
    length: int
    """Inputs in a row."""
    policy: PackPolicy = "isolated"
    """Isolated: documents share rows, and do not see each other; alone: each has a row; stream: joined, and cut;
    complete: joined where they fit whole, and what stands behind sees what stands before (metaseq's break modes)."""
    joined: tuple[str, ...] = ()
    """Sources whose documents are joined into blocks (`Format.blocks`), each of which is then packed as a document:
    text beside pictures, as KOSMOS-1's."""
    reads: Literal["documents", "pictures"] = "documents"
    """Pictures: each picture by itself, for what is trained on pixels."""
    transforms: tuple[Transform, ...] = ()
    window: int = 256
    """Documents that are packed together."""
    shuffle: bool = True
    seed: int = 0
    workers: int = 0
    """Processes that prepare batches; 0: a thread."""
    images: Literal["exact", "fast"] = "exact"
    """Fast: JPEG files are decoded and resized in about half the time, not to the bit (`plait.images.fast_square`)."""

    def __post_init__(self) -> None:
        if not self.sources or not all(len(source) for source in self.sources.values()):
            sizes = {name: len(source) for name, source in self.sources.items()}
            raise ConfigError(f"sources of {sizes} documents: at least one source, and one document in each, is needed")
        unknown = set(self.shares) - set(self.sources)
        if unknown or (self.shares and set(self.shares) != set(self.sources)):
            raise ConfigError(f"shares of {sorted(self.shares)} for sources {sorted(self.sources)}: give one for each")
        if self.measure == "elements" and not self.shares:
            raise ConfigError("no shares, which are to be of elements: give one for each source")
        if set(self.joined) - set(self.sources) or (self.joined and self.policy not in ("isolated", "alone")):
            raise ConfigError(
                f"joined {sorted(self.joined)} of the sources {sorted(self.sources)} under the policy {self.policy}: "
                "name sources that there are, and pack isolated or alone"
            )


@dataclass(frozen=True, kw_only=True)
class Alternating:
    """Several data sets of which each element is of one, as where a micro-batch is of one source in the paper."""

    sets: Mapping[str, Data]
    shares: Mapping[str, float] = field(default_factory=dict)
    """How often an element is of each; none given: they come in turn."""

    def __post_init__(self) -> None:
        if not self.sets or (self.shares and set(self.shares) != set(self.sets)) or min(self._all(), default=0) <= 0:
            raise ConfigError(
                f"shares {dict(self.shares)} of the data sets {sorted(self.sets)}: give one above 0 for each, or none"
            )

    def _all(self) -> list[float]:
        return [self.shares.get(name, 1.0) for name in self.sets]

    def next(self, taken: Mapping[str, int]) -> str:
        """Of which set the next element is: the one that is furthest behind its share; of several, the first.

        Args:
            taken: elements so far, of each set.
        """
        whole, count = sum(self._all()), sum(taken.values()) + 1
        behind = [share / whole * count - taken[name] for name, share in zip(self.sets, self._all(), strict=True)]
        return list(self.sets)[max(range(len(behind)), key=lambda i: round(behind[i], 9))]


@dataclass(frozen=True)
class _Window:
    rows: list[list[Sequence]]
    skipped: int
    cut: int


@dataclass(frozen=True)
class _Named:
    """A source whose elements tell its name."""

    name: str
    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[str, Document]:
        return self.name, self.source[i]


class Elements:
    """The elements of `data` for one rank, by index; thread-safe, cheap to pickle.

    Args:
        first: the element that index 0 stands for, after a resume.
        start: (window, rows before it), as carried by every element: where planning begins then.
    """

    def __init__(
        self,
        data: Data,
        format: Format,
        rank: int = 0,
        ranks: int = 1,
        *,
        first: int = 0,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        if data.rows % ranks:
            raise ConfigError(f"{data.rows} rows on {ranks} ranks: the number of rows must be a multiple of the ranks")
        self.data = data
        self.format = format
        self.rank = rank
        self.share = data.rows // ranks
        self.first = first
        self.start = start
        self._collate: Collator = format.collator(train=True, fast=data.images == "fast")
        self._reset()

    def _reset(self) -> None:
        self._documents: Any = None
        self._ends = [self.start[1]]  # rows before window start + i
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in vars(self).items() if k not in ("_documents", "_ends", "_windows", "_lock")}
        return {"files": Files(), **kept}  # first: sources and formats may be of classes from outside the package

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "files"})
        self._reset()

    def __len__(self) -> int:
        return 2**40  # documents repeat without end

    def __getitem__(self, k: int) -> Arrays:
        first = (self.first + k) * self.data.rows
        mine = range(first + self.rank * self.share, first + (self.rank + 1) * self.share)
        with self._lock:
            windows = [self._locate(row) for row in mine]
            rows = [self._window(window).rows[at] for window, at in windows]
            heads = {window for window, at in windows if at == 0}  # a window's losses are told by its first row
            lost = [self._window(window) for window in heads]
            arrays = self._collate.arrays(rows)
            window, at = self._locate(first)
            arrays["anchor"] = np.array([window, first - at])
        arrays["skipped"] = np.array(sum(window.skipped for window in lost))
        arrays["cut"] = np.array(sum(window.cut for window in lost))
        return arrays

    def _locate(self, row: int) -> tuple[int, int]:
        """The window that a row of the whole run lies in, and which of its rows it is."""
        if row < self._ends[0]:
            raise ConfigError(f"row {row} lies before row {self._ends[0]}, where this loader starts")
        while row >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self._window(self.start[0] + len(self._ends) - 1).rows))
        i = bisect.bisect_right(self._ends, row) - 1
        return self.start[0] + i, row - self._ends[i]

    def _window(self, number: int) -> _Window:
        """Lays out and packs a window; the last few are kept."""
        if number in self._windows:
            self._windows.move_to_end(number)
            return self._windows[number]
        if self._documents is None:
            self._documents = in_order(self.data, self._shares())
        sequences: list[Sequence] = []
        texts: list[Sequence] = []
        skipped = cut = 0
        for g in range(number * self.data.window, (number + 1) * self.data.window):
            try:
                source, document = self._documents[g]
                if source in self.data.joined:
                    text = self.format.layout(document)
                    list(self.format.blocks([text], self.data.length + 1))  # whether it can be one
                    texts.append(text)
                    continue
                made = self._sequences(document, g)
            except DocumentError:
                skipped += 1
                continue
            if self.data.policy != "stream":
                limit = self.data.length + 1
                cut += sum(len(sequence) > limit for sequence in made)
                made = [sequence.cut(0, limit) for sequence in made]
            sequences += made
        blocks = self.format.blocks(texts, self.data.length + 1)
        sequences += [self._transformed(block, number, i) for i, block in enumerate(blocks) if len(block) > 1]
        if joined := _JOINED.get(self.data.policy):
            blocks = joined(sequences, self.data.length)
            blocks = [self._transformed(block, number, i) for i, block in enumerate(blocks)]
            rows = [[block.cut(0, self.data.length + 1)] for block in blocks if len(block) > 1]  # one predicts nothing
        elif self.data.policy == "alone":
            rows = [[sequence] for sequence in sequences]
        else:
            packs = pack_isolated([len(sequence) for sequence in sequences], self.data.length)
            rows = [[sequences[i] for i in pack] for pack in packs]
        if not rows:
            raise DocumentError(
                f"none of the {self.data.window} documents of window {number} can be laid out: see `plait data inspect`"
            )
        self._windows[number] = _Window(rows, skipped, cut)
        if len(self._windows) > 3:
            self._windows.popitem(last=False)
        return self._windows[number]

    def _shares(self) -> Mapping[str, float]:
        """Of documents."""
        if self.data.measure == "documents":
            return self.data.shares
        return {name: share / self._mean(self.data.sources[name]) for name, share in self.data.shares.items()}

    def _mean(self, source: Source) -> float:
        """Elements of its first documents."""
        lengths = []
        for i in range(min(SAMPLE, len(source))):
            with contextlib.suppress(DocumentError):
                lengths.append(min(len(self.format.layout(source[i])), self.data.length + 1))
        return sum(lengths) / len(lengths) if lengths else 1.0

    def _sequences(self, document: Any, g: int) -> list[Sequence]:
        if not isinstance(document, Document):
            names = ", ".join(self.data.sources)
            raise ConfigError(f"document {g} of the sources {names} is a {type(document).__name__}: give Documents")
        if self.data.reads == "pictures":
            spans = self.format.picture_spans(document)
            return [self._transformed(Sequence((span,)), g, i) for i, span in enumerate(spans)]
        sequence = self.format.layout(document, generator=np.random.default_rng((self.data.seed, g)))
        return [sequence if self.data.policy in _JOINED else self._transformed(sequence, g)]

    def _transformed(self, sequence: Sequence, *number: int) -> Sequence:
        """The sequence after all transforms, which draw by its number.

        That of a document, (document, picture), or (window, block) after a cut.
        """
        random = np.random.default_rng((self.data.seed, 1, *number))
        for transform in self.data.transforms:
            sequence = transform(sequence, random)
        return sequence


def in_order(data: Data, shares: Mapping[str, float] | None = None) -> Any:
    """(source, document) in global order: each source shuffled anew in each epoch, mixed by shares, without end.

    Args:
        shares: of documents, in place of the data's own.
    """
    grain = _grain()
    shares = shares or data.shares or {name: len(source) for name, source in data.sources.items()}
    parts = []
    for i, (name, source) in enumerate(sorted(data.sources.items())):
        part = grain.MapDataset.source(_Named(name, source)).seed(data.seed + i)
        parts.append((part.shuffle() if data.shuffle else part).repeat())
    if len(parts) == 1:
        return parts[0]
    return grain.MapDataset.mix(parts, [float(shares[name]) for name in sorted(data.sources)])


def _grain() -> Any:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that JAX, which is not needed, is not there
    import grain

    return grain


class Loader:
    """Iterates over the elements of one rank, prepared ahead by a thread or by worker processes.

    `state` after an element is all that is needed to go on behind it, with any number of workers or ranks. Workers
    leave Ctrl-C to the process that they work for, and end when it is gone.

    Raises:
        ConfigError: a state of other numbers of documents, whose order would be another one.
    """

    def __init__(
        self, data: Data, format: Format, rank: int = 0, ranks: int = 1, state: Mapping[str, Any] | None = None
    ) -> None:
        grain = _grain()
        documents = {name: len(source) for name, source in data.sources.items()}
        self.state: dict[str, Any] = {"next": 0, "anchor": (0, 0), "documents": documents, **(state or {})}
        if self.state["documents"] != documents:
            raise ConfigError(
                f"sources of {documents} documents, but the run began with {self.state['documents']}: give it the data "
                "that it began with, or begin another run"
            )
        self._workers = data.workers
        window, before = self.state["anchor"]
        elements = Elements(data, format, rank, ranks, first=int(self.state["next"]), start=(int(window), int(before)))
        dataset = grain.MapDataset.source(elements).to_iter_dataset(
            grain.ReadOptions(num_threads=0 if data.workers else 1, prefetch_buffer_size=2)
        )
        if data.workers:
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=2), _end_with_parent
            )
        self._iterator = iter(dataset)
        self._started = False

    def __iter__(self) -> Iterator[Arrays]:
        return self

    def __next__(self) -> Arrays:
        """The next element.

        Raises:
            TrainingError: a worker process was ended from outside.
        """
        starts = self._workers and not self._started
        self._started = True
        try:
            with _interrupts_held() if starts else contextlib.nullcontext():
                arrays: Arrays = next(self._iterator)
        except RuntimeError as error:
            ended = re.match(r"Worker process was terminated .* exit code (-?\d+)", str(error))
            if ended is None:
                raise
            raise TrainingError(_ended(int(ended[1]), self._workers)) from error
        self.state = self.state | {"next": self.state["next"] + 1, "anchor": arrays.pop("anchor").tolist()}
        return arrays

    def close(self) -> None:
        """Ends threads and processes."""
        if close := getattr(self._iterator, "close", None):
            close()


class AlternatingLoader:
    """Iterates over the elements of several data sets, each of one; otherwise as `Loader`."""

    def __init__(
        self, data: Alternating, format: Format, rank: int = 0, ranks: int = 1, state: Mapping[str, Any] | None = None
    ) -> None:
        self._data = data
        begun = (state or {}).get("sets", {})
        if state is not None and set(begun) != set(data.sets):
            raise ConfigError(
                f"data sets {sorted(data.sets)}, but the run began with {sorted(begun)}: give it those, or begin "
                "another run"
            )
        self._loaders = {name: Loader(one, format, rank, ranks, begun.get(name)) for name, one in data.sets.items()}

    @property
    def state(self) -> dict[str, Any]:
        """That of each set."""
        return {"sets": {name: dict(loader.state) for name, loader in self._loaders.items()}}

    def __iter__(self) -> Iterator[Arrays]:
        return self

    def __next__(self) -> Arrays:
        """The next element; as `Loader.__next__`."""
        name = self._data.next({name: int(loader.state["next"]) for name, loader in self._loaders.items()})
        return next(self._loaders[name])

    def close(self) -> None:
        """Ends threads and processes."""
        for loader in self._loaders.values():
            loader.close()


def elements_of(
    data: Data | Alternating,
    format: Format,
    rank: int = 0,
    ranks: int = 1,
    state: Mapping[str, Any] | None = None,
) -> Loader | AlternatingLoader:
    """What iterates over the elements of one rank."""
    return (Loader if isinstance(data, Data) else AlternatingLoader)(data, format, rank, ranks, state)  # type: ignore[arg-type]


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends this worker process when the one that it works for does: a killed one tells its workers nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers have a parent"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back from this thread, and for good from the processes that it starts.

    A terminal sends it to all processes, but the run decides when to stop, and needs its workers until then.
    """
    resource_tracker.ensure_running()  # first: as it starts, it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ended(code: int, workers: int) -> str:
    """What is said of a worker that ended with an exit code, or by the signal of a negative one."""
    why = {-signal.SIGKILL: ", as by a machine out of memory", -signal.SIGBUS: ", as when /dev/shm is full"}
    how = f"ended by {signal.Signals(-code).name}{why.get(code, '')}" if code < 0 else f"ended with exit code {code}"
    return (
        f"1 of {workers} workers that prepare batches was {how}; the same command goes on from the last checkpoint, "
        "with fewer where memory is short: --set stages.STAGE.data.workers=0"
    )
