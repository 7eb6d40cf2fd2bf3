from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plait.errors import InputError
from plait.nn.attention import GroupedSelfAttention, SelfAttention, Visibility
from plait.nn.chameleon import ChameleonConfig, NormedRotation, chameleon_decoder
from plait.nn.positions import NoRotation, Rotary

CONFIG = ChameleonConfig(hidden=48)
ROWS = torch.zeros(2, 5, dtype=torch.long)
POSITION = torch.arange(5).expand(2, 5)
SIGHT = Visibility(ROWS, ROWS - 1).attend


def test_groups_of_heads_share_keys_and_values() -> None:
    """They are what attention is whose rows of keys and values stand there several times."""
    torch.manual_seed(0)
    grouped, plain = GroupedSelfAttention(32, 4, 2, Rotary(8)), SelfAttention(32, 4, Rotary(8))
    q, k, v = grouped.qkv.weight.split((32, 16, 16))
    twice = [each.view(2, 8, 32).repeat_interleave(2, 0).flatten(0, 1) for each in (k, v)]
    plain.load_state_dict({"qkv.weight": torch.cat([q, *twice]), "out.weight": grouped.out.weight})
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(grouped(x, POSITION, SIGHT), plain(x, POSITION, SIGHT))
    with pytest.raises(InputError, match="for 4 heads on 3 of keys"):
        GroupedSelfAttention(32, 4, 3, NoRotation())


def test_heads_are_normed_before_they_are_turned() -> None:
    rotation = NormedRotation(8, Rotary(8, adjacent=True))
    nn.init.constant_(rotation.query.weight, 3.0)
    qk = torch.randn(2, 5, 2, 4, 8)
    made = rotation(qk, POSITION)
    torch.testing.assert_close(
        made[:, 0, 0], 3 * nn.functional.layer_norm(qk[:, 0, 0], (8,))
    )  # position 0 is not turned
    torch.testing.assert_close(made[:, :, 1].norm(dim=-1), nn.functional.layer_norm(qk[:, :, 1], (8,)).norm(dim=-1))


@pytest.mark.parametrize("behind", [False, True])
def test_where_norms_stand(behind: bool) -> None:
    decoder = chameleon_decoder(32, 1, 4, replace(CONFIG, norms_behind=behind))
    block = decoder.blocks[0]
    for norm in (block.attention_norm, block.mlp_norm):
        nn.init.zeros_(norm.weight)
    x = torch.randn(2, 5, 32)
    made = block(x, POSITION, SIGHT)
    torch.testing.assert_close(
        made, x
    )  # nothing is added: by a norm behind, or to a layer without biases by one before
    nn.init.ones_(block.attention_norm.weight)
    added = block(x, POSITION, SIGHT) - x
    assert torch.allclose(added.square().mean(-1), torch.ones(2, 5), atol=1e-2) == behind


def test_sizes() -> None:
    decoder = chameleon_decoder(32, 2, 4, replace(CONFIG, key_heads=2, normed_heads=False))
    shapes = {name: tuple(weight.shape) for name, weight in decoder.named_parameters()}
    assert shapes["blocks.1.attention.qkv.weight"] == (64, 32)
    assert not any("rotation" in name or name.endswith("bias") for name in shapes)
