from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.errors import ConfigError
from plait.nn.quantise import (
    CodebookUpkeep,
    GumbelQuantiser,
    MovingAverage,
    Observed,
    VectorQuantiser,
    alike,
    nearest_rows,
    spread,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 20), width=st.integers(1, 8), seed=st.integers(0, 999))
def test_the_nearest_row_is_the_nearest(n: int, k: int, width: int, seed: int) -> None:
    vectors, table = normal(n, width, seed=seed), normal(k, width, seed=seed + 1)
    exact = torch.cdist(vectors.double(), table.double())
    chosen = exact.gather(1, nearest_rows(vectors, table)[:, None])[:, 0]
    torch.testing.assert_close(chosen, exact.min(1).values, atol=1e-5, rtol=1e-5)


def test_ids_are_those_of_fp32_under_autocast() -> None:
    # bf16 cannot tell these two codes apart: 1 and 1.001.
    quantiser = VectorQuantiser(2, 1)
    quantiser.codebook.weight.data = torch.tensor([[1.0], [1.001]])
    z = torch.full((1, 1, 2, 2), 1.0008)
    with torch.autocast("cpu", torch.bfloat16):
        assert quantiser(z).ids.eq(1).all()
        assert quantiser.nearest(z).eq(1).all()


def test_quantised_vectors_are_codes_and_pass_the_gradient_through() -> None:
    quantiser, z = VectorQuantiser(16, 4), normal(2, 4, 3, 5).requires_grad_()
    out = quantiser(z)
    assert out.ids.shape == (2, 3, 5)
    torch.testing.assert_close(out.vectors, quantiser.lookup(out.ids).movedim(-1, 1))
    (gradient,) = torch.autograd.grad((out.vectors * 3).sum(), z)
    assert gradient.eq(3).all()


def test_each_loss_moves_one_side_only() -> None:
    quantiser, z = VectorQuantiser(8, 4), normal(2, 4, 3, 3).requires_grad_()
    out = quantiser(z)
    expected = (quantiser.lookup(out.ids).movedim(-1, 1) - z).square().mean((1, 2, 3))
    torch.testing.assert_close(out.codebook, expected)
    torch.testing.assert_close(out.commitment, expected)
    both = [quantiser.codebook.weight, z]
    of_codes, of_z = torch.autograd.grad(out.codebook.sum(), both, retain_graph=True, allow_unused=True)
    assert of_codes is not None
    assert of_z is None
    of_codes, of_z = torch.autograd.grad(out.commitment.sum(), both, allow_unused=True)
    assert of_codes is None
    assert of_z is not None


def test_the_table_starts_within_one_over_its_size() -> None:
    weight = VectorQuantiser(50, 20).codebook.weight
    assert weight.abs().max() <= 1 / 50
    assert weight.abs().max() > 0.9 / 50


def test_an_empty_codebook_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 codes"):
        VectorQuantiser(0, 4)


def test_spread_finds_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = (centres[:, None] + 0.1 * normal(3, 50, 2)).flatten(0, 1)
    places = spread(vectors, 12, seeded())
    assert torch.cdist(centres, places).min(1).values.max() < 0.2
    assert spread(vectors[:2], 5, seeded()).shape == (5, 2)


def run(upkeep: CodebookUpkeep, quantiser: VectorQuantiser, z: Tensor, step: int) -> None:
    upkeep.observe(quantiser(z), seeded(step))
    upkeep.update(quantiser.codebook.weight, upkeep.take(), step, seeded(step))


def test_the_first_step_places_codes_among_the_vectors() -> None:
    quantiser, upkeep = VectorQuantiser(8, 4), CodebookUpkeep(8, 4)
    z = 5 + normal(4, 4, 8, 8)
    before = quantiser(z).codebook.mean()
    run(upkeep, quantiser, z, step=0)
    after = quantiser(z)
    assert after.codebook.mean() < 0.05 * before
    assert len(after.ids.unique()) == 8


def test_codes_out_of_use_are_moved_and_others_stay() -> None:
    quantiser, upkeep = VectorQuantiser(4, 2), CodebookUpkeep(4, 2, period=5, decay=0.5)
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [99.0, 0.0], [0.0, 99.0]])
    quantiser.codebook.weight.data = table.clone()
    z = torch.rand(2, 2, 8, 8, generator=seeded())
    for step in range(1, 5):
        run(upkeep, quantiser, z, step)
        assert torch.equal(quantiser.codebook.weight.data, table)
    run(upkeep, quantiser, z, step=5)
    weight = quantiser.codebook.weight.data
    assert torch.equal(weight[:2], table[:2])
    assert weight[2:].max() <= 1
    assert (weight[2:, None] == z.movedim(1, -1).reshape(1, -1, 2)).all(2).any(1).all()


