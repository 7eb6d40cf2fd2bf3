"""The only training loop: it takes a stage and runs its steps.

A step: for each update in turn, the loss of `accumulate` elements is summed term by term, divided by the counts over
all ranks and elements, weighted, and followed by the update's optimisers. What happened goes into one record.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from plait.data.packs import elements_of
from plait.errors import TrainingError
from plait.objectives.gather import all_sum
from plait.sequence import Batch
from plait.systems.base import System
from plait.train import optim
from plait.train.parallel import Ranks, fill, like, shard, whole
from plait.train.stage import Objective, Stage, Update

WATCHED = 50  # losses of so many steps are averaged before they are held against chance


class _Updater:
    """An update with its optimisers and the parameters that they move."""

    def __init__(self, update: Update, parameters: Mapping[str, nn.Parameter]) -> None:
        self.update = update
        names = optim.assign(update.optimisers, list(parameters))
        self.groups = [{name: parameters[name] for name in group} for group in names]
        self.names = [name for group in names for name in group]
        self.parameters = [parameters[name] for name in self.names]
        self.optimisers: list[Optimizer] = [
            optim.build(config, group) for config, group in zip(update.optimisers, self.groups, strict=True)
        ]

    def load(self, states: list[dict[str, Any]]) -> None:
        """Takes up saved states, sharding what is sharded here."""
        for optimiser, group, state in zip(self.optimisers, self.groups, states, strict=True):
            parameters = list(group.values())
            for i, entry in state["state"].items():
                state["state"][i] = {
                    k: like(v, parameters[i]) if isinstance(v, Tensor) else v for k, v in entry.items()
                }
            optimiser.load_state_dict(state)


class Loop:
    """A stage under way.

    Args:
        system: on its device and whole; it is changed as the stage says, then sharded over the ranks.
        stage: what to do.
        ranks: this process among all.
        state: of `save`, to go on from.
    """

    def __init__(self, system: System, stage: Stage, ranks: Ranks, state: Mapping[str, Any] | None = None) -> None:
        self.system, self.stage, self.ranks = system, stage, ranks
        self.step = 0
        self.generator = torch.Generator().manual_seed(stage.seed)
        torch.manual_seed(stage.seed)  # dropout and initial values of companions draw from the global generator
        if state is None:
            for change in stage.before:
                change(system)
        shard(system, ranks)
        self.companions = {name: make(system).to(ranks.device) for name, make in stage.companions.items()}
        self.named = optim.named_parameters(system, self.companions)
        self.updaters = [_Updater(update, self.named) for update in stage.updates]
        self.averaged = {name for updater in self.updaters for name in updater.names if stage.ema and ":" not in name}
        self.ema = {name: self.named[name].detach().clone() for name in sorted(self.averaged)}
        self.recent: deque[float] = deque(maxlen=WATCHED)
        self.collator = system.format.collator(train=True)
        if state is not None:
            self._restore(state)
        self.loader = elements_of(stage.data, system.format, ranks.rank, ranks.count, state and state["loader"])
        if stage.compile:
            for module, _ in system.units:
                module.compile(dynamic=True)
        self._trainable(())

    # ------------------------------------------------------------------------------------------- state

    def save(self) -> dict[str, Any]:
        """Everything but the system's own weights, whole and on the CPU; a collective call."""
        return {
            "stage": self.stage.name,
            "step": self.step,
            "generator": self.generator.get_state(),
            "global": torch.get_rng_state(),
            "loader": dict(self.loader.state),
            "recent": list(self.recent),
            "companions": {name: whole(module.state_dict()) for name, module in self.companions.items()},
            "optimisers": [[whole(o.state_dict()) for o in updater.optimisers] for updater in self.updaters],
            "ema": whole(self.ema),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        self.recent.extend(state["recent"])
        for name, module in self.companions.items():
            fill(module, state["companions"][name])
        for updater, states in zip(self.updaters, state["optimisers"], strict=True):
            updater.load(states)
        self.ema = {name: like(state["ema"][name].to(value.device), value) for name, value in self.ema.items()}
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global"])

    def finish(self) -> None:
        """Puts the running mean in place of the trained weights, and everything at rest."""
        with torch.no_grad():
            for name, value in self.ema.items():
                self.named[name].copy_(value)
        self._trainable(())
        self.loader.close()

    # -------------------------------------------------------------------------------------------- step

    def advance(self) -> dict[str, Any]:
        """One step; its record.

        Raises:
            TrainingError: a loss that is no number, no target anywhere, or a loss that stands at chance.
        """
        began = time.perf_counter()
        due = [updater for updater in self.updaters if self.step % updater.update.period == 0]
        factor = self.stage.schedule.factor(self.step, self.stage.steps)
        record: dict[str, Any] = {}
        waited = 0.0
        lost = torch.zeros(4)
        for updater in due:
            before = time.perf_counter()
            drawn = [next(self.loader) for _ in range(self.stage.accumulate)]
            waited += time.perf_counter() - before
            lost += sum(torch.tensor([float(a[k]) for k in ("sequences", "broken", "skipped", "cut")]) for a in drawn)
            batches = [self.collator.batch(arrays).to(self.ranks.device) for arrays in drawn]
            inputs = sum(int((batch.document >= 0).sum()) for batch in batches)
            record |= self._update(updater, batches, factor)
            record["tokens"] = record.get("tokens", 0) + inputs
        self._watch(record)  # first: what follows would fail on values that are no numbers, and say less
        for updater in due:
            if after := getattr(updater.update.objective, "after_step", None):
                after(self.system, self.companions, self.step, self.generator)
        self._follow()
        self.step += 1
        return self._tell(record, lost, waited, time.perf_counter() - began)

    def _update(self, updater: _Updater, batches: list[Batch], factor: float) -> dict[str, Any]:
        objective = updater.update.objective
        self._trainable(updater.names)
        counts = self._count(objective, batches)
        weights = objective.weights(counts)
        sums = dict.fromkeys(counts, 0.0)
        for batch in batches:
            with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
                terms = objective(self.system, self.companions, batch, self.generator)
            parts = [weights[name] / max(counts[name], 1e-9) * term for name, term in terms.items()]
            loss = torch.stack(parts).sum()  # a term without targets is 0
            (loss * self.ranks.count).backward()  # type: ignore[no-untyped-call]  # FSDP means over ranks
            for name, term in terms.items():
                sums[name] += float(term.detach())
        totals = all_sum(torch.tensor([sums[name] for name in counts], dtype=torch.float64))
        means = {name: float(t) / c if (c := counts[name]) else 0.0 for name, t in zip(counts, totals, strict=True)}
        self._agree(updater)
        norm = self._clip(updater)
        for optimiser in updater.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        total = sum(weights[name] * mean for name, mean in means.items())
        first = updater is self.updaters[0]
        record: dict[str, Any] = {f"loss/{name}": mean for name, mean in means.items()}
        record["grad_norm" if first else f"grad_norm/{updater.update.objective.__class__.__name__}"] = norm
        if first:
            record |= {"loss": total, "lr": updater.optimisers[0].param_groups[0]["lr"]}
        return record

    def _count(self, objective: Objective, batches: list[Batch]) -> dict[str, float]:
        """Counts over all elements and ranks.

        Raises:
            TrainingError: all are zero, and not because pictures could not be read.
        """
        own: dict[str, float] = {}
        for batch in batches:
            for name, count in objective.counts(batch).items():
                own[name] = own.get(name, 0.0) + count
        broken = sum(float(batch.broken) for batch in batches)
        *total, unread = all_sum(torch.tensor([*own.values(), broken], dtype=torch.float64)).tolist()
        if not any(total) and not unread:
            raise TrainingError(
                f"step {self.step} of {self.stage.name}: 0 targets for {sorted(own)}; check layout and data"
            )
        return dict(zip(own, total, strict=True))

    def _agree(self, updater: _Updater) -> None:
        """Means over ranks of the gradients that FSDP does not see to: those of companions, which are not sharded."""
        for parameter in updater.parameters if self.ranks.count > 1 else []:
            if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
                parameter.grad = all_sum(parameter.grad) / self.ranks.count

    def _clip(self, updater: _Updater) -> float:
        limit = updater.update.clip
        norm = nn.utils.clip_grad_norm_(updater.parameters, math.inf if limit is None else limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _trainable(self, names: Iterable[str]) -> None:
        """Gradients for these parameters and no others; parts of the system without any are at rest (`eval`)."""
        wanted = set(names)
        for name, parameter in self.named.items():
            parameter.requires_grad_(name in wanted)
        for part in self.system.parts.values():
            part.module.train(any(parameter.requires_grad for parameter in part.module.parameters()))

    @torch.no_grad()
    def _follow(self) -> None:
        if self.stage.ema is None:
            return
        for name, value in self.ema.items():
            value.lerp_(self.named[name], 1 - self.stage.ema)

    # -------------------------------------------------------------------------------------------- watch

    def _watch(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name.startswith(("loss", "grad_norm")) and not math.isfinite(value):
                raise TrainingError(
                    f"step {self.step} of {self.stage.name}: {name} is {value}; lower the learning rate, or look at "
                    "the data of this step"
                )
        for kind, chance in self.system.chance.items():
            if f"loss/{kind}" in record:
                self._watch_chance(kind, record[f"loss/{kind}"], chance)

    def _watch_chance(self, kind: str, loss: float, chance: float) -> None:
        """A loss that still stands at a uniform guess has learned nothing: the mean of 50 steps, judged after the
        larger of 100 steps and a twentieth of the stage."""
        if kind != next(iter(self.system.chance)):
            return
        self.recent.append(loss)
        late = self.step + 1 >= max(100, self.stage.steps // 20)
        if late and len(self.recent) == WATCHED and abs(sum(self.recent) / WATCHED - chance) < 0.01 * chance:
            raise TrainingError(
                f"step {self.step} of {self.stage.name}: the mean loss/{kind} of {WATCHED} steps is "
                f"{sum(self.recent) / WATCHED:.4f}, a uniform guess has {chance:.4f}: nothing is learned; check the "
                "weights it began with, the learning rate and what trains"
            )

    def _tell(self, record: dict[str, Any], lost: Tensor, waited: float, seconds: float) -> dict[str, Any]:
        """The record with counts over all ranks and times."""
        counts = all_sum(torch.cat([torch.tensor([float(record.pop("tokens"))]), lost]).double()).tolist()
        record |= {name: int(n) for name, n in zip(("tokens", "sequences", "broken"), counts, strict=False)}
        record |= {name: int(n) for name, n in zip(("skipped", "cut"), counts[3:], strict=True)}
        return {
            "stage": self.stage.name,
            "stage_step": self.step - 1,
            **record,
            "tokens_per_s": round(record["tokens"] / seconds, 1),
            "wait_s": round(waited, 4),
            "step_s": round(seconds, 4),
        }
