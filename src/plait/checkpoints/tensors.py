"""Tensors in files, read and written one by one: more than a few are never held in memory.

Written: safetensors. Read: safetensors; what `torch.save` wrote, in both of its formats; and the folders in which
transformers and diffusers keep models, whole or in shards. A file is told by what it holds, not by its name. Tensors
of a pipeline of diffusers have the names of its folders before their own (`unet.conv_in.weight`).

A file of `torch.save` can name any function of any package, to be called when it is read. Nothing of that kind is ever
called here: what is neither a tensor nor a plain container becomes a placeholder that does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from plait.errors import CheckpointError, listed

Shape = tuple[int, ...]

_TYPES = {  # safetensors' name -> torch's
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DIFFUSION_WEIGHTS, PIPELINE = "diffusion_pytorch_model.safetensors", "model_index.json"
_WHOLE = (
    WEIGHTS,
    "pytorch_model.bin",
    DIFFUSION_WEIGHTS,
    "diffusion_pytorch_model.bin",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
)
_INDEXES = tuple(f"{name}.index.json" for name in _WHOLE)


class Spec(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: Shape
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Spec:
        """That of a tensor, also of one on the meta device."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def nbytes(self) -> int:
        """Room that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in order; no copy of one that is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


# ------------------------------------------------------------------------------------------------- writing


class TensorWriter:
    """Writes a safetensors file whose tensors come one by one, in any order.

    A context manager: left without an error, all of `specs` must have come.

    Args:
        path: the file, which is begun anew.
        specs: name -> shape and type of every tensor.
    """

    def __init__(self, path: Path, specs: Mapping[str, Spec]) -> None:
        self._specs = specs
        self._places: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name)):  # so that all are aligned
            spec = specs[name]
            offsets = [at, at + spec.nbytes]
            header[name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
            self._places[name], at = offsets
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._start = 8 + len(text)
        self._file: BinaryIO = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def put(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor, which must be as `specs` says and come once."""
        assert Spec.of(tensor) == self._specs[name], f"{name} is not what was announced"
        with self._named():
            self._file.seek(self._start + self._places.pop(name))
            self._file.write(raw(tensor))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """A fault of the disk names the file."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # what could not be written still cannot be
                self._file.close()
            return
        with self._named():
            self._file.close()
        assert not self._places, f"{listed(self._places)} never came"


def write_shards(
    folder: Path, specs: Mapping[str, Spec], tensors: Iterator[tuple[str, Tensor]], limit: int, whole: str = WEIGHTS
) -> None:
    """Writes tensors as transformers does: one file, or several of at most `limit` bytes with an index.

    Args:
        folder: it exists.
        specs: of all tensors; shards are filled in this order.
        tensors: in any order.
        whole: the name, where it is one file.
    """
    shards: list[dict[str, Spec]] = [{}]
    for name, spec in specs.items():
        if shards[-1] and sum(s.nbytes for s in shards[-1].values()) + spec.nbytes > limit:
            shards.append({})
        shards[-1][name] = spec
    if len(shards) == 1:
        files = [whole]
    else:
        stem = whole.removesuffix(".safetensors")
        files = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        homes = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(spec.nbytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": homes}
        (folder / f"{whole}.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    writers = [TensorWriter(folder / file, shard) for file, shard in zip(files, shards, strict=True)]
    try:
        places = {name: writer for writer, shard in zip(writers, shards, strict=True) for name in shard}
        for name, tensor in tensors:
            places[name].put(name, tensor)
    except BaseException as error:
        for writer in writers:
            writer.__exit__(type(error), error, None)
        raise
    for writer in writers:
        writer.__exit__(None, None, None)


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file or folder, which are read when they are asked for."""

    path: Path
    """What was given."""
    files: tuple[Path, ...]
    """Those that hold tensors."""
    specs: Mapping[str, Spec]
    read: Callable[[str], Tensor]
    foreign: tuple[str, ...] = ()
    """Names of what the file wanted to be made of other programs, and what became placeholders."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name -> shape."""
        return {name: spec.shape for name, spec in self.specs.items()}

    @property
    def folder(self) -> Path:
        """Where what belongs to it lies: itself, or where the file is."""
        return self.path if self.path.is_dir() else self.path.parent

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def open_tensors(path: str | Path) -> TensorFile:
    """The tensors of a file, or of a folder in transformers' or diffusers' form.

    Raises:
        CheckpointError: there is none, it is broken, or it is something else: a web page, a pointer, a folder in
            another form.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder; check the path")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path}: is empty (0 bytes): fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: is a pointer of Git LFS, not the file: run `git lfs pull` where it lies")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(f"{path}: is a web page, not weights: fetch it with a browser, behind all questions")
    if head[:4] == b"GGUF":
        raise CheckpointError(f"{path}: is quantised (GGUF): give the weights that it was made from")
    try:
        return _safetensors(path) if head[8:9] == b"{" else _torch(path, zipped=head[:4] == b"PK\x03\x04")
    except CheckpointError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({first}): it is cut or damaged; fetch it again") from error


def _safetensors(path: Path) -> TensorFile:
    checked: Any = safe_open(path, framework="np")  # it maps without asking for memory, unlike that of torch
    with checked, path.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        head = json.loads(content.read(length))
    head.pop("__metadata__", None)
    specs = {name: Spec(tuple(head[name]["shape"]), _TYPES[head[name]["dtype"]]) for name in sorted(head)}

    def read(name: str) -> Tensor:
        at, end = (8 + length + offset for offset in head[name]["data_offsets"])
        return _mapped(path, at, end - at).view(specs[name].dtype).view(specs[name].shape)

    return TensorFile(path=path, files=(path,), specs=specs, read=read)


def _torch(path: Path, zipped: bool) -> TensorFile:
    if zipped and _is_program(path):
        raise CheckpointError(
            f"{path}: is a program of TorchScript, which is not run: save the state_dict() of torch.jit.load of it, or "
            "give the weights in transformers' form"
        )
    names: list[str] = []
    with FakeTensorMode() if zipped else contextlib.nullcontext():  # of tensors all but what they hold
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            inert: Any = _inert(names)
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
    inside = [content.get(key) for key in ("model", "state_dict", "module")] if isinstance(content, Mapping) else []
    for state in (*inside, content):
        tensors = {name: value.detach() for name, value in state.items() if _plain(value)} if _is_map(state) else {}
        if tensors:
            specs = {name: Spec.of(tensor) for name, tensor in tensors.items()}
            foreign = tuple(dict.fromkeys(names))
            read = functools.partial(_stored, path, tensors) if zipped else tensors.__getitem__
            return TensorFile(path=path, files=(path,), specs=specs, read=read, foreign=foreign)
    raise CheckpointError(f"{path}: holds no tensors by name: give a file of weights")


def _stored(path: Path, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """One of the tensors as a `FakeTensorMode` has read them, which knows where their storages lie in the file."""
    like = tensors[name]
    storage = like.untyped_storage()
    at = storage._checkpoint_offset
    assert at is not None, "it was read from a file"
    content = _mapped(path, at, storage.nbytes()).view(like.dtype)
    return content.as_strided(like.shape, like.stride(), like.storage_offset())


def _mapped(path: Path, at: int, size: int) -> Tensor:
    """Bytes of a file, mapped by themselves: Linux maps no file that is larger than the memory as a whole."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(np.memmap(path, np.uint8, "c", at, (size,)))


