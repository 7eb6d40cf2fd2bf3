"""CM3Leon as a whole against metaseq's and Chameleon's numbers: what is imported, the decoder, its loss."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from golden import GRADIENTS, LOSSES, MODULES, Golden, Goldens, assert_near
from safetensors.torch import save_file
from torch import Tensor

from plait.checkpoints import directory
from plait.checkpoints.cm3leon import DECODER_FILE, published
from plait.checkpoints.published import import_files
from plait.config import to_plain
from plait.nn.attention import Visibility
from plait.nn.vqgan import VQGANConfig
from plait.objectives.cm3 import CM3Mask
from plait.objectives.tokens import NextToken
from plait.sequence import Batch, Sequence, tokens
from plait.systems.cm3leon import TOKENIZER, CM3Leon, CM3LeonConfig

GOLDENS = Goldens("cm3leon")
CONFIG = GOLDENS.config


def config(resolution: int | None = None) -> CM3LeonConfig:
    """The golden's sizes; `resolution`: side of the pictures where it is not that of the VQGAN's training."""
    image, decoder, ids = CONFIG["vqgan"]["ddconfig"], CONFIG["decoder"], CONFIG["vocab"]
    side, levels = resolution or image["resolution"], range(len(image["ch_mult"]))
    attends = [i for i in levels if image["resolution"] // 2**i in image["attn_resolutions"]]
    return CM3LeonConfig(
        image=VQGANConfig(
            resolution=side,
            in_channels=image["in_channels"],
            channels=image["ch"],
            multipliers=tuple(image["ch_mult"]),
            blocks=image["num_res_blocks"],
            attention_resolutions=tuple(side // 2**i for i in attends),
            latent_channels=image["z_channels"],
            code_width=CONFIG["vqgan"]["embed_dim"],
            codes=CONFIG["vqgan"]["n_embed"],
        ),
        width=decoder["embed_dim"],
        depth=decoder["layers"],
        heads=decoder["heads"],
        hidden=decoder["ffn_dim"] if decoder["ffn_dim"] != 4 * decoder["embed_dim"] else None,
        positions=decoder["max_positions"],
        text_tokens=ids["vocab_size"] - ids["text_first"],
        sentinels=ids["sentinel_count"],
        reserved=ids["text_first"] - ids["sentinel_first"] - ids["sentinel_count"],
        activation=decoder["activation_fn"],
    )


def names() -> dict[str, int]:
    """A vocabulary of the golden's kind, in which codes stand in order."""
    ids = CONFIG["vocab"]
    found = {"<s>": ids["bos"], "<pad>": ids["pad"], "</s>": ids["eos"], "<unk>": ids["unk"]}
    for code, id in enumerate(range(ids["image_first"], ids["image_last"] + 1)):
        found["IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"] = id
    found |= {"<eoss>": ids["eoss"], "<racm3:break>": ids["brk"]}
    found |= {f"<sentinel:{i}>": ids["sentinel_first"] + i for i in range(ids["sentinel_count"])}
    behind = ids["sentinel_first"] + ids["sentinel_count"]
    found |= {f"<reserved{id:05d}>": id for id in range(behind, ids["text_first"])}
    return found | {f"w{i}": id for i, id in enumerate(range(ids["text_first"], ids["vocab_size"]))}


@functools.cache
def build(resolution: int | None = None) -> CM3Leon:
    """The golden's system, imported from a decoder of metaseq's and a VQGAN of Chameleon's."""
    sizes = config(resolution)
    weights = GOLDENS.weights()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"decoder": "decoder.", "vqgan": ""}
        for prefix, added in files.items():
            state = {
                added + key.removeprefix(f"{prefix}/"): tensor
                for key, tensor in weights.items()
                if key.startswith(f"{prefix}/")
            }
            save_file(state, folder / f"{prefix}.safetensors")
        text = {"model": {"type": "BPE", "vocab": names(), "merges": [], "unk_token": "<unk>"}, "added_tokens": []}
        (folder / TOKENIZER).write_text(json.dumps({"version": "1.0", **text}))
        told = {"heads": sizes.heads, "activation": sizes.activation, "image": {"resolution": sizes.image.resolution}}
        (folder / "sizes.json").write_text(json.dumps(told))
        given = [folder / f"{prefix}.safetensors" for prefix in files]
        made, _ = import_files(published(), given, folder / "imported", folder / "sizes.json")
        system = directory.load(made)
    assert isinstance(system, CM3Leon)
    assert to_plain(system.config) == to_plain(sizes)
    return system


