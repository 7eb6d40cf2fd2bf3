"""Decoding of CM3Leon, pictures and infills by the one engine, against loops over metaseq's decoder and numpy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import torch
from golden import MODULES, Golden, Goldens, assert_near
from test_cm3leon import build, config
from torch import Tensor

from plait.document import Blank, Document, Image, Text
from plait.generate.engine import GREEDY, Engine, Settings
from plait.generate.sampling import Joined, distribution, draw
from plait.sequence import Sequence, tokens
from plait.systems.base import Contrast, Guidance, Next, Stop
from plait.systems.cm3leon import CM3Leon
from plait.text.bpe import BPE

GOLDENS = Goldens("cm3leon")
CONFIG = GOLDENS.config
ARITHMETIC = 1e-12  # float64
CASES = [name for name in GOLDENS.cases if name.startswith("generate_")]


class Letters(BPE):
    """A text vocabulary of one letter an id."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return int(CONFIG["text_tokens"])

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("A") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("A") + id) for id in ids)


def read(prompt: list[int], system: CM3Leon, monkeypatch: pytest.MonkeyPatch) -> Document:
    """The document of a prompt that ends with <break>, or with the end and <infill>; its pictures have these codes."""
    voc, runs = system.vocabulary, []
    drawn = prompt[-1] == voc.brk
    body = prompt[1:-1] if drawn else prompt[1:-2]
    assert prompt == [voc.eos, *body, *([voc.brk] if drawn else [voc.eos, voc.first_sentinel])]
    for id in body:
        if not runs or id == voc.brk:
            runs.append([])
        if id != voc.brk:
            runs[-1].append(id)
    codes = [run for run in runs if voc.first_code <= run[0] < voc.eoss]
    monkeypatch.setattr(system, "codes", lambda pictures: torch.tensor(codes * len(pictures))[: len(pictures)])
    pieces: list[Text | Blank | Image] = []
    for run in runs:
        if run in codes:
            pieces.append(Image(PIL.Image.new("RGB", (8, 8))))
        elif run == [voc.first_sentinel]:
            pieces.append(Blank("text"))
        else:
            pieces.append(Text(system.format.text.decode([id - voc.first_text for id in run])))
    return Document([*pieces, Blank("image")] if drawn else pieces)


def codes_of_a_picture(golden: Golden) -> int:
    if "image_tokens" in golden.settings:
        height, width = golden.settings["latent_hw"]
        assert height * width == golden.settings["image_tokens"]
        return int(height * width)
    vocabulary, prompt = CONFIG["vocab"], golden.given["full" if "full" in golden.given else "prompt"].tolist()
    return sum(vocabulary["image_first"] <= id <= vocabulary["image_last"] for id in prompt)


def filled(system: CM3Leon, document: Document, settings: Settings) -> list[list[int]]:
    """The ids of the rows of a request, pictures as their codes."""
    rows = []
    for row in system.format.streams(document, settings.guided).rows:
        ids = row.ids()
        if (ids < 0).any():
            ids[ids < 0] = system.codes(torch.zeros(1, 3, 8, 8))[0].numpy()
        rows.append(ids.tolist())
    return rows


@torch.no_grad()
def logits(system: CM3Leon, row: list[int]) -> Tensor:
    batch = system.format.collator()([[Sequence((tokens(row),))]], shift=False)
    return system.unembed(system(batch).states[0, -1])


def settings_of(name: str, given: dict[str, Any]) -> Settings:
    if name == "generate_infill":
        return Settings(max_new_tokens=given["max_new"])
    if name == "generate_edit_two_guidance":
        return Settings(guidance=given["text_guidance"], image_guidance=given["image_guidance"], image=GREEDY)
    if "k" in given:
        return Settings(contrast=Contrast(alpha=given["alpha"], k=given["k"]), image=GREEDY)
    return Settings(guidance=given["alpha"], image=GREEDY)


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = GOLDENS[name]
    codes = codes_of_a_picture(golden)
    side = round(codes**0.5)
    assert side * side == codes
    system, settings = build(side * config().image.factor), settings_of(name, golden.settings)
    monkeypatch.setattr(system.format, "text", Letters())
    given = [prompt.tolist() for prompt in golden.given.values()]
    document = read(given[0], system, monkeypatch)
    rows = filled(system, document, settings)
    assert rows == given[: len(rows)] and len(rows) >= len(given) - settings.guided.plain
    voc = system.vocabulary
    if name == "generate_infill":  # the reference says anything; Plait's grammar, text alone
        anything = torch.ones(len(voc), dtype=torch.bool)
        step = Next(kind="text", head="token", allowed=anything, ends=frozenset([golden.settings["stop"]]))
        monkeypatch.setattr(system.format, "grammar", lambda *_: lambda emitted: Stop("filled") if emitted else step)
    (reply,) = Engine(system).run([document], [settings])
    found, wanted = reply.runs[0].ids, golden.wanted["tokens"].tolist()
    assert found[: len(wanted)] == wanted
    if "image" in golden.wanted:
        scores(system, golden, settings)
        grid = system.config.image.grid
        with torch.no_grad():
            pixels = system.image_tokenizer.decode(torch.tensor(found).view(1, grid, grid) - voc.first_code)
        assert_near(pixels, golden.wanted["image"], MODULES)


