from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.nn.positions import LearnedPositions, NoRotation, Rotary


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_complex_numbers(x: Tensor, position: Tensor, base: float, adjacent: bool) -> Tensor:
    """x[pair] * exp(i * position * base^(-2 pair / d)), in double precision."""
    d = x.shape[-1]
    pairs = [(2 * i, 2 * i + 1) if adjacent else (i, i + d // 2) for i in range(d // 2)]
    out = torch.zeros_like(x, dtype=torch.float64)
    for i, (a, b) in enumerate(pairs):
        turn = torch.polar(torch.ones_like(position, dtype=torch.float64), position.double() * base ** (-2 * i / d))
        turned = torch.complex(x[..., a].double(), x[..., b].double()) * turn[..., None]
        out[..., a], out[..., b] = turned.real, turned.imag
    return out.float()


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_rotary_turns_pairs_as_complex_numbers(adjacent: bool, base: float) -> None:
    q, k = normal(2, 5, 3, 8), normal(2, 5, 3, 8, seed=1)
    position = torch.tensor([[0, 1, 2, 3, 4], [7, 0, 300, 12, 2]])
    turned = Rotary(8, base, adjacent)(q, k, position)
    for got, x in zip(turned, (q, k), strict=True):
        torch.testing.assert_close(got, by_complex_numbers(x, position, base, adjacent), atol=5e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(a=st.integers(0, 500), b=st.integers(0, 500), shift=st.integers(0, 500), adjacent=st.booleans())
def test_only_the_distance_counts(a: int, b: int, shift: int, adjacent: bool) -> None:
    rotary = Rotary(16, adjacent=adjacent)
    q, k = normal(1, 1, 2, 16), normal(1, 1, 2, 16, seed=1)

    def product(at: int, other: int) -> Tensor:
        return (rotary(q, q, torch.tensor([[at]]))[0] * rotary(k, k, torch.tensor([[other]]))[1]).sum(-1)

    torch.testing.assert_close(product(a, b), product(a + shift, b + shift), atol=2e-3, rtol=1e-3)


def test_position_0_and_no_rotation_leave_all_as_it_is() -> None:
    q, k, nothing = normal(1, 2, 3, 4), normal(1, 2, 3, 4, seed=1), torch.zeros(1, 2, dtype=torch.long)
    for rotation, position in ((Rotary(4), nothing), (NoRotation(), nothing + 5)):
        turned = rotation(q, k, position)
        assert torch.equal(turned[0], q) and torch.equal(turned[1], k)


def test_angles_survive_a_lower_precision_and_the_meta_device() -> None:
    # Rounded to bf16, a frequency of 0.8 would be off by some radians at position 4000.
    position, x = torch.tensor([[4000]]), normal(1, 1, 1, 64)
    expected = by_complex_numbers(x, position, 10_000.0, False)
    with torch.device("meta"):
        built = Rotary(64)
    for rotary in (Rotary(64).to(torch.bfloat16), built.to_empty(device="cpu")):
        assert not rotary.state_dict()
        torch.testing.assert_close(rotary(x, x, position)[0], expected, atol=2e-3, rtol=1e-3)


def test_turned_vectors_keep_their_type() -> None:
    q = normal(1, 3, 1, 8).bfloat16()
    assert Rotary(8)(q, q, torch.arange(3)[None])[0].dtype == torch.bfloat16


def test_learned_positions_begin_behind_their_offset() -> None:
    table = LearnedPositions(5, 3, offset=2)
    assert table.length == 5 and table.weight.shape == (7, 3)
    assert torch.equal(table(torch.tensor([[0, 4], [2, 2]])), table.weight[torch.tensor([[2, 6], [4, 4]])])
    assert LearnedPositions(5, 3).weight.shape == (5, 3)