def _is_program(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _pipeline(folder: Path) -> TensorFile:
    """All folders of a pipeline that hold weights."""
    parts = {part.name: _folder(part) for part in sorted(folder.iterdir()) if part.is_dir() and _holds_weights(part)}
    if not parts:
        raise CheckpointError(f"{folder}: has a {PIPELINE} and no folder with weights beside it; fetch all of it")
    homes = {f"{part}.{name}": (file, name) for part, file in parts.items() for name in file.specs}
    return TensorFile(
        path=folder,
        files=tuple(path for file in parts.values() for path in file.files),
        specs={key: file.specs[name] for key, (file, name) in homes.items()},
        read=lambda key: homes[key][0].read(homes[key][1]),
        foreign=tuple(dict.fromkeys(name for file in parts.values() for name in file.foreign)),
    )


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*_WHOLE, *_INDEXES))


def _folder(folder: Path) -> TensorFile:
    """What a folder holds; one of several with weights is read as a pipeline, also without its list of them."""
    several = not _holds_weights(folder) and any(_holds_weights(part) for part in folder.iterdir() if part.is_dir())
    if (folder / PIPELINE).is_file() or several:
        return _pipeline(folder)
    names = _shards(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} of {len(names)} files missing: {listed(missing)}; fetch them")
    shards = [open_tensors(folder / name) for name in names]
    homes: dict[str, TensorFile] = {}
    for shard in shards:
        for name in shard.specs:
            if name in homes:
                raise CheckpointError(f"{shard.path}: {name} stands in {homes[name].path.name} too; fetch both again")
            homes[name] = shard
    return TensorFile(
        path=folder,
        files=tuple(shard.path for shard in shards),
        specs={name: shard.specs[name] for shard in shards for name in shard.specs},
        read=lambda name: homes[name].read(name),
        foreign=tuple(dict.fromkeys(name for shard in shards for name in shard.foreign)),
    )


def _shards(folder: Path) -> list[str]:
    """The files of weights in a folder of transformers or diffusers."""
    for index, whole in zip(_INDEXES, _WHOLE, strict=True):
        if (folder / index).is_file():
            homes = read_json(folder / index).get("weight_map")
            if not isinstance(homes, dict) or not all(isinstance(name, str) for name in homes.values()):
                raise CheckpointError(f"{folder / index}: has no weight_map of names to files; fetch it again")
            return [Path(name).name for name in dict.fromkeys(homes.values())]
        if (folder / whole).is_file():
            return [whole]
    if any(folder.glob("consolidated.*.pth")):
        raise CheckpointError(
            f"{folder}: is LLaMA as Meta publishes it (consolidated.*.pth): give it in transformers' form, into which "
            "transformers' convert_llama_weights_to_hf.py brings it"
        )
    raise CheckpointError(
        f"{folder}: holds none of {', '.join((*_WHOLE[:4], *_INDEXES[:2]))}; give a folder with weights"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        CheckpointError: it cannot be read, or holds no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not an object; fetch it again")
    return value


# ------------------------------------------------------------------------------------------------ placeholders

_HARMLESS: dict[tuple[str, str], Any] = {  # what torch.save needs for tensors and containers, and nothing that acts
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _NAMES},
    **{
        ("torch._utils", name): getattr(torch._utils, name)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    },
    ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
}


class Placeholder:
    """Stands for an object of another program: takes whatever it is given, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Lists are filled by it."""

    def extend(self, values: Any) -> None:
        """Likewise."""

    def add(self, value: Any) -> None:
        """Sets are filled by it."""


def _inert(names: list[str]) -> Any:
    """What torch takes for the pickle module; `names` gets those of what became a placeholder."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = _HARMLESS.get((module, name))
            if found is None:
                names.append(f"{module}.{name}")
                found = type("Placeholder", (Placeholder,), {"__slots__": ()})
            return found

    def load(file: Any, **settings: Any) -> Any:
        return Unpickler(file, **settings).load()

    return SimpleNamespace(__name__="inert", Unpickler=Unpickler, load=load)
