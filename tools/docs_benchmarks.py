"""Writes docs/benchmarks.md from benchmarks/results: what was measured, beside what was aimed at.

python tools/docs_benchmarks.py
"""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS, OUT = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"


class Row(NamedTuple):
    """A figure: the result file, the way to it, what it is, what was aimed at, and whether the file may lack it."""

    file: str
    path: tuple[str, ...]
    text: str
    aim: str
    optional: bool = False


def decoding(size: str, generate: str, guided: str) -> list[Row]:
    """The figures of one size of the peer."""
    ways = {"packed": "as loaded", "compiled": "compiled"}
    batches = [
        Row("decoding", (size, f"batch {batch}", way, other), f"{size}, batch {batch}, {said}: {text}", aim)
        for batch in ("1", "8")
        for way, said in ways.items()
        for other, text, aim in (
            ("peer", "cached decoding", generate),
            ("products", "bare products", "0.8"),
            ("packed products", "bare products, packed", ""),
        )
    ]
    drawn = "guided drawing, two passes of the peer"
    return [
        *batches,
        *(
            Row("decoding", (size, "guided", way, "peer"), f"{size}, {said}: {drawn}", guided)
            for way, said in ways.items()
        ),
    ]


def reading() -> list[Row]:
    """The figures of parts that read pictures, and of replies to soft tokens."""
    parts = {"tower": "EVA's tower", "qformer": "Q-Former"}
    ways = {"built": "as built", "packed": "as loaded"}
    said = {"packed": "as loaded", "compiled": "compiled"}
    return [
        *(
            Row("reading", (part, f"batch {batch}", way), f"{text}, batch {batch}, {told}: forward", "1")
            for part, text in parts.items()
            for batch in ("1", "8")
            for way, told in ways.items()
        ),
        *(
            Row(
                "reading",
                (f"replies, {size}", f"batch {batch}", way, "peer"),
                f"{size}, batch {batch}, {told}: replies to 32 vectors and 32 ids",
                aim,
            )
            for size, aim in (("10m", "2"), ("100m", "1.15"))
            for batch in ("1", "8")
            for way, told in said.items()
        ),
    ]


def guided() -> list[Row]:
    """The figures of pictures that are drawn under guidance."""
    ways = {"packed": "as loaded", "compiled": "compiled"}
    cases = (("10m-256", "2"), ("100m-256", "1.3"), ("10m-1024", "2"))
    others = (("peer", "two passes of the peer"), ("products", "bare products"))
    return [
        Row(
            "guided",
            (case, way, other),
            f"{case.replace('-', ', pictures of ')} codes, batch 8, {said}: guided drawing, {text}",
            aim if other == "peer" else "",
            optional=True,  # cases and ways are chosen on the command line
        )
        for case, aim in cases
        for way, said in ways.items()
        for other, text in others
    ]


def kosmos1() -> list[Row]:
    """The figures of KOSMOS-1's replies."""
    ways = {"packed": "as loaded", "compiled": "compiled", "compiled, unpacked": "compiled, nothing packed"}
    return [
        Row(
            "kosmos1",
            (size, f"batch {batch}", way),
            f"KOSMOS-1, {size}, batch {batch}, {said}: a picture read, 64 ids said",
            aim,
            optional=True,  # sizes and ways are chosen on the command line
        )
        for size, aim in (("10m", "2"), ("100m", "1.15"))
        for batch in ("1", "8")
        for way, said in ways.items()
    ]


def emu() -> list[Row]:
    """The figures of Emu's vectors."""
    return [
        Row(
            "emu",
            ("vectors", size, f"batch {batch}"),
            f"Emu, {size}, batch {batch}: 32 vectors by a cache, against everything read anew for each",
            "5",
            optional=True,
        )
        for size in ("10m", "100m")
        for batch in ("1", "8")
    ]


