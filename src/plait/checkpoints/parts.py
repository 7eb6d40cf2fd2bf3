"""Parts that several systems have, as they are published: tables of their names, and sizes from the shapes of files.

Sizes are plain: a part of a configuration, from which what cannot be told is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plait.checkpoints.keymap import ZEROS, KeyMap
from plait.checkpoints.tensors import Shape, TensorFile, read_json
from plait.errors import CheckpointError
from plait.nn.llama import LLAMA_7B, LLaMAConfig
from plait.nn.qformer import BLIP2_QFORMER
from plait.nn.vit import EVA_VIT_G

FREQUENCIES = "follows from the head width and the base of the rotation"
NUMBERS = "numbers from 0 on"

VIT = KeyMap(
    {
        "class_token": "cls_token",
        "positions": "pos_embed",
        "patch.{w}": "patch_embed.proj.{w}",
        "blocks.{i}.attention_norm.{w}": "blocks.{i}.norm1.{w}",
        "blocks.{i}.attention.qkv.weight": "blocks.{i}.attn.qkv.weight",
        "blocks.{i}.attention.qkv.bias": ("blocks.{i}.attn.q_bias", ZEROS, "blocks.{i}.attn.v_bias"),
        "blocks.{i}.attention.out.{w}": "blocks.{i}.attn.proj.{w}",
        "blocks.{i}.mlp_norm.{w}": "blocks.{i}.norm2.{w}",
        "blocks.{i}.mlp.hidden.{w}": "blocks.{i}.mlp.fc1.{w}",
        "blocks.{i}.mlp.out.{w}": "blocks.{i}.mlp.fc2.{w}",
    }
)

_LAYER = "Qformer.bert.encoder.layer.{i}."

QFORMER = KeyMap(
    {
        "queries": "query_tokens",
        "text.words.weight": "Qformer.bert.embeddings.word_embeddings.weight",
        "text.positions.weight": "Qformer.bert.embeddings.position_embeddings.weight",
        "norm.{w}": "Qformer.bert.embeddings.LayerNorm.{w}",
        "blocks.{i}.attention.part.qkv.{w}": (
            _LAYER + "attention.self.query.{w}",
            _LAYER + "attention.self.key.{w}",
            _LAYER + "attention.self.value.{w}",
        ),
        "blocks.{i}.attention.part.out.{w}": _LAYER + "attention.output.dense.{w}",
        "blocks.{i}.attention.norm.{w}": _LAYER + "attention.output.LayerNorm.{w}",
        "blocks.{i}.cross.part.q.{w}": _LAYER + "crossattention.self.query.{w}",
        "blocks.{i}.cross.part.kv.{w}": (
            _LAYER + "crossattention.self.key.{w}",
            _LAYER + "crossattention.self.value.{w}",
        ),
        "blocks.{i}.cross.part.out.{w}": _LAYER + "crossattention.output.dense.{w}",
        "blocks.{i}.cross.norm.{w}": _LAYER + "crossattention.output.LayerNorm.{w}",
        "blocks.{i}.mlp.part.hidden.{w}": _LAYER + "intermediate_query.dense.{w}",
        "blocks.{i}.mlp.part.out.{w}": _LAYER + "output_query.dense.{w}",
        "blocks.{i}.mlp.norm.{w}": _LAYER + "output_query.LayerNorm.{w}",
        "blocks.{i}.text_mlp.part.hidden.{w}": _LAYER + "intermediate.dense.{w}",
        "blocks.{i}.text_mlp.part.out.{w}": _LAYER + "output.dense.{w}",
        "blocks.{i}.text_mlp.norm.{w}": _LAYER + "output.LayerNorm.{w}",
    },
    ignored={"Qformer.bert.embeddings.position_ids": NUMBERS},
)
"""With and without the text branch: a Q-Former without has no tensors for its keys."""

_PREDICTIONS = "Qformer.cls.predictions."

HEADS = KeyMap(
    {
        "image.{w}": "vision_proj.{w}",
        "text.{w}": "text_proj.{w}",
        "matching.{w}": "itm_head.{w}",
        "captioning.dense.{w}": _PREDICTIONS + "transform.dense.{w}",
        "captioning.norm.{w}": _PREDICTIONS + "transform.LayerNorm.{w}",
        "captioning.bias": _PREDICTIONS + "bias",
        "temperature": "temp",
    },
    tied={
        _PREDICTIONS + "decoder.weight": "Qformer.bert.embeddings.word_embeddings.weight",
        _PREDICTIONS + "decoder.bias": _PREDICTIONS + "bias",
    },
)

LLAMA = KeyMap(
    {
        "embed.weight": "model.embed_tokens.weight",
        "decoder.blocks.{i}.attention_norm.weight": "model.layers.{i}.input_layernorm.weight",
        "decoder.blocks.{i}.attention.qkv.weight": (
            "model.layers.{i}.self_attn.q_proj.weight",
            "model.layers.{i}.self_attn.k_proj.weight",
            "model.layers.{i}.self_attn.v_proj.weight",
        ),
        "decoder.blocks.{i}.attention.qkv.linear.weight": (  # the same where it has adapters
            "model.layers.{i}.self_attn.q_proj.weight",
            "model.layers.{i}.self_attn.k_proj.weight",
            "model.layers.{i}.self_attn.v_proj.weight",
        ),
        "decoder.blocks.{i}.attention.out.weight": "model.layers.{i}.self_attn.o_proj.weight",
        "decoder.blocks.{i}.mlp_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
        "decoder.blocks.{i}.mlp.gate_hidden.weight": (
            "model.layers.{i}.mlp.gate_proj.weight",
            "model.layers.{i}.mlp.up_proj.weight",
        ),
        "decoder.blocks.{i}.mlp.out.weight": "model.layers.{i}.mlp.down_proj.weight",
        "decoder.norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    ignored={"model.layers.{i}.self_attn.rotary_emb.inv_freq": FREQUENCIES},
)
"""As transformers names it; as many heads for keys and values as for queries."""

ShapeOf = Callable[[str], Shape]
"""Key -> its shape; a CheckpointError where there is none."""

LISTED = "the list of keys"


def shape_of(shapes: Mapping[str, Shape], prefix: str = "", where: str = LISTED) -> ShapeOf:
    """For the sizes below.

    Args:
        shapes: of a file, or of a list of which there is no file.
        prefix: of the keys that count.
        where: for messages.
    """

    def shape(key: str) -> Shape:
        found = shapes.get(prefix + key)
        if found is None:
            raise CheckpointError(f"{where}: lacks {prefix}{key}: it is cut, or of another model; fetch the right one")
        return found

    return shape


@dataclass(frozen=True)
class FilePart:
    """The keys of one part in a file, without the prefix that they have where all parts stand in one."""

    file: TensorFile
    shapes: Mapping[str, Shape]

    @property
    def shape(self) -> ShapeOf:
        """Key -> its shape."""
        return shape_of(self.shapes, where=str(self.file.path))


def state_of(**parts: nn.Module | None) -> dict[str, Tensor]:
    """The tensors of parts, by the parts' names."""
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None}).state_dict()


