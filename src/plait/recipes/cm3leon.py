"""CM3Leon's stages (arXiv 2309.02591): the image tokenizer, then CM3 pretraining.

`tiny` does both from scratch on two CPU cores: by default on the shapes world in about twelve minutes, or on imported
data (`--set data=DIR`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from plait.data.packs import Data, Source
from plait.data.shapes import Shapes, language
from plait.data.shapes.questions import KINDS
from plait.data.shards import ShardSource, splits
from plait.document import Blank, Document, Image, Text, Turn
from plait.evaluate.shapes import Held, ShapesCaption, ShapesDraw, ShapesQuestions
from plait.generate.engine import Settings
from plait.generate.sampling import Sampling
from plait.nn.quantise import CodebookUpkeep
from plait.objectives.cm3 import CM3Mask
from plait.objectives.reconstruction import Reconstruct
from plait.objectives.tokens import NextToken
from plait.systems.cm3leon import TINY, CM3Leon, CM3LeonConfig
from plait.text.bpe import BPE
from plait.train.stage import Optimiser, Probe, Recipe, Schedule, Stage, Update

SEED = 20230905
TOKENIZER_TEXTS = 3000  # documents that the BPE is learned from
DRAWING = Sampling(temperature=0.3, top_p=0.9)
MIX = {"draw": 0.45, "describe": 0.05, "questions": 0.15, "both": 0.35}
"""Kinds of document. Some hold one question alone, as users ask it; else the model describes instead of answering."""
HARD = {kind: share if kind in ("colour", "shape", "place") else 2 * share for kind, share in KINDS.items()}
"""What is asked in training: captions teach colours, shapes and places already."""
GUIDANCE = 2.0


def tiny(data: str | None = None) -> Recipe:
    """The embedded default, or the same on an imported directory with a split "train", or without splits.

    Args:
        data: of `plait data import`; none: the shapes world.
    """
    if data is None:
        return _shapes()
    return _imported(data)


def _shapes() -> Recipe:
    config = TINY
    pictures = Shapes(
        seed=SEED, length=1_000_000, objects=(4, 5, 6, 7, 8, 9), mix={"draw": 1.0}
    )  # crowded: more to learn
    documents = Shapes(seed=SEED + 1, length=1_000_000, objects=(1, 2, 2, 2, 2, 3), mix=MIX, asks=HARD)
    held = Held(seed=SEED + 2)
    return Recipe(
        name="cm3leon/tiny",
        build=functools.partial(build, config, documents),
        stages=(
            tokenizer_stage(config, {"shapes": pictures}, steps=1000),
            pretrain_stage(config, {"shapes": documents}, steps=1750),
        ),
        probes=_shapes_probes(),
        tasks=(
            ShapesCaption(held=held),
            ShapesQuestions(held=held),
            ShapesDraw(held=held, guidance=GUIDANCE, sampling=DRAWING),
        ),
    )


def _imported(data: str) -> Recipe:
    source = ShardSource(data, "train" if "train" in splits(data) else None)
    config = replace(TINY, image=replace(TINY.image, codes=512))
    return Recipe(
        name="cm3leon/tiny",
        build=functools.partial(build, config, source),
        stages=(
            tokenizer_stage(config, {"data": source}, steps=2000),
            pretrain_stage(config, {"data": source}, steps=2500),
        ),
        probes=_probes_of(source),
    )


def tokenizer_stage(config: CM3LeonConfig, sources: dict[str, Source], steps: int) -> Stage:
    """The VQGAN on squared error, its codebook kept in use.

    The published losses (absolute error, perceptual, adversarial) ask for a pretrained network and far more steps; at
    this size squared error learns codes that keep colours and outlines within a minute.
    """
    image = config.image
    return Stage(
        name="tokenizer",
        data=Data(sources=sources, rows=32, length=image.codes_per_image - 1, reads="pictures", seed=SEED),
        updates=(
            Update(
                objective=Reconstruct(pixel="squared", codebook=1.0, commitment=1.0),
                optimisers=(Optimiser(train=("image_tokenizer.*",), lr=3e-3, betas=(0.9, 0.99)),),
            ),
        ),
        companions={"upkeep": upkeep},
        steps=steps,
        schedule=Schedule(warmup=30, shape="cosine", final=0.03),
        precision="bf16",
    )


def pretrain_stage(config: CM3LeonConfig, sources: dict[str, Source], steps: int) -> Stage:
    """CM3 on whole documents in packs; the tokenizer stays as it is."""
    vocabulary = config.vocabulary
    first = vocabulary.first_sentinel
    tables = ("embed.*", "positions.*", "places.*") if config.raster else ("embed.*", "positions.*")
    mask = CM3Mask(
        sentinels=tuple(range(first, first + config.sentinels)),
        end=vocabulary.eoss,
        boundaries=(vocabulary.brk, vocabulary.eos),
        expectation=0.1,
        whole=0.1,
    )
    return Stage(
        name="pretrain",
        data=Data(sources=sources, rows=8, length=config.positions, transforms=(mask,), seed=SEED + 1),
        updates=(
            Update(
                objective=NextToken(kinds=("token", "code")),
                optimisers=(
                    Optimiser(train=("decoder.*",), kind="muon", lr=0.02, betas=(0.95, 0.0), weight_decay=0.01),
                    Optimiser(train=tables, lr=6e-3),
                ),
            ),
        ),
        before=(start_codes,),
        steps=steps,
        schedule=Schedule(warmup=30),
        precision="bf16",
    )


def build(config: CM3LeonConfig, source: Source) -> CM3Leon:
    """Random weights, and a BPE of the source's first texts. The caller seeds torch."""
    return CM3Leon(config, BPE.train(texts(source, TOKENIZER_TEXTS), config.text_tokens))


