"""A memory of a million vectors: built, saved, loaded, appended to, searched, and killed while it is appended to.

    python benchmarks/memory_search.py [--vectors N] [--queries N] [--kills N]

Unit vectors of width 512: random ones, where an index has nothing to go by, and clustered ones, which are nearer to
embeddings; in fp32 and in fp16. Recall is against a search in double precision of all. Everything lies in a temporary
folder (a million take 2 GB in fp32, and 1 GB for an index) and goes. Figures go to benchmarks/results/retrieval.json;
those of another number of vectors are printed alone. What needs faiss is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import memory as process
import numpy as np
import results
import torch

from plait.retrieval.memory import Embedded, Memory
from plait.retrieval.store import Store

WIDTH = 512
CENTRES, NOISE = 2000, 0.6  # of clustered vectors; the noise as a share of a centre's length
BATCH = 8192
NEAREST = 10
CELLS = (8, 32, 128)
SEED = 20230905
FULL = 1_000_000


def block(kind: str, number: int, count: int) -> torch.Tensor:
    """(count, c) of length 1: block `number` of the vectors of a kind; -1: queries."""
    generator = torch.Generator().manual_seed(SEED + 1 + number)
    made = torch.randn(count, WIDTH, generator=generator)
    if kind == "clustered":
        centres = torch.randn(CENTRES, WIDTH, generator=torch.Generator().manual_seed(SEED))
        made = centres[torch.randint(CENTRES, (count,), generator=generator)] + NOISE * made
    return torch.nn.functional.normalize(made, dim=1)


def embedded(vectors: torch.Tensor, first: int) -> Embedded:
    """Documents of text alone."""
    numbers = np.arange(first, first + len(vectors), dtype=np.uint64)
    return Embedded(
        text=vectors, pictures=torch.zeros_like(vectors), content=numbers, picture_content=np.zeros_like(numbers)
    )


def blocks(kind: str, first: int, count: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Where each block of some vectors begins, and the block."""
    for at in range(first, first + count, BATCH):
        yield at, block(kind, at // BATCH, BATCH)[: first + count - at]


def append(memory: Memory, kind: str, first: int, count: int) -> float:
    """Appends vectors in blocks, each acknowledged; seconds without those that it took to make them."""
    seconds = 0.0
    with memory.appending():
        for at, vectors in blocks(kind, first, count):
            made = embedded(vectors, at)
            began = time.perf_counter()
            memory.append("s", range(at, at + len(vectors)), made)
            seconds += time.perf_counter() - began
    return seconds


def nearest(kind: str, queries: torch.Tensor, n: int) -> torch.Tensor:
    """(q, 10) rows, in double precision, by a plain loop over the vectors as they were made."""
    scores = torch.empty(len(queries), 0, dtype=torch.float64)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for at, vectors in blocks(kind, 0, n):
        part = queries.double() @ vectors.double().T
        scores = torch.cat((scores, part), 1)
        rows = torch.cat((rows, torch.arange(at, at + len(vectors)).expand(len(queries), -1)), 1)
        scores, order = scores.topk(NEAREST, dim=1)
        rows = rows.gather(1, order)
    return rows


def searched(memory: Memory, queries: torch.Tensor, wanted: torch.Tensor, **how: Any) -> dict[str, float]:
    """Seconds, queries per second, and the share of the nearest that was found."""
    memory.search(queries[:2], NEAREST, **how)  # pages and the index are read once
    began = time.perf_counter()
    found = memory.search(queries, NEAREST, **how).rows
    seconds = time.perf_counter() - began
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    return {
        "seconds": round(seconds, 3),
        "queries_per_s": round(len(queries) / seconds, 1),
        "recall_at_10": round(float(np.mean(shared)) / NEAREST, 4),
    }


def resident() -> int:
    """Bytes of this process in memory, mapped files among them, which the kernel may drop."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path, kind: str, dtype: Any, queries: torch.Tensor, wanted: torch.Tensor, n: int) -> dict[str, Any]:
    """One memory, in this process: nine tenths are built, the rest is appended to what was loaded again."""
    first = n * 9 // 10 // BATCH * BATCH
    made = Memory.create(folder, WIDTH, dtype=dtype)
    figures: dict[str, Any] = {"build_and_save_s": round(append(made, kind, 0, first), 2)}
    del made
    began = time.perf_counter()
    memory = Memory(folder)
    _ = memory.vectors, memory.records
    figures["load_s"] = round(time.perf_counter() - began, 5)
    figures["append_a_tenth_s"] = round(append(memory, kind, first, n - first), 2)
    figures["vectors"] = len(memory)
    figures["bytes_on_disk"] = sum(path.stat().st_size for path in folder.iterdir())
    before = process.private()
    with process.Watch() as watch:
        figures["exact"] = searched(memory, queries, wanted, index="exact")
    figures["exact"] |= {"private_bytes_more": watch.height - before, "resident_bytes": resident()}
    if find_spec("faiss"):
        began = time.perf_counter()
        memory.index()
        figures["index_build_s"] = round(time.perf_counter() - began, 1)
        figures["index_bytes"] = (folder / "unit.faiss").stat().st_size
        for cells in CELLS:
            figures[f"faiss_{cells}_cells"] = searched(memory, queries, wanted, index="faiss", cells=cells)
    return figures


def alone(kind: str, dtype: str, folder: Path, n: int, queries: int) -> dict[str, Any]:
    """`measure` in a process of its own, so that none counts the memory of another.

    Raises:
        RuntimeError: it failed.
    """
    words = [
        sys.executable,
        __file__,
        "--vectors",
        str(n),
        "--queries",
        str(queries),
        "--one",
        kind,
        dtype,
        str(folder),
    ]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    if said.returncode:
        raise RuntimeError(f"{kind} {dtype}: {said.stderr[-2000:]}")
    return dict(json.loads(said.stdout.splitlines()[-1]))


def appender(folder: Path) -> None:
    """Appends batches without end, and says of each how many vectors are acknowledged."""
    memory = Memory(folder)
    draw = random.Random(os.getpid())
    while True:
        first = len(memory)
        count = draw.randint(1, 600)
        rows = torch.arange(first, first + count)
        with memory.appending():
            memory.append("s", rows.tolist(), embedded(told_by(rows), first))
        print(first + count, flush=True)


def told_by(rows: torch.Tensor) -> torch.Tensor:
    """(n, c) of length 1, each a function of its row: a half record, or one of another row, would show."""
    return torch.nn.functional.normalize(torch.sin(rows[:, None].double() * torch.arange(1, WIDTH + 1)).float(), dim=1)


def kills(folder: Path, times: int) -> dict[str, Any]:
    """Appends are ended by SIGKILL at random moments, again and again; what was lost, or is half there."""
    Memory.create(folder, WIDTH)
    draw = random.Random(SEED)
    lost = wrong = begun = unsaid = 0
    for _ in range(times):
        child = subprocess.Popen([sys.executable, __file__, "--append", str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        said = [int(child.stdout.readline())]
        time.sleep(draw.uniform(0, 0.3))
        child.kill()
        said += [int(line) for line in child.communicate()[0].splitlines(keepends=True) if line.endswith(b"\n")]
        memory = Memory(folder)
        sizes = Store(folder).sizes
        begun += any((folder / name).stat().st_size > size for name, size in sizes.items())
        lost += max(0, said[-1] - len(memory))
        unsaid += len(memory) > said[-1]
        rows = torch.arange(len(memory))
        same = np.abs(memory.vectors - told_by(rows).numpy()).max(axis=1) < 1e-6
        wrong += int((~same | (memory.records["number"] != rows.numpy())).sum())
    return {
        "kills": times,
        "vectors_at_the_end": len(memory),
        "acknowledged_vectors_lost": lost,
        "wrong_or_half_records": wrong,
        "kills_that_left_a_begun_append_behind": begun,
        "kills_between_the_commit_and_its_word": unsaid,
    }


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--vectors", type=int, default=FULL)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--append", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs all, writes the figures."""
    given = parsed()
    n, queries = given.vectors, given.queries
    if given.append:
        appender(given.append)
    if given.one:
        kind, dtype, place = given.one
        wanted = torch.from_numpy(np.load(Path(place).parent / f"{kind}.npy"))
        figures = measure(Path(place), kind, dtype, block(kind, -1, queries), wanted, n)
        print(json.dumps(figures))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("random", "clustered"):
            np.save(Path(folder) / f"{kind}.npy", nearest(kind, block(kind, -1, queries), n).numpy())
            for dtype in ("float32", "float16"):
                place = Path(folder) / "memory"
                figures[f"{kind}_{dtype}"] = alone(kind, dtype, place, n, queries)
                print(kind, dtype, json.dumps(figures[f"{kind}_{dtype}"], indent=1))
                shutil.rmtree(place)
        figures["kill_9_while_appending"] = kills(Path(folder) / "killed", given.kills)
        print(json.dumps(figures["kill_9_while_appending"]))
    config = {
        "vectors": n,
        "width": WIDTH,
        "queries": queries,
        "nearest": NEAREST,
        "batch": BATCH,
        "centres": CENTRES,
        "noise": NOISE,
        "seed": SEED,
        "threads": torch.get_num_threads(),
    }
    if n == FULL:
        print(results.write("retrieval", figures, config))


if __name__ == "__main__":
    main()
