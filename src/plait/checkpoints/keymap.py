"""Tables that tell the names of published tensors from Plait's, read in both directions.

A table is a dictionary: a name of ours to the published one, or to several whose rows ours holds one below the other
(or that it holds along an axis of its own: `Stacked`), or to one in another form (`Turned`).
Names are templates, so that one line serves all layers. With the names and shapes that a model has, a table knows every
key that a file must hold; with a model's tensors, it writes the file again.

    KeyMap({"patch.{w}": "patch_embed.proj.{w}",
            "blocks.{i}.attention.qkv.bias": ("blocks.{i}.attn.q_bias", ZEROS, "blocks.{i}.attn.v_bias")},
           ignored={"head.{w}": "classifies, which no tower is asked to"})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from plait.checkpoints.tensors import Shape
from plait.errors import CheckpointError, listed

ZEROS = None
"""Rows that no published tensor holds: as many as each of the others has. Zeros on import, left out on export; only for
rows without effect, such as the bias of keys, which shifts all scores of a query alike."""


@dataclass(frozen=True)
class Stacked:
    """Published tensors that are the elements of ours along a first axis of its own."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Turned:
    """A published tensor in another form than ours: transposed, its rows in another order, with other axes."""

    key: str
    ours: Callable[[Tensor], Tensor]
    """Makes ours of it."""
    theirs: Callable[[Tensor], Tensor]
    """The other way round, also on the meta device."""


def reordered(key: str, *order: int) -> Turned:
    """A published tensor whose rows are as many parts as there are numbers: ours begins with part `order[0]`."""
    back = [order.index(i) for i in range(len(order))]
    return Turned(key, lambda tensor: _parts_in(tensor, order), lambda tensor: _parts_in(tensor, back))


def _parts_in(tensor: Tensor, order: Items[int]) -> Tensor:
    parts = tensor.chunk(len(order))
    return torch.cat([parts[i] for i in order])


Source = str | tuple[str | None, ...] | Stacked | Turned

_PLACES = {"i": r"\d+", "j": r"\d+", "w": "weight|bias", "rest": ".+"}  # what stands for what in a template


