"""Two gloo processes that share a system against one: how far the losses of the CM3 stage differ in 20 steps.

    python benchmarks/ranks.py

In fp32, with the same global batches, under AdamW and under the recipe's Muon. Figures go to
benchmarks/results/ranks.json.
"""

from __future__ import annotations

import results
from losses import launch

STEPS = 20


def main() -> None:
    """Runs both, writes the figures."""
    figures = {}
    for optimiser in ("adamw", "muon"):
        one, two = (launch(ranks, STEPS, optimiser)["loss"] for ranks in (1, 2))
        largest = max(abs(a - b) for a, b in zip(one, two, strict=True))
        figures[optimiser] = {"largest_difference": largest, "first_loss": one[0], "last_loss": one[-1]}
        print(optimiser, figures[optimiser])
    config = {"ranks": 2, "steps": STEPS, "backend": "gloo", "sharding": "fully_shard", "precision": "fp32", "seed": 0}
    print(results.write("ranks", figures, config))


if __name__ == "__main__":
    main()
