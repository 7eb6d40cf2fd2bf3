from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

from plait.errors import ConfigError
from plait.train.optim import STACKED, Muon, assign, build, named_parameters, orthogonal
from plait.train.stage import Optimiser

NAMES = ["decoder.0.weight", "decoder.0.bias", "decoder.1.weight", "embed.weight"]


def optimiser(*train: str) -> Optimiser:
    return Optimiser(train=train, lr=0.1)


def parameters(*shapes: tuple[int, ...]) -> dict[str, nn.Parameter]:
    return {f"{i}.weight": nn.Parameter(torch.ones(shape)) for i, shape in enumerate(shapes)}


def test_the_first_match_takes_a_name() -> None:
    found = assign((optimiser("decoder.*.bias"), optimiser("decoder.*"), optimiser("*")), NAMES)
    assert found == [["decoder.0.bias"], ["decoder.0.weight", "decoder.1.weight"], ["embed.weight"]]


def test_names_without_a_match_belong_to_nobody() -> None:
    assert assign((optimiser("embed.*"),), NAMES) == [["embed.weight"]]
    assert assign((), NAMES) == []


def test_patterns_of_one_optimiser_may_overlap() -> None:
    assert assign((optimiser("decoder.*", "*.weight"),), NAMES) == [NAMES]
    assert assign((optimiser("decoder.*", "decoder.0.*"),), NAMES) == [NAMES[:3]]


def test_case_matters() -> None:
    with pytest.raises(ConfigError, match="matches 0 of 4"):
        assign((optimiser("Embed.*"),), NAMES)


