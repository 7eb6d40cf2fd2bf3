"""How many documents of the shapes world a core makes in a second, pictures drawn: they must never starve a run.

    python benchmarks/shapes.py [--documents N]

Figures go to benchmarks/results/shapes.json: of each kind in training's part, documents made and drawn, and replies
judged, per second of one core's time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable

import results

from plait.data.shapes import Shapes
from plait.data.shapes.kinds import CASES
from plait.data.shapes.source import KINDS
from plait.document import Document

SEED, RESOLUTION, WARM = 0, 64, 50


def drawn(documents: Iterable[Document]) -> None:
    """Opens every picture."""
    for document in documents:
        for image in document.images:
            image.open()


def per_second(work: Callable[[range], None], count: int) -> float:
    """Indices that `work` does in a second of the processor's time, after some that warm its caches."""
    work(range(WARM))
    began = time.process_time()
    work(range(WARM, WARM + count))
    return round(count / (time.process_time() - began))


def main() -> None:
    """Measures every kind, writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=2000, help="of each kind")
    count = parser.parse_args().documents
    figures: dict[str, dict[str, float]] = {}
    for name in KINDS:
        source = Shapes(seed=SEED, length=WARM + count, resolution=RESOLUTION, mix={name: 1})
        figures[name] = {"documents": per_second(lambda at, of=source: drawn(map(of.__getitem__, at)), count)}
    for name, kind in CASES.items():
        cases = kind(seed=SEED, length=WARM + count, split=kind.parts[0], resolution=RESOLUTION)
        replies = [(case.check, case.reply) for case in cases.cases()]
        figures[name] = {
            "documents": per_second(lambda at, of=cases: drawn(map(of.__getitem__, at)), count),
            "judged": per_second(
                lambda at, of=replies: [check(reply) for check, reply in of[at.start : at.stop]], count
            ),
        }
    for name, figure in figures.items():
        print(f"{name:16}", *(f"{value:8,.0f} {what}/s" for what, value in figure.items()))
    config = {"documents": count, "resolution": RESOLUTION, "seed": SEED}
    print(results.write("shapes", figures, config))


if __name__ == "__main__":
    main()
