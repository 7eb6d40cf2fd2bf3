"""SEED's tokenizer against the pieces of transformers and diffusers that others build it from, with the same weights.

    pip install -e ".[bench]" && python benchmarks/tokenising.py [--pairs N]

fp32, at sizes that a CPU can do: a tower of 12 blocks 384 wide, BLIP-2's Q-Former, the published codebook, branches
and head, and an unCLIP for pictures of 128 x 128, 20 steps under guidance. `encode`: pictures of 224 x 224 to codes, 1
and 8 at once, against `Blip2VisionModel`, `Blip2QFormerModel` with a causal mask, and the nearest codes by
`torch.cdist`. `decode`: codes to pictures, 1 and 4 at once, against PyTorch's `TransformerEncoder` for the branch, and
`StableUnCLIPImg2ImgPipeline`. As built, and as `plait.load` gives it (packed). Both sides must agree. Figures go to
benchmarks/results/tokenising.json, with codes and pictures per second.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pairs
import results
import torch
from reading import TOWER, qformer_peer, tower_peer
from torch import Tensor, nn

from plait.images import to_array
from plait.nn.diffusion import STABLE_VAE, UnCLIP, make, scheduler
from plait.nn.packed import pack
from plait.nn.qformer import BLIP2_QFORMER
from plait.systems.seed_tokenizer import SEED_2, UNCLIP_SD21, SeedTokenizer

READ, DRAWN = (1, 8), (1, 4)
SIDE = 16  # of latents
STEPS = UNCLIP_SD21.diffusion.steps
UNET = {
    **UNCLIP_SD21.diffusion.unet,
    "sample_size": SIDE,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (64, 128, 256),
    "attention_head_dim": (2, 4, 8),
    "cross_attention_dim": 256,
}
VAE = {**STABLE_VAE, "block_out_channels": (32, 64, 128, 128), "layers_per_block": 1, "sample_size": 8 * SIDE}
DECODER = replace(
    UNCLIP_SD21, diffusion=replace(UNCLIP_SD21.diffusion, unet=UNET, vae=VAE, rows=max(DRAWN)), prompt=None
)
CONFIG = replace(
    SEED_2, vision=TOWER, qformer=replace(BLIP2_QFORMER, image_width=TOWER.width, causal=True), decoder=DECODER
)


def tokenizer() -> SeedTokenizer:
    """Random weights, codes among the vectors that they stand for."""
    torch.manual_seed(0)
    system = SeedTokenizer(CONFIG).eval()
    with torch.no_grad():
        system.quantiser.codebook.weight.normal_(std=0.3)
    return system.requires_grad_(False)


class Reader:
    """Pictures to codes, by pieces of transformers."""

    def __init__(self, ours: SeedTokenizer) -> None:
        self.vision = tower_peer(ours.vision, ours.vision_norm)
        self.qformer = qformer_peer(ours.qformer)
        self.down, self.codebook = ours.down, ours.quantiser.codebook.weight
        later = torch.ones(CONFIG.codes_per_image, CONFIG.codes_per_image).triu(1).bool()
        self.mask = torch.zeros(later.shape).masked_fill(later, torch.finfo(torch.float32).min)[None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(m, n)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        asked = self.qformer.queries.expand(len(pixels), -1, -1)
        mask = self.mask.expand(len(pixels), -1, -1, -1)
        read = self.qformer(query_embeds=asked, encoder_hidden_states=seen, attention_mask=mask).last_hidden_state
        return torch.cdist(self.down(read).flatten(0, 1), self.codebook).argmin(1).view(len(pixels), -1)


class Drawer:
    """Codes to pictures, by pieces of PyTorch and diffusers."""

    def __init__(self, ours: SeedTokenizer) -> None:
        self.ours = ours
        width, depth = CONFIG.qformer.width, CONFIG.branch_depth
        layer = nn.TransformerEncoderLayer(
            width, CONFIG.branch_heads, 4 * width, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        self.branch = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).eval()
        for block, theirs in zip(ours.generate.blocks, self.branch.layers, strict=True):
            theirs.self_attn.in_proj_weight.data.copy_(block.attention.qkv.weight)
            theirs.self_attn.in_proj_bias.data.copy_(block.attention.qkv.bias)
            for mine, name in (
                (block.attention.out, "self_attn.out_proj"),
                (block.attention_norm, "norm1"),
                (block.mlp_norm, "norm2"),
                (block.mlp.hidden, "linear1"),
                (block.mlp.out, "linear2"),
            ):
                theirs.get_submodule(name).load_state_dict(mine.state_dict())
        self.pipeline = pipeline(ours)

    def __call__(self, codes: Tensor) -> Tensor:
        """(m, 3, height, width), 0 to 1."""
        ours, noise = self.ours, generators(len(codes))
        up = ours.up(ours.quantiser.codebook(codes)) + ours.generate.positions
        embedding = ours.head(self.branch(up))
        latents = torch.stack([torch.randn(4, SIDE, SIDE, generator=one) for one in noise])
        prompt = torch.zeros(len(codes), 1, UNET["cross_attention_dim"])
        made = self.pipeline(
            image_embeds=embedding,
            prompt_embeds=prompt,
            negative_prompt_embeds=prompt,
            latents=latents,
            generator=noise,
            num_inference_steps=STEPS,
            guidance_scale=DECODER.diffusion.guidance,
            output_type="pt",
        )
        drawn: Tensor = made.images
        return drawn


class Unasked(nn.Linear):
    """Stands for the pipeline's tower of pictures, which only tells device and type."""

    device, dtype = torch.device("cpu"), torch.float32


