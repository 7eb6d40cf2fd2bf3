"""Emu's vectors with a cache against the released loop, a picture's seconds by part, and the full size in memory.

    python benchmarks/emu.py [vectors parts memory] [--folder FOLDER] [--layers N]

`vectors`: 32 vectors behind a prompt of 64 words, by a cache and by reading everything anew for each, as the released
code does (`plait.generate.vectors`), fp32, at 10M and 100M parameters of random weights; they must be the same within
1e-4. `parts`: the seconds of one picture by what takes them, at tiny sizes of 32 vectors: the language model, the
U-Net, the VAE. `memory`: a file in the published layout (names and shapes of tests/goldens/emu/published.json), in
bf16, is imported in a process of its own: private memory (RssAnon) above the start at its height; one with fewer layers
of the language model, as many as fit here (`--fits`), is then loaded in bf16 too, over the bytes of the weights. The
import takes 28 GB on the disk. Figures go to benchmarks/results/emu.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pairs
import results
import torch
from llama import SIZES
from memory import Watch, private
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import skip_data

from plait.checkpoints import published
from plait.document import Blank, Document
from plait.generate.model import Model
from plait.generate.model import load as load_model
from plait.generate.vectors import continued, recomputed
from plait.nn.llama import LLaMAConfig
from plait.sequence import Batch
from plait.systems.emu import TINY, Emu, EmuConfig, vocabulary
from plait.text.instructions import PROMPTS
from plait.text.pieces import SentencePiece

LIST = results.ROOT / "tests" / "goldens" / "emu" / "published.json"
ENCODER = "pretrain/multimodal_encoder/pytorch_model.bin"
VECTORS, PROMPT, NEAR = 32, 64, 1e-4
WORDS = vocabulary(SentencePiece.train([*PROMPTS.values()], 320).model)
_LAYER = re.compile(r"decoder\.lm\.model\.layers\.(\d+)\.")


def build(size: str) -> Emu:
    """Random weights, 32 vectors a picture."""
    width, depth, heads = SIZES[size]
    language = LLaMAConfig(vocabulary=512, width=width, hidden=4 * width, depth=depth, heads=heads, positions=512)
    torch.manual_seed(0)
    return Emu(replace(_config(language), decoder=None), WORDS).eval()


def _config(language: LLaMAConfig) -> EmuConfig:
    assert TINY.decoder is not None
    decoder = replace(TINY.decoder, unet={**TINY.decoder.unet, "cross_attention_dim": language.width})
    return replace(TINY, language=language, cformer=replace(TINY.cformer, queries=VECTORS), decoder=decoder)


def prompt(system: Emu, rows: int) -> Batch:
    """As many words in each row."""
    laid = system.layout(Document(["a" * PROMPT, Blank("image")]), open=True)
    return system.format.collator()([[laid]] * rows, shift=False)


def vectors(size: str, rounds: int) -> dict[str, Any]:
    """By a cache against anew, for one picture and for eight."""
    system = build(size)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in system.language.parameters())}
    for rows in (1, 8):
        batch = prompt(system, rows)
        cached, anew = partial(continued, system, batch, VECTORS), partial(recomputed, system, batch, VECTORS)
        apart = float((cached() - anew()).abs().max())
        assert apart < NEAR, f"{apart} apart"
        found[f"batch {rows}"] = {**pairs.compare(cached, anew, rounds), "apart": apart}
        print(size, rows, found[f"batch {rows}"], flush=True)
    return found


def parts(rounds: int) -> dict[str, Any]:
    """Seconds of one picture with guidance, by what takes them; the rest is `other`."""
    torch.manual_seed(0)
    system = Emu(_config(replace(TINY.language, positions=512)), WORDS).eval()
    assert system.decoder is not None
    diffusion = system.decoder.diffusion
    taken: dict[str, float] = {}
    for name, module in {"language": system.language, "unet": diffusion.unet, "vae": diffusion.vae.decoder}.items():
        module.forward = _timed(module.forward, taken, name)
    model, document = Model(system), Document(["a" * PROMPT, Blank("image")])
    model.generate(document, guidance=2.0)
    taken.clear()
    began = time.perf_counter()
    for _ in range(rounds):
        model.generate(document, guidance=2.0)
    whole = (time.perf_counter() - began) / rounds
    each = {name: round(seconds / rounds, 5) for name, seconds in taken.items()}
    return {"seconds": round(whole, 5), **each, "other": round(whole - sum(each.values()), 5), "steps": 20}


def _timed(forward: Any, taken: dict[str, float], name: str) -> Any:
    def run(*args: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        made = forward(*args, **keywords)
        taken[name] = taken.get(name, 0.0) + time.perf_counter() - began
        return made

    return run


# -------------------------------------------------------------------------------------------------- memory


def make(folder: Path, layers: int) -> None:
    """A pretrained model without its decoder, with as many language layers, in bf16; LLaMA's tokenizer beside it.

    Its numbers are holes in the file, which are read as zeros: nothing is held, and little is written.
    """
    listed = next(one for one in json.loads(LIST.read_text())["files"] if one["file"] == ENCODER)
    rows = {"decoder.lm.model.embed_tokens.weight": len(WORDS), "decoder.lm.lm_head.weight": len(WORDS)}
    with FakeTensorMode(), skip_data(materialize_fake_tensors=True):
        tensors = {
            key: torch.empty(rows.get(key, shape[0]), *shape[1:], dtype=torch.bfloat16)
            for key, (shape, _) in listed["keys"].items()
            if not ((layer := _LAYER.match(key)) and int(layer[1]) >= layers)
        }
        torch.save(tensors, folder / "pytorch_model.bin")
    SentencePiece(WORDS.model).write(folder / "tokenizer.model")


def import_it(folder: Path) -> None:
    """Imports, in this process, and prints what it took."""
    system = published.find("emu")
    before, began = private(), time.monotonic()
    with Watch() as watch:
        published.import_files(system, [folder / "pytorch_model.bin"], folder / "out", None)
    height = watch.height - before
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "height": height}))


def load_it(folder: Path) -> None:
    """Loads, in this process, and prints what it took."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory ends, this process ends, and no other
    before, began = private(), time.monotonic()
    with Watch() as watch:
        model = load_model(folder / "out", dtype=torch.bfloat16)
    weights = sum(parameter.numel() for parameter in model.system.parameters()) * 2
    ratio = round((watch.height - before) / weights, 3)
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "weights": weights, "height_over_weights": ratio}))


