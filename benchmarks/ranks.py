"""Two gloo processes that share a system against one: how far the losses of the CM3 stage differ in 20 steps.

    python benchmarks/ranks.py

The runs are those of tests/distributed: fp32, the same global batches, under AdamW and under the recipe's Muon. Figures
go to benchmarks/results/ranks.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import results

SCRIPT = results.ROOT / "tests" / "distributed" / "losses.py"
STEPS = 20


def losses(ranks: int, optimiser: str) -> list[float]:
    """The losses that rank 0 prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(SCRIPT), str(STEPS), optimiser]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found: list[float] = json.loads(out.strip().splitlines()[-1])["loss"]
    return found


def main() -> None:
    """Runs both, writes the figures."""
    figures = {}
    for optimiser in ("adamw", "muon"):
        one, two = losses(1, optimiser), losses(2, optimiser)
        largest = max(abs(a - b) for a, b in zip(one, two, strict=True))
        figures[optimiser] = {"largest_difference": largest, "first_loss": one[0], "last_loss": one[-1]}
        print(optimiser, figures[optimiser])
    config = {"ranks": 2, "steps": STEPS, "backend": "gloo", "sharding": "fully_shard", "precision": "fp32", "seed": 0}
    print(results.write("ranks", figures, config))


if __name__ == "__main__":
    main()
