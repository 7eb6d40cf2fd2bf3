from __future__ import annotations

import enum
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait import config
from plait.errors import ConfigError


class Schedule(Protocol):
    def at(self, step: int) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Cosine:
    peak: float = 1e-3
    warmup: int = 10

    def at(self, step: int) -> float:
        return self.peak


@dataclass(frozen=True, kw_only=True)
class Constant:
    peak: float

    def at(self, step: int) -> float:
        return self.peak


class Precision(enum.Enum):
    single = "fp32"
    brain = "bf16"


def relu(x: float) -> float:
    return max(x, 0.0)


@dataclass(frozen=True, kw_only=True)
class Blank:
    kind: str = "text"


@dataclass(frozen=True)
class Scaled:
    by: float

    def __call__(self, x: float) -> float:
        return self.by * x


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    steps: int
    lr: Cosine | Constant = Cosine()
    open: Schedule = Constant(peak=1.0)
    train: tuple[str, ...] = ("*",)
    betas: tuple[float, float] = (0.9, 0.95)
    weights: Mapping[str, float] = field(default_factory=dict)
    clip: float | None = 1.0
    pad: Literal["left", "right", 0] = "right"
    precision: Precision = Precision.single
    act: Callable[[float], float] = relu
    schedule: type[Cosine] = Cosine
    verify: bool = True
    data: Path = Path("data")
    blank: Blank = Blank()
    alternative: Cosine | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    stages: tuple[Stage, ...]
    seed: int = 0
    extra: Any = None


RUN = Run(
    stages=(
        Stage(name="align", steps=3, weights={"loss.image": 1, "text": 0.5}, open=Cosine(peak=0.1)),
        Stage(
            name="tune",
            steps=5,
            lr=Constant(peak=2e-4),
            clip=None,
            precision=Precision.brain,
            act=Scaled(2.0),
            alternative=Cosine(),
        ),
    ),
    extra=(Constant(peak=3.0), {"a": (1, 2)}),
)


def test_plain_form() -> None:
    plain = config.to_plain(RUN)
    json.dumps(plain)
    align, tune = plain["stages"]
    assert "kind" not in plain and "kind" not in align
    assert align["lr"] == {"kind": "Cosine", "peak": 1e-3, "warmup": 10}
    assert tune["lr"] == {"kind": "Constant", "peak": 2e-4}
    assert align["open"]["kind"] == f"{__name__}:Cosine"  # the protocol does not list its classes
    assert tune["alternative"] == {"peak": 1e-3, "warmup": 10}  # nothing to choose from
    assert tune["precision"] == "brain" and tune["data"] == "data" and tune["clip"] is None
    assert align["act"] == f"{__name__}:relu" and align["schedule"] == f"{__name__}:Cosine"
    assert tune["act"] == {"kind": f"{__name__}:Scaled", "by": 2.0}
    assert align["betas"] == [0.9, 0.95]


def test_round_trips(tmp_path: Path) -> None:
    built = config.from_plain(Run, config.to_plain(RUN))
    assert built == RUN
    assert type(built.stages[0].weights["loss.image"]) is float
    config.write_yaml(RUN, tmp_path / "config.yaml")
    assert config.from_plain(Run, config.read_yaml(tmp_path / "config.yaml")) == RUN
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert config.from_plain(tuple[Stage, ...], config.to_plain(RUN.stages)) == RUN.stages


