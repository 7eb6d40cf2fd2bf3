"""Run by torchrun or alone: some steps of a stage of a very small CM3Leon; rank 0 prints its losses as JSON.

`launch` runs it so, for benchmarks and tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import torch
from small import CONFIG, DOCUMENTS

from plait.recipes.cm3leon import build, pretrain_stage, tokenizer_stage
from plait.train import parallel
from plait.train.loop import Loop
from plait.train.stage import Optimiser


def launch(ranks: int, steps: int, variant: str) -> dict[str, list[float]]:
    """What `main` prints, as so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, __file__, str(steps), variant]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{ranks} ranks of {variant} ended with {done.returncode}: {done.stderr[-3000:]}")
    found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(steps: int, variant: str) -> None:
    """Prints {"loss": [...], "grad_norm": [...], "tokens": [...]}.

    In fp32: bf16 rounds by the shape of a batch, which ranks change. The CM3 stage with "adamw" for every parameter, as
    published, or with the recipe's own "muon", whose iterations are bf16 in PyTorch; or the stage "tokenizer".
    """
    torch.set_num_threads(1)
    ranks = parallel.join()
    torch.manual_seed(0)
    system = build(CONFIG, DOCUMENTS)
    make = tokenizer_stage if variant == "tokenizer" else pretrain_stage
    stage = replace(make(CONFIG, {"shapes": DOCUMENTS}, steps=steps), precision="fp32")
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
