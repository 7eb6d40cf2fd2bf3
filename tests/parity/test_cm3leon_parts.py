"""Chameleon's decoder, CLIP, the distance of features and the names of a vocabulary, for CM3Leon."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import PIL.Image
import pytest
import torch
from golden import MODULES, PIXELS, Golden, Goldens, assert_near
from torch import Tensor, nn

from plait import images
from plait.checkpoints.cm3leon import (
    CHAMELEON_APART_FILE,
    CHAMELEON_FILE,
    NamedIds,
    _chameleon_sizes,
)
from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.parts import CLIP as CLIP_TABLE
from plait.checkpoints.parts import OPENAI_CLIP, clip_sizes, shape_of
from plait.config import from_plain
from plait.evaluate.metrics.frechet import Moments, frechet_distance
from plait.nn.attention import KVCache, Visibility
from plait.nn.chameleon import ChameleonConfig, chameleon_decoder
from plait.nn.clip import CLIP, CLIPConfig, CLIPTextConfig
from plait.nn.vit import VITConfig
from plait.systems.cm3leon import Vocabulary

GOLDENS = Goldens("cm3leon")
CONFIG = GOLDENS.config


def weights(prefix: str) -> dict[str, Tensor]:
    """Those of a program, by its own names."""
    named = GOLDENS.weights().items()
    return {key.removeprefix(prefix): tensor for key, tensor in named if key.startswith(prefix)}


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


# ------------------------------------------------------------------------------------------------ Chameleon


class Chameleon(nn.Module):
    """The parts by the names of the table."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, config: ChameleonConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.decoder = chameleon_decoder(width, depth, heads, config)
        self.head = nn.Linear(width, vocabulary, bias=False)


