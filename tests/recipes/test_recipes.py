from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pytest

from plait import recipes
from plait.config import from_plain, read_yaml, to_plain
from plait.data.shards import ShardSource, ShardWriter
from plait.document import Document, Image
from plait.errors import ConfigError, InputError
from plait.recipes import find
from plait.train.run import Run
from plait.train.stage import Recipe

NAMES = [
    f"{found.name}/{size}"
    for found in pkgutil.iter_modules(recipes.__path__)
    for size in importlib.import_module(f"plait.recipes.{found.name}").RECIPES
]
NEEDED = {
    "cm3leon/paper": ("base={}", "data={}"),
    "emu/paper": ("base={}", "captions={}"),
    "minigpt4/paper": ("base={}", "data={}", "curated={}"),
    "minigpt4/v2": ("base={}", "data={}"),
    "seed/paper": ("base={}", "data={{captions: {}}}"),
    "kosmos1/paper": ("base={}", "data={{captions: {}}}"),
}
"""Arguments without a default, for a directory."""
FILE = """
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from plait.recipes.cm3leon import tiny

if TYPE_CHECKING:
    from somewhere import Unknown

NUMBER = 3


def mine(steps: int = 5, name: str = "mine", shares: tuple[float, ...] = ()):
    recipe = tiny()
    stages = tuple(replace(stage, steps=steps) for stage in recipe.stages)
    return replace(recipe, name=f"{name} {shares}", stages=stages)


def needs(first, second, third=3):
    return mine(first + second + third)


def unknown(value: Unknown = None):
    return mine()


def nothing():
    pass
"""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """name -> the address of a function in a user's own file."""
    path = tmp_path / "a_recipe_of_my_own.py"
    path.write_text(FILE)
    yield lambda name: f"{path}:{name}"
    sys.modules.pop(path.stem, None)


def steps(recipe: Recipe) -> list[tuple[str, int]]:
    return [(stage.name, stage.steps) for stage in recipe.stages]


# ------------------------------------------------------------------------------------------------ by name


def test_a_recipe_by_its_name() -> None:
    recipe = find("cm3leon/tiny")
    assert recipe.name == "cm3leon/tiny"
    assert [stage.name for stage in recipe.stages] == ["tokenizer", "pretrain", "finetune"]
    assert recipe.probes and recipe.tasks


def test_a_recipe_up_to_a_stage() -> None:
    first, last = find("cm3leon/tiny/tokenizer"), find("cm3leon/tiny/finetune")
    assert [stage.name for stage in first.stages] == ["tokenizer"]
    assert not first.tasks  # which ask for a finished model
    assert last.stages == find("cm3leon/tiny").stages and last.tasks
    demo = find("cm3leon/tiny/pretrain")
    assert not demo.tasks and [task.name for task in demo.stages[-1].tasks] == ["caption", "vqa", "draw"]
    assert find("cm3leon/tiny/tokenizer", ["stages.tokenizer.steps=7"]).stages[0].steps == 7


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("cm3lion/tiny", "no recipes for 'cm3lion'; did you mean 'cm3leon'"),
        ("blip/tiny", "no recipes for 'blip'; there are .*cm3leon.*or a file.py:function"),
        ("cm3leon", "no recipe 'cm3leon'; did you mean 'cm3leon/tiny'"),
        ("cm3leon/tinny", "no recipe 'cm3leon/tinny'; did you mean 'cm3leon/tiny'"),
        ("cm3leon/7b", "no recipe 'cm3leon/7b'; "),
        ("cm3leon/tiny/tokeniser", "cm3leon/tiny has no stage 'tokeniser'; did you mean 'tokenizer'"),
        ("cm3leon/tiny/align", "cm3leon/tiny has no stage 'align'; there are tokenizer, pretrain, finetune"),
        ("", "no recipes for ''"),
    ],
)
def test_a_wrong_name_is_told_the_nearest(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(address)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_can_be_written_down(name: str, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data") as writer:
        writer.add("one", Document(["a caption", Image(PIL.Image.new("RGB", (8, 8)))]))
    given = [argument.format(tmp_path / "data") for argument in NEEDED.get(name, ())]
    recipe = find(name, given)
    Run(recipe, tmp_path / "run")
    Run(find(name, given), tmp_path / "run")  # config.yaml, read again, is the same recipe
    written = read_yaml(tmp_path / "run" / "config.yaml")
    assert written["name"] == name
    for stage, plain in zip(recipe.stages, written["stages"], strict=True):
        assert plain["steps"] == stage.steps
        assert plain["updates"] == to_plain(stage)["updates"]


# ----------------------------------------------------------------------------------------------- settings


def test_settings_are_changed_by_their_paths() -> None:
    changed = find(
        "cm3leon/tiny",
        [
            "stages.pretrain.steps=12",
            "stages.0.data.rows=4",
            "stages.tokenizer.updates.0.optimisers.0.lr=1e-4",
            "stages.pretrain.precision=fp32",
            "name=mine",
        ],
    )
    tokenizer, pretrain, _ = changed.stages
    assert (pretrain.steps, pretrain.precision, changed.name) == (12, "fp32", "mine")
    assert (tokenizer.data.rows, tokenizer.updates[0].optimisers[0].lr) == (4, 1e-4)
    assert tokenizer.steps == find("cm3leon/tiny").stages[0].steps


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages.pretrain.stepz=3", "stages.pretrain: unknown key 'stepz'; did you mean 'steps'"),
        ("stages.pretrian.steps=3", "stages: unknown key 'pretrian'; did you mean 'pretrain'"),
        ("dada=somewhere", "unknown key 'dada'"),
        ("stages.pretrain.steps=many", "stages.pretrain.steps: expected int"),
        ("stages.pretrain.steps=0", r"steps, accumulate, .* = \(0, .*at least 1"),
        ("stages.pretrain.precision=fp16", "expected one of 'fp32', 'bf16'"),
        ("stages.pretrain.steps", "no assignment: write KEY=VALUE"),
        ("data", "no assignment: write KEY=VALUE"),
        ("data=[", "data: "),
    ],
)
def test_a_wrong_setting_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find("cm3leon/tiny", [assignment])


