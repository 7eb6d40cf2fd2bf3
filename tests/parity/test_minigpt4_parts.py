"""MiniGPT-4's tower, Q-Former and key tables against the original program's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden import LOSSES, Golden, Goldens, assert_near
from torch import Tensor, nn

from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.minigpt4 import ASSEMBLED, BLIP2_STAGE1_FILE
from plait.nn.llama import LLaMA, LLaMAConfig
from plait.nn.qformer import BLIP2_QFORMER, Memory, QFormer, QFormerConfig, QFormerHeads, TextConfig
from plait.nn.vit import EVA_VIT_G, VITConfig, eva_vit, resize_positions
from plait.objectives.contrastive import Captions, info_nce
from plait.objectives.qformer import ReadAndTell

GOLDENS = Goldens("minigpt4")
CONFIG, CASES = GOLDENS.config, GOLDENS.cases


def vit_config() -> VITConfig:
    sizes = CONFIG["vit"]
    assert sizes["qkv_bias"]
    assert sizes["mlp_hidden"] == int(sizes["embed_dim"] * sizes["mlp_ratio"])
    return VITConfig(
        image_size=sizes["img_size"],
        patch=sizes["patch_size"],
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        hidden=sizes["mlp_hidden"],
        eps=sizes["layer_norm_eps"],
    )


def qformer_config(text: bool = False) -> QFormerConfig:
    sizes = CONFIG["qformer"]
    assert sizes["hidden_act"] == "gelu"
    assert sizes["query_length"] == CONFIG["num_query_token"]
    branch = TextConfig(vocabulary=sizes["vocab_size"], positions=sizes["max_position_embeddings"])
    return QFormerConfig(
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        queries=CONFIG["num_query_token"],
        image_width=sizes["encoder_width"],
        cross_every=sizes["cross_attention_freq"],
        text=branch if text else None,
        eps=sizes["layer_norm_eps"],
    )


class Parts(nn.Module):
    """MiniGPT-4's parts by the names of the tables; with `text` also the heads of BLIP-2's first stage."""

    def __init__(
        self,
        vit: VITConfig,
        qformer: QFormerConfig,
        language: LLaMA,
        projection: nn.Linear,
        shared: int,
        vision_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.vision = eva_vit(vit, nn.Identity())
        self.vision_norm = nn.LayerNorm(vit.width, eps=vision_norm_eps)
        self.qformer = QFormer(qformer)
        if qformer.text:
            self.heads = QFormerHeads(qformer, shared)
        self.projection = projection
        self.language = language

    def see(self, pixels: Tensor) -> Tensor:
        """(b, 3, y, x) -> (b, m, e)."""
        return self.vision_norm(self.vision(pixels))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def tiny(text: bool = False) -> Parts:
    sizes = CONFIG["llama"]
    language = LLaMA(
        LLaMAConfig(
            vocabulary=sizes["vocab_size"],
            width=sizes["hidden_size"],
            hidden=sizes["intermediate_size"],
            depth=sizes["num_hidden_layers"],
            heads=sizes["num_attention_heads"],
        )
    )
    qformer = qformer_config(text)
    projection = nn.Linear(qformer.width, sizes["hidden_size"])
    return Parts(
        vit_config(), qformer, language, projection, CONFIG["blip2_embed_dim"], CONFIG["vit"]["ln_vision_eps"]
    ).eval()


def blip2_weights() -> dict[str, Tensor]:
    """Of the first stage; its tower and the norm behind it are those of MiniGPT-4."""
    extra = GOLDENS.weights("weights_extra")
    own = {key.removeprefix("blip2."): tensor for key, tensor in extra.items() if key.startswith("blip2.")}
    return own | {key: tensor for key, tensor in GOLDENS.weights().items() if key.startswith("ln_vision.")}


@pytest.fixture(scope="module")
def model() -> Parts:
    parts = tiny()
    parts.load_state_dict(dict(ASSEMBLED.read(GOLDENS.weights().items(), shapes(parts))))
    return parts


@pytest.fixture(scope="module")
def blip2() -> Parts:
    parts = tiny(text=True)
    wanted = shapes(parts)
    own = dict(BLIP2_STAGE1_FILE.read(blip2_weights().items(), wanted))
    tower = {key: tensor for key, tensor in GOLDENS.weights().items() if key.startswith("visual_encoder.")}
    seen = {name: shape for name, shape in wanted.items() if name.startswith("vision.")}
    parts.load_state_dict(own | dict(ASSEMBLED.read(tower.items(), seen)), strict=False)
    return parts


def outputs(modules: list[nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """What each of the modules gives in a run."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda module, given, made: seen.append(made)) for module in modules]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def vit(model: Parts, golden: Golden) -> None:
    blocks = list(model.vision.blocks)
    made: list[Tensor] = []
    first, last = outputs([blocks[0], blocks[-1]], lambda: made.append(model.vision(golden.given["pixels"])))
    assert torch.equal(made[0], last)  # no norm behind the last block
    assert_near(first, golden.wanted["block_first"])
    assert_near(last, golden.wanted["block_last"])
    assert_near(model.vision_norm(last), golden.wanted["ln_vision"])


