"""`make demo` as a newcomer runs it: in a fresh clone, set-up included, by the clock.

    python benchmarks/demo.py [--keep DIR]

Figures go to benchmarks/results/demo.json: seconds, the machine's load before, and the scores of runs/demo/report.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results


def main() -> int:
    """Clones, runs, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="copy runs/demo of the clone here")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "plait"
        subprocess.run(["git", "clone", "--quiet", str(results.ROOT), str(clone)], check=True)
        load = os.getloadavg()
        began = time.monotonic()
        done = subprocess.run(["make", "demo"], cwd=clone, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            return done.returncode
        run = clone / "runs" / "demo"
        report = json.loads((run / "report.json").read_text())
        if keep:
            shutil.copytree(run, keep, dirs_exist_ok=True)
    figures = {"seconds": round(seconds, 1), "load_before": load, **report}
    print(results.write("demo", figures, {"command": "make demo", "recipe": "cm3leon/tiny/pretrain"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