@settings(derandomize=True)
@example({"\x85": "\u2028 a\n"})
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_plain_data_survives_yaml(value: Any) -> None:
    text = yaml.dump(value, Dumper=config._Dumper, sort_keys=False, allow_unicode=True)
    read = config._parse(text, "text")
    assert read == value
    assert repr(read) == repr(value)  # tells 1 from True and 0.0 from -0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E5", 3e5),
        (".5", 0.5),
        ("20_000", 20_000),
        ("-3", -3),
        ("-.inf", -math.inf),
        ("on", "on"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2020-01-02", "2020-01-02"),
        ("007", "007"),
        ("true", True),
        ("", None),
        ("null", None),
        ("[1, {a: 2.}]", [1, {"a": 2.0}]),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read = config._parse(text, "text")
    assert read == value and type(read) is type(value)


def changed(**changes: Any) -> dict[str, Any]:
    return config.to_plain(RUN.stages[0]) | changes


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (changed(stpes=3), ["Stage", "unknown key 'stpes'", "did you mean 'steps'?"]),
        (changed(lr={"kind": "Cosine", "peek": 1.0}), ["lr: Cosine", "'peek'", "'peak'"]),
        (changed(lr={"kind": "Cosin"}), ["lr", "'Cosin'", "'Cosine'"]),
        (changed(lr={"peak": 1.0}), ["lr", "kind", "Cosine, Constant"]),
        (changed(lr=3), ["lr: expected Cosine | Constant, got int 3"]),
        (changed(lr={"kind": "Constant"}), ["lr: Constant needs 'peak'", "float"]),
        (changed(steps="many"), ["steps: expected int, got str 'many'"]),
        (changed(steps=2.5), ["steps: expected int, got float 2.5"]),
        (changed(steps=True), ["steps: expected int, got bool True"]),
        (changed(verify=1), ["verify: expected bool, got int 1"]),
        (changed(clip="big"), ["clip: expected float | None, got str 'big'"]),
        (changed(pad="rihgt"), ["pad: expected one of 'left', 'right', 0", "did you mean 'right'?"]),
        (changed(pad=False), ["pad: expected one of", "bool False"]),
        (changed(precision="brian"), ["precision: expected one of 'single', 'brain'", "did you mean 'brain'?"]),
        (changed(betas=[0.9]), ["betas: expected 2 elements, got 1"]),
        (changed(betas=[0.9, "x"]), ["betas.1: expected float, got str 'x'"]),
        (changed(train="*"), ["train: expected tuple[str, ...], got str '*'"]),
        (changed(weights=[1]), ["weights: expected Mapping[str, float], got list [1]"]),
        (changed(weights={"a": "b"}), ["weights.a: expected float"]),
        (changed(alternative={"peak": "x"}), ["alternative.peak: expected float, got str 'x'"]),
        (changed(act="relu"), ["act: expected Callable", "'relu'"]),
        (changed(act="os:system"), ["act", "'os:system'", "not loaded"]),
        (changed(act="plait.config:os.system"), ["act: plait.config", "unknown key 'os.system'"]),
        (changed(act="plait.config:to_plane"), ["did you mean 'to_plain'?"]),
        (changed(act="plait.nowhere:f"), ["act", "no module plait.nowhere"]),
        (changed(schedule=f"{__name__}:relu"), ["schedule: expected type"]),
        (changed(open={"kind": f"{__name__}:Precision"}), ["open: expected a Schedule, got kind"]),
        (changed(open={"peak": 1.0}), ["open: expected Schedule, got dict"]),
        ([1], ["expected Stage, got list [1]"]),
        ({"name": "x"}, ["Stage needs 'steps'", "int"]),
    ],
)
def test_wrong_values_are_named(value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_plain(Stage, value)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"f": lambda: 0}, "f: .*<lambda> has no name"),
        ({"a": [types.SimpleNamespace()]}, r"a\.0: SimpleNamespace .* no plain form"),
        ({(1, 2): 3}, "the key tuple"),
        ((Blank(),), "0: Blank needs a tag 'kind' here but has a field of that name"),
    ],
)
def test_values_without_a_plain_form(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.to_plain(value)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed=7", replace(RUN, seed=7)),
        ("stages.0.steps=20_000", replace(RUN, stages=(replace(RUN.stages[0], steps=20_000), RUN.stages[1]))),
        (
            "stages.tune.lr.peak=1e-5",
            replace(RUN, stages=(RUN.stages[0], replace(RUN.stages[1], lr=Constant(peak=1e-5)))),
        ),
        ("stages.align.name=12", replace(RUN, stages=(replace(RUN.stages[0], name="12"), RUN.stages[1]))),
        ("stages.tune.clip=2", replace(RUN, stages=(RUN.stages[0], replace(RUN.stages[1], clip=2.0)))),
        ("stages.align.clip=null", replace(RUN, stages=(replace(RUN.stages[0], clip=None), RUN.stages[1]))),
        ("stages.align.betas=[0.8, 1]", replace(RUN, stages=(replace(RUN.stages[0], betas=(0.8, 1.0)), RUN.stages[1]))),
        ("stages.align.betas.1=0.5", replace(RUN, stages=(replace(RUN.stages[0], betas=(0.9, 0.5)), RUN.stages[1]))),
        ("stages.align.train.0=a.*", replace(RUN, stages=(replace(RUN.stages[0], train=("a.*",)), RUN.stages[1]))),
        (
            "stages.align.weights.loss.image=3",
            replace(RUN, stages=(replace(RUN.stages[0], weights={"loss.image": 3.0, "text": 0.5}), RUN.stages[1])),
        ),
        (
            "stages.align.lr={kind: Constant, peak: 1}",
            replace(RUN, stages=(replace(RUN.stages[0], lr=Constant(peak=1.0)), RUN.stages[1])),
        ),
        (
            "stages.align.open.warmup=4",
            replace(RUN, stages=(replace(RUN.stages[0], open=Cosine(peak=0.1, warmup=4)), RUN.stages[1])),
        ),
    ],
)
def test_override(assignment: str, expected: Run) -> None:
    got = config.override(RUN, [assignment])
    assert got == expected
    assert config.difference(RUN, got)


