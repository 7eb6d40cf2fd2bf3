"""The VQGAN, image preprocessing and losses of CM3Leon's parents against taming's and Chameleon's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden import GRADIENTS, LOSSES, MODULES, PIXELS, Golden, Goldens, assert_near
from torch import Tensor, nn

from plait import images
from plait.checkpoints.parts import VQGAN as TABLE
from plait.checkpoints.parts import shape_of, vqgan_sizes
from plait.config import from_plain
from plait.document import Image
from plait.nn.vqgan import VQGAN, VQGANConfig
from plait.objectives.reconstruction import Reconstruct, hinge, per_picture

GOLDENS = Goldens("cm3leon")
FOLDER, CONFIG = GOLDENS.folder, GOLDENS.config
PREFIXES = ("vq", "preprocess_rgb", "postprocess")
CASES = [name for name in GOLDENS.cases if name.startswith(PREFIXES)]


def build() -> VQGAN:
    sizes: Mapping[str, Any] = CONFIG["vqgan"]
    published = sizes["ddconfig"]
    assert published["out_ch"] == published["in_channels"]
    assert not published["double_z"]
    expected = VQGANConfig(
        resolution=published["resolution"],
        in_channels=published["in_channels"],
        channels=published["ch"],
        multipliers=tuple(published["ch_mult"]),
        blocks=published["num_res_blocks"],
        attention_resolutions=tuple(sorted(published["attn_resolutions"], reverse=True)),
        latent_channels=published["z_channels"],
        code_width=sizes["embed_dim"],
        codes=sizes["n_embed"],
        dropout=published["dropout"],
    )
    state = weights()
    found = vqgan_sizes(shape_of(shapes(state)), published["resolution"])
    assert from_plain(VQGANConfig, {**found, "dropout": published["dropout"]}) == expected
    model = VQGAN(expected)
    model.load_state_dict(dict(TABLE.read(state.items(), shapes(model.state_dict()))))
    return model.eval()


def weights() -> dict[str, Tensor]:
    """By taming's and Chameleon's names."""
    named = GOLDENS.weights().items()
    return {key.removeprefix("vqgan/"): tensor for key, tensor in named if key.startswith("vqgan/")}


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def part_of(model: VQGAN, name: str) -> nn.Module:
    """The module that takes the weights of a published one."""
    for ours in model.state_dict():
        (key,) = TABLE.published(ours) or ("",)
        if key and key.startswith(f"{name}."):
            return model.get_submodule(ours.removesuffix(key.removeprefix(name)))
    raise KeyError(name)


@pytest.fixture(scope="module")
def model() -> VQGAN:
    return build()


def whole(model: VQGAN, golden: Golden) -> None:
    pixels = golden.given["pixels"]
    with torch.no_grad():
        made = model(pixels)
        values = {
            "encoder": model.encoder(pixels),
            "pre_quant": made.quantised.inputs,
            "quantized": made.quantised.vectors,
            "post_quant": model.from_codes(made.quantised.vectors),
            "reconstruction": made.pixels,
        }
        again = model.decode(model.encode(pixels))
    for name, value in values.items():
        assert_near(value, golden.wanted[name], MODULES)
    assert torch.equal(made.quantised.ids.flatten(), golden.wanted["indices"])
    assert list(made.quantised.ids.shape[1:]) == golden.settings["latent_hw"]
    assert golden.settings["legacy_beta"]
    loss = made.quantised.commitment.mean() + golden.settings["beta"] * made.quantised.codebook.mean()
    assert_near(loss, golden.wanted["codebook_loss"], LOSSES)
    assert_near(again, golden.wanted["reconstruction"], MODULES)


def module(model: VQGAN, golden: Golden) -> None:
    part = part_of(model, golden.settings["module"])
    with torch.no_grad():
        assert_near(part(golden.given["x"]), golden.wanted["y"], MODULES)


def codebook_entry(model: VQGAN, golden: Golden) -> None:
    b, h, w, c = golden.settings["shape"]
    ids = golden.given["indices"].view(b, h, w)
    with torch.no_grad():
        vectors = model.quantiser.lookup(ids)
        assert vectors.shape[-1] == c
        assert_near(vectors.movedim(-1, 1), golden.wanted["latent"], MODULES)
        assert_near(model.decode(ids), golden.wanted["image"], MODULES)


def training_loss(model: VQGAN, golden: Golden) -> None:
    beta, wanted = golden.settings["beta"], golden.wanted
    model = build()  # its gradients are its own
    objective = Reconstruct(pixel="absolute", codebook=beta, commitment=1.0)
    batch = SimpleNamespace(images=golden.given["pixels"])
    terms = objective(SimpleNamespace(image_tokenizer=model), {}, batch, torch.Generator())
    counts = objective.counts(batch)
    means = {name: value / counts[name] for name, value in terms.items()}
    total = sum(objective.weights()[name] * value for name, value in means.items())
    assert isinstance(total, Tensor)
    total.backward()
    assert_near(means["pixel"], wanted["l1"], LOSSES)
    assert_near(means["commitment"] + beta * means["codebook"], wanted["codebook_legacy"], LOSSES)
    assert_near(beta * means["commitment"] + means["codebook"], wanted["codebook_fixed"], LOSSES)
    assert_near(total, wanted["total"], LOSSES)
    for name, weight in (
        ("grad_conv_in", model.encoder.conv_in.weight),
        ("grad_codebook", model.quantiser.codebook.weight),
        ("grad_conv_out", model.decoder.conv_out.weight),
    ):
        assert weight.grad is not None
        assert_near(weight.grad, wanted[name], GRADIENTS)
    real, fake = golden.given["logits_real"], golden.given["logits_fake"]
    assert_near(hinge(real, fake).mean(), wanted["hinge_d"], LOSSES)
    # The mean may cancel to nearly 0, where the order of summation shows: judged by the size of its terms.
    assert (-per_picture(fake).mean() - wanted["g_loss"]).abs() <= LOSSES * fake.abs().mean()


def preprocess(model: VQGAN, golden: Golden) -> None:
    picture = Image(FOLDER / golden.settings["file"]).open()
    if (FOLDER / golden.settings["file"]).name.startswith("rgb_"):
        assert np.array_equal(np.asarray(picture), golden.given["png_rgb"].numpy())
    values = images.to_array(images.resize_and_crop(picture, golden.settings["size"]))
    assert_near(torch.from_numpy(values)[None], golden.wanted["pixels"], PIXELS)


def postprocess(model: VQGAN, golden: Golden) -> None:
    picture = images.from_array(golden.given["chw"].numpy())
    assert np.array_equal(np.asarray(picture), golden.wanted["uint8"].numpy())


CHECKS = {
    "vqgan_": whole,
    "vq_codebook_entry": codebook_entry,
    "vq_training_loss": training_loss,
    "vq_": module,
    "preprocess_rgb": preprocess,
    "postprocess": postprocess,
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, model: VQGAN) -> None:
    check = next(check for prefix, check in CHECKS.items() if name.startswith(prefix))
    check(model, GOLDENS[name])


def test_the_weights_come_back(model: VQGAN) -> None:
    back = dict(TABLE.write(model.state_dict().items()))
    assert back.keys() == weights().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in weights().items())


def test_constants_that_no_tolerance_separates(model: VQGAN) -> None:
    norms = [part for part in model.modules() if isinstance(part, nn.GroupNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert {norm.num_groups for norm in norms} == {32}