@dataclass(frozen=True, kw_only=True)
class Report:
    """How the keys of a file and a model fit. All names but those in the values of `mapped` are published ones."""

    mapped: dict[str, str] = field(default_factory=dict)
    """To the name of ours that takes it, whole or as some of its rows."""
    ignored: dict[str, str] = field(default_factory=dict)
    """To the reason."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """To its shape in the file and the shape that the model needs. These keys are mapped, too."""


@dataclass(frozen=True)
class _Place:
    """Where a published tensor goes: it is part `index` of a tensor of ours."""

    ours: str
    source: tuple[str | None, ...]
    """All parts of ours."""
    index: int
    shape: Shape
    """That it must have."""
    stacked: bool
    turn: Callable[[Tensor], Tensor] | None = None


class KeyMap:
    """A two-way table of names.

    In templates `{i}` and `{j}` stand for a number and `{w}` for weight or bias; in `ignored` `{rest}` for anything.

    Args:
        table: ours to published. Of several lines that fit a name of ours, the first counts.
        ignored: published keys that a model does not take, each with the reason. What a model takes is not ignored.
        tied: a published key to the one that it repeats. It may be absent; where present, it must be equal.
    """

    def __init__(
        self,
        table: Mapping[str, Source],
        ignored: Mapping[str, str] | None = None,
        tied: Mapping[str, str] | None = None,
    ) -> None:
        self._table = dict(table)
        self._ignored = dict(ignored or {})
        self._tied = dict(tied or {})
        self._rules = [(_pattern(ours), source) for ours, source in self._table.items()]
        self._reasons = [(_pattern(key), reason) for key, reason in self._ignored.items()]

    def under(self, published: str = "", ours: str = "") -> KeyMap:
        """The same table with a prefix to all published names, and one to all of ours."""
        return KeyMap(
            {ours + name: _mapped(source, lambda key: published + key) for name, source in self._table.items()},
            {published + key: reason for key, reason in self._ignored.items()},
            {published + key: published + original for key, original in self._tied.items()},
        )

    def __or__(self, other: KeyMap) -> KeyMap:
        """Both tables, this one first. What stands in both counts as here."""
        return KeyMap(
            {**self._table, **other._table, **self._table},
            {**self._ignored, **other._ignored, **self._ignored},
            {**self._tied, **other._tied, **self._tied},
        )

    def published(self, name: str) -> tuple[str | None, ...] | None:
        """The published keys whose rows a tensor of ours holds, with ZEROS between them; None: not in the table."""
        source = self._source(name)
        return None if source is None else _several(source)

    def _source(self, name: str) -> Source | None:
        """The line of the table that fits a name of ours, filled in."""
        for pattern, source in self._rules:
            if match := pattern.fullmatch(name):
                return _mapped(source, lambda key: key.format(**match.groupdict()))  # it is called here
        return None

    def report(self, found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> Report:
        """How a file's keys and shapes fit a model's. Tensors of the model that the table does not name do not count.

        Args:
            found: published names and shapes.
            wanted: our names and shapes.
        """
        places = self._places(wanted)
        known = {key: reason for key in found if key not in places and (reason := self._reason(key)) is not None}
        mapped = {key: places[key] for key in found if key in places}
        return Report(
            mapped={key: place.ours for key, place in mapped.items()},
            ignored=known,
            missing=[key for key in places if key not in found],
            unexpected=[key for key in found if key not in places and key not in known],
            misshapen={
                key: (tuple(found[key]), place.shape)
                for key, place in mapped.items()
                if tuple(found[key]) != place.shape
            },
        )

    def read(self, tensors: Iterable[tuple[str, Tensor]], wanted: Mapping[str, Shape]) -> Iterator[tuple[str, Tensor]]:
        """Published tensors one by one -> ours, each as soon as its parts have come. Parts and tied ones are kept.

        Args:
            tensors: published names and tensors, in any order.
            wanted: our names and shapes; those that the table does not name do not count.

        Raises:
            CheckpointError: a key comes twice, has another shape, is missing or not expected, or differs from the one
                that it should repeat.
        """
        places = self._places(wanted)
        waiting: dict[str, dict[int, Tensor]] = {}
        twins = _Twins(self._tied)
        found: dict[str, Shape] = {}
        for key, tensor in tensors:
            if key in found:
                raise CheckpointError(f"{key} comes twice; give each file once")
            found[key] = tuple(tensor.shape)
            twins.take(key, tensor)
            if key not in places:
                continue
            place = places[key]
            _check_shape(key, found[key], place.shape)
            parts = waiting.setdefault(place.ours, {})
            parts[place.index] = tensor
            if len(parts) == len(place.source) - place.source.count(ZEROS):
                yield place.ours, _joined(waiting.pop(place.ours), place)
        report = self.report(found, wanted)
        if report.missing or report.unexpected:
            raise CheckpointError(
                f"{len(report.missing)} tensors missing{listed(report.missing, ': ')}, {len(report.unexpected)} not "
                f"expected{listed(report.unexpected, ': ')}; the file is of another model or another size"
            )

    def write(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Our tensors one by one -> published ones, with those that repeat them. What was split or repeated is a copy.

        Raises:
            CheckpointError: a tensor that the table does not name.
        """
        copies: dict[str, list[str]] = {}
        for copy, original in self._tied.items():
            copies.setdefault(original, []).append(copy)
        for name, tensor in tensors:
            source = self._source(name)
            if source is None:
                raise CheckpointError(f"{name} has no published name: leave it out")
            keys = _several(source)
            if isinstance(source, Stacked):
                parts = [part.clone() for part in tensor.unbind()]
            elif isinstance(source, Turned):
                parts = [source.theirs(tensor).contiguous()]
            else:
                parts = [tensor] if len(keys) == 1 else [part.clone() for part in tensor.chunk(len(keys))]
            for key, part in zip(keys, parts, strict=True):
                if key is not None:
                    yield key, part
                    yield from ((copy, part.clone()) for copy in copies.get(key, ()))

    def _places(self, wanted: Mapping[str, Shape]) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for name, shape in wanted.items():
            source = self._source(name)
            if source is None:
                continue
            keys, stacked = _several(source), isinstance(source, Stacked)
            turn = source.ours if isinstance(source, Turned) else None
            if stacked:
                part = tuple(shape[1:])
            elif isinstance(source, Turned):
                part = tuple(source.theirs(torch.empty(shape, device="meta")).shape)
            else:
                part = tuple(shape) if len(keys) == 1 else (shape[0] // len(keys), *shape[1:])
            for i, key in enumerate(keys):
                assert key not in places, f"{name} and {places[key].ours} both take {key}"
                if key is not None:
                    places[key] = _Place(name, keys, i, part, stacked, turn)
        return places

    def _reason(self, key: str) -> str | None:
        if key in self._tied:
            return f"repeats {self._tied[key]}"
        return next((reason for pattern, reason in self._reasons if pattern.fullmatch(key)), None)


class _Twins:
    """Checks that what is published twice is the same."""

    def __init__(self, tied: Mapping[str, str]) -> None:
        self._pairs = tied
        self._seen: dict[str, Tensor] = {}

    def take(self, key: str, tensor: Tensor) -> None:
        """Keeps one of a pair until the other comes."""
        for copy, original in self._pairs.items():
            if key not in (copy, original):
                continue
            self._seen[key] = tensor
            if (
                copy in self._seen
                and original in self._seen
                and not torch.equal(self._seen[copy], self._seen[original])
            ):
                raise CheckpointError(f"{copy} should repeat {original} and differs from it; the file is damaged")


def _joined(parts: Mapping[int, Tensor], place: _Place) -> Tensor:
    """Parts one below the other, zeros where none is."""
    first, count = next(iter(parts.values())), len(place.source)
    if place.stacked:
        return torch.stack([parts[i] for i in range(count)])
    if place.turn is not None:
        return place.turn(first).contiguous()
    return first if count == 1 else torch.cat([parts.get(i, torch.zeros_like(first)) for i in range(count)])


def _check_shape(key: str, found: Shape, needed: Shape) -> None:
    if found != needed:
        raise CheckpointError(
            f"{key} has the shape {list(found)} but the configuration gives {list(needed)}: give that of the file"
        )


def _pattern(template: str) -> re.Pattern[str]:
    """A template as an expression with a group for each place."""
    texts = re.split(r"\{(\w+)\}", template)  # text, name, text, name, ..., text
    return re.compile(
        "".join(f"(?P<{text}>{_PLACES[text]})" if i % 2 else re.escape(text) for i, text in enumerate(texts))
    )


def _several(source: Source) -> tuple[str | None, ...]:
    if isinstance(source, Stacked):
        return source.keys
    if isinstance(source, Turned):
        return (source.key,)
    return (source,) if isinstance(source, str) else source


def _mapped(source: Source, change: Callable[[str], str]) -> Source:
    if isinstance(source, str):
        return change(source)
    if isinstance(source, Stacked):
        return Stacked(tuple(map(change, source.keys)))
    if isinstance(source, Turned):
        return replace(source, key=change(source.key))
    return tuple(key and change(key) for key in source)
