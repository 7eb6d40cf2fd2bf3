"""Emu's stages: what trains and how fast, two steps of each, what is drawn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import plait
from plait.checkpoints.directory import load, save
from plait.data.packs import Alternating, Data
from plait.data.shapes import Shapes
from plait.data.shards import ShardWriter
from plait.document import Blank, Document, Image, Turn, Video
from plait.errors import ConfigError
from plait.evaluate import shapes
from plait.evaluate.shapes import Held
from plait.nn.diffusion import VectorDiffusion
from plait.nn.lora import LoRA
from plait.recipes import emu, find, foundations
from plait.recipes.emu import PRETRAINING, Stable, widen
from plait.systems.emu import CANVAS, EMU_I, TINY, Emu, EmuConfig, build
from plait.systems.foundations import DRAWERS as FOUNDATIONS
from plait.train.optim import assign
from plait.train.run import Run, shortened
from plait.train.stage import Recipe, Stage

TIMES = ("tokens_per_s", "wait_s", "step_s", "elapsed_s")


def small(recipe: Recipe, steps: int = 2) -> Recipe:
    """A few steps of two rows a stage, in fp32."""

    def fewer(data: Data | Alternating) -> Data | Alternating:
        if isinstance(data, Alternating):
            return replace(data, sets={name: replace(one, rows=2, window=8) for name, one in data.sets.items()})
        return replace(data, rows=2, window=16)

    def of(stage: Stage) -> Stage:
        return replace(stage, precision="fp32", data=fewer(stage.data), accumulate=min(stage.accumulate, 2))

    return shortened(replace(recipe, stages=tuple(map(of, recipe.stages)), probes=recipe.probes[-1:]), steps)


def go(recipe: Recipe, folder: Path) -> Path:
    torch.manual_seed(0)
    Run(recipe, folder).train()
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def noise(i: int, side: int = 16) -> Image:
    return Image(PIL.Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A directory of documents for each set."""
    folder = tmp_path_factory.mktemp("data")
    page = ["one", noise(0), "two", noise(1), "three"]
    made = {
        "laion-coco": [Document([f"picture {i}", noise(i)]) for i in range(6)],
        "mmc4": [Document(page * 4)] * 4,
        "webvid": [Document([Video(tuple(noise(i) for i in range(10))), "ten"])] * 4,
        "talks": [Document([Turn("user", [noise(3), "what is it?"]), Turn("assistant", "noise")])] * 4,
    }
    for name, documents in made.items():
        with ShardWriter(folder / name) as writer:
            for i, document in enumerate(documents):
                writer.add(f"{i}", document)
    return {name: str(folder / name) for name in made}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(build("tiny"), tmp_path_factory.mktemp("base") / "saved")


def pretraining(data: dict[str, str]) -> str:
    return f"data={{laion-coco: {data['laion-coco']}, mmc4: {data['mmc4']}, webvid: {data['webvid']}}}"


# ------------------------------------------------------------------------------------------------- published


def test_pretraining_has_the_published_numbers(data: dict[str, str]) -> None:
    (stage,) = find("emu/paper", ["base=nowhere", pretraining(data)]).stages
    assert (stage.name, stage.steps, stage.accumulate) == ("pretrain", 10_000, 3)
    assert isinstance(stage.data, Alternating)
    assert {name: one.rows // emu.CARDS for name, one in stage.data.sets.items()} == {
        "laion-coco": 128,
        "mmc4": 64,
        "webvid": 16,
    }
    total = sum(one.rows for one in PRETRAINING.values()) * emu.CARDS * 10_000
    assert total == pytest.approx(82e6, rel=0.05)  # samples, of five sets
    names = [name for name, _ in build("tiny").named_parameters()]
    optimisers = stage.updates[0].optimisers
    rates = {
        o.lr: {name.split(".")[0] for name in taken}
        for o, taken in zip(optimisers, assign(optimisers, names), strict=True)
    }
    assert rates == {
        4e-5: {"vision", "vision_norm"},
        3e-5: {"language"},
        1e-4: {"cformer", "projection", "regression"},
    }
    assert {(o.betas, o.eps, o.weight_decay) for o in optimisers} == {((0.9, 0.98), 1e-6, 0.05)}
    assert [stage.schedule.factor(step, 10_000) for step in (1999, 2000, 10_000)] == pytest.approx([1.0, 1.0, 0.0])
    mixed = find("emu/paper", ["base=nowhere", pretraining(data), "mixed=true"]).stages[0]
    assert isinstance(mixed.data, Data) and mixed.data.shares == {"laion-coco": 128.0, "mmc4": 64.0, "webvid": 16.0}


