"""Plait's own directories: a system with its weights, exactly.

    config.json          {"plait": version, "system": "module:Class", "config": the plain configuration,
                          "parts": {name: {"parameters", "fingerprint", "licence"}},
                          "sources": [{"file", "kind", "bytes", "sha256"}], of an import, with its "notes",
                          "english": {"nats", "chance"}, where a language model was asked (`plait info --verify`),
                          "code": {"file", "fingerprint"}, of a system from outside the package}
    model.safetensors    every tensor of the system's state, under its own name
    tokenizer.json, ...  what the system's format writes

A fingerprint is the SHA-256 over names, types, shapes and bytes of a part's tensors; it is checked at every load.
A run keeps such directories as `checkpoints/step-00000123/`, each with a `state.pt` beside the model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plait.checkpoints.outside import code_of, fingerprint, from_file
from plait.checkpoints.tensors import WEIGHTS, Spec, TensorWriter, open_tensors, raw
from plait.config import from_plain, to_plain
from plait.errors import CheckpointError, ConfigError, hint, listed
from plait.systems.base import System

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step-(\d+)")

Loaded = TypeVar("Loaded", bound=System)


def save(
    system: System,
    directory: str | Path,
    beside: Callable[[Path], None] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes a system into a directory, which appears whole or not at all; one of Plait's that is there is replaced.

    Args:
        beside: writes further files into the folder that it is given, before that takes its name.
        state: the whole tensors of a system that is sharded; none: the system's own.

    Raises:
        CheckpointError: the directory holds something else, or a tensor belongs to no part.
        OSError: it cannot be written, as on a full disk; what was there stays.
    """
    tensors = state or system.state_dict()
    specs = {name: Spec.of(tensor) for name, tensor in tensors.items()}
    return write(system, directory, specs, tensors.items(), beside)


def write(
    system: System,
    directory: str | Path,
    specs: Mapping[str, Spec],
    tensors: Iterable[tuple[str, Tensor]],
    beside: Callable[[Path], None] | None = None,
    facts: Callable[[], Mapping[str, Any]] = dict,
) -> Path:
    """Writes a system whose tensors come one by one, and are not held; otherwise as `save`.

    Args:
        system: its weights are not looked at: it can be a hollow one.
        specs: of all tensors.
        tensors: in any order.
        facts: what `config.json` says besides; it is asked when the weights are written.
    """
    out = Path(directory).absolute()
    _check_free(out)
    owned = _owned(system, specs)
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted save left
    folder.mkdir(parents=True)
    try:
        digests: dict[str, str] = {}
        with TensorWriter(folder / WEIGHTS, specs) as writer:
            for name, tensor in tensors:
                digests[name] = _digest(name, tensor)
                writer.put(name, tensor)
        description = {
            "plait": importlib.metadata.version("plait"),
            "system": f"{_class_of(system).__module__}:{_class_of(system).__qualname__}",
            "config": to_plain(system.config),
            "parts": _describe(system, owned, digests),
            **facts(),
        }
        if code := code_of(_class_of(system)):
            description["code"] = code.to_json()
        (folder / CONFIG).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        system.format.write_files(folder)
        if beside is not None:
            beside(folder)
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # the name must not outlive a power cut without the content
        _take_name(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out


def load(
    directory: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    system: str | None = None,
) -> System:
    """The system in a Plait directory, or in the last checkpoint of a run.

    Memory is taken for the weights once, as they are read; what no file holds is computed as in any other build.

    Args:
        dtype: what weights in floating point are turned into; None leaves them as they are.
        system: `file.py:Class`, for a system from outside the package. The directory alone can name Plait's own
            systems, and those whose file this process has run already: to load a class is to run its code.

    Warns:
        UserWarning: the file of a system from outside has changed since the directory was saved.

    Raises:
        CheckpointError: no checkpoint; files that are missing or broken; tensors that are missing, not expected, or of
            another shape; a part whose fingerprint is another one.
        ConfigError: a configuration that does not fit the class.
    """
    folder = find(directory)
    built, description = open_hollow(folder, system)
    wanted: dict[str, Tensor] = {}
    for name, tensor in read(built, folder, description):
        turned = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        wanted[name] = tensor.to(torch.device(device), turned, copy=True)
    built.load_state_dict(wanted, assign=True)
    del wanted
    left = [name for name, tensor in (*built.named_parameters(), *built.named_buffers()) if tensor.is_meta]
    if left:
        raise CheckpointError(
            f"{type(built).__name__}: {listed(left)} is in no file and was not computed: "
            "register it as persistent, or compute it without torch.empty"
        )
    return built.to(device).eval()


def load_as(directory: str | Path, kind: type[Loaded]) -> Loaded:
    """The system in a Plait directory, which must be of a class, in fp32: what stages begin with.

    Raises:
        CheckpointError: it holds another system; or as `load`.
        ConfigError: as `load`.
    """
    system = load(directory, dtype=torch.float32)
    if not isinstance(system, kind):
        name = kind.__name__.lower()
        raise CheckpointError(f"{directory} holds {system.name}: give a directory of `plait import {name}`, or a run")
    return system


def open_hollow(folder: Path, system: str | None = None) -> tuple[System, dict[str, Any]]:
    """The system in a Plait directory without memory for its weights, and what `config.json` says.

    Raises:
        CheckpointError, ConfigError: as `load`.
    """
    description = read_description(folder)
    built = hollow(_system_class(description, system, folder), description["config"], folder)
    built.licences = {name: part["licence"] for name, part in description["parts"].items() if "licence" in part}
    return built, description


def hollow(cls: type[System], config: Mapping[str, Any], folder: Path) -> System:
    """A system of a plain configuration without memory for its weights; what is computed is computed."""
    with _Hollow():
        return cls.from_files(config, folder)


def _check_free(out: Path) -> None:
    """Whether a directory can be written there.

    Raises:
        CheckpointError: something else is there.
    """
    if out.exists() and not _replaceable(out) and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out}: is no Plait directory and not empty; choose another one")


