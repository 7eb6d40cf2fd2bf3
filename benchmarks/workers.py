"""The same stage with 0 and with 2 loader workers: whether every loss is the same to the bit.

    python benchmarks/workers.py

Figures go to benchmarks/results/workers.json.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import results
import torch

from plait import recipes
from plait.train.run import Run, shortened

STEPS = 30


def losses(workers: int) -> list[float]:
    """The losses of the first steps of all stages of cm3leon/tiny."""
    recipe = shortened(recipes.find("cm3leon/tiny"), STEPS)
    stages = tuple(replace(stage, data=replace(stage.data, workers=workers), tasks=()) for stage in recipe.stages)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        Run(replace(recipe, stages=stages, tasks=(), probes=()), out).train()
        return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    """Runs both, writes the figures."""
    none, two = losses(0), losses(2)
    differing = sum(a != b for a, b in zip(none, two, strict=True))
    figures = {"steps": len(none), "equal_to_the_bit": not differing, "differing": differing}
    print(figures)
    print(results.write("workers", figures, {"recipe": "cm3leon/tiny", "steps_each_stage": STEPS, "seed": 0}))


if __name__ == "__main__":
    main()
