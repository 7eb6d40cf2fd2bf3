"""Plait's own directories: what is written comes back, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from plait.checkpoints import directory
from plait.checkpoints.directory import find, load, save, take
from plait.checkpoints.tensors import Spec
from plait.errors import CheckpointError, ConfigError
from plait.systems.cm3leon import TINY, CM3Leon
from plait.text.bpe import BPE

OUTSIDE = """
import torch
from plait.systems.base import Part
from plait.systems.cm3leon import CM3Leon

class Waves(torch.nn.Module):
    def __init__(self, buffer):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("table", buffer, persistent=False)

class Turned(CM3Leon):
    def __init__(self, config, text):
        super().__init__(config, text)
        self.waves = Waves(torch.arange(5).sin())

    @property
    def parts(self):
        return {**super().parts, "waves": Part(module=self.waves)}

    @classmethod
    def from_files(cls, config, directory):
        built = CM3Leon.from_files(config, directory)
        return cls(built.config, built.format.text)

class Hollow(Turned):
    def __init__(self, config, text):
        super().__init__(config, text)
        self.waves = Waves(torch.empty(5).fill_(1))

NUMBER = 3
"""


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    text = BPE.train(["a large red circle at the top."], 300)
    return CM3Leon(replace(TINY, width=24, depth=2, heads=2, positions=128), text)


@pytest.fixture
def saved(system, tmp_path):
    return save(system, tmp_path / "model")


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_what_is_saved_comes_back(system, saved):
    loaded = load(saved)
    assert same(system, loaded)
    assert loaded.config == system.config
    assert not loaded.training
    assert loaded.format.text.encode("red circle") == system.format.text.encode("red circle")
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    description = json.loads((saved / "config.json").read_text())
    assert description["system"] == "plait.systems.cm3leon:CM3Leon"
    assert {name: part["parameters"] for name, part in description["parts"].items()} == {
        name: part.parameters for name, part in system.parts.items()
    }
    assert len({part["fingerprint"] for part in description["parts"].values()}) == len(system.parts)


def test_the_weights_do_not_hang_on_the_file(system, saved):
    loaded = load(saved)
    shutil.rmtree(saved)
    assert same(system, loaded)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert all(tensor.data_ptr() % 32 == 0 for tensor in loaded.state_dict().values())


def test_loading_draws_no_random_number(saved):
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_last_and_dtype(system, tmp_path):
    turned = CM3Leon(system.config, system.format.text).to(memory_format=torch.channels_last)
    loaded = load(save(turned, tmp_path / "model"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.embed.weight, turned.embed.weight.bfloat16())
    weight = "image_tokenizer.encoder.conv_in.weight"
    assert torch.equal(loaded.state_dict()[weight], turned.state_dict()[weight].bfloat16())


def test_a_save_replaces_and_takes_more_files(system, tmp_path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    save(system, folder, beside=lambda path: (path / "state.pt").write_bytes(b"x"))
    assert (folder / "state.pt").read_bytes() == b"x"
    save(system, folder)
    assert not (folder / "state.pt").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_failed_save_leaves_what_was_there(system, saved):
    def fail(path):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save(system, saved, beside=fail)
    assert same(system, load(saved))
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_other_folders_are_not_replaced(system, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="no Plait directory and not empty"):
        save(system, tmp_path)
    assert (tmp_path / "letter.txt").exists()


def test_a_model_of_transformers_is_not_replaced(system, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="no Plait directory and not empty"):
        save(system, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    (tmp_path / "config.json").write_text("{")
    assert same(system, load(save(system, tmp_path)))  # one of Plait's that was broken


def test_tensors_are_not_held_when_they_are_written(system, tmp_path):
    state = system.state_dict()
    given = []

    def one_by_one():
        for name, tensor in state.items():
            assert all(ref() is None for ref in given[:-1])  # the last one is still in the writer's hands
            fresh = tensor.clone()
            given.append(weakref.ref(fresh))
            yield name, fresh
            del fresh

    specs = {name: Spec.of(tensor) for name, tensor in state.items()}
    saved = directory.write(system, tmp_path / "model", specs, one_by_one(), facts=lambda: {"more": len(given)})
    assert same(system, load(saved))
    assert directory.read_description(saved)["more"] == len(state)


def test_gathered_weights(system, tmp_path):
    state = {name: torch.full_like(tensor, 2.0) for name, tensor in system.state_dict().items()}
    assert load(save(system, tmp_path / "model", state=state)).embed.weight.unique().tolist() == [2]


def test_a_tensor_of_no_part_is_refused(system, tmp_path):
    torch.manual_seed(0)
    more = CM3Leon(system.config, system.format.text)
    more.extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"1 tensors of no part: extra; put them into a part's module"):
        save(more, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("embed.weight"), "1 tensors missing: embed.weight, 0 not expected"),
        (lambda t: t.update(more=torch.zeros(1)), "0 tensors missing, 1 not expected: more"),
        (lambda t: t.update({"positions.weight": torch.zeros(7, 24)}), r"shape \[7, 24\] .* gives \[130, 24\]"),
        (lambda t: t["embed.weight"][3].add_(1), "fingerprint of part 'embed' is"),
    ],
)
def test_weights_that_do_not_fit(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(saved):
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read"):
        load(saved)
    weights.write_bytes(content)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: no readable JSON"):
        load(saved)
    (saved / "config.json").write_text('{"plait": "0", "config": {}}')
    with pytest.raises(CheckpointError, match="lacks system, parts"):
        load(saved)
    (saved / "tokenizer.json").unlink()


def test_a_configuration_with_an_unknown_key(saved):
    description = json.loads((saved / "config.json").read_text())
    description["config"]["widht"] = 3
    (saved / "config.json").write_text(json.dumps(description))
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        load(saved)


def test_what_is_said_of_code_is_checked(saved):
    description = json.loads((saved / "config.json").read_text())
    for code in ("a.py", {"file": "a.py"}, {"file": 3, "fingerprint": "0"}):
        (saved / "config.json").write_text(json.dumps({**description, "code": code}))
        with pytest.raises(CheckpointError, match=r"lacks code\."):
            load(saved)


def test_code_that_a_directory_names_is_never_run(saved, tmp_path):
    (tmp_path / "planted.py").write_text("raise SystemExit('this was run')\n")
    description = json.loads((saved / "config.json").read_text())
    code = {"file": str(tmp_path / "planted.py"), "fingerprint": "0" * 64}
    (saved / "config.json").write_text(json.dumps({**description, "system": "planted:System", "code": code}))
    with pytest.raises(CheckpointError, match=r"planted.py \(changed since\); code is run only if you name it"):
        load(saved)


@pytest.mark.parametrize("named", ["os:system", "somewhere:System", "plait.document:Document", "nonsense"])
def test_a_directory_cannot_name_any_code(saved, named):
    description = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**description, "system": named}))
    with pytest.raises(CheckpointError, match=r"not one of Plait's|is no System"):
        load(saved)


def test_a_system_from_outside_and_what_no_file_holds(system, tmp_path, monkeypatch):
    (tmp_path / "turned_system.py").write_text(OUTSIDE)
    address = str(tmp_path / "turned_system.py:Turned")
    built = directory.from_file(address)(system.config, system.format.text)
    saved = save(built, tmp_path / "model")
    assert "waves.table" not in load_file(saved / "model.safetensors")
    loaded = load(saved, system=address)
    assert type(loaded).__name__ == "Turned"
    assert torch.equal(loaded.waves.table, torch.arange(5).sin())
    assert same(loaded, built)
    with pytest.raises(CheckpointError, match=r"waves.table is in no file"):
        load(saved, system=str(tmp_path / "turned_system.py:Hollow"))
    monkeypatch.delitem(__import__("sys").modules, "turned_system")
    with pytest.raises(CheckpointError, match=r"turned_system.py \(unchanged\); .* give .*/turned_system.py:Turned"):
        load(saved)
    with pytest.raises(CheckpointError, match="NUMBER is no System"):
        load(saved, system=str(tmp_path / "turned_system.py:NUMBER"))


def test_find(saved, tmp_path):
    assert find(saved) == saved
    run = tmp_path / "run"
    for step in (5, 10, 100):
        shutil.copytree(saved, run / "checkpoints" / f"step-{step:08d}")
    (run / "checkpoints" / ".step-00000200.partial").mkdir()
    assert find(run).name == "step-00000100"
    (run / "checkpoints" / "step-00000100" / "model.safetensors").unlink()
    assert find(run).name == "step-00000010"
    with pytest.raises(CheckpointError, match="no such directory"):
        find(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="0 checkpoints of which none is complete"):
        find(tmp_path)


# ----------------------------------------------------------------------------------------------------- parts


def again(system, width=24):
    torch.manual_seed(9)
    return CM3Leon(replace(system.config, width=width), system.format.text)


def test_a_part_is_taken_and_the_others_stay(system, saved):
    other = again(system)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    take(other, saved, {"decoder": "decoder", "embed": "embed"})
    mine, theirs = other.state_dict(), system.state_dict()
    taken = {
        name for name in mine if torch.equal(mine[name], theirs[name]) and not torch.equal(mine[name], before[name])
    }
    expected = {name for name in mine if name.startswith(("decoder.", "embed.")) and theirs[name].numel()}
    assert {name for name in expected if not torch.equal(before[name], theirs[name])} == taken
    assert all(torch.equal(mine[name], before[name]) for name in mine.keys() - expected)


def test_a_part_is_taken_in_the_type_that_it_has_here(system, tmp_path):
    torch.manual_seed(1)
    saved = save(CM3Leon(system.config, system.format.text).to(torch.bfloat16), tmp_path / "half")
    other = again(system)
    take(other, saved, {"decoder": "decoder"})
    assert {weight.dtype for weight in other.decoder.parameters()} == {torch.float32}
    half = load(saved).decoder.state_dict()
    assert all(torch.equal(tensor, half[name].float()) for name, tensor in other.decoder.state_dict().items())


def test_parts_that_do_not_fit_are_not_taken(system, saved):
    with pytest.raises(CheckpointError, match="the system has no part 'decodr'; did you mean 'decoder'"):
        take(again(system), saved, {"decodr": "decoder"})
    with pytest.raises(CheckpointError, match=r"model has no part 'encoder'; did you mean 'decoder'"):
        take(again(system), saved, {"decoder": "encoder"})
    with pytest.raises(CheckpointError, match=r"model/decoder: \S+ has the shape \[.*24.*\] but the configuration"):
        take(again(system, 48), saved, {"decoder": "decoder"})
    with pytest.raises(CheckpointError, match=r"8 tensors missing: blocks.*1 not expected: weight"):
        take(again(system), saved, {"decoder": "embed"})
    tensors = load_file(saved / "model.safetensors")
    name = next(name for name in tensors if name.startswith("decoder."))
    tensors[name] += 1
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="the fingerprint of part 'decoder'"):
        take(again(system), saved, {"decoder": "decoder"})
