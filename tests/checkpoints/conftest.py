"""A MiniGPT-4 in the published layout, very small: the files that users have, made of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from plait.systems.minigpt4 import MiniGPT4

CONFIG = {
    "vision": {"heads": 4},
    "qformer": {"heads": 4},
    "pad": "<unk>",
}
"""What the shapes of so small files do not tell, as `--config` gives it."""


@dataclass(frozen=True)
class PublishedFiles:
    """Where the files lie, what is in them, and the system whose weights they are."""

    folder: Path
    states: Mapping[str, dict[str, Tensor]]
    system: MiniGPT4
    config: Path

    @property
    def projection(self) -> Path:
        return self.folder / "pretrained.pth"

    @property
    def tower(self) -> Path:
        return self.folder / "eva.pth"

    @property
    def blip2(self) -> Path:
        return self.folder / "blip2.pth"

    @property
    def language(self) -> Path:
        return self.folder / "vicuna"

    @property
    def all(self) -> list[Path]:
        """Those of the variant."""
        paths = [self.projection, self.tower, self.language]
        return [*paths, self.blip2] if self.system.qformer is not None else paths


@pytest.fixture
def published_files(tmp_path: Path) -> Callable[..., PublishedFiles]:
    """Variant ("vicuna", "llama2" or "v2") -> its files in a folder of their own."""
    from plait.checkpoints import minigpt4 as tables
    from plait.nn.llama import LLaMAConfig
    from plait.nn.lora import LoRAConfig
    from plait.nn.qformer import QFormerConfig
    from plait.nn.vit import VITConfig
    from plait.systems.minigpt4 import MiniGPT4, MiniGPT4Config
    from plait.text.pieces import SentencePiece
    from plait.text.templates import ALIGNMENT

    def make(variant: str = "vicuna", width: int = 32) -> PublishedFiles:
        folder = tmp_path / f"{variant}-{width}"
        (folder / "vicuna").mkdir(parents=True)
        llama2 = variant != "vicuna"
        config = MiniGPT4Config(
            vision=VITConfig(image_size=16, patch=4, width=24, depth=3, heads=4, hidden=40),
            qformer=None if llama2 else QFormerConfig(width=16, depth=4, heads=4, hidden=24, queries=5, image_width=24),
            language=LLaMAConfig(
                vocabulary=384, width=width, hidden=48, depth=2, heads=4, positions=64, eps=1e-5 if llama2 else 1e-6
            ),
            lora=LoRAConfig(rank=4, alpha=16.0, dropout=0.05) if variant == "v2" else None,
            template={"vicuna": "vicuna0", "llama2": "llama2", "v2": "minigptv2"}[variant],
            pad="<unk>",
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            system = MiniGPT4(config, SentencePiece.train(ALIGNMENT, 320)).eval()
            state = {name: torch.randn_like(tensor) * 0.2 for name, tensor in system.state_dict().items()}
        for i in range(3):  # keys have no bias in a published tower
            state[f"vision.blocks.{i}.attention.qkv.bias"].view(3, -1)[1] = 0
        if llama2:
            state |= {"vision_norm.weight": torch.ones(24), "vision_norm.bias": torch.zeros(24)}
        system.load_state_dict(state)
        kinds = {
            "projection": tables.adapter_file() if variant == "v2" else tables.PROJECTION_FILE,
            "tower": tables.vision_file(3),
            "language": tables.LANGUAGE_FILE,
            **({} if llama2 else {"blip2": tables.BLIP2_FILE}),
        }
        states = {
            kind: dict(table.write((name, t) for name, t in state.items() if table.published(name)))
            for kind, table in kinds.items()
        }
        files = PublishedFiles(folder, states, system, folder / "config.json")
        write_published(files)
        return files

    return make


def write_published(files: PublishedFiles) -> None:
    """Writes the states with what published files hold besides."""
    projection = {"model": {**files.states["projection"]}, "optimizer": {"state": {0: torch.ones(3)}}, "epoch": 4}
    rotary = "model.layers.0.self_attn.rotary_emb.inv_freq"
    within = "llama_model.base_model.model." if files.system.config.lora else "llama_model."
    projection["model"][within + rotary] = torch.ones(4)
    torch.save(projection, files.projection)
    torch.save({name: tensor.half() for name, tensor in files.states["tower"].items()}, files.tower)
    if "blip2" in files.states:
        more = {"t5_proj.weight": torch.ones(8, 16), "Qformer.bert.embeddings.position_ids": torch.arange(4)[None]}
        torch.save({"model": files.states["blip2"] | more}, files.blip2)
    half = {name: tensor.half() for name, tensor in files.states["language"].items()}
    names = sorted(half)
    homes = {name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(homes.values())):
        save_file({name: half[name] for name in names if homes[name] == file}, files.language / file)
    (files.language / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    sizes = files.system.config.language
    settings: dict[str, Any] = {
        "model_type": "llama",
        "num_attention_heads": sizes.heads,
        "max_position_embeddings": sizes.positions,
        "rms_norm_eps": sizes.eps,
        "hidden_act": "silu",
    }
    (files.language / "config.json").write_text(json.dumps(settings))
    files.system.format.write_files(files.language)
    files.config.write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "qformer" or "blip2" in files.states}))
