from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from plait.systems.cm3leon import CM3Leon
from plait.train.parallel import Ranks, fill, join, leave, like, shard, whole


def test_alone_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    ranks = join()
    assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
    assert not dist.is_initialized()
    ranks.wait()
    leave()


def test_only_rank_0_is_first() -> None:
    assert not Ranks(rank=1, count=2).first


def test_one_rank_shards_nothing(cm3leon: CM3Leon) -> None:
    shard(cm3leon, Ranks())
    assert not any(isinstance(parameter, DTensor) for parameter in cm3leon.parameters())


def test_what_is_saved_is_whole_and_detached(mesh: DeviceMesh) -> None:
    values = torch.arange(6.0).view(3, 2)
    tree = {
        "sharded": distribute_tensor(values, mesh, [Shard(0)]),
        "list": [nn.Parameter(values), 3],
        "tuple": (values, "text"),
        "none": None,
    }
    found = whole(tree)
    assert type(found["sharded"]) is torch.Tensor and torch.equal(found["sharded"], values)
    assert isinstance(found["tuple"], tuple) and found["tuple"][1] == "text"
    assert not found["list"][0].requires_grad and found["list"][1] == 3
    assert found["none"] is None


def test_a_tensor_is_placed_as_its_model(mesh: DeviceMesh) -> None:
    values = torch.arange(6.0).view(3, 2)
    model = distribute_tensor(torch.zeros(3, 2), mesh, [Shard(0)])
    placed = like(values, model)
    assert isinstance(placed, DTensor) and placed.placements == (Shard(0),)
    assert torch.equal(placed.full_tensor(), values)
    count = torch.tensor(3.0)  # an optimiser's number of steps stays what it is
    assert like(count, model) is count
    assert like(values, torch.zeros(3, 2)) is values


def test_whole_tensors_fill_a_sharded_module(mesh: DeviceMesh) -> None:
    source, module = nn.Linear(2, 3), nn.Linear(2, 3)
    fully_shard(module, mesh=mesh)
    fill(module, source.state_dict())
    assert isinstance(module.weight, DTensor)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in whole(module.state_dict()).items())


def test_every_key_must_fit() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fill(module, nn.Linear(3, 3).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        fill(module, {"weight": torch.zeros(3, 2)})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fill(module, {**module.state_dict(), "more": torch.zeros(1)})