def test_the_decoder_has_the_published_numbers(data: dict[str, str]) -> None:
    (stage,) = find("emu/paper", ["base=nowhere", f"captions={data['laion-coco']}"]).stages
    assert (stage.name, stage.steps, stage.data.rows) == ("visual_decoder", 15_000, 1600)
    (update,) = stage.updates
    (optimiser,) = update.optimisers
    assert (optimiser.train, optimiser.lr, optimiser.betas, optimiser.weight_decay) == (
        ("decoder.diffusion.unet.*",),
        1e-4,
        (0.9, 0.999),
        1e-2,
    )
    rates = [1e-4 * stage.schedule.factor(step, 15_000) for step in (0, 4999, 9999, 10_000, 13_999, 14_000, 14_999)]
    assert rates == pytest.approx([2e-8, 1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5])
    both = f"captions=[{data['laion-coco']}, {data['mmc4']}]"
    assert find("emu/paper", ["base=nowhere", both]).stages[0].data.shares == {"laion-coco": 7.0, "mmc4": 2.0}


def test_adapters_have_the_published_numbers(data: dict[str, str]) -> None:
    (stage,) = find("emu/paper", ["base=nowhere", f"instructions={data['talks']}"]).stages
    assert (stage.name, stage.steps, stage.data.rows) == ("instruct", 10_000, 128)
    system = build("tiny")
    for change in stage.before:
        change(system)
    assert system.config.lora == EMU_I and system.config.tuned and len(system.format.text) == 320 + 6
    taken = assign(stage.updates[0].optimisers, [name for name, _ in system.named_parameters()])
    assert {name.rsplit(".", 1)[1] for name in taken[0]} == {"up", "down"} and len(taken[0]) == 4 * 4


def test_what_is_missing_is_said(data: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="emu/paper has no data: give --set data="):
        find("emu/paper", ["base=nowhere"])
    with pytest.raises(ConfigError, match="no set 'laion3'; did you mean 'laion'"):
        find("emu/paper", ["base=nowhere", f"data={{laion3: {data['mmc4']}}}"])


def test_two_steps_of_the_published_stages(base: Path, data: dict[str, str], tmp_path: Path) -> None:
    given = [pretraining(data), f"captions={data['laion-coco']}", f"instructions={data['talks']}"]
    folder = go(small(find("emu/paper", [f"base={base}", *given])), tmp_path / "run")
    found = records(folder)
    assert [r["stage"] for r in found] == ["pretrain"] * 2 + ["visual_decoder"] * 2 + ["instruct"] * 2
    assert all(r["skipped"] == r["broken"] == r["cut"] == 0 for r in found)
    assert {name for name in found[0] if name.startswith("loss/")} == {"loss/token", "loss/vector"}
    states = [load(path).state_dict() for path in sorted((folder / "checkpoints").glob("step-*"))]
    assert parts(moved(load(base).state_dict(), states[0])) == {
        "vision",
        "vision_norm",
        "cformer",
        "projection",
        "language",
        "regression",
    }
    assert all(name.startswith("decoder.diffusion.unet.") for name in moved(*states[:2])) and moved(*states[:2])
    assert moved(*states[1:]) == {"language.embed.weight", "language.head.weight"} & moved(*states[1:])
    assert all(states[2][name].any() for name in states[2] if name.endswith(".up"))
    assert torch.equal(states[1]["language.embed.weight"], states[2]["language.embed.weight"][:-2])  # two words more
    reply = plait.load(folder).generate(Document([Turn("user", [noise(0), "what?"])]), max_new_tokens=3)
    assert len(reply.runs[0].ids) <= 3
    drawn = plait.load(folder).generate(Document(["a", Blank("image")]), guidance=2.0)
    assert drawn.document.images[0].open().size == (32, 32)


# ----------------------------------------------------------------------------------------------------- decoder


def test_a_wider_decoder_keeps_what_does_not_look(base: Path) -> None:
    torch.manual_seed(1)
    sizes = TINY.decoder
    assert sizes is not None
    given = VectorDiffusion(replace(sizes, unet={**sizes.unet, "cross_attention_dim": 48}))
    system = build("tiny")
    widen(system, given)
    assert system.decoder is not None and system.config.decoder is not None
    assert system.config.decoder.unet["cross_attention_dim"] == TINY.language.width
    wide, narrow = system.decoder.state_dict(), given.state_dict()
    other = (
        {name for name in narrow if not torch.equal(wide[name], narrow[name])}
        if wide.keys() == narrow.keys()
        else set()
    )
    assert other and all(
        name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight", ".look.kv.weight")) for name in other
    )