@pytest.mark.parametrize(
    ("optimisers", "message"),
    [
        ([("encoder.*",)], r"pattern 'encoder\.\*' matches 0 of 4 parameters"),
        ([("decoder.*", "encoder.*")], r"pattern 'encoder\.\*' matches 0 of 4 parameters"),
        ([("decoder.*",), ("decoder.1.*",)], r"pattern 'decoder\.1\.\*' matches 1 of 4 parameters, none still free"),
        ([("decoder.*",), ("embed.*", "*.bias")], r"pattern '\*\.bias' matches 1 of 4 parameters, none still free"),
    ],
)
def test_a_pattern_without_effect_is_refused(optimisers: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign(tuple(optimiser(*train) for train in optimisers), NAMES)


def test_companions_stand_behind_their_name() -> None:
    system = nn.Sequential(nn.Linear(2, 2))
    named = named_parameters(system, {"teacher": nn.Linear(2, 3), "upkeep": nn.Identity()})
    assert list(named) == ["0.weight", "0.bias", "teacher:weight", "teacher:bias"]
    assert named["0.bias"] is system[0].bias
    assert assign((optimiser("teacher:*"), optimiser("0.*")), list(named)) == [list(named)[2:], list(named)[:2]]


def test_adamw_takes_its_settings() -> None:
    config = Optimiser(train=("*",), lr=0.2, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.3)
    made = build(config, parameters((2, 2), (3,)))
    (group,) = made.param_groups
    assert isinstance(made, torch.optim.AdamW)
    found = [group[name] for name in ("lr", "betas", "eps", "weight_decay", "peak_lr")]
    assert found == [0.2, (0.8, 0.9), 1e-5, 0.3, 0.2]


def test_muon_takes_its_settings() -> None:
    config = Optimiser(train=("*",), kind="muon", lr=0.2, betas=(0.8, 0.9), weight_decay=0.3)
    made = build(config, parameters((2, 2), (3, 2)))
    (group,) = made.param_groups
    assert isinstance(made, Muon)
    assert [group[name] for name in ("lr", "momentum", "weight_decay", "peak_lr")] == [0.2, 0.8, 0.3, 0.2]


def test_muon_refuses_what_is_no_matrix() -> None:
    config = Optimiser(train=("*",), kind="muon", lr=0.2)
    with pytest.raises(ConfigError, match=r"Muon over 2 of 3 that are no matrices, as \(3,\): use adamw"):
        build(config, parameters((2, 2), (3,), (2, 2, 1, 1)))


def test_muon_steps_as_pytorch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 16), (16, 16), (48, 16), (16, 40)]
    ours = {f"{i}.weight": nn.Parameter(torch.randn(shape, generator=generator)) for i, shape in enumerate(shapes)}
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours.values()]
    before = [parameter.detach().clone() for parameter in theirs]
    muon = Muon(ours, lr=0.1, momentum=0.9, weight_decay=0.01)
    published = torch.optim.Muon(theirs, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        for mine, other in zip(ours.values(), theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        muon.step()
        published.step()
    for mine, other, start in zip(ours.values(), theirs, before, strict=True):
        assert (mine - other).norm() < 0.02 * (other - start).norm()  # iterations in bf16


@pytest.mark.parametrize("name", ["decoder.0.attention.qkv.weight", "decoder.0.mlp.gate_hidden.weight"])
def test_muon_takes_the_matrices_of_a_stack_one_by_one(name: str) -> None:
    count = STACKED[name.split(".")[-2]]
    parts = torch.randn(count, 16, 16, generator=torch.Generator().manual_seed(0))
    parts[0] *= 1000
    stack = nn.Parameter(torch.zeros(count * 16, 16))
    stack.grad = parts.flatten(0, 1)
    Muon({name: stack}, lr=1.0).step()
    lengths = stack.detach().view(count, 16, 16).norm(dim=(1, 2))
    assert (lengths / 4).allclose(torch.ones(count), atol=0.2)  # sqrt(16) for an orthogonal matrix


def test_a_matrix_without_a_gradient_stays() -> None:
    ours = {"0.weight": nn.Parameter(torch.ones(2, 2)), "1.weight": nn.Parameter(torch.ones(2, 2))}
    ours["1.weight"].grad = torch.eye(2)
    Muon(ours, lr=0.1, weight_decay=0.1).step()
    assert (ours["0.weight"] == 1).all() and (ours["1.weight"] < 1).all()


@pytest.mark.parametrize("shape", [(3, 24, 8), (3, 8, 24), (1, 8, 8)])
def test_orthogonal_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    made = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    assert made.shape == shape
    values = torch.linalg.svdvals(made.float())
    assert values.min() > 0.5 and values.max() < 1.4


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(2, 4, 8)).any()


def test_adam_of_transformers_is_that_of_pytorch_where_eps_and_decay_are_nothing() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4), torch.randn(5, 3, 4)

    def stepped(kind: Literal["adamw", "adamw_hf"], eps: float, decay: float) -> torch.Tensor:
        weight = nn.Parameter(start.clone())
        adam = build(Optimiser(train=("*",), kind=kind, lr=0.1, eps=eps, weight_decay=decay), {"w": weight})
        for gradient in gradients:
            weight.grad = gradient.clone()
            adam.step()
        return weight.detach()

    torch.testing.assert_close(stepped("adamw_hf", 1e-12, 0.0), stepped("adamw", 1e-12, 0.0))
    assert (stepped("adamw_hf", 1.0, 0.0) - stepped("adamw", 1.0, 0.0)).abs().max() > 1e-3
    first = nn.Parameter(start.clone())
    adam = build(Optimiser(train=("*",), kind="adamw_hf", lr=0.1, eps=0.5, weight_decay=0.2), {"w": first})
    first.grad = gradients[0].clone()
    adam.step()
    corrected = gradients[0].abs() + 0.5 / math.sqrt(1 - 0.95)  # the first step: m / c1 and v / c2 are the gradient's
    torch.testing.assert_close(first.detach(), (start - 0.1 * gradients[0] / corrected) * (1 - 0.1 * 0.2))


def test_fairseq_adds_eps_before_the_correction() -> None:
    gradients, eps, lr = torch.tensor([[1e-3, 2.0], [3e-3, -1.0], [0.0, 1.0]]), 1e-2, 0.1
    parameter = nn.Parameter(torch.tensor([1.0, 1.0]))
    made = build(Optimiser(train=("*",), kind="adamw_fairseq", lr=lr, eps=eps, weight_decay=0.1), {"a": parameter})
    b1, b2 = made.param_groups[0]["betas"]
    wanted, m, v = torch.ones(2), torch.zeros(2), torch.zeros(2)
    for t, gradient in enumerate(gradients, 1):
        parameter.grad = gradient.clone()
        made.step()
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        wanted = wanted * (1 - lr * 0.1) - lr * (1 - b2**t) ** 0.5 / (1 - b1**t) * m / (v.sqrt() + eps)
        torch.testing.assert_close(parameter.detach(), wanted)
    assert made.param_groups[0]["eps"] == eps
