"""Two ways to do the same thing, timed in turn: machines drift, so only what ran side by side is compared."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from statistics import median, quantiles
from typing import Any

PAIRS = 15


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = PAIRS, warm: int = 2) -> dict[str, Any]:
    """How many times as fast `ours` is."""
    return ratio(rounds({"ours": ours, "theirs": theirs}, pairs, warm), "ours", "theirs")


def rounds(runs: Mapping[str, Callable[[], Any]], pairs: int = PAIRS, warm: int = 2) -> list[dict[str, float]]:
    """The seconds of each run in each round, and the `load` before; every other round goes through them backwards."""
    for _ in range(warm):
        for run in runs.values():
            run()
    load = os.getloadavg()[0]
    order = list(runs)
    return [
        {name: seconds(runs[name]) for name in (reversed(order) if i % 2 else order)} | {"load": load}
        for i in range(pairs)
    ]


def ratio(times: Items[dict[str, float]], ours: str, theirs: str) -> dict[str, Any]:
    """The median of theirs / ours over the rounds, with quartiles."""
    low, _, high = quantiles((one[theirs] / one[ours] for one in times), n=4)
    return {
        "ratio": round(median(one[theirs] / one[ours] for one in times), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "ours_s": round(median(one[ours] for one in times), 5),
        "theirs_s": round(median(one[theirs] for one in times), 5),
        "pairs": len(times),
        "load_before": round(times[0]["load"], 2),
    }


def seconds(run: Callable[[], Any]) -> float:
    """The wall time of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
