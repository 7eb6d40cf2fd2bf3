"""Sequences: what a system makes of a document, and everything that is derived from it.

A `Sequence` is a list of typed spans. A span knows its length, what fills it on the input side (token ids, or what a
reader makes of a picture), what each of its elements must be predicted as, and whether its elements see each other
whole. Ids, positions, visibility, targets, weights and packs are derived here and stored nowhere else.

A target belongs to the element that is predicted. The shift by one is made once, in `collate`: element j of a
sequence is predicted at element j - 1, its last element is never an input, its first never a prediction.

Axis legend of the whole project: b batch, t sequence, n visual tokens, c width, h heads, d head width, v vocabulary,
k codebook; here also m pictures and e elements of one kind in a batch.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.document import Image
from plait.errors import DocumentError, ImageError, TrainingError

Ids = NDArray[np.int64]
Weights = NDArray[np.float32]
PackPolicy = Literal["isolated", "alone", "stream", "complete"]
Transform = Callable[["Sequence", np.random.Generator], "Sequence"]

OWN_INPUT = None  # a target's value: what the model itself puts at that element, gradient stopped


@dataclass(frozen=True)
class Target:
    """What the elements of a span must be predicted as: by which head, which value, with which weight."""

    kind: str  # a key of the system's heads
    value: Ids | None  # (n,), or OWN_INPUT
    weight: Weights  # (n,)

    def cut(self, start: int, stop: int) -> Target:
        """The target of elements [start, stop)."""
        value = None if self.value is None else self.value[start:stop]
        return Target(self.kind, value, self.weight[start:stop])


@dataclass(frozen=True)
class Slot:
    """The part of what `reader` makes of `image` that fills a span, from element `start` on."""

    reader: str
    image: Image
    start: int = 0


@dataclass(frozen=True)
class Span:
    """A run of elements that are filled, predicted and seen in one way.

    `fill` is the token ids (n,), or the slot of a picture. `whole`: the elements see each other, not only those before.
    """

    fill: Ids | Slot
    length: int
    targets: tuple[Target, ...] = ()
    whole: bool = False

    def cut(self, start: int, stop: int) -> Span:
        """Elements [start, stop) with their targets."""
        fill = (
            replace(self.fill, start=self.fill.start + start) if isinstance(self.fill, Slot) else self.fill[start:stop]
        )
        return replace(self, fill=fill, length=stop - start, targets=tuple(t.cut(start, stop) for t in self.targets))


def tokens(ids: Iterable[int], kind: str = "token", weight: float = 1.0) -> Span:
    """A causal span of tokens that predicts itself with one weight; weight 0 leaves the target out."""
    array = np.asarray(list(ids), dtype=np.int64)
    targets = (Target(kind, array, np.full(len(array), weight, np.float32)),) if weight else ()
    return Span(array, len(array), targets)


def picture(reader: str, image: Image, length: int, kind: str = "code", weight: float = 1.0) -> Span:
    """A causal span of what a reader makes of a picture, which predicts itself; weight 0 leaves the target out."""
    targets = (Target(kind, OWN_INPUT, np.full(length, weight, np.float32)),) if weight else ()
    return Span(Slot(reader, image), length, targets)


def compact(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same elements in fewer spans: neighbours filled with causal tokens of one kind become one."""
    runs: list[list[Span]] = []
    for span in spans:
        if runs and _joinable(runs[-1][0]) and _joinable(span) and len(_kinds([*runs[-1], span])) < 2:
            runs[-1].append(span)
        else:
            runs.append([span])
    return tuple(run[0] if len(run) == 1 else _joined(run) for run in runs)


def _kinds(spans: list[Span]) -> set[str]:
    return {target.kind for span in spans for target in span.targets}


def _joinable(span: Span) -> bool:
    predicted = all(target.value is not None for target in span.targets)
    return not isinstance(span.fill, Slot) and not span.whole and len(span.targets) < 2 and predicted


def _joined(run: list[Span]) -> Span:
    fill = np.concatenate([span.fill for span in run if not isinstance(span.fill, Slot)])
    values = [span.targets[0].value if span.targets else span.fill for span in run]
    weights = [span.targets[0].weight if span.targets else np.zeros(span.length, np.float32) for span in run]
    value = np.concatenate([value for value in values if isinstance(value, np.ndarray)])
    targets = tuple(Target(kind, value, np.concatenate(weights)) for kind in _kinds(run))
    return Span(fill, len(fill), targets)