def test_an_argument_of_the_function_is_no_setting() -> None:
    with pytest.raises(InputError, match="nowhere: holds no shards"):
        find("cm3leon/tiny", ["data=nowhere"])
    assert find("cm3leon/tiny", ["data="]).stages == find("cm3leon/tiny").stages


# ------------------------------------------------------------------------------------------- user's files


def test_a_function_in_a_file(outside: Callable[[str], str]) -> None:
    assert steps(find(outside("mine"))) == [("tokenizer", 5), ("pretrain", 5), ("finetune", 5)]


def test_arguments_have_the_types_that_they_declare(outside: Callable[[str], str]) -> None:
    recipe = find(outside("mine"), ["steps=7", "name=12", "shares=[1, 0.5]", "stages.tokenizer.steps=9"])
    assert steps(recipe) == [("tokenizer", 9), ("pretrain", 7), ("finetune", 7)]
    assert recipe.name == "12 (1.0, 0.5)"
    with pytest.raises(ConfigError, match="steps: expected int, got str 'seven'"):
        find(outside("mine"), ["steps=seven"])


def test_the_last_of_two_assignments_counts(outside: Callable[[str], str]) -> None:
    assert steps(find(outside("mine"), ["steps=7", "steps=8"]))[0] == ("tokenizer", 8)


def test_arguments_without_default_must_be_given(outside: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"needs needs a value for second: give --set second=VALUE"):
        find(outside("needs"), ["first=1"])
    assert steps(find(outside("needs"), ["first=1", "second=2"]))[0] == ("tokenizer", 6)


def test_a_type_that_is_not_there_is_no_riddle(outside: Callable[[str], str]) -> None:
    assert find(outside("unknown")).stages
    with pytest.raises(ConfigError, match=r"a type of its arguments cannot be found \(name 'Unknown'"):
        find(outside("unknown"), ["value=3"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mien", "has no 'mien'; did you mean 'mine'"),
        ("NUMBER", "NUMBER is a int: name a function that returns a Recipe"),
        ("nothing", "nothing gives a NoneType, a Recipe is needed"),
    ],
)
def test_what_gives_no_recipe_is_refused(outside: Callable[[str], str], name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(outside(name))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        find(f"{tmp_path / 'absent_recipe.py'}:mine")


def test_imported_documents_are_a_setting(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data" / "train") as writer:
        writer.add("a", Document("one"))
    source = ShardSource(tmp_path / "data", "train")
    assert len(source) == 1 and source[0].text == "one"
    plain = to_plain(source)
    assert plain == {"root": str(tmp_path / "data" / "train")}
    assert len(from_plain(ShardSource, plain)) == 1
