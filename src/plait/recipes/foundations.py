"""What published systems took as pretrained, trained from scratch on the shapes world (`systems.foundations`).

`tiny` takes two CPU cores about twelve minutes, once: recipes of systems that begin with its parts call `ensure`.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import torch

from plait.data.packs import Data, Source
from plait.data.shapes import Shapes
from plait.data.shapes.told import KINDS, Told
from plait.evaluate.shapes import Held, ShapesTextQuestions
from plait.objectives.tokens import NextToken
from plait.recipes.cm3leon import texts
from plait.systems.foundations import TINY, Foundations, FoundationsConfig
from plait.text.pieces import SentencePiece
from plait.text.templates import CLOSE, INSTRUCTIONS, OPEN
from plait.train.run import Run
from plait.train.stage import Optimiser, Recipe, Schedule, Stage, Update

SEED = 20210226
TOKENIZER_TEXTS = 3000  # documents that the pieces are learned from
LANGUAGE_STEPS = 600


def tiny() -> Recipe:
    """All parts, one stage each."""
    config = TINY
    held = Held(seed=SEED + 2)
    return Recipe(
        name="foundations/tiny",
        build=functools.partial(build, config, _told(dict.fromkeys(KINDS, 1.0))),
        stages=(language_stage(),),
        tasks=(ShapesTextQuestions(held=held),),
    )


def language_stage(steps: int = LANGUAGE_STEPS) -> Stage:
    """The language model, on text alone."""
    told = _told({"caption": 0.1, "describe": 0.2, "questions": 0.7})
    return Stage(
        name="language",
        data=Data(sources={"told": told}, rows=16, length=256, window=64, seed=SEED),
        updates=(
            Update(
                objective=NextToken(),
                optimisers=(
                    Optimiser(
                        train=("blip2.language.decoder.*.attention.*", "blip2.language.decoder.*.mlp.*"),
                        kind="muon",
                        lr=0.02,
                        betas=(0.95, 0.0),
                    ),
                    Optimiser(train=("blip2.language.*",), lr=6e-3),
                ),
            ),
        ),
        steps=steps,
        schedule=Schedule(warmup=30),
        precision="bf16",
    )


def _told(mix: dict[str, float]) -> Told:
    return Told(shapes=Shapes(seed=SEED, length=1_000_000, objects=(1, 2, 3), questions_each=8), mix=mix)


def build(config: FoundationsConfig, source: Source) -> Foundations:
    """Random weights, and pieces learned from the source's first texts. The caller seeds torch."""
    dialogue = INSTRUCTIONS[config.blip2.template]
    frame = [f"{dialogue.before}{OPEN}{CLOSE} {dialogue.after}{dialogue.end}"] * TOKENIZER_TEXTS
    lines = itertools.chain(frame, texts(source, TOKENIZER_TEXTS))
    learned = SentencePiece.train(lines, config.blip2.language.vocabulary)
    # By default the end symbol pads, and what pads is no target: no answer would ever end.
    return Foundations(config, SentencePiece(learned.model, pad=config.blip2.pad))


def ensure(directory: str | Path) -> Path:
    """The run of `tiny` in a directory, trained to its end now if it is not there. Global randomness stays as it is."""
    recipe = tiny()
    run = Run(recipe, directory)
    if run.next_step < sum(stage.steps for stage in recipe.stages):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            run.train()
    return run.directory


RECIPES = {"tiny": tiny}
