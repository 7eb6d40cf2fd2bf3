"""What published systems took as pretrained, trained from scratch on the shapes world (`systems.foundations`).

`tiny` is trained once, on two CPU cores: recipes of systems that begin with its parts call `ensure`.
`drawers` begins with a run of it and adds what draws: recipes of systems that draw call `ensure_drawers`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plait.checkpoints import directory as checkpoints
from plait.data.packs import Data, Source
from plait.data.shapes import Shapes
from plait.data.shapes.kinds import CASES
from plait.data.shapes.told import KINDS, Told
from plait.evaluate.retrieval import ShapesRetrieval
from plait.evaluate.shapes import Held, ShapesCaption, ShapesDrawings, ShapesTextQuestions
from plait.objectives.contrastive import Contrast
from plait.objectives.diffusion import DrawEmbedding, DrawText, GiveBack
from plait.objectives.masked_image import MaskedImage, Predictor
from plait.objectives.qformer import ReadAndTell
from plait.objectives.tokens import NextToken
from plait.recipes.cm3leon import HARD, texts
from plait.systems.foundations import DRAWERS, TINY, Foundations, FoundationsConfig
from plait.text.pieces import SentencePiece
from plait.text.templates import CLOSE, INSTRUCTIONS, OPEN
from plait.train.run import Run
from plait.train.stage import Objective, Optimiser, Recipe, Schedule, Stage, Update

SEED = 20210226
TOKENIZER_TEXTS = 3000  # documents that the pieces are learned from
PACK = 480  # inputs of a row: some 16 pairs
WINDOW = 2048  # documents planned together: more than a step takes, or they would be laid out again and again
SAID = {"caption": 0.1, "describe": 0.2, "questions": 0.7}
"""Texts: what is told of a scene, alone, and with what is asked about it."""
SHOWN = {"caption": 0.25, "describe": 0.25, "questions": 0.5}
"""The same of pictures. Answers behind their steps teach to see, too: each step names what is in the picture."""
TALKED = {"shapes": 0.85, "told": 0.15}
"""What the bridge is on: pictures, and texts alone."""
GIVEN_BACK = {"shapes": 0.4, "styles": 0.6}
"""What the VAE learns from: in dark and hollow styles there is little to see, and much to lose."""
PICTURED = {"shapes": 0.55, "styles": 0.45}
"""What is drawn from embeddings, which hold styles too: systems put pictures together in the style of others."""


def tiny() -> Recipe:
    """All parts, one stage each."""
    config = TINY
    held = Held(seed=SEED + 2)
    pairs: dict[str, Source] = {
        "shapes": Shapes(seed=SEED + 1, length=1_000_000, objects=(1, 1, 2, 3), mix={"caption": 1.0})
    }
    talks: dict[str, Source] = {
        "shapes": Shapes(
            seed=SEED + 1,
            length=1_000_000,
            objects=(1, 2, 2, 3),
            mix=SHOWN,
            questions_each=8,
            asks=HARD,
            steps=True,
        ),
        "told": _told(SAID),
    }
    return Recipe(
        name="foundations/tiny",
        build=functools.partial(build, config, _told(dict.fromkeys(KINDS, 1.0))),
        stages=(
            clip_stage(config, pairs, steps=90),
            eva_stage(config, pairs, steps=40),
            language_stage(steps=750),
            bridge_stage(talks, steps=960, shares=TALKED),
            qformer_stage(pairs, steps=40),
        ),
        tasks=(
            ShapesRetrieval(seed=SEED + 2),
            ShapesTextQuestions(held=held),
            ShapesCaption(held=held),
        ),
    )


def drawers(foundations: str = "runs/foundations-tiny") -> Recipe:
    """What draws, one stage each.

    Args:
        foundations: a run of `foundations/tiny`, which is trained first where there is none.
    """
    crowds: dict[str, Source] = {
        "shapes": Shapes(seed=SEED + 1, length=1_000_000, objects=(3, 4, 5, 6, 7, 8, 9), mix={"caption": 1.0})
    }
    pairs: dict[str, Source] = {
        "shapes": Shapes(seed=SEED + 1, length=1_000_000, objects=(1, 2, 3), mix={"caption": 1.0})
    }
    styles = {"styles": CASES["style-drawings"](seed=SEED + 1, length=1_000_000, resolution=32)}
    return Recipe(
        name="foundations/drawers",
        build=functools.partial(founded, foundations),
        stages=(
            vae_stage({**crowds, **styles}, steps=1600, shares=GIVEN_BACK),
            unclip_stage({**pairs, **styles}, steps=2600, shares=PICTURED),
            painter_stage(pairs, steps=3000),
        ),
        tasks=(ShapesDrawings(),),
    )


def clip_stage(config: FoundationsConfig, sources: dict[str, Source], steps: int) -> Stage:
    """Both towers of CLIP from scratch, on pairs: documents of a picture and its caption."""
    return _stage(
        "clip",
        Data(sources=sources, rows=14, length=PACK, window=WINDOW, seed=SEED + 1),
        Contrast(),
        matrices(*of_tower("clip.*"), lr=0.02),
        Optimiser(train=("clip.*",), lr=3e-3),
        steps=steps,
    )


def eva_stage(config: FoundationsConfig, sources: dict[str, Source], steps: int) -> Stage:
    """EVA's tower, which begins as CLIP's, on pictures of which patches are hidden."""
    return _stage(
        "eva",
        Data(
            sources=sources, rows=256, length=config.blip2.vectors - 1, reads="pictures", window=WINDOW, seed=SEED + 2
        ),
        MaskedImage(),
        matrices(*of_tower("blip2.vision"), lr=0.02),
        Optimiser(train=("blip2.vision.*", "predictor:*"), lr=3e-3),
        before=(begin_eva,),
        companions={"predictor": predictor},
        steps=steps,
    )


def language_stage(steps: int) -> Stage:
    """The language model, on text alone."""
    return _stage(
        "language",
        Data(sources={"told": _told(SAID)}, rows=8, length=256, window=64, seed=SEED),
        NextToken(),
        matrices(*_OF_LANGUAGE, lr=0.008),
        Optimiser(train=("blip2.language.*",), lr=2.5e-3),
        steps=steps,
        schedule=Schedule(warmup=30),
    )


def bridge_stage(sources: dict[str, Source], steps: int, shares: Mapping[str, float] | None = None) -> Stage:
    """BLIP-2's second stage, here the first: tower, Q-Former and language model learn to speak of what they see.

    On pairs as in the paper, on talks about pictures, as the language model here is one that is talked to, and on texts
    alone, so that it stays one. BLIP-2's is frozen, and had read most of what is written.
    """
    return _stage(
        "bridge",
        Data(sources=sources, shares=shares or {}, rows=8, length=PACK, window=WINDOW, seed=SEED + 4),
        NextToken(),
        matrices(*of_qformer("blip2.qformer"), *of_tower("blip2.vision"), *_OF_LANGUAGE),
        Optimiser(train=("blip2.*",), lr=2e-3),
        steps=steps,
    )


def qformer_stage(sources: dict[str, Source], steps: int) -> Stage:
    """BLIP-2's first stage, on pairs, here the second: a Q-Former that begins as the bridge's, with a text branch."""
    return _stage(
        "qformer",
        Data(sources=sources, rows=8, length=PACK, window=WINDOW, seed=SEED + 3),
        ReadAndTell(),
        matrices(*of_qformer("qformer"), lr=0.03),
        Optimiser(train=("qformer.*", "heads_of_qformer.*"), lr=3e-3),
        before=(begin_qformer,),
        steps=steps,
    )


def vae_stage(sources: dict[str, Source], steps: int, shares: Mapping[str, float] | None = None) -> Stage:
    """The VAE, from scratch, on pictures: crowded ones, of which each shows more of what there is."""
    return _stage(
        "vae",
        _pictures(sources, shares, rows=32, seed=SEED + 5),
        GiveBack(kl=1e-5),
        Optimiser(train=("unclip.diffusion.vae.*",), lr=3e-3),
        steps=steps,
    )


def unclip_stage(sources: dict[str, Source], steps: int, shares: Mapping[str, float] | None = None) -> Stage:
    """The U-Net that draws from an image embedding, and the tower that makes it, which begins as CLIP's."""
    return _stage(
        "unclip",
        _pictures(sources, shares, rows=32, seed=SEED + 6),
        DrawEmbedding(),
        matrices(*of_tower("embedder.image")),
        Optimiser(train=("unclip.diffusion.unet.*", "unclip.diffusion.canvas.*", "embedder.*"), lr=2e-3),
        before=(Whiten(source=next(iter(sources.values()))), begin_unclip),
        steps=steps,
        ema=0.995,
    )


