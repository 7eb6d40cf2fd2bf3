"""Low-rank adapters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.errors import ConfigError, InputError
from plait.nn.attention import SelfAttention
from plait.nn.blocks import GatedMLP
from plait.nn.lora import LoRA, LoRAConfig, adapt, add, merge, merged_state
from plait.nn.positions import NoRotation

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def adapted(**settings: object) -> LoRA:
    torch.manual_seed(0)
    lora = LoRA(nn.Linear(8, 12), rank=2, alpha=4.0, **settings)  # type: ignore[arg-type]
    nn.init.normal_(lora.up)
    return lora


def test_a_new_adapter_changes_nothing() -> None:
    linear = nn.Linear(8, 12)
    assert torch.equal(LoRA(linear, 2, 4.0, parts=3, on=(0, 2))(X), linear(X))


@pytest.mark.parametrize("on", [(0,), (2,), (0, 2), (2, 0), (0, 1, 2)])
def test_adapters_add_to_their_parts_alone(on: tuple[int, ...]) -> None:
    lora = adapted(parts=3, on=on)
    added = (lora(X) - lora.linear(X)).unflatten(-1, (3, 4))
    for part in range(3):
        wanted = torch.zeros(2, 3, 4)
        if part in on:
            at = on.index(part)
            wanted = X @ (2.0 * lora.up[at] @ lora.down[at]).T  # alpha / rank = 2
        torch.testing.assert_close(added[..., part, :], wanted, atol=1e-5, rtol=1e-5)


def test_only_the_adapters_learn() -> None:
    lora = adapted()
    lora(X).sum().backward()
    assert [name for name, p in lora.named_parameters() if p.grad is not None] == ["down", "up"]


def test_dropout_is_on_the_adapters_alone() -> None:
    lora = adapted(dropout=1.0)
    assert torch.equal(lora(X), lora.linear(X))
    assert not torch.equal(lora.eval()(X), lora.linear(X))


def test_adapters_are_put_on_and_merged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    add(model, ["0", "2"], rank=2, alpha=1.0, parts=2, on=(1,))
    assert [type(layer) for layer in model] == [LoRA, nn.ReLU, LoRA]
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = model(X)
    merge(model)
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model(X), before, atol=1e-5, rtol=1e-5)


def test_every_self_attention_is_adapted() -> None:
    model = nn.ModuleList(SelfAttention(8, 2, NoRotation()) for _ in range(2))
    adapt(model, LoRAConfig(rank=3, alpha=6.0, dropout=0.5, layers=("v", "q")))
    for attention in model:
        layer = attention.get_submodule("qkv")
        assert isinstance(layer, LoRA)
        assert (layer.on, layer.scale, layer.dropout.p) == ((2, 0), 2.0, 0.5)
        assert layer.down.shape == (2, 3, 8) and layer.up.shape == (2, 8, 3)
    with pytest.raises(InputError, match=r"0.qkv is a LoRA: adapters go on linear layers"):
        adapt(model, LoRAConfig())
    with pytest.raises(InputError, match="Linear has no self-attention"):
        adapt(nn.Linear(1, 1), LoRAConfig())


def test_all_matrices_of_a_block_are_adapted() -> None:
    model = nn.ModuleDict({"attention": SelfAttention(8, 2, NoRotation()), "mlp": GatedMLP(8, 6, nn.SiLU())})
    adapt(model, LoRAConfig(rank=3, layers=("q", "o", "up", "down")))
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRA)}
    assert {name: (layer.parts, layer.on) for name, layer in found.items()} == {
        "attention.qkv": (3, (0,)),
        "attention.out": (1, (0,)),
        "mlp.gate_hidden": (2, (1,)),
        "mlp.out": (1, (0,)),
    }
    assert found["mlp.gate_hidden"].up.shape == (1, 6, 3)
    only = nn.ModuleDict({"mlp": GatedMLP(8, 6, nn.SiLU())})
    adapt(only, LoRAConfig(layers=("down",)))
    assert isinstance(only.get_submodule("mlp.out"), LoRA) and type(only.get_submodule("mlp.gate_hidden")) is nn.Linear
    with pytest.raises(InputError, match="Linear has no gated MLP"):
        adapt(nn.Linear(1, 1), LoRAConfig(layers=("up",)))


def test_what_does_not_fit_is_refused() -> None:
    for wrong in ({"rank": 0}, {"layers": ()}, {"layers": ("q", "q")}):
        with pytest.raises(ConfigError, match="give a rank of at least 1 and some of q, k, v, o, gate, up, down, each"):
            LoRAConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="12 rows do not divide into 5 parts"):
        adapted(parts=5)
    with pytest.raises(ConfigError, match=r"adapters on parts \(3,\) of 3: give numbers from 0 to 2"):
        adapted(parts=3, on=(3,))
    with pytest.raises(InputError, match="1 is a ReLU: adapters go on linear layers"):
        add(nn.Sequential(nn.Linear(8, 12), nn.ReLU()), ["1"], rank=2, alpha=4.0)


def test_a_state_is_merged_without_its_module() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    add(model, ["0"], rank=2, alpha=1.0, parts=3, on=(0, 2))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    state = dict(model.state_dict())
    with torch.device("meta"):
        hollow = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
        add(hollow, ["0"], rank=2, alpha=1.0, parts=3, on=(0, 2))
    merged = dict(merged_state(hollow, state))
    merge(model)
    assert merged.keys() == model.state_dict().keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in model.state_dict().items())


def test_adapters_of_another_precision() -> None:
    lora = adapted(parts=3, on=(0, 2))
    wanted = lora(X)
    lora.linear.bfloat16()
    out = lora(X.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, atol=0.1, rtol=0.1)
    assert lora.merged().weight.dtype == torch.bfloat16
