"""What befalls a run from outside: kills, a full disk, dead workers, Ctrl-C. It ends with one line, and goes on."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kills
import pytest

from plait import cli
from plait.train.log import RunLog
from plait.train.loop import Loop

STEPS, SAVE_EVERY = 4, 2  # of each of two stages: saved behind the steps 2, 4, 6 and 8
KILLED_AT = """
import os, signal, sys
from plait import cli

event, ending, *words = sys.argv[1:]

def watch(name, arguments):
    if name == event and str(arguments[0]).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
cli.main(words)
"""


def words(out: Path, workers: int = 0) -> list[str]:
    return kills.command(out, STEPS, SAVE_EVERY, workers)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    assert cli.main(words(out)) == 0
    return out


def goes_on(out: Path, whole: Path) -> bool:
    """Whether the same command makes of a disturbed run the whole one."""
    assert cli.main(words(out)) == 0
    assert kills.records(out) == kills.records(whole)
    assert kills.weights(out) == kills.weights(whole)
    assert names(out / "checkpoints") == names(whole / "checkpoints")
    return True


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------- kill -9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "ending", "left"),
    [
        ("open", ".step-00000002.partial/config.json", [".step-00000002.partial"]),  # in the first save of all
        ("open", ".step-00000006.partial/config.json", [".step-00000006.partial", "step-00000004"]),
        ("open", ".step-00000006.partial/state.pt", [".step-00000006.partial", "step-00000004"]),
        ("os.rename", ".step-00000004.partial", [".step-00000004.partial", "step-00000002"]),
        ("shutil.rmtree", "/step-00000002", ["step-00000002", "step-00000004"]),  # saved, the old one not yet removed
    ],
)
def test_a_kill_within_a_save(whole: Path, tmp_path: Path, event: str, ending: str, left: list[str]) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", KILLED_AT, event, ending, *words(out)]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names(out / "checkpoints") == left
    assert goes_on(out, whole)


@pytest.mark.slow
def test_a_kill_within_a_step_takes_the_workers_along(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = kills.kill(words(out, workers=2), out, kills.Moment(5, 0.01))
    assert told["last_process_ended_after_s"] < 30
    assert told["records"] >= 6
    assert goes_on(out, whole)


# ------------------------------------------------------------------------------------------------- workers


@pytest.mark.slow
def test_a_killed_worker_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance, out = Loop.advance, tmp_path / "run"

    def shoot(loop: Loop) -> dict[str, object]:
        if loop.step == 2:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            workers[0].kill()
            workers[0].join()
        return advance(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", shoot)
        stages = [f"stages.{name}.steps=400" for name in ("tokenizer", "pretrain")]  # more than are prepared ahead
        assert cli.main([*words(out, workers=2), *stages]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("plait: 1 of 2 workers that prepare batches was ended by SIGKILL, as by a machine out of")
    assert last.endswith("--set stages.STAGE.data.workers=0")


# -------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "early"), [(0, False), (2, False), (2, True)])
def test_ctrl_c_reaches_all_processes_of_a_terminal(whole: Path, tmp_path: Path, workers: int, early: bool) -> None:
    out = tmp_path / "run"
    process = kills.start(words(out, workers), out.with_suffix(".log"))
    metrics = out / "metrics.jsonl"

    def started() -> bool:  # early: the workers, beside the tracker of what they share, have not yet run a line
        return len(children(process.pid)) == 3 if early else metrics.exists() and metrics.stat().st_size > 0

    kills.until(started, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    said = out.with_suffix(".log").read_text()
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert re.fullmatch(r"plait: stopped and saved after step \d; the same command goes on from there", last), said
    assert goes_on(out, whole)


def children(process: int) -> list[str]:
    return [child for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()]


# ---------------------------------------------------------------------------------------------------- disk


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("file", "share"), [("model.safetensors", 0.5), ("state.pt", 0.9), ("metrics.jsonl", None)])
def test_a_full_disk_spoils_nothing(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    share: float | None,
) -> None:
    out, write = tmp_path / "run", RunLog.write
    (last,) = (whole / "checkpoints").glob("step-*8")
    size = int((last / file).stat().st_size * share) if share else 0
    with room(2**40), monkeypatch.context() as patch:

        def fill(log: RunLog, record: dict[str, object]) -> None:
            if record["step"] == 5:
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                limit = size or (out / "metrics.jsonl").stat().st_size + 100
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            write(log, record)

        patch.setattr(RunLog, "write", fill)
        assert cli.main(words(out)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"plait: {out}") and "File too large" in said
    assert "bytes are free; make room, and the same command goes on behind step 4" in said
    assert names(out / "checkpoints") == ["step-00000004"]
    assert goes_on(out, whole)


def test_a_full_disk_is_one_line_of_any_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with room(4000):
        assert cli.main(["data", "shapes", "--out", str(tmp_path / "data"), "--count", "9"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("plait: ") and said[0].endswith("File too large; make room and give the command again")
    assert names(tmp_path) == []


def test_a_checkpoint_that_cannot_be_read_names_the_way_back(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (last,) = (out / "checkpoints").glob("step-*8")
    for name in ("state.pt", "model.safetensors"):
        content = (last / name).read_bytes()
        (last / name).write_bytes(content[:-1000])
        assert cli.main(words(out)) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"plait: {last}: cannot be read (")
        assert said.endswith("delete this folder, and the same command goes on from the one before it")
    shutil.rmtree(last)
    assert goes_on(out, whole)