@pytest.fixture(scope="module")
def system() -> CM3Leon:
    return build()


def real(rows: Tensor) -> list[Sequence]:
    """The rows without pads."""
    pad = CONFIG["vocab"]["pad"]
    return [Sequence((tokens([id for id in row if id != pad]),)) for row in rows.tolist()]


def batch(system: CM3Leon, rows: Tensor, shift: bool = False) -> Batch:
    """One sequence a row, pads left out and filled up on the right."""
    return system.format.collator()([[one] for one in real(rows)], shift=shift)


def test_the_vocabulary_is_that_of_the_config() -> None:
    voc, ids = config().vocabulary, CONFIG["vocab"]
    assert (voc.pad, voc.eos, voc.first_code, voc.eoss) == (ids["pad"], ids["eos"], ids["image_first"], ids["eoss"])
    assert (voc.brk, voc.first_sentinel, voc.sentinels) == (ids["brk"], ids["sentinel_first"], ids["sentinel_count"])
    assert (voc.eoss - 1, voc.first_text, len(voc)) == (ids["image_last"], ids["text_first"], ids["vocab_size"])


def test_the_weights_are_written_as_they_were(system: CM3Leon) -> None:
    state = {name: tensor for name, tensor in system.state_dict().items() if DECODER_FILE.published(name)}
    back = dict(DECODER_FILE.write(state.items()))
    held = {
        f"decoder.{k.removeprefix('decoder/')}": v for k, v in GOLDENS.weights().items() if k.startswith("decoder/")
    }
    assert back.keys() - held.keys() == {"decoder.output_projection.weight"}
    assert held.keys() - back.keys() == {"decoder.version"}
    assert all(torch.equal(back[key], held[key]) for key in back.keys() & held.keys())


# ------------------------------------------------------------------------------------------------- decoder


def decoder_right_padded(golden: Golden, system: CM3Leon) -> None:
    rows, wanted = golden.given["tokens"], golden.wanted
    assert golden.settings["heads"] == system.config.heads
    mask = rows != CONFIG["vocab"]["pad"]
    inputs = batch(system, rows)
    width = inputs.ids.shape[1]
    assert not mask[:, width:].any()
    seen: dict[str, Tensor] = {}
    blocks = system.decoder.blocks
    hooks = [
        blocks[0].register_forward_pre_hook(lambda module, given: seen.update(embedding=given[0])),
        blocks[0].register_forward_hook(lambda module, given, made: seen.update(layer0=made)),
    ]
    seen["features"] = system(inputs).states
    for hook in hooks:
        hook.remove()
    seen["logits"] = system.heads["token"](seen["features"])
    here = mask[:, :width]
    for name, value in seen.items():
        assert_near(value[here], wanted[name][:, :width][here], MODULES)


def decoder_left_padded(golden: Golden, system: CM3Leon) -> None:
    """Never padded on the left: the rows by themselves, and both together."""
    logits = system.heads["token"](system(batch(system, golden.given["tokens"])).states)
    for i in range(len(logits)):
        wanted = golden.wanted[f"row{i}_logits"]
        ids = golden.given[f"row{i}_unpadded"]
        assert_near(logits[i : i + 1, : ids.shape[1]], wanted, MODULES)
        assert_near(system.heads["token"](system(batch(system, ids)).states), wanted, MODULES)


def decoder_attention(golden: Golden, system: CM3Leon) -> None:
    x = golden.given["x"]
    alone = torch.zeros(x.shape[:2], dtype=torch.long)
    position = torch.arange(x.shape[1])[None]
    block = system.decoder.blocks[0]
    made = block.attention(block.attention_norm(x), position, Visibility(alone, alone - 1).attend)
    assert_near(made, golden.wanted["y"], MODULES)


