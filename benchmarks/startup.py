"""How soon `plait --help` answers, and how much memory a checkpoint takes to load.

    python benchmarks/startup.py

`help_s`: the median wall time of 15 runs. `load`: a CM3Leon of about 100M parameters is saved and loaded in a process
of its own; private memory (RssAnon) behind the load and at its height, less what stood before, over the size of the
weights. What a first load takes for modules, whatever the size, is told apart: `modules`, by a load of a tiny
model. Figures go to benchmarks/results/startup.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import pairs
import results
from memory import Watch, private

RUNS = 15


def load(folder: Path) -> None:
    """Loads, in this process, and prints what it took."""
    import plait

    start = private()
    plait.load(folder / "tiny")
    before = private()
    with Watch() as watch:
        model = plait.load(folder / "large")
    weights = sum(t.numel() * t.element_size() for t in model.system.state_dict().values())
    taken = {"after": watch.after - before, "height": watch.height - before, "modules": before - start}
    print(json.dumps({"weights": weights, **taken}))


def main() -> None:
    """Measures, writes the figures."""
    plait = Path(sys.executable).with_name("plait")
    helps = [
        pairs.seconds(lambda: subprocess.run([plait, "--help"], capture_output=True, check=True)) for _ in range(RUNS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "tiny", width=192, depth=4)
        save(Path(folder) / "large", width=768, depth=14)
        command = [sys.executable, __file__, folder]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ratios = {name: round(found[name] / found["weights"], 3) for name in ("after", "height")}
    figures = {
        "help_s": round(median(helps), 3),
        "load": {**found, **{f"{k}_over_weights": v for k, v in ratios.items()}},
    }
    print(json.dumps(figures))
    print(results.write("startup", figures, {"runs": RUNS, "seed": 0}))


def save(directory: Path, width: int, depth: int) -> None:
    """A CM3Leon with random weights."""
    from plait.checkpoints.directory import save as write
    from plait.systems.cm3leon import TINY, CM3Leon
    from plait.text.bpe import BPE

    write(CM3Leon(replace(TINY, width=width, depth=depth, heads=width // 64), BPE.train([], 256)), directory)


if __name__ == "__main__":
    load(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
