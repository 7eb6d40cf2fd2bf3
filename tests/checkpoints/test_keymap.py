from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plait.checkpoints.keymap import ZEROS, KeyMap, Stacked, Turned, reordered
from plait.checkpoints.minigpt4 import vision_file
from plait.errors import CheckpointError

TABLE = KeyMap(
    {
        "embed.weight": "words",
        "blocks.{i}.qkv.weight": ("layer.{i}.q", "layer.{i}.k", "layer.{i}.v"),
        "blocks.{i}.qkv.bias": ("layer.{i}.q_bias", ZEROS, "layer.{i}.v_bias"),
        "blocks.{i}.norm.{w}": "layer.{i}.ln.{w}",
        "scale": "temp",
    },
    ignored={"layer.{i}.inv_freq": "follows from the width", "old.{rest}": "of no use"},
    tied={"head": "words"},
)
FILE = {
    "words": torch.arange(6.0).view(3, 2),
    "head": torch.arange(6.0).view(3, 2),
    "temp": torch.tensor(0.5),
    "layer.10.inv_freq": torch.ones(1),
    "old.a.b": torch.ones(1),
    **{f"layer.10.{part}": torch.full((2, 2), float(i)) for i, part in enumerate("qkv")},
    "layer.10.q_bias": torch.tensor([1.0, 2.0]),
    "layer.10.v_bias": torch.tensor([3.0, 4.0]),
    "layer.10.ln.weight": torch.ones(2),
    "layer.10.ln.bias": torch.zeros(2),
}
WANTED = {
    "embed.weight": (3, 2),
    "blocks.10.qkv.weight": (6, 2),
    "blocks.10.qkv.bias": (6,),
    "blocks.10.norm.weight": (2,),
    "blocks.10.norm.bias": (2,),
    "scale": (),
    "not.published": (4,),
}
SHAPES = {key: tuple(tensor.shape) for key, tensor in FILE.items()}


