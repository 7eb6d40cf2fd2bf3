"""Optimisers from patterns of names."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from plait.errors import ConfigError
from plait.train.parallel import like
from plait.train.stage import Optimiser

STACKED = {"qkv": 3, "kv": 2, "gate_hidden": 2}
"""Linear layers that are several in one, their matrices one above the other."""


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


def build(optimiser: Optimiser, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """The optimiser over its parameters, by name; each group remembers its peak rate as `peak_lr`.

    Raises:
        ConfigError: Muon over what is no matrix.
    """
    made: Optimizer
    if optimiser.kind == "muon":
        odd = [tuple(parameter.shape) for parameter in parameters.values() if parameter.ndim != 2]
        if odd:
            raise ConfigError(f"Muon over {len(odd)} of {len(parameters)} that are no matrices, as {odd[0]}: use adamw")
        made = Muon(parameters, lr=optimiser.lr, momentum=optimiser.betas[0], weight_decay=optimiser.weight_decay)
    else:
        settings: dict[str, Any] = {
            "lr": optimiser.lr,
            "betas": optimiser.betas,
            "eps": optimiser.eps,
            "weight_decay": optimiser.weight_decay,
        }
        if optimiser.kind == "adamw":
            made = torch.optim.AdamW(parameters.values(), **settings)
        else:
            made = UncorrectedAdamW(parameters.values(), decay_last=optimiser.kind == "adamw_hf", **settings)
    for group in made.param_groups:
        group["peak_lr"] = optimiser.lr
    return made


class UncorrectedAdamW(torch.optim.AdamW):
    """AdamW with eps added to the root of the second moment before that is corrected for its start.

    So do fairseq and transformers' own (`adamw_hf`, 4.30). PyTorch adds it behind the correction, so that the same eps
    says less in the first steps.

    Args:
        decay_last: weights decay behind the step, as in transformers' own, not before it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, decay_last: bool, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.decay_last = decay_last

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        given = [(group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            done = next((int(self.state[p]["step"]) for p in group["params"] if "step" in self.state[p]), 0)
            group["eps"] /= math.sqrt(1 - group["betas"][1] ** (done + 1))
            group["weight_decay"] *= not self.decay_last
        try:
            loss = super().step(closure)
        finally:
            for group, (eps, decay) in zip(self.param_groups, given, strict=True):
                group["eps"], group["weight_decay"] = eps, decay
        for group in self.param_groups if self.decay_last else []:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
        return loss


class Muon(Optimizer):
    """Nesterov's momentum, made orthogonal (K. Jordan, "Muon", 2024), of matrices.

    PyTorch's own takes queries, keys and values in one matrix for one: there the values, whose gradient is large at
    first, leave the queries and keys hardly any of the step. Here each matrix of a stack has its own, and matrices of
    one shape are made orthogonal together. As in PyTorch's, the step of a matrix (m, n) is lr sqrt(max(1, m / n)) long.

    Args:
        parameters: by name; what the last part but one of a name says of stacks: see `STACKED`.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        self.stacked = [STACKED.get(name.split(".")[-2:][0], 1) for name in parameters]
        super().__init__(parameters.values(), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        stacks: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter, count in zip(group["params"], self.stacked, strict=True):
            if parameter.grad is not None:
                update = self._momentum(parameter, group["momentum"])
                stack = update.view(count, -1, update.shape[1])  # (count, m, n)
                stacks[stack.shape[1:]].append((parameter, stack))
        for (m, n), members in stacks.items():
            rows = [m * len(stack) for _, stack in members]
            steps = torch.split(orthogonal(torch.cat([stack for _, stack in members])).flatten(0, 1), rows)
            for (parameter, _), step in zip(members, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(like(step.to(parameter.dtype), parameter), alpha=-group["lr"] * math.sqrt(max(1, m / n)))
        return loss

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """(m, n), whole on every rank: what the gradients' running mean will be if this gradient comes once more."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        update = torch.lerp(parameter.grad, mean, momentum)  # type: ignore[arg-type]
        return update.full_tensor() if isinstance(update, DTensor) else update


def orthogonal(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """About U V^T of each matrix U S V^T: singular values between 0.7 and 1.2, by five of Newton's and Schulz' steps.

    In bf16. A matrix of zeros stays zero. (The coefficients of the quintic are K. Jordan's.)
    """
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x
