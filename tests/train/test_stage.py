from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.config import from_plain, override, to_plain
from plait.data.packs import Data
from plait.document import Document
from plait.errors import ConfigError
from plait.objectives.tokens import NextToken
from plait.train.stage import EpochSchedule, Optimiser, Schedule, Stage, StepSchedule, Update

STAGE = Stage(
    name="stage",
    data=Data(sources={"texts": [Document("a")]}, rows=1, length=8),
    updates=(Update(objective=NextToken(), optimisers=(Optimiser(train=("*",), lr=1.0),)),),
    steps=10,
)


def factors(schedule: Schedule | EpochSchedule, steps: int) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps + 1)]


def test_a_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(warmup=4, decay=0.5, final=0.2)
    rise, plateau, fall = [0.25, 0.5, 0.75, 1.0], [1.0] * 5, [0.8, 0.6, 0.4, 0.2]
    assert factors(schedule, 12) == pytest.approx(rise + plateau + fall)


def test_a_warm_up_may_begin_at_nothing_and_nothing_follows_the_end() -> None:
    schedule = Schedule(warmup=4, first=0)
    assert [schedule.factor(step, 8) for step in (0, 1, 3, 4, 6, 8, 9)] == [0, 0.25, 0.75, 1, 0.5, 0, 0]


def test_a_rate_may_fall_at_once_or_never() -> None:
    assert factors(Schedule(), 4) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert factors(Schedule(decay=0.0, warmup=2), 4) == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_cosine_falls_slowly_at_both_ends() -> None:
    found = factors(Schedule(shape="cosine", final=0.1), 4)
    shape = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    assert found == pytest.approx([0.1 + 0.9 * height for height in shape])
    assert found[2] == pytest.approx(0.55)


def test_a_warm_up_may_be_longer_than_the_stage() -> None:
    assert factors(Schedule(warmup=30), 2) == pytest.approx([1 / 30, 2 / 30, 3 / 30])


def test_a_warm_up_may_begin_anew_with_each_epoch() -> None:
    schedule = EpochSchedule(epoch=2, warmup=5, start=0.5, final=0.1)
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert factors(schedule, 8) == pytest.approx([0.5, 0.6, 0.5, 0.6, 0.5, *cosine[5:]])


def test_a_cosine_may_fall_with_each_epoch() -> None:
    schedule = EpochSchedule(epoch=3, warmup=2, start=0.5, final=0.1, stepped=True)
    second = 0.1 + 0.9 * (1 + math.cos(math.pi * 3 / 6)) / 2
    assert factors(schedule, 6) == pytest.approx([0.5, 0.75, 1.0, second, second, second, 0.1])


def test_a_rate_may_fall_at_certain_steps() -> None:
    schedule = StepSchedule(warmup=2, falls={4: 0.5, 6: 0.1})
    assert [schedule.factor(step, 100) for step in range(8)] == pytest.approx([0.5, 1, 1, 1, 0.5, 0.5, 0.1, 0.1])
    assert StepSchedule().factor(50, 10) == 1


def test_a_cosine_over_epochs_needs_no_warm_up() -> None:
    assert factors(EpochSchedule(epoch=2), 4) == pytest.approx(factors(Schedule(shape="cosine"), 4))
    with pytest.raises(ConfigError, match="an epoch of 0 steps: it must have at least 1"):
        EpochSchedule(epoch=0)


@pytest.mark.parametrize("schedule", [Schedule(warmup=3), EpochSchedule(epoch=5, warmup=3)])
def test_a_schedule_is_data(schedule: Schedule | EpochSchedule) -> None:
    plain = to_plain(replace(STAGE, schedule=schedule))["schedule"]
    assert from_plain(Schedule | EpochSchedule, plain) == schedule
    assert override(replace(STAGE, schedule=schedule), ["schedule.warmup=7"]).schedule.warmup == 7


@given(
    warmup=st.integers(0, 20),
    steps=st.integers(1, 40),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
    shape=st.sampled_from(["linear", "cosine"]),
)
def test_a_factor_lies_between_the_end_and_one(warmup: int, steps: int, decay: float, final: float, shape: Any) -> None:
    schedule = Schedule(warmup=warmup, decay=decay, shape=shape, final=final)
    found = factors(schedule, steps)
    later = found[warmup:]
    assert all(0 <= factor <= 1 for factor in found)
    assert all(factor >= final - 1e-12 for factor in later)
    assert later == sorted(later, reverse=True)
    if decay and steps > warmup:
        assert later[-1] == pytest.approx(final)


@pytest.mark.parametrize("name", ["steps", "accumulate", "save_every", "probe_every"])
def test_a_stage_without_steps_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"steps, accumulate, save_every, probe_every = \(.*\b0\b.*at least 1"):
        replace(STAGE, **{name: 0})


@pytest.mark.parametrize("periods", [[], [2], [2, 1], [1, 0]])
def test_the_first_update_is_one_of_every_step(periods: list[int]) -> None:
    updates = tuple(replace(STAGE.updates[0], period=period) for period in periods)
    with pytest.raises(ConfigError, match=rf"{len(periods)} updates with the periods .* first has period 1"):
        replace(STAGE, updates=updates)