@dataclass(frozen=True)
class Sequence:
    """Spans in order, and where they came from (for messages)."""

    spans: tuple[Span, ...]
    origin: str = "document"

    def __len__(self) -> int:
        return sum(span.length for span in self.spans)

    def cut(self, start: int, stop: int) -> Sequence:
        """Elements [start, stop); spans across the borders are cut."""
        kept, at = [], 0
        for span in self.spans:
            first, last = max(start - at, 0), min(stop - at, span.length)
            if first < last:
                kept.append(span if last - first == span.length else span.cut(first, last))
            at += span.length
        return Sequence(tuple(kept), self.origin)

    def ids(self, missing: int = -1) -> Ids:
        """(t,) token ids, `missing` where a picture fills the element."""
        parts = [np.full(s.length, missing, np.int64) if isinstance(s.fill, Slot) else s.fill for s in self.spans]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @functools.cached_property
    def pictures(self) -> list[tuple[str, Image]]:
        """The (reader, picture) pairs in order, each once."""
        seen = {(s.fill.reader, id(s.fill.image)): s.fill.image for s in self.spans if isinstance(s.fill, Slot)}
        return [(reader, image) for (reader, _), image in seen.items()]

    def without_targets(self) -> Sequence:
        """The same elements with weight 0: how a broken element keeps its place."""
        return Sequence(tuple(replace(span, targets=()) for span in self.spans), self.origin)


def join(sequences: Iterable[Sequence]) -> Sequence:
    """One sequence after the other."""
    parts = list(sequences)
    return Sequence(compact(span for part in parts for span in part.spans), parts[0].origin if parts else "nothing")


# --------------------------------------------------------------------------------------------------- packs


def pack_isolated(lengths: list[int], size: int) -> list[list[int]]:
    """First fit, longest first: which sequences share a row of at most `size` inputs.

    A sequence of n elements takes n - 1 inputs. Rows come in the order of their first sequence, sequences in their own.

    Raises:
        DocumentError: a sequence is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[i] - 1
        if need > size:
            raise DocumentError(
                f"a sequence of {lengths[i]} elements in rows of {size}: raise the pack's length or cut it"
            )
        at = next((r for r, left in enumerate(room) if left >= need), None)
        if at is None:
            rows.append([i])
            room.append(size - need)
        else:
            rows[at].append(i)
            room[at] -= need
    return sorted(sorted(row) for row in rows)


def pack_stream(sequences: Iterable[Sequence], size: int) -> list[Sequence]:
    """All sequences joined and cut into blocks of `size` + 1 elements; the last may be shorter."""
    joined = join(sequences)
    return [joined.cut(at, at + size + 1) for at in range(0, len(joined), size + 1)]


def pack_complete(sequences: Iterable[Sequence], size: int) -> list[Sequence]:
    """Neighbours joined as long as they make at most `size` + 1 elements; a longer one has a block of its own."""
    blocks: list[list[Sequence]] = []
    room = 0
    for sequence in sequences:
        if not blocks or len(sequence) > room:
            blocks.append([])
            room = size + 1
        blocks[-1].append(sequence)
        room -= len(sequence)
    return [join(block) for block in blocks]


# ------------------------------------------------------------------------------------------------ batches


@dataclass(frozen=True)
class Slots:
    """Where the pictures of one reader go: element `offset[i]` of picture `image[i]` fills input `at[i]`."""

    pictures: Tensor  # (m, 3, height, width)
    at: Tensor  # (e,) index into the b * t inputs
    image: Tensor  # (e,)
    offset: Tensor  # (e,)


@dataclass(frozen=True)
class Targets:
    """The targets of one kind: the hidden state at input `at[i]` predicts `value[i]` with `weight[i]`.

    Where `value` is -1 the target is OWN_INPUT: element `offset` of picture `image` of reader `reader` (by number). Of
    a kind whose targets are vectors, any other value is an id, and stands for its embedding.
    """

    at: Tensor  # (e,)
    value: Tensor  # (e,)
    weight: Tensor  # (e,)
    reader: Tensor  # (e,)
    image: Tensor  # (e,)
    offset: Tensor  # (e,)


@dataclass(frozen=True)
class Given:
    """Inputs that come as vectors, such as those that a model has just written: `values[i]` is input `at[i]`."""

    at: Tensor  # (e,) index into the b * t inputs
    values: Tensor  # (e, c)


@dataclass(frozen=True)
class Batch:
    """Rows of packed sequences, as tensors. Pads have document -1."""

    ids: Tensor  # (b, t) token ids; 0 where a picture fills the input and at pads
    document: Tensor  # (b, t) number of the sequence within its row
    position: Tensor  # (b, t) restarts with every sequence
    block: Tensor  # (b, t) number of the whole span, -1 where causal
    place: Tensor  # (b, t) place of the element within its picture, -1 outside pictures
    slots: Mapping[str, Slots]
    targets: Mapping[str, Targets]
    readers: tuple[str, ...]  # by number
    sequences: int
    broken: int = 0
    given: Given | None = None

    @property
    def images(self) -> Tensor:
        """(m, 3, height, width): the pictures of the only reader.

        Raises:
            TrainingError: there are no pictures, or several readers.
        """
        if len(self.slots) != 1:
            raise TrainingError(f"a batch with {len(self.slots)} kinds of pictures, 1 needed: name the reader")
        return next(iter(self.slots.values())).pictures

    def filled(self, codes: Mapping[str, Tensor]) -> Tensor:
        """(b, t) ids, with the codes (m, n) of each reader's pictures where these stand."""
        ids = self.ids.flatten()
        for reader, slots in self.slots.items():
            ids = ids.index_put((slots.at,), codes[reader][slots.image, slots.offset])
        return ids.view_as(self.ids)

    def embedded(self, table: Callable[[Tensor], Tensor], vectors: Mapping[str, Tensor]) -> Tensor:
        """(b, t, c): ids by a table, the vectors (m, n, c) of each reader's pictures where these stand, those given."""
        x = table(self.ids)
        flat = x.flatten(0, 1)  # (b * t, c)
        for reader, slots in self.slots.items():
            if len(slots.at):  # pictures that are predicted, and never fed, fill nothing
                flat = flat.index_put((slots.at,), vectors[reader][slots.image, slots.offset].to(x.dtype))
        if self.given is not None:
            flat = flat.index_put((self.given.at,), self.given.values.to(x.dtype))
        return flat.view_as(x)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, Slots | Targets | Given):
                return replace(value, **{name: move(item) for name, item in vars(value).items()})
            if isinstance(value, Mapping):
                return {name: move(item) for name, item in value.items()}
            return value

        return replace(self, **{name: move(item) for name, item in vars(self).items()})


