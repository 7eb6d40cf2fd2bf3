"""The results of benchmarks: one JSON file each, with what is needed to measure it again.

    {"name", "figures": {...}, "config": {...}, "seed", "commit", "hardware", "versions", "date"}

`commit` ends in `+` where the tree held changes beyond it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plait.train.log import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write(name: str, figures: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Writes `benchmarks/results/<name>.json`; the file appears whole.

    Args:
        figures: what was measured; nested mappings are groups.
        config: what it was measured with; its `seed`, if it has one, also stands at the top.
    """
    value = {
        "name": name,
        "figures": figures,
        "config": config,
        "seed": config.get("seed"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def commit() -> str:
    """The commit that is checked out."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    return _git("rev-parse", "HEAD") + ("+" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
