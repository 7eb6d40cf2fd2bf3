"""Two processes that share a system give the losses of one."""

from __future__ import annotations

import pytest
from losses import launch

STEPS = 20


def compare(optimiser: str, tolerance: float) -> None:
    one, two = (launch(ranks, STEPS, optimiser) for ranks in (1, 2))
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
    one, two = (launch(ranks, STEPS, "tokenizer")["loss"] for ranks in (1, 2))
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    assert two[-1] == pytest.approx(one[-1], rel=0.3) and two[-1] < two[0] / 2
