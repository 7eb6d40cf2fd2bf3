"""Two ways to do the same thing, timed in turn: machines drift, so only what ran side by side is compared."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

PAIRS = 15


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = PAIRS, warm: int = 2) -> dict[str, Any]:
    """How many times as fast `ours` is: the median of theirs / ours over pairs of runs, with quartiles.

    Which one goes first changes from pair to pair.
    """
    for _ in range(warm):
        ours()
        theirs()
    load = os.getloadavg()[0]
    times: list[tuple[float, float]] = []
    for i in range(pairs):
        if i % 2:
            other, own = seconds(theirs), seconds(ours)
        else:
            own, other = seconds(ours), seconds(theirs)
        times.append((own, other))
    ratios = [other / own for own, other in times]
    low, _, high = quantiles(ratios, n=4)
    return {
        "ratio": round(median(ratios), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "ours_s": round(median(own for own, _ in times), 5),
        "theirs_s": round(median(other for _, other in times), 5),
        "pairs": pairs,
        "load_before": round(load, 2),
    }


def seconds(run: Callable[[], Any]) -> float:
    """The wall time of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
