"""CLIP's tower of pictures from a folder, as what a tokenizer learns to reach."""

from __future__ import annotations

from pathlib import Path

import torch

from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.parts import CLIP, clip_sizes, shape_of
from plait.checkpoints.tensors import open_tensors, read_json
from plait.config import from_plain
from plait.errors import CheckpointError
from plait.nn.clip import CLIPImage
from plait.nn.vit import VITConfig

_TEXTS = "of texts, of which the teacher is asked for none"
_TABLE = CLIP | KeyMap(
    {}, ignored=dict.fromkeys(("text_model.{rest}", "text_projection.weight", "logit_scale"), _TEXTS)
)


def clip_image(folder: str | Path) -> CLIPImage:
    """The tower and its projection, frozen, in fp32; from a CLIP in transformers' form (laion/CLIP-ViT-H-14-laion2B).

    Raises:
        CheckpointError: no such folder, or no CLIP in it.
    """
    file = open_tensors(folder)
    path = file.folder / "config.json"
    settings = read_json(path).get("vision_config", {}) if path.is_file() else {}
    if "num_attention_heads" not in settings:
        raise CheckpointError(f"{path}: tells no heads of a tower of pictures: give CLIP's folder with its config.json")
    shape = shape_of(file.shapes, where=str(file.path))
    sizes = {**clip_sizes(shape)["image"], "heads": settings["num_attention_heads"]}
    with torch.device("meta"):
        tower = CLIPImage(
            from_plain(VITConfig, sizes),
            shape("visual_projection.weight")[0],
            settings.get("hidden_act", "quick_gelu"),
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    state = {name: tensor.float() for name, tensor in _TABLE.read(file.items(), wanted)}
    tower.load_state_dict(state, assign=True)
    return tower.requires_grad_(False).eval()
