"""Parts that several systems have, as they are published: tables of their names, and sizes from the shapes of files.

Sizes are plain: a part of a configuration, from which what cannot be told is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from plait.checkpoints.keymap import ZEROS, KeyMap, Source, Stacked, Turned
from plait.checkpoints.tensors import Shape, TensorFile, read_json
from plait.errors import CheckpointError
from plait.nn.clip import CLIP_VIT_L14
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

VISION_NORM = KeyMap({"vision_norm.{w}": "ln_vision.{w}"})

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

_ADAPTED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "mlp.gate_hidden": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.out": ("mlp.down_proj",),
}


def adapters(name: str = "") -> KeyMap:
    """Adapters on all matrices of a LLaMA's blocks, behind peft's own prefix, and the matrices under them.

    Args:
        name: of the adapters, which later versions of peft write into the keys.
    """
    middle = f".{name}" if name else ""
    names: dict[str, Source] = {}
    for ours, theirs in _ADAPTED.items():
        for side, letter in (("down", "A"), ("up", "B")):
            keys = tuple(f"model.layers.{{i}}.{one}.lora_{letter}{middle}.weight" for one in theirs)
            names[f"decoder.blocks.{{i}}.{ours}.{side}"] = Stacked(keys)
        names[f"decoder.blocks.{{i}}.{ours}.linear.weight"] = tuple(
            f"model.layers.{{i}}.{one}.weight" for one in theirs
        )
    return KeyMap(names)


def _vqgan_names() -> dict[str, Source]:
    """taming's and Chameleon's names of encoder and decoder."""
    names: dict[str, Source] = {}
    block = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "shortcut": "nin_shortcut"}
    attention = {"norm": "norm", "q": "q", "k": "k", "v": "v", "out": "proj_out"}
    for side, way in (("encoder", "down"), ("decoder", "up")):
        names |= {f"{side}.{name}.{{w}}": f"{side}.{name}.{{w}}" for name in ("conv_in", "norm_out", "conv_out")}
        names[f"{side}.levels.{{i}}.resample.conv.{{w}}"] = f"{side}.{way}.{{i}}.{way}sample.conv.{{w}}"
        for ours, theirs in block.items():
            names[f"{side}.levels.{{i}}.blocks.{{j}}.{ours}.{{w}}"] = f"{side}.{way}.{{i}}.block.{{j}}.{theirs}.{{w}}"
            for i in (1, 2):
                names[f"{side}.middle.block{i}.{ours}.{{w}}"] = f"{side}.mid.block_{i}.{theirs}.{{w}}"
        for ours, theirs in attention.items():
            names[f"{side}.levels.{{i}}.attentions.{{j}}.{ours}.{{w}}"] = (
                f"{side}.{way}.{{i}}.attn.{{j}}.{theirs}.{{w}}"
            )
            names[f"{side}.middle.attention.{ours}.{{w}}"] = f"{side}.mid.attn_1.{theirs}.{{w}}"
    return names


VQGAN = KeyMap(
    {
        **_vqgan_names(),
        "to_codes.{w}": "quant_conv.{w}",
        "from_codes.{w}": "post_quant_conv.{w}",
        "quantiser.codebook.weight": "quantize.embedding.weight",
    },
    ignored={
        "loss.{rest}": "perceptual loss and discriminator, which only train",
        "model_ema.{rest}": "a running mean of the weights, which stand there too",
    },
)
"""As taming-transformers, latent-diffusion and Chameleon name it."""

GUMBEL_VQGAN = (
    KeyMap({"quantiser.logits.{w}": "quantize.proj.{w}", "quantiser.codebook.weight": "quantize.embed.weight"}) | VQGAN
)
"""taming's f8, which chooses codes by logits."""


_DIFFUSERS = (  # taming's -> its
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.(down|up)\.(\d+)\.", r".\1_blocks.\2."),
    (r"\.block\.", ".resnets."),
    (r"\.attn\.", ".attentions."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"nin_shortcut", "conv_shortcut"),
    (r"norm_out", "conv_norm_out"),
    (r"(attentions\..+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\..+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\..+)\.proj_out\.", r"\1.to_out.0."),
)


def diffusers_vqgan(levels: int) -> KeyMap:
    """diffusers' names (`VQModel`): levels of its decoder are counted from the lowest, attention has plain matrices."""
    table: dict[str, Source] = {}
    for ours, theirs in _vqgan_names().items():
        assert isinstance(theirs, str)
        for level in range(levels) if "{i}" in ours else (0,):
            key = theirs.replace("{i}", str(levels - 1 - level if theirs.startswith("decoder") else level))
            for pattern, name in _DIFFUSERS:
                key = re.sub(pattern, name, key)
            mine = ours.replace("{i}", str(level))
            matrix = re.search(r"to_\w+\.", key)
            for kind in ("weight", "bias"):
                filled = key.replace("{w}", kind)
                table[mine.replace("{w}", kind)] = _point(filled) if matrix and kind == "weight" else filled
    return KeyMap(table) | VQGAN