@dataclass
class _Columns:
    """Growing columns of the arrays of `Slots` or `Targets`."""

    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, count: int, **values: Any) -> None:
        for name, value in values.items():
            column = value if isinstance(value, np.ndarray) else np.full(count, value)
            self.columns.setdefault(name, []).append(column)

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        return {f"{prefix}/{name}": np.concatenate(parts) for name, parts in self.columns.items()}


@dataclass(frozen=True)
class Prepare:
    """What makes a reader's pixels of a picture.

    Args:
        shape: (3, height, width).
        write: writes the pixels of a picture into an array of that shape, fp32.
    """

    shape: tuple[int, int, int]
    write: Callable[[Image, NDArray[np.float32]], None]

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """The pixels alone, (3, height, width).

        Raises:
            ImageError: the picture cannot be read.
        """
        pixels = np.empty(self.shape, np.float32)
        self.write(image, pixels)
        return pixels


class _Pictures:
    """The pictures of a batch for one reader, written where they stand: (m, 3, height, width)."""

    def __init__(self, prepare: Prepare, most: int) -> None:
        self.prepare = prepare
        self.count = 0
        self._array = np.empty((most, *prepare.shape), np.float32)

    def add(self, image: Image, strict: bool) -> bool:
        """Whether it could be read; a blank stands for it if not, or, where all must be, it is an error."""
        self.count += 1
        try:
            self.prepare.write(image, self._array[self.count - 1])
        except ImageError:
            if strict:
                raise
            self._array[self.count - 1] = 0
            return False
        return True

    @property
    def array(self) -> NDArray[np.float32]:
        """Those that count."""
        return self._array[: self.count]


