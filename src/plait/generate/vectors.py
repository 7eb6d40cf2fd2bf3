"""Vectors that a model writes one after the other behind the prompts of a batch, each fed back (Emu)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from plait.generate.engine import following
from plait.nn.attention import KVCache
from plait.sequence import Batch, Given
from plait.systems.base import System


@torch.no_grad()
def continued(system: System, batch: Batch, count: int, head: str = "vector") -> Float[Tensor, "b count c"]:
    """`count` vectors behind each row of a batch, every step for all rows at once, with a cache; without gradient.

    Args:
        batch: one prompt a row.
        head: what gives the next vector.
    """
    cache = KVCache(len(batch.ids), batch.ids.shape[1] + count)
    counts = (batch.document >= 0).sum(1).cpu()
    cache.advance(counts, batch.block.cpu())
    states = system(batch, cache).states
    last = states[torch.arange(len(states)), counts.to(states.device) - 1]  # (b, c)
    vectors = [system.heads[head](last)]
    row = torch.arange(len(last))
    for place in range(count - 1):
        position = cache.advance(torch.ones_like(counts))
        fed = Given(row, vectors[-1])
        step = following(torch.zeros_like(position), position, torch.full_like(position, place), fed)
        vectors.append(system.heads[head](system(step.to(last.device), cache).states[:, 0]))
    return torch.stack(vectors, 1)


@torch.no_grad()
def recomputed(system: System, batch: Batch, count: int, head: str = "vector") -> Float[Tensor, "b count c"]:
    """The same as `continued`, by reading everything anew for each vector, as Emu's released code does: its oracle.

    Args:
        batch: one prompt a row, all of one length.
    """
    vectors: list[Tensor] = []
    for place in range(count):
        states = system(_longer(batch, vectors)).states
        vectors.append(system.heads[head](states[:, -1]))
        assert states.shape[1] == batch.ids.shape[1] + place
    return torch.stack(vectors, 1)


def _longer(batch: Batch, vectors: list[Tensor]) -> Batch:
    """The batch with vectors behind each row."""
    if not vectors:
        return batch
    rows, width, more = *batch.ids.shape, len(vectors)
    whole = width + more
    column = torch.arange(whole, device=batch.ids.device).expand(rows, -1)
    # The places that pictures fill are numbered through the rows, which are longer now.
    slots = {
        reader: type(one)(one.pictures, one.at // width * whole + one.at % width, one.image, one.offset)
        for reader, one in batch.slots.items()
    }
    at = (torch.arange(rows)[:, None] * whole + torch.arange(width, whole)).flatten()
    zeros = torch.zeros_like(column)
    return Batch(
        ids=torch.cat([batch.ids, zeros[:, :more]], 1),
        document=zeros,
        position=column,
        block=zeros - 1,
        place=zeros - 1,
        slots=slots,
        targets={},
        readers=batch.readers,
        sequences=rows,
        given=Given(at.to(column.device), torch.stack(vectors, 1).flatten(0, 1)),
    )