def masked(golden: Golden, system: CM3Leon, weight: float) -> list[Sequence]:
    """The sequences of the training case, their spans moved by the project's own mask."""
    voc = system.vocabulary
    sentinels = tuple(range(voc.first_sentinel, voc.first_sentinel + voc.sentinels))
    mask = CM3Mask(sentinels=sentinels, end=voc.eoss, boundaries=(voc.brk, voc.eos), sentinel_weight=weight)
    settings = golden.settings
    return [
        mask.move(Sequence((tokens(ids),)), [tuple(span) for span in spans])
        for ids, spans in zip(settings["unmasked"], settings["spans"], strict=True)
    ]


def training_loss(golden: Golden, system: CM3Leon) -> None:
    settings, wanted, given = golden.settings, golden.wanted, golden.given["tokens"]
    pad = settings["pad"]
    assert (settings["sentinel_weight_original_cm3"], settings["sentinel_weight_metaseq"]) == (0, 1)
    sums = {}
    for weight in (0.0, 1.0):
        rows = masked(golden, system, weight)
        assert [row.ids().tolist() for row in rows] == [[id for id in row if id != pad] for row in given.tolist()]
        inputs = system.format.collator()([[row] for row in rows])
        objective = NextToken()
        system.zero_grad()
        with torch.enable_grad():
            loss = objective(system, {}, inputs, torch.Generator())["token"]
        sums[weight] = loss
        if weight:
            assert objective.counts(inputs)["token"] == settings["ntokens_targets"]
            loss.backward()
    assert_near(sums[1.0], wanted["loss_sum"], LOSSES)
    assert_near(sums[0.0], wanted["loss_sum_sentinels_zeroed"], LOSSES)
    assert_near(sums[1.0] / settings["ntokens_targets"], wanted["loss_mean_over_targets"], LOSSES)
    fed = int((given[:, :-1] != pad).sum())  # the original divides by its inputs
    assert fed == settings["ntokens_metaseq"]
    assert_near(sums[1.0] / fed, wanted["loss_mean_metaseq"], LOSSES)
    assert_near(sums[1.0] / fed / math.log(2), wanted["loss_base2_metaseq"], LOSSES)

    gradients = dict(
        DECODER_FILE.write(
            (name, weight.grad)
            for name, weight in system.named_parameters()
            if weight.grad is not None and DECODER_FILE.published(name)
        )
    )
    last = system.config.depth - 1
    for name, key in (
        ("grad_embed_tokens", "embed_tokens"),
        ("grad_embed_positions", "embed_positions"),
        ("grad_qkv0", "layers.0.self_attn.qkv_proj"),
        ("grad_fc2_last", f"layers.{last}.fc2"),
    ):
        assert_near(gradients[f"decoder.{key}.weight"], wanted[name], GRADIENTS)

    targets = given[:, 1:]
    logits = system.heads["token"](system(inputs).states)[:, : targets.shape[1]]
    here = (targets != pad)[:, : logits.shape[1]]
    assert_near(logits[here], wanted["logits"][:, : logits.shape[1]][here], MODULES)
    nll = torch.nn.functional.cross_entropy(logits[here], targets[:, : logits.shape[1]][here], reduction="none")
    assert_near(nll, wanted["token_nll"][:, : logits.shape[1]][here], MODULES)


REPLAYS: Mapping[str, Callable[[Golden, CM3Leon], None]] = {
    **{check.__name__: check for check in (decoder_right_padded, decoder_left_padded, decoder_attention)},
    training_loss.__name__: training_loss,
}


@pytest.mark.parametrize("name", REPLAYS)
def test_case(name: str, system: CM3Leon) -> None:
    with torch.no_grad():
        REPLAYS[name](GOLDENS[name], system)


def test_constants_that_no_tolerance_separates(system: CM3Leon) -> None:
    norms = [part for part in system.decoder.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert len(norms) == 2 * system.config.depth + 1
    assert {(norm.eps, norm.elementwise_affine) for norm in norms} == {(1e-5, False)}