def tokenising() -> list[Row]:
    """The figures of SEED's tokenizer."""
    ways = {"built": "as built", "packed": "as loaded"}
    return [
        Row(
            "tokenising",
            (act, f"batch {batch}", way),
            f"SEED's tokenizer, batch {batch}, {told}: {text}",
            "1",
            optional=True,
        )
        for act, text, batches in (
            ("encode", "pictures to codes", ("1", "8")),
            ("decode", "codes to pictures", ("1", "4")),
        )
        for batch in batches
        for way, told in ways.items()
    ]


ROWS = (
    Row("step", ("padded",), "packed step, against one document a row", "2"),
    Row("step", ("plain, packed",), "packed step, against a plain loop on the same rows, dense mask", "1"),
    Row("step", ("plain, padded",), "packed step, against a plain loop on padded rows", "1"),
    *decoding("10m", "2", "2"),
    *decoding("100m", "1.15", "1.3"),
    *reading(),
    *guided(),
    *kosmos1(),
    *emu(),
    *tokenising(),
    Row("loader", ("loader",), "loader, against bare decoding", "0.97"),
    Row("loader", ("fast",), "fast way to read JPEG, against the exact one", "1.8"),
)
PLAIN = (
    Row("loader", ("waiting", "tokenizer"), "share of a step that waits for data, tokenizer stage", "0.02 at most"),
    Row("loader", ("waiting", "pretrain"), "share of a step that waits for data, pretrain stage", "0.02 at most"),
    Row("startup", ("help_s",), "`plait --help`, seconds", "0.3 at most"),
    Row("startup", ("load", "height_over_weights"), "private memory of a load, over the weights", "1.1 at most"),
    Row("import", ("import", "height"), "private memory of an import of MiniGPT-4 7B, bytes", "3e9 at most"),
    Row("import", ("import_over_read",), "its time, over that of reading the same bytes", ""),
    Row(
        "import", ("load", "height_over_weights"), "private memory of its load in bf16, over the weights", "1.1 at most"
    ),
    Row("emu", ("import", "height"), "private memory of an import of Emu 14B, bytes", "3e9 at most", optional=True),
    Row(
        "emu",
        ("load", "height_over_weights"),
        "private memory of a load of Emu in bf16, with as many layers as fit, over the weights",
        "1.1 at most",
        optional=True,
    ),
    *(
        Row("emu", ("parts", part), f"a picture drawn by Emu at tiny size, seconds: {text}", "", optional=True)
        for part, text in (
            ("seconds", "all"),
            ("language", "32 vectors"),
            ("unet", "U-Net, 20 steps with guidance"),
            ("vae", "VAE"),
        )
    ),
    Row(
        "import-seed",
        ("import", "height"),
        "private memory of an import of SEED-LLaMA 8B, bytes",
        "3e9 at most",
        optional=True,
    ),
    Row("import-seed", ("import_over_read",), "its time, over that of reading the same bytes", "", optional=True),
    Row(
        "import-seed",
        ("load", "height_over_weights"),
        "private memory of its load in bf16, over the weights",
        "1.1 at most",
        optional=True,
    ),
)
HEAD = """# Measurements

Made from [benchmarks/results](../benchmarks/results) by `make docs`; each file there tells the commit, the hardware and
the versions. `python benchmarks/<name>.py` measures again. Two cores, no GPU.

## Side by side

How many times as fast Plait is as what stands beside it: the median over pairs of runs in one process, with quartiles.
The peer in decoding is transformers' `LlamaForCausalLM` with the same weights, that of EVA's tower and the Q-Former its
`Blip2VisionModel` and `Blip2QFormerModel`, that of SEED's tokenizer these two and diffusers'
`StableUnCLIPImg2ImgPipeline`, that of KOSMOS-1 its `Kosmos2ForConditionalGeneration`, and that of pictures of 256 and
1,024 codes its `OPTForCausalLM` with the weights of a CM3Leon; bare products are the matrix products of the same work
by PyTorch's linear layers and nothing else, or by packed ones, where 1 cannot be passed. As loaded: what `plait.load`
gives; compiled: with `compile=True`, which takes some minutes at first.

| | ratio | quartiles | aim | commit |
| --- | --- | --- | --- | --- |
"""
SINGLE = """
## By themselves

| | figure | aim | commit |
| --- | --- | --- | --- |
"""

