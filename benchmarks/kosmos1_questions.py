"""The questions of `kosmos1/tiny` on more pictures than its own scores are of, before and after it was told in text.

    python benchmarks/kosmos1_questions.py runs/kosmos1-tiny [--count 800]

A share p of n items varies by sqrt(p (1 - p) / n) from sample to sample: by 0.03 for the 144 questions of known kinds
in `scores.json`, which cannot tell 0.84 from 0.87. Figures go to benchmarks/results/kosmos1_questions.json, each share
with what it varies by.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import results
from retrieving import end_of

from plait.evaluate import evaluate
from plait.evaluate.shots import ShapesShots
from plait.generate.model import load

STAGES = {"before": "pretrain", "after": "language_instruct"}


def varied(score: dict[str, Any]) -> dict[str, float]:
    """A score with what it varies by."""
    share, count = score["accuracy"], score["n"]
    return {**score, "varies_by": math.sqrt(share * (1 - share) / count)}


def main() -> None:
    """Scores, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="of all of kosmos1/tiny")
    parser.add_argument("--count", type=int, default=800, help="questions, of all eight kinds")
    args = parser.parse_args()
    task = ShapesShots(count=args.count)
    figures: dict[str, Any] = {}
    for when, stage in STAGES.items():
        by_shots = evaluate(load(end_of(args.run, stage)), [task])[task.name]["by_shots"]
        figures[when] = {
            shots: {kinds: varied(one[kinds]) for kinds in ("trained", "new")} for shots, one in by_shots.items()
        }
    config = {"run": Path(args.run).name, "count": args.count, "seed": task.seed}
    print(results.write("kosmos1_questions", figures, config))


if __name__ == "__main__":
    main()
