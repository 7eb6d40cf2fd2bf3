from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.errors import ConfigError
from plait.train.optim import assign, build, named_parameters
from plait.train.stage import Optimiser

NAMES = ["decoder.0.weight", "decoder.0.bias", "decoder.1.weight", "embed.weight"]


def optimiser(*train: str) -> Optimiser:
    return Optimiser(train=train, lr=0.1)


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in shapes]


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
    assert isinstance(made, torch.optim.Muon)
    assert [group[name] for name in ("lr", "momentum", "weight_decay", "peak_lr")] == [0.2, 0.8, 0.3, 0.2]


def test_muon_refuses_what_is_no_matrix() -> None:
    config = Optimiser(train=("*",), kind="muon", lr=0.2)
    with pytest.raises(ConfigError, match=r"Muon over 2 of 3 that are no matrices, as \(3,\): use adamw"):
        build(config, parameters((2, 2), (3,), (2, 2, 1, 1)))
