"""Linear layers in oneDNN's order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.errors import InputError
from plait.nn import packed as packing
from plait.nn.packed import PackedLinear, TiedEmbedding, pack

X = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("small_packs")


class Two(nn.Module):
    """A layer that stands in two places, one inside a list, one that is no plain linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleList([nn.Linear(24, 40), nn.Linear(40, 24, bias=False)])
        self.again = self.inner[1]
        self.own = Doubled(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.own(self.inner[1](self.inner[0](x).relu()) + self.again(self.inner[0](x)))


class Doubled(nn.Linear):
    """Twice the product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_packed_layers_give_what_they_gave(rows: int, dtype: torch.dtype) -> None:
    module, x = Two().to(dtype), X[:, :rows].to(dtype)
    expected = module(x)
    pack(module)
    assert [type(layer) for layer in (*module.inner, module.own)] == [PackedLinear, PackedLinear, Doubled]
    assert module.again is module.inner[1]
    exact = dtype == torch.float32
    torch.testing.assert_close(module(x), expected, atol=1e-5 if exact else 0.05, rtol=1e-5 if exact else 0.02)


def test_a_state_dict_holds_the_weights_as_they_were() -> None:
    plain, packed = Two(), Two()
    pack(packed)
    assert [name for name, _ in packed.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert sum(p.numel() for p in packed.parameters()) == sum(p.numel() for p in plain.parameters())
    held = packed.state_dict()
    assert list(held) == list(plain.state_dict())
    for name, weight in plain.state_dict().items():
        assert torch.equal(held[name], weight)


def test_what_is_packed_is_not_trained() -> None:
    module = Two()
    pack(module)
    assert not module.eval().training
    with pytest.raises(InputError, match="packed layers cannot be trained: load the model with packed=False"):
        module.train()


def test_other_precisions_and_devices_stay_as_they_are() -> None:
    double, away = Two().double(), Two().to("meta")
    for module in (double, away):
        pack(module)
        assert not any(isinstance(layer, PackedLinear) for layer in module.modules())


@pytest.mark.parametrize("intel", [True, False])
def test_on_a_cpu_of_intel_small_ones_stay_too(intel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_intel", lambda: intel)
    monkeypatch.setattr(packing, "SMALL", 1000)
    module = nn.Sequential(nn.Linear(27, 37), nn.Linear(40, 25))  # of 999 and 1,000
    pack(module)
    assert [isinstance(layer, PackedLinear) for layer in module] == [not intel, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_tied_table_gives_the_logits_of_a_range_of_ids(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table, x = nn.Sequential(TiedEmbedding(40, 24)).to(dtype), X.to(dtype)
    (tied,) = table
    assert isinstance(tied, TiedEmbedding)
    whole, held = x @ tied.weight.T, table.state_dict()
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    for packed in (False, True):
        if packed:
            pack(table)
        torch.testing.assert_close(tied.logits(x), whole, **near)
        for first, last in ((4, 20), (4, 20), (30, 40)):
            torch.testing.assert_close(tied.logits(x, first, last), whole[..., first:last], **near)
    assert len(tied._packed or ()) == 3
    assert table.state_dict().keys() == held.keys() and torch.equal(table.state_dict()["0.weight"], held["0.weight"])
    assert tied(torch.tensor([3])).shape == (1, 24)
    table.to(torch.float64)  # what was packed does not go along
    assert tied.logits(x.double()).dtype == torch.float64
