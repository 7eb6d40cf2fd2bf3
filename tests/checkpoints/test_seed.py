"""SEED-LLaMA in and out of its published files, with random weights of tiny sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait.checkpoints.directory import load, read_description, save
from plait.checkpoints.parts import LLAMA
from plait.checkpoints.published import export, import_files
from plait.checkpoints.seed import ADAPTERS_FILE, published
from plait.document import Document, Image, Turn
from plait.errors import CheckpointError
from plait.nn.lora import LAYERS, LoRAConfig
from plait.systems.seed import TINY, Seed, vocabulary
from plait.text.pieces import SentencePiece
from plait.text.requests import DRAW

MODEL = SentencePiece.train([way.asked for way in DRAW], 320).model
PIECES = len(SentencePiece(MODEL))
CODES = TINY.tokenizer.codes
CONFIG = replace(
    TINY,
    tokenizer=replace(TINY.tokenizer, decoder=None),
    language=replace(TINY.language, vocabulary=PIECES + CODES + 2),
)


@pytest.fixture(scope="module")
def system() -> Seed:
    """Random weights, all of which matter."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = Seed(CONFIG, vocabulary(MODEL, CODES)).eval()
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.1)
    return made


@pytest.fixture
def files(system: Seed, tmp_path: Path) -> Path:
    """A folder with the published files."""
    export(save(system, tmp_path / "saved"), "published", tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    """What the shapes of so small files do not tell."""
    sizes = {
        "tokenizer": {"vision": {"heads": 4}, "qformer": {"heads": 4}, "branch_heads": 4, "shared": 64},
        "language": {"eps": CONFIG.language.eps},
    }
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    return tmp_path / "sizes.json"


def imported(files: Path, out: Path, changes: Path) -> tuple[Seed, list[str]]:
    paths = [files / "seed_quantizer.pt", files / "eva_vit_g.pth", files / "language"]
    made, notes = import_files(published(), paths, out, changes)
    system = load(made)
    assert isinstance(system, Seed)
    return system, notes


def same(one: Seed, two: Seed) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def licences_of(folder: Path) -> dict[str, str]:
    return {name: part["licence"] for name, part in read_description(folder)["parts"].items()}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    change(content)
    path.write_text(json.dumps(content))


def test_published_files_and_back(system: Seed, files: Path, changes: Path, tmp_path: Path) -> None:
    assert sorted(
        path.name for path in files.iterdir() if path.suffix != ".json" and path.name != "tokenizer.model"
    ) == [
        "eva_vit_g.pth",
        "language",
        "seed_quantizer.pt",
    ]
    again, notes = imported(files, tmp_path / "imported", changes)
    assert again.config == system.config and same(again, system)
    assert again.format.text == system.format.text
    assert notes == [note for note in notes if "unCLIP" in note] and len(notes) == 1
    licences = licences_of(tmp_path / "imported")
    assert "EVA" in licences["tokenizer"] and "non-commercial" in licences["language"]


def test_the_language_model_as_transformers_reads_it(system: Seed, tmp_path: Path) -> None:
    export(save(system, tmp_path / "saved"), "hf", tmp_path / "hf")
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (settings["vocab_size"], settings["pad_token_id"]) == (PIECES + CODES + 2, 0)
    added = json.loads((tmp_path / "hf" / "added_tokens.json").read_text())
    assert added["<img_00000>"] == PIECES and added["</img>"] == PIECES + CODES + 1
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    wanted = {name: tuple(one.shape) for name, one in system.language.state_dict().items()}
    read = dict(LLAMA.read(weights.items(), wanted))
    assert all(torch.equal(read[name], one) for name, one in system.language.state_dict().items())
    assert json.loads((tmp_path / "hf" / "special_tokens_map.json").read_text())["pad_token"] == "<unk>"


def test_a_language_model_without_words_for_pictures_is_given_them(
    system: Seed, files: Path, changes: Path, tmp_path: Path
) -> None:
    weights = load_file(files / "language" / "model.safetensors")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = weights[key][:PIECES].clone()
    save_file(weights, files / "language" / "model.safetensors")
    edit(files / "language" / "config.json", lambda content: content.update(vocab_size=PIECES))
    (files / "language" / "added_tokens.json").unlink()
    grown, notes = imported(files, tmp_path / "imported", changes)
    assert grown.config == system.config and grown.format.text == system.format.text
    for name in ("embed", "head"):
        mine, theirs = (getattr(one.language, name).weight for one in (grown, system))
        assert torch.equal(mine[:PIECES], theirs[:PIECES])
        assert 0.015 < float(mine[PIECES:].detach().std()) < 0.025
    assert not torch.equal(grown.language.embed.weight[PIECES:], grown.language.head.weight[PIECES:])
    assert any(f"no words for pictures: {CODES + 2} that have learned nothing yet" in note for note in notes)


def test_tables_of_another_release_are_refused(files: Path, changes: Path, tmp_path: Path) -> None:
    edit(files / "language" / "added_tokens.json", lambda content: content.update({"<more>": PIECES + CODES + 2}))
    wanted = f"has {PIECES + CODES + 2} rows for {PIECES + CODES + 3} words"
    with pytest.raises(CheckpointError, match=wanted):
        imported(files, tmp_path / "imported", changes)
    (files / "language" / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"put LLaMA's tokenizer.model beside the language model"):
        imported(files, tmp_path / "imported", changes)


@pytest.mark.parametrize("later", [False, True])
def test_white_space_beside_pictures(
    files: Path, changes: Path, tmp_path: Path, later: bool, picture: Callable[[int], Image]
) -> None:
    """Words that are described say whether they take it away; plain strings do."""
    name = "tokenizer_config.json" if later else "special_tokens_map.json"
    described = {"content": "<img>", "lstrip": False, "rstrip": False}
    told = {"added_tokens_decoder": {"448": described}} if later else {"additional_special_tokens": [described]}
    plain, _ = imported(files, tmp_path / "plain", changes)
    edit(files / "language" / name, lambda content: content.update(told))
    kept, _ = imported(files, tmp_path / "kept", changes)
    assert plain.config.strips and not kept.config.strips
    document = Document([Turn("user", ["see: ", picture(0)])])
    assert len(kept.layout(document, open=True)) > len(plain.layout(document, open=True))
    export(tmp_path / "kept", "published", tmp_path / "again")
    again, _ = imported(tmp_path / "again", tmp_path / "third", changes)
    assert again.config == kept.config


def test_a_llama_2_speaks_its_own_dialogue(files: Path, changes: Path, tmp_path: Path) -> None:
    edit(files / "language" / "config.json", lambda content: content.update(rms_norm_eps=1e-5))
    edit(changes, lambda content: content.pop("language"))
    system, _ = imported(files, tmp_path / "imported", changes)
    assert (system.config.dialogue, system.config.language.eps) == ("llama2", 1e-5)
    assert "LLaMA 2" in licences_of(tmp_path / "imported")["language"]


def test_adapters_are_merged_on_the_way_out(system: Seed, changes: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    adapted = load(save(system, tmp_path / "plain"))
    assert isinstance(adapted, Seed)
    adapted.adapt(LoRAConfig(rank=2, alpha=4.0, layers=LAYERS))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if name.endswith(".up"):
                weight.normal_(std=0.1)
    saved = save(adapted, tmp_path / "adapted")
    export(saved, "published", tmp_path / "files")
    adapted.merge()
    again, _ = imported(tmp_path / "files", tmp_path / "imported", changes)
    assert same(again, adapted) and not same(again, system)


def test_adapters_by_the_names_of_peft(system: Seed, tmp_path: Path) -> None:
    adapted = Seed(CONFIG, system.format.text)
    adapted.adapt(LoRAConfig(rank=2, layers=LAYERS))
    moved = {name: one for name, one in adapted.state_dict().items() if name.endswith((".down", ".up"))}
    written = dict(ADAPTERS_FILE.write(moved.items()))
    assert len(written) == 7 * 2 * CONFIG.language.depth
    assert written["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"].shape == (CONFIG.language.hidden, 2)
    wanted = {name: tuple(one.shape) for name, one in moved.items()}
    read = dict(ADAPTERS_FILE.read(written.items(), wanted))
    assert all(torch.equal(read[name], one) for name, one in moved.items())
