"""The published names of SEED-LLaMA's language model."""

from __future__ import annotations

from plait.checkpoints.keymap import KeyMap, Source, Stacked

_PLACES = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "mlp.gate_hidden": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.out": ("mlp.down_proj",),
}


def _adapters() -> dict[str, Source]:
    names: dict[str, Source] = {}
    for ours, theirs in _PLACES.items():
        for side, letter in (("down", "A"), ("up", "B")):
            keys = tuple(f"model.layers.{{i}}.{one}.lora_{letter}.weight" for one in theirs)
            names[f"decoder.blocks.{{i}}.{ours}.{side}"] = Stacked(keys)
        names[f"decoder.blocks.{{i}}.{ours}.linear.weight"] = tuple(
            f"model.layers.{{i}}.{one}.weight" for one in theirs
        )
    return names


ADAPTERS = KeyMap(_adapters())
"""Adapters on all matrices of the blocks, as peft names them behind its own prefix, and the matrices under them."""
