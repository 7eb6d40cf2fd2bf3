"""The streams: pinned, apart from each other, even."""

from __future__ import annotations

from collections import Counter

import pytest

from plait.data.shapes.chance import Chance


def test_streams_are_pinned_and_apart():
    heads = [Chance(*key).unit() for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (2**70, 0, 0))]
    assert len(set(heads[:5])) == 5
    assert heads[5] == heads[0]  # seeds count modulo 2**64
    assert Chance(5, 6, 7).below(1000) == 918  # on every machine, or seen and unseen change


def test_draws_are_even():
    chance = Chance(1)
    assert min(Counter(chance.below(7) for _ in range(7000)).values()) > 880
    assert set(chance.sample("abcde", 5)) == set("abcde")
    assert all(2 <= chance.between(2, 3) < 3 for _ in range(100))
    picks = Counter(chance.weighted({"a": 3, "b": 0, "c": 1}) for _ in range(8000))
    assert picks["a"] / 8000 == pytest.approx(0.75, abs=0.02)
    assert picks["b"] == 0


def test_arrays():
    numbers = Chance(3).units(40, 50)
    assert numbers.shape == (40, 50)
    assert 0 <= numbers.min() < 0.01 and 0.99 < numbers.max() < 1
    assert (numbers == Chance(3).units(40, 50)).all()
    assert (numbers != Chance(4).units(40, 50)).any()