def test_overrides_of_a_bare_tuple_and_in_order() -> None:
    stages = config.override(RUN.stages, ["tune.steps=9", "tune.steps=10", "0.name=first"])
    assert [(stage.name, stage.steps) for stage in stages] == [("first", 3), ("tune", 10)]
    assert config.override({"a": {"b": 1}}, ["a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("seed", "'seed' is no assignment: write KEY=VALUE"),
        ("sede=3", "Run: unknown key 'sede'; did you mean 'seed'?"),
        ("stages.alig.steps=3", "stages: unknown key 'alig'; did you mean 'align'?"),
        ("stages.7.steps=3", "stages: unknown key '7'; it has align, tune, 0, 1"),
        ("stages.align.stesp=3", "stages.align: unknown key 'stesp'; did you mean 'steps'?"),
        ("stages.align.weights.txt=3", "stages.align.weights: unknown key 'txt'; did you mean 'text'?"),
        ("stages.align.steps=x", "stages.align.steps: expected int, got str 'x'"),
        ("stages.align.steps.more=1", "stages.align.steps: int 3 has no parts, so no 'more'"),
        ("stages.align.steps=[1", "stages.align.steps: "),
    ],
)
def test_wrong_overrides(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override(RUN, [assignment])
    assert words in str(caught.value)


def test_difference() -> None:
    assert config.difference(RUN, config.to_plain(RUN)) == []
    other = replace(RUN, seed=1, stages=(*RUN.stages[:1], replace(RUN.stages[1], lr=Cosine(), steps=6)))
    assert config.difference(RUN, other) == [
        "stages.tune.steps",
        "stages.tune.lr.kind",
        "stages.tune.lr.peak",
        "stages.tune.lr.warmup",
        "seed",
    ]
    assert config.difference(RUN, replace(RUN, stages=RUN.stages[:1])) == ["stages.tune"]
    assert config.difference(RUN, replace(RUN, stages=RUN.stages[::-1])) == ["stages"]
    assert config.difference({"a": 1, "b": 1.0}, {"a": True, "b": 1}) == ["a"]


def test_yaml_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=r"config.yaml: cannot be read"):
        config.read_yaml(path)
    path.write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(ConfigError, match=r"config.yaml, line 3: "):
        config.read_yaml(path)
    path.write_text("a:\n  b: 1\n  b: 2\n")
    with pytest.raises(ConfigError, match=r"config.yaml, line 2: the key 'b' is given twice"):
        config.read_yaml(path)
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match=r"config.yaml, line 1: could not determine a constructor"):
        config.read_yaml(path)
