"""What users get wrong with MiniGPT-4's files is named, with the remedy; what they get right runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import plait
from plait.checkpoints import directory
from plait.checkpoints.minigpt4 import _size, published
from plait.checkpoints.parts import language_sizes, qformer_sizes, shape_of, vision_sizes
from plait.checkpoints.published import export, import_files
from plait.checkpoints.tensors import Spec, TensorFile
from plait.document import Document, Image, Turn
from plait.errors import CheckpointError, ConfigError
from plait.nn.llama import LLAMA_7B, LLaMAConfig
from plait.nn.lora import LoRA, LoRAConfig
from plait.nn.packed import PackedLinear
from plait.nn.qformer import BLIP2_QFORMER, QFormerConfig
from plait.nn.vit import EVA_VIT_G, VITConfig, resize_positions

Make = Callable[..., Any]
MANIFEST = json.loads((Path(__file__).parents[1] / "goldens" / "minigpt4" / "published.json").read_text())["files"]
SYSTEM = published()


def shapes(file: str) -> dict[str, tuple[int, ...]]:
    """Of a published file."""
    keys = next(one["keys"] for one in MANIFEST if str(one["file"]).startswith(file))
    return {key: tuple(shape) for key, (shape, _) in keys.items()}


def refused(message: str, paths: list[Path], config: Path | None, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error, match=message) as caught:
        import_files(SYSTEM, paths, paths[0].parent / "out", config)
    assert "\n" not in str(caught.value)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the weights in a file of torch."""
    content = torch.load(path, weights_only=True)
    change(content.get("model", content))
    torch.save(content, path)


def settings(folder: Path, **changed: Any) -> None:
    """Changes the config.json of transformers; None takes a key out."""
    path = folder / "config.json"
    value = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def test_sizes_of_the_published_files() -> None:
    tower, qformer = shapes("eva_vit_g"), shapes("blip2_pretrained_flant5xxl")
    within = "llama_model."
    language = {key.removeprefix(within): s for key, s in shapes("None").items() if key.startswith(within)}
    last = {key.replace("blocks.38.", "blocks.39."): shape for key, shape in tower.items() if ".38." in key}
    assert VITConfig(**vision_sizes(shape_of(tower))) == EVA_VIT_G
    assert VITConfig(**vision_sizes(shape_of(tower | last))) == EVA_VIT_G  # the file is likely to hold one more
    assert QFormerConfig(**qformer_sizes(shape_of(qformer))) == BLIP2_QFORMER
    assert LLaMAConfig(**language_sizes(shape_of(language), {})) == LLAMA_7B
    with pytest.raises(CheckpointError, match=r"lacks blocks\.0\.norm1\.weight"):
        vision_sizes(shape_of({key: shape for key, shape in tower.items() if "blocks" not in key}))


@pytest.mark.usefixtures("small_packs")
def test_an_import_answers(published_files: Make, tmp_path: Path, picture: Callable[[int], Image]) -> None:
    for variant in ("vicuna", "v2"):
        files = published_files(variant)
        out, _ = import_files(SYSTEM, files.all, tmp_path / variant, files.config)
        model = plait.load(out)  # as published: parts of several types
        assert {parameter.dtype for parameter in model.system.parameters()} == {torch.float16, torch.float32}
        asked = Document([Turn("user", [picture(0), "what is it?"])])
        reply = model.generate(asked, max_new_tokens=2, cut_prompt=True)
        assert len(reply.runs[0].ids) > 0
    packed = plait.load(out, dtype=torch.float32).system.language.decoder.blocks[0].attention.qkv
    assert isinstance(packed, LoRA) and isinstance(packed.linear, PackedLinear)