def vision_sizes(shape: ShapeOf, depth: int = EVA_VIT_G.depth) -> dict[str, Any]:
    """A plain `VITConfig`, without the heads where they are not EVA's 88 wide. Blocks beyond `depth` are not run."""
    _, places, width = shape("pos_embed")
    patch = shape("patch_embed.proj.weight")[2]
    sizes = {
        "image_size": math.isqrt(places - 1) * patch,
        "patch": patch,
        "width": width,
        "depth": count(shape, "blocks.{i}.norm1.weight", depth),
        "hidden": shape("blocks.0.mlp.fc1.weight")[0],
    }
    return sizes | _heads(width, EVA_VIT_G.width // EVA_VIT_G.heads)


def qformer_sizes(shape: ShapeOf) -> dict[str, Any]:
    """A plain `QFormerConfig`, without the heads where they are not BERT's 64 wide."""
    _, queries, width = shape("query_tokens")
    depth = count(shape, _LAYER + "attention.self.query.weight")
    cross = _LAYER + "crossattention.self.key.weight"
    looks = [i for i in range(depth) if _there(shape, cross.format(i=i))]
    sizes = {
        "width": width,
        "depth": depth,
        "hidden": shape(_LAYER.format(i=0) + "intermediate_query.dense.weight")[0],
        "queries": queries,
        "image_width": shape(cross.format(i=0))[1],
        "cross_every": looks[1] if len(looks) > 1 else depth,
    }
    return sizes | _heads(width, BLIP2_QFORMER.width // BLIP2_QFORMER.heads)


def language_sizes(shape: ShapeOf, settings: Mapping[str, Any], where: str = LISTED) -> dict[str, Any]:
    """A plain `LLaMAConfig`: widths from shapes, the rest from transformers' config.json.

    Raises:
        CheckpointError: a LLaMA with what Plait's has not.
    """
    vocabulary, width = shape("model.embed_tokens.weight")
    sizes: dict[str, Any] = {
        "vocabulary": vocabulary,
        "width": width,
        "hidden": shape("model.layers.0.mlp.gate_proj.weight")[0],
        "depth": count(shape, "model.layers.{i}.input_layernorm.weight"),
    }
    keys = shape("model.layers.0.self_attn.k_proj.weight")[0]
    queries = shape("model.layers.0.self_attn.q_proj.weight")[0]
    if keys != queries:
        raise CheckpointError(
            f"{where}: has keys of {keys} rows for queries of {queries} (grouped heads), which Plait's LLaMA has not: "
            "give a LLaMA, LLaMA-2 or Vicuna of 7B or 13B"
        )
    rope = settings.get("rope_parameters") or {}  # where transformers 5 keeps what stood by itself
    settings = {**settings, **{key: rope[key] for key in ("rope_theta", "rope_type") if key in rope}}
    wanted = {
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "rope_scaling": None,
        "rope_type": "default",
    }
    for key, value in wanted.items():
        if settings.get(key, value) != value:
            raise CheckpointError(
                f"{where}: its config.json says {key} {settings[key]!r}, and Plait's LLaMA has {value!r} alone: give a "
                "LLaMA, LLaMA-2 or Vicuna of 7B or 13B"
            )
    names = {
        "heads": "num_attention_heads",
        "positions": "max_position_embeddings",
        "eps": "rms_norm_eps",
        "base": "rope_theta",
    }
    sizes |= {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
    return _heads(width, LLAMA_7B.width // LLAMA_7B.heads) | sizes


def language_of(part: FilePart, told: bool) -> dict[str, Any]:
    """`language_sizes` of a file, or of a folder with a config.json.

    Args:
        told: there must be a config.json.

    Raises:
        CheckpointError: there is none, or as `language_sizes`.
    """
    path = part.file.folder / "config.json"
    if told and not path.is_file():
        raise CheckpointError(
            f"{path}: no such file: it tells heads and norms of the language model; fetch it, or say language.heads, "
            "language.eps and language.positions by --config"
        )
    settings = read_json(path) if path.is_file() else {}
    ours = "num_attention_heads" in settings  # one of another program can lie there
    return language_sizes(part.shape, settings if ours else {}, str(part.file.path))


def hugging_face(config: LLaMAConfig) -> dict[str, Any]:
    """The config.json by which transformers reads a LLaMA."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": config.positions,
        "rms_norm_eps": config.eps,
        "rope_theta": config.base,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _there(shape: ShapeOf, key: str) -> bool:
    try:
        shape(key)
    except CheckpointError:
        return False
    return True


def count(shape: ShapeOf, template: str, most: int = 1000) -> int:
    """How many layers there are, by the number of the last one.

    Args:
        template: a key of a layer, with {i} for its number.
        most: it is not looked beyond.

    Raises:
        CheckpointError: none.
    """
    there = [i for i in range(most) if _there(shape, template.format(i=i))]
    if not there:
        shape(template.format(i=0))  # says so
    return 1 + max(there)


def _heads(width: int, each: int) -> dict[str, int]:
    return {} if width % each else {"heads": width // each}
