"""A full-size system imported from published files: memory, and time against reading the same bytes.

    python benchmarks/published.py [minigpt4 | seed] [FOLDER]

The files are made of random weights in the published layout. MiniGPT-4's (7B): names and shapes of
tests/goldens/minigpt4/published.json, EVA's tower with its 40th block, fp16 as published but for BLIP-2's and the
projection; about 16 GB. SEED-LLaMA's (8B): what `plait export` writes, with unCLIP, fp16 but for the codes; about
19 GB. As much again is needed for the import, all in a temporary folder within FOLDER, which is deleted. The page cache
is emptied of the files before each measurement. `import`: private memory (RssAnon) above the start at its height, in a
process of its own. `read_s`, `hash_s`, `copy_s`: all files are read; read and hashed (SHA-256); copied and synced, all
by one thread. `load`: `plait.load(dtype=bfloat16)` in a process of its own, over the bytes of the weights. Figures go
to benchmarks/results/import.json, SEED-LLaMA's to import-seed.json. `--tiny` makes a small one, whose figures are
printed alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import results
import torch
from memory import Watch, private
from safetensors.torch import save_file
from torch import Tensor

from plait.checkpoints import published
from plait.checkpoints.directory import WEIGHTS
from plait.checkpoints.parts import hugging_face
from plait.checkpoints.tensors import Spec, open_tensors, write_shards
from plait.generate.model import load as load_model
from plait.nn.clip import CLIPTextConfig
from plait.nn.diffusion import PromptConfig
from plait.nn.llama import LLAMA_7B
from plait.systems.seed import SEED_8B, TINY, Seed, SeedConfig, vocabulary
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


def minigpt4(folder: Path, tiny: bool) -> list[Path]:
    """The four files of the 7B variant.

    Raises:
        SystemExit: a tiny one is asked for.
    """
    if tiny:
        raise SystemExit("the list of MiniGPT-4's keys is that of the 7B: leave --tiny out")
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


def seed(folder: Path, tiny: bool) -> list[Path]:
    """The three files of the 8B, and the folder of unCLIP."""
    config = small_seed() if tiny else SEED_8B
    model = SentencePiece.train(ALIGNMENT, 320).model
    names = [*(f"<img_{code:05d}>" for code in range(config.tokenizer.codes)), "<img>", "</img>"]
    first = config.language.vocabulary - len(names)
    words = vocabulary(model, config.tokenizer.codes, added={name: first + i for i, name in enumerate(names)})
    with torch.device("meta"):
        system = Seed(config, words)
    hollow, files = system.state_dict(), published.find("seed")
    for one in files.exports(config, "published"):
        pairs = one.table.write((name, tensor) for name, tensor in hollow.items() if one.table.published(name))
        dtype = torch.float32 if one.name == "seed_quantizer.pt" else torch.float16
        specs = {key: Spec(tuple(tensor.shape), dtype) for key, tensor in pairs}
        path = folder / one.name
        if one.settings is None:
            torch.save({key: some(spec) for key, spec in specs.items()}, path)
            continue
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(one.settings))
        if one.weights == WEIGHTS:
            write_shards(path, specs, ((key, some(spec)) for key, spec in specs.items()), SHARD)
        else:
            save_file({key: some(spec) for key, spec in specs.items()}, path / one.weights)
    for name, content in files.papers(config, "published").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    system.format.write_files(folder / "language")
    (folder / "config.yaml").write_text(json.dumps(untold(config)))
    return [folder / name for name in ("seed_quantizer.pt", "eva_vit_g.pth", "unclip", "language")]


def small_seed() -> SeedConfig:
    """The tiny one with a tower of texts, which imports need."""
    prompt = PromptConfig(
        text=CLIPTextConfig(vocabulary=9, positions=4, width=32, depth=1, heads=2, hidden=32), begin=7, end=8
    )
    decoder = TINY.tokenizer.decoder
    assert decoder is not None
    return replace(TINY, tokenizer=replace(TINY.tokenizer, decoder=replace(decoder, prompt=prompt)))


def untold(config: SeedConfig) -> dict[str, Any]:
    """What files do not tell, where it is not as published."""
    tokenizer = config.tokenizer
    heads = {name: {"heads": getattr(tokenizer, name).heads} for name in ("vision", "qformer")}
    return {"tokenizer": {**heads, "branch_heads": tokenizer.branch_heads}}


MAKERS: dict[str, Callable[[Path, bool], list[Path]]] = {"minigpt4": minigpt4, "seed": seed}
FILES = "files.json"


def import_them(system_name: str, folder: Path) -> None:
    """Imports, in this process, and prints what it took."""
    paths = [folder / name for name in json.loads((folder / FILES).read_text())]
    system = published.find(system_name)
    before, began = private(), time.monotonic()
    with Watch() as watch:
        published.import_files(system, paths, folder / "out", folder / "config.yaml")
    took = {
        "seconds": round(time.monotonic() - began, 1),
        "height": watch.height - before,
        "after": watch.after - before,
    }
    print(json.dumps(took))


def load_it(system_name: str, folder: Path) -> None:
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


def child(what: str, system: str, folder: Path) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, system, str(folder), "--child", what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode, "said": done.stderr[-300:]}
    return json.loads(done.stdout)


def measure(system: str, folder: Path, tiny: bool) -> Iterator[tuple[str, Any]]:
    """One figure after the other."""
    paths = MAKERS[system](folder, tiny)
    (folder / FILES).write_text(json.dumps([path.name for path in paths]))
    files = [file for path in paths for file in open_tensors(path).files]
    yield "bytes", sum(path.stat().st_size for path in files)
    read_s = seconds(files, lambda path: read(path, len))
    yield "read_s", read_s
    yield "hash_s", seconds(files, lambda path: read(path, hashlib.sha256().update))
    spare = folder / "spare"
    yield "copy_s", seconds(files, lambda path: copy(path, spare))
    spare.unlink()
    cold(files)
    imported = child("import", system, folder)
    yield "import", imported
    if "seconds" in imported:
        yield "import_over_read", round(imported["seconds"] / max(read_s, 0.1), 2)
    cold([folder / "out" / WEIGHTS])
    yield "load", child("load", system, folder)


def main() -> None:
    """Makes the files, measures, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("system", nargs="?", choices=MAKERS, default="minigpt4")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", choices=("import", "load"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        {"import": import_them, "load": load_it}[given.child](given.system, given.folder)
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name, figure in measure(given.system, Path(folder), given.tiny):
            figures[name] = figure
            print(name, figure, flush=True)
    if not given.tiny:
        name = "import" if given.system == "minigpt4" else f"import-{given.system}"
        print(results.write(name, figures, {"threads": torch.get_num_threads(), "seed": 0}))


if __name__ == "__main__":
    main()
