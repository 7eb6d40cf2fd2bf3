"""What a run is made of, as data: a recipe is a system and its stages; a stage says what trains, on what, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from plait.data.packs import Alternating, Data
from plait.document import Document, Piece
from plait.errors import ConfigError
from plait.evaluate import Task
from plait.generate.engine import Settings
from plait.sequence import Batch
from plait.systems.base import System


class Objective(Protocol):
    """What a stage minimises: sums per term, which the loop divides by their counts over all ranks and micro-steps.

    One whose attribute `whole_batch` is true compares all that a step holds with each other: no accumulation.
    """

    def counts(self, batch: Batch, /) -> dict[str, float]:
        """What each term is divided by, from the batch alone."""
        ...

    def weights(self, counts: Mapping[str, float], /) -> Mapping[str, float]:
        """The weight of each term's mean in the loss, given the counts over all ranks and elements."""
        ...

    def __call__(
        self, system: Any, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator, /
    ) -> dict[str, Tensor]:
        """The sum of each term over the batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """An optimiser and the parameters it moves: those whose names match a pattern and no earlier optimiser's.

    Names are the system's (`decoder.blocks.0.mlp.out.weight`), and a companion's behind its name (`discriminator:...`).
    """

    train: tuple[str, ...]
    kind: Literal["adamw", "adamw_hf", "adamw_fairseq", "muon"] = "adamw"
    """adamw_hf, adamw_fairseq: of transformers 4.30 and of fairseq, which have another place for eps, and the first
    also for the decay (`plait.train.optim.UncorrectedAdamW`)."""
    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    """Of Muon, the first is the momentum."""
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The factor on every learning rate: a linear warm-up, a plateau, and a fall over the last `decay` of the steps."""

    warmup: int = 0
    """Steps."""
    decay: float = 1.0
    """Share of the steps after the warm-up in which the rate falls; 1: at once, 0: never."""
    shape: Literal["linear", "cosine"] = "linear"
    final: float = 0.0
    """The factor at the end."""
    first: int = 1
    """What the warm-up counts its first step as; 0 in fairseq and transformers, whose first step moves nothing."""

    def factor(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`, from 0."""
        if step < self.warmup:
            return (step + self.first) / self.warmup
        fall = (steps - self.warmup) * self.decay
        left = max(steps - step, 0) / fall if fall else 1.0
        if left >= 1:
            return 1.0
        shape = left if self.shape == "linear" else (1 - math.cos(math.pi * left)) / 2
        return self.final + (1 - self.final) * shape


@dataclass(frozen=True, kw_only=True)
class EpochSchedule:
    """A linear warm-up that counts the steps within an epoch, and a cosine that counts those of the whole stage.

    The oddity of LAVIS, and of what was trained with it (BLIP-2, MiniGPT-4): until `warmup` steps are done, the rate
    begins anew with each epoch; then it jumps to where a cosine without a warm-up would be.
    """

    epoch: int
    """Steps of an epoch."""
    warmup: int = 0
    """Steps."""
    start: float = 0.0
    """The factor at the first step of the warm-up."""
    final: float = 0.0
    """The factor at the end."""
    stepped: bool = False
    """The cosine falls with each epoch, not with each step, as in LAVIS itself."""

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ConfigError(f"an epoch of {self.epoch} steps: it must have at least 1")

    def factor(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`, from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * (step % self.epoch) / self.warmup
        if self.stepped:
            step -= step % self.epoch
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * step / steps)) / 2


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """A linear warm-up, then the full rate until it falls to a factor at certain steps."""

    warmup: int = 0
    """Steps."""
    falls: Mapping[int, float] = field(default_factory=dict)
    """From a step on, counted from 0, the factor."""

    def factor(self, step: int, steps: int) -> float:
        """The factor at `step`; the length of the stage does not matter."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        begun = [first for first in self.falls if first <= step]
        return self.falls[max(begun)] if begun else 1.0


@dataclass(frozen=True, kw_only=True)
class Update:
    """One kind of step: an objective and the optimisers that follow it. A stage takes its updates in turn."""

    objective: Objective
    optimisers: tuple[Optimiser, ...]
    clip: float | None = 1.0
    """Largest L2 norm of the gradient of all its parameters."""
    period: int = 1
    """Taken every so many steps; 1 for the first of a stage, whose loss is the step's."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training.

    `seed` draws whatever the objective draws; the order of data has its own.
    """

    name: str
    data: Data | Alternating
    updates: tuple[Update, ...]
    steps: int
    schedule: Schedule | EpochSchedule | StepSchedule = Schedule()
    companions: Mapping[str, Callable[[Any], nn.Module]] = field(default_factory=dict)
    """Modules that take part but are no part of the system: made from it as the stage begins, saved with the state."""
    before: tuple[Callable[[Any], None], ...] = ()
    """Done to the system once, when the stage begins."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products under autocast; weights and optimiser states stay fp32."""
    accumulate: int = 1
    """Elements of the data for one step."""
    ema: float | None = None
    """Decay of a running mean of the trained parameters, which replaces them when the stage ends."""
    compile: bool = False
    """Compile the decoder."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints."""
    probe_every: int = 500
    """Steps between answers to the recipe's probes."""
    tasks: tuple[Task, ...] = ()
    """Scored when the stage ends; their scores stand under its name."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1 or self.save_every < 1 or self.probe_every < 1:
            numbers = (self.steps, self.accumulate, self.save_every, self.probe_every)
            raise ConfigError(f"steps, accumulate, save_every, probe_every = {numbers}: each must be at least 1")
        whole = [type(u.objective).__name__ for u in self.updates if getattr(u.objective, "whole_batch", False)]
        if whole and self.accumulate > 1:
            raise ConfigError(
                f"accumulate {self.accumulate} with {whole[0]}, which compares the pairs of a whole step: leave it at "
                "1 and give more rows"
            )
        periods = [update.period for update in self.updates]
        if periods[:1] != [1] or min(periods) < 1:
            raise ConfigError(
                f"{len(periods)} updates with the periods {periods}: at least one is needed, and the first has period 1"
            )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fixed prompt that is answered again and again while training, for the report."""

    prompt: Document
    settings: Settings
    reference: str | None = None
    """The right answer, in words."""
    then: tuple[tuple[Piece | str, ...], ...] = ()
    """What the user says next, each after the answer to what was said before; the prompt is then a conversation."""

    def __post_init__(self) -> None:
        if self.then and not self.prompt.turns:
            raise ConfigError(f"a probe of pieces with {len(self.then)} turns behind it: give its prompt as a turn")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A system and what is done with it."""

    name: str
    build: Callable[[], System]
    stages: tuple[Stage, ...]
    probes: Items[Probe] = ()
    tasks: tuple[Task, ...] = ()
    """Scored when all stages have ended."""

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage.tasks and any(task.name == stage.name for task in self.tasks):
                raise ConfigError(f"{stage.name!r} names a stage with tasks and a task of {self.name}: rename one")
