"""Two processes that share a system give the losses of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "losses.py"
STEPS = 20


def losses(ranks: int, variant: str) -> dict[str, list[float]]:
    words = [str(SCRIPT), str(STEPS), variant]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *words] if ranks == 1 else [*launcher, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(optimiser: str, tolerance: float) -> None:
    one, two = losses(1, optimiser), losses(2, optimiser)
    assert one["tokens"] == two["tokens"]
    assert len(one["loss"]) == STEPS
    assert one["loss"][-1] < one["loss"][0]
    assert two["loss"] == pytest.approx(one["loss"], rel=0, abs=tolerance)


@pytest.mark.timeout(300)
def test_two_ranks_give_the_losses_of_one() -> None:
    compare("adamw", 1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_under_muon() -> None:
    compare("muon", 1e-3)  # its iterations round to bf16: a last bit of a gradient can move an update by 1e-3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_train_a_tokenizer() -> None:
    """Each rank draws places for codes from its own pictures: the losses are like those of one, not the same."""
    one, two = losses(1, "tokenizer")["loss"], losses(2, "tokenizer")["loss"]
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    assert two[-1] == pytest.approx(one[-1], rel=0.3) and two[-1] < two[0] / 2
