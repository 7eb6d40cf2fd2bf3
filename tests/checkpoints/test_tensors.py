"""Files of tensors: what is written comes back, what is foreign does nothing, what is broken is named."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import skip_data

from plait.checkpoints.tensors import Spec, TensorWriter, open_tensors, read_json, write_shards
from plait.errors import CheckpointError

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([0.5, 2.0]).half(),
    "brain": torch.tensor([[1.5]]).bfloat16(),
    "count": torch.tensor(7),
    "flag": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 4),
}
SPECS = {name: Spec.of(tensor) for name, tensor in TENSORS.items()}


class Hostile:
    """Pickled, it asks for a command to be run when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Settings(dict[str, Any]):
    """A class of another program: a dictionary with attributes."""

    def __init__(self) -> None:
        super().__init__(rate=0.1)
        self.owner = [Hostile]


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in wanted.items()
    )


def test_written_in_any_order_it_is_safetensors(tmp_path: Path) -> None:
    with TensorWriter(tmp_path / "t", SPECS) as writer:
        for name in reversed(TENSORS):
            writer.put(name, TENSORS[name])
    assert same(load_file(tmp_path / "t"), TENSORS)
    found = open_tensors(tmp_path / "t")
    assert found.specs == SPECS and same(dict(found), TENSORS)


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    turned = torch.arange(6.0).view(2, 3).T
    with TensorWriter(tmp_path / "t", {"t": Spec.of(turned)}) as writer:
        writer.put("t", turned)
    assert torch.equal(load_file(tmp_path / "t")["t"], turned)


def test_all_must_come_and_be_as_announced(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="and 3 more never came"):
        TensorWriter(tmp_path / "t", SPECS).__exit__(None, None, None)
    with pytest.raises(AssertionError, match="a is not what was announced"), TensorWriter(tmp_path / "t", SPECS) as w:
        w.put("a", torch.zeros(3, 2))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    large = torch.zeros(1 << 20)
    with pytest.raises(OSError, match="No space left on device") as caught:  # noqa: SIM117
        with TensorWriter(Path("/dev/full"), {"a": Spec.of(large)}) as writer:
            writer.put("a", large)
    assert caught.value.filename == "/dev/full"
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        TensorWriter(Path("/dev/full"), {}).__exit__(None, None, None)


@pytest.mark.parametrize("limit", [10, 1000])
def test_shards(tmp_path: Path, limit: int) -> None:
    write_shards(tmp_path, SPECS, iter(reversed(TENSORS.items())), limit)
    files = sorted(path.name for path in tmp_path.iterdir())
    if limit == 1000:
        assert files == ["model.safetensors"]
    else:
        assert files[-1] == "model.safetensors.index.json" and len(files) == 5
        assert max((tmp_path / name).stat().st_size for name in files) < 500
    assert same(dict(open_tensors(tmp_path)), TENSORS)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16", "model"])
def test_a_pipeline_of_diffusers(tmp_path: Path, name: str) -> None:
    for part in ("unet", "vae", "scheduler"):
        (tmp_path / part).mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has a model_index\.json and no folder with weights"):
        open_tensors(tmp_path)
    save_file({"a.b": torch.ones(2)}, tmp_path / "unet" / f"{name}.safetensors")
    write_shards(tmp_path / "vae", SPECS, iter(TENSORS.items()), 10, "diffusion_pytorch_model.safetensors")
    found = open_tensors(tmp_path)
    assert len(found.files) == 5 and found.folder == tmp_path
    assert same(dict(found), {"unet.a.b": torch.ones(2)} | {f"vae.{key}": tensor for key, tensor in TENSORS.items()})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["model", "state_dict", None])
def test_files_of_torch(tmp_path: Path, zipped: bool, inside: str | None) -> None:
    content: Any = OrderedDict(TENSORS)
    torch.save(
        {inside: content, "epoch": 3} if inside else content, tmp_path / "t", _use_new_zipfile_serialization=zipped
    )
    found = open_tensors(tmp_path / "t")
    assert same(dict(found), TENSORS) and found.foreign == ()


def test_a_file_of_torch_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with FakeTensorMode(), skip_data(materialize_fake_tensors=True):  # holes, which take no room
        large = torch.empty(2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), dtype=torch.uint8)
        torch.save({"large": large, "small": torch.empty(2, 3), "none": torch.empty(0, 3)}, path)
    content = open_tensors(path)
    assert content.specs["large"].nbytes == large.numel()
    assert torch.equal(content["small"], torch.zeros(2, 3))
    assert content["none"].shape == (0, 3)


