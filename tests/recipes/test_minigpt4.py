"""MiniGPT-4's stages: what trains and how fast, two steps of each, and going on within the stage of adapters."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import plait
from plait.checkpoints.directory import find as newest
from plait.checkpoints.directory import load, load_as, save
from plait.config import read_yaml
from plait.data.crops import RandomCrop
from plait.data.shapes import Shapes
from plait.data.shards import ShardWriter
from plait.document import Document, Image, Turn
from plait.errors import CheckpointError, ConfigError, InputError
from plait.evaluate import shapes
from plait.evaluate.shapes import Held, ShapesDescription
from plait.nn.lora import LoRA, LoRAConfig
from plait.recipes import find, foundations, minigpt4
from plait.recipes.minigpt4 import align_stage
from plait.systems.foundations import TINY as FOUNDATIONS
from plait.systems.minigpt4 import MiniGPT4, build
from plait.train.adapters import Adapt, merge
from plait.train.optim import assign
from plait.train.run import Run, shortened
from plait.train.stage import Recipe, Schedule, Stage

TIMES = ("tokens_per_s", "wait_s", "step_s", "elapsed_s")


class Kill:
    """A sink that ends the process, so to say, with the record of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def write(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step:
            raise KeyboardInterrupt

    def close(self) -> None:
        pass


def small(recipe: Recipe, steps: int = 2, **changes: Any) -> Recipe:
    """A few steps of two rows a stage, in fp32."""

    def of(stage: Stage) -> Stage:
        return replace(stage, precision="fp32", data=replace(stage.data, rows=2, window=8), **changes)

    return shortened(replace(recipe, stages=tuple(map(of, recipe.stages)), probes=()), steps)


def go(recipe: Recipe, folder: Path, *sinks: Any) -> Path:
    """What `plait train` does."""
    torch.manual_seed(0)
    Run(recipe, folder, sinks=sinks).train()
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).state_dict()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def pairs(folder: Path, count: int = 12) -> str:
    """A directory of pictures with captions, two of a picture each, and among them other forms of documents."""
    with ShardWriter(folder) as writer:
        for i in range(count):
            noise = np.random.default_rng(i).integers(0, 256, (12 + i, 16, 3), dtype=np.uint8)
            picture = Image(PIL.Image.fromarray(noise))
            writer.add(f"{i:04d}", [Document([f"A Picture, number {i}!", picture]), Document([picture, "noise"])])
        talk = [Turn("user", [picture, "what is it?"]), Turn("assistant", "noise"), Turn("user", "and?")]
        writer.add("talk", Document([*talk, Turn("assistant", "no")]))
        writer.add("several", Document([picture, "two", picture]))
        writer.add("words", Document([Turn("user", "2 + 2?"), Turn("assistant", "4")]))
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of tiny sizes, as an import would leave them."""
    torch.manual_seed(0)
    return save(build("tiny"), tmp_path_factory.mktemp("base") / "saved")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pairs(tmp_path_factory.mktemp("data") / "pairs")


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Foundations with random weights."""
    torch.manual_seed(2)
    source = Shapes(seed=0, length=20, mix={"describe": 1.0})
    system = foundations.build(FOUNDATIONS, source)
    return str(save(system, tmp_path_factory.mktemp("foundations") / "saved"))


# ------------------------------------------------------------------------------------------------- published


def test_the_first_stage_has_the_published_numbers(data: str) -> None:
    (stage,) = find("minigpt4/paper", ["base=nowhere", f"data={data}"]).stages
    assert (stage.name, stage.steps, stage.data.rows * stage.accumulate) == ("align", 20_000, 256)
    (update,) = stage.updates
    assert update.clip is None
    assert [(o.train, o.weight_decay) for o in update.optimisers] == [
        (("projection.weight",), 0.05),
        (("projection.bias",), 0.0),
    ]
    assert {(o.kind, o.lr, o.betas, o.eps) for o in update.optimisers} == {("adamw", 1e-4, (0.9, 0.999), 1e-8)}
    rates = [1e-4 * stage.schedule.factor(step, 20_000) for step in (0, 4999, 5000, 20_000)]
    assert rates == pytest.approx([1e-6, 9.998e-5, 9.707e-5, 8e-5], rel=1e-4)
    usual = find("minigpt4/paper", ["base=nowhere", f"data={data}", "released_schedule=false", "crop=false"]).stages[0]
    assert [1e-4 * usual.schedule.factor(step, 20_000) for step in (4999, 5000, 20_000)] == pytest.approx(
        [1e-4, 1e-4, 8e-5]
    )
    assert stage.data.transforms == (RandomCrop(scale=(0.5, 1.0)),) and usual.data.transforms == ()


def test_the_second_stage_has_the_published_numbers(data: str) -> None:
    (stage,) = find("minigpt4/paper", ["base=nowhere", f"curated={data}"]).stages
    assert (stage.name, stage.steps, stage.data.rows) == ("finetune", 1000, 12)
    rates = [3e-5 * stage.schedule.factor(step, 1000) for step in (0, 200, 1000)]
    assert rates == pytest.approx([1e-6, 2.809e-5, 1e-5], rel=1e-3)
    assert len(stage.data.sources["curated"]) == 4 * 27  # each document with each of four prompts