def painter_stage(sources: dict[str, Source], steps: int) -> Stage:
    """The U-Net that draws from a text, and the tower that reads it, which begins as CLIP's; the VAE is the same."""
    return _stage(
        "painter",
        Data(sources=sources, rows=2, length=PACK, window=WINDOW, seed=SEED + 7),
        DrawText(),
        matrices(*of_tower("prompter")),
        Optimiser(train=("painter.diffusion.unet.*", "painter.diffusion.canvas.*", "prompter.*"), lr=4e-3),
        before=(begin_painter,),
        steps=steps,
        ema=0.995,
    )


def _pictures(sources: dict[str, Source], shares: Mapping[str, float] | None, rows: int, seed: int) -> Data:
    """One picture a row, whatever is said of it."""
    return Data(
        sources=sources,
        shares=shares or {},
        rows=rows,
        length=PACK,
        reads="pictures",
        policy="alone",
        window=WINDOW,
        seed=seed,
    )


def _stage(name: str, data: Data, objective: Objective, *optimisers: Optimiser, **more: Any) -> Stage:
    """A stage of one update in bf16, by default after a short warm-up; `more` are further fields of it."""
    updates = (Update(objective=objective, optimisers=optimisers),)
    return Stage(name=name, data=data, updates=updates, precision="bf16", **{"schedule": Schedule(warmup=20), **more})


