"""A source of documents in a user's own file."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plait import cli
from plait.checkpoints.outside import from_file
from plait.config import read_yaml
from plait.data.packs import Data, Elements, Loader, Source
from plait.systems.cm3leon import CM3Leon

FILE = Path(__file__).resolve().parents[2] / "examples" / "flags.py"


@pytest.fixture
def source() -> Iterator[Source]:
    yield from_file(f"{FILE}:Flags")()
    sys.modules.pop("flags", None)


@pytest.fixture
def data(source: Source) -> Data:
    return Data(sources={"flags": source}, rows=2, length=80, window=12)


def test_documents(source: Source) -> None:
    assert len(source) == 216
    caption, picture = source[1].pieces
    assert caption.text == "a flag of red, red and white."  # type: ignore[union-attr]
    row = np.asarray(picture.open())[16]  # type: ignore[union-attr]
    assert [tuple(row[x]) for x in (2, 16, 30)] == [(200, 30, 40), (200, 30, 40), (250, 250, 250)]


def test_training(source: Source, tmp_path: Path) -> None:
    """Two steps of each stage, and the same command again."""
    settings = [f"stages.{stage}.data.{key}" for stage in ("tokenizer", "pretrain") for key in ("rows=1", "window=4")]
    command = ["train", f"{FILE}:recipe", "--out", str(tmp_path / "run"), "--steps", "2", "--set", *settings]
    assert cli.main(command) == 0
    record = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert [json.loads(line)["stage"] for line in record.splitlines()] == ["tokenizer"] * 2 + ["pretrain"] * 2
    written = read_yaml(tmp_path / "run" / "config.yaml")
    told = {"kind": "plait.train.run:Unwritten", "of": "flags:Flags", "length": 216}  # not the documents themselves
    assert [stage["data"]["sources"]["flags"] for stage in written["stages"]] == [told, told]
    assert cli.main(command) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == record


def test_it_reaches_a_process_that_has_not_run_its_file(data: Data, cm3leon: CM3Leon) -> None:
    elements = Elements(data, cm3leon.format)
    pickled, expected = pickle.dumps(elements), elements[0]
    del sys.modules["flags"], elements
    again = pickle.loads(pickled)
    assert "flags" in sys.modules
    assert all(np.array_equal(values, again[0][name]) for name, values in expected.items())


@pytest.mark.slow  # two processes that import torch
def test_worker_processes(data: Data, cm3leon: CM3Leon) -> None:
    alone, many = Loader(data, cm3leon.format), Loader(replace(data, workers=2), cm3leon.format)
    try:
        for _ in range(3):
            expected, found = next(alone), next(many)
            assert found.keys() == expected.keys()
            assert all(np.array_equal(values, found[name]) for name, values in expected.items())
    finally:
        alone.close()
        many.close()
