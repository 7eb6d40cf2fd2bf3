"""KOSMOS-2's files as users have them: read, written again, cut, refused; transformers as a live peer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plait.checkpoints import directory
from plait.checkpoints.kosmos1 import FAIRSEQ_FILE, HF_FILE, published
from plait.checkpoints.published import check_manifest, export, import_files
from plait.checkpoints.tensors import open_tensors
from plait.document import Document, Image
from plait.errors import CheckpointError, ConfigError
from plait.generate.model import Model
from plait.nn.magneto import MagnetoConfig
from plait.nn.vit import VITConfig
from plait.systems.kosmos1 import KOSMOS1, SYMBOLS, TOKENIZER, KOSMOS1Config
from plait.text.pieces import FairseqPieces

MANIFEST = Path(__file__).parents[1] / "goldens" / "kosmos1" / "published.json"
SYSTEM = published()
TEXTS = ("An image of a small red fox.", "Question: what is it? Answer: a dog in the snow.", "Is it correct? Yes")
PIECES = FairseqPieces.train(TEXTS, 64, SYMBOLS["kosmos2"])
CONFIG = KOSMOS1Config(
    vision=VITConfig(image_size=16, patch=4, width=24, depth=2, heads=3, hidden=40, eps=1e-5),
    language=MagnetoConfig(
        vocabulary=len(PIECES), width=32, depth=2, heads=4, hidden=48, length=64, positions="sinusoidal", dropout=0.1
    ),
    latents=5,
    symbols="kosmos2",
    over_white=False,
)
TOLD = {"vision": {"heads": 3}, "language": {"heads": 4, "length": 64}}
"""What the shapes of so small files do not tell, as `--config` gives it."""


@pytest.fixture
def system() -> KOSMOS1:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = KOSMOS1(CONFIG, PIECES).eval()
        for parameter in made.parameters():  # norms and biases too
            torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture
def saved(system: KOSMOS1, tmp_path: Path) -> Path:
    return directory.save(system, tmp_path / "saved")


@pytest.fixture
def file(system: KOSMOS1, tmp_path: Path) -> Path:
    """As fairseq saves it, with objects of its own beside the weights."""
    folder = tmp_path / "published"
    folder.mkdir()
    state = dict(FAIRSEQ_FILE.write(system.state_dict().items()))
    state["gpt_model.decoder.self_attn_sope.scale"] = torch.ones(4)
    content = {"args": argparse.Namespace(task="gpt"), "model": state, "last_optimizer_state": None}
    torch.save(content, folder / "kosmos-2.pt")
    PIECES.write(folder / TOKENIZER)
    (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in PIECES.dictionary))
    (folder / "sizes.json").write_text(json.dumps(TOLD))
    return folder / "kosmos-2.pt"


def fingerprints(folder: Path) -> dict[str, str]:
    return {name: part["fingerprint"] for name, part in directory.read_description(folder)["parts"].items()}


def same(one: KOSMOS1, other: KOSMOS1) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_manifest_is_clean() -> None:
    found = check_manifest(SYSTEM, MANIFEST)
    assert [(one["mapped"], one["ignored"]) for one in found] == [(885, 3), (885, 1), (885, 3)]
    assert all(one["missing"] == one["unexpected"] == [] for one in found)


def test_a_checkpoint_of_fairseq(file: Path, system: KOSMOS1, tmp_path: Path) -> None:
    out, notes = import_files(SYSTEM, [file], tmp_path / "out", file.with_name("sizes.json"))
    loaded = directory.load(out)
    assert isinstance(loaded, KOSMOS1) and same(loaded, system)
    assert loaded.config == CONFIG
    assert loaded.format.text == PIECES
    assert any("Namespace" in note for note in notes)
    assert {part.licence for part in loaded.parts.values()} == {"MIT (CLIP, KOSMOS-2)", "MIT (KOSMOS-2)"}


def test_exports_come_back(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text(json.dumps(TOLD))
    for format, name, keys in (("published", "kosmos-2.pt", FAIRSEQ_FILE), ("hf", ".", HF_FILE)):
        (path,) = export(saved, format, tmp_path / format)
        assert path == tmp_path / format / name
        again, _ = import_files(SYSTEM, [path], tmp_path / f"{format}-again", tmp_path / "sizes.json")
        assert fingerprints(again) == fingerprints(saved)
        assert (tmp_path / format / TOKENIZER).read_bytes() == PIECES.model
        assert keys.published("language.embed.weight")[0] in open_tensors(path).specs
    scale = torch.load(tmp_path / "published" / "kosmos-2.pt")["model"]["gpt_model.decoder.self_attn_sope.scale"]
    torch.testing.assert_close(scale, torch.tensor([2 / 7, 13 / 28, 9 / 14, 23 / 28]))  # (2i + 0.4 8) / (1.4 8)


def test_a_vocabulary_is_cut(file: Path, system: KOSMOS1, tmp_path: Path) -> None:
    sizes = file.with_name("sizes.json")
    sizes.write_text(json.dumps({**TOLD, "symbols": "kosmos1"}))
    out, notes = import_files(SYSTEM, [file], tmp_path / "out", sizes)
    cut = directory.load(out)
    kept = len(PIECES) - 1030
    assert cut.config.language.vocabulary == kept == len(cut.format.text)
    assert torch.equal(cut.language.embed.weight, system.language.embed.weight[:kept])
    assert any(f"cut from {kept + 1030} to {kept} ids" in note for note in notes)
    document = Document("An image of")
    assert cut.layout(document).ids().tolist() == system.layout(document).ids().tolist()


def test_what_is_refused(file: Path, saved: Path, tmp_path: Path) -> None:
    sizes = file.with_name("sizes.json")

    def refused(message: str, paths: list[Path], error: type[Exception] = CheckpointError) -> None:
        with pytest.raises(error, match=message) as caught:
            import_files(SYSTEM, paths, tmp_path / "refused", sizes)
        assert "\n" not in str(caught.value)

    (folder,) = export(saved, "hf", tmp_path / "hf")
    refused("2 files, of which each holds everything", [file, folder])
    lines = (file.with_name("dict.txt")).read_text().splitlines()
    file.with_name("dict.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    refused("2 of .* lines are not the pieces", [file])
    file.with_name("dict.txt").unlink()
    FairseqPieces.train(("a cat",), 10, ()).write(file.with_name(TOKENIZER))
    refused(r"rows for a tokenizer of \d+ ids", [file])
    file.with_name(TOKENIZER).unlink()
    refused(f"put the published {TOKENIZER} beside", [file])
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["scale_embedding"] = False
    (folder / "config.json").write_text(json.dumps(settings))
    refused("scale_embedding False", [folder])


def test_xpos_has_no_published_form(system: KOSMOS1, tmp_path: Path) -> None:
    config = replace(CONFIG, language=replace(CONFIG.language, positions="xpos"))
    folder = directory.save(KOSMOS1(config, PIECES), tmp_path / "xpos")
    for format in ("published", "hf"):
        with pytest.raises(ConfigError, match="positions xpos: the programs of both formats add sinusoids"):
            export(folder, format, tmp_path / format)


def test_transformers_says_the_same(
    saved: Path, system: KOSMOS1, tmp_path: Path, picture: Callable[[int], Image]
) -> None:
    transformers = pytest.importorskip("transformers")
    export(saved, "hf", tmp_path / "hf")
    theirs = transformers.Kosmos2ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    document = Document([picture(0), "An image of", picture(1), "Is it correct? <grounding> Yes"])
    laid = system.layout(document, open=True)
    batch = system.format.collator()([[laid]], shift=False)
    ids = torch.from_numpy(laid.ids(4))[None]  # what stands in the places of pictures does not matter
    places = torch.from_numpy(laid.ids() < 0)[None]
    seen = {"pixel_values": batch.images, "input_ids": ids, "image_embeds_position_mask": places}
    with torch.no_grad():
        wanted = theirs(**seen, use_cache=False).logits
        logits = system.heads["token"](system(batch).states)
        torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=1e-4)
        again = theirs.generate(**seen, max_new_tokens=6, do_sample=False, bad_words_ids=[[PIECES.pad]])
    said = Model(system).generate(document, max_new_tokens=6).runs[0].ids
    assert again[0, ids.shape[1] :].tolist()[: len(said)] == said