def _point(key: str) -> Turned:
    """A matrix that ours holds as a convolution of one place."""
    return Turned(key, lambda tensor: tensor[..., None, None], lambda tensor: tensor[..., 0, 0])


def diffusers_sizes(shapes: Mapping[str, Shape], resolution: int) -> dict[str, Any]:
    """`vqgan_sizes` of a file with diffusers' names."""
    taming = {"encoder.down_blocks": "encoder.down", "resnets": "block", "attentions.0.group_norm": "attn.0.norm"}
    renamed = {}
    for key, shape in shapes.items():
        for old, new in taming.items():
            key = key.replace(old, new)
        renamed[key] = shape
    return vqgan_sizes(shape_of(renamed), resolution)


def _clip_blocks(ours: str, theirs: str) -> dict[str, Source]:
    return {
        ours + "blocks.{i}.attention_norm.{w}": theirs + "layers.{i}.layer_norm1.{w}",
        ours + "blocks.{i}.attention.qkv.{w}": (
            theirs + "layers.{i}.self_attn.q_proj.{w}",
            theirs + "layers.{i}.self_attn.k_proj.{w}",
            theirs + "layers.{i}.self_attn.v_proj.{w}",
        ),
        ours + "blocks.{i}.attention.out.{w}": theirs + "layers.{i}.self_attn.out_proj.{w}",
        ours + "blocks.{i}.mlp_norm.{w}": theirs + "layers.{i}.layer_norm2.{w}",
        ours + "blocks.{i}.mlp.hidden.{w}": theirs + "layers.{i}.mlp.fc1.{w}",
        ours + "blocks.{i}.mlp.out.{w}": theirs + "layers.{i}.mlp.fc2.{w}",
    }


def _openai_blocks(ours: str, theirs: str) -> dict[str, Source]:
    return {
        ours + "blocks.{i}.attention_norm.{w}": theirs + "resblocks.{i}.ln_1.{w}",
        ours + "blocks.{i}.attention.qkv.{w}": theirs + "resblocks.{i}.attn.in_proj_{w}",
        ours + "blocks.{i}.attention.out.{w}": theirs + "resblocks.{i}.attn.out_proj.{w}",
        ours + "blocks.{i}.mlp_norm.{w}": theirs + "resblocks.{i}.ln_2.{w}",
        ours + "blocks.{i}.mlp.hidden.{w}": theirs + "resblocks.{i}.mlp.c_fc.{w}",
        ours + "blocks.{i}.mlp.out.{w}": theirs + "resblocks.{i}.mlp.c_proj.{w}",
    }


def axes(key: str, count: int) -> Turned:
    """A tensor that ours holds behind `count` axes of length 1."""
    front = (None,) * count
    return Turned(key, lambda tensor: tensor[front], lambda tensor: tensor[(0,) * count])


def _transposed(key: str) -> Turned:
    return Turned(key, lambda tensor: tensor.T, lambda tensor: tensor.T)


CLIP = KeyMap(
    {
        "image.class_token": axes("vision_model.embeddings.class_embedding", 2),
        "image.positions": axes("vision_model.embeddings.position_embedding.weight", 1),
        "image.patch.weight": "vision_model.embeddings.patch_embedding.weight",
        "image.embed_norm.{w}": "vision_model.pre_layrnorm.{w}",
        **_clip_blocks("image.", "vision_model.encoder."),
        "image.norm.{w}": "vision_model.post_layernorm.{w}",
        "text.words.weight": "text_model.embeddings.token_embedding.weight",
        "text.positions.weight": "text_model.embeddings.position_embedding.weight",
        **_clip_blocks("text.", "text_model.encoder."),
        "text.norm.{w}": "text_model.final_layer_norm.{w}",
        "image_projection.weight": "visual_projection.weight",
        "text_projection.weight": "text_projection.weight",
        "log_scale": "logit_scale",
    },
    ignored={
        "text_model.embeddings.position_ids": NUMBERS,
        "vision_model.embeddings.position_ids": NUMBERS,
    },
)
"""As transformers names it."""