MEMORY = """
## A memory of {vectors:,} vectors

Of width {width}, without structure or in clusters; {queries:,} queries, for the {nearest} nearest each. Recall is
against a search of all in double precision; cells are those of an index by faiss that are looked at. Private memory is
what the search of all takes beyond an open memory; resident memory counts the mapped file too, which the kernel may
drop.

| | {heads} |
| --- |{rules}
"""
KINDS = {
    "random_float32": "random, fp32",
    "random_float16": "random, fp16",
    "clustered_float32": "clustered, fp32",
    "clustered_float16": "clustered, fp16",
}
OF_MEMORY: tuple[tuple[tuple[str, ...], str, float], ...] = (
    (("build_and_save_s",), "nine tenths built and saved, s", 1),
    (("load_s",), "loaded, s", 1),
    (("append_a_tenth_s",), "the last tenth appended, s", 1),
    (("bytes_on_disk",), "on disk, GB", 1e9),
    (("exact", "queries_per_s"), "all compared: queries per s", 1),
    (("exact", "recall_at_10"), "all compared: recall", 1),
    (("exact", "private_bytes_more"), "all compared: private memory, GB", 1e9),
    (("exact", "resident_bytes"), "all compared: resident memory, GB", 1e9),
    (("index_build_s",), "index built, s", 1),
    (("index_bytes",), "index on disk, GB", 1e9),
    *(
        ((f"faiss_{cells}_cells", figure), f"{cells} cells: {text}", 1)
        for cells in (8, 32, 128)
        for figure, text in (("queries_per_s", "queries per s"), ("recall_at_10", "recall"))
    ),
)
"""The way to a figure of one memory, what it is, and what it is divided by."""


def main() -> None:
    """Writes the page."""
    OUT.write_text(page(), encoding="utf-8")
    print(OUT)


def page() -> str:
    """All of it; what has not been measured is left out."""
    text = HEAD
    for row in filter(measured, ROWS):
        found, commit = figure(row)
        low, high = found["quartiles"]
        text += f"| {row.text} | {found['ratio']:.2f} | {low:.2f} to {high:.2f} | {row.aim} | {commit} |\n"
    text += SINGLE
    for row in filter(measured, PLAIN):
        found, commit = figure(row)
        text += f"| {row.text} | {found} | {row.aim} | {commit} |\n"
    found = result("retrieval")
    return text if found is None else text + memory(found)


def memory(found: dict[str, Any]) -> str:
    """The section on a memory's search; rows of an index where there was one."""
    figures = found["figures"]
    text = MEMORY.format(**found["config"], heads=" | ".join(KINDS.values()), rules=" --- |" * len(KINDS))
    for path, said, unit in OF_MEMORY:
        if path[0] in figures[next(iter(KINDS))]:
            cells = (f"{within(figures[kind], path) / unit:.4g}" for kind in KINDS)
            text += f"| {said} | {' | '.join(cells)} |\n"
    killed = figures["kill_9_while_appending"]
    return text + (
        f"\nA memory was ended by `kill -9` while it was appended to, {killed['kills']} times: vectors lost that were "
        f"acknowledged: {killed['acknowledged_vectors_lost']}; records wrong or half there: "
        f"{killed['wrong_or_half_records']}. Aim: none. Commit {found['commit'][:7]}.\n"
    )


def measured(row: Row) -> bool:
    """Whether its file is there, and holds it where it may not."""
    found = result(row.file)
    if found is None or not row.optional:
        return found is not None
    inside = found["figures"]
    for key in row.path:
        inside = inside.get(key, {})
    return bool(inside)


def figure(row: Row) -> tuple[Any, str]:
    """The figure of a row, and the commit that it was measured at."""
    found = result(row.file)
    assert found is not None
    return within(found["figures"], row.path), found["commit"][:7]


def within(figures: Any, path: tuple[str, ...]) -> Any:
    """What lies at the end of a way through nested figures."""
    return reduce(lambda value, key: value[key], path, figures)


def result(name: str) -> dict[str, Any] | None:
    """A result file, if it is there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