def pos_embed_interpolation(model: Parts, golden: Golden) -> None:
    positions, side = golden.given["pos_embed"], golden.settings["to_grid"]
    assert positions.shape[1] == 1 + golden.settings["from_grid"] ** 2
    assert torch.equal(model.vision.positions, positions)
    assert_near(resize_positions(positions, side, side), golden.wanted["pos_embed"])


def qformer(model: Parts, golden: Golden) -> None:
    former, image = model.qformer, golden.given["image_embeds"]
    assert [i for i, block in enumerate(former.blocks) if block.cross] == golden.settings["cross_attention_layers"]
    hidden = outputs([former.norm, *former.blocks], lambda: former(image))
    for i, value in enumerate(hidden):
        assert_near(value, golden.wanted[f"hidden_{i}"])
    assert f"hidden_{len(hidden)}" not in golden.wanted
    assert_near(former(image), golden.wanted["last_hidden_state"])


def qformer_masked(model: Parts, golden: Golden) -> None:
    real = golden.given["encoder_attention_mask"].bool()
    assert not real.all()
    assert_near(model.qformer(golden.given["image_embeds"], real), golden.wanted["last_hidden_state"])


CHECKS = {
    "vit": vit,
    "pos_embed_interpolation": pos_embed_interpolation,
    "qformer": qformer,
    "qformer_masked": qformer_masked,
}


@pytest.mark.parametrize("name", [name for name in CASES if name in CHECKS])
def test_case(name: str, model: Parts) -> None:
    with torch.no_grad():
        CHECKS[name](model, GOLDENS[name])


def blip2_features(model: Parts, golden: Golden) -> None:
    wanted, ids, real = golden.wanted, golden.given["text_ids"], golden.given["text_mask"].bool()
    image = model.see(golden.given["pixels"])
    memory = Memory()
    queries = model.qformer(image, attend=memory.keep)
    assert_near(queries, wanted["image_queries"])
    features = model.heads.image_features(queries)
    assert_near(features, wanted["image_feats"])

    text = model.qformer.read_text(ids, real)
    assert_near(text[real], wanted["text_hidden"][real])
    words = model.heads.text_features(text)
    assert_near(words[real], wanted["text_feats_all"][real])
    assert_near(words[:, 0], wanted["text_feat"])

    similarity = model.heads.similarity(features, words[:, 0])
    assert_near(similarity, wanted["sim_i2t"])
    assert_near(similarity.T, wanted["sim_t2i"])
    same, there = torch.eye(len(ids)).bool(), torch.ones(len(ids)).bool()
    ways = [info_nce(rows, same, there, ReadAndTell().smoothing).mean() for rows in (similarity, similarity.T)]
    assert_near(sum(ways) / 2, wanted["loss_itc"], LOSSES)

    both = model.qformer.read_both(image, ids, real)[:, : model.qformer.config.queries]
    assert_near(both, wanted["multimodal_queries"])
    assert_near(model.heads.match(both), wanted["itm_logits"])

    given = ids.clone()
    given[:, 0] = golden.settings["decoder_bos"]
    table = model.qformer.text.words.weight
    logits = model.heads.captioning(model.qformer.continue_text(given, real, memory), table)
    assert_near(logits[real], wanted["lm_logits"][real])
    texts = Captions(ids=ids, real=real, told=there)
    told = ReadAndTell().caption(model.qformer, model.heads, texts, memory, golden.settings["decoder_bos"])
    assert_near(told / real[:, 1:].sum(), wanted["loss_lm"], LOSSES)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("blip2_")])
def test_blip2(name: str, blip2: Parts) -> None:
    with torch.no_grad():
        blip2_features(blip2, GOLDENS[name])


def test_constants_that_no_tolerance_separates(model: Parts) -> None:
    assert (EVA_VIT_G.eps, BLIP2_QFORMER.eps, BLIP2_QFORMER.cross_every) == (1e-6, 1e-12, 2)
    norms = {"vision": vit_config().eps, "vision_norm": CONFIG["vit"]["ln_vision_eps"], "qformer": qformer_config().eps}
    for name, eps in norms.items():
        assert {part.eps for part in model.get_submodule(name).modules() if isinstance(part, nn.LayerNorm)} == {eps}
    for block in model.vision.blocks:
        assert not block.attention.qkv.bias.chunk(3)[1].any()  # keys have no bias


def round_trip(table: KeyMap, weights: dict[str, Tensor], parts: Parts) -> None:
    """Imported and exported again, nothing but what is ignored is lost, and no bit is changed."""
    wanted = {name: shape for name, shape in shapes(parts).items() if table.published(name)}
    report = table.report({key: tuple(tensor.shape) for key, tensor in weights.items()}, wanted)
    assert (report.missing, report.unexpected, report.misshapen) == ([], [], {})
    written = dict(table.write(table.read(weights.items(), wanted)))
    kept = {key: tensor for key, tensor in weights.items() if key not in report.ignored}
    assert kept.keys() <= written.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in kept.items())
    assert all(report.ignored[key].startswith("repeats ") for key in written.keys() - kept.keys() if key in weights)


def test_weights_come_back() -> None:
    round_trip(ASSEMBLED, GOLDENS.weights(), tiny())
    round_trip(BLIP2_STAGE1_FILE, blip2_weights(), tiny(text=True))
