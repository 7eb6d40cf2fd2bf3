"""Ranks: who takes part, and how a system is sharded over them. Models know nothing of this.

Started by torchrun, every rank holds a shard of each unit of the system (FSDP2); started alone, nothing is sharded.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from plait.systems.base import System

TIMEOUT = datetime.timedelta(minutes=5)  # a collective that waits longer has lost a rank


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            dist.barrier()


def join() -> Ranks:
    """The ranks that torchrun started, or this process alone."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks(device=device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # counts and losses are summed on the CPU
        dist.init_process_group(backend, timeout=TIMEOUT)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def shard(system: System, ranks: Ranks) -> None:
    """Shards every unit of the system, then what is left, over all ranks; one rank: nothing."""
    if ranks.count == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    for module, methods in system.units:
        fully_shard(module, mesh=mesh)
        for method in methods:
            register_fsdp_forward_method(module, method)
    fully_shard(system, mesh=mesh, reshard_after_forward=False)  # heads read the root's weights after its forward


def whole(tree: Any) -> Any:
    """A tree of values with every sharded tensor gathered, detached and on the CPU; a collective call."""
    if isinstance(tree, DTensor):
        return tree.full_tensor().detach().cpu()
    if isinstance(tree, Tensor):
        return tree.detach().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(value) for value in tree)
    return tree


def like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, sharded and placed as `model` is; others of another shape (a step count) as they are."""
    if isinstance(model, DTensor) and value.shape == model.shape:
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)
    return value


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads whole tensors into a module, sharded or not; every key must fit."""
    own = module.state_dict()
    module.load_state_dict({key: like(value, own[key]) if key in own else value for key, value in state.items()})
