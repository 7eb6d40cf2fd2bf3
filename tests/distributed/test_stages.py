"""Two processes go from stage to stage as one does, also where a stage changes the system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plait.checkpoints.directory import load
from plait.nn.lora import LoRA

RECIPE = """
import functools
import PIL.Image
from dataclasses import replace
from plait.data.packs import Data
from plait.document import Document, Image
from plait.nn.lora import LoRAConfig
from plait.recipes.minigpt4 import Adapt, align_stage, instruct_stage
from plait.systems.minigpt4 import build
from plait.train.stage import Recipe, Schedule

class Task:
    name = "task"
    def run(self, model):
        return {"adapters": model.system.config.lora is not None}

def recipe():
    pictures = [Document([Image(PIL.Image.new("RGB", (8, 8), (i, 0, 0))), f"number {i}"]) for i in range(8)]
    data = Data(sources={"a": pictures}, rows=2, length=64, window=4, policy="alone")
    settings = {"steps": 2, "lr": 1e-3, "schedule": Schedule()}
    stages = (
        align_stage(data, tasks=(Task(),), **settings),
        replace(instruct_stage(data, LoRAConfig(rank=2, dropout=0.0), **settings), tasks=(Task(),)),
        replace(align_stage(data, **settings), name="more"),
    )
    stages = tuple(replace(stage, precision="fp32") for stage in stages)
    return Recipe(name="three", build=functools.partial(build, "tiny"), stages=stages)
"""


def trained(folder: Path, ranks: int, *options: str) -> Path:
    """The run of the recipe on so many ranks."""
    out = folder / f"run{ranks}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launch, "-m", "plait.cli", "train", f"{folder / 'three.py'}:recipe", "--out", str(out)]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def column(run: Path, name: str) -> list[Any]:
    return [json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_go_through_the_stages_of_one(tmp_path: Path) -> None:
    (tmp_path / "three.py").write_text(RECIPE)
    one, two = (trained(tmp_path, ranks) for ranks in (1, 2))
    assert column(two, "stage") == column(one, "stage") == ["align"] * 2 + ["instruct"] * 2 + ["more"] * 2
    assert column(two, "loss") == pytest.approx(column(one, "loss"), abs=1e-5)
    assert column(two, "grad_norm") == pytest.approx(column(one, "grad_norm"), rel=1e-3)
    scores = {"align": {"task": {"adapters": False}}, "instruct": {"task": {"adapters": True}}}
    for run in (one, two):
        assert json.loads((run / "scores.json").read_text()) == scores
        assert isinstance(load(run).get_submodule("language.decoder.blocks.0.attention.qkv"), LoRA)
