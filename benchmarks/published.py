"""A full-size MiniGPT-4 (7B) imported from published files: memory, and time against reading the same bytes.

    python benchmarks/published.py [FOLDER]

The files are made of random weights in the published layout (names and shapes of tests/goldens/minigpt4/published.json;
EVA's tower with its 40th block), fp16 as published but for BLIP-2's and the projection; about 16 GB, and as much again
for the import, in a temporary folder within FOLDER, which is deleted. The page cache is emptied of the files before
each measurement. `import`: private memory (RssAnon) above the start at its height, in a process of its own. `read_s`,
`hash_s`, `copy_s`: all files are read; read and hashed (SHA-256); copied and synced, all by one thread. `load`:
`plait.load(dtype=bfloat16)` in a process of its own, over the bytes of the weights. Figures go to
benchmarks/results/import.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import results
import torch
from memory import Watch, private
from torch import Tensor

from plait.checkpoints import published
from plait.checkpoints.directory import WEIGHTS
from plait.checkpoints.parts import hugging_face
from plait.checkpoints.tensors import Spec, open_tensors, write_shards
from plait.generate.model import load as load_model
from plait.nn.llama import LLAMA_7B
from plait.text.pieces import SentencePiece
from plait.text.templates import ALIGNMENT

LIST = results.ROOT / "tests" / "goldens" / "minigpt4" / "published.json"
TORCH = {"float32": torch.float32, "float16": torch.float16, "int64": torch.int64}
BLOCK = (torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02).half()
CHUNK = 1 << 22
SHARD = 5_000_000_000


def some(spec: Spec) -> Tensor:
    """A tensor that is made soon: one block of random numbers again and again."""
    count = spec.nbytes // spec.dtype.itemsize
    return BLOCK.repeat(-(-count // len(BLOCK)))[:count].to(spec.dtype, copy=True).view(spec.shape)


def keys(file: str) -> dict[str, Spec]:
    """Names, shapes and types of a published file."""
    listed = next(one for one in json.loads(LIST.read_text())["files"] if str(one["file"]).startswith(file))
    return {key: Spec(tuple(shape), TORCH[dtype]) for key, (shape, dtype) in listed["keys"].items()}


def make(folder: Path) -> list[Path]:
    """The four files of the 7B variant."""
    tower = keys("eva_vit_g")
    tower |= {key.replace("blocks.38.", "blocks.39."): spec for key, spec in tower.items() if "blocks.38." in key}
    torch.save({key: some(spec) for key, spec in tower.items()}, folder / "eva_vit_g.pth")
    for name, file in (("blip2.pth", "blip2_pretrained_flant5xxl"), ("projection.pth", "prerained_minigpt4_7b")):
        torch.save({"model": {key: some(spec) for key, spec in keys(file).items()}}, folder / name)
    llama = folder / "vicuna"
    llama.mkdir()
    within = "llama_model."
    specs = {key.removeprefix(within): spec for key, spec in keys("None").items() if key.startswith(within)}
    specs = {key: spec for key, spec in specs.items() if not key.endswith("inv_freq")}
    write_shards(llama, specs, ((key, some(spec)) for key, spec in specs.items()), SHARD)
    (llama / "config.json").write_text(json.dumps(hugging_face(LLAMA_7B)))
    SentencePiece.train(ALIGNMENT, 320).write(llama / "tokenizer.model")
    (folder / "config.yaml").write_text('pad: "<unk>"\n')  # so small a vocabulary has no other
    return [folder / "projection.pth", folder / "eva_vit_g.pth", folder / "blip2.pth", llama]


def import_them(folder: Path) -> None:
    """Imports, in this process, and prints what it took."""
    paths = [folder / name for name in ("projection.pth", "eva_vit_g.pth", "blip2.pth", "vicuna")]
    system = published.find("minigpt4")
    before, began = private(), time.monotonic()
    with Watch() as watch:
        published.import_files(system, paths, folder / "out", folder / "config.yaml")
    took = {
        "seconds": round(time.monotonic() - began, 1),
        "height": watch.height - before,
        "after": watch.after - before,
    }
    print(json.dumps(took))


def load_it(folder: Path) -> None:
    """Loads, in this process, and prints what it took."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory ends, this process ends, and no other
    before, began = private(), time.monotonic()
    with Watch() as watch:
        model = load_model(folder / "out", dtype=torch.bfloat16)
    seconds = round(time.monotonic() - began, 1)
    weights = sum(parameter.numel() for parameter in model.system.parameters()) * 2
    ratios = {"height_over_weights": watch.height - before, "after_over_weights": watch.after - before}
    taken = {name: round(value / weights, 3) for name, value in ratios.items()}
    print(json.dumps({"seconds": seconds, "weights": weights, **taken}))


def read(path: Path, into: Callable[[bytes], object]) -> None:
    """A file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            into(chunk)


def copy(path: Path, out: Path) -> None:
    """A file to another, until it is on the disk."""
    with out.open("wb") as file:
        read(path, file.write)
        file.flush()
        os.fsync(file.fileno())


def cold(files: list[Path]) -> None:
    """Takes the files out of the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(files: list[Path], run: Callable[[Path], object]) -> float:
    """Over all files, none of which is in memory before."""
    cold(files)
    began = time.monotonic()
    for path in files:
        run(path)
    return round(time.monotonic() - began, 1)


def child(what: str, folder: Path) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, what, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode, "said": done.stderr[-300:]}
    return json.loads(done.stdout)


def measure(folder: Path) -> Iterator[tuple[str, Any]]:
    """One figure after the other."""
    paths = make(folder)
    files = [file for path in paths for file in open_tensors(path).files]
    yield "bytes", sum(path.stat().st_size for path in files)
    read_s = seconds(files, lambda path: read(path, len))
    yield "read_s", read_s
    yield "hash_s", seconds(files, lambda path: read(path, hashlib.sha256().update))
    spare = folder / "spare"
    yield "copy_s", seconds(files, lambda path: copy(path, spare))
    spare.unlink()
    cold(files)
    imported = child("import", folder)
    yield "import", imported
    if "seconds" in imported:
        yield "import_over_read", round(imported["seconds"] / read_s, 2)
    cold([folder / "out" / WEIGHTS])
    yield "load", child("load", folder)


def main() -> None:
    """Makes the files, measures, writes the figures."""
    if len(sys.argv) > 2:
        {"import": import_them, "load": load_it}[sys.argv[1]](Path(sys.argv[2]))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for name, figure in measure(Path(folder)):
            figures[name] = figure
            print(name, figure, flush=True)
    print(results.write("import", figures, {"threads": torch.get_num_threads(), "seed": 0}))


if __name__ == "__main__":
    main()
