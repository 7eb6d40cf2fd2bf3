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
SCENES = (1, 1, 2, 2, 3)  # objects, each as likely
ASKS = {
    "colour": 0.1,
    "shape": 0.1,
    "place": 0.12,
    "count": 0.1,
    "relation": 0.14,
    "comparison": 0.16,
    "yes-no": 0.14,
    "existence": 0.14,
}
"""What is asked in training: more of what is answered by comparing, which is learned last."""
LANGUAGE_STEPS = (300, 400, 1200, 1500)


def tiny() -> Recipe:
    """All parts, one stage each; the language model in four."""
    config = TINY
    held = Held(seed=SEED + 2)
    return Recipe(
        name="foundations/tiny",
        build=functools.partial(build, config, _told((1, 2, 3), dict.fromkeys(KINDS, 1.0))),
        stages=language_stages(config),
        tasks=(ShapesTextQuestions(held=held),),
    )


def language_stages(config: FoundationsConfig, steps: tuple[int, int, int, int] = LANGUAGE_STEPS) -> tuple[Stage, ...]:
    """The language model, on text alone, from checks in one word on one object to conversations.

    To compare what is asked with what was told is learned all at once after a plateau. Noise keeps it there: where
    captions, several objects and long questions come first or beside, a million tokens do not end it; where nothing but
    "yes" and "no" is predicted, on one object, and updates are small and many, 200 do. Each stage keeps some of the
    last, or that is lost again.
    """
    words = _told((1,), {"checks": 1.0}, checks=(16, 0))
    checks = _told((1, 1, 2), {"checks": 1.0}, checks=(6, 10))
    drill = _told((1, 1, 2), {"checks": 0.4, "drill": 0.3, "questions": 0.3})
    mixed = _told(SCENES, {"checks": 0.15, "drill": 0.35, "questions": 0.43, "describe": 0.05, "caption": 0.02})
    constant, falling = Schedule(warmup=20, decay=0.0), Schedule(warmup=20)
    sources = {"words": words, "checks": checks, "drill": drill, "language": mixed}
    return tuple(
        language_stage(config, name, source, count, falling if name == "language" else constant)
        for (name, source), count in zip(sources.items(), steps, strict=True)
    )


def language_stage(config: FoundationsConfig, name: str, source: Source, steps: int, schedule: Schedule) -> Stage:
    """The language model, on documents of text alone."""
    return Stage(
        name=name,
        data=Data(sources={"told": source}, rows=4, length=352, window=64, seed=SEED),
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
        schedule=schedule,
        precision="bf16",
    )


def _told(objects: tuple[int, ...], mix: dict[str, float], checks: tuple[int, int] = (4, 4)) -> Told:
    shapes = Shapes(seed=SEED, length=1_000_000, objects=objects, questions_each=6, asks=ASKS)
    return Told(shapes=shapes, mix=mix, checks=checks)


def build(config: FoundationsConfig, source: Source) -> Foundations:
    """Random weights, and pieces learned from the source's first texts. The caller seeds torch."""
    dialogue = INSTRUCTIONS[config.blip2.template]
    frame = [f"{dialogue.before}{OPEN}{CLOSE} {dialogue.after}{dialogue.end}"] * TOKENIZER_TEXTS
    lines = itertools.chain(frame, texts(source, TOKENIZER_TEXTS))
    return Foundations(config, SentencePiece.train(lines, config.blip2.language.vocabulary))


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
