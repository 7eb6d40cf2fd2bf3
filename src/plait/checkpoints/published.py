"""Published checkpoints in and out, for every system: files are recognised by their keys, and weights are streamed.

    files ──recognised──▶ kinds ──Plan──▶ sizes, tables ──▶ a hollow system ──reported──▶ tensors, one by one ──▶ DIR

A system joins by a module `plait.checkpoints.<system>` with a function `published() -> Published`, or from outside by
`file.py:function`: kinds of files with their tables, how sizes are read from them, licences, and what users get wrong.
Nothing here asks which system it has.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pkgutil
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import plait.systems
from plait.checkpoints import directory
from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.outside import from_file, is_outside
from plait.checkpoints.tensors import WEIGHTS, Shape, Spec, TensorFile, open_tensors, read_json, write_shards
from plait.config import read_yaml, to_plain
from plait.errors import CheckpointError, ConfigError, InputError, hint, listed
from plait.nn.lora import merged_state, taken_away
from plait.systems.base import System

SHARD = 5_000_000_000
"""Bytes of a shard of a language model at most, as transformers has it."""
FORMATS = ("published", "hf")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of published file, or of folder in transformers' form."""

    name: str
    sign: str
    """A key that no kind behind it has: files are recognised by it."""
    what: str
    """For messages: what it holds."""
    where: str
    """For messages: what users have to give or fetch."""
    hollow: Callable[[Mapping[str, Shape]], tuple[Mapping[str, Tensor], KeyMap]]
    """The tensors that a file of such names and shapes fills, on the meta device, and the table that fills them.

    Raises CheckpointError where sizes cannot be told.
    """


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the given files become."""

    system: type[System]
    config: Any
    tables: Mapping[str, KeyMap]
    """Of each kind that was given."""
    files: Path
    """A folder with the files of the format, as `System.from_files` wants them."""
    licences: Mapping[str, str]
    """Of parts."""
    filled: Mapping[str, float] = field(default_factory=dict)
    """Those of `Published.constants` that no file of these holds."""
    turned: Mapping[str, tuple[Shape, Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    """Tensors that are published in another shape: that one, and what makes ours of them."""
    notes: tuple[str, ...] = ()
    """What the user should know: what could not be told from the files."""
    also: tuple[Path, ...] = ()
    """Further files that went into it."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """A published file, or a folder in transformers' form."""

    name: str
    table: KeyMap
    inside: str | None = None
    """The key under which a file of `torch.save` holds the weights; None: it holds nothing else."""
    unused: Mapping[str, Tensor] = field(default_factory=dict)
    """What the published program wants to find in a file, though it says nothing."""
    settings: Mapping[str, Any] | None = None
    """The config.json of a folder; None: it is one file."""
    weights: str = WEIGHTS
    """The name of the weights in a folder."""
    merged: bool = False
    """Adapters are added to the weights."""

    @property
    def speaks(self) -> bool:
        """Whether it is a folder that the files of the format belong to."""
        return self.settings is not None and self.weights == WEIGHTS


class Published(ABC):
    """What a system contributes."""

    kinds: Items[Kind]
    """In the order in which they are recognised."""

    @abstractmethod
    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """What files become.

        Args:
            given: by kind.
            changes: a plain configuration, of any part of it; it wins over what the files say.

        Raises:
            CheckpointError, ConfigError: files that are missing, do not go together, or whose sizes cannot be told.
        """

    @abstractmethod
    def exports(self, config: Any, format: str) -> Items[Export]:
        """The files of a format.

        Raises:
            ConfigError: the system has no such format.
        """

    def papers(self, config: Any, format: str) -> Mapping[str, Any]:
        """Further JSON files of a format: path -> content. None, unless the system says some."""
        return {}

    def constants(self, config: Any) -> Mapping[str, float]:
        """Tensors that no published file holds, by design, and what they are full of: none."""
        return {}

    def fresh(
        self, part: str, given: Mapping[str, TensorFile], changes: Mapping[str, Any]
    ) -> tuple[str, dict[str, Tensor]]:
        """A part that is to be trained, as it begins: the kind of file that would hold it, and published tensors.

        Args:
            changes: as of `plan`.

        Raises:
            ConfigError: there is no such part, or it is given.
        """
        raise ConfigError(f"no part {part!r} can be made anew: give the file that holds it")

    def recognise(self, keys: Collection[str], name: str = "the file") -> Kind:
        """The kind of a file.

        Raises:
            CheckpointError: none.
        """
        for kind in self.kinds:
            if kind.sign in keys:
                return kind
        signs = ", ".join(f"{kind.sign} ({kind.what})" for kind in self.kinds)
        raise CheckpointError(f"{name}: its keys ({listed(sorted(keys))}) are of no file that is known: {signs}")


