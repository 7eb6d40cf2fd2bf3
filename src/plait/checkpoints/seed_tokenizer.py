"""The published names of SEED's tokenizer, and of what it took its parts from.

| file | table |
| --- | --- |
| `seed_quantizer.pt`: norm, Q-Former, codes, both branches, head | `QUANTIZER_FILE` |
| `eva_vit_g.pth`, the tower (LAVIS) | `plait.checkpoints.minigpt4.vision_file(depth)` |
| the folder of unCLIP, as diffusers stores it | `plait.checkpoints.diffusion.unclip_table` |
| what the first stage of training saved, never published | `STAGE1_FILE` |

All but the tower's and unCLIP's are ignored by name: what the file of codes holds beside them is left from training.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.checkpoints.diffusion import (
    SIGN,
    Pipeline,
    prompt_export,
    unclip_exports,
    unclip_papers,
    unclip_table,
)
from plait.checkpoints.keymap import KeyMap, Source
from plait.checkpoints.minigpt4 import LICENCES, TOWER, vision_file
from plait.checkpoints.parts import (
    QFORMER,
    VISION_NORM,
    count,
    qformer_sizes,
    shape_of,
    state_of,
    vision_sizes,
)
from plait.checkpoints.published import Export, Kind, Plan, Published, over
from plait.checkpoints.tensors import Shape, TensorFile
from plait.config import from_plain
from plait.errors import CheckpointError, ConfigError
from plait.nn.qformer import QFormer, QFormerConfig, QFormerHeads, TextConfig
from plait.nn.vit import VITConfig, eva_vit
from plait.systems.seed_tokenizer import SeedTokenizer, SeedTokenizerConfig


def _branch(ours: str, blocks: str, positions: str) -> dict[str, Source]:
    return {
        f"{ours}.positions": positions,
        f"{ours}.blocks.{{i}}.attention_norm.{{w}}": f"{blocks}.{{i}}.norm1.{{w}}",
        f"{ours}.blocks.{{i}}.attention.qkv.{{w}}": f"{blocks}.{{i}}.attn.qkv.{{w}}",
        f"{ours}.blocks.{{i}}.attention.out.{{w}}": f"{blocks}.{{i}}.attn.proj.{{w}}",
        f"{ours}.blocks.{{i}}.mlp_norm.{{w}}": f"{blocks}.{{i}}.norm2.{{w}}",
        f"{ours}.blocks.{{i}}.mlp.hidden.{{w}}": f"{blocks}.{{i}}.mlp.fc1.{{w}}",
        f"{ours}.blocks.{{i}}.mlp.out.{{w}}": f"{blocks}.{{i}}.mlp.fc2.{{w}}",
    }


_TEXTS = "of a branch that led to embeddings of texts, which SEED-2 was trained without"
_CONTRAST = "compared and matched pictures with texts in the first stage; the text branch for it is not in the file"

QUANTIZER_FILE = (
    VISION_NORM
    | KeyMap(
        {
            "down.{i}.{w}": "encode_task_layer.{i}.{w}",
            "quantiser.codebook.weight": "quantize.embedding.weight",
            "up.{i}.{w}": "decode_task_layer.{i}.{w}",
            **_branch("reconstruct", "blocks", "pos_embed"),
            **_branch("generate", "blocks_image", "pos_embed_image"),
            "head.narrow.{i}.weight": "image_down.{i}.weight",
            "head.qformer.queries": "reverse_tokens",
            "head.out.{w}": "distill_image_proj.{w}",
        },
        ignored={
            "reverse_tokens_text": _TEXTS,
            "Reverse_Qformer_text.bert.{rest}": _TEXTS,
            "pos_embed_text": _TEXTS,
            "blocks_text.{i}.{rest}": _TEXTS,
            "distill_text_proj.{w}": _TEXTS,
            "text_proj.{w}": _CONTRAST,
            "vision_proj.{w}": _CONTRAST,
            "temp": _CONTRAST,
            "itm_head.{w}": _CONTRAST,
        },
    )
    | QFORMER.under(ours="qformer.")
    | QFORMER.under("Reverse_", "head.qformer.")
)

STAGE1_FILE = (
    VISION_NORM
    | QFORMER.under(ours="qformer.")
    | KeyMap(
        {
            "heads_of_qformer.image.{w}": "vision_proj.{w}",
            "heads_of_qformer.text.{w}": "text_proj.{w}",
            "heads_of_qformer.temperature": "temp",
        },
        ignored={"Qformer.cls.predictions.{rest}": "BERT's guesses of words, which no loss of SEED's asks for"},
    )
)

QUANTIZER, UNCLIP, STAGE1 = "quantizer", "unclip", "stage1"
UNCLIP_FOLDER = "unclip"
_HUB = "https://huggingface.co/"


def quantizer_sizes(shapes: Mapping[str, Shape], where: str) -> dict[str, Any]:
    """A plain `SeedTokenizerConfig` without tower and decoder."""
    shape = shape_of(shapes, where=where)
    codes, code_width = shape("quantize.embedding.weight")
    sizes: dict[str, Any] = {
        "qformer": {**qformer_sizes(shape), "causal": True},
        "codes": codes,
        "code_width": code_width,
        "embedding": shape("distill_image_proj.weight")[0],
        "branch_depth": count(shape, "blocks_image.{i}.norm1.weight"),
    }
    if "reverse_tokens" in shapes:
        layer = "Reverse_Qformer.bert.encoder.layer.{i}.attention.self.query.weight"
        return {**sizes, "narrowing": (), "reverse_depth": count(shape, layer)}
    layers = sorted(int(key.split(".")[1]) for key in shapes if key.startswith("image_down."))
    return {**sizes, "narrowing": tuple(shape(f"image_down.{i}.weight")[0] for i in layers)}


def tokenizer_sizes(given: Mapping[str, TensorFile], kinds: Items[Kind]) -> tuple[dict[str, Any], list[str]]:
    """A plain `SeedTokenizerConfig` of the files, and notes.

    Args:
        given: by kind; unCLIP may be missing.
        kinds: for messages.

    Raises:
        CheckpointError: a file is missing, or files are of different sizes.
    """
    if STAGE1 in given:
        raise CheckpointError(
            f"{given[STAGE1].path}: is of the first stage of training, without codes: give seed_quantizer.pt"
        )
    missing = [kind for kind in kinds if kind.name in (QUANTIZER, TOWER) and kind.name not in given]
    if missing:
        raise CheckpointError("no file " + "; ".join(f"of {kind.what}: give {kind.where}" for kind in missing))
    codes, tower = given[QUANTIZER], given[TOWER]
    plain = quantizer_sizes(codes.shapes, str(codes.path))
    plain["vision"] = vision_sizes(shape_of(tower.shapes, where=str(tower.path)))
    if plain["qformer"]["image_width"] != plain["vision"]["width"]:
        raise CheckpointError(
            f"{codes.path}: looks at patches of width {plain['qformer']['image_width']}, and those of {tower.path} "
            f"have {plain['vision']['width']}: give the tower that it was trained on"
        )
    if UNCLIP not in given:
        return plain, [f"no folder of unCLIP, so no pictures are drawn: give {_where_unclip()} to have them"]
    folder = given[UNCLIP]
    plain["decoder"], notes = Pipeline(folder).unclip()
    if plain["decoder"]["embedding"] != plain["embedding"]:
        raise CheckpointError(
            f"{folder.path}: draws from embeddings {plain['decoder']['embedding']} wide, but {codes.path} makes "
            f"{plain['embedding']}: give stable-diffusion-2-1-unclip, not its small variant"
        )
    return plain, notes


def tokenizer_tables(given: Mapping[str, TensorFile], config: SeedTokenizerConfig, ours: str = "") -> dict[str, KeyMap]:
    """Kind -> table, of those that are given.

    Args:
        ours: the prefix of our names, with its dot, where it is a part.
    """
    tables = {QUANTIZER: QUANTIZER_FILE, TOWER: vision_file(config.vision.depth)}
    if UNCLIP in given:
        tables[UNCLIP] = unclip_table(given[UNCLIP].shapes).under(ours="decoder.")
    return {kind: table.under(ours=ours) for kind, table in tables.items() if kind in given}


def tokenizer_exports(config: SeedTokenizerConfig, ours: str = "") -> list[Export]:
    """The published files of a tokenizer.

    Args:
        ours: the prefix of our names, with its dot, where it is a part.

    Raises:
        ConfigError: it has what no published file holds.
    """
    if config.qformer.text or not config.qformer.causal:
        kind = "a text branch" if config.qformer.text else "queries that are not causal"
        raise ConfigError(f"a tokenizer with {kind} has no place in the published files: keep Plait's own")
    files = [
        Export(name="seed_quantizer.pt", table=QUANTIZER_FILE.under(ours=ours)),
        Export(name="eva_vit_g.pth", table=vision_file(config.vision.depth).under(ours=ours)),
    ]
    if config.decoder:
        files += unclip_exports(UNCLIP_FOLDER, f"{ours}decoder.")
        if config.decoder.prompt:
            files.append(prompt_export(UNCLIP_FOLDER, f"{ours}decoder.", config.decoder.prompt))
    return files


def tokenizer_papers(config: SeedTokenizerConfig) -> dict[str, Any]:
    """The JSON files of the decoder's folder."""
    return unclip_papers(UNCLIP_FOLDER, config.decoder) if config.decoder else {}