def memory(folder: Path | None, layers: int, steps: Items[str]) -> Iterator[tuple[str, Any]]:
    """Import, and load if that is asked for, each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        make(Path(name), layers)
        yield "bytes", (Path(name) / "pytorch_model.bin").stat().st_size
        for what in steps:
            done = subprocess.run([sys.executable, __file__, what, name], capture_output=True, text=True, check=False)
            yield what, json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-300:]}


def main() -> None:
    """Measures what is asked for, writes the figures."""
    if len(sys.argv) == 3 and sys.argv[1] in ("import", "load"):
        {"import": import_it, "load": load_it}[sys.argv[1]](Path(sys.argv[2]))
        return
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("what", nargs="*", default=["vectors", "parts", "memory"])
    asked.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    asked.add_argument("--rounds", type=int, default=pairs.PAIRS)
    asked.add_argument("--folder", type=Path, help="where the large files are made")
    asked.add_argument("--layers", type=int, default=40, help="of the language model that is imported")
    asked.add_argument("--fits", type=int, default=20, help="of the language model that is loaded too")
    asked.add_argument("--print", action="store_true", help="print the figures and write nothing")
    given = asked.parse_args()
    figures: dict[str, Any] = {}
    with torch.inference_mode():
        if "vectors" in given.what:
            figures["vectors"] = {size: vectors(size, given.rounds) for size in given.sizes}
        if "parts" in given.what:
            figures["parts"] = parts(given.rounds)
    if "memory" in given.what:
        if given.folder:
            given.folder.mkdir(parents=True, exist_ok=True)
        for layers, what in ((given.layers, "import"), (given.fits, "load")):
            steps = ("import",) if what == "import" else ("import", "load")
            found = dict(memory(given.folder, layers, steps))
            figures[what] = {"layers": layers, "bytes": found["bytes"], **found[what]}
            print(what, figures[what], flush=True)
    config = {"vectors": VECTORS, "prompt": PROMPT, "threads": torch.get_num_threads(), "seed": 0}
    print(figures if given.print else results.write("emu", figures, config))


if __name__ == "__main__":
    main()
