from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.errors import ConfigError, InputError
from plait.train import log


class Memory:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.closed = False

    def write(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


def lines(directory: Path) -> list[Any]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def record(step: int, stage: str = "pretrain") -> dict[str, Any]:
    return {"step": step, "stage": stage, "stage_step": step % 5, "loss": 1 / (step + 3), "tokens_per_s": 1000.0}


def test_records_reach_the_file_at_once_and_the_sinks(tmp_path: Path) -> None:
    memory = Memory()
    with log.RunLog(tmp_path / "run", sinks=[memory]) as run:
        run.write(record(0))
        assert lines(tmp_path / "run") == [record(0)]
        run.write({"event": "saved"})
    assert memory.records == [record(0), {"event": "saved"}] == lines(tmp_path / "run")
    assert memory.closed


@settings(derandomize=True)
@given(st.floats())
def test_floats_survive_to_the_bit(value: float) -> None:
    text = json.loads(json.dumps(log._plain({"x": [value]}), allow_nan=False))["x"][0]
    assert math.isnan(float(text)) if math.isnan(value) else float(text) == value


def test_tensors_arrays_and_undefined_numbers(tmp_path: Path) -> None:
    with log.RunLog(tmp_path) as run:
        run.write({"a": torch.tensor(0.1), "b": np.float32(0.1), "c": np.int64(3), "d": math.nan, "e": [-math.inf]})
    exact = float(np.float32(0.1))
    assert lines(tmp_path) == [{"a": exact, "b": exact, "c": 3, "d": "nan", "e": ["-inf"]}]


@pytest.mark.parametrize("tail", [b"", b'{"step": 9, "lo', b"\0\0\0", b'{"step": 9}', b"[1]\n"])
@pytest.mark.parametrize(("resume_from", "kept"), [(0, 0), (3, 3), (7, 7), (100, 9)])
def test_resume_cuts_what_will_be_written_again(tmp_path: Path, tail: bytes, resume_from: int, kept: int) -> None:
    with log.RunLog(tmp_path) as run:
        for step in range(9):
            run.write(record(step, "pretrain" if step < 5 else "tune"))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    with log.RunLog(tmp_path, resume_from=resume_from) as run:
        assert [line["step"] for line in lines(tmp_path)] == list(range(kept))
        run.write(record(resume_from))
    assert lines(tmp_path)[-1] == record(resume_from)


def test_a_new_run_begins_an_empty_record(tmp_path: Path) -> None:
    for _ in range(2):
        with log.RunLog(tmp_path) as run:
            run.write(record(0))
    assert len(lines(tmp_path)) == 1


def test_records_without_a_step_go_with_their_neighbours(tmp_path: Path) -> None:
    with log.RunLog(tmp_path) as run:
        for entry in (record(0), {"event": "saved"}, record(1), {"event": "late"}):
            run.write(entry)
    log.RunLog(tmp_path, resume_from=1).close()
    assert lines(tmp_path) == [record(0), {"event": "saved"}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 2 is no JSON object; remove it"):
        log.RunLog(tmp_path, resume_from=5)


def test_a_killed_writer_loses_no_line(tmp_path: Path) -> None:
    code = (
        "import sys, itertools; from plait.train.log import RunLog\n"
        "run = RunLog(sys.argv[1])\n"
        "for step in itertools.count():\n"
        "    run.write({'step': step, 'text': 'x' * 5000})\n"
        "    step == 50 and print('ready', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    log.RunLog(tmp_path, resume_from=10**9).close()
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 50


def test_a_file_that_takes_a_line_in_parts_gets_all_of_it(tmp_path: Path) -> None:
    run = log.RunLog(tmp_path)
    whole, asked = run._file, []

    class Narrow(io.RawIOBase):
        """A file of a disk that has little room: it takes seven bytes a call."""

        def write(self, content: Any) -> int:
            asked.append(bytes(content))
            return whole.write(content[:7])

    run._file = Narrow()  # type: ignore[assignment]
    run.write(record(0))
    whole.close()
    assert len(asked) > 5
    assert lines(tmp_path) == [record(0)]


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = log.TensorBoardSink(tmp_path)
    for step in range(3):
        sink.write(record(step) | {"note": "text", "ok": True})
    sink.write({"event": "saved"})
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["pretrain/loss", "pretrain/tokens_per_s"]
    assert [(event.step, event.value) for event in events.Scalars("pretrain/loss")] == [
        (step, pytest.approx(1 / (step + 3))) for step in range(3)
    ]


def test_tensorboard_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'plait\[track\]'"):
        log.TensorBoardSink(tmp_path)


def test_plain_progress_shows_one_line_per_interval_and_the_end() -> None:
    stream, seconds = io.StringIO(), iter(range(0, 1000, 4))
    progress = log.Progress({"pretrain": 6}, stream, every_s=10, clock=lambda: next(seconds))
    for step in range(6):
        progress.write({"step": step, "stage": "pretrain", "stage_step": step, "loss": 2.5, "tokens_per_s": 12345.6})
    progress.write({"event": "saved"})
    progress.close()
    assert stream.getvalue().splitlines() == [
        "pretrain 1/6  loss 2.5000  12,346 tokens/s",
        "pretrain 4/6  loss 2.5000  12,346 tokens/s  8 s left",
        "pretrain 6/6  loss 2.5000  12,346 tokens/s  0 s left",
    ]


def test_progress_on_a_terminal() -> None:
    stream, seconds = io.StringIO(), iter(range(0, 1000, 4))
    progress = log.Progress({"pretrain": 3, "tune": 2}, stream, terminal=True, clock=lambda: next(seconds))
    for step in range(3):
        progress.write({"stage": "pretrain", "stage_step": step, "loss": 2.5})
    progress.write({"stage": "tune", "stage_step": 0, "loss": 1.25})
    progress.close()
    for shown in ("pretrain", "3/3", "loss 2.5000", "tune", "1/2", "loss 1.2500"):
        assert shown in stream.getvalue()


def test_facts(tmp_path: Path) -> None:
    log.write_facts(tmp_path, recipe="toy/tiny", parameters={"decoder": 10})
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["recipe"] == "toy/tiny"
    assert facts["parameters"] == {"decoder": 10}
    assert "core" in facts["hardware"]
    assert facts["versions"]["torch"] == torch.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (48, "48 s"), (59.6, "1:00"), (185, "3:05"), (7385, "2:03:05")]
)
def test_duration(seconds: float, text: str) -> None:
    assert log.duration(seconds) == text
