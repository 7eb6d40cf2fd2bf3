"""A recipe trained by the command line, by the clock: its time, and what its stages and tasks scored.

    python benchmarks/recipes.py foundations/tiny --out runs/foundations-tiny
    python benchmarks/recipes.py minigpt4/tiny --out runs/minigpt4 --set foundations=runs/foundations-tiny
    python benchmarks/recipes.py minigpt4/tiny/finetune --out runs/second --set seed=1 --name minigpt4-tiny-seed-1

Figures go to benchmarks/results/<name>.json, by default that of the recipe with dashes. `seconds` is from the first
file of the run to its last score; a run that is there already is gone on with, so that it counts what it stood still.
`training` is what the steps took, with the answers to probes between them, without scores and without that time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import results


def main() -> int:
    """Trains, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[])
    parser.add_argument("--name")
    args = parser.parse_args()
    load = os.getloadavg()
    command = [sys.executable, "-m", "plait.cli", "train", args.recipe, "--out", str(args.out)]
    done = subprocess.run([*command, *(["--set", *args.set] if args.set else [])], check=False)
    if done.returncode:
        return done.returncode
    records = [json.loads(line) for line in (args.out / "metrics.jsonl").open()]
    scores = args.out / "scores.json"
    figures = {
        "seconds": round(scores.stat().st_mtime - (args.out / "config.yaml").stat().st_mtime, 1),
        "training": round(worked([record["elapsed_s"] for record in records]), 1),
        "load_before": load,
        "steps": dict(Counter(record["stage"] for record in records)),
        "scores": json.loads(scores.read_text()),
    }
    name = args.name or args.recipe.replace("/", "-")
    print(results.write(name, figures, {"recipe": args.recipe, "set": args.set}))
    return 0


def worked(elapsed: list[float]) -> float:
    """Seconds by a clock that began anew with each stage, and wherever the run was gone on with."""
    return sum(last for last, following in zip(elapsed, [*elapsed[1:], 0.0], strict=True) if following < last)


if __name__ == "__main__":
    sys.exit(main())
