"""The commands of a memory, from shards to a prompt with retrieved documents in front."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plait import cli
from plait.checkpoints.directory import save
from plait.data.shards import ShardWriter
from plait.document import Document, Image
from plait.recipes.foundations import build
from plait.retrieval.memory import Memory
from plait.systems.cm3leon import CM3Leon
from plait.systems.foundations import TINY

TEXTS = ("a red circle", "a blue square", "two green rings", "nothing at all")


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of foundations with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return save(build(TINY, [Document(" ".join(TEXTS))]), tmp_path_factory.mktemp("towers") / "checkpoint")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], Image]) -> Path:
    """Four documents, and one whose picture is broken."""
    out = tmp_path_factory.mktemp("data") / "shards"
    with ShardWriter(out) as writer:
        for i, text in enumerate(TEXTS):
            writer.add(str(i), Document([text, picture(i)]))
        writer.add("4", Document(["broken", Image(b"\xff\xd8\xffbroken")]))
    return out


@pytest.fixture(scope="module")
def memory(towers: Path, shards: Path) -> Path:
    out = shards.parent / "memory"
    assert cli.main(["data", "memory", str(shards), "--out", str(out), "--embed", str(towers), "--batch", "2"]) == 0
    return out


def test_a_memory_is_built_and_told(memory: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "memory", str(shards), "--out", str(memory)]) == 0  # nothing is left to do
    again = capsys.readouterr().out
    assert cli.main(["data", "memory", str(memory)]) == 0
    told = capsys.readouterr().out
    assert cli.main(["info", str(memory)]) == 0
    assert again == told == capsys.readouterr().out
    flat = re.sub(r"[\s│]+", " ", told)
    assert "documents 4 with text and pictures 4" in flat and "5 of 5 looked at, 1 left out" in flat


def test_a_memory_is_searched(
    memory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert cli.main(["data", "memory", str(memory), "--query", TEXTS[1], "--count", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "shards" in line]
    assert len(lines) == 2 and all(re.search(r"│ \d +│ 0\.\d{4}  .*shards \d  \w", line) for line in lines)


def test_neighbours_are_kept(memory: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "memory", str(memory), "--neighbours", str(shards)]) == 0
    rows = np.load(capsys.readouterr().out.replace("\n", ""))
    assert rows.shape == (5, 4) and (rows[4] == -1).all()
    assert all(number not in taken for number, taken in enumerate(rows[:4]))


def test_a_prompt_has_what_was_retrieved_in_front(
    memory: Path, cm3leon: CM3Leon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(save(cm3leon, tmp_path / "cm3leon"))
    draws = ["generate", checkpoint, "--draw", "--prompt", "a ring", "--memory", str(memory), "--guidance", "2"]
    drawn = []
    for count in ("0", "2"):
        out = tmp_path / count
        assert cli.main([*draws, "--retrieve", count, "--out", str(out)]) == 0
        drawn.append((out / "image-0.png").read_bytes())
    assert drawn[0] != drawn[1]
    capsys.readouterr()
    assert cli.main([*draws, "--embed", checkpoint]) == 2
    assert "cm3leon has no towers" in capsys.readouterr().err


def test_half_and_raw_are_kept(towers: Path, shards: Path, tmp_path: Path) -> None:
    words = ["data", "memory", str(shards), "--out", str(tmp_path / "m"), "--embed", str(towers), "--half", "--raw"]
    assert cli.main(words) == 0
    memory = Memory(tmp_path / "m")
    assert memory.vectors.dtype == np.float16 and memory.style == "raw"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SHARDS", "--out", "o"], "a new memory needs towers; give --embed"),
        (["SHARDS", "--out", "MEMORY", "--half"], "were settled when it was begun: leave them out"),
        (
            ["MEMORY", "--query", "a", "--embed", "OTHER"],
            "was built with the towers of .*checkpoint, which .*other has",
        ),
        (["SHARDS", "--out", "MEMORY", "--query", "a"], "--out builds a memory and --query asks one"),
        (["SHARDS"], "holds no memory; build one with: plait data memory SHARDS --out DIR"),
        (["absent", "--out", "o"], "absent: holds no shards"),
        (["SHARDS", "--out", "SHARDS", "--embed", "TOWERS"], "is not empty and holds no memory"),
        (["MEMORY", "--image", "absent.png"], "absent.png: cannot be read"),
    ],
)
def test_wrong_input_is_one_line(
    memory: Path,
    shards: Path,
    towers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"SHARDS": str(shards), "MEMORY": str(memory), "TOWERS": str(towers)}
    if "OTHER" in words:
        torch.manual_seed(1)
        places["OTHER"] = str(save(build(TINY, [Document("a")]), tmp_path / "other"))
    assert cli.main(["data", "memory", *(places.get(word, word) for word in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.search(message, lines[-1]) and len(lines) == 1
    assert not (tmp_path / "o").exists()
