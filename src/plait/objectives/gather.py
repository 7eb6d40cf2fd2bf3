"""Values over all ranks. One rank, or none initialised: what was given. Gradients pass where it is said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def all_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks of tensors of one shape; a new tensor."""
    total = tensor.detach().clone()
    if _ranks() > 1:
        dist.all_reduce(total)
    return total


@torch.no_grad()
def all_gather_rows(tensor: Tensor) -> Tensor:
    """The rows of all ranks, in the order of ranks; ranks may have different numbers of rows. # (n, ...)

    No gradient passes: `joined_rows` is the same with it.
    """
    ranks = _ranks()
    if ranks == 1:
        return tensor.detach()
    lengths = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(ranks)]
    dist.all_gather(lengths, torch.tensor([len(tensor)], device=tensor.device))
    counts = [int(length) for length in lengths]
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    gathered = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


def joined_rows(tensor: Tensor) -> tuple[Tensor, slice]:
    """The rows of all ranks, and which of them are this rank's. # (n, ...)

    The gradients that all ranks have for a row are summed where the row comes from: as if one process held all.
    """
    if _ranks() == 1:
        return tensor, slice(0, len(tensor))
    counts = all_gather_rows(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    first = sum(counts[: dist.get_rank()])
    own = slice(first, first + len(tensor))
    rows: Tensor = _Joined.apply(tensor, own)  # type: ignore[no-untyped-call]
    return rows, own


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, own: slice) -> Tensor:
        ctx.own = own
        return all_gather_rows(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return all_sum(gradient)[ctx.own], None


@contextlib.contextmanager
def gathered(tensor: Tensor) -> Iterator[Tensor]:
    """The whole of a tensor, sharded or not, to be changed in place by all ranks alike; a collective call."""
    if not isinstance(tensor, DTensor):
        yield tensor
        return
    with torch.no_grad():
        full = tensor.full_tensor().clone()  # free of the shards, to be changed
        yield full
        tensor.copy_(distribute_tensor(full, tensor.device_mesh, tensor.placements))
