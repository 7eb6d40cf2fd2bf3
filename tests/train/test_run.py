from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from plait.checkpoints.directory import find, load
from plait.config import read_yaml
from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, Interrupted, TrainingError
from plait.generate.engine import Settings
from plait.nn.vqgan import VQGANConfig
from plait.recipes.cm3leon import build, pretrain_stage, tokenizer_stage
from plait.systems.cm3leon import CM3LeonConfig
from plait.train import run
from plait.train.run import Run, shortened, where
from plait.train.stage import Probe, Recipe, Stage

TIMES = ("tokens_per_s", "wait_s", "step_s", "elapsed_s")
STEPS = 12  # of both stages together
CONFIG = CM3LeonConfig(
    image=VQGANConfig(
        resolution=8,
        channels=4,
        groups=2,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(),
        latent_channels=4,
        code_width=4,
        codes=16,
    ),
    width=16,
    depth=1,
    heads=2,
    positions=64,
    text_tokens=260,
    sentinels=4,
)


@dataclass(frozen=True)
class Squares:
    """Pictures of noise and their names."""

    count: int = 12

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Document:
        return Document([f"square {i}", Image(picture(i))])


def picture(i: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8))


@dataclass(frozen=True)
class Counting:
    """A task that notes how often it was run."""

    name: str = "counting"
    calls: list[Any] = field(default_factory=list)

    def run(self, model: Any) -> Mapping[str, Any]:
        self.calls.append(model)
        return {"answer": 42, "n": 1}


@pytest.fixture
def recipe() -> Recipe:
    """Two stages of six steps, saved every two and probed every three."""
    squares = Squares()

    def small(stage: Stage, rows: int) -> Stage:
        data = replace(stage.data, rows=rows, window=8)
        return replace(stage, data=data, save_every=2, probe_every=3, precision="fp32", ema=0.9)

    shown = Document([Turn("user", [Image(picture(0)), Text("what?")])])
    return Recipe(
        name="small",
        build=functools.partial(build, CONFIG, squares),
        stages=(
            small(tokenizer_stage(CONFIG, {"squares": squares}, steps=6), rows=4),
            small(pretrain_stage(CONFIG, {"squares": squares}, steps=6), rows=2),
        ),
        probes=(
            Probe(prompt=Document([Text("square 1"), Blank("image")]), settings=Settings(guidance=2.0)),
            Probe(prompt=shown, settings=Settings(max_new_tokens=4), reference="square 0"),
        ),
        tasks=(Counting(),),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    go(recipe.__wrapped__(), folder)  # type: ignore[attr-defined]
    return folder


@dataclass
class Disturb:
    """A sink that does something as it receives the record of a step."""

    step: int
    act: Callable[[], object]

    def write(self, record: Mapping[str, Any]) -> None:
        if record["step"] == self.step:
            self.act()

    def close(self) -> None:
        pass


class Killed(BaseException):
    """What a kill looks like from inside: nothing is caught, nothing more is saved."""


def kill() -> None:
    raise Killed


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def go(recipe: Recipe, folder: Path, *sinks: Any) -> Path:
    """What `plait train` does."""
    torch.manual_seed(0)
    return Run(recipe, folder, sinks=sinks).train()


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())


