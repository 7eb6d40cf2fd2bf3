"""A run that is killed again and again, against one that nothing disturbed: whether its record is the same.

    python benchmarks/kills.py

`kill -9` ends a run of benchmarks/small.py at ten random moments, and another one in each of its saves; the same
command goes on every time. With 0 and with 2 loader workers, all against one whole run without workers. Figures go to
benchmarks/results/kills.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import results

RECIPE = Path(__file__).with_name("small.py")
TIMES = ("tokens_per_s", "wait_s", "step_s", "elapsed_s")
SEED = 20250117
STEPS, SAVE_EVERY = 20, 5  # of each of two stages
KILLS = 10
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Moment:
    """When a run is killed: so long after the record of a step was written, or after the save behind it began."""

    step: int
    delay_s: float
    saving: bool = False

    def reached(self, out: Path) -> bool:
        """Whether the run has come so far."""
        if self.saving:
            return partial(out, self.step + 1).exists()
        lines = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        return any(line.endswith(b"\n") and json.loads(line)["step"] >= self.step for line in lines[-1:])


def command(out: Path, steps: int = STEPS, save_every: int = SAVE_EVERY, workers: int = 0) -> list[str]:
    """The words that train the small recipe, after `plait`."""
    given = [f"steps={steps}", f"save_every={save_every}", f"workers={workers}"]
    return ["train", f"{RECIPE}:small", "--out", str(out), "--set", *given]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """`plait` with these words, in a session of its own; what it says is added to a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "plait.cli", *words],
            stderr=said,
            stdout=said,
            env=environment,
            start_new_session=True,
        )


def until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits for something that a running process does.

    Raises:
        RuntimeError: it ended before, or it takes too long.
    """
    began = time.monotonic()
    while not reached():
        if process.poll() is not None or time.monotonic() - began > PATIENCE_S:
            raise RuntimeError(f"{process.args} did not come so far: {process.poll()}")
        time.sleep(0.0005)


def kill(words: list[str], out: Path, moment: Moment) -> dict[str, Any]:
    """Starts or goes on with a run, ends it by SIGKILL at a moment, and tells what it left."""
    metrics = out / "metrics.jsonl"
    before = metrics.stat() if metrics.exists() else None
    process = start(words, out.with_suffix(".log"))

    def begun() -> bool:  # it has cut its record to where it goes on, or added to it
        return metrics.exists() and (before is None or metrics.stat().st_mtime_ns != before.st_mtime_ns)

    until(begun, process)
    until(lambda: moment.reached(out), process)
    time.sleep(moment.delay_s)
    process.kill()
    process.wait()
    began = time.monotonic()
    while alive(process.pid) and time.monotonic() - began < PATIENCE_S:
        time.sleep(0.01)
    content = metrics.read_bytes()
    return {
        "step": moment.step,
        "delay_s": round(moment.delay_s, 4),
        "records": content.count(b"\n"),
        "record_cut": not content.endswith(b"\n") and bool(content),
        "save_cut": [path.name for path in partial(out, 0).parent.glob(".step-*.partial")],
        "last_process_ended_after_s": round(time.monotonic() - began, 2),
    }


def finish(words: list[str], out: Path) -> float:
    """Runs a command to its end; seconds.

    Raises:
        RuntimeError: it failed.
    """
    began = time.monotonic()
    log = out.with_suffix(".log")
    code = start(words, log).wait()
    if code:
        raise RuntimeError(f"{words} ended with {code}: {log.read_text()[-3000:]}")
    return time.monotonic() - began


def alive(group: int) -> bool:
    """Whether a process of a session that `start` began still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def partial(out: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it takes its name."""
    return out / "checkpoints" / f".step-{step:08d}.partial"


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def weights(out: Path) -> bytes:
    """The file of the last weights."""
    return max(out.glob("checkpoints/step-*/model.safetensors")).read_bytes()


def moments() -> Iterator[tuple[str, list[Moment]]]:
    """When each of the disturbed runs is killed."""
    draw = random.Random(SEED)
    steps = sorted(draw.sample(range(2 * STEPS - 1), KILLS))
    yield "at_random_moments", [Moment(step, draw.uniform(0, 0.05)) for step in steps]
    saves = range(SAVE_EVERY - 1, 2 * STEPS, SAVE_EVERY)
    yield "while_saving", [Moment(step, draw.uniform(0, 0.015), saving=True) for step in saves]


def main() -> None:
    """Runs all, writes the figures."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        figures["whole_run"] = {"seconds": round(finish(command(whole), whole), 1), "records": len(records(whole))}
        for workers in (0, 2):
            for name, chosen in moments():
                out = Path(folder) / f"{name}-{workers}"
                words = command(out, workers=workers)
                told = [kill(words, out, moment) for moment in chosen]
                finish(words, out)
                pairs = zip_longest(records(out), records(whole))
                figures[f"{name}_workers_{workers}"] = {
                    "kills": len(told),
                    "saves_cut": sum(bool(one["save_cut"]) for one in told),
                    "records_differing": sum(a != b for a, b in pairs),
                    "weights_equal_to_the_bit": weights(out) == weights(whole),
                    "each": told,
                }
                print(name, workers, {k: v for k, v in figures[f"{name}_workers_{workers}"].items() if k != "each"})
    config = {"recipe": "benchmarks/small.py:small", "steps_each_stage": STEPS, "save_every": SAVE_EVERY, "seed": SEED}
    print(results.write("kills", figures, {**config, "signal": signal.SIGKILL.name, "times_left_out": TIMES}))


if __name__ == "__main__":
    main()
