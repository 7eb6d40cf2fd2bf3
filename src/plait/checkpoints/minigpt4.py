"""The published names of MiniGPT-4's parts, and of what it took them from (LAVIS, transformers).

| file | table |
| --- | --- |
| MiniGPT-4's own, the trained projection | `PROJECTION_FILE` |
| `eva_vit_g.pth`, the tower | `vision_file(depth)` |
| `blip2_pretrained_flant5xxl.pth`, Q-Former and norm | `BLIP2_FILE` |
| `blip2_pretrained.pth`, with text branch and heads | `BLIP2_STAGE1_FILE` |
| Vicuna, as transformers stores a LLaMA | `LANGUAGE_FILE` |
| all together, as the released program holds them | `ASSEMBLED` |

The parts go by the names vision, vision_norm, qformer, heads (of the Q-Former), projection and language. `VIT`,
`QFORMER`, `HEADS` and `LLAMA` stand without them, for other systems.
"""

from __future__ import annotations

from collections.abc import Collection

from plait.checkpoints.keymap import ZEROS, KeyMap
from plait.errors import CheckpointError, listed

_FREQUENCIES = "follows from the head width and the base of the rotation"
_NUMBERS = "numbers from 0 on"

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
    ignored={"Qformer.bert.embeddings.position_ids": _NUMBERS},
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
    ignored={"model.layers.{i}.self_attn.rotary_emb.inv_freq": _FREQUENCIES},
)
"""As transformers names it; as many heads for keys and values as for queries."""

_VISION_NORM = KeyMap({"vision_norm.{w}": "ln_vision.{w}"})
_PROJECTION = KeyMap({"projection.{w}": "llama_proj.{w}"})

LANGUAGE_FILE = LLAMA.under(ours="language.")

PROJECTION_FILE = _PROJECTION | KeyMap(
    {},
    ignored={
        "Qformer.bert.embeddings.position_ids": _NUMBERS,
        "llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq": _FREQUENCIES,
        "llama_model.base_model.model.model.layers.{i}.self_attn.rotary_emb.inv_freq": _FREQUENCIES,
    },
)
"""The released program saves what is trained, and all buffers."""

BLIP2_STAGE1_FILE = _VISION_NORM | QFORMER.under(ours="qformer.") | HEADS.under(ours="heads.")

BLIP2_FILE = (
    _VISION_NORM
    | QFORMER.under(ours="qformer.")
    | KeyMap({}, ignored={"t5_proj.{w}": "leads to the language model of BLIP-2, in whose place stands another"})
)

ASSEMBLED = (
    VIT.under("visual_encoder.", "vision.")
    | _VISION_NORM
    | QFORMER.under(ours="qformer.")
    | _PROJECTION
    | LLAMA.under("llama_model.", "language.")
)


def vision_file(depth: int) -> KeyMap:
    """EVA's tower, of which `depth` blocks are run. Its file may hold one more, and what classifies."""
    beyond = {
        f"blocks.{depth}.{{rest}}": "the last block, whose output BLIP-2 does not take",
        "norm.{w}": "comes after the last block",
        "head.{w}": "classifies",
        "mask_token": "stands for hidden patches in EVA's own training",
    }
    return VIT.under(ours="vision.") | KeyMap({}, ignored=beyond)


def table_of(keys: Collection[str], depth: int) -> KeyMap:
    """The table of a file, which is recognised by its keys; `depth` is that of the tower.

    Raises:
        CheckpointError: none of the files above.
    """
    signs = {
        "visual_encoder.cls_token": ASSEMBLED,
        "cls_token": vision_file(depth),
        "itm_head.weight": BLIP2_STAGE1_FILE,
        "query_tokens": BLIP2_FILE,
        "model.embed_tokens.weight": LANGUAGE_FILE,
        "llama_proj.weight": PROJECTION_FILE,
    }
    for sign, table in signs.items():
        if sign in keys:
            return table
    raise CheckpointError(
        f"none of MiniGPT-4's files has such keys ({listed(sorted(keys))}): give one that holds {', '.join(signs)}"
    )