def _replaceable(folder: Path) -> bool:
    """Whether it is a Plait directory, sound or not; a model of transformers has files of the same names."""
    if not is_checkpoint(folder):
        return False
    try:
        return "plait" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError:
        return True


def find(directory: str | Path) -> Path:
    """The directory itself if it is a Plait directory; of a run, its checkpoint of the highest step.

    Raises:
        CheckpointError: neither.
    """
    folder = Path(directory)
    if is_checkpoint(folder):
        return folder
    steps = {int(match[1]): path for path in folder.glob(f"{CHECKPOINTS}/*") if (match := _STEP.fullmatch(path.name))}
    whole = {step: path for step, path in steps.items() if is_checkpoint(path)}
    if whole:
        return whole[max(whole)]
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such directory; give that of a run or a checkpoint")
    raise CheckpointError(
        f"{folder}: holds no {CONFIG} with {WEIGHTS}, and {len(steps)} checkpoints of which none is complete; "
        "give the directory of a run or a checkpoint"
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a configuration and weights."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """What `config.json` says.

    Raises:
        CheckpointError: it cannot be read, or lacks one of "plait", "system", "config", "parts".
    """
    path = folder / CONFIG
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable JSON ({error}); save the checkpoint again") from error
    kinds = {"plait": str, "system": str, "config": dict, "parts": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(value, dict) or not isinstance(value.get(key), kind)]
    if not wrong and "code" in value:
        code = value["code"] if isinstance(value["code"], dict) else {}
        wrong = [f"code.{key}" for key in ("file", "fingerprint") if not isinstance(code.get(key), str)]
    if wrong:
        raise CheckpointError(f"{path}: lacks {', '.join(wrong)}; give a directory that Plait saved")
    return dict(value)


def note(folder: Path, key: str, value: Any) -> None:
    """Writes a fact into `config.json`, which is never half written."""
    path = folder / CONFIG
    partial = path.with_suffix(".partial")
    described = {**read_description(folder), key: value}
    partial.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


class _Hollow(TorchFunctionMode):
    """Builds modules without memory for their weights.

    `torch.empty`, of which torch's modules make their parameters, gives tensors on the meta device. What is computed,
    such as a table of sines in a buffer that no file holds, is computed; a build on `torch.device("meta")` loses it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        meta = {"device": torch.device("meta")} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **meta})


def code_state(description: Mapping[str, Any]) -> str | None:
    """Where the code of a system from outside came from, and what became of the file; of Plait's own systems, None."""
    code = description.get("code")
    if code is None:
        return None
    now = fingerprint(Path(code["file"]))
    state = "not there" if now is None else "unchanged" if now == code["fingerprint"] else "changed since"
    return f"{code['file']} ({state})"


def take(system: System, directory: str | Path, parts: Mapping[str, str]) -> None:
    """Fills parts of a system with those of another that was saved, in the types that they have here.

    Args:
        directory: a Plait directory, or a run, of one of Plait's systems.
        parts: the name of a part of `system` -> that of the part to take.

    Raises:
        CheckpointError: as `load`; no such part, or tensors that do not fit.
    """
    other = load(directory)
    for mine, theirs in parts.items():
        for name, where, among in ((mine, "the system", system.parts), (theirs, str(directory), other.parts)):
            if name not in among:
                raise CheckpointError(f"{where} has no part {name!r}; {hint(name, among)}")
        module, state = system.parts[mine].module, other.parts[theirs].module.state_dict()
        wanted, given = ({name: tuple(t.shape) for name, t in of.items()} for of in (module.state_dict(), state))
        _compare(wanted, given, Path(directory) / theirs)
        module.load_state_dict(state)
        system.licences = {**system.licences, mine: other.parts[theirs].licence}


