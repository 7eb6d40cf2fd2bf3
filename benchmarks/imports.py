"""How `plait data import` takes real folders: what it keeps, what it leaves out, and how long it takes.

    python benchmarks/imports.py CIFAR FLICKR

CIFAR holds {train,test}/<class>/*; FLICKR the caption table, pictures and split lists of Flickr8k. Figures go to
benchmarks/results/imports.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results

from plait.data.importers import captions, classes
from plait.data.shards import ShardSource

LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def described(out: Path, seconds: float) -> dict[str, Any]:
    """What an import wrote, and that all of it can be read back."""
    report = json.loads((out / "report.json").read_text())
    read = {
        split: sum(1 for document in ShardSource(out, split or None) if document.images) for split in report["samples"]
    }
    names = ("totals", "samples", "documents")
    return {"seconds": round(seconds, 2), **{name: report[name] for name in names}, "documents_read_back": read}


def main() -> int:
    """Imports both, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cifar", type=Path)
    parser.add_argument("flickr", type=Path)
    given = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cifar", "flickr"):
            out, began = Path(folder) / name, time.monotonic()
            if name == "cifar":
                classes(given.cifar, out)
            else:
                captions(given.flickr, out, splits={split: given.flickr / file for split, file in LISTS.items()})
            figures[name] = described(out, time.monotonic() - began)
    print(results.write("imports", figures, {"cifar": given.cifar.name, "flickr": given.flickr.name}).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
