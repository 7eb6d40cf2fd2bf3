from __future__ import annotations

import json
import os
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.errors import InputError
from plait.evaluate.metrics.frechet import Moments, frechet_distance

GOLDENS = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[4] / "shared")) / "goldens/metrics/fid"


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Correlated features with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixed + 2


def test_one_feature_by_hand() -> None:
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])  # means 1 and 6, variances 2 and 8
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(25 + (8**0.5 - 2**0.5) ** 2)


def test_a_set_is_at_no_distance_from_itself_and_a_shift_is_its_square() -> None:
    a = rows(50, 6)
    assert frechet_distance(Moments.of(a), Moments.of(a)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(Moments.of(a), Moments.of(a + 3)) == pytest.approx(6 * 9)


def test_either_way_and_in_any_order() -> None:
    a, b = rows(40, 5, seed=1), rows(30, 5, seed=2)
    distance = frechet_distance(Moments.of(a), Moments.of(b))
    assert frechet_distance(Moments.of(b), Moments.of(a)) == pytest.approx(distance)
    assert frechet_distance(Moments.of(a.flip(0)), Moments.of(b)) == pytest.approx(distance)


@pytest.mark.parametrize(("n", "m"), [(6, 9), (6, 60), (2, 2), (60, 25)])
def test_fewer_rows_than_features(n: int, m: int) -> None:
    a, b = rows(n, 24, seed=3), rows(m, 24, seed=4)
    x, y = ((one - one.mean(0)) / (len(one) - 1) ** 0.5 for one in (a, b))  # covariances xᵀx and yᵀy
    nuclear = torch.linalg.matrix_norm(x @ y.T, "nuc")  # = tr (xᵀx yᵀy)^½
    wanted = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * nuclear
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(float(wanted), rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 59), unique=True, max_size=6), offset=st.sampled_from([0.0, 1e6]))
def test_moments_add_up(cuts: list[int], offset: float) -> None:
    features = rows(60, 4) + offset
    whole = Moments.of(features)
    parts = [Moments.of(part) for part in features.tensor_split(sorted(cuts))]
    for order in (parts, parts[::-1]):
        total = reduce(add, order)
        assert total.count == 60
        torch.testing.assert_close(total.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(total.covariance, whole.covariance, rtol=1e-6 if offset else 1e-11, atol=1e-9)
    wanted = torch.from_numpy(np.cov(rows(60, 4).numpy().T))
    torch.testing.assert_close(whole.covariance, wanted, rtol=1e-6 if offset else 1e-11, atol=1e-9)


def test_half_precision_is_summed_in_double() -> None:
    features = (rows(5000, 2) + 50).bfloat16()
    moments = reduce(add, (Moments.of(part) for part in features.split(100)))
    assert moments.mean.dtype == torch.float64
    torch.testing.assert_close(moments.mean, features.double().mean(0))


def test_what_cannot_be_compared() -> None:
    one = Moments.of(rows(1, 3))
    with pytest.raises(InputError, match="covariance of 1 row of features: give at least 2"):
        frechet_distance(one, Moments.of(rows(5, 3)))
    with pytest.raises(InputError, match="3 features a row, 4 in the other set"):
        frechet_distance(Moments.of(rows(5, 3)), Moments.of(rows(5, 4)))
    with pytest.raises(InputError, match="3 features a row, 4 in the other set"):
        one + Moments.of(rows(5, 4))
    with pytest.raises(InputError, match="2 of 5 rows of features hold NaN or infinity"):
        Moments.of(rows(5, 3).index_fill(0, torch.tensor([1, 4]), torch.nan))
    with pytest.raises(InputError, match=r"features of shape \(0, 3\)"):
        Moments.of(rows(0, 3))


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="the goldens of distances are not here")
def test_golden() -> None:
    wanted = json.loads((GOLDENS / "expected.json").read_text())
    with np.load(GOLDENS / "features.npz") as file:
        a, b = (Moments.of(torch.from_numpy(file[name])) for name in "ab")
    assert len(wanted) == 2
    for value in wanted.values():
        assert frechet_distance(a, b) == pytest.approx(value, rel=1e-11)