class Collator:
    """Rows of sequences -> flat dictionary of arrays (what crosses from a loader's worker) -> `Batch`.

    Args:
        prepare: reader -> what makes pixels of a picture.
    """

    def __init__(self, prepare: Mapping[str, Prepare]) -> None:
        self.prepare = prepare
        self.readers = tuple(prepare)

    def arrays(
        self, rows: list[list[Sequence]], *, shift: bool = True, strict: bool = False
    ) -> dict[str, NDArray[Any]]:
        """The arrays of a batch.

        Pictures that cannot be read become blanks, and their sequences lose their targets; those that never had one,
        and stand for their pictures alone, are left out. Both are counted as broken.

        Args:
            rows: the sequences of each row.
            shift: leave out the last element of each sequence as input (training); False for prompts.
            strict: every picture must be readable.

        Raises:
            ImageError: a picture cannot be read, and all must be.
        """
        wanted = Counter(reader for row in rows for sequence in row for reader, _ in sequence.pictures)
        pixels = {reader: _Pictures(self.prepare[reader], count) for reader, count in wanted.items()}
        read = [[self._read(sequence, pixels, strict) for sequence in row] for row in rows]
        places = [[(sequence, where) for sequence, where, _ in row if len(sequence)] for row in read]
        width = max(sum(len(sequence) - shift for sequence, _ in row) for row in places)
        shape = (len(rows), width)
        out: dict[str, NDArray[Any]] = {
            "ids": np.zeros(shape, np.int64),
            "document": np.full(shape, -1, np.int64),
            "position": np.zeros(shape, np.int64),
            "block": np.full(shape, -1, np.int64),
            "place": np.full(shape, -1, np.int64),
            "sequences": np.array(sum(len(row) for row in rows)),
            "broken": np.array(sum(broken for row in read for *_, broken in row)),
        }
        slots = {reader: _Columns() for reader in self.readers}
        targets: dict[str, _Columns] = {}
        for r, row in enumerate(places):
            column = blocks = 0
            for d, (sequence, where) in enumerate(row):
                inputs = len(sequence) - shift
                here = slice(column, column + inputs)
                out["document"][r, here] = d
                out["position"][r, here] = np.arange(inputs)
                at = 0
                for span in sequence.spans:
                    self._place(span, where, r * width + column, at, inputs, (out, slots, targets))
                    if span.whole:
                        out["block"][r, column + at : column + min(at + span.length, inputs)] = blocks
                        blocks += 1
                    at += span.length
                column += inputs
        for reader, columns in slots.items():
            if reader in wanted:
                out[f"slots/{reader}/pictures"] = pixels[reader].array
                columns.add(0, at=0, image=0, offset=0)  # all may have been broken
                out |= columns.arrays(f"slots/{reader}")
        for kind, columns in targets.items():
            out |= columns.arrays(f"targets/{kind}")
        return out

    def batch(self, arrays: Mapping[str, NDArray[Any]]) -> Batch:
        """The batch of `arrays`, without a copy."""
        grouped: dict[str, dict[str, dict[str, Tensor]]] = {"slots": {}, "targets": {}}
        for name, value in arrays.items():
            if "/" in name:
                group, key, part = name.split("/")
                grouped[group].setdefault(key, {})[part] = torch.from_numpy(np.ascontiguousarray(value))
        plain: dict[str, Any] = {
            name: torch.from_numpy(arrays[name]) for name in ("ids", "document", "position", "block", "place")
        }
        return Batch(
            **plain,
            slots={reader: Slots(**parts) for reader, parts in grouped["slots"].items()},
            targets={kind: Targets(**parts) for kind, parts in grouped["targets"].items()},
            readers=self.readers,
            sequences=int(arrays["sequences"]),
            broken=int(arrays["broken"]),
        )

    def __call__(self, rows: list[list[Sequence]], *, shift: bool = True, strict: bool = False) -> Batch:
        """`arrays` and `batch` in one."""
        return self.batch(self.arrays(rows, shift=shift, strict=strict))

    def _read(
        self, sequence: Sequence, pixels: dict[str, _Pictures], strict: bool
    ) -> tuple[Sequence, dict[tuple[str, int], int], int]:
        """Reads the pictures of a sequence into `pixels`.

        Returns the sequence as it is placed, the numbers of its pictures, and whether one was broken.
        """
        where: dict[tuple[str, int], int] = {}
        broken = 0
        for reader, image in sequence.pictures:
            where[reader, id(image)] = pixels[reader].count
            broken |= not pixels[reader].add(image, strict)
        if broken and not any(span.targets for span in sequence.spans):
            for reader, _ in where:
                pixels[reader].count -= 1
            return Sequence(()), {}, broken
        return (sequence.without_targets() if broken else sequence), where, broken

    def _place(
        self,
        span: Span,
        where: Mapping[tuple[str, int], int],
        base: int,
        at: int,
        inputs: int,
        into: tuple[dict[str, NDArray[Any]], dict[str, _Columns], dict[str, _Columns]],
    ) -> None:
        """Writes a span that begins at element `at` of a sequence whose inputs begin at flat index `base`."""
        out, slots, targets = into
        fed = min(span.length, inputs - at)  # the last element of a shifted sequence is no input
        reader = picture = 0
        start = 0
        if isinstance(span.fill, Slot):
            name, start = span.fill.reader, span.fill.start
            reader, picture = self.readers.index(name), where[name, id(span.fill.image)]
            begin = base + at
            offsets = np.arange(start, start + fed)
            slots[name].add(fed, at=np.arange(begin, begin + fed), image=picture, offset=offsets)
            out["place"].reshape(-1)[begin : begin + fed] = offsets
        else:
            out["ids"].reshape(-1)[base + at : base + at + fed] = span.fill[:fed]
        first = 1 if at == 0 else 0  # nothing stands before the first element to predict it
        for target in span.targets:
            keep = first + np.flatnonzero(target.weight[first:])
            if len(keep):
                targets.setdefault(target.kind, _Columns()).add(
                    len(keep),
                    at=base + at - 1 + keep,
                    value=-1 if target.value is None else target.value[keep],
                    weight=target.weight[keep],
                    reader=reader,
                    image=picture,
                    offset=start + keep if isinstance(span.fill, Slot) else 0,
                )
