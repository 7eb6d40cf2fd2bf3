"""Writes docs/benchmarks.md from benchmarks/results: what was measured, beside what was aimed at.

python tools/docs_benchmarks.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS, OUT = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"


class Row(NamedTuple):
    """A figure: the result file, the way to it, what it is, and what was aimed at."""

    file: str
    path: tuple[str, ...]
    text: str
    aim: str


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


ROWS = (
    Row("step", ("padded",), "packed step, against one document a row", "2"),
    Row("step", ("plain, packed",), "packed step, against a plain loop on the same rows, dense mask", "1"),
    Row("step", ("plain, padded",), "packed step, against a plain loop on padded rows", "1"),
    *decoding("10m", "2", "2"),
    *decoding("100m", "1.15", "1.3"),
    *reading(),
    Row("loader", ("loader",), "loader, against bare decoding", "0.97"),
    Row("loader", ("fast",), "fast way to read JPEG, against the exact one", "1.8"),
)
PLAIN = (
    Row("loader", ("waiting", "tokenizer"), "share of a step that waits for data, tokenizer stage", "0.02 at most"),
    Row("loader", ("waiting", "pretrain"), "share of a step that waits for data, pretrain stage", "0.02 at most"),
    Row("startup", ("help_s",), "`plait --help`, seconds", "0.3 at most"),
    Row("startup", ("load", "height_over_weights"), "private memory of a load, over the weights", "1.1 at most"),
    Row("import", ("import", "height"), "private memory of the import of MiniGPT-4 7B, bytes", "3e9 at most"),
    Row("import", ("import_over_read",), "its time, over that of reading the files", ""),
    Row(
        "import", ("load", "height_over_weights"), "private memory of its load in bf16, over the weights", "1.1 at most"
    ),
)
HEAD = """# Measurements

Made from [benchmarks/results](../benchmarks/results) by `make docs`; each file there tells the commit, the hardware and
the versions. `python benchmarks/<name>.py` measures again. Two cores, no GPU.

## Side by side

How many times as fast Plait is as what stands beside it: the median over pairs of runs in one process, with quartiles.
The peer in decoding is transformers' `LlamaForCausalLM` with the same weights, that of EVA's tower and the Q-Former its
`Blip2VisionModel` and `Blip2QFormerModel`; bare products are the matrix products
of the same work by PyTorch's linear layers and nothing else, or by packed ones, where 1 cannot be passed. As loaded:
what `plait.load` gives; compiled: with `compile=True`, which takes some minutes at first.

| | ratio | quartiles | aim | commit |
| --- | --- | --- | --- | --- |
"""
SINGLE = """
## By themselves

| | figure | aim | commit |
| --- | --- | --- | --- |
"""


def main() -> None:
    """Writes the page."""
    text = HEAD
    for row in ROWS:
        found, commit = figure(row)
        low, high = found["quartiles"]
        text += f"| {row.text} | {found['ratio']:.2f} | {low:.2f} to {high:.2f} | {row.aim} | {commit} |\n"
    text += SINGLE
    for row in PLAIN:
        found, commit = figure(row)
        text += f"| {row.text} | {found} | {row.aim} | {commit} |\n"
    OUT.write_text(text, encoding="utf-8")
    print(OUT)


def figure(row: Row) -> tuple[Any, str]:
    """The figure of a row, and the commit that it was measured at."""
    result = json.loads((RESULTS / f"{row.file}.json").read_text(encoding="utf-8"))
    value = result["figures"]
    for key in row.path:
        value = value[key]
    return value, result["commit"][:7]


if __name__ == "__main__":
    main()