def test_upkeep_of_parts_joined_is_upkeep_of_the_whole() -> None:
    """Two micro-steps or two ranks give what one batch gives."""
    z = normal(4, 4, 8, 8)
    tables = []
    for parts in (z.split(4), z.split(2)):
        quantiser, upkeep = VectorQuantiser(8, 4), CodebookUpkeep(8, 4, average=MovingAverage(8, 4))
        quantiser.codebook.weight.data = normal(8, 4, seed=3)
        seen = []
        for part in parts:
            upkeep.observe(quantiser(part), seeded())
            seen.append(upkeep.take())
        joined = Observed(
            counts=sum((s.counts for s in seen), torch.zeros(8)),
            sums=sum((s.sums for s in seen), torch.zeros(8, 4)),
            pool=torch.cat([s.pool for s in seen]),
        )
        upkeep.update(quantiser.codebook.weight, joined, 1, seeded())
        tables.append(quantiser.codebook.weight.data)
    torch.testing.assert_close(tables[0], tables[1])


def test_codes_follow_the_mean_of_their_vectors() -> None:
    average, table = MovingAverage(3, 2, decay=0.5), torch.tensor([[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    counts, sums = torch.tensor([4.0, 2.0, 0.0]), torch.tensor([[4.0, 8.0], [12.0, 12.0], [0.0, 0.0]])
    for _ in range(30):
        average.update(table, counts, sums)
    torch.testing.assert_close(table, torch.tensor([[1.0, 2.0], [6.0, 6.0], [9.0, 9.0]]))


def test_a_placed_code_does_not_fall_back() -> None:
    average, table = MovingAverage(2, 2), torch.zeros(2, 2)
    average.update(table, torch.tensor([8.0, 8.0]), torch.ones(2, 2))
    table[1] = torch.tensor([3.0, 4.0])
    average.place(torch.tensor([1]), table[1:])
    average.update(table, torch.tensor([8.0, 0.0]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(table[1], torch.tensor([3.0, 4.0]))


def test_the_state_between_steps_is_all_in_the_state_dict() -> None:
    z = normal(4, 4, 8, 8)

    def start() -> tuple[VectorQuantiser, CodebookUpkeep]:
        torch.manual_seed(0)
        return VectorQuantiser(8, 4), CodebookUpkeep(8, 4, period=2, average=MovingAverage(8, 4))

    quantiser, upkeep = start()
    for step in range(3):
        run(upkeep, quantiser, z, step)
    again_quantiser, again = start()
    again_quantiser.load_state_dict(quantiser.state_dict())
    again.load_state_dict(upkeep.state_dict())
    for step in range(3, 6):
        run(upkeep, quantiser, z, step)
        run(again, again_quantiser, z, step)
    assert torch.equal(quantiser.codebook.weight, again_quantiser.codebook.weight)


def test_codes_by_logits() -> None:
    quantiser = GumbelQuantiser(8, 4)
    z = normal(2, 4, 3, 3).requires_grad_()
    made, again = quantiser(z), quantiser(z)
    assert torch.equal(made.ids, again.ids)  # no noise, though it trains
    assert torch.equal(
        made.ids, (z.movedim(1, -1) @ quantiser.logits.weight[:, :, 0, 0].T + quantiser.logits.bias).argmax(-1)
    )
    torch.testing.assert_close(made.vectors, quantiser.lookup(made.ids).movedim(-1, 1))
    assert made.codebook.shape == made.commitment.shape == (2,)
    made.vectors.square().sum().backward()
    assert z.grad is not None and bool(z.grad.abs().sum() > 0)


def test_features_of_codes_are_alike_where_codes_are() -> None:
    table = normal(64, 8)
    made = alike(table, 4096, torch.Generator().manual_seed(0), reach=0.5)
    assert made.shape == (64, 4096) and made.square().mean().item() == pytest.approx(1, abs=0.05)
    distance = torch.cdist(table, table)
    unit = 0.5 * distance[~torch.eye(64, dtype=torch.bool)].median()
    wanted = torch.exp(-0.5 * (distance / unit).square())
    torch.testing.assert_close(made @ made.T / 4096, wanted, atol=0.08, rtol=0)
