from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.nn.attention import Attend, SelfAttention, Visibility
from plait.nn.blocks import MLP, Block, Decoder, GatedMLP, SquaredReLU
from plait.nn.positions import NoRotation

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
POSITION = torch.arange(3).expand(2, 3)


def causal(layer: int = 0) -> Attend:
    return Visibility(torch.zeros(2, 3, dtype=torch.long), torch.full((2, 3), -1)).attend


def test_mlp() -> None:
    mlp = MLP(8, 12, nn.GELU(), bias=True)
    torch.testing.assert_close(mlp(X), mlp.out(nn.functional.gelu(X @ mlp.hidden.weight.T + mlp.hidden.bias)))
    assert MLP(8, 12, nn.ReLU()).hidden.bias is None and MLP(8, 12, nn.ReLU()).out.bias is None


def test_gated_mlp() -> None:
    mlp = GatedMLP(8, 12, nn.SiLU())
    gate, hidden = mlp.gate_hidden.weight[:12], mlp.gate_hidden.weight[12:]
    expected = (nn.functional.silu(X @ gate.T) * (X @ hidden.T)) @ mlp.out.weight.T
    torch.testing.assert_close(mlp(X), expected)


def test_squared_relu() -> None:
    assert SquaredReLU()(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def block() -> Block:
    return Block(nn.LayerNorm(8), SelfAttention(8, 2, NoRotation()), nn.LayerNorm(8), MLP(8, 16, nn.ReLU()))


def test_block_adds_what_it_gathers_and_then_what_it_thinks() -> None:
    b = block()
    y = X + b.attention(b.attention_norm(X), POSITION, causal())
    torch.testing.assert_close(b(X, POSITION, causal()), y + b.mlp(b.mlp_norm(y)))


def test_every_block_of_a_decoder_sees_through_its_own() -> None:
    asked: list[int] = []

    def attend(layer: int) -> Attend:
        asked.append(layer)
        return causal()

    decoder = Decoder([block() for _ in range(3)], nn.LayerNorm(8))
    got: Tensor = decoder(X, POSITION, attend)
    y = X
    for b in decoder.blocks:
        y = b(y, POSITION, causal())
    assert asked == [0, 1, 2]
    torch.testing.assert_close(got, decoder.norm(y))