def test_safetensors_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    size = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    head = {
        "large": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        "small": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [size, size + 12]},
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with (tmp_path / "large.safetensors").open("wb") as file:  # a hole, which takes no room
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size + 12)
    content = open_tensors(tmp_path / "large.safetensors")
    assert content.specs["large"].nbytes == size
    assert torch.equal(content["small"], torch.zeros(2, 3, dtype=torch.bfloat16))


def test_views_in_a_file_of_torch(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"turned": whole.T, "rows": whole[1:3], "every other": whole[:, ::2], "one": whole[2, 3]}
    torch.save(state, tmp_path / "views.pt")
    content = open_tensors(tmp_path / "views.pt")
    assert content.keys() == state.keys()
    assert all(torch.equal(content[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_become_placeholders_and_nothing_is_run(tmp_path: Path, zipped: bool) -> None:
    planted = tmp_path / "planted"
    content = {
        "config": Settings(),
        "hook": Hostile(f"touch {planted}"),
        "model": {**TENSORS, "bad": Hostile(f"touch {planted}"), "weight": torch.nn.Parameter(torch.ones(2))},
    }
    torch.save(content, tmp_path / "t", _use_new_zipfile_serialization=zipped)
    found = open_tensors(tmp_path / "t")
    assert not planted.exists()
    assert same(dict(found), {**TENSORS, "weight": torch.ones(2)})
    assert {"posix.system", f"{__name__}.Settings"} <= set(found.foreign)
    torch.load(tmp_path / "t", weights_only=False)  # that it would have been run
    assert planted.exists()


def test_a_pickle_that_is_no_file_of_torch_runs_nothing(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    (tmp_path / "t").write_bytes(pickle.dumps(Hostile(f"touch {planted}")))
    with pytest.raises(CheckpointError, match="t: cannot be read"):
        open_tensors(tmp_path / "t")
    assert not planted.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\): fetch it again"),
        (b"<!DOCTYPE html><html>Google Drive can't scan this file", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (b"GGUF\x03\x00", r"is quantised \(GGUF\)"),
        (b"nothing that is known", "cannot be read"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_tensors(tmp_path / "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_files(tmp_path: Path, kind: str, share: float) -> None:
    path, tensors = tmp_path / "file", {"a": torch.randn(1000), "b": torch.randn(1000)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"file: cannot be read .*fetch it again"):
        open_tensors(path)


def test_files_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_tensors(tmp_path / "file")
    torch.save([torch.ones(2)], tmp_path / "file")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        open_tensors(tmp_path / "file")


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        open_tensors(tmp_path)
    (tmp_path / "consolidated.00.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="LLaMA as Meta publishes it"):
        open_tensors(tmp_path)
    write_shards(tmp_path, SPECS, iter(TENSORS.items()), 10)
    shard = tmp_path / "model-00002-of-00004.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(CheckpointError, match="1 of 4 files missing: model-00002-of-00004"):
        open_tensors(tmp_path)
    shard.write_bytes((tmp_path / "model-00001-of-00004.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="a stands in model-00001-of-00004"):
        open_tensors(tmp_path)
    shard.write_bytes(content)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        open_tensors(tmp_path)


def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "elsewhere")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere"}}')
    with pytest.raises(CheckpointError, match="1 of 1 files missing: elsewhere"):
        open_tensors(folder)


def test_shards_of_torch(tmp_path: Path) -> None:
    torch.save({"a": TENSORS["a"]}, tmp_path / "pytorch_model-1.bin")
    torch.save({"half": TENSORS["half"]}, tmp_path / "pytorch_model-2.bin", _use_new_zipfile_serialization=False)
    homes = '{"weight_map": {"a": "pytorch_model-1.bin", "half": "pytorch_model-2.bin"}}'
    (tmp_path / "pytorch_model.bin.index.json").write_text(homes)
    found = open_tensors(tmp_path)
    assert same(dict(found), {name: TENSORS[name] for name in ("a", "half")})
    assert [path.name for path in found.files] == ["pytorch_model-1.bin", "pytorch_model-2.bin"]


def test_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no readable JSON"):
        read_json(tmp_path / "file")
    (tmp_path / "file").write_text("[1]")
    with pytest.raises(CheckpointError, match="holds a list, not an object"):
        read_json(tmp_path / "file")


def test_a_program_of_torchscript_is_not_run(tmp_path: Path) -> None:
    """OpenAI's CLIP comes as one. Written by hand: torch's own way to make one warns that it is deprecated."""
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"ViT-B-32.pt: is a program of TorchScript, which is not run: save"):
        open_tensors(tmp_path / "ViT-B-32.pt")