def test_adapters_have_the_published_numbers(data: str) -> None:
    (stage,) = find("minigpt4/v2", ["base=nowhere", f"data={data}"]).stages
    assert (stage.name, stage.steps) == ("instruct", 50_000)
    assert stage.before == (Adapt(lora=LoRAConfig(rank=64, alpha=16.0, dropout=0.05, layers=("q", "v"))),)
    rates = [1e-5 * stage.schedule.factor(step, 50_000) for step in (0, 999, 50_000)]
    assert rates == pytest.approx([1e-6, 1e-5, 1e-6], rel=1e-2)
    system = build("tiny")
    stage.before[0](system)
    names = [name for name, _ in system.named_parameters()]
    decayed, plain = assign(stage.updates[0].optimisers, names)
    adapters = {f"language.decoder.blocks.{i}.attention.qkv.{side}" for i in range(4) for side in ("down", "up")}
    assert set(decayed) == adapters | {"projection.weight"} and plain == ["projection.bias"]


def test_two_directories_are_mixed_as_published(tmp_path: Path) -> None:
    both = f"data=[{pairs(tmp_path / 'laion', 2)}, {pairs(tmp_path / 'cc_sbu', 2)}]"
    (stage,) = find("minigpt4/paper", ["base=nowhere", both]).stages
    assert stage.data.shares == {"laion": 115.0, "cc_sbu": 14.0}
    (stage,) = find("minigpt4/v2", ["base=nowhere", both, "shares=[1, 3]"]).stages
    assert stage.data.shares == {"laion": 1.0, "cc_sbu": 3.0}
    with pytest.raises(ConfigError, match="1 shares for 2 directories of data"):
        find("minigpt4/v2", ["base=nowhere", both, "shares=[1]"])
    with pytest.raises(ConfigError, match="2 directories of data with 1 names"):
        find("minigpt4/paper", ["base=nowhere", f"data=[{tmp_path / 'laion'}, {tmp_path / 'laion'}]"])


def test_what_is_missing_is_said(base: Path, data: str, grounds: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="minigpt4/paper needs a value for base"):
        find("minigpt4/paper")
    with pytest.raises(ConfigError, match=r"has no data: give --set data=DIR"):
        find("minigpt4/paper", [f"base={base}"])
    with pytest.raises(CheckpointError, match="no such directory"):
        find("minigpt4/paper", ["base=nowhere", f"data={data}"]).build()
    with pytest.raises(CheckpointError, match="holds foundations: give a directory of `plait import minigpt4`"):
        load_as(grounds, MiniGPT4)


def test_both_published_stages_train_the_projection_alone(base: Path, data: str, tmp_path: Path) -> None:
    recipe = small(find("minigpt4/paper", [f"base={base}", f"data={data}", f"curated={data}"]))
    folder = go(recipe, tmp_path / "run")
    assert [(r["stage"], r["stage_step"], r["sequences"]) for r in records(folder)] == [
        (name, step, 2) for name in ("align", "finetune") for step in (0, 1)
    ]
    assert moved(weights(base), weights(folder)) == {"projection.weight", "projection.bias"}
    reply = plait.load(folder).generate(Document([Turn("user", "what?")]), max_new_tokens=3)
    assert len(reply.runs[0].ids) <= 3
    after = go(small(find("minigpt4/paper", [f"base={folder}", f"curated={data}"])), tmp_path / "again")
    assert moved(weights(folder), weights(after)) == {"projection.weight", "projection.bias"}


def test_adapters_go_on_to_the_bit(base: Path, data: str, tmp_path: Path) -> None:
    recipe = small(find("minigpt4/v2", [f"base={base}", f"data={data}"]), steps=4, save_every=1)
    whole = go(recipe, tmp_path / "whole", Kill(9))
    with pytest.raises(KeyboardInterrupt):
        go(recipe, tmp_path / "stopped", Kill(2))
    system = load(tmp_path / "stopped")
    assert newest(tmp_path / "stopped").name == "step-00000002"
    assert isinstance(system, MiniGPT4) and system.config.lora == LoRAConfig()
    assert isinstance(system.get_submodule("language.decoder.blocks.0.attention.qkv"), LoRA)
    stopped = go(recipe, tmp_path / "stopped")
    assert len(records(whole)) == 4 and records(stopped) == records(whole)
    assert moved(weights(whole), weights(stopped)) == set()


def test_the_weights_under_adapters_stay_and_the_merged_answer_the_same(base: Path, data: str, tmp_path: Path) -> None:
    whole = go(small(find("minigpt4/v2", [f"base={base}", f"data={data}"])), tmp_path / "whole")
    after = weights(whole)
    under = re.compile(r"^(language\..*\.qkv)\.weight$")
    before = {under.sub(r"\1.linear.weight", name): tensor for name, tensor in weights(base).items()}
    adapters = {name for name in after if name.endswith((".up", ".down"))}
    assert before.keys() | adapters == after.keys() and len(adapters) == 2 * 4
    assert moved(before, after) == {"projection.weight", "projection.bias"}
    assert all(after[name].any() for name in adapters)
    asked = Document([Turn("user", "what?")])
    said = plait.load(whole).generate(asked, max_new_tokens=5)
    system = load(whole)
    merge(system)
    save(system, tmp_path / "merged")
    again = plait.load(tmp_path / "merged")
    assert again.system.config.lora is None
    assert again.generate(asked, max_new_tokens=5).runs[0].ids == said.runs[0].ids


