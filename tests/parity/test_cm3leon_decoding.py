"""Decoding of CM3Leon, pictures and infills by the one engine, against loops over metaseq's decoder and numpy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden import MODULES, Golden, Goldens, assert_near
from test_cm3leon_vqgan import build as build_vqgan
from test_cm3leon_vqgan import ours as vqgan_name
from torch import Tensor

from plait.document import Blank, Document, Image, Text
from plait.generate.engine import GREEDY, Engine, Reply, Settings
from plait.generate.sampling import Joined, Sampling, contrast, distribution, draw, keep_top_p
from plait.nn.vqgan import VQGANConfig
from plait.systems.base import Contrast, Guidance, Join, Next
from plait.systems.cm3leon import CM3Leon, CM3LeonConfig

GOLDENS = Goldens("cm3leon")
CONFIG = GOLDENS.config
ARITHMETIC = 1e-12  # float64
CASES = [name for name in GOLDENS.cases if name.startswith("generate_")]

NAMES = [
    (r"embed_tokens", "embed"),
    (r"embed_positions", "positions"),
    (r"layers\.(\d+)\.self_attn\.out_proj", r"decoder.blocks.\1.attention.out"),
    (r"layers\.(\d+)\.self_attn\.qkv_proj", r"decoder.blocks.\1.attention.qkv"),
    (r"layers\.(\d+)\.fc1", r"decoder.blocks.\1.mlp.hidden"),
    (r"layers\.(\d+)\.fc2", r"decoder.blocks.\1.mlp.out"),
]


class Letters:
    """A text vocabulary of one letter an id."""

    def __len__(self) -> int:
        return int(CONFIG["text_tokens"])

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("A") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("A") + id) for id in ids)


def weights() -> dict[str, Tensor]:
    """metaseq's and taming's under Plait's names; rows k, v, q become q, k, v."""
    found = {}
    for key, value in GOLDENS.weights().items():
        if key.startswith("vqgan/"):
            found["image_tokenizer." + vqgan_name(key.removeprefix("vqgan/"))] = value
        elif key.startswith("decoder/") and key != "decoder/version":
            name = key.removeprefix("decoder/")
            for pattern, replacement in NAMES:
                name = re.sub(pattern, replacement, name)
            k, v, q = value.chunk(3) if "qkv" in name else (None, None, None)
            found[name] = value if k is None else torch.cat([q, k, v])
    return found


def build(grid: int) -> CM3Leon:
    """With pictures of grid x grid codes."""
    sizes, vocabulary = CONFIG["decoder"], CONFIG["vocab"]
    image: VQGANConfig = build_vqgan().config
    factor = grid / image.grid  # levels with attention stay those that they are
    image = replace(
        image,
        resolution=int(image.resolution * factor),
        attention_resolutions=tuple(int(side * factor) for side in image.attention_resolutions),
    )
    config = CM3LeonConfig(
        image=image,
        width=sizes["embed_dim"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        positions=sizes["max_positions"],
        text_tokens=CONFIG["text_tokens"],
        sentinels=CONFIG["sentinels"],
        activation=sizes["activation_fn"],
    )
    ids = config.vocabulary
    assert sizes["ffn_dim"] == 4 * config.width
    assert (ids.eoss, ids.brk, ids.first_sentinel) == tuple(vocabulary[k] for k in ("eoss", "brk", "sentinel_first"))
    assert (ids.first_text, len(ids)) == (vocabulary["text_first"], vocabulary["vocab_size"])
    system = CM3Leon(config, Letters())  # type: ignore[arg-type]
    system.load_state_dict(weights())
    return system.eval()


@pytest.fixture(scope="module")
def systems() -> Callable[[int], CM3Leon]:
    """Number of codes in a picture -> the system."""
    held: dict[int, CM3Leon] = {}

    def find(codes: int) -> CM3Leon:
        grid = round(codes**0.5)
        assert grid * grid == codes
        return held.setdefault(codes, build(grid))

    return find


def document(prompt: list[int], monkeypatch: pytest.MonkeyPatch, system: CM3Leon) -> Document:
    """The document of a prompt of ids; what stands for its pictures is read as their codes."""
    voc = system.vocabulary
    picture = Image(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy().tobytes()) if False else None
    raise NotImplementedError(voc, picture, monkeypatch)
