"""A very small CM3Leon in two short stages, for measurements and tests that run it in processes of its own.

plait train benchmarks/small.py:small --set steps=20 --out runs/small
"""

from __future__ import annotations

import functools
from dataclasses import replace

from plait.data.shapes import Shapes
from plait.nn.vqgan import VQGANConfig
from plait.recipes.cm3leon import build, pretrain_stage, tokenizer_stage
from plait.systems.cm3leon import CM3LeonConfig
from plait.train.stage import Recipe, Stage

CONFIG = CM3LeonConfig(
    image=VQGANConfig(
        resolution=32,
        channels=8,
        multipliers=(1, 1, 2),
        blocks=1,
        attention_resolutions=(),
        latent_channels=8,
        code_width=4,
        codes=32,
    ),
    width=64,
    depth=2,
    heads=2,
    positions=256,
    text_tokens=512,
    sentinels=8,
    init_std=0.02,
    position_std=0.02,
)
DOCUMENTS = Shapes(seed=1, length=10_000, objects=(1, 2, 3), mix={"draw": 0.5, "both": 0.5})


def small(steps: int = 20, save_every: int = 5, workers: int = 0) -> Recipe:
    """Both stages of `cm3leon/tiny`, each of so many steps."""

    def short(stage: Stage) -> Stage:
        data = replace(stage.data, rows=4, window=32, workers=workers)
        return replace(stage, data=data, save_every=save_every)

    return Recipe(
        name="small",
        build=functools.partial(build, CONFIG, DOCUMENTS),
        stages=(
            short(tokenizer_stage(CONFIG, {"shapes": DOCUMENTS}, steps)),
            short(pretrain_stage(CONFIG, {"shapes": DOCUMENTS}, steps)),
        ),
    )