def test_adapters_that_are_there_are_trained_on() -> None:
    system = build("tiny")
    adapt = Adapt(lora=LoRAConfig(rank=2))
    adapt(system)
    there = system.get_submodule("language.decoder.blocks.0.attention.qkv")
    adapt(system)
    assert system.get_submodule("language.decoder.blocks.0.attention.qkv") is there
    with pytest.raises(InputError, match="has adapters already: merge them first"):
        Adapt(lora=LoRAConfig(rank=3))(system)


# ------------------------------------------------------------------------------------------------------ tiny


def test_foundations_are_taken_and_the_projection_is_new(grounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minigpt4, "ensure", Path)
    parts = load(grounds).parts
    system, other = minigpt4.founded(grounds, 0), minigpt4.founded(grounds, 1)
    assert system.config == FOUNDATIONS.blip2
    for mine, theirs in minigpt4.FROM_FOUNDATIONS.items():
        taken, given = system.parts[mine].module.state_dict(), parts[theirs].module.state_dict()
        assert taken.keys() == given.keys() and moved(taken, given) == set(), mine
    assert not torch.equal(system.projection.weight, parts["projection"].module.state_dict()["weight"])
    assert not torch.equal(system.projection.weight, other.projection.weight)
    assert torch.equal(system.projection.weight, minigpt4.founded(grounds, 0).projection.weight)


def test_two_steps_of_every_stage(grounds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minigpt4, "ensure", Path)
    recipe = small(find("minigpt4/tiny", [f"foundations={grounds}"]))
    monkeypatch.setattr(shapes, "CAPTION_TOKENS", 5)
    few = Held(scenes=1, never_seen=0, three=0)

    def fewer(tasks: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(task, held=few) for task in tasks)

    stages = tuple(replace(stage, tasks=fewer(stage.tasks)) for stage in recipe.stages)
    folder = go(replace(recipe, stages=stages, tasks=fewer(recipe.tasks)), tmp_path / "run")
    assert [r["stage"] for r in records(folder)] == ["align"] * 2 + ["finetune"] * 2 + ["instruct"] * 2
    assert all(r["skipped"] == r["broken"] == r["cut"] == 0 for r in records(folder))
    scores = json.loads((folder / "scores.json").read_text())
    assert {name: list(value) for name, value in scores.items() if name in ("align", "finetune")} == {
        "align": ["description"],
        "finetune": ["description", "caption", "vqa"],
    }
    assert scores["align"]["description"]["n"] == 2 and scores["vqa"]["blind_accuracy"] <= 1
    assert list(scores)[2:] == ["caption", "vqa"]
    page = (folder / "report.html").read_text()
    assert page.index(">align<") < page.index(">description<") < page.index(">finetune<")
    config = read_yaml(folder / "config.yaml")
    assert config["build"]["arguments"] == [grounds, 0]
    assert config["stages"][2]["before"][0]["lora"]["rank"] == minigpt4.TINY_LORA.rank
    assert isinstance(load(folder).get_submodule("language.decoder.blocks.0.attention.qkv"), LoRA)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    first, second = find("minigpt4/tiny"), find("minigpt4/tiny", ["seed=1"])
    for one, two in zip(first.stages, second.stages, strict=True):
        assert one.data.seed != two.data.seed and one.seed != two.seed
    (web,), (other,) = (recipe.stages[0].data.sources.values() for recipe in (first, second))
    assert web[0].text != other[0].text


def test_few_descriptions_and_all_kinds_of_questions() -> None:
    align, finetune, instruct = find("minigpt4/tiny").stages
    (asked,) = finetune.data.sources.values()
    assert len(asked) == 3 * 3500
    assert asked[0].turns[1].text.endswith(".") and not align.data.sources["web"][0].turns
    (talks,) = instruct.data.sources.values()
    assert {len(talks[i].turns) // 2 for i in range(120)} == set(range(1, 10))
    assert all(isinstance(task, ShapesDescription) for task in align.tasks)


def test_a_stage_and_a_task_of_one_name_are_refused(data: str, base: Path) -> None:
    stage = find("minigpt4/paper", [f"base={base}", f"data={data}"]).stages[0]
    named = align_stage(stage.data, steps=1, lr=1.0, schedule=Schedule(), tasks=(ShapesDescription(),))
    with pytest.raises(ConfigError, match="'description' names a stage with tasks and a task of mine: rename one"):
        Recipe(
            name="mine",
            build=lambda: build("tiny"),
            stages=(replace(named, name="description"),),
            tasks=(ShapesDescription(),),
        )