def pipeline(ours: SeedTokenizer) -> Any:
    """diffusers' unCLIP on our own modules."""
    from diffusers import StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    decoder = ours.decoder
    assert isinstance(decoder, UnCLIP)
    made = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=Unasked(1, 1),
        image_normalizer=StableUnCLIPImageNormalizer(DECODER.embedding),
        image_noising_scheduler=scheduler(DECODER.noising),
        tokenizer=None,
        text_encoder=None,
        unet=decoder.diffusion.unet,
        scheduler=make("PNDMScheduler", DECODER.diffusion.scheduler),
        vae=decoder.diffusion.vae,
    )
    made.set_progress_bar_config(disable=True)
    return made


def generators(count: int) -> list[torch.Generator]:
    """Of the noise of each picture."""
    return [torch.Generator().manual_seed(i) for i in range(count)]


def drawn(system: SeedTokenizer, codes: Tensor) -> Tensor:
    """Ours, 0 to 1."""
    made = [torch.from_numpy(to_array(one.open())) for one in system.decode(codes, generators(len(codes)))]
    return torch.stack(made) / 2 + 0.5


def timed(runs: dict[str, Callable[[], Any]], count: int, each: int) -> dict[str, Any]:
    """Ours against the peer; what is made in a second, `each` in a run."""
    times = pairs.rounds(runs, count)
    found = {way: pairs.ratio(times, way, "peer") for way in runs if way != "peer"}
    return {way: value | {"per_second": round(each / value["ours_s"], 1)} for way, value in found.items()}


@torch.inference_mode()
def main() -> None:
    """Measures all, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=pairs.PAIRS)
    count = parser.parse_args().pairs
    built = tokenizer()
    packed = copy.deepcopy(built)
    pack(packed)
    ways, reader, drawer = {"built": built, "packed": packed}, Reader(built), Drawer(built)
    figures: dict[str, Any] = {"parameters": sum(p.numel() for p in built.parameters()), "encode": {}, "decode": {}}
    codes_each = CONFIG.codes_per_image
    for batch in READ:
        pixels = torch.randn(batch, 3, TOWER.image_size, TOWER.image_size)
        same = {way: float((one.encode(pixels) == reader(pixels)).float().mean()) for way, one in ways.items()}
        assert min(same.values()) > 0.98, f"{same} of the codes are the peer's"
        runs: dict[str, Callable[[], Any]] = {way: partial(one.encode, pixels) for way, one in ways.items()}
        found = timed(runs | {"peer": partial(reader, pixels)}, count, batch * codes_each)
        figures["encode"][f"batch {batch}"] = {way: found[way] | {"same_codes": same[way]} for way in ways}
        print("encode", batch, found, flush=True)
    for batch in DRAWN:
        codes = torch.randint(CONFIG.codes, (batch, codes_each), generator=torch.Generator().manual_seed(batch))
        right = drawer(codes)
        apart = {way: float((drawn(one, codes) - right).abs().max()) for way, one in ways.items()}
        assert max(apart.values()) < 0.02, f"pictures differ from the peer's by {apart}"
        runs = {way: partial(drawn, one, codes) for way, one in ways.items()}
        found = timed(runs | {"peer": partial(drawer, codes)}, max(2, count // 3), batch)
        figures["decode"][f"batch {batch}"] = {way: found[way] | {"largest_difference": apart[way]} for way in ways}
        print("decode", batch, found, flush=True)
    config = {"threads": torch.get_num_threads(), "steps": STEPS, "picture": 8 * SIDE, "seed": 0}
    print(results.write("tokenising", figures, config))


if __name__ == "__main__":
    main()
