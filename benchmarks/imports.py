"""How `plait data import` takes real folders: what it keeps, what it leaves out and why, and how long it takes.

    python benchmarks/imports.py [--cifar DIR] [--flickr DIR] [--pages DIR] [--films DIR [--emu RUN --ask TEXT]]

CIFAR holds {train,test}/<class>/*; Flickr the caption table, pictures and split lists of Flickr8k; pages are WARC files
or saved pages; films are videos with subtitles of their names, of which the first is asked about from the command line
where a run of Emu is given. All that is written is read back. Figures of all four go to
benchmarks/results/imports.json, those of fewer are printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import results

from plait.data.importers import captions, classes
from plait.data.pages import pages
from plait.data.shards import ShardSource
from plait.data.storyboard import storyboard
from plait.data.video import SUFFIXES

LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def _flickr(folder: Path, out: Path) -> None:
    captions(folder, out, splits={split: folder / file for split, file in LISTS.items()})


SETS: Mapping[str, Callable[[Path, Path], object]] = {
    "cifar": classes,
    "flickr": _flickr,
    "pages": pages,
    "films": storyboard,
}


def described(out: Path, seconds: float) -> dict[str, Any]:
    """What an import wrote, by its report without the names of files, and that all of it can be read back."""
    report = json.loads((out / "report.json").read_text())
    told = {name: value for name, value in report.items() if isinstance(value, int | Mapping)}
    read = {}
    for split in report.get("samples", ("",)):
        documents = [document for document in ShardSource(out, split or None) if document.images]
        read[split or "all"] = {
            "documents": len(documents),
            "pictures": sum(len(document.images) for document in documents),
        }
    return {"seconds": round(seconds, 2), **told, "read_back": read}


def asked(run: str, film: Path, question: str) -> dict[str, Any]:
    """A question about a video, from the command line."""
    began = time.monotonic()
    command = [sys.executable, "-m", "plait.cli", "generate", run, "--video", str(film), "--prompt", question]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "film": film.name,
        "question": question,
        "reply": done.stdout.strip(),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    """Imports what is given, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--emu", help="a run of emu/tiny")
    parser.add_argument("--ask", default="what moves?")
    given = parser.parse_args()
    folders = {name: folder for name in SETS if (folder := getattr(given, name)) is not None}
    if given.emu and not given.films:
        parser.error("--emu is asked about a film: give --films too")
    figures = {}
    with tempfile.TemporaryDirectory() as work:
        for name, folder in folders.items():
            out, began = Path(work) / name, time.monotonic()
            SETS[name](folder, out)
            figures[name] = described(out, time.monotonic() - began)
    if given.emu:
        film = min(path for path in given.films.iterdir() if path.suffix in SUFFIXES)
        figures["films"]["asked"] = asked(given.emu, film, given.ask)
    config = {name: folder.name for name, folder in folders.items()}
    print(results.write("imports", figures, config).read_text() if len(folders) == len(SETS) else figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