def chameleon(state: Mapping[str, Tensor], table: KeyMap) -> Chameleon:
    """As it is imported."""
    said = CONFIG["chameleon"]
    sizes = _chameleon_sizes(shape_of(shapes(state)), shapes(state), said)
    config = from_plain(ChameleonConfig, sizes.pop("chameleon"))
    step, inner = said["multiple_of"], int(8 * said["dim"] / 3)
    assert config == ChameleonConfig(
        hidden=step * math.ceil(inner / step),
        key_heads=None if said["n_kv_heads"] in (None, said["n_heads"]) else said["n_kv_heads"],
        eps=said["norm_eps"],
        base=said["rope_theta"],
        normed_heads=said["qk_normalization"],
        norms_behind=said["swin_norm"],
    )
    names = {"vocabulary": "vocab_size", "width": "dim", "depth": "n_layers", "heads": "n_heads"}
    assert sizes == {ours: said[theirs] for ours, theirs in names.items()}
    model = Chameleon(**sizes, config=config).eval()
    model.load_state_dict(dict(table.read(state.items(), shapes(model.state_dict()))))
    return model


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with those that are fused in parts, as some files have them."""
    out = {}
    for key, tensor in state.items():
        if key.endswith("attention.wqkv.weight"):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                out[key.replace("wqkv", f"w{letter}")] = part.clone()
        elif key.endswith("w13.weight"):
            for number, part in zip("13", tensor.chunk(2), strict=True):
                out[key.replace("w13", f"w{number}")] = part.clone()
        else:
            out[key] = tensor
    return out


def chameleon_transformer(golden: Golden) -> None:
    lengths = torch.tensor(golden.settings["lengths"])
    tokens, following = golden.given["tokens"], golden.given["next_tokens"]
    numbers = torch.arange(len(lengths)).repeat_interleave(lengths)[None]
    position = torch.cat([torch.arange(n) for n in lengths.tolist()])[None]
    model = chameleon(weights("chameleon/"), CHAMELEON_FILE)
    packed = Visibility(numbers, torch.full_like(numbers, -1))
    states = model.decoder(model.embed(tokens[None]), position, lambda layer: packed.attend)
    assert_near(model.head(states)[0], golden.wanted["logits"], MODULES)

    cache = KVCache(len(lengths))
    for row, ids in enumerate(tokens.split(lengths.tolist())):
        alone = KVCache(1)
        place = alone.advance(torch.tensor([len(ids)]))
        model.decoder(model.embed(ids[None]), place, alone.attend)
        cache.adopt(alone, row)
    place = cache.advance(torch.ones_like(lengths))
    last = model.decoder(model.embed(following[:, None]), place, cache.attend)
    assert_near(model.head(last)[:, 0], golden.wanted["next_logits"], MODULES)

    if CONFIG["chameleon"]["n_kv_heads"] in (None, CONFIG["chameleon"]["n_heads"]):
        again = chameleon(apart(weights("chameleon/")), CHAMELEON_APART_FILE)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


# ----------------------------------------------------------------------------------------------------- CLIP


def clip_config() -> CLIPConfig:
    image, text = CONFIG["clip"]["vision_config"], CONFIG["clip"]["text_config"]
    assert image["hidden_act"] == text["hidden_act"] == "quick_gelu"
    return CLIPConfig(
        image=VITConfig(
            image_size=image["image_size"],
            patch=image["patch_size"],
            width=image["hidden_size"],
            depth=image["num_hidden_layers"],
            heads=image["num_attention_heads"],
            hidden=image["intermediate_size"],
            eps=image["layer_norm_eps"],
        ),
        text=CLIPTextConfig(
            vocabulary=text["vocab_size"],
            positions=text["max_position_embeddings"],
            width=text["hidden_size"],
            depth=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            hidden=text["intermediate_size"],
            eps=text["layer_norm_eps"],
        ),
        shared=CONFIG["clip"]["projection_dim"],
    )


def clip(table: KeyMap = CLIP_TABLE, state: Mapping[str, Tensor] | None = None) -> CLIP:
    """As it is imported."""
    model = CLIP(clip_config()).eval()
    state = weights("clip/") if state is None else state
    model.load_state_dict(dict(table.read(state.items(), shapes(model.state_dict()))))
    return model


def test_clip_as_openai_stores_it() -> None:
    """The two forms hold the same, and sizes are read from either."""
    model = clip()
    fused = dict(OPENAI_CLIP.write(model.state_dict().items()))
    assert fused["transformer.resblocks.0.attn.in_proj_weight"].shape[0] == 3 * model.config.text.width
    assert fused["visual.proj"].shape == (model.config.image.width, model.config.shared)
    again = clip(OPENAI_CLIP, fused)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    for state in (weights("clip/"), fused):
        sizes = clip_sizes(shape_of(shapes(state)))
        sizes["image"]["heads"], sizes["text"]["heads"] = model.config.image.heads, model.config.text.heads
        assert from_plain(CLIPConfig, sizes) == model.config


def preprocess_clip(golden: Golden) -> None:
    picture = PIL.Image.fromarray(golden.given["png_rgb"].numpy())
    values = images.to_clip(images.clip_square(picture, golden.settings["size"]))
    assert_near(torch.from_numpy(values), golden.wanted["pixels"], PIXELS)


# ----------------------------------------------------------------------------------------------------- rest


def fid_arithmetic(golden: Golden) -> None:
    found = frechet_distance(Moments.of(golden.given["a"]), Moments.of(golden.given["b"]))
    assert found == pytest.approx(golden.wanted["fid"].item(), rel=1e-12)


def vocab_translation(golden: Golden) -> None:
    """By name, as the original's dictionary; that its search pairs ids with codes by their order is a quirk."""
    vocabulary, wanted = golden.settings["vocab"], golden.wanted
    named = NamedIds.of(vocabulary)
    ids = {code: id for id, code in named.codes.items()}
    assert [named.codes[id] for id in golden.given["bpe_ids"].tolist()] == wanted["codes_by_dict"].tolist()
    assert [ids[code] for code in golden.given["codes"].tolist()] == wanted["bpe_from_codes"].tolist()
    assert sorted(named.codes) == wanted["image_tokens"].tolist()
    assert list(named.special) == wanted["special_tokens"].tolist()
    assert list(named.text) == wanted["text_tokens"].tolist()
    voc = Vocabulary(codes=len(ids), text_tokens=len(named.text), **named.sizes)
    symbols = {"<pad>": voc.pad, "</s>": voc.eos, "<eoss>": voc.eoss, "<racm3:break>": voc.brk}
    symbols |= {f"<sentinel:{i}>": voc.first_sentinel + i for i in range(voc.sentinels)}
    assert {name: vocabulary[name] for name in symbols} == symbols
    assert (min(named.codes), min(named.text)) == (voc.first_code, voc.first_text)
    assert (golden.settings["eos"], golden.settings["begin_image"]) == (voc.eos, voc.brk)


CHECKS: dict[str, Callable[[Golden], None]] = {
    check.__name__: check for check in (chameleon_transformer, preprocess_clip, fid_arithmetic, vocab_translation)
}


@pytest.mark.parametrize("name", CHECKS)
def test_case(name: str) -> None:
    with torch.no_grad():
        CHECKS[name](GOLDENS[name])