def _where_unclip() -> str:
    return f"the folder of {_HUB}stabilityai/stable-diffusion-2-1-unclip"


def _quantizer(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    plain = quantizer_sizes(shapes, "the list of keys")
    config = from_plain(SeedTokenizerConfig, {"vision": {**_EVA, "width": plain["qformer"]["image_width"]}, **plain})
    with torch.device("meta"):
        state = SeedTokenizer(config).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("vision.")}, QUANTIZER_FILE


_EVA = {"image_size": 14, "patch": 14, "depth": 0, "heads": 1, "hidden": 1}  # a tower that is not looked at


def _tower(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    config = from_plain(VITConfig, vision_sizes(shape_of(shapes)))
    with torch.device("meta"):
        return state_of(vision=eva_vit(config, nn.Identity())), vision_file(config.depth)


def _unclip(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    raise CheckpointError("a list of keys does not tell the sizes of unCLIP: give its folder")


def _stage1(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    shape = shape_of(shapes)
    words, places = (f"Qformer.bert.embeddings.{name}_embeddings.weight" for name in ("word", "position"))
    text = TextConfig(vocabulary=shape(words)[0], positions=shape(places)[0])
    config = replace(from_plain(QFormerConfig, qformer_sizes(shape)), text=text, causal=True)
    with torch.device("meta"):
        heads = QFormerHeads(config, shape("vision_proj.weight")[0], compares_only=True)
        norm = nn.LayerNorm(config.image_width)
        return state_of(vision_norm=norm, qformer=QFormer(config), heads_of_qformer=heads), STAGE1_FILE


KINDS = (
    Kind(
        name=QUANTIZER,
        sign="encode_task_layer.0.weight",
        what="SEED's codes",
        where=f"seed_quantizer.pt of {_HUB}AILab-CVC/seed-tokenizer-2",
        hollow=_quantizer,
    ),
    Kind(
        name=TOWER,
        sign="cls_token",
        what="EVA's tower",
        where="eva_vit_g.pth from https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/",
        hollow=_tower,
    ),
    Kind(name=UNCLIP, sign=SIGN, what="unCLIP", where=_where_unclip(), hollow=_unclip),
    Kind(
        name=STAGE1,
        sign="query_tokens",
        what="the first stage of SEED's tokenizer",
        where="what its training saved",
        hollow=_stage1,
    ),
)

TOKENIZER_LICENCES = {
    "vision": LICENCES["vision"],
    **dict.fromkeys(
        ("vision_norm", "qformer", "down", "quantiser", "up", "reconstruct", "generate", "head"), "Apache-2.0 (SEED)"
    ),
    "decoder": "CreativeML Open RAIL++-M (Stable Diffusion 2.1 unCLIP)",
}


def published() -> Published:
    """For `plait import seed_tokenizer` and `plait export`."""
    return TokenizerFiles()


class TokenizerFiles(Published):
    """Codes and tower, with or without unCLIP."""

    kinds = KINDS

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """The sizes are those of the files; unCLIP's are in its JSON files."""
        plain, notes = tokenizer_sizes(given, self.kinds)
        config = from_plain(SeedTokenizerConfig, over(plain, changes))
        return Plan(
            system=SeedTokenizer,
            config=config,
            tables=tokenizer_tables(given, config),
            files=given[QUANTIZER].folder,
            licences={part: name for part, name in TOKENIZER_LICENCES.items() if part != "decoder" or config.decoder},
            notes=tuple(notes),
        )

    def exports(self, config: SeedTokenizerConfig, format: str) -> Items[Export]:
        """The three published files."""
        if format == "hf":
            raise ConfigError("SEED's tokenizer has no form in transformers: export the published files")
        return tokenizer_exports(config)

    def papers(self, config: SeedTokenizerConfig, format: str) -> Mapping[str, Any]:
        """Those of unCLIP."""
        return tokenizer_papers(config)
