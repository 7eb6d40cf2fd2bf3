"""Optimisers from patterns of names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.optim import Optimizer

from plait.errors import ConfigError
from plait.train.stage import Optimiser


def named_parameters(system: nn.Module, companions: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The system's parameters by name, and each companion's behind `<companion>:`."""
    named = dict(system.named_parameters())
    for name, module in companions.items():
        named |= {f"{name}:{key}": value for key, value in module.named_parameters()}
    return named


def assign(optimisers: tuple[Optimiser, ...], names: list[str]) -> list[list[str]]:
    """The names that each optimiser moves; the first whose pattern matches takes a name.

    Raises:
        ConfigError: a pattern matches nothing, or only what earlier ones took.
    """
    free, out = list(names), []
    for optimiser in optimisers:
        mine = [name for name in free if any(fnmatchcase(name, pattern) for pattern in optimiser.train)]
        for pattern in optimiser.train:
            if not any(fnmatchcase(name, pattern) for name in mine):
                taken = sum(fnmatchcase(name, pattern) for name in names)
                raise ConfigError(f"pattern {pattern!r} matches {taken} of {len(names)} parameters, none still free")
        free = [name for name in free if name not in mine]
        out.append(mine)
    return out


def build(optimiser: Optimiser, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimiser over its parameters; each group remembers its peak rate as `peak_lr`.

    Raises:
        ConfigError: Muon over what is no matrix.
    """
    made: Optimizer
    if optimiser.kind == "muon":
        odd = [tuple(parameter.shape) for parameter in parameters if parameter.ndim != 2]
        if odd:
            raise ConfigError(f"Muon over {len(odd)} of {len(parameters)} that are no matrices, as {odd[0]}: use adamw")
        made = torch.optim.Muon(
            parameters, lr=optimiser.lr, momentum=optimiser.betas[0], weight_decay=optimiser.weight_decay, eps=1e-7
        )
    else:
        made = torch.optim.AdamW(
            parameters, lr=optimiser.lr, betas=optimiser.betas, eps=optimiser.eps, weight_decay=optimiser.weight_decay
        )
    for group in made.param_groups:
        group["peak_lr"] = optimiser.lr
    return made