OPENAI_CLIP = KeyMap(
    {
        "image.class_token": axes("visual.class_embedding", 2),
        "image.positions": axes("visual.positional_embedding", 1),
        "image.patch.weight": "visual.conv1.weight",
        "image.embed_norm.{w}": "visual.ln_pre.{w}",
        **_openai_blocks("image.", "visual.transformer."),
        "image.norm.{w}": "visual.ln_post.{w}",
        "text.words.weight": "token_embedding.weight",
        "text.positions.weight": "positional_embedding",
        **_openai_blocks("text.", "transformer."),
        "text.norm.{w}": "ln_final.{w}",
        "image_projection.weight": _transposed("visual.proj"),
        "text_projection.weight": _transposed("text_projection"),
        "log_scale": "logit_scale",
    },
    ignored=dict.fromkeys(("input_resolution", "context_length", "vocab_size"), "follows from the shapes"),
)
"""As OpenAI released it: queries, keys and values in one, projections the other way round."""

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
    return sizes | heads_of(width, EVA_VIT_G.width // EVA_VIT_G.heads)


def qformer_sizes(shape: ShapeOf) -> dict[str, Any]:
    """A plain `QFormerConfig`, without the heads where they are not BERT's 64 wide."""
    _, queries, width = shape("query_tokens")
    depth = count(shape, _LAYER + "attention.self.query.weight")
    cross = _LAYER + "crossattention.self.key.weight"
    looks = [i for i in range(depth) if there(shape, cross.format(i=i))]
    sizes = {
        "width": width,
        "depth": depth,
        "hidden": shape(_LAYER.format(i=0) + "intermediate_query.dense.weight")[0],
        "queries": queries,
        "image_width": shape(cross.format(i=0))[1],
        "cross_every": looks[1] if len(looks) > 1 else depth,
    }
    return sizes | heads_of(width, BLIP2_QFORMER.width // BLIP2_QFORMER.heads)


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
    return heads_of(width, LLAMA_7B.width // LLAMA_7B.heads) | sizes


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


def vqgan_sizes(shape: ShapeOf, resolution: int) -> dict[str, Any]:
    """A plain `VQGANConfig`.

    Args:
        resolution: side of the pictures, which shapes do not tell.
    """
    channels, in_channels = shape("encoder.conv_in.weight")[:2]
    levels = count(shape, "encoder.down.{i}.block.0.norm1.weight")
    widths = [shape(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    gumbel = there(shape, "quantize.embed.weight")
    codes, code_width = shape("quantize.embed.weight" if gumbel else "quantize.embedding.weight")
    attends = [i for i in range(levels) if there(shape, f"encoder.down.{i}.attn.0.norm.weight")]
    return {
        "resolution": resolution,
        "in_channels": in_channels,
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "blocks": count(shape, "encoder.down.0.block.{i}.norm1.weight"),
        "attention_resolutions": [resolution // 2**i for i in attends],
        "latent_channels": shape("encoder.conv_out.weight")[0],
        "code_width": code_width,
        "codes": codes,
        "quantiser": "gumbel" if gumbel else "nearest",
    }


def clip_sizes(shape: ShapeOf) -> dict[str, Any]:
    """A plain `CLIPConfig`, by either program's names; heads are left out where they are not CLIP's 64 wide."""
    openai = there(shape, "visual.class_embedding")
    keys = {
        "patch": "visual.conv1.weight" if openai else "vision_model.embeddings.patch_embedding.weight",
        "image": "visual.positional_embedding" if openai else "vision_model.embeddings.position_embedding.weight",
        "words": "token_embedding.weight" if openai else "text_model.embeddings.token_embedding.weight",
        "text": "positional_embedding" if openai else "text_model.embeddings.position_embedding.weight",
    }
    norms, hidden = (
        ("{}transformer.resblocks.{{i}}.ln_1.weight", "{}transformer.resblocks.0.mlp.c_fc.weight")
        if openai
        else ("{}_model.encoder.layers.{{i}}.layer_norm1.weight", "{}_model.encoder.layers.0.mlp.fc1.weight")
    )
    image, text = ("visual.", "") if openai else ("vision", "text")
    places, width = shape(keys["image"])
    patch = shape(keys["patch"])[2]
    vocabulary, text_width = shape(keys["words"])
    return {
        "image": {
            "image_size": math.isqrt(places - 1) * patch,
            "patch": patch,
            "width": width,
            "depth": count(shape, norms.format(image)),
            "hidden": shape(hidden.format(image))[0],
            "eps": CLIP_VIT_L14.eps,
            **heads_of(width, CLIP_VIT_L14.width // CLIP_VIT_L14.heads),
        },
        "text": {
            "vocabulary": vocabulary,
            "positions": shape(keys["text"])[0],
            "width": text_width,
            "depth": count(shape, norms.format(text)),
            "hidden": shape(hidden.format(text))[0],
            **heads_of(text_width, CLIP_VIT_L14.width // CLIP_VIT_L14.heads),
        },
        "shared": shape("text_projection")[1] if openai else shape("text_projection.weight")[0],
    }


def there(shape: ShapeOf, key: str) -> bool:
    """Whether there is such a key."""
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
    found = [i for i in range(most) if there(shape, template.format(i=i))]
    if not found:
        shape(template.format(i=0))  # says so
    return 1 + max(found)


def heads_of(width: int, each: int) -> dict[str, int]:
    """A plain number of heads that are `each` wide; nothing where the width does not divide."""
    return {} if width % each else {"heads": width // each}
