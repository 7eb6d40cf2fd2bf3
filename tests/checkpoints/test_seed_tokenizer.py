"""What users get wrong with the files of SEED's tokenizer is named, with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from plait.checkpoints import directory
from plait.checkpoints.diffusion import OLD_VAE
from plait.checkpoints.parts import CLIP
from plait.checkpoints.published import export, import_files
from plait.checkpoints.seed_tokenizer import published
from plait.checkpoints.tensors import open_tensors
from plait.errors import CheckpointError, ConfigError
from plait.nn.clip import CLIPTextConfig, TextTower
from plait.systems.seed_tokenizer import SeedTokenizer

MANIFEST = json.loads((Path(__file__).parents[1] / "goldens" / "seed" / "published.json").read_text())["files"]
TEXT = CLIPTextConfig(vocabulary=7, positions=4, width=8, depth=1, heads=1, hidden=16)


class Files:
    """The published files of a tokenizer, made by its export, with a tower of texts added."""

    def __init__(self, system: SeedTokenizer, folder: Path) -> None:
        made = directory.save(system, folder / "plait")
        export(made, "published", folder / "files", published())
        self.codes, self.tower, self.unclip = (
            folder / "files" / name for name in ("seed_quantizer.pt", "eva_vit_g.pth", "unclip")
        )
        self.config = folder / "sizes.json"
        heads = {"vision": {"heads": 2}, "qformer": {"heads": 2}, "branch_heads": 2, "shared": 8}
        self.config.write_text(json.dumps({**heads, "decoder": {"prompt": {"text": {"heads": 1}}}}))
        text = self.unclip / "text_encoder"
        text.mkdir()
        tower = TextTower(TEXT, "gelu")
        weights = dict(CLIP.write((f"text.{name}", tensor) for name, tensor in tower.state_dict().items()))
        save_file(weights, text / "model.safetensors")
        names = {
            "vocab_size": 7,
            "max_position_embeddings": 4,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 16,
            "hidden_act": "gelu",
        }
        (text / "config.json").write_text(json.dumps(names))
        (self.unclip / "tokenizer").mkdir()
        (self.unclip / "tokenizer" / "vocab.json").write_text(json.dumps({"!": 0, "a": 5, "z": 6}))
        symbols = {"bos_token": "a", "eos_token": {"content": "z"}, "pad_token": "!"}
        (self.unclip / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({**symbols, "pad_token": "z"}))
        (self.unclip / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(symbols))

    @property
    def all(self) -> list[Path]:
        return [self.codes, self.tower, self.unclip]


@pytest.fixture
def files(seed_tokenizer: SeedTokenizer, tmp_path: Path) -> Files:
    return Files(seed_tokenizer, tmp_path)


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def refused(message: str, paths: list[Path], config: Path | None, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error, match=message) as caught:
        import_files(published(), paths, paths[0].parent / "out", config)
    assert "\n" not in str(caught.value)


def test_what_is_imported_draws(files: Files, tmp_path: Path, seed_tokenizer: SeedTokenizer) -> None:
    made, notes = import_files(published(), files.all, tmp_path / "made", files.config)
    system = directory.load(made)
    assert isinstance(system, SeedTokenizer) and not notes
    prompt = system.config.decoder and system.config.decoder.prompt
    assert prompt is not None and (prompt.begin, prompt.end, prompt.pad) == (5, 6, 0)
    codes = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(system.embed(codes), seed_tokenizer.embed(codes))
    pictures = system.decode(codes, torch.Generator().manual_seed(0))
    assert [image.open().size for image in pictures] == [(8, 8)] * 2
    described = directory.read_description(made)["parts"]
    assert described["vision"]["licence"].startswith("MIT") and "Stable Diffusion" in described["decoder"]["licence"]


def test_without_unclip_there_are_codes_alone(files: Files, tmp_path: Path) -> None:
    config: dict[str, Any] = json.loads(files.config.read_text())
    del config["decoder"]
    files.config.write_text(json.dumps(config))
    made, notes = import_files(published(), files.all[:2], tmp_path / "made", files.config)
    system = directory.load(made)
    assert isinstance(system, SeedTokenizer) and system.decoder is None
    assert len(notes) == 1 and "no pictures are drawn: give the folder of" in notes[0]


def test_what_training_left_is_known_by_name(files: Files, tmp_path: Path) -> None:
    (extra,) = [one["unused"] for one in MANIFEST if str(one["file"]).endswith("seed_quantizer.pt")]
    assert len(extra) == 146
    edit(files.codes, lambda state: state.update({key: torch.zeros(1) for key in extra}))
    import_files(published(), files.all, tmp_path / "made", files.config)
    edit(files.codes, lambda state: state.update({"blocks_extra.0.norm1.weight": torch.zeros(1)}))
    refused("0 tensors missing, 1 not expected: blocks_extra.0.norm1.weight", files.all, files.config)


def test_files_that_do_not_go_together(files: Files) -> None:
    refused("no file of EVA's tower: give eva_vit_g.pth", [files.codes, files.unclip], files.config)
    refused("no file of SEED's codes: give seed_quantizer.pt", [files.tower], files.config)
    edit(files.tower, lambda state: state.update({"pos_embed": torch.zeros(1, 5, 24)}))
    refused("looks at patches of width 16, and those of .* have 24", files.all, files.config)


def test_an_unclip_of_another_embedding(files: Files) -> None:
    name = files.unclip / "image_normalizer" / "diffusion_pytorch_model.safetensors"
    save_file({"mean": torch.zeros(1, 6), "std": torch.ones(1, 6)}, name)
    refused("draws from embeddings 6 wide, but .* makes 12", files.all, files.config)


def test_an_unclip_that_is_not_whole(files: Files) -> None:
    (files.unclip / "scheduler" / "scheduler_config.json").unlink()
    refused("scheduler_config.json: no such file: give the whole folder", files.all, files.config)


def test_the_first_stage_is_named(files: Files) -> None:
    edit(files.codes, lambda state: [state.pop(key) for key in list(state) if key.startswith("encode_task")])
    refused("is of the first stage of training, without codes", files.all, files.config)


def test_the_old_names_of_a_vae(files: Files, tmp_path: Path) -> None:
    path = files.unclip / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key: str) -> str:
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        return key

    tensors = open_tensors(files.unclip / "vae")
    state = {renamed(key): tensor.clone() for key, tensor in tensors.items()}
    assert sum(key not in tensors for key in state) == 16
    path.unlink()
    save_file(state, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    made, _ = import_files(published(), files.all, tmp_path / "made", files.config)
    name = "decoder.diffusion.vae.encoder.mid_block.attentions.0.to_q.weight"
    assert OLD_VAE.published(name.removeprefix("decoder."))
    assert torch.equal(directory.load(made).state_dict()[name], state["encoder.mid_block.attentions.0.query.weight"])


def test_what_no_published_file_holds(seed_tokenizer: SeedTokenizer, tmp_path: Path) -> None:
    made = directory.save(seed_tokenizer, tmp_path / "made")
    with pytest.raises(ConfigError, match="has no form in transformers"):
        export(made, "hf", tmp_path / "out")