def find(system: str) -> Published:
    """What a system of Plait's, or of a file from outside, contributes.

    Raises:
        ConfigError: no such system, or one of which no published files are known.
    """
    if is_outside(system):
        return from_file(system)()
    names = [found.name for found in pkgutil.iter_modules(plait.systems.__path__) if found.name != "base"]
    known = [name for name in names if importlib.util.find_spec(f"plait.checkpoints.{name}")]
    if system not in known:
        raise ConfigError(f"no published files are known of {system!r}; {hint(system, known)}, or a file.py:function")
    found: Published = importlib.import_module(f"plait.checkpoints.{system}").published()
    return found


def over(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration with changes of any part of it."""
    changed = dict(plain)
    for key, value in changes.items():
        old = plain.get(key)
        changed[key] = over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return changed


# ------------------------------------------------------------------------------------------------- in


def import_files(
    published: Published,
    paths: Items[str | Path],
    out: str | Path,
    config: str | Path | None = None,
    dtype: torch.dtype | None = None,
    fresh: Items[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Path, list[str]]:
    """Makes a Plait directory of published files; the directory, and notes.

    Every file is checked against the whole system before the first byte is written. Then tensors are read, turned and
    written one by one; the SHA-256 of the files are computed beside it.

    Args:
        paths: files, and folders in transformers' form.
        config: a YAML or JSON file with any part of the system's configuration, which wins over what the files say.
        dtype: of all weights in floating point; None leaves each as published.
        fresh: parts that no file is given of: they begin as their training did.
        say: is told of each file when its turn comes.

    Raises:
        CheckpointError, ConfigError: what was given cannot be used.
        InputError: `out` is not empty.
        OSError: it cannot be written.
    """
    out = Path(out).absolute()
    _check_empty(out)
    changes = _changes(config)
    given = _recognised(published, paths)
    for part in fresh:
        kind, made = published.fresh(part, given, changes)
        specs = {key: Spec.of(tensor) for key, tensor in made.items()}
        given[kind] = TensorFile(path=Path(f"new {part}"), files=(), specs=specs, read=made.__getitem__)
    try:
        plan = published.plan(given, changes)
    except ConfigError as error:
        raise ConfigError(f"{error}; --config FILE says what the files do not tell") from error
    except CheckpointError:
        raise
    except (ValueError, IndexError) as error:  # a key that is known, with another number of axes
        raise CheckpointError(f"the files hold tensors of another form ({error}); fetch the right ones") from error
    system = directory.hollow(plan.system, to_plain(plan.config), plan.files)
    system.licences = {part: licence for part, licence in plan.licences.items() if part not in fresh}
    wanted = {name: Spec.of(tensor) for name, tensor in system.state_dict().items()}
    shapes = {name: spec.shape for name, spec in wanted.items()} | {n: shape for n, (shape, _) in plan.turned.items()}
    owned = _owned(plan, given, shapes)
    specs = _specs(plan, given, owned, wanted, dtype)
    _check_room(out, specs)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, value in plan.filled.items():
            yield name, torch.full(specs[name].shape, value, dtype=specs[name].dtype)
        for kind, file in given.items():
            own = {name: shapes[name] for name in owned[kind]}
            say(f"{file.path}: {kind}, {sum(spec.nbytes for spec in file.specs.values()) / 1e9:.2f} GB")
            for name, tensor in plan.tables[kind].read(file.items(), own):
                turned = plan.turned[name][1](tensor) if name in plan.turned else tensor
                yield name, turned.to(specs[name].dtype)

    notes = [*plan.notes, *_foreign(given), *(f"{part} is new: it has learned nothing yet" for part in fresh)]
    with ThreadPoolExecutor(1) as beside:  # hashing lets go of the interpreter, and finds the pages in memory
        files = [(kind, file) for kind, source in given.items() for file in source.files]
        files += [("text", file) for file in plan.also]
        sources = [(kind, file, beside.submit(_sha256, file)) for kind, file in files]

        def facts() -> dict[str, Any]:
            return {"sources": [_source(*source) for source in sources], "notes": notes}

        try:
            written = directory.write(system, out, specs, tensors(), facts=facts)
        except BaseException:
            beside.shutdown(wait=False, cancel_futures=True)
            raise
    return written, notes


def _changes(config: str | Path | None) -> Mapping[str, Any]:
    changes = {} if config is None else read_yaml(config)
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{config}: holds no keys with values; give a part of the configuration of an import")
    inner = changes.get("config")  # a config.json of Plait's
    return inner if isinstance(inner, Mapping) and "plait" in changes else changes


def _recognised(published: Published, paths: Items[str | Path]) -> dict[str, TensorFile]:
    """Kind -> the file, in the order in which they were given."""
    given: dict[str, TensorFile] = {}
    for path in paths:
        file = open_tensors(path)
        kind = published.recognise(file.specs, str(path))
        if kind.name in given:
            raise CheckpointError(f"{path}: is {kind.what}, as {given[kind.name].path} is already; give one of the two")
        given[kind.name] = file
    return given


def _owned(plan: Plan, given: Mapping[str, TensorFile], shapes: Mapping[str, Shape]) -> dict[str, list[str]]:
    """Kind -> the tensors of ours that its file holds: each is in one, and every key is of use or ignored."""
    owners = {
        name: [kind for kind in given if plan.tables[kind].published(name)] + ["filled"] * (name in plan.filled)
        for name in shapes
    }
    for name, kinds in owners.items():
        if len(kinds) > 1:
            files = " and ".join(str(given[kind].path) for kind in kinds if kind in given)
            raise CheckpointError(f"{name} stands in {files}; leave one of them out")
    nowhere = [name for name, kinds in owners.items() if not kinds]
    if nowhere:
        raise CheckpointError(f"{len(nowhere)} tensors are in none of the files: {listed(nowhere)}; give more files")
    owned = {kind: [name for name, kinds in owners.items() if kinds == [kind]] for kind in given}
    for kind, file in given.items():
        report = plan.tables[kind].report(file.shapes, {name: shapes[name] for name in owned[kind]})
        if report.missing or report.unexpected:
            raise CheckpointError(
                f"{file.path}: {len(report.missing)} tensors missing{listed(report.missing, ': ')}, "
                f"{len(report.unexpected)} not expected{listed(report.unexpected, ': ')}; "
                "it is cut, or of another model: fetch the right one"
            )
        for key, (found, needed) in report.misshapen.items():
            raise CheckpointError(
                f"{file.path}: {key} has the shape {list(found)}, but {list(needed)} is needed: the files are of "
                "different sizes, or the configuration is another one"
            )
    return owned


def _specs(
    plan: Plan,
    given: Mapping[str, TensorFile],
    owned: Mapping[str, list[str]],
    wanted: Mapping[str, Spec],
    dtype: torch.dtype | None,
) -> dict[str, Spec]:
    """What is written: our shapes, in the types of the files unless another is asked for."""
    specs = {}
    for kind, names in owned.items():
        for name in names:
            keys = [key for key in plan.tables[kind].published(name) or () if key is not None]
            found = given[kind].specs[keys[0]].dtype
            for key in keys[1:]:
                found = torch.promote_types(found, given[kind].specs[key].dtype)
            specs[name] = Spec(wanted[name].shape, found)
    specs |= {name: wanted[name] for name in plan.filled}
    return {
        name: Spec(spec.shape, dtype) if dtype is not None and spec.dtype.is_floating_point else spec
        for name, spec in specs.items()
    }


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not empty; choose another folder")


def _check_room(out: Path, specs: Mapping[str, Spec]) -> None:
    needed = sum(spec.nbytes for spec in specs.values())
    place = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CheckpointError(f"{out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free: make room")


def _foreign(given: Mapping[str, TensorFile]) -> list[str]:
    return [
        f"{file.path.name} holds objects of other programs, which were left out: {listed(file.foreign)}"
        for file in given.values()
        if file.foreign
    ]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _source(kind: str, path: Path, digest: Future[str]) -> dict[str, Any]:
    return {"file": path.name, "kind": kind, "bytes": path.stat().st_size, "sha256": digest.result()}


# ------------------------------------------------------------------------------------------------- a dry run


def check_manifest(published: Published, path: str | Path) -> list[dict[str, Any]]:
    """What an import at full size would do with each of the files whose keys and shapes are listed; no weights exist.

    Each file must fill what is built from its shapes, each tensor once, and its keys come back on export.

    Returns:
        {"file", "mapped", "ignored", "missing", "unexpected"} of each: two counts and two lists of keys.

    Raises:
        CheckpointError: no such list, a file of no kind, or one that does not fit in another way.
    """
    files = read_json(Path(path)).get("files")
    if not isinstance(files, list) or not all(isinstance(file, dict) and file.get("keys") for file in files):
        raise CheckpointError(f"{path}: lists no files with their keys; give a published.json")
    return [_dry_run(published, file) for file in files]


def _dry_run(published: Published, file: Mapping[str, Any]) -> dict[str, Any]:
    name = str(file.get("file") or file.get("variant"))
    found = {key: tuple(shape) for key, (shape, *_) in file["keys"].items()}
    beside = dict.fromkeys([*file.get("optional", ()), *file.get("unused", ())], ())
    tensors, table = published.recognise(found, name).hollow(found)
    report = table.report(beside | found, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    unnamed = [key for key in tensors if key not in set(report.mapped.values()) and table.published(key) is None]
    if unnamed or report.misshapen:
        raise CheckpointError(
            f"{name}: {len(unnamed)} tensors without a published name{listed(unnamed, ': ')}, {len(report.misshapen)} "
            f"of another shape{listed(report.misshapen, ': ')}; correct the table"
        )
    back = {key: tuple(tensor.shape) for key, tensor in table.write(tensors.items())}
    lost = [key for key in report.mapped if back.get(key) != found[key]]
    more = sorted(back.keys() - found.keys() - set(report.missing))
    if lost or more:
        raise CheckpointError(
            f"{name}: on export {len(lost)} keys do not come back{listed(lost, ': ')}, {len(more)} are new"
            f"{listed(more, ': ')}; correct the table"
        )
    return {
        "file": name,
        "mapped": len(report.mapped),
        "ignored": len(report.ignored),
        "missing": report.missing,
        "unexpected": report.unexpected,
    }


# ------------------------------------------------------------------------------------------------- out


def export(
    source: str | Path, format: str, out: str | Path, published: Published | None = None, shard: int = SHARD
) -> list[Path]:
    """Writes published files of a Plait directory; their paths. Fingerprints are checked on the way.

    Args:
        source: a directory, or a run, whose last checkpoint is taken.
        format: "published", the names and files that the system was published in, or "hf", its language model as
            transformers reads it, adapters merged.
        out: a folder, new or empty; it appears whole or not at all.
        published: what the system contributes; None: that of Plait's own.
        shard: bytes of a shard of a language model at most.

    Raises:
        CheckpointError, ConfigError: the directory cannot be read, or has no such format.
        InputError: `out` is not empty.
    """
    if format not in FORMATS:
        raise ConfigError(f"no format {format!r}; {hint(format, FORMATS)}")
    out = Path(out)
    _check_empty(out)
    folder = directory.find(source)
    system, description = directory.open_hollow(folder)
    if published is None:
        published = find(type(system).__module__.rpartition(".")[2])
    exports = published.exports(system.config, format)
    weights = open_tensors(folder / WEIGHTS)
    constants = published.constants(system.config)
    gone = taken_away(system) if any(one.merged for one in exports) else set()
    for name, tensor in directory.read(system, folder, description):  # before anything is written
        if format == "published" and name not in gone and not any(one.table.published(name) for one in exports):
            _check_constant(name, tensor, constants)
    partial = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for one in exports:
            _write_export(one, system, weights, partial / one.name, shard)
        for name, content in published.papers(system.config, format).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if not any(one.speaks for one in exports):  # else a folder has them
            system.format.write_files(partial)
        if out.exists():
            out.rmdir()
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return [out / one.name for one in exports]


def _check_constant(name: str, tensor: Tensor, constants: Mapping[str, float]) -> None:
    """Whether a tensor that has no place in published files is what an import makes of it."""
    if name not in constants:
        raise CheckpointError(f"{name} has no place in the published files: export the language model (hf) instead")
    if not bool((tensor == constants[name]).all()):
        raise CheckpointError(
            f"{name} was trained, and the published files have no place for it: an import takes it to be "
            f"{constants[name]:g} everywhere; export the language model (hf) instead"
        )


def _write_export(one: Export, system: System, weights: TensorFile, path: Path, shard: int) -> None:
    pairs = merged_state(system, weights) if one.merged else iter(weights.items())
    tensors = one.table.write((name, tensor) for name, tensor in pairs if one.table.published(name))
    if one.settings is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**dict(tensors), **one.unused}  # views of the file
        torch.save({one.inside: content} if one.inside else content, path)
        return
    path.mkdir(parents=True, exist_ok=True)
    hollow = {name: torch.empty(spec.shape, dtype=spec.dtype, device="meta") for name, spec in weights.specs.items()}
    merged = merged_state(system, hollow) if one.merged else iter(hollow.items())
    specs = {
        key: Spec.of(tensor)
        for key, tensor in one.table.write((name, tensor) for name, tensor in merged if one.table.published(name))
    }
    dtypes = {spec.dtype for spec in specs.values()}
    dtype = str(dtypes.pop()).removeprefix("torch.") if len(dtypes) == 1 else "float32"
    settings = {**one.settings, "torch_dtype": dtype} if one.weights == WEIGHTS else one.settings
    (path / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    if one.speaks:
        system.format.write_files(path)
    write_shards(path, specs, tensors, shard, one.weights)