@pytest.mark.parametrize("variant", ["vicuna", "llama2"])
def test_a_new_projection_for_the_first_stage(published_files: Make, tmp_path: Path, variant: str) -> None:
    files = published_files(variant)
    rest = [path for path in files.all if path != files.projection]
    out, notes = import_files(SYSTEM, rest, tmp_path / "out", files.config, fresh=("projection",))
    again, _ = import_files(SYSTEM, rest, tmp_path / "again", files.config, fresh=("projection",))
    system = directory.load(out)
    trained = directory.load(import_files(SYSTEM, files.all, tmp_path / "trained", files.config)[0])
    assert system.projection.weight.shape == trained.projection.weight.shape
    assert system.projection.weight.dtype == torch.float32 and bool(system.projection.weight.std() > 0)
    assert torch.equal(system.projection.weight, directory.load(again).projection.weight)
    assert "projection is new: it has learned nothing yet" in notes
    described = directory.read_description(out)
    assert described["parts"]["projection"]["licence"] == "Apache-2.0"
    assert len(described["sources"]) == len(directory.read_description(tmp_path / "trained")["sources"]) - 1
    with pytest.raises(ConfigError, match="'projection' cannot be made anew"):
        import_files(SYSTEM, files.all, tmp_path / "both", files.config, fresh=("projection",))
    with pytest.raises(ConfigError, match="'vision' cannot be made anew"):
        import_files(SYSTEM, rest, tmp_path / "other", files.config, fresh=("vision",))
    with pytest.raises(CheckpointError, match="no file of EVA's tower"):
        import_files(SYSTEM, [files.language], tmp_path / "few", files.config, fresh=("projection",))


