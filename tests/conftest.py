"""Shared fixtures: a tiny vocabulary, a tiny CM3Leon with random weights, pictures.

Plait is imported inside the fixtures: shapes are checked only in modules imported after pytest has been configured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from plait.document import Image
    from plait.retrieval.embed import Embedder
    from plait.systems.cm3leon import CM3Leon, CM3LeonConfig
    from plait.systems.seed_tokenizer import SeedTokenizer, SeedTokenizerConfig
    from plait.text.bpe import BPE

SENTENCES = ("a small red circle above a blue square", "the big green triangle", "what is it? a cat, and a dog.")


@pytest.fixture(scope="session")
def realdata() -> Callable[[str], Path]:
    """Name -> a folder of real data beside the repository; without it the test is skipped."""
    shared = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[2] / "shared"))

    def find(name: str) -> Path:
        folder = shared / "realdata" / name
        if not folder.is_dir():
            pytest.skip(f"no {folder}")
        return folder

    return find


@pytest.fixture(scope="session")
def as_expected() -> Callable[[PIL.Image.Image, Mapping[str, Any], float], None]:
    """Asserts that a picture is the one that a row of hard-images/expected.json describes, within a tolerance."""

    def check(picture: PIL.Image.Image, row: Mapping[str, Any], tolerance: float) -> None:
        assert picture.mode == "RGB" and list(picture.size) == row["size"]
        rgb = np.asarray(picture, dtype=np.float64)
        np.testing.assert_allclose(rgb.mean((0, 1)), row["mean_rgb"], atol=tolerance)
        gray = rgb.mean(2)
        top, left = gray.shape[0] // 2, gray.shape[1] // 2
        quadrants = [gray[:top, :left], gray[:top, left:], gray[top:, :left], gray[top:, left:]]
        np.testing.assert_allclose([part.mean() for part in quadrants], row["quadrant_gray"], atol=tolerance)

    return check


@pytest.fixture(scope="session")
def bpe() -> BPE:
    """270 tokens: the bytes and a few merges."""
    from plait.text.bpe import BPE

    return BPE.train(SENTENCES, 270)


@pytest.fixture(scope="session")
def cm3leon_config() -> CM3LeonConfig:
    """16 codes a picture of 8 x 8 pixels, 4 sentinels, 160 positions, 326 ids."""
    from plait.nn.vqgan import VQGANConfig
    from plait.systems.cm3leon import CM3LeonConfig

    image = VQGANConfig(
        resolution=8,
        channels=8,
        groups=2,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(),
        latent_channels=8,
        code_width=4,
        codes=16,
    )
    return CM3LeonConfig(image=image, width=32, depth=2, heads=2, positions=160, text_tokens=300, sentinels=4)


@pytest.fixture(scope="session")
def cm3leon(cm3leon_config: CM3LeonConfig, bpe: BPE) -> CM3Leon:
    """Random weights everywhere, so that every element matters to those behind it. Shared: not to be changed."""
    return _random_cm3leon(cm3leon_config, bpe)


@pytest.fixture(scope="session")
def cm3leon_raster(cm3leon_config: CM3LeonConfig, bpe: BPE) -> CM3Leon:
    """The same, and codes know their places in the picture."""
    return _random_cm3leon(replace(cm3leon_config, raster=True), bpe)


def _random_cm3leon(config: CM3LeonConfig, bpe: BPE) -> CM3Leon:
    import torch

    from plait.systems.cm3leon import CM3Leon

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        system = CM3Leon(config, bpe).eval()
        for name, weight in system.named_parameters():
            if not name.startswith("image_tokenizer."):
                weight.normal_(std=0.3)
        system.embed.weight[system.vocabulary.eoss] *= 3  # here likely, there impossible: blanks do get filled
        tokenizer = system.image_tokenizer
        vectors = tokenizer.to_codes(tokenizer.encoder(torch.rand(1, 3, 8, 8) * 2 - 1))  # (1, 4, 4, 4): 16 codes
        tokenizer.quantiser.codebook.weight.copy_(vectors.flatten(2)[0].T)
    return system


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image]:
    """seed -> a picture of 8 x 8 random pixels."""
    from plait.document import Image

    def make(seed: int) -> Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image(PIL.Image.fromarray(pixels))

    return make


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights are packed on every CPU."""
    monkeypatch.setattr("plait.nn.packed.SMALL", 0)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A group of this process alone: everything is sharded, over one."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """Towers without weights: 16 numbers of the letters of a text, and of the 2 x 2 pixels of a picture made small."""
    import torch

    from plait.retrieval.embed import Embedder
    from plait.systems.base import Towers

    def texts(texts: Sequence[str]) -> torch.Tensor:
        counts = torch.zeros(len(texts), 16)
        for i, text in enumerate(texts):
            for letter in text:
                counts[i, ord(letter) % 16] += 1
        return torch.nn.functional.normalize(counts, dim=1)

    def pictures(pictures: Sequence[Image]) -> torch.Tensor:
        small = [np.asarray(picture.open().resize((2, 2))).reshape(-1) for picture in pictures]
        pixels = torch.from_numpy(np.stack(small)).float()
        return torch.nn.functional.normalize(torch.nn.functional.pad(pixels, (0, 4)), dim=1)

    return Embedder(
        Towers(width=16, parts=(), texts=texts, pictures=pictures), {"checkpoint": "none", "fingerprints": {}}
    )


@pytest.fixture(scope="session")
def seed_tokenizer_config() -> SeedTokenizerConfig:
    """6 codes of 16 a picture of 8 x 8 pixels, and an unCLIP of 3 steps that draws 8 x 8."""
    from plait.nn.qformer import QFormerConfig
    from plait.nn.vit import VITConfig
    from plait.systems.seed_tokenizer import TINY, SeedTokenizerConfig

    assert TINY.decoder is not None
    diffusion = TINY.decoder.diffusion
    unet = {
        **diffusion.unet,
        "sample_size": 4,
        "in_channels": diffusion.vae["latent_channels"],
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "projection_class_embeddings_input_dim": 24,
    }
    vae = {
        **diffusion.vae,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 8),
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    return SeedTokenizerConfig(
        vision=VITConfig(image_size=8, patch=4, width=16, depth=1, heads=2, hidden=32),
        qformer=QFormerConfig(width=16, depth=2, heads=2, hidden=32, queries=6, image_width=16, causal=True),
        codes=16,
        code_width=4,
        embedding=12,
        branch_depth=1,
        branch_heads=2,
        narrowing=(8, 4),
        shared=8,
        decoder=replace(TINY.decoder, embedding=12, diffusion=replace(diffusion, unet=unet, vae=vae, steps=3, rows=2)),
    )


@pytest.fixture(scope="session")
def seed_tokenizer(seed_tokenizer_config: SeedTokenizerConfig) -> SeedTokenizer:
    """Random weights, and codes among its own vectors, so that many are used. Shared: not to be changed."""
    import torch

    from plait.systems.seed_tokenizer import SeedTokenizer

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        system = SeedTokenizer(seed_tokenizer_config).eval()
        for name, weight in system.named_parameters():
            if weight.dim() > 1 and not name.startswith("decoder."):
                weight.normal_(std=0.3)
        vectors = system.down(system.qformer(system.see(torch.randn(3, 3, 8, 8))))  # (3, 6, 4)
        system.quantiser.codebook.weight.copy_(vectors.flatten(0, 1)[:16])
    return system