def read(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(TABLE.read(file.items(), WANTED))


def test_names_in_both_directions() -> None:
    assert TABLE.published("blocks.7.qkv.weight") == ("layer.7.q", "layer.7.k", "layer.7.v")
    assert TABLE.published("blocks.7.qkv.bias") == ("layer.7.q_bias", ZEROS, "layer.7.v_bias")
    assert TABLE.published("blocks.7.norm.bias") == ("layer.7.ln.bias",)
    for other in ("blocks.x.qkv.weight", "blocks.7.norm.scale", "a.scale", "scaled"):
        assert TABLE.published(other) is None


def test_report() -> None:
    report = TABLE.report(SHAPES, WANTED)
    assert report.mapped["layer.10.k"] == "blocks.10.qkv.weight"
    assert set(report.mapped.values()) == WANTED.keys() - {"not.published"}
    assert report.ignored == {
        "head": "repeats words",
        "layer.10.inv_freq": "follows from the width",
        "old.a.b": "of no use",
    }
    assert (report.missing, report.unexpected, report.misshapen) == ([], [], {})


def test_report_of_what_does_not_fit() -> None:
    found = {**SHAPES, "layer.11.q": (2, 2), "layer.10.v": (3, 2)}
    del found["temp"], found["layer.10.q_bias"]
    report = TABLE.report(found, WANTED)
    assert sorted(report.missing) == ["layer.10.q_bias", "temp"]
    assert report.unexpected == ["layer.11.q"]
    assert report.misshapen == {"layer.10.v": ((3, 2), (2, 2))}


def test_read() -> None:
    ours = read(FILE)
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == {
        name: shape for name, shape in WANTED.items() if name != "not.published"
    }
    assert ours["blocks.10.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert ours["blocks.10.qkv.bias"].tolist() == [1, 2, 0, 0, 3, 4]
    assert ours["scale"].item() == 0.5


def test_tensors_are_given_as_soon_as_they_are_whole() -> None:
    asked: list[str] = []

    def file() -> object:
        for key in ("layer.10.v", "temp", "layer.10.k", "layer.10.q"):
            asked.append(key)
            yield key, FILE[key]

    wanted = {name: WANTED[name] for name in ("blocks.10.qkv.weight", "scale")}
    given = [(name, len(asked)) for name, _ in TABLE.read(file(), wanted)]
    assert given == [("scale", 2), ("blocks.10.qkv.weight", 4)]


def test_any_order_gives_the_same() -> None:
    ours = read(dict(reversed(FILE.items())))
    assert all(torch.equal(ours[name], tensor) for name, tensor in read(FILE).items())


def test_write() -> None:
    written = dict(TABLE.write(read(FILE).items()))
    kept = {key: tensor for key, tensor in FILE.items() if key not in ("layer.10.inv_freq", "old.a.b")}
    assert written.keys() == kept.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in kept.items())
    storages = [tensor.untyped_storage().data_ptr() for tensor in written.values()]
    assert len(set(storages)) == len(storages)  # as safetensors wants them


def test_a_name_that_is_not_published_is_not_written() -> None:
    with pytest.raises(CheckpointError, match=r"not\.published has no published name"):
        list(TABLE.write([("not.published", torch.ones(4))]))


def test_missing_and_unexpected_tensors() -> None:
    file = {key: tensor for key, tensor in FILE.items() if key != "layer.10.k"}
    with pytest.raises(CheckpointError, match=r"1 tensors missing: layer.10.k, 1 not expected: layer.11.q"):
        read({**file, "layer.11.q": torch.ones(2, 2)})


def test_another_shape() -> None:
    with pytest.raises(CheckpointError, match=r"temp has the shape \[1\] but the configuration gives \[\]"):
        read({**FILE, "temp": torch.ones(1)})


def test_a_key_that_comes_twice() -> None:
    with pytest.raises(CheckpointError, match="temp comes twice"):
        dict(TABLE.read([*FILE.items(), ("temp", torch.tensor(0.5))], WANTED))


def test_what_repeats_another_must_be_equal_and_may_be_absent() -> None:
    with pytest.raises(CheckpointError, match="head should repeat words and differs"):
        read({**FILE, "head": torch.ones(3, 2)})
    assert read({key: tensor for key, tensor in FILE.items() if key != "head"}).keys() == read(FILE).keys()


def test_prefixes_and_sums_of_tables() -> None:
    both = TABLE.under("a.", "b.") | KeyMap({"scale": "c"}, ignored={"a.old.{rest}": "another reason"})
    assert both.published("b.blocks.1.qkv.bias") == ("a.layer.1.q_bias", ZEROS, "a.layer.1.v_bias")
    assert both.published("scale") == ("c",) and both.published("embed.weight") is None
    report = both.report({"a.old.x": (), "a.head": (), "a.words": (3, 2)}, {"b.embed.weight": (3, 2)})
    assert report.ignored == {"a.old.x": "of no use", "a.head": "repeats a.words"}  # the first table's reason


def test_only_the_block_behind_the_tower_is_ignored() -> None:
    found = {f"blocks.{i}.norm1.{w}": (2,) for i in range(4) for w in ("weight", "bias")}
    wanted = {f"vision.blocks.{i}.attention_norm.{w}": (2,) for i in range(2) for w in ("weight", "bias")}
    report = vision_file(2).report(found, wanted)
    assert sorted(report.unexpected) == ["blocks.3.norm1.bias", "blocks.3.norm1.weight"]
    assert sorted(report.ignored) == ["blocks.2.norm1.bias", "blocks.2.norm1.weight"]


def test_tensors_along_an_axis_of_their_own() -> None:
    table = KeyMap({"blocks.{i}.down": Stacked(("layer.{i}.q.A", "layer.{i}.v.A"))}).under("a.", "b.")
    file = {"a.layer.3.q.A": torch.zeros(4, 2), "a.layer.3.v.A": torch.ones(4, 2)}
    ours = dict(table.read(file.items(), {"b.blocks.3.down": (2, 4, 2)}))
    assert ours["b.blocks.3.down"][:, 0, 0].tolist() == [0, 1]
    written = dict(table.write(ours.items()))
    assert written.keys() == file.keys() and all(torch.equal(written[key], tensor) for key, tensor in file.items())
    with pytest.raises(CheckpointError, match=r"a\.layer\.3\.q\.A has the shape \[4, 2\] but .* gives \[5, 2\]"):
        dict(table.read(file.items(), {"b.blocks.3.down": (2, 5, 2)}))


def test_tensors_in_another_form() -> None:
    table = KeyMap(
        {
            "{i}.qkv": reordered("layer.{i}.kvq", 2, 0, 1),
            "out": Turned("proj", lambda tensor: tensor.T, lambda tensor: tensor.T),
            "class": Turned("cls", lambda tensor: tensor[None], lambda tensor: tensor[0]),
        }
    ).under("a.", "b.")
    file = {
        "a.layer.3.kvq": torch.arange(6.0).view(6, 1).expand(6, 2).clone(),
        "a.proj": torch.arange(6.0).view(2, 3),
        "a.cls": torch.ones(4),
    }
    wanted = {"b.3.qkv": (6, 2), "b.out": (3, 2), "b.class": (1, 4)}
    ours = dict(table.read(file.items(), wanted))
    assert ours["b.3.qkv"][:, 0].tolist() == [4, 5, 0, 1, 2, 3]
    assert ours["b.out"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert all(tuple(ours[name].shape) == shape and ours[name].is_contiguous() for name, shape in wanted.items())
    written = dict(table.write(ours.items()))
    assert written.keys() == file.keys() and all(torch.equal(written[key], tensor) for key, tensor in file.items())
    report = table.report({key: tuple(tensor.shape) for key, tensor in file.items()}, {**wanted, "b.out": (4, 2)})
    assert report.misshapen == {"a.proj": ((2, 3), (2, 4))}
