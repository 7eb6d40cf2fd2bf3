"""Imports and exports of any system: a round trip, memory, what is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plait.checkpoints import directory, published
from plait.checkpoints.published import Plan, Published, check_manifest, export, find, import_files
from plait.errors import CheckpointError, ConfigError, InputError
from plait.nn.attention import Visibility

MANIFEST = Path(__file__).parents[1] / "goldens" / "minigpt4" / "published.json"
SYSTEM = find("minigpt4")
Make = Callable[..., Any]

OUTSIDE = """
from plait.checkpoints.minigpt4 import MiniGPT4Files

class Mine(MiniGPT4Files):
    pass

def published():
    return Mine()
"""


def fingerprints(folder: Path) -> dict[str, str]:
    parts = directory.read_description(folder)["parts"]
    return {name: part["fingerprint"] for name, part in parts.items()}


@pytest.mark.parametrize("variant", ["vicuna", "llama2", "v2"])
def test_a_round_trip_changes_no_bit(published_files: Make, tmp_path: Path, variant: str) -> None:
    files = published_files(variant)
    first, _ = import_files(SYSTEM, files.all, tmp_path / "first", files.config)
    paths = export(first, "published", tmp_path / "published", shard=20_000)
    assert len(list((tmp_path / "published" / "language").glob("*.safetensors"))) > 2
    second, _ = import_files(SYSTEM, paths, tmp_path / "second", files.config)
    assert fingerprints(first) == fingerprints(second)
    loaded = directory.load(first)
    assert loaded.config == replace(files.system.config, max_answer=loaded.config.max_answer)
    wanted = files.system.state_dict()
    for name, tensor in loaded.state_dict().items():
        exact = wanted[name].half().float() if tensor.dtype == torch.float16 else wanted[name]
        assert torch.equal(tensor.float(), exact), name
    again = torch.load(tmp_path / "published" / "pretrained_minigpt4.pth", weights_only=True)
    assert again["model"].keys() == files.states["projection"].keys()


def test_weights_keep_their_types_unless_others_are_asked_for(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    kept, _ = import_files(SYSTEM, files.all, tmp_path / "kept", files.config)
    types = {name: t.dtype for name, t in directory.load(kept).state_dict().items()}
    halves = {name.split(".")[0] for name, dtype in types.items() if dtype == torch.float16}
    assert halves == {"vision", "language"}
    asked, _ = import_files(SYSTEM, files.all, tmp_path / "asked", files.config, torch.bfloat16)
    assert {t.dtype for t in directory.load(asked).state_dict().values()} == {torch.bfloat16}


def test_what_an_import_is_made_of_is_recorded(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    out, notes = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    description = directory.read_description(out)
    sources = {source["file"]: source for source in description["sources"]}
    assert sources.keys() == {
        "pretrained.pth",
        "eva.pth",
        "blip2.pth",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.model",
    }
    assert sources["eva.pth"] == {
        "file": "eva.pth",
        "kind": "tower",
        "bytes": files.tower.stat().st_size,
        "sha256": hashlib.sha256(files.tower.read_bytes()).hexdigest(),
    }
    assert description["notes"] == notes
    licences = {name: part["licence"] for name, part in description["parts"].items()}
    assert licences["vision"] == "MIT (EVA)" and "non-commercial" in licences["language"]


def test_licences_stay_with_weights_that_are_saved_again(published_files: Make, tmp_path: Path) -> None:
    files = published_files("llama2")
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    again = directory.save(directory.load(out), tmp_path / "again")
    before, after = (directory.read_description(folder)["parts"] for folder in (out, again))
    assert before == after
    assert after["language"]["licence"] == "LLaMA 2 Community License"
    assert after["vision_norm"]["licence"] == "Apache-2.0"  # no file gave it


def test_nothing_is_written_where_something_is_wrong(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    del files.states["tower"]["blocks.1.norm1.weight"]
    torch.save(files.states["tower"], files.tower)
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"eva\.pth: 1 tensors missing: blocks\.1\.norm1\.weight, 0 not expected"):
        import_files(SYSTEM, files.all, out, files.config)
    with pytest.raises(CheckpointError, match=r"is MiniGPT-4's projection, as .*pretrained\.pth is already"):
        import_files(SYSTEM, [*files.all, files.projection], out, files.config)
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: its keys \(weight\) are of no file that is known"):
        import_files(SYSTEM, [tmp_path / "other.pth"], out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_nothing_that_is_there_is_replaced(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        import_files(SYSTEM, files.all, files.language, files.config)
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    with pytest.raises(InputError, match="is not empty"):
        import_files(SYSTEM, files.all, out, files.config)


def test_room_is_looked_for_before(published_files: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = published_files()
    usage = published.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(published.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"out: 0\.0 GB are needed and 0\.0 GB free: make room"):
        import_files(SYSTEM, files.all, tmp_path / "deep" / "out", files.config)


def test_two_files_with_the_same_part(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    torch.save({**files.states["blip2"], "llama_proj.weight": torch.ones(32, 16)}, tmp_path / "mixed.pth")

    class Both(type(SYSTEM)):  # type: ignore[misc]
        def plan(self, given: Any, changes: Any) -> Plan:
            plan = super().plan(given, changes)
            return replace(plan, tables={**plan.tables, "tower": plan.tables["tower"] | plan.tables["blip2"]})

    with pytest.raises(CheckpointError, match=r"vision_norm\.weight stands in .*eva\.pth and .*blip2\.pth"):
        import_files(Both(), files.all, tmp_path / "out", files.config)


def test_tensors_that_no_file_has(published_files: Make, tmp_path: Path) -> None:
    files = published_files("llama2")

    class Bare(type(SYSTEM)):  # type: ignore[misc]
        def plan(self, given: Any, changes: Any) -> Plan:
            return replace(super().plan(given, changes), filled={})

    with pytest.raises(CheckpointError, match=r"2 tensors are in none of the files: vision_norm\.weight"):
        import_files(Bare(), files.all, tmp_path / "out", files.config)


def test_foreign_objects_are_told(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    torch.save({"model": files.states["projection"], "config": Path("a")}, files.projection)
    _, notes = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    assert any(re.search(r"pretrained\.pth holds objects of other programs, .*: pathlib", note) for note in notes)


def test_a_system_from_outside(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    (tmp_path / "my_files.py").write_text(OUTSIDE)
    address = f"{tmp_path / 'my_files.py'}:published"
    out, _ = import_files(find(address), files.all, tmp_path / "out", files.config)
    assert len(export(out, "published", tmp_path / "published", find(address))) == 4
    with pytest.raises(ConfigError, match="no published files are known of 'minigpt5'; did you mean 'minigpt4'"):
        find("minigpt5")


def test_a_configuration_can_be_that_of_another_import(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    again, _ = import_files(SYSTEM, files.all, tmp_path / "again", out / "config.json")
    assert fingerprints(out) == fingerprints(again)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: holds no keys with values"):
        import_files(SYSTEM, files.all, tmp_path / "third", tmp_path / "list.yaml")


# ----------------------------------------------------------------------------------------------- dry runs


def test_every_published_file_fits_at_full_size() -> None:
    reports = check_manifest(SYSTEM, MANIFEST)
    files = json.loads(MANIFEST.read_text())["files"]
    assert len(reports) == len(files) == 10
    for report, file in zip(reports, files, strict=True):
        assert (report["missing"], report["unexpected"]) == ([], []), report
        assert report["mapped"] + report["ignored"] == len({**file["keys"], **dict.fromkeys(file["optional"])})
    assert {report["mapped"] for report in reports} == {2, 130, 257, 511, 343, 1061}


def test_what_is_ignored_has_a_reason() -> None:
    for file in json.loads(MANIFEST.read_text())["files"]:
        shapes = {key: tuple(shape) for key, (shape, _) in file["keys"].items()}
        tensors, table = SYSTEM.recognise(shapes).hollow(shapes)
        report = table.report(shapes, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        assert all(report.ignored.values())
        left = {key for key in report.ignored if not report.ignored[key].startswith("repeats ")}
        assert all(re.search(r"\.inv_freq|\.position_ids|t5_proj\.", key) for key in left)


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], None], number: int = 1) -> Path:
    """The list with one file, changed."""
    file = json.loads(MANIFEST.read_text())["files"][number]
    change(file["keys"])
    (tmp_path / "list.json").write_text(json.dumps({"files": [file]}))
    return tmp_path / "list.json"


def test_dry_runs_find_what_does_not_fit(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda keys: keys.pop("blocks.3.norm1.weight"), number=7)
    assert check_manifest(SYSTEM, path)[0]["missing"] == ["blocks.3.norm1.weight"]
    path = changed(tmp_path, lambda keys: keys.update({"more.weight": [[1], "float32"]}))
    assert check_manifest(SYSTEM, path)[0]["unexpected"] == ["more.weight"]
    path = changed(tmp_path, lambda keys: keys.update({"llama_proj.bias": [[7], "float32"]}))
    with pytest.raises(CheckpointError, match=r"1 of another shape: llama_proj\.bias; correct the table"):
        check_manifest(SYSTEM, path)
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lists no files with their keys"):
        check_manifest(SYSTEM, tmp_path / "none.json")


def test_a_table_that_does_not_lead_back_is_found() -> None:
    kinds = [
        replace(
            kind, hollow=lambda shapes: ({"odd": torch.empty(2, device="meta")}, SYSTEM.kinds[-1].hollow(shapes)[1])
        )
        for kind in SYSTEM.kinds
    ]

    class Odd(Published):
        def plan(self, given: Any, changes: Any) -> Plan:
            raise NotImplementedError

        def exports(self, config: Any, format: str) -> Any:
            raise NotImplementedError

    Odd.kinds = kinds
    with pytest.raises(CheckpointError, match="1 tensors without a published name: odd"):
        check_manifest(Odd(), MANIFEST)


# ------------------------------------------------------------------------------------------------- exports


@pytest.mark.parametrize("variant", ["vicuna", "v2"])
def test_transformers_reads_the_language_model(published_files: Make, tmp_path: Path, variant: str) -> None:
    transformers = pytest.importorskip("transformers")
    files = published_files(variant)
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config, torch.float32)
    assert export(out, "hf", tmp_path / "hf") == [tmp_path / "hf"]
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ours = directory.load(out).language
    ids = torch.randint(0, 320, (2, 17), generator=torch.Generator().manual_seed(0))
    sight = Visibility(torch.zeros_like(ids), torch.full_like(ids, -1))
    with torch.no_grad():
        position = torch.arange(17).expand(2, -1)
        logits = ours.head(ours(ours.embed(ids), position, lambda layer: sight.attend))
        torch.testing.assert_close(theirs(ids).logits, logits, atol=2e-5, rtol=1e-4)
    assert (tmp_path / "hf" / "tokenizer.model").read_bytes() == files.system.format.text.model


def test_exports_are_whole_or_not_there(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    with pytest.raises(ConfigError, match="no format 'gguf'"):
        export(out, "gguf", tmp_path / "x")
    with pytest.raises(InputError, match="is not empty"):
        export(out, "hf", files.folder)
    weights = out / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="the fingerprint of part"):
        export(out, "published", tmp_path / "x")
    assert not (tmp_path / "x").exists()