def scores(system: CM3Leon, golden: Golden, settings: Settings) -> None:
    """The logits of the first step, and how they are joined."""
    rows = [logits(system, prompt.tolist()).double() for prompt in golden.given.values()]
    for row, name in zip(rows, ("first_cond_logits", "first_uncond_logits"), strict=True):
        assert_near(row, golden.wanted[name], MODULES)
    join = settings.guided.streams(Sequence(()), lambda: Sequence(())).joins["image"]
    joined = Joined.of([join], torch.device("cpu"), torch.float64)
    made, left = joined(torch.stack(rows[: len(join.weights)]), system.vocabulary.allow(codes=True)[None])
    masked_near(made.masked_fill(~left, -torch.inf)[0], golden.wanted["first_scores"], MODULES)


def masked_near(value: Tensor, golden: Tensor, tolerance: float) -> None:
    """-1e30 stands for minus infinity."""
    finite = golden > -1e29
    assert torch.equal(value.isfinite(), finite)
    assert_near(value[finite], golden[finite], tolerance)


# ------------------------------------------------------------------------------------------------ arithmetic

ARITHMETIC_CASE = GOLDENS["decoding_arithmetic"]
COND, UNCOND, IMAGE, UNIFORMS = (ARITHMETIC_CASE.given[n] for n in ("cond", "uncond", "image_only", "uniforms"))
ALL = torch.ones_like(COND, dtype=torch.bool)


def each(value: float) -> Tensor:
    return torch.full((len(COND),), value, dtype=torch.float64)


def guided(guidance: Guidance) -> Tensor:
    """What the requests with these logits are drawn from."""
    nothing = Sequence(())
    join = guidance.streams(nothing, lambda: nothing, lambda: nothing).joins["image"]
    given = {1: (COND,), 2: (COND, UNCOND), 3: (COND, IMAGE, UNCOND)}[len(join.weights)]
    joined = Joined.of([join] * len(COND), torch.device("cpu"), torch.float64)
    made, _ = joined(torch.stack(given, 1).flatten(0, 1), ALL)
    return made


def check_cfg(scale: str) -> dict[str, Tensor]:
    return {"": guided(Guidance(scale=float(scale)))}


def check_two_scales(image: str, text: str) -> dict[str, Tensor]:
    return {"": guided(Guidance(scale=float(text), image=float(image)))}


def check_temperature(temperature: str) -> dict[str, Tensor]:
    return {"": distribution(COND, each(float(temperature)), each(1.0))}


def check_top_p(top_p: str) -> dict[str, Tensor]:
    left = distribution(COND, each(1.0), each(float(top_p)))
    return {"_keep": left > 0, "_probs": left / left.sum(-1, keepdim=True)}


def check_contrast(alpha: str, k: str) -> dict[str, Tensor]:
    score = guided(Guidance(contrast=Contrast(alpha=float(alpha), k=int(k))))
    best, _ = draw(score, ALL, each(0.0), each(1.0), UNIFORMS.float())
    probs = distribution(score, each(1.0), each(1.0))
    return {"_keep": score.isfinite(), "_score": score, "_probs": probs, "_argmax": best}


def check_sample(scale: str, temperature: str, top_p: str) -> dict[str, Tensor]:
    logits = guided(Guidance(scale=float(scale)))
    return {"": draw(logits, ALL, each(float(temperature)), each(float(top_p)), UNIFORMS.float())[0]}


RULES: dict[str, Callable[..., dict[str, Tensor]]] = {
    r"(cfg_([\d.]+))": check_cfg,
    r"(cfg_image([\d.]+)_text([\d.]+))": check_two_scales,
    r"(temperature_([\d.]+))": check_temperature,
    r"(top_p_([\d.]+))_\w+": check_top_p,
    r"(cdk_a([\d.]+)_k(\d+))_\w+": check_contrast,
    r"(sample_cfg([\d.]+)_t([\d.]+)_p([\d.]+))": check_sample,
}


@pytest.mark.parametrize("name", ["decoding_arithmetic"])
def test_arithmetic(name: str) -> None:
    wanted = dict(GOLDENS[name].wanted)
    expert = wanted.pop("cd_expert_probs")
    assert_near(COND.softmax(-1), expert, ARITHMETIC)
    while wanted:
        first = next(iter(wanted))
        (found, check), *_ = [(m, check) for rule, check in RULES.items() if (m := re.fullmatch(rule, first))]
        stem, *numbers = found.groups()
        for ending, value in check(*numbers).items():
            golden = wanted.pop(stem + ending)
            if value.dtype.is_floating_point:
                masked_near(value, golden, ARITHMETIC)
            else:
                assert torch.equal(value, golden)