def test_the_decoder_begins_as_stable_diffusion(tmp_path: Path) -> None:
    torch.manual_seed(1)
    sizes = TINY.decoder
    assert sizes is not None
    given = VectorDiffusion(replace(sizes, unet={**sizes.unet, "in_channels": 8, "cross_attention_dim": 48}))
    diffusion = given.diffusion
    diffusion.unet.save_pretrained(tmp_path / "unet")
    diffusion.vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(sizes.scheduler)))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    system = build("tiny")
    Stable(folder=str(tmp_path))(system)
    assert system.decoder is not None
    name = "diffusion.unet.conv_in.weight"
    torch.testing.assert_close(system.decoder.state_dict()[name], given.state_dict()[name])
    assert system.decoder.diffusion.config.steps == 50
    assert system.format.preprocess()[CANVAS].shape == (3, 32, 32)


# -------------------------------------------------------------------------------------------------------- tiny


@pytest.fixture(scope="module")
def drawers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Foundations with random weights, which draw in two steps."""
    torch.manual_seed(2)
    assert FOUNDATIONS.drawers is not None
    quick = replace(FOUNDATIONS.drawers, painter=replace(FOUNDATIONS.drawers.painter, steps=2))
    source = Shapes(seed=0, length=20, mix={"describe": 1.0})
    system = foundations.build(replace(FOUNDATIONS, drawers=quick), source)
    return str(save(system, tmp_path_factory.mktemp("drawers") / "saved"))


@pytest.fixture
def grounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emu, "ensure_drawers", lambda drawers, foundations: Path(drawers))


@pytest.mark.usefixtures("grounded")
def test_foundations_are_taken_and_the_rest_is_new(drawers: str) -> None:
    given = emu.grounds(drawers, "")
    system, other = emu.founded(drawers, "", 0), emu.founded(drawers, "", 1)
    assert moved(system.vision.state_dict(), given.vision.state_dict()) == set()
    table, old = system.language.embed.weight, given.language.embed.weight
    assert torch.equal(table[: len(old)], old) and len(table) == len(old) + 4
    torch.testing.assert_close(table[-1], old.mean(0))
    assert not torch.equal(system.regression.weight, other.regression.weight)
    assert torch.equal(system.cformer.queries, emu.founded(drawers, "", 0).cformer.queries)
    assert isinstance(system.config, EmuConfig) and system.config.image_message == emu.TINY_MESSAGE
    assert system.decoder is not None
    vae = {name: one for name, one in given.painter.state_dict().items() if ".vae." in name}
    assert vae and moved(vae, system.decoder.state_dict()) == set()


@pytest.mark.usefixtures("grounded")
def test_two_steps_of_every_stage(drawers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "CAPTION_TOKENS", 5)
    few = Held(scenes=1, never_seen=0, three=0)

    def fewer(tasks: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(task, held=few) if hasattr(task, "held") else replace(task, count=2) for task in tasks)

    recipe = small(find("emu/tiny", [f"drawers={drawers}"]))
    stages = tuple(replace(stage, tasks=fewer(stage.tasks)) for stage in recipe.stages)
    folder = go(replace(recipe, stages=stages, tasks=fewer(recipe.tasks)), tmp_path / "run")
    assert [r["stage"] for r in records(folder)] == [name for name in emu.TINY_STEPS for _ in range(2)]
    assert all(r["skipped"] == r["broken"] == r["cut"] == 0 for r in records(folder))
    scores = json.loads((folder / "scores.json").read_text())
    assert list(scores) == ["pretrain", "visual_decoder", "caption", "vqa", "video"]
    assert set(scores["visual_decoder"]) == {"draw", "in_context"}
    assert scores["pretrain"]["examples"]["random"].keys() == {"0", "2", "4", "8"}
    system = load(folder)
    assert isinstance(system, Emu) and system.config.tuned
    assert isinstance(system.get_submodule("language.decoder.blocks.0.attention.qkv"), LoRA)
    page = (folder / "report.html").read_text()
    assert "<h4>examples</h4>" in page and page.count("data:image/png;base64") >= 3  # a blend of two


def test_another_seed_is_another_run() -> None:
    for one, two in zip(find("emu/tiny").stages, find("emu/tiny", ["seed=1"]).stages, strict=True):
        assert one.data.seed != two.data.seed and one.seed != two.seed


def test_arms_of_findings_are_settings() -> None:
    plain, pairs = find("emu/tiny"), find("emu/tiny", ["interleaved=false", "regression=false"])
    assert set(plain.stages[1].data.sources) == {"captions", *emu.TINY_PAGES}
    assert set(pairs.stages[1].data.sources) == {"captions", *emu.ALONE}
    assert [recipe.stages[1].updates[0].objective.weight for recipe in (plain, pairs)] == [1.0, 0.0]


def test_all_pages_are_laid_out(tmp_path: Path) -> None:
    """Each source gives documents that Emu has a place for, none longer than a row."""
    stage = find("emu/tiny").stages[1]
    format = build("tiny").format
    for name, source in stage.data.sources.items():
        lengths = [len(format.layout(source[i], generator=np.random.default_rng(i))) for i in range(20)]
        assert min(lengths) > 2, name
