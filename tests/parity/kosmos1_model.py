"""The goldens of KOSMOS-1 for its replays: the system of either variant, imported, and the documents of the cases."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

from golden import Goldens

from plait.checkpoints import directory
from plait.checkpoints.kosmos1 import published
from plait.checkpoints.published import import_files
from plait.config import to_plain
from plait.document import Document, Image
from plait.nn.magneto import MagnetoConfig
from plait.nn.vit import VITConfig
from plait.systems.kosmos1 import KOSMOS1, SYMBOLS, KOSMOS1Config

GOLDENS = Goldens("kosmos1")
FOLDER, CONFIG, CASES = GOLDENS.folder, GOLDENS.config, GOLDENS.cases
POSITIONS = {"released": "sinusoidal", "xpos": "xpos"}
"""Variant -> positions."""


def sizes(variant: str = "released") -> KOSMOS1Config:
    """As the golden's config.json has them."""
    symbols = json.loads((FOLDER / "cases.json").read_text())["vocabulary"]["symbols"]
    vision = CONFIG["visual_width"]
    return KOSMOS1Config(
        vision=VITConfig(
            image_size=CONFIG["image_size"],
            patch=CONFIG["patch_size"],
            width=vision,
            depth=CONFIG["visual_layers"],
            heads=vision // CONFIG["visual_head_width"],
            hidden=int(vision * CONFIG["visual_mlp_ratio"]),
            eps=1e-5,
        ),
        language=MagnetoConfig(
            vocabulary=CONFIG["vocab_size"],
            width=CONFIG["decoder_embed_dim"],
            depth=CONFIG["decoder_layers"],
            heads=CONFIG["decoder_attention_heads"],
            hidden=CONFIG["decoder_ffn_embed_dim"],
            length=CONFIG["scale_length"],
            positions=POSITIONS[variant],  # type: ignore[arg-type]
            sharpen_from=CONFIG["scale_length"],
        ),
        latents=CONFIG["latent_query_num"],
        symbols="kosmos2" if SYMBOLS["kosmos2"][-1] in symbols else "kosmos1",
        over_white=False,
    )


@functools.cache
def system(variant: str = "released") -> KOSMOS1:
    """The golden's weights through the importer, in evaluation mode. It is shared: what trains it takes a copy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("weights.safetensors", "dict.txt", "sentencepiece.bpe.model"):
            shutil.copy(FOLDER / file, folder)
        (folder / "sizes.json").write_text(json.dumps(to_plain(sizes(variant))))
        made, _ = import_files(published(), [folder / "weights.safetensors"], folder / "out", folder / "sizes.json")
        found = directory.load(made)
    assert isinstance(found, KOSMOS1) and found.config == sizes(variant)
    return found.eval()


def pieces(segments: list[str]) -> Document:
    """Segments of the released program: "[image]" and a file, or text."""
    sign = "[image]"
    return Document([Image(FOLDER / s.removeprefix(sign)) if s.startswith(sign) else s for s in segments])


def prompt(name: str) -> Document:
    """That of a case with a line."""
    return pieces(CASES[name]["settings"]["line"].split("<tab>"))