def content(folder: Path, *but: str) -> dict[str, bytes]:
    """Every file of a directory."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weights(folder: Path) -> bytes:
    return (find(folder) / "model.safetensors").read_bytes()


def same(folder: Path, whole: Path) -> bool:
    """Whether two runs wrote down the same and ended with the same bits, in weights and samples alike."""
    assert records(folder) == records(whole)
    assert weights(folder) == weights(whole)
    assert content(folder / "samples") == content(whole / "samples")
    assert checkpoints(folder)[-1] == STEPS
    return True


# -------------------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_what_its_readers_need(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    files = {"config.yaml", "facts.json", "metrics.jsonl", "scores.json", "report.html", "report.json"}
    assert names == files | {"checkpoints", "samples"}
    assert json.loads((whole / "scores.json").read_text()) == {"counting": {"answer": 42, "n": 1}}
    report = json.loads((whole / "report.json").read_text())
    assert report["scores"]["counting"]["answer"] == 42
    assert [(stage["name"], stage["steps"]) for stage in report["run"]["stages"]] == [("tokenizer", 6), ("pretrain", 6)]
    assert report["run"]["recipe"] == "small"


def test_there_is_a_record_for_every_step(whole: Path) -> None:
    found = records(whole)
    assert [record["step"] for record in found] == list(range(STEPS))
    assert [record["stage"] for record in found] == ["tokenizer"] * 6 + ["pretrain"] * 6
    assert [record["stage_step"] for record in found] == [*range(6), *range(6)]
    assert all(isinstance(record["loss"], float) for record in found)
    assert "loss/pixel" in found[0] and "loss/code" in found[6]


def test_the_configuration_holds_sizes_data_and_stages(whole: Path) -> None:
    config = read_yaml(whole / "config.yaml")
    assert config["name"] == "small"
    assert config["build"]["function"] == "plait.recipes.cm3leon:build"
    sizes, source = config["build"]["arguments"]
    assert sizes["width"] == 16 and sizes["image"]["codes"] == 16
    assert source["count"] == 12
    assert [stage["name"] for stage in config["stages"]] == ["tokenizer", "pretrain"]
    assert config["stages"][0]["data"]["sources"]["squares"] == source
    assert config["stages"][1]["steps"] == 6 and config["stages"][1]["ema"] == 0.9


def test_the_newest_checkpoints_of_each_stage_are_kept(whole: Path) -> None:
    assert checkpoints(whole) == [6, 12]
    assert [where(whole / "checkpoints" / f"step-{n:08d}") for n in (6, 12)] == [
        [("stage", "tokenizer"), ("step", "6 of the stage, 6 of the run")],
        [("stage", "pretrain"), ("step", "6 of the stage, 12 of the run")],
    ]
    assert where(whole) == []
    assert load(whole).config == CONFIG


def test_probes_are_answered_while_training(whole: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted((whole / "samples").glob("*.json"))]
    assert [(sample["step"], sample["stage"]) for sample in found] == [
        (3, "tokenizer"),
        (6, "tokenizer"),
        (9, "pretrain"),
        (12, "pretrain"),
    ]
    drawn, said = found[-1]["items"]
    with PIL.Image.open(whole / "samples" / drawn["image"]) as image:
        assert image.size == (8, 8)
    assert drawn["prompt"] == {"pieces": [{"text": "square 1"}, {"blank": "image"}]}
    assert said["reference"] == "square 0" and said["image"] is None


def test_a_conversation_is_probed_turn_by_turn(recipe: Recipe, tmp_path: Path) -> None:
    talk = Probe(
        prompt=Document([Turn("user", "square 1")]),
        then=(("square 2",), ("what?", Image(picture(3)))),
        settings=Settings(max_new_tokens=3),
    )
    (stage,) = recipe.stages[1:]
    probed = replace(recipe, stages=(replace(stage, before=(), tasks=()),), probes=(talk, recipe.probes[1]), tasks=())
    go(shortened(probed, 1), tmp_path / "run")
    (file,) = (tmp_path / "run" / "samples").glob("*.json")
    first, second, third, other = json.loads(file.read_text())["items"]
    assert [item["exchange"] for item in (first, second, third, other)] == ["0", "0-1", "0-2", "1"]
    assert second["prompt"] == {"turns": [{"role": "user", "pieces": [{"text": "square 2"}]}]}
    assert len(third["prompt"]["turns"][0]["pieces"]) == 2 and third["reference"] is None
    with pytest.raises(ConfigError, match="a probe of pieces with 1 turns behind it: give its prompt as a turn"):
        Probe(prompt=Document("square 1"), then=(("square 2",),), settings=Settings())


def test_a_finished_run_only_writes_its_report_again(whole: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = content(folder, "facts.json")
    (folder / "report.html").unlink()
    report = go(recipe, folder)
    assert report == folder / "report.html"
    assert content(folder, "facts.json") == before
    assert recipe.tasks[0].calls == []  # type: ignore[attr-defined]


def test_tasks_of_a_stage_are_scored_at_its_end(recipe: Recipe, tmp_path: Path) -> None:
    early, late = Counting(name="early"), Counting(name="late")
    first, second = recipe.stages
    staged = replace(
        recipe, stages=(replace(first, tasks=(early, late)), replace(second, tasks=(replace(early, name="counting"),)))
    )
    value = {"answer": 42, "n": 1}

    def broken(model: Any) -> Mapping[str, Any]:
        raise Killed

    object.__setattr__(late, "run", broken)  # killed between two tasks: the first is not scored again
    with pytest.raises(Killed):
        go(staged, tmp_path / "run")
    scores = tmp_path / "run" / "scores.json"
    assert json.loads(scores.read_text()) == {"tokenizer": {"early": value}}
    object.__delattr__(late, "run")
    go(staged, tmp_path / "run")
    assert len(early.calls) == 2 and len(late.calls) == 1  # early's list is shared with the second stage's task
    wanted = {"tokenizer": {"early": value, "late": value}, "pretrain": {"counting": value}, "counting": value}
    assert json.loads(scores.read_text()) == wanted
    go(replace(recipe, tasks=()), tmp_path / "run")  # tasks do not make another run of it


def test_stage_scores_do_not_change_what_follows(whole: Path, recipe: Recipe, tmp_path: Path) -> None:
    class Drawing:
        name = "drawing"

        def run(self, model: Any) -> Mapping[str, Any]:
            model.system.eval()
            return {"drawn": float(torch.rand(()))}

    tasked = replace(recipe, stages=tuple(replace(stage, tasks=(Drawing(),)) for stage in recipe.stages))
    go(tasked, tmp_path / "run")
    assert same(tmp_path / "run", whole)


def test_a_stage_is_shortened_but_never_lengthened(recipe: Recipe) -> None:
    stages = shortened(replace(recipe, stages=(recipe.stages[0], replace(recipe.stages[1], steps=2))), 4).stages
    assert [stage.steps for stage in stages] == [4, 2]
    with pytest.raises(ConfigError, match="must be at least 1"):
        shortened(recipe, 0)


# ------------------------------------------------------------------------------------------------ resumed


def test_a_run_killed_at_every_step_is_the_whole_run(whole: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for step in range(STEPS):
        with pytest.raises(Killed):
            go(recipe, folder, Disturb(step, kill))
        assert [record["step"] for record in records(folder)] == list(range(step + 1))
        assert (folder / "checkpoints").exists() == (step > 1)
        assert not (folder / "report.html").exists()
    go(recipe, folder)
    assert same(folder, whole)
    assert checkpoints(folder) == checkpoints(whole)


@pytest.mark.parametrize("step", [7, 10])
def test_a_run_killed_once_is_the_whole_run(whole: Path, recipe: Recipe, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        go(recipe, tmp_path / "run", Disturb(step, kill))
    go(recipe, tmp_path / "run")
    assert same(tmp_path / "run", whole)


def test_a_run_killed_between_stages_is_the_whole_run(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = run.Loop

    def dies(system: Any, stage: Stage, *rest: Any) -> Any:
        if stage.name == "pretrain":
            raise Killed
        return loop(system, stage, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run, "Loop", dies)
        with pytest.raises(Killed):
            go(recipe, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == [6]
    go(recipe, tmp_path / "run")
    assert same(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [4, 6, 12])
def test_a_run_killed_while_it_saves_is_the_whole_run(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder, save = tmp_path / "run", torch.save

    def dies(state: Any, file: Any) -> None:
        save(state, file)
        if state["total"] == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dies)
        with pytest.raises(Killed):
            go(recipe, folder)
    assert step not in checkpoints(folder)
    go(recipe, folder)
    assert same(folder, whole)


def test_workers_change_nothing(whole: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stages = [replace(stage, data=replace(stage.data, workers=2)) for stage in recipe.stages]
    with pytest.raises(Killed):
        go(replace(recipe, stages=(recipe.stages[0], stages[1])), folder, Disturb(8, kill))
    go(recipe, folder)  # another number of workers is the same run
    assert same(folder, whole)


def test_a_run_trains_in_a_thread(recipe: Recipe, tmp_path: Path) -> None:
    short = shortened(replace(recipe, stages=recipe.stages[:1], tasks=(), probes=()), 1)
    thread = threading.Thread(target=go, args=(short, tmp_path / "run"))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_that_must_not_go_on_is_not_saved(recipe: Recipe, tmp_path: Path) -> None:
    optimiser = replace(recipe.stages[0].updates[0].optimisers[0], lr=1e30)
    update = replace(recipe.stages[0].updates[0], optimisers=(optimiser,))
    wild = replace(recipe, stages=(replace(recipe.stages[0], updates=(update,)),))
    with pytest.raises(TrainingError, match=r"step \d of tokenizer: .* is (nan|inf)"):
        go(wild, tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
    assert all(record["loss"] < 1e9 for record in records(tmp_path / "run"))


# ------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("step", [0, 5, 8, 11])  # 5 and 11 are the last of their stages
def test_ctrl_c_saves_and_stops(whole: Path, recipe: Recipe, tmp_path: Path, step: int) -> None:
    folder, handler = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=rf"stopped and saved after step {step + 1}; the same command goes on"):
        go(recipe, folder, Disturb(step, press))
    assert signal.getsignal(signal.SIGINT) is handler
    assert [record["step"] for record in records(folder)] == list(range(step + 1))
    assert checkpoints(folder)[-1] == step + 1
    assert not (folder / "report.html").exists()
    go(recipe, folder)
    assert same(folder, whole)


def test_ctrl_c_while_a_stage_is_saved_is_not_lost(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save = tmp_path / "run", torch.save

    def pressed(state: Any, file: Any) -> None:
        if state["total"] == 6:
            press()
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", pressed)
        with pytest.raises(Interrupted, match="after step 6"):
            go(recipe, folder)
    go(recipe, folder)
    assert same(folder, whole)


def test_ctrl_c_twice_stops_at_once(recipe: Recipe, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(recipe, tmp_path / "run", Disturb(3, press), Disturb(3, press))
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoints(tmp_path / "run") == [2]


# ------------------------------------------------------------------------------------------------ refused


def test_another_recipe_is_refused(whole: Path, recipe: Recipe) -> None:
    before = content(whole)
    longer = replace(recipe, stages=(recipe.stages[0], replace(recipe.stages[1], steps=7)))
    with pytest.raises(
        ConfigError, match=r"differs in 1 settings, such as stages\.pretrain\.steps; give another --out"
    ):
        Run(longer, whole)
    wider = replace(recipe, build=functools.partial(build, replace(CONFIG, width=32), Squares()))
    with pytest.raises(ConfigError, match=r"differs in 1 settings, such as build\.arguments\.0\.width"):
        Run(wider, whole)
    with pytest.raises(ConfigError, match=r"such as stages\.pretrain"):
        Run(replace(recipe, stages=recipe.stages[:1]), whole)
    with pytest.raises(ConfigError, match=r"such as name"):
        Run(replace(recipe, name="other"), whole)
    assert content(whole) == before


def test_settings_of_preparation_may_change(whole: Path, recipe: Recipe) -> None:
    stages = tuple(replace(stage, data=replace(stage.data, workers=3)) for stage in recipe.stages)
    assert Run(replace(recipe, stages=stages), whole).next_step == STEPS


def test_a_directory_of_something_else_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(ConfigError, match="is not empty and holds no run: give another --out"):
        Run(recipe, tmp_path)
    with pytest.raises(ConfigError, match="is not empty and holds no run: give another --out"):
        Run(recipe, tmp_path / "thesis.tex")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_an_empty_directory_is_taken(recipe: Recipe, tmp_path: Path) -> None:
    assert Run(recipe, tmp_path).next_step == 0
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_what_cannot_be_written_down_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no name that can be written down: move it to the top of its module"):
        Run(replace(recipe, build=lambda: build(CONFIG, Squares())), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