def upkeep(system: Any) -> CodebookUpkeep:
    """Draws the codebook anew from the encoder's vectors while these move fastest, and keeps it in use after that."""
    return CodebookUpkeep(system.config.image.codes, system.config.image.code_width, settle=60)


def start_codes(system: Any) -> None:
    """Gives codes that look alike embeddings that are alike: random Fourier features of their vectors."""
    system.embed_codes(torch.Generator().manual_seed(SEED))


def texts(source: Source, count: int) -> Iterator[str]:
    """The text pieces of a source's first documents."""
    for i in range(min(count, len(source))):
        yield from (piece.text for piece in source[i] if isinstance(piece, Text))


def _shapes_probes() -> tuple[Probe, ...]:
    held = Shapes(seed=SEED + 3, length=4, split="validation", objects=(1, 2, 3))
    probes = []
    for example in held.examples():
        picture = Image(example.scene.draw(held.resolution))
        question = example.questions[0]
        probes += [
            Probe(
                prompt=Document([Text(example.caption), Blank("image")]),
                settings=Settings(guidance=GUIDANCE, image=DRAWING),
            ),
            Probe(
                prompt=Document([Turn("user", [picture, language.REQUESTS[0]])]),
                settings=Settings(max_new_tokens=64),
                reference=example.caption,
            ),
            Probe(
                prompt=Document([Turn("user", [picture, question.text])]),
                settings=Settings(max_new_tokens=16),
                reference=question.answer,
            ),
        ]
    return tuple(probes)


def _probes_of(source: Source) -> tuple[Probe, ...]:
    captions = list(dict.fromkeys(_captions(source)))[:10]
    drawn = Settings(guidance=GUIDANCE, image=DRAWING)
    return tuple(Probe(prompt=Document([Text(text), Blank("image")]), settings=drawn) for text in captions)


def _captions(source: Source) -> Iterable[str]:
    step = max(1, len(source) // 200)
    return (source[i].text for i in range(0, len(source), step))


RECIPES = {"tiny": tiny}
