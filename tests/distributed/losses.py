"""Run by torchrun or alone: some steps of a stage of a very small CM3Leon; rank 0 prints its losses as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch

from plait.data.shapes import Shapes
from plait.nn.vqgan import VQGANConfig
from plait.recipes.cm3leon import build, pretrain_stage, tokenizer_stage
from plait.systems.cm3leon import CM3LeonConfig
from plait.train import parallel
from plait.train.loop import Loop
from plait.train.stage import Optimiser

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


def main(steps: int, variant: str) -> None:
    """Prints {"loss": [...], "grad_norm": [...], "tokens": [...]}.

    In fp32: bf16 rounds by the shape of a batch, which ranks change. The CM3 stage with "adamw" for every parameter, as
    published, or with the recipe's own "muon", whose iterations are bf16 in PyTorch; or the stage "tokenizer".
    """
    torch.set_num_threads(1)
    ranks = parallel.join()
    torch.manual_seed(0)
    documents = Shapes(seed=1, length=10_000, objects=(1, 2, 3), mix={"draw": 0.5, "both": 0.5})
    system = build(CONFIG, documents)
    make = tokenizer_stage if variant == "tokenizer" else pretrain_stage
    stage = replace(make(CONFIG, {"shapes": documents}, steps=steps), precision="fp32")
    if variant == "adamw":
        adamw = Optimiser(train=("decoder.*", "embed.*", "positions.*"), lr=1e-3, eps=1e-6)
        stage = replace(stage, updates=(replace(stage.updates[0], optimisers=(adamw,)),))
    loop = Loop(system, stage, ranks)
    records = [loop.advance() for _ in range(steps)]
    loop.finish()
    if ranks.first:
        print(json.dumps({key: [record[key] for record in records] for key in ("loss", "grad_norm", "tokens")}))
    parallel.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
