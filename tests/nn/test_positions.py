from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.errors import InputError
from plait.nn.positions import LearnedPositions, NoRotation, RelativeBias, Rotary, SinusoidalPositions, XPos


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned(rotation: torch.nn.Module, q: Tensor, k: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    queries, keys = rotation(torch.stack((q, k), 2), position).unbind(2)
    return queries, keys


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
    for got, x in zip(turned(Rotary(8, base, adjacent), q, k, position), (q, k), strict=True):
        torch.testing.assert_close(got, by_complex_numbers(x, position, base, adjacent), atol=5e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(a=st.integers(0, 500), b=st.integers(0, 500), shift=st.integers(0, 500), adjacent=st.booleans())
def test_only_the_distance_counts(a: int, b: int, shift: int, adjacent: bool) -> None:
    rotary = Rotary(16, adjacent=adjacent)
    q, k = normal(1, 1, 2, 16), normal(1, 1, 2, 16, seed=1)

    def product(at: int, other: int) -> Tensor:
        query, key = turned(rotary, q, q, torch.tensor([[at]]))[0], turned(rotary, k, k, torch.tensor([[other]]))[1]
        return (query * key).sum(-1)

    torch.testing.assert_close(product(a, b), product(a + shift, b + shift), atol=2e-3, rtol=1e-3)


def test_position_0_and_no_rotation_leave_all_as_it_is() -> None:
    q, k, nothing = normal(1, 2, 3, 4), normal(1, 2, 3, 4, seed=1), torch.zeros(1, 2, dtype=torch.long)
    for rotation, position in ((Rotary(4), nothing), (NoRotation(), nothing + 5)):
        queries, keys = turned(rotation, q, k, position)
        assert torch.equal(queries, q) and torch.equal(keys, k)


def test_angles_survive_a_lower_precision_and_the_meta_device() -> None:
    # Rounded to bf16, a frequency of 0.8 would be off by some radians at position 4000.
    position, x = torch.tensor([[4000]]), normal(1, 1, 1, 64)
    expected = by_complex_numbers(x, position, 10_000.0, False)
    with torch.device("meta"):
        built = Rotary(64)
    for rotary in (Rotary(64).to(torch.bfloat16), built.to_empty(device="cpu")):
        assert not rotary.state_dict()
        torch.testing.assert_close(turned(rotary, x, x, position)[0], expected, atol=2e-3, rtol=1e-3)


def test_constants_survive_a_lower_precision_and_the_meta_device() -> None:
    def build() -> list[torch.nn.Module]:
        return [XPos(8, 2048), SinusoidalPositions(8), RelativeBias(8, 2, longest=40)]

    position, q = torch.tensor([[0, 13, 2000]]), normal(1, 3, 1, 8)
    given = [(torch.stack((q, q), 2), position), (position,), (position,)]
    with torch.device("meta"):
        empty = [module.to_empty(device="cpu") for module in build()]
    for fresh, cast, filled, inputs in zip(build(), build(), empty, given, strict=True):
        filled.load_state_dict(fresh.state_dict())
        cast.to(torch.bfloat16).float().load_state_dict(fresh.state_dict())
        for module in (cast, filled):
            torch.testing.assert_close(module(*inputs), fresh(*inputs), atol=0, rtol=0)


def test_turned_vectors_keep_their_type() -> None:
    q = normal(1, 3, 1, 8).bfloat16()
    for rotation in (Rotary(8), XPos(8, 100)):
        assert {x.dtype for x in turned(rotation, q, q, torch.arange(3)[None])} == {torch.bfloat16}


# --------------------------------------------------------------------------------------------------- xPos


def xpos_score(q: Tensor, k: Tensor, p: int, r: int, scale_base: float = 512) -> float:
    """The score of a query (d,) at p and a key at r, pair by pair in double precision."""
    d, total = len(q), 0.0
    for i in range(d // 2):
        zeta = (2 * i + 0.4 * d) / (1.4 * d)
        angle = (p - r) * 10_000 ** (-2 * i / d)
        a, b, c, e = (float(x) for x in (q[2 * i], q[2 * i + 1], k[2 * i], k[2 * i + 1]))
        product = complex(a, b) * complex(c, -e) * complex(math.cos(angle), math.sin(angle))
        total += zeta ** ((p - r) / scale_base) * product.real
    return total


def xpos_scores(rotation: XPos, q: Tensor, k: Tensor, position: list[int]) -> Tensor:
    """[query, key] of one head: (t, d) each."""
    queries, keys = turned(rotation, q[None, :, None], k[None, :, None], torch.tensor([position]))
    return queries[0, :, 0] @ keys[0, :, 0].T


@pytest.mark.parametrize("length", [4, 901, 2048])
def test_xpos_turns_and_fades_with_the_distance(length: int) -> None:
    position = [0, 1, 3, 700, 900]
    q, k = normal(5, 8), normal(5, 8, seed=1)
    expected = [[xpos_score(q[i], k[j], p, r) for j, r in enumerate(position)] for i, p in enumerate(position)]
    got = xpos_scores(XPos(8, length), q, k, position)
    torch.testing.assert_close(got, torch.tensor(expected), atol=2e-3, rtol=1e-4)
    assert abs(got[0, 4]) > abs(got[4, 0])  # towards later keys it grows


@settings(max_examples=40, deadline=None)
@given(a=st.integers(0, 500), b=st.integers(0, 500), shift=st.integers(0, 1500))
def test_xpos_does_not_know_where_it_begins(a: int, b: int, shift: int) -> None:
    rotation, q, k = XPos(16, 2000), normal(2, 16), normal(2, 16, seed=1)
    here, there = (xpos_scores(rotation, q, k, [a + at, b + at]) for at in (0, shift))
    torch.testing.assert_close(here, there, atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_xpos_stays_finite_to_the_end_of_its_length(dtype: torch.dtype) -> None:
    longest = 48 * 512
    position = [0, 1, longest // 2, longest - 2, longest - 1]
    q, k = (normal(5, 64, seed=seed).to(dtype) * 30 for seed in (0, 1))
    scores = xpos_scores(XPos(64, longest), q, k, position)
    assert scores.isfinite().all()
    # Where the queries' factors are largest, neighbours score as where those of the keys are.
    at_ends = xpos_scores(XPos(64, longest), q[:2].repeat(2, 1), k[:2].repeat(2, 1), [0, 1, longest - 2, longest - 1])
    torch.testing.assert_close(
        at_ends[:2, :2], at_ends[2:, 2:], rtol=3e-2, atol=2e-2 * float(at_ends[:2, :2].abs().max())
    )


def test_the_factors_of_xpos_grow_alike_to_both_ends() -> None:
    one, position = torch.ones(1, 2048, 1, 8), torch.arange(2048)[None]
    both = turned(XPos(8, 2048), one, one, position)
    pairs = [x.unflatten(-1, (4, 2)).norm(dim=-1).amax((0, 2, 3)) / 2**0.5 for x in both]
    for largest in pairs:  # (2048,), over the pairs
        assert float(largest.max()) == pytest.approx(12.25, rel=0.01)  # 3.5^2


def test_a_length_that_xpos_cannot_span_is_refused() -> None:
    with pytest.raises(
        InputError, match="xPos over 24577 positions overflows, at most 24576 fit: shorten the sequences"
    ):
        XPos(8, 24577)
    with pytest.raises(InputError, match="over 481 positions overflows, at most 480 fit"):
        XPos(8, 481, scale_base=10.0)


# --------------------------------------------------------------------------------------------- embeddings


def test_learned_positions_begin_behind_their_offset() -> None:
    table = LearnedPositions(5, 3, offset=2)
    assert table.length == 5 and table.weight.shape == (7, 3)
    assert torch.equal(table(torch.tensor([[0, 4], [2, 2]])), table.weight[torch.tensor([[2, 6], [4, 4]])])
    assert LearnedPositions(5, 3).weight.shape == (5, 3)


@pytest.mark.parametrize("offset", [2, 0])
def test_sinusoids_are_fairseqs(offset: int) -> None:
    position = torch.tensor([[0, 1, 2, 40], [5, 0, -1, -1]])
    got = SinusoidalPositions(6, offset)(position)
    for row in range(2):
        for column in range(4):
            p = int(position[row, column])
            angles = [(p + offset) * math.exp(-i * math.log(10_000) / 2) for i in range(3)]
            vector = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] if p >= 0 else [0.0] * 6
            torch.testing.assert_close(got[row, column], torch.tensor(vector), atol=1e-5, rtol=1e-5)
    assert not SinusoidalPositions(6).state_dict()


@pytest.mark.parametrize("width", [2, 7])
def test_widths_without_sinusoids_are_refused(width: int) -> None:
    with pytest.raises(InputError, match=f"sinusoidal positions of width {width}, an even number from 4 on"):
        SinusoidalPositions(width)


# --------------------------------------------------------------------------------------------------- bias


def bucket(distance: int, count: int, longest: int, bidirectional: bool) -> int:
    """T5's bucket in whole numbers: bucket exact + j begins at exact * (longest / exact)^(j / steps)."""
    if bidirectional:
        return bucket(abs(distance), count // 2, longest, False) + (count // 2 if distance < 0 else 0)
    n, exact = max(distance, 0), count // 2
    steps = count - exact
    if n < exact:
        return n
    return exact + max(j for j in range(steps) if longest**j * exact ** (steps - j) <= n**steps)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("count", "longest"), [(32, 128), (8, 16), (20, 50), (4, 1000)])
def test_distances_fall_into_t5s_buckets(count: int, longest: int, bidirectional: bool) -> None:
    bias = RelativeBias(count, 3, longest, bidirectional)
    distance = torch.arange(-2 * longest, 2 * longest)
    expected = [bucket(n, count, longest, bidirectional) for n in distance.tolist()]
    no_key = {count // 2} if bidirectional else set()  # distance 0 after the query
    assert set(expected) == set(range(count)) - no_key
    assert torch.equal(bias(distance), bias.weight[expected])
    assert bias(distance.view(4, -1)).shape == (4, longest, 3)


def test_buckets_that_cannot_be_are_refused() -> None:
    for buckets, bidirectional, sides in [(1, False, 1), (2, True, 2), (7, True, 2)]:
        with pytest.raises(InputError, match=f"{buckets} buckets on {sides} sides: give each"):
            RelativeBias(buckets, 1, bidirectional=bidirectional)
    with pytest.raises(InputError, match="16 exact distances of at most 16: give fewer buckets"):
        RelativeBias(32, 1, longest=16)
    RelativeBias(32, 1, longest=16, bidirectional=True)
