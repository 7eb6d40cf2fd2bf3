"""What a run writes down while it trains: `metrics.jsonl`, the facts of the machine, and what the terminal shows.

`metrics.jsonl` is the record: one JSON object a line, flushed at once, floats in full, so that two runs can be compared
to the bit. Everything else (TensorBoard, the terminal) is a sink that receives the same records.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from plait.errors import ConfigError, InputError

METRICS = "metrics.jsonl"
FACTS = "facts.json"


class Sink(Protocol):
    """Something that takes the records of a run."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record."""
        ...

    def close(self) -> None:
        """Finish; nothing is written afterwards."""
        ...


class RunLog:
    """The record of a run: appends to `metrics.jsonl` in `directory` and hands every record on to the sinks.

    A record is any mapping; by custom it holds `step` (over all stages, from 0), `stage`, `stage_step`, `loss`,
    `loss/<term>`, `lr`, `grad_norm`, `tokens_per_s` and `elapsed_s`. A tensor or array of one element is written as
    its number; infinite and undefined numbers, which JSON does not have, as text.

    Args:
        directory: made when absent.
        resume_from: the step that will be written next. The record keeps the lines before the first one of that step
            or a later one; a last line cut short by a kill goes too. None begins an empty record.
        sinks: closed together with the log.

    Raises:
        InputError: on resume, a line before the last is no JSON object.
    """

    def __init__(self, directory: str | Path, resume_from: int | None = None, sinks: Sequence[Sink] = ()) -> None:
        path = Path(directory) / METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.truncate(path, 0 if resume_from is None else _kept_bytes(path, resume_from))
        self._file = path.open(
            "ab", buffering=0
        )  # one write a line: a kill can cut the last line, never an earlier one
        self._sinks = tuple(sinks)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record and hand it to the sinks."""
        plain = _plain(record)
        line = json.dumps(plain, allow_nan=False).encode() + b"\n"
        while line:  # a disk that fills up takes a part, and says why only when it is given the rest
            line = line[self._file.write(line) :]
        for sink in self._sinks:
            sink.write(plain)

    def close(self) -> None:
        """Close the file and the sinks."""
        self._file.close()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorBoardSink:
    """Writes the numbers of every record as TensorBoard events, under `<stage>/<name>`.

    Args:
        directory: of the event files.
        resume_from: TensorBoard hides the events of this step and later ones that an earlier process wrote.

    Raises:
        ConfigError: the package `tensorboard` is not installed.
    """

    def __init__(self, directory: str | Path, resume_from: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("tensorboard is not installed: pip install 'plait[track]'") from error
        self._writer = SummaryWriter(str(directory), purge_step=resume_from)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of the record; records without a step are left out."""
        if "step" not in record:
            return
        prefix = f"{record['stage']}/" if "stage" in record else ""
        for key, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "stage_step"):
                self._writer.add_scalar(prefix + key, value, record["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class Progress:
    """Shows the run on a terminal as a bar for each stage; elsewhere as one line every `every_s` seconds.

    Args:
        steps: the number of steps of each stage, by its name.
        stream: where to write; standard error by default.
        terminal: whether to draw bars; by default, whether `stream` is a terminal.
        every_s: seconds between two lines where no bars are drawn; the last step of a stage is always shown.
        clock: seconds, for the time left.
    """

    def __init__(
        self,
        steps: Mapping[str, int],
        stream: TextIO | None = None,
        terminal: bool | None = None,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = dict(steps)
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._clock = clock
        self._stage: str | None = None
        self._began = (0, 0.0)  # step and time of the stage's first record in this process
        self._shown_at = -math.inf
        self._tasks: dict[str, Any] = {}
        self._bars = _bars(self._stream) if (self._stream.isatty() if terminal is None else terminal) else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Show a record; one without a stage is left out."""
        if "stage" not in record or "stage_step" not in record:
            return
        stage, done, now = record["stage"], record["stage_step"] + 1, self._clock()
        total = self._steps.get(stage, done)
        if stage != self._stage:
            self._stage, self._began = stage, (done, now)
        facts = [f"loss {record['loss']:.4f}"] if isinstance(record.get("loss"), float) else []
        if isinstance(record.get("tokens_per_s"), float | int):
            facts.append(f"{record['tokens_per_s']:,.0f} tokens/s")
        if done > self._began[0]:
            facts.append(f"{duration((now - self._began[1]) / (done - self._began[0]) * (total - done))} left")
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, facts="")
            self._bars.update(self._tasks[stage], completed=done, facts="  ".join(facts))
        elif done >= total or now - self._shown_at >= self._every_s:
            self._shown_at = now
            print(f"{stage} {done}/{total}", *facts, sep="  ", file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bars is not None:
            self._bars.stop()


def write_facts(directory: str | Path, **facts: Any) -> None:
    """Write `facts.json` for the report: the given facts (`parameters`, `recipe`), the hardware and the versions."""
    path = Path(directory) / FACTS
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**facts, "hardware": hardware(), "versions": versions()}, indent=2) + "\n")
    os.replace(partial, path)


def hardware() -> str:
    """The processor and its cores that this process may use, and the accelerators that torch sees, in one line."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"{_processor()}, {cores} core{'s' * (cores != 1)}"]
    count = torch.cuda.device_count()
    if count:
        found.append(f"{count} x {torch.cuda.get_device_name(0)}")
    return "; ".join(found)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide about numbers."""
    packages = ("plait", "torch", "numpy", "pillow", "grain", "tokenizers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def duration(seconds: float) -> str:
    """Seconds as people say them: `48 s`, `3:05`, `2:03:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _kept_bytes(path: Path, resume_from: int) -> int:
    """The length of the beginning of the file that a run resumed at that step keeps."""
    kept = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            record = _record(line)
            if record is None:
                if lines.read(1):
                    raise InputError(
                        f"{path}: line {number} is no JSON object; remove it, or begin in another directory"
                    )
                break
            if record.get("step", -1) >= resume_from:
                break
            kept += len(line)
    return kept


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    bars = Progress(*columns, console=Console(file=stream, force_terminal=True))
    bars.start()
    return bars
