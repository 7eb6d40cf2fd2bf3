"""The published names of KOSMOS-1's parts, which are KOSMOS-2's: no weights of KOSMOS-1 were released.

| file | table |
| --- | --- |
| `kosmos-2.pt`, a checkpoint of fairseq | `FAIRSEQ_FILE` |
| `microsoft/kosmos-2-patch14-224`, as transformers stores it | `HF_FILE` |

Both hold everything but the tokenizer, `sentencepiece.bpe.model`, which must lie beside them. Their positions are
sinusoids, whatever the paper says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.checkpoints.keymap import KeyMap, Source
from plait.checkpoints.parts import FilePart, axes, count, heads_of, shape_of, state_of
from plait.checkpoints.published import Export, Kind, Plan, Published, over
from plait.checkpoints.tensors import Shape, TensorFile, read_json
from plait.config import from_plain
from plait.errors import CheckpointError, ConfigError
from plait.nn.clip import CLIP_VIT_L14, clip_vit
from plait.nn.magneto import Magneto
from plait.nn.resampler import Resampler
from plait.systems.kosmos1 import KOSMOS1, KOSMOS2_1_6B, SYMBOLS, TOKENIZER, KOSMOS1Config
from plait.text.pieces import FairseqPieces

_SIDES = ("q", "k", "v")


def _attention(ours: str, theirs: str) -> dict[str, Source]:
    return {
        f"{ours}.qkv.{{w}}": tuple(f"{theirs}.{side}_proj.{{w}}" for side in _SIDES),
        f"{ours}.out.{{w}}": f"{theirs}.out_proj.{{w}}",
    }


def _resampler(ours: str, theirs: str) -> dict[str, Source]:
    attention = f"{theirs}x_attn."
    return {
        f"{ours}queries": f"{theirs}latent_query",
        f"{ours}project.{{w}}": f"{theirs}dense.{{w}}",
        f"{ours}attention.q.{{w}}": f"{attention}q_proj.{{w}}",
        f"{ours}attention.kv.{{w}}": (f"{attention}k_proj.{{w}}", f"{attention}v_proj.{{w}}"),
        f"{ours}attention.out.{{w}}": f"{attention}out_proj.{{w}}",
    }


def _language(ours: str, theirs: str) -> dict[str, Source]:
    block, layer = f"{ours}decoder.blocks.{{i}}.", f"{theirs}layers.{{i}}."
    return {
        f"{ours}embed.weight": f"{theirs}embed_tokens.weight",
        f"{block}attention_norm.{{w}}": f"{layer}self_attn_layer_norm.{{w}}",
        **_attention(f"{block}attention", f"{layer}self_attn"),
        f"{block}attention.norm.{{w}}": f"{layer}self_attn.inner_attn_ln.{{w}}",
        f"{block}mlp_norm.{{w}}": f"{layer}final_layer_norm.{{w}}",
        f"{block}mlp.hidden.{{w}}": f"{layer}ffn.fc1.{{w}}",
        f"{block}mlp.activation.norm.{{w}}": f"{layer}ffn.ffn_layernorm.{{w}}",
        f"{block}mlp.out.{{w}}": f"{layer}ffn.fc2.{{w}}",
        f"{ours}decoder.norm.{{w}}": f"{theirs}layer_norm.{{w}}",
    }


def _vision(theirs: str, layers: str, names: Mapping[str, str]) -> dict[str, Source]:
    """The tower, whose two programs differ in every name; `names`: ours to theirs, of blocks behind `layers`."""
    block, layer = "vision.blocks.{i}.", f"{theirs}{layers}.{{i}}."
    return {
        "vision.class_token": axes(theirs + names["class_token"], 2),
        "vision.positions": axes(theirs + names["positions"], 1),
        "vision.patch.weight": theirs + names["patch"],
        "vision.embed_norm.{w}": f"{theirs}{names['embed_norm']}.{{w}}",
        f"{block}attention_norm.{{w}}": f"{layer}{names['attention_norm']}.{{w}}",
        **_attention(f"{block}attention", layer + names["attention"]),
        f"{block}mlp_norm.{{w}}": f"{layer}{names['mlp_norm']}.{{w}}",
        f"{block}mlp.hidden.{{w}}": f"{layer}{names['hidden']}.{{w}}",
        f"{block}mlp.out.{{w}}": f"{layer}{names['out']}.{{w}}",
        "vision.norm.{w}": f"{theirs}{names['norm']}.{{w}}",
    }


_OPEN_CLIP = {
    "class_token": "class_embedding",
    "positions": "positional_embedding",
    "patch": "conv1.weight",
    "embed_norm": "ln_pre",
    "attention_norm": "ln_1",
    "attention": "ts_attn",
    "mlp_norm": "ln_2",
    "hidden": "mlp.c_fc",
    "out": "mlp.c_proj",
    "norm": "ln_post",
}
_HF_CLIP = {
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patch": "embeddings.patch_embedding.weight",
    "embed_norm": "pre_layrnorm",  # so it is called
    "attention_norm": "layer_norm1",
    "attention": "self_attn",
    "mlp_norm": "layer_norm2",
    "hidden": "mlp.fc1",
    "out": "mlp.fc2",
    "norm": "post_layernorm",
}

_DECODER, _VISUAL = "gpt_model.decoder.", "img_model.visual."
_FLOAT, _SCALE = f"{_DECODER}embed_positions._float_tensor", f"{_DECODER}self_attn_sope.scale"

FAIRSEQ_FILE = KeyMap(
    _vision(_VISUAL, "transformer.resblocks", _OPEN_CLIP)
    | _resampler("resampler.", "img_connector.")
    | _language("language.", _DECODER),
    ignored={_FLOAT: "holds no numbers, but a type", _SCALE: "follows from the head width; the program never uses it"},
    tied={f"{_DECODER}output_projection.weight": f"{_DECODER}embed_tokens.weight"},
)

_TEXT, _SEEN = "text_model.", "vision_model.model."

HF_FILE = KeyMap(
    _vision(_SEEN, "encoder.layers", _HF_CLIP)
    | _resampler("resampler.", "image_to_text_projection.")
    | _language("language.", f"{_TEXT}model."),
    ignored={
        f"{_SEEN}embeddings.position_ids": "numbers from 0 on",
        f"{_TEXT}model.embed_positions.weights": "follow from the width",
    },
    tied={f"{_TEXT}lm_head.weight": f"{_TEXT}model.embed_tokens.weight"},
)

FAIRSEQ, HF = "fairseq", "hf"
_TABLES = {FAIRSEQ: FAIRSEQ_FILE, HF: HF_FILE}

_LICENCE = "MIT (KOSMOS-2)"
LICENCES = {"vision": "MIT (CLIP, KOSMOS-2)", "resampler": _LICENCE, "language": _LICENCE}


def _sizes(kind: str, shapes: Mapping[str, Shape], where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A plain `KOSMOS1Config` without its symbols: widths from shapes, the rest from transformers' config.json."""
    shape = shape_of(shapes, where=where)
    table = _TABLES[kind]

    def of(name: str) -> Shape:
        (key,) = table.published(name) or ()
        assert key is not None
        return shape(key)

    def depth(name: str) -> int:
        key = (table.published(name.format(i=0)) or ("",))[0]
        return count(shape, str(key).replace(".0.", ".{i}."))

    vocabulary, width = of("language.embed.weight")
    places, seen = of("vision.positions")
    patch = of("vision.patch.weight")[2]
    text, vision = (settings.get(f"{side}_config") or {} for side in ("text", "vision"))
    wanted = {"activation_function": "gelu", "scale_embedding": True, "add_cross_attention": False}
    for key, value in wanted.items():
        if text.get(key, value) != value:
            raise CheckpointError(
                f"{where}: its config.json says {key} {text[key]!r}, and Plait's has {value!r}: give KOSMOS-2's own"
            )
    if vision.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise CheckpointError(
            f"{where}: its tower has {vision['hidden_act']!r}, and Plait's has 'quick_gelu' alone: give KOSMOS-2's own"
        )
    told = {"heads": "attention_heads", "length": "max_position_embeddings", "eps": "layer_norm_eps"}
    told |= {"dropout": "dropout"}
    return {
        "vision": {
            "image_size": math.isqrt(places - 1) * patch,
            "patch": patch,
            "width": seen,
            "depth": depth("vision.blocks.{i}.attention_norm.weight"),
            "hidden": of("vision.blocks.0.mlp.hidden.weight")[0],
            "eps": vision.get("layer_norm_eps", CLIP_VIT_L14.eps),
            **heads_of(seen, CLIP_VIT_L14.width // CLIP_VIT_L14.heads),
            **({"heads": vision["num_attention_heads"]} if "num_attention_heads" in vision else {}),
        },
        "language": {
            "vocabulary": vocabulary,
            "width": width,
            "depth": depth("language.decoder.blocks.{i}.attention_norm.weight"),
            "hidden": of("language.decoder.blocks.0.mlp.hidden.weight")[0],
            "positions": "sinusoidal",
            "dropout": KOSMOS2_1_6B.language.dropout,
            **heads_of(width, KOSMOS2_1_6B.language.width // KOSMOS2_1_6B.language.heads),
            **{ours: text[theirs] for ours, theirs in told.items() if theirs in text},
        },
        "latents": of("resampler.queries")[0],
        "over_white": False,
    }


def _hollow(kind: str, shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    plain = _sizes(kind, shapes, "the list of keys", {})
    config = from_plain(KOSMOS1Config, plain)
    with torch.device("meta"):
        vision = clip_vit(config.vision, torch.nn.LayerNorm(config.vision.width))
        language = config.language
        resampler = Resampler(config.latents, config.vision.width, language.width, language.heads)
        return state_of(vision=vision, resampler=resampler, language=Magneto(language)), _TABLES[kind]


def published() -> Published:
    """For `plait import kosmos1` and `plait export`."""
    return KOSMOS1Files()


class KOSMOS1Files(Published):
    """One file or folder, which holds everything, and the tokenizer beside it."""

    kinds = (
        Kind(
            name=FAIRSEQ,
            sign="img_connector.latent_query",
            what="KOSMOS-2 as fairseq saves it",
            where="kosmos-2.pt, which github.com/microsoft/unilm/tree/master/kosmos-2 links to",
            hollow=lambda shapes: _hollow(FAIRSEQ, shapes),
        ),
        Kind(
            name=HF,
            sign="image_to_text_projection.latent_query",
            what="KOSMOS-2 as transformers stores it",
            where="the folder of microsoft/kosmos-2-patch14-224",
            hollow=lambda shapes: _hollow(HF, shapes),
        ),
    )

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """Symbols follow from the vocabulary; fewer, by `changes`, cut it."""
        if len(given) != 1:
            wheres = " or ".join(kind.where for kind in self.kinds)
            raise CheckpointError(f"{len(given)} files, of which each holds everything: give {wheres}")
        ((kind, file),) = given.items()
        tokenizer = file.folder / TOKENIZER
        if not tokenizer.is_file():
            raise CheckpointError(
                f"{tokenizer}: no such file: put the published {TOKENIZER} beside the weights; a tokenizer.json does "
                "not do"
            )
        pieces = FairseqPieces.read(tokenizer, ())
        _check_dictionary(file.folder / "dict.txt", pieces)
        settings = file.folder / "config.json"
        told = read_json(settings) if kind == HF and settings.is_file() else {}
        plain = _sizes(kind, FilePart(file, file.shapes).shapes, str(file.path), told)
        stored = plain["language"]["vocabulary"]
        plain["symbols"] = _symbols(stored, len(pieces), file.path)
        plain = over(plain, changes)
        turned = {}
        kept = len(pieces) + len(SYMBOLS.get(plain["symbols"], ()))
        if kept < stored and plain["language"]["vocabulary"] == stored:
            plain["language"] = {**plain["language"], "vocabulary": kept}
            shape = (stored, plain["language"]["width"])
            turned["language.embed.weight"] = (shape, lambda table: table[:kept].clone())
        config = from_plain(KOSMOS1Config, plain)
        return Plan(
            system=KOSMOS1,
            config=config,
            tables={kind: _TABLES[kind]},
            files=file.folder,
            licences=LICENCES,
            turned=turned,
            notes=tuple(_notes(config, stored)),
            also=(tokenizer,),
        )

    def exports(self, config: KOSMOS1Config, format: str) -> Items[Export]:
        """kosmos-2.pt; or the folder of transformers."""
        language = config.language
        if language.positions != "sinusoidal":
            raise ConfigError(
                f"positions {language.positions}: the programs of both formats add sinusoids and would say something "
                "else; only what was trained with positions=sinusoidal can be exported"
            )
        if format == "hf":
            return [Export(name=".", table=HF_FILE, settings=_settings(config))]
        pair = torch.arange(0, language.width // language.heads, 2)
        scale = (pair + 0.4 * language.width / language.heads) / (1.4 * language.width / language.heads)
        unused = {_FLOAT: torch.zeros(1), _SCALE: scale}
        return [Export(name="kosmos-2.pt", table=FAIRSEQ_FILE, inside="model", unused=unused)]


def _symbols(stored: int, plain: int, path: Path) -> str:
    """Which symbols a table of `stored` rows has behind `plain` pieces."""
    for name, symbols in SYMBOLS.items():
        if plain + len(symbols) == stored:
            return name
    sums = " or ".join(f"{plain + len(symbols)} ({name})" for name, symbols in SYMBOLS.items())
    raise CheckpointError(
        f"{path}: has {stored} rows for a tokenizer of {plain} ids, to which {sums} belong: give the {TOKENIZER} of "
        "these weights"
    )


def _check_dictionary(path: Path, pieces: FairseqPieces) -> None:
    """Whether a fairseq dictionary, where there is one, has the pieces in the order of the tokenizer."""
    if not path.is_file():
        return
    listed = [line.rpartition(" ")[0] for line in path.read_text(encoding="utf-8").splitlines() if line]
    ours = pieces.dictionary
    if listed != ours:
        differ = sum(a != b for a, b in zip(listed, ours, strict=False)) + abs(len(listed) - len(ours))
        raise CheckpointError(
            f"{path}: {differ} of {len(listed)} lines are not the pieces of {TOKENIZER} in their order: both must "
            "be of the same release"
        )


def _notes(config: KOSMOS1Config, stored: int) -> Iterator[str]:
    if config.language.positions != "sinusoidal":
        yield "the released weights were trained with sinusoidal positions: with xpos they say nothing"
    if config.language.vocabulary < stored:
        yield f"the vocabulary was cut from {stored} to {config.language.vocabulary} ids: no grounding is left"


def _settings(config: KOSMOS1Config) -> dict[str, Any]:
    """The config.json by which transformers reads a KOSMOS-2."""
    language, vision = config.language, config.vision
    return {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "model_type": "kosmos-2",
        "latent_query_num": config.latents,
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": language.vocabulary,
            "max_position_embeddings": language.length,
            "embed_dim": language.width,
            "layers": language.depth,
            "ffn_dim": language.hidden,
            "attention_heads": language.heads,
            "activation_function": "gelu",
            "dropout": language.dropout,
            "attention_dropout": 0.1,
            "activation_dropout": 0.0,
            "layerdrop": 0.0,
            "layer_norm_eps": language.eps,
            "scale_embedding": True,
            "bos_token_id": FairseqPieces.bos,
            "pad_token_id": FairseqPieces.pad,
            "eos_token_id": FairseqPieces.eos,
        },
        "vision_config": {
            "hidden_size": vision.width,
            "intermediate_size": vision.hidden,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": vision.eps,
            "attention_dropout": 0.0,
        },
    }