_OF_LANGUAGE = ("blip2.language.decoder.*.attention.*", "blip2.language.decoder.*.mlp.*")


def of_tower(name: str) -> tuple[str, ...]:
    """The matrices of a tower's blocks."""
    return tuple(f"{name}.blocks.*.{part}.*.weight" for part in ("attention", "mlp"))


def of_qformer(name: str) -> tuple[str, ...]:
    """The matrices of a Q-Former's blocks."""
    return tuple(f"{name}.blocks.*{part}.part.*.weight" for part in (".attention", ".cross", "mlp"))


def begin_eva(system: Any) -> None:
    """Gives EVA's tower what CLIP's has learned: CLIP's has one part more, the norm behind the embedding."""
    _take(system.eva, system.clip.image)


def predictor(system: Any) -> Predictor:
    """From EVA's width to CLIP's."""
    return Predictor(system.config.blip2.vision.width, system.config.clip.image.width)


def begin_qformer(system: Any) -> None:
    """Gives the Q-Former what the bridge's has learned, which has no text branch."""
    _take(system.qformer, system.blip2.qformer)


@dataclass(frozen=True, kw_only=True)
class Whiten:
    """Brings the latents of a source's first pictures to mean 0 and deviation 1: what noise is added to must be so."""

    source: Source
    pictures: int = 256

    def __call__(self, system: Any) -> None:
        """Pictures come out of the VAE as before."""
        count = min(self.pictures, len(self.source))
        system.whiten([picture for i in range(count) for picture in self.source[i].images])


def begin_unclip(system: Any) -> None:
    """Gives the tower that embeds pictures what CLIP's has learned; its projection is of all patches, and new."""
    _take(system.embedder, system.clip)


def begin_painter(system: Any) -> None:
    """Gives the painter the VAE, and the tower that it looks through what CLIP's has learned."""
    _take(system.painter.diffusion.vae, system.vae)
    _take(system.prompter, system.clip.text)


def _take(into: nn.Module, learned: nn.Module) -> None:
    """Copies the tensors whose names and shapes both have."""
    own, theirs = into.state_dict(), learned.state_dict()
    fitting = {name: tensor for name, tensor in theirs.items() if name in own and own[name].shape == tensor.shape}
    into.load_state_dict({**own, **fitting})


def matrices(*train: str, lr: float = 0.01) -> Optimiser:
    """Muon, for the matrices of blocks."""
    return Optimiser(train=train, kind="muon", lr=lr, betas=(0.95, 0.0))


def _told(mix: dict[str, float]) -> Told:
    shapes = Shapes(seed=SEED, length=1_000_000, objects=(1, 2, 3), questions_each=8, steps=True)
    return Told(shapes=shapes, mix=mix)


def build(config: FoundationsConfig, source: Source) -> Foundations:
    """Random weights, and pieces learned from the source's first texts. The caller seeds torch."""
    dialogue = INSTRUCTIONS[config.blip2.template]
    frame = f"{dialogue.before} {OPEN} {CLOSE} {dialogue.after}".split()
    learned = SentencePiece.train(texts(source, TOKENIZER_TEXTS), config.blip2.language.vocabulary, frame)
    # By default the end symbol pads, and what pads is no target: no answer would ever end.
    return Foundations(config, SentencePiece(learned.model, pad=config.blip2.pad))


def founded(foundations: str) -> Foundations:
    """All parts of a run of `tiny`, and new ones that draw. The caller seeds torch.

    Raises:
        CheckpointError: the directory holds something else.
    """
    folder = checkpoints.find(ensure(foundations))
    found = checkpoints.load_as(folder, Foundations)
    system = Foundations(replace(found.config, drawers=DRAWERS.drawers), found.pieces)
    checkpoints.take(system, folder, {name: name for name in found.parts})
    return system


def ensure(directory: str | Path) -> Path:
    """The run of `tiny` in a directory, trained to its end now if it is not there. Global randomness stays as it is.

    A finished run is taken as it is, also one of other steps or data.

    Raises:
        ConfigError: the directory holds the beginning of another run.
    """
    return _ensured(tiny(), directory)


def ensure_drawers(directory: str | Path, foundations: str = "runs/foundations-tiny") -> Path:
    """The same of `drawers`; `foundations` is the run that it begins with."""
    return _ensured(drawers(foundations), directory)


def _ensured(recipe: Recipe, directory: str | Path) -> Path:
    if not Path(directory, "report.json").exists():  # what a run writes last
        with torch.random.fork_rng():
            torch.manual_seed(0)
            Run(recipe, directory).train()
    return Path(directory)


RECIPES = {"tiny": tiny, "drawers": drawers}
