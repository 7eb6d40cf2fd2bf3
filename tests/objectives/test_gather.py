from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from plait.objectives.gather import all_gather_rows, all_sum, gathered


def test_alone_values_are_what_was_given() -> None:
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(all_sum(values), values) and torch.equal(all_gather_rows(values), values)
    with gathered(values) as table:
        assert table is values


def test_rows_of_a_group(mesh: DeviceMesh) -> None:
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(all_sum(values), values) and torch.equal(all_gather_rows(values), values)


def test_a_gathered_tensor_takes_its_changes_back_into_its_shards(mesh: DeviceMesh) -> None:
    sharded = distribute_tensor(torch.zeros(3, 2, requires_grad=True), mesh, [Shard(0)])
    with gathered(sharded) as table:
        table[1] = 5.0
    assert sharded.placements == (Shard(0),)
    assert sharded.full_tensor().tolist() == [[0, 0], [5, 5], [0, 0]]