def test_the_last_block_of_the_tower_is_left_out(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    files.config.write_text(json.dumps({**json.loads(files.config.read_text()), "vision": {"heads": 4, "depth": 2}}))
    edit(files.tower, lambda state: state.update({"norm.weight": torch.ones(24), "mask_token": torch.ones(24)}))
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    assert len(directory.load(out).vision.blocks) == 2


def test_positions_are_resized_where_pictures_are_larger(published_files: Make, tmp_path: Path) -> None:
    files = published_files("v2")
    changes = json.loads(files.config.read_text())
    files.config.write_text(json.dumps({**changes, "vision": {"heads": 4, "image_size": 32}}))
    system = directory.load(import_files(SYSTEM, files.all, tmp_path / "out", files.config)[0])
    assert system.config.vectors == 16
    wanted = resize_positions(files.states["tower"]["pos_embed"].half().float(), 8, 8)
    torch.testing.assert_close(system.vision.positions.float(), wanted, atol=1e-3, rtol=1e-3)


def test_adapters_by_the_names_of_later_versions(published_files: Make, tmp_path: Path) -> None:
    files = published_files("v2")
    first, _ = import_files(SYSTEM, files.all, tmp_path / "first", files.config)
    later = {
        key.replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight"): tensor
        for key, tensor in files.states["projection"].items()
    }
    assert later.keys() != files.states["projection"].keys()
    torch.save({"model": later}, files.projection)
    second, _ = import_files(SYSTEM, files.all, tmp_path / "second", files.config)
    assert directory.read_description(first)["parts"] == directory.read_description(second)["parts"]
    assert directory.load(first).config.lora == LoRAConfig(rank=4, alpha=16.0, dropout=0.05)


# ------------------------------------------------------------------------------------- what is often confused


def test_a_missing_file_is_named_with_its_place(published_files: Make) -> None:
    files = published_files()
    for path, message in (
        (
            files.projection,
            "no file of MiniGPT-4's projection: give pretrained_minigpt4.pth .13B., prerained_minigpt4_7b",
        ),
        (files.tower, "no file of EVA's tower: give eva_vit_g.pth from https"),
        (files.blip2, "no file of BLIP-2's Q-Former: give blip2_pretrained_flant5xxl.pth from https"),
        (files.language, "no file of a LLaMA: give the folder of Vicuna v0"),
    ):
        refused(message, [other for other in files.all if other != path], files.config)
    refused("of EVA's tower: give .*; of a LLaMA: give", [files.projection, files.blip2], files.config)


def test_projections_and_language_models_of_two_variants(published_files: Make) -> None:
    vicuna, llama2 = published_files("vicuna"), published_files("llama2")
    refused(
        r"pretrained.pth: was trained on LLaMA-2 \(96 columns, joined patches\), but .*vicuna is a Vicuna or LLaMA "
        r"\(rms_norm_eps 1e-06, not 1e-05\): give Llama-2-7b-chat-hf",
        [llama2.projection, vicuna.tower, vicuna.language, vicuna.blip2],
        vicuna.config,
    )
    refused(
        r"was trained on Vicuna v0 \(16 columns, a Q-Former\), but .* is a LLaMA-2 \(rms_norm_eps 1e-05, not",
        [vicuna.projection, vicuna.tower, llama2.language, vicuna.blip2],
        vicuna.config,
    )
    refused(
        "blip2.pth: is of no use: a projection of joined patches has no Q-Former",
        [*llama2.all, vicuna.blip2],
        llama2.config,
    )


def test_who_says_what_it_is_is_believed(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    settings(files.language, rms_norm_eps=1e-5)
    changes = {**json.loads(files.config.read_text()), "language": {"eps": 1e-5}}
    files.config.write_text(json.dumps(changes))
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    assert directory.load(out).config.language.eps == 1e-5


def test_a_projection_of_another_size(published_files: Make) -> None:
    small, large = published_files(), published_files(width=48)
    refused(
        "pretrained.pth: leads to 48 wide, but .*vicuna is 32 wide: give the projection of that size",
        [large.projection, small.tower, small.blip2, small.language],
        small.config,
    )
    assert _size(4096) == "4096 wide (7B)" and _size(5120) == "5120 wide (13B)"


def test_other_q_formers(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    original = files.blip2.read_bytes()
    for change, message in (
        (lambda s: s.update({"opt_proj.weight": torch.ones(2, 2)}), "that of a BLIP-2 for OPT, another Q-Former: give"),
        (lambda s: s.update({"llm_proj.weight": torch.ones(2, 2)}), "that of an InstructBLIP, another Q-Former"),
        (lambda s: s.update({"itm_head.weight": torch.ones(2, 2)}), "is of BLIP-2's first stage, whose Q-Former"),
        (lambda s: s.pop("ln_vision.weight"), "has no ln_vision, the norm between tower and Q-Former: give all of"),
        (
            lambda s: s.update({"query_tokens": torch.ones(1, 5, 12)}),
            "takes 16 columns, but the Q-Former gives 12, and",
        ),
    ):
        files.blip2.write_bytes(original)
        edit(files.blip2, change)
        refused(message, files.all, files.config)
    files.blip2.write_bytes(original)
    edit(files.blip2, lambda s: s.pop("t5_proj.weight"))
    _, notes = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    assert "blip2.pth does not say which BLIP-2 it is of: it must be that for flan-t5-xxl" in notes


def test_the_q_former_of_flan_t5_xl_at_full_size() -> None:
    keys = shapes("blip2_pretrained_flant5xxl")
    given = {
        "projection": {"llama_proj.weight": (4096, 768), "llama_proj.bias": (4096,)},
        "tower": shapes("eva_vit_g"),
        "language": {key.removeprefix("llama_model."): s for key, s in shapes("None").items() if "llama_model" in key},
        "blip2": keys | {"t5_proj.weight": (2048, 768)},
    }
    files = {
        kind: TensorFile(
            path=Path(f"{kind}.pth"),
            files=(),
            specs={key: Spec(shape, torch.float16) for key, shape in own.items()},
            read={}.__getitem__,
        )
        for kind, own in given.items()
    }
    with pytest.raises(CheckpointError, match="leads to a T5 of width 2048, not to flan-t5-xxl's 4096"):
        SYSTEM.plan(files, {"language": {"eps": 1e-6}})


def test_what_a_folder_of_a_language_model_lacks(published_files: Make) -> None:
    files = published_files()
    (files.language / "tokenizer.model").rename(files.folder / "kept")
    (files.language / "tokenizer.json").write_text("{}")
    refused("tokenizer.model: no such file: put LLaMA's tokenizer.model beside", files.all, files.config)
    (files.folder / "kept").rename(files.language / "tokenizer.model")
    (files.language / "config.json").unlink()
    refused(r"config\.json: no such file: it tells heads and norms", files.all, files.config)


def test_language_models_that_are_built_otherwise(published_files: Make) -> None:
    files = published_files()
    for change, message in (
        ({"hidden_act": "gelu"}, "its config.json says hidden_act 'gelu', and Plait's LLaMA has 'silu' alone"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings True"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type 'llama3'"),
    ):
        settings(files.language, **change)
        refused(message, files.all, files.config)
        settings(files.language, **dict.fromkeys(change))
    with pytest.raises(CheckpointError, match=r"keys of 8 rows for queries of 32 \(grouped heads\)"):
        language_sizes(
            shape_of(
                {
                    "model.embed_tokens.weight": (384, 32),
                    "model.layers.0.mlp.gate_proj.weight": (48, 32),
                    "model.layers.0.input_layernorm.weight": (32,),
                    "model.layers.0.self_attn.q_proj.weight": (32, 32),
                    "model.layers.0.self_attn.k_proj.weight": (8, 32),
                }
            ),
            {},
            "vicuna",
        )


def test_positions_where_transformers_5_keeps_them(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    settings(files.language, rope_parameters={"rope_theta": 5000.0, "rope_type": "default"})
    out, _ = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    assert directory.load(out).config.language.base == 5000.0


def test_later_vicunas_are_told_where_they_can_be(published_files: Make, tmp_path: Path) -> None:
    files = published_files()
    settings(files.language, _name_or_path="lmsys/vicuna-7b-v1.5")
    _, notes = import_files(SYSTEM, files.all, tmp_path / "out", files.config)
    assert "vicuna seems to be Vicuna v1.5: MiniGPT-4 needs v0, later ones do not stop" in notes


def test_sizes_that_no_shape_tells(published_files: Make) -> None:
    files = published_files()
    refused("vision: VITConfig needs 'heads'", files.all, None, ConfigError)
    files.config.write_text("visoin: {heads: 4}")
    refused("did you mean 'vision'", files.all, files.config, ConfigError)
    files.config.write_text("{vision: {heads: 4}, qformer: {heads: 4}, language: 3}")
    refused("language: .*; --config FILE says what", files.all, files.config, ConfigError)


def test_tensors_with_another_number_of_axes(published_files: Make) -> None:
    files = published_files()
    edit(files.tower, lambda state: state.update({"pos_embed": torch.ones(17, 24)}))
    refused("the files hold tensors of another form .*; fetch the right ones", files.all, files.config)


def test_adapters_on_other_layers(published_files: Make, tmp_path: Path) -> None:
    files = published_files("v2")
    changed = {
        key.replace("q_proj", "k_proj") if "lora" in key else key: tensor
        for key, tensor in files.states["projection"].items()
    }
    torch.save({"model": changed}, files.projection)
    system = directory.load(import_files(SYSTEM, files.all, tmp_path / "out", files.config)[0])
    assert system.config.lora == LoRAConfig(rank=4, layers=("k", "v"))
    paths = export(tmp_path / "out", "published", tmp_path / "back")
    assert torch.load(paths[0], weights_only=True)["model"].keys() == changed.keys()


def test_what_published_files_cannot_hold_is_not_lost(published_files: Make, tmp_path: Path) -> None:
    files = published_files("v2")
    system = directory.load(import_files(SYSTEM, files.all, tmp_path / "out", files.config)[0])
    system.vision_norm.weight.data[0] = 2
    trained = directory.save(system, tmp_path / "trained")
    with pytest.raises(CheckpointError, match=r"vision_norm\.weight was trained, and the published"):
        export(trained, "published", tmp_path / "back")
    assert export(trained, "hf", tmp_path / "hf")
    system.config = replace(system.config, lora=replace(system.config.lora, alpha=8.0))
    with pytest.raises(ConfigError, match="adapters of alpha 8, which no published file tells"):
        export(directory.save(system, tmp_path / "other"), "published", tmp_path / "back")
    assert not (tmp_path / "back").exists()
