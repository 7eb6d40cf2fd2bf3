from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.quantise import CodebookUpkeep
from plait.nn.vqgan import VQGAN, Discriminator, VQGANConfig
from plait.objectives.gather import all_gather_rows, all_sum
from plait.objectives.reconstruction import Adversary, Discriminate, Reconstruct, hinge, per_picture

TINY = VQGANConfig(
    resolution=16,
    channels=8,
    groups=2,
    multipliers=(1, 1),
    blocks=1,
    attention_resolutions=(),
    latent_channels=8,
    code_width=4,
    codes=16,
)


@dataclass
class System:
    image_tokenizer: VQGAN


@dataclass
class Batch:
    images: Tensor


class Distance(nn.Module):
    """A stand-in for a perceptual distance: (b, 1, 1, 1)."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).mean((1, 2, 3), keepdim=True).square()


def start(pictures: int = 4) -> tuple[System, Batch, torch.Generator]:
    torch.manual_seed(0)
    return System(VQGAN(TINY)), Batch(torch.rand(pictures, 3, 16, 16) * 2 - 1), torch.Generator().manual_seed(0)


def discriminator(age: int = 0) -> Discriminator:
    torch.manual_seed(1)
    model = Discriminator(channels=8, layers=1)
    model.age.fill_(age)
    return model


@pytest.mark.parametrize(("pixel", "error"), [("squared", torch.square), ("absolute", torch.abs)])
def test_terms_are_sums_of_means_of_pictures(pixel: Any, error: Callable[[Tensor], Tensor]) -> None:
    system, batch, generator = start()
    objective = Reconstruct(pixel=pixel)
    terms = objective(system, {}, batch, generator)
    made = system.image_tokenizer(batch.images)
    assert objective.counts(batch) == {"pixel": 4, "codebook": 4, "commitment": 4}
    torch.testing.assert_close(terms["pixel"] / 4, error(made.pixels - batch.images).mean())
    torch.testing.assert_close(terms["codebook"] / 4, made.quantised.codebook.mean())
    assert set(terms) == set(objective.weights())


def test_micro_batches_add_up_to_the_batch() -> None:
    system, batch, generator = start()
    objective = Reconstruct(perceptual=0.5)
    companions = {"perceptual": Distance()}
    whole = objective(system, companions, batch, generator)
    parts = [objective(system, companions, Batch(half), generator) for half in batch.images.split((1, 3))]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value)


def test_the_published_weights_are_the_default() -> None:
    assert Reconstruct().weights() == {"pixel": 1.0, "codebook": 0.25, "commitment": 1.0}
    assert Adversary() == Adversary(start=250_001, ratio=0.8)


@pytest.mark.parametrize("name", ["perceptual", "discriminator"])
def test_a_term_without_its_companion_is_refused(name: str) -> None:
    system, batch, generator = start()
    objective = Reconstruct(perceptual=1.0) if name == "perceptual" else Reconstruct(adversary=Adversary())
    with pytest.raises(ConfigError, match=f"no companion '{name}'"):
        objective(system, {}, batch, generator)


def test_the_adversary_joins_at_its_step() -> None:
    system, batch, generator = start()
    objective, companions = Reconstruct(adversary=Adversary(start=2)), {"discriminator": discriminator()}
    for step in range(2):
        assert objective(system, companions, batch, generator)["adversarial"] == 0
        assert Discriminate(adversary=Adversary(start=2))(system, companions, batch, generator)["hinge"] == 0
        objective.after_step(system, companions, step, generator)
    assert objective(system, companions, batch, generator)["adversarial"] != 0
    assert Discriminate(adversary=Adversary(start=2))(system, companions, batch, generator)["hinge"] > 0


def test_the_adversarial_gradient_is_a_share_of_the_reconstruction_s() -> None:
    system, batch, generator = start()
    companions = {"discriminator": discriminator(), "perceptual": Distance()}
    terms = Reconstruct(adversary=Adversary(start=0, ratio=0.3), perceptual=2.0)(system, companions, batch, generator)
    last = system.image_tokenizer.decoder.conv_out.weight
    nll = terms["pixel"] + 2 * terms["perceptual"]
    of_nll = torch.autograd.grad(nll, last, retain_graph=True)[0].norm() / 4
    of_adversary = torch.autograd.grad(terms["adversarial"], last, retain_graph=True)[0].norm() / 4
    # 1e-4 beside the discriminator's gradient makes it a little less.
    assert 0.9 * 0.3 * of_nll < of_adversary <= 0.3 * of_nll * 1.0001


def test_the_generator_s_step_leaves_no_gradient_in_the_discriminator_and_the_other_way() -> None:
    system, batch, generator = start()
    companions = {"discriminator": discriminator()}
    Reconstruct(adversary=Adversary(start=0))(system, companions, batch, generator)["adversarial"].backward()
    assert all(p.grad is None for p in companions["discriminator"].parameters())
    assert system.image_tokenizer.decoder.conv_out.weight.grad is not None
    system.image_tokenizer.zero_grad()
    Discriminate(adversary=Adversary(start=0))(system, companions, batch, generator)["hinge"].backward()
    assert all(p.grad is not None for p in companions["discriminator"].parameters())
    assert all(p.grad is None for p in system.image_tokenizer.parameters())


def test_hinge_is_zero_for_a_sure_and_right_discriminator() -> None:
    real, made = torch.full((2, 1, 3, 3), 1.5), torch.full((2, 1, 3, 3), -1.0)
    assert hinge(real, made).eq(0).all()
    assert hinge(made, real).tolist() == [2.25, 2.25]
    assert per_picture(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_it_learns_and_keeps_its_codes_in_use() -> None:
    system, batch, generator = start(pictures=8)
    companions = {"upkeep": CodebookUpkeep(TINY.codes, TINY.code_width)}
    objective = Reconstruct(pixel="squared", codebook=1.0, commitment=0.25)
    optimiser = torch.optim.Adam(system.image_tokenizer.parameters(), lr=3e-3)
    batch.images = torch.where(batch.images[:, :, :1, :1] > 0, 0.8, -0.8).expand(-1, -1, 16, 16)  # plain colours
    losses = []
    for step in range(60):
        terms = objective(system, companions, batch, generator)
        loss = sum((objective.weights()[n] * v / len(batch.images) for n, v in terms.items()), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_step(system, companions, step, generator)
        losses.append(float(terms["pixel"].detach()) / len(batch.images))
    assert losses[-1] < 0.5 * losses[0]
    assert len(system.image_tokenizer.encode(batch.images).unique()) > 3


def _one_rank(rank: int, ranks: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
    rows = torch.arange(4.0).view(2, 2)[: 2 - rank] + 10 * rank
    torch.save((all_sum(torch.tensor([1.0 + rank])), all_gather_rows(rows)), f"{folder}/gathered{rank}.pt")
    system, batch, generator = start()
    part = Batch(batch.images.split((1, 3))[rank])
    companions = {"discriminator": discriminator(), "upkeep": CodebookUpkeep(TINY.codes, TINY.code_width)}
    objective = Reconstruct(adversary=Adversary(start=0))
    terms = objective(system, companions, part, generator)
    objective.after_step(system, companions, 0, torch.Generator().manual_seed(1))
    table = system.image_tokenizer.quantiser.codebook.weight
    torch.save((terms["adversarial"].detach(), table.detach()), f"{folder}/objective{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    mp.spawn(_one_rank, args=(2, f"file://{tmp_path}/store", str(tmp_path)), nprocs=2)
    for rank in range(2):
        total, rows = torch.load(tmp_path / f"gathered{rank}.pt")
        assert total.item() == 3
        assert rows.tolist() == [[0, 1], [2, 3], [10, 11]]
    system, batch, generator = start()
    objective, companions = Reconstruct(adversary=Adversary(start=0)), {"discriminator": discriminator()}
    whole = objective(system, companions, batch, generator)["adversarial"]
    (first, table), (second, other) = (torch.load(tmp_path / f"objective{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first + second, whole.detach(), rtol=1e-4, atol=1e-6)
    assert torch.equal(table, other)
