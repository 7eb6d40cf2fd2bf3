"""How pictures that loaders get wrong come out: turned, 16-bit, CMYK, transparent, cut, hostile, misnamed.

    python benchmarks/hard_images.py FOLDER

FOLDER holds the files and `expected.json`, which says of each whether it must load, and to what size and means, or be
refused. Each is decoded alone, and all pass an import. Figures go to benchmarks/results/hard_images.json; the exit code
is 1 where one of them is not as expected.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import results

from plait import images
from plait.data.importers import captions
from plait.data.shards import ShardSource
from plait.errors import ImageError


def measured(picture: PIL.Image.Image) -> dict[str, list[float]]:
    """Size in pixels, mean of each colour, mean gray of the four quadrants: a wrong rotation shows in these."""
    rgb = np.asarray(picture, dtype=np.float64)
    gray = rgb.mean(2)
    top, left = gray.shape[0] // 2, gray.shape[1] // 2
    quadrants = (gray[:top, :left], gray[:top, left:], gray[top:, :left], gray[top:, left:])
    return {
        "size": [*picture.size],
        "mean_rgb": [round(float(value), 1) for value in rgb.mean((0, 1))],
        "quadrant_gray": [round(float(part.mean()), 1) for part in quadrants],
    }


def decoded(path: Path, row: Mapping[str, Any], tolerance: float) -> dict[str, Any]:
    """What `plait.images.decode` makes of a file, and the largest distance of a mean from what is expected."""
    try:
        found: dict[str, Any] = {"outcome": "load", **measured(images.decode(path))}
    except ImageError as error:
        said = str(error)
        clear = said.startswith(f"{path}: ") and "\n" not in said
        return {
            "outcome": "reject",
            "error": said.replace(str(path), path.name),
            "as_expected": row["expect"] == "reject" and clear,
        }
    if row["expect"] == "reject":
        return {**found, "as_expected": False}
    names = ("mean_rgb", "quadrant_gray")
    off = max(abs(a - b) for name in names for a, b in zip(found[name], row[name], strict=True))
    good = found["size"] == row["size"] and off <= tolerance
    return {**found, "largest_difference": round(off, 1), "as_expected": good}


def imported(folder: Path, rows: Sequence[Mapping[str, Any]], out: Path) -> dict[str, Any]:
    """An import of all files with a caption each: which are kept with their bytes, which are listed as broken."""
    table = out.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *((row["file"], row["why"]) for row in rows)])
    report = captions(folder, out, table=table, images=folder).to_json()
    source = ShardSource(out)
    kept = {
        source.meta(i)["file"]: hashlib.sha256(source[i].images[0].source.read()).hexdigest()
        for i in range(len(source))
    }
    listed = {item["name"] for item in report["broken"]}
    return {"totals": report["totals"], "kept": kept, "listed": listed}


def main() -> int:
    """Judges every file, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    expected = json.loads((folder / "expected.json").read_text())
    rows = expected["files"]
    with tempfile.TemporaryDirectory() as place:
        taken = imported(folder, rows, Path(place) / "shards")
    files = []
    for row in rows:
        name = row["file"]
        alone = decoded(folder / name, row, expected["mean_tolerance"])
        same = taken["kept"].get(name) == row["sha256"] if row["expect"] == "load" else name in taken["listed"]
        files.append({"file": name, "expect": row["expect"], **alone, "import_as_expected": same})
    totals = {
        "files": len(files),
        **{what: sum(file["outcome"] == what for file in files) for what in ("load", "reject")},
        "as_expected": sum(file["as_expected"] for file in files),
        "import_as_expected": sum(file["import_as_expected"] for file in files),
        "import": taken["totals"],
    }
    config = {"folder": folder.name, "tolerance": expected["mean_tolerance"]}
    results.write("hard_images", {"totals": totals, "files": files}, config)
    print(json.dumps(totals, indent=1))
    return 0 if totals["as_expected"] == totals["import_as_expected"] == len(files) else 1


if __name__ == "__main__":
    sys.exit(main())
