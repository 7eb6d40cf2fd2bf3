"""A recipe trained by the command line, by the clock: its time, and what its stages and tasks scored.

    python benchmarks/recipes.py foundations/tiny --out runs/foundations-tiny
    python benchmarks/recipes.py minigpt4/tiny --out runs/minigpt4 --set foundations=runs/foundations-tiny
    python benchmarks/recipes.py minigpt4/tiny/finetune --out runs/second --set seed=1 --name minigpt4-tiny-seed-1

Figures go to benchmarks/results/<name>.json, by default that of the recipe with dashes. `seconds` is from the first
file of the run to its last score; a run that is there already is gone on with, so that it counts what it stood still.
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
    steps = Counter(json.loads(line)["stage"] for line in (args.out / "metrics.jsonl").open())
    scores = args.out / "scores.json"
    figures = {
        "seconds": round(scores.stat().st_mtime - (args.out / "config.yaml").stat().st_mtime, 1),
        "load_before": load,
        "steps": dict(steps),
        "scores": json.loads(scores.read_text()),
    }
    name = args.name or args.recipe.replace("/", "-")
    print(results.write(name, figures, {"recipe": args.recipe, "set": args.set}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