def _class_of(system: System) -> type[System]:
    """The class as it is written: a sharded system is of one that torch made on top of it."""
    made = [cls for cls in type(system).__mro__ if any(base.__name__ == "FSDPModule" for base in cls.__mro__)]
    return cast("type[System]", next(cls for cls in type(system).__mro__ if cls not in made))


def _system_class(description: Mapping[str, Any], given: str | None, folder: Path) -> type[System]:
    named = description["system"]
    if given is not None:
        cls = from_file(given)
    else:
        try:
            cls = from_plain(cast("Any", type[System]), named)  # imports nothing but Plait's own modules
        except ConfigError as error:
            raise CheckpointError(_not_ours(description, folder)) from error
    if not (isinstance(cls, type) and issubclass(cls, System)):
        raise CheckpointError(f"{given or named} is no System; give the class of one")
    saved, used = description.get("code"), code_of(cls)
    if saved and used and saved["fingerprint"] != used.fingerprint:
        message = f"{used.path} is not as it was when {folder} was saved; the system may behave otherwise"
        warnings.warn(message, stacklevel=3)
    return cls


def _not_ours(description: Mapping[str, Any], folder: Path) -> str:
    name = description["system"].rpartition(":")[2]
    before = f"{folder}: its system {description['system']!r} is not one of Plait's"
    state = code_state(description)
    if state is None:
        return f"{before}; give its file as file.py:{name}"
    file = Path(description["code"]["file"])
    found = file if file.is_file() else Path("PATH") / file.name
    return f"{before} but was in {state}; code is run only if you name it: give --system {found}:{name}"


def read(system: System, folder: Path, description: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a Plait directory one by one, as views of the file: the pages are the kernel's to drop.

    Args:
        system: what they are the weights of; a hollow one will do.

    Raises:
        CheckpointError: the file cannot be read or does not fit; at the end, a part whose fingerprint is another one.
    """
    path, parts = folder / WEIGHTS, description["parts"]
    expected = {name: tuple(tensor.shape) for name, tensor in system.state_dict().items()}
    digests: dict[str, str] = {}
    try:
        file = open_tensors(path)
        _compare(expected, file.shapes, path)
        for name in expected:
            tensor = file[name]
            digests[name] = _digest(name, tensor)
            yield name, tensor
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); fetch or save the checkpoint again") from error
    for name, fact in _describe(system, _owned(system, digests), digests).items():
        stored = parts[name].get("fingerprint") if isinstance(parts.get(name), Mapping) else None
        if stored != fact["fingerprint"]:
            raise CheckpointError(
                f"{folder}: the fingerprint of part {name!r} is {fact['fingerprint'][:12]}, but {CONFIG} says "
                f"{str(stored)[:12]}: the weights were changed; fetch or save the checkpoint again"
            )


def _compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: {len(missing)} tensors missing{listed(missing, ': ')}, {len(unexpected)} not expected"
            f"{listed(unexpected, ': ')}; the weights are of another configuration or version"
        )
    for name, shape in expected.items():
        if shape != found[name]:
            raise CheckpointError(
                f"{path}: {name} has the shape {list(found[name])} but the configuration gives {list(shape)}: "
                "use the configuration that it was saved with"
            )


def _owned(system: System, names: Collection[str]) -> dict[str, list[str]]:
    """Part -> its tensors, in order."""
    prefixes = {id(module): f"{name}." if name else "" for name, module in system.named_modules()}
    owned = {
        name: sorted(key for key in names if key.startswith(_prefix(prefixes, part.module, name)))
        for name, part in system.parts.items()
    }
    rest = sorted(set(names).difference(*owned.values()))
    if rest:
        raise CheckpointError(f"{len(rest)} tensors of no part: {listed(rest)}; put them into a part's module")
    return owned


def _describe(system: System, owned: Mapping[str, list[str]], digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Parameters, fingerprint and licence of each part, given a digest for each tensor of the system."""
    described: dict[str, dict[str, Any]] = {}
    for name, part in system.parts.items():
        fingerprint = hashlib.sha256("\n".join(digests[key] for key in owned[name]).encode()).hexdigest()
        described[name] = {"parameters": part.parameters, "fingerprint": fingerprint, "licence": part.licence}
    return described


def _prefix(prefixes: Mapping[int, str], module: nn.Module, name: str) -> str:
    if id(module) not in prefixes:
        raise CheckpointError(f"the part {name!r} is no module of the system; register it")
    return prefixes[id(module)]


def _digest(name: str, tensor: Tensor) -> str:
    """One line for a tensor: name, type, shape and the SHA-256 of its bytes."""
    return f"{name} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(raw(tensor)).hexdigest()}"


def _take_name(folder: Path, out: Path) -> None:
    """Moves a finished folder to its name; what was there before goes only then."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    folder.replace(out)
    shutil.rmtree(old, ignore_errors=True)
