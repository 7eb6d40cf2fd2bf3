"""Replies of KOSMOS-1 to a picture and words against transformers' Kosmos2, with the same weights in one process.

    pip install -e ".[bench]" && python benchmarks/kosmos1.py

fp32, greedy, 64 ids behind a picture of 64 vectors and some words, for 1 and 8 requests, at 10M and 100M parameters of
random weights in the decoder: as `plait.load` gives them, compiled, and compiled with no weight packed. Both sides run
tower and resampler, and must say the same ids. Figures go to benchmarks/results/kosmos1.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pairs
import PIL.Image
import results
import torch
from llama import SIZES, VOCABULARY

import plait
from plait.checkpoints import directory
from plait.checkpoints.published import export
from plait.document import Document, Image
from plait.nn.magneto import MagnetoConfig
from plait.nn.vit import VITConfig
from plait.sequence import Collator, Sequence
from plait.systems.kosmos1 import KOSMOS1, SYMBOLS, KOSMOS1Config
from plait.text.pieces import FairseqPieces

NEW = 64
BATCHES = (1, 8)
WAYS = {"packed": {}, "compiled": {"compile": True}, "compiled, unpacked": {"compile": True, "packed": False}}
"""How `plait.load` is asked."""
LINES = ("Question: what is the animal doing? Answer: it sleeps.", "An image of a small red fox in the snow.")
VISION = VITConfig(image_size=112, patch=14, width=192, depth=4, heads=3, hidden=768, eps=1e-5)


def build(size: str) -> KOSMOS1:
    """Random weights; ids that end a reply, pad, or have no piece are never the likeliest."""
    width, depth, heads = SIZES[size]
    language = MagnetoConfig(
        vocabulary=VOCABULARY, width=width, depth=depth, heads=heads, hidden=4 * width, positions="sinusoidal"
    )
    text = FairseqPieces.train(LINES, 96, SYMBOLS["kosmos2"])
    torch.manual_seed(0)
    system = KOSMOS1(KOSMOS1Config(vision=VISION, language=language, symbols="kosmos2"), text)
    with torch.no_grad():
        table = system.language.embed.weight
        table[text.eos] = table[len(text) :] = 0  # a logit of 0
    return system


def asked(count: int) -> list[Document]:
    """Different pictures, the same words."""
    random = np.random.default_rng(0)
    made = [PIL.Image.fromarray(random.integers(0, 256, (112, 112, 3), dtype=np.uint8)) for _ in range(count)]
    return [Document([Image(one), LINES[0]]) for one in made]


@torch.inference_mode()
def replies(size: str, ways: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Ours in each way against the peer, for each batch."""
    import transformers

    with tempfile.TemporaryDirectory() as name:
        saved = directory.save(build(size), Path(name) / "saved")
        export(saved, "hf", Path(name) / "hf")
        peer = transformers.Kosmos2ForConditionalGeneration.from_pretrained(Path(name) / "hf").eval()
        models = {way: plait.load(saved, **WAYS[way]) for way in ways}
    format = models[ways[0]].format
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in peer.text_model.parameters())}
    for batch in BATCHES:
        documents = asked(batch)
        laid = [format.layout(document, open=True) for document in documents]
        seen = {
            "input_ids": torch.from_numpy(np.stack([one.ids(format.text.unk) for one in laid])),
            "image_embeds_position_mask": torch.from_numpy(np.stack([one.ids() < 0 for one in laid])),
        }
        said: dict[str, Callable[[], list[list[int]]]] = {
            way: partial(ours, model, documents) for way, model in models.items()
        }
        right = theirs(peer, seen, laid, format.collator())
        for way, run in said.items():
            same = sum(a == b for a, b in zip(run(), right, strict=True))
            assert same == batch, f"{way}: {same} of {batch} replies are the peer's"
        times = pairs.rounds({**said, "peer": partial(theirs, peer, seen, laid, format.collator())}, rounds)
        found[f"batch {batch}"] = {way: pairs.ratio(times, way, "peer") for way in ways}
    return found


def ours(model: plait.Model, documents: list[Document]) -> list[list[int]]:
    """The ids of the engine."""
    return [reply.runs[0].ids for reply in model.generate(documents, max_new_tokens=NEW)]


def theirs(peer: Any, seen: dict[str, Any], laid: list[Sequence], collator: Collator) -> list[list[int]]:
    """The ids of the peer, pictures prepared by us."""
    pixels = collator([[one] for one in laid], shift=False).images
    made = peer.generate(**seen, pixel_values=pixels, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
    found: list[list[int]] = made[:, seen["input_ids"].shape[1] :].tolist()
    return found


def main() -> None:
    """Measures all, writes the figures."""
    asked = argparse.ArgumentParser(description="Replies of KOSMOS-1 against transformers' Kosmos2.")
    asked.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    asked.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    asked.add_argument("--rounds", type=int, default=pairs.PAIRS)
    asked.add_argument("--print", action="store_true", help="print the figures and write nothing")
    given = asked.parse_args()
    figures = {size: replies(size, tuple(given.ways), given.rounds) for size in given.sizes}
    config = {"vectors": 64, "new": NEW, "threads": torch.get_num_threads(), "seed": 0, "rounds": given.rounds}
    print(figures if given.print else results.write("kosmos1", figures, config))


if __name__ == "__main__":
    main()
