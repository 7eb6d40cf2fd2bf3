from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from plait import cli, commands, commands_data

RECIPE = """
import functools
from dataclasses import replace

from plait.data.shapes import Shapes
from plait.nn.vqgan import VQGANConfig
from plait.recipes.cm3leon import build, pretrain_stage, tokenizer_stage
from plait.systems.cm3leon import CM3LeonConfig
from plait.train.stage import Recipe

IMAGE = VQGANConfig(
    resolution=16, channels=4, multipliers=(1, 1, 2), blocks=1, attention_resolutions=(), groups=2,
    latent_channels=4, code_width=4, codes=16,
)
CONFIG = CM3LeonConfig(image=IMAGE, width=16, depth=1, heads=2, positions=160, text_tokens=270, sentinels=4)


class Length:
    name = "length"

    def run(self, model):
        return {"positions": model.format.max_length}


def small(seed: int = 1):
    shapes = Shapes(seed=seed, length=40, resolution=16)
    stages = (
        tokenizer_stage(CONFIG, {"shapes": shapes}, steps=3),
        pretrain_stage(CONFIG, {"shapes": shapes}, steps=3),
    )
    stages = tuple(replace(stage, data=replace(stage.data, rows=2, window=8)) for stage in stages)
    return Recipe(name="small", build=functools.partial(build, CONFIG, shapes), stages=stages, tasks=(Length(),))


def bad():
    return None


def tasks(limit):
    return [Length()]
"""


@dataclass(frozen=True)
class Said:
    """What a command did: its exit code, and its lines."""

    code: int
    out: str
    err: str

    @property
    def fault(self) -> str:
        """The one line of a wrong input."""
        lines = self.err.splitlines()
        assert self.code == 2, self
        assert len(lines) == 1, self.err
        assert lines[0].startswith("plait: ")
        return lines[0]


Say = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a command in this process."""
    monkeypatch.setenv("COLUMNS", "250")

    def run(*words: object) -> Said:
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a user's own recipe."""
    path = tmp_path_factory.mktemp("own") / "recipe_for_the_command_line.py"
    path.write_text(RECIPE)
    yield path
    sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    """A run of two steps in each stage."""
    out = recipe.parent / "run"
    assert cli.main(["train", f"{recipe}:small", "--steps", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """captions/ with a table and images, classes/ with folders."""
    root = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(("captions/images", "classes/cat", "classes/dog")):
        folder = root / name
        folder.mkdir(parents=True)
        for j in range(3):
            pixels = np.random.default_rng(10 * i + j).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"{j}.png")
    rows = [f"{j}.png,picture number {j}" for j in range(3)]
    (root / "captions" / "captions.txt").write_text("\n".join(["image,caption", *rows, "gone.png,nothing"]))
    (root / "train.txt").write_text("0.png\n1.png\n")
    (root / "test.txt").write_text("2.png\n")
    (root / "document.json").write_text('{"pieces": [{"image": "captions/images/0.png"}, {"text": "a"}]}')
    return root


# ------------------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train cm3leon/tiny", commands.Train("cm3leon/tiny")),
        (
            "train a --out b --steps 3 --tensorboard --set c=1",
            commands.Train("a", Path("b"), 3, ("c=1",), True),
        ),
        ("generate a --prompt b", commands.Generate("a", prompt="b")),
        (
            "generate a --document b --draw --guidance 2 --top-p 0.5 --max-new-tokens 3 --seed 7",
            commands.Generate("a", document=Path("b"), draw=True, guidance=2.0, top_p=0.5, max_new_tokens=3, seed=7),
        ),
        (
            "generate a --prompt b --top-k 5 --repetition-penalty 1.1 --no-repeat-ngram 3 --stop x y --beams 4",
            commands.Generate(
                "a", prompt="b", top_k=5, repetition_penalty=1.1, no_repeat_ngram=3, stop=("x", "y"), beams=4
            ),
        ),
        (
            "generate a --prompt b --draw --best-of 8 --judge c --halves --contrast 0.1 5 --image-guidance 1.5",
            commands.Generate(
                "a", prompt="b", draw=True, best_of=8, judge="c", halves=True, contrast=(0.1, 5), image_guidance=1.5
            ),
        ),
        ("generate a --preset b --stop x --stop y", commands.Generate("a", preset="b", stop=("x", "y"))),
        ("chat a --document b --out c --seed 1", commands.Chat("a", document=Path("b"), out=Path("c"), seed=1)),
        ("evaluate a --task b --limit 3", commands.Evaluate("a", "b", 3)),
        (
            "score vqa --predictions a --references b --variant official",
            commands.Score("vqa", Path("a"), Path("b"), "official"),
        ),
        ("evaluate a --task b --system c.py:d", commands.Evaluate("a", "b", system="c.py:d")),
        ("generate a --system c.py:d", commands.Generate("a", system="c.py:d")),
        ("info a", commands.Info("a")),
        ("import a b c --out d", commands.Import("a", (Path("b"), Path("c")), Path("d"))),
        (
            "import a b --out d --config e --dtype bfloat16",
            commands.Import("a", (Path("b"),), Path("d"), Path("e"), "bfloat16"),
        ),
        ("import a --manifest b", commands.Import("a", manifest=Path("b"))),
        ("export a --format hf --out b", commands.Export("a", Path("b"), "hf")),
        ("data import classes a --out b", commands_data.DataImport("classes", Path("a"), Path("b"))),
        (
            "data curate a b --out c --repair-url d --repair-price 0.5 1.5 --choices e --top-k 3",
            commands_data.DataCurate(
                "a", Path("b"), Path("c"), repair_url="d", repair_price=(0.5, 1.5), choices=Path("e"), top_k=3
            ),
        ),
        ("data inspect a --limit 3 --out b.png", commands_data.DataInspect(Path("a"), Path("b.png"), 3)),
        ("data shapes --out a --objects 1 3", commands_data.DataShapes(Path("a"), objects=(1, 3))),
    ],
)
def test_a_line_becomes_a_command(line: str, expected: object) -> None:
    assert cli.parse(line.split()) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "a=1", "--set", "b=2"],
        ["--set", "a=1", "b=2"],
        ["--set=a=1", "--steps", "3", "--set", "b=2"],
        ["--set", "a=1", "--out", "x", "--set=b=2"],
    ],
)
def test_settings_may_be_repeated_or_listed(words: list[str]) -> None:
    command = cli.parse(["train", "r", *words])
    assert isinstance(command, commands.Train)
    assert command.set == ("a=1", "b=2")


@pytest.mark.parametrize(
    "words",
    [["--image", "a", "b", "--seed", "3"], ["--image", "a", "--seed", "3", "--image", "b"], ["--image=a", "--image=b"]],
)
def test_images_may_be_repeated_or_listed(words: list[str]) -> None:
    command = cli.parse(["generate", "r", *words, "--prompt", "p q"])
    assert isinstance(command, commands.Generate)
    assert command.image == (Path("a"), Path("b"))
    assert command.prompt == "p q"


@pytest.mark.parametrize("words", [["--split", "a=1", "b=2"], ["--split", "a=1", "--split", "b=2"]])
def test_splits_may_be_repeated_or_listed(words: list[str]) -> None:
    command = cli.parse(["data", "import", "captions", "src", *words, "--out", "o"])
    assert isinstance(command, commands_data.DataImport)
    assert command.split == ("a=1", "b=2")


def test_templates_keep_their_spaces() -> None:
    words = ["--template", "a {name}.", "--out", "o", "--template", "the {name}"]
    command = cli.parse(["data", "import", "classes", "src", *words])
    assert isinstance(command, commands_data.DataImport)
    assert command.template == ("a {name}.", "the {name}")


def test_an_import_counts_what_it_left_out(say: Say, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "cat" / "a.png")
    (tmp_path / "pictures" / "cat" / "b.png").write_text("no picture")
    said = say("data", "import", "classes", str(tmp_path / "pictures"), "--out", str(tmp_path / "out"))
    assert said.code == 0
    rows = dict(re.findall(r"(\w+) +│ (\S+)", said.out))
    assert (rows["broken"], rows["missing"]) == ("1", "0")


def test_an_import_of_coco_with_its_flags(say: Say, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}]
    annotations = [{"image_id": 1, "caption": "a"}, {"image_id": 9, "caption": "b"}]
    (tmp_path / "mine.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    words = ["--images", str(tmp_path), "--split", f"train={tmp_path / 'mine.json'}", "--out", str(tmp_path / "out")]
    said = say("data", "import", "coco", str(tmp_path), *words)
    assert said.code == 0, said.err
    rows = dict(re.findall(r"(\w+) +│ (.*?) +│", said.out))
    assert (rows["missing"], rows["broken"], rows["samples"]) == ("2", "0", "{'train': 1}")
    assert (tmp_path / "out/train/shard-000000.tar").is_file()


def test_an_import_of_tars(say: Say, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "0.png", "0.png")
        tar.add(tmp_path / "0.txt", "0.txt")
    said = say("data", "import", "webdataset", str(tmp_path / "0.tar"), "--out", str(tmp_path / "out"))
    assert said.code == 0, said.err
    assert "kept': 1" in said.out


def test_the_help_of_import_tells_of_every_kind(say: Say) -> None:
    from plait.data.importers import KINDS

    said = say("data", "import", "--help").out
    assert all(re.search(rf"\b{kind} \(", said) for kind in KINDS)
    assert all(flag in said for flag in ("--table", "--images", "--split", "--template"))


def test_help_names_every_command(say: Say) -> None:
    said = say("--help")
    assert said.code == 0
    assert all(f"plait {name}" in said.out for name in cli.COMMANDS)
    assert say().code == 2
    assert say("--version").out.strip().count(".") == 2


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(say: Say, name: str) -> None:
    said = say(*name.split(), "--help")
    assert said.code == 0 and not said.err
    assert f"plait {name}" in said.out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # tyro draws its boxes in one or the other
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian cm3leon/tiny", "no command 'trian cm3leon/tiny'; there are train, generate"),
        ("data", "no command 'data'"),
        ("data convert", "no command 'data convert'; there are .*data import"),
        ("train", "Missing from plait train: .*recipe.*; see plait train --help"),
        ("train a --stepz 3", "Unrecognized options: --stepz.*; did you mean --steps?"),
        ("train a --steps many", "Error parsing --steps: .*many"),
        ("generate", "Missing from plait generate: .*checkpoint"),
        ("generate a --seed", "Missing value for argument '--seed'"),
        ("evaluate a", "Missing from plait evaluate: --task"),
        ("score cider --predictions a", "Missing from plait score: .*--references"),
        ("info", "Missing from plait info: .*directory"),
        ("import", "Missing from plait import: .*system"),
        ("import a b --dtype int8", "invalid choice .int8. for argument .--dtype"),
        ("export a --format gguf --out b", "invalid choice .gguf. for argument .--format"),
        ("info a b", "Unrecognized options: b; see plait info --help"),
        ("data import captions a", "Missing from plait data import: --out"),
        ("data inspect", "Missing from plait data inspect"),
        ("data shapes", "Missing from plait data shapes: --out"),
        ("data shapes --out a --objects one", "Error parsing --objects"),
    ],
)
def test_words_that_make_no_command_are_one_line(
    say: Say, monkeypatch: pytest.MonkeyPatch, encoding: str, line: str, message: str
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    fault = say(*line.split()).fault
    assert re.search(message, fault), fault
    assert not re.search("[│╭╰─]|---|\x1b", fault)


# -------------------------------------------------------------------------------------------- wrong inputs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "cm3lion/tiny"], "did you mean 'cm3leon'"),
        (["train", "absent_recipe.py:small"], "absent_recipe.py: no such file"),
        (["train", "RECIPE:smal"], "has no 'smal'; did you mean 'small'"),
        (["train", "RECIPE:bad"], "gives a NoneType, a Recipe is needed"),
        (["train", "RECIPE:small", "--set", "stages.pretrain.stepz=3"], "did you mean 'steps'"),
        (["train", "RECIPE:small", "--set", "seed=x"], "seed: expected"),
        (["train", "RECIPE:small", "--set", "seed"], "no assignment: write KEY=VALUE"),
        (["train", "RECIPE:small", "--steps", "0"], "must be at least 1"),
        (["train", "RECIPE:small", "--out", "PICTURES"], "is not empty and holds no run: give another --out"),
        (["train", "RECIPE:small", "--out", "PICTURES/train.txt"], "holds no run: give another --out"),
        (["train", "RECIPE:small", "--out", "PICTURES/train.txt/below"], "Not a directory; check the path"),
        (
            ["train", "RECIPE:small", "--out", "RUN", "--steps", "3"],
            r"differs in 2 settings, such as stages\.tokenizer",
        ),
        (["train", "cm3leon/tiny", "--out", "RUN"], r"holds a run that differs in \d+ settings, such as name; give"),
        (
            ["train", "cm3leon/tiny", "--set", "stages.pretrain.step=3"],
            r"stages\.pretrain.* 'step'; did you mean 'steps'",
        ),
        (["train", "cm3leon/tiny", "--set", "stages.pretrian.steps=3"], "'pretrian'; did you mean 'pretrain'"),
        (["train", "cm3leon/tiny", "--set", "data=PICTURES"], "holds no shards"),
        (["generate", "absent", "--prompt", "a"], "absent: no such directory"),
        (["generate", "PICTURES", "--prompt", "a"], "give the directory of a run or a checkpoint"),
        (["generate", "RUN"], "nothing to answer: give --prompt, --image, --video or --document"),
        (["generate", "RUN", "--draw"], "nothing to answer"),
        (["generate", "RUN", "--image", "absent.png"], "absent.png: cannot be read"),
        (["generate", "RUN", "--image", "PICTURES/train.txt"], "train.txt: no picture in a format that is read"),
        (["generate", "RUN", "--document", "absent.json"], "absent.json: no readable JSON document"),
        (["generate", "RUN", "--document", "DOCUMENT", "--prompt", "a"], "give one or the other"),
        (["generate", "RUN", "--document", "DOCUMENT", "--draw"], "give one or the other"),
        (["generate", "RUN", "--prompt", "a", "--top-p", "0"], "top_p 0.0: it must be above 0"),
        (["generate", "RUN", "--prompt", "a", "--contrast", "2", "5"], "contrast with alpha 2.0: it must be above 0"),
        (["generate", "RUN", "--prompt", "a", "--best-of", "4"], "--best-of above 1 and --judge CKPT go together"),
        (["generate", "RUN", "--prompt", "a", "--best-of", "4", "--judge", "RUN"], "cm3leon has no towers"),
        (["generate", "RUN", "--prompt", "a", "--temperature", "-1"], "temperature -1.0: it must be at least 0"),
        (["generate", "RUN", "--prompt", "a " * 300], "fit"),
        (["generate", "RUN", "--prompt", "a", "--preset", "chat"], "no preset 'chat' of cm3leon; it has none"),
        (["chat", "absent"], "absent: no such directory"),
        (["chat", "RUN", "--document", "absent.json"], "absent.json: no readable JSON document"),
        (["evaluate", "RUN", "--task", "shape"], "no task 'shape'; did you mean 'shapes'"),
        (["evaluate", "RUN", "--task", "shapes", "--limit", "0"], "a limit of 0 items: give at least 1"),
        (["evaluate", "absent", "--task", "RECIPE:tasks"], "absent: no such directory"),
        (["evaluate", "RUN", "--task", "absent_task.py:tasks"], "absent_task.py: no such file"),
        (["evaluate", "RUN", "--task", "RECIPE:tasks", "--out", "PICTURES"], "Is a directory; check the path"),
        (["info", "absent"], "absent: no such directory"),
        (["info", "PICTURES"], "give the directory of a run or a checkpoint"),
        (
            ["data", "import", "coco3", "PICTURES", "--out", "o"],
            "no kind 'coco3' of data; there are captions, .*coco",
        ),
        (["data", "import", "classes", "absent", "--out", "o"], "absent: is no folder"),
        (["data", "import", "captions", "absent", "--out", "o"], "absent: is no folder"),
        (["data", "import", "captions", "CAPTIONS", "--out", "o", "--table", "gone.csv"], "gone.csv: cannot be read"),
        (["data", "import", "captions", "CAPTIONS", "--out", "o", "--split", "train"], "--split train: give NAME=FILE"),
        (["data", "import", "captions", "CAPTIONS", "--out", "o", "--split", "a=b"], "b: cannot be read"),
        (["data", "import", "captions", "CAPTIONS", "--out", "PICTURES"], "is not empty; choose another folder"),
        (["data", "import", "captions", "CAPTIONS", "--out", "o", "--template", "a"], "no use for --template"),
        (["data", "import", "classes", "CLASSES", "--out", "o", "--split", "a=b", "--table", "t"], "--table, --split"),
        (["data", "import", "classes", "CLASSES", "--out", "o", "--template", "a"], "templates .*{name}"),
        (["data", "import", "coco", "absent", "--out", "o"], "absent: is no folder"),
        (["data", "import", "coco", "CLASSES", "--out", "o"], "0 JSON files of captions .*--split NAME=FILE"),
        (["data", "import", "webdataset", "CLASSES", "--out", "o"], r"holds no \*.tar"),
        (["data", "import", "webdataset", "CLASSES", "--out", "o", "--images", "i"], "has no use for --images"),
        (["data", "inspect", "absent"], "absent: holds no shards"),
        (["data", "inspect", "PICTURES"], "holds no shards"),
        (["data", "shapes", "--out", "PICTURES"], "is not empty; choose another folder"),
        (["import", "minigpt4"], "nothing to import: give files and --out DIR, or --manifest FILE"),
        (["import", "minigpt4", "nowhere", "--out", "o"], "nowhere: no such file or folder"),
        (["import", "minigpt4", "DOCUMENT", "--out", "o"], "document.json: cannot be read"),
        (["import", "foundations", "DOCUMENT", "--out", "o"], "no published files are known of 'foundations'"),
        (["import", "minigpt4", "--manifest", "DOCUMENT"], "lists no files with their keys"),
        (["export", "RUN", "--out", "o"], "of this model have no place in the published files: keep Plait's own"),
        (["export", "nowhere", "--out", "o"], "no such directory"),
        (["data", "shapes", "--out", "o", "--split", "training"], "'training' is not one of train, validation, test"),
        (["data", "shapes", "--out", "o", "--count", "-1"], "length=-1"),
        (["data", "shapes", "--out", "o", "--objects", "0"], "objects=.*0"),
        (["data", "shapes", "--out", "o", "--resolution", "8"], "resolution=8"),
    ],
)
def test_wrong_input_is_one_line(
    say: Say,
    run: Path,
    recipe: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "DOCUMENT": pictures / "document.json",
        "PICTURES": pictures,
        "CAPTIONS": pictures / "captions",
        "CLASSES": pictures / "classes",
        "RECIPE": recipe,
        "RUN": run,
    }
    before = sorted(run.rglob("*"))
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    fault = say(*words).fault
    assert re.search(message, fault), fault
    assert sorted(run.rglob("*")) == before
    assert not (tmp_path / "o").exists()


def test_a_fault_of_a_run_is_one_line_and_another_code(say: Say, recipe: Path, tmp_path: Path) -> None:
    wild = ["--set", "stages.tokenizer.updates.0.optimisers.0.lr=1e30"]
    said = say("train", f"{recipe}:small", "--out", tmp_path / "run", *wild)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("plait: step 1 of tokenizer: loss")
    assert "Traceback" not in said.err


# ------------------------------------------------------------------------------------------------ end to end


def test_train_says_scores_and_report(say: Say, run: Path, recipe: Path) -> None:
    assert {"config.yaml", "metrics.jsonl", "report.html", "report.json"} <= set(os.listdir(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in lines] == [0, 1, 2, 3]
    said = say("train", f"{recipe}:small", "--steps", "2", "--out", run)  # again: only the report
    assert said.code == 0
    assert "length.positions" in said.out and "160" in said.out
    assert said.out.splitlines()[-1] == f"report: {run / 'report.html'}"


def test_a_run_goes_by_the_name_of_its_recipe(
    say: Say, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert say("train", f"{recipe}:small", "--steps", "1").code == 0
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.endswith("recipe_for_the_command_line.py-small")
    assert (out / "report.html").exists()


def test_ctrl_c_is_no_fault(say: Say, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plait.train.loop import Loop

    advance = Loop.advance

    def pressed(loop: Loop) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return advance(loop)

    words = ["train", f"{recipe}:small", "--steps", "2", "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", pressed)
        for step in range(1, 5):
            said = say(*words)
            assert said.code == 130
            last = said.err.splitlines()[-1]
            assert last == f"plait: stopped and saved after step {step}; the same command goes on from there"
    assert say(*words).code == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_tensorboard_events_lie_in_the_run(say: Say, recipe: Path, tmp_path: Path) -> None:
    words = ["train", f"{recipe}:small", "--steps", "1", "--out", tmp_path / "run", "--tensorboard"]
    for count in (1, 2):  # it goes on in the same directory
        assert say(*words).code == 0
        assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == count


def test_generate_draws(say: Say, run: Path, tmp_path: Path) -> None:
    said = say("generate", run, "--prompt", "a red circle", "--draw", "--guidance", "2", "--out", tmp_path / "out")
    assert said.code == 0
    with PIL.Image.open(tmp_path / "out" / "image-0.png") as image:
        assert image.size == (16, 16)
    assert str(tmp_path / "out" / "image-0.png") in said.out
    reply = json.loads((tmp_path / "out" / "reply.json").read_text())
    assert "image" in reply["pieces"][0]
    assert said.err.strip() == "(max_images)"
    assert "--out DIR writes it" in say("generate", run, "--prompt", "a red circle", "--draw").out


def test_generate_describes(say: Say, run: Path, pictures: Path) -> None:
    image = pictures / "captions" / "images" / "0.png"
    asked = say("generate", run, "--image", image, "--prompt", "what?", "--max-new-tokens", "4")
    assert asked.code == 0
    assert asked.err.strip() in ("(max_new_tokens)", "(filled)")
    sampled = [
        say("generate", run, "--image", image, "--max-new-tokens", "8", "--temperature", "1", "--seed", seed).out
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_generate_goes_on_with_a_document(say: Say, run: Path, pictures: Path) -> None:
    words = ["--max-new-tokens", "4", "--max-images", "0"]
    said = say("generate", run, "--document", pictures / "document.json", *words)
    assert said.code == 0


def test_info_tells_what_it_is(say: Say, run: Path) -> None:
    said = say("info", run)
    assert said.code == 0
    for text in ("cm3leon:CM3Leon", "pretrain", "2 of the stage, 4 of the run", "image_tokenizer", "Apache-2.0"):
        assert text in said.out
    assert "[1, 1, 2]" in said.out  # brackets are no markup
    first = say("info", run / "checkpoints" / "step-00000002").out
    assert "tokenizer" in first and "2 of the stage, 2 of the run" in first


def test_published_files_come_in_and_go_out(say: Say, tmp_path: Path) -> None:
    from golden import Goldens

    goldens = Goldens("minigpt4")
    counts = {"vision": ("vit", "num_heads"), "qformer": ("qformer", "num_attention_heads")}
    counts |= {"language": ("llama", "num_attention_heads")}
    heads = {part: {"heads": goldens.config[name][key]} for part, (name, key) in counts.items()}
    sizes = tmp_path / "sizes.yaml"
    sizes.write_text(json.dumps(heads))
    out = tmp_path / "imported"
    said = say("import", "minigpt4", goldens.folder / "weights.safetensors", "--config", sizes, "--out", out)
    assert said.code == 0, said.err
    assert "MIT (EVA)" in said.out and "LLaMA licence, non-commercial" in said.out
    assert "weights.safetensors: assembled, 0.00 GB" in said.err
    assert "note: whether weights.safetensors is Vicuna v0" in said.err
    told = say("info", out).out
    assert "SHA-256" in told and "not verified: give --verify" in told and "note" in told
    asked = say("info", out, "--verify").out
    assert re.search(r"language model.*NOT verified: .* nats a token of plain English, a guess has", asked)
    assert say("info", out).out == asked  # it is kept
    said = say("export", out, "--out", tmp_path / "exported")
    assert sorted(Path(line).name for line in said.out.split()) == [
        "blip2_pretrained_flant5xxl.pth",
        "eva_vit_g.pth",
        "language",
        "pretrained_minigpt4.pth",
    ]
    assert say("export", out, "--format", "hf", "--out", tmp_path / "hf").code == 0
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    ]


def test_a_dry_run_prints_one_object_for_each_file(say: Say, tmp_path: Path) -> None:
    keys = {f"llama_proj.{w}": [shape, "float32"] for w, shape in (("weight", [4096, 768]), ("bias", [4096]))}
    manifest = tmp_path / "published.json"
    manifest.write_text(json.dumps({"files": [{"file": "a", "keys": keys}]}))
    said = say("import", "minigpt4", "--manifest", manifest)
    assert said.code == 0
    assert json.loads(said.out) == [{"file": "a", "mapped": 2, "ignored": 0, "missing": [], "unexpected": []}]
    manifest.write_text(json.dumps({"files": [{"file": "a", "keys": {**keys, "more": [[1], "float32"]}}]}))
    said = say("import", "minigpt4", "--manifest", manifest)
    assert json.loads(said.out)[0]["unexpected"] == ["more"]
    assert re.search(r"published\.json: 1 files do not fit: a; correct the tables", said.fault)


def test_evaluate_scores(say: Say, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "scores.json"
    said = say("evaluate", run, "--task", "shapes", "--limit", "1", "--out", out)
    assert said.code == 0
    scores = json.loads(out.read_text())
    assert set(scores) == {"caption", "vqa", "draw"}
    assert scores["draw"]["n"] == 2
    assert "draw.object_accuracy" in said.out


def test_evaluate_takes_a_task_of_ones_own(say: Say, run: Path, recipe: Path) -> None:
    said = say("evaluate", run, "--task", f"{recipe}:tasks")
    assert said.code == 0
    assert "length.positions" in said.out


def test_score_prints_one_object(say: Say, tmp_path: Path) -> None:
    files = tmp_path / "said.json", tmp_path / "known.json"
    files[0].write_text('{"1": "cat"}')
    files[1].write_text('{"1": ["cat", "cat", "dog"]}')
    words = ["--predictions", files[0], "--references", files[1]]
    said = say("score", "vqa", *words)
    assert said.code == 0 and not said.err
    wanted = {"metric": "vqa", "variant": "official", "n": 1, "accuracy": pytest.approx(4 / 9)}
    assert json.loads(said.out) == wanted
    assert "no metric 'vqb'; did you mean 'vqa'" in say("score", "vqb", *words).fault
    assert "absent: No such file" in say("score", "vqa", "--predictions", "absent", "--references", "absent").fault


def test_import_of_captions(say: Say, pictures: Path, tmp_path: Path) -> None:
    lists = [f"{name}={pictures / name}.txt" for name in ("train", "test")]
    said = say("data", "import", "captions", pictures / "captions", "--out", tmp_path / "data", "--split", *lists)
    assert said.code == 0, said.err
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["report.json", "test", "train"]
    assert "captions" in said.out
    seen = say("data", "inspect", tmp_path / "data", "--out", tmp_path / "sheet.png")
    assert seen.code == 0
    assert "20 / 20 / 20" in seen.out
    assert {path.name for path in tmp_path.glob("*.png")} == {"sheet-test.png", "sheet-train.png"}


def test_import_of_classes(say: Say, pictures: Path, tmp_path: Path) -> None:
    words = ["--template", "a {name}.", "--template", "one {name}", "--out", tmp_path / "data"]
    assert say("data", "import", "classes", pictures / "classes", *words).code == 0
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert (report["totals"]["kept"], report["documents"]) == (6, {"": 12})
    seen = say("data", "inspect", tmp_path / "data", "--limit", "5")
    assert seen.code == 0 and "12" in seen.out


def test_training_begins_with_whole_shards_only(say: Say, pictures: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    assert say("data", "import", "classes", pictures / "classes", "--out", data).code == 0
    tar = data / "shard-000000.tar"
    size = tar.stat().st_size
    os.truncate(tar, size - 600)
    words = ["train", "cm3leon/tiny", "--set", f"data={data}", "--out", run]
    cut = f"{tar}: {size - 600} bytes but {size} in manifest.json; the shard is cut, fetch or import it again"
    assert say(*words).fault == f"plait: {cut}"
    tar.unlink()
    gone = f"{tar}: is missing; 1 shards in manifest.json but 0 in the folder: fetch or import the data again"
    assert say(*words).fault == f"plait: {gone}"
    assert not run.exists()


def test_names_with_brackets_are_shown_as_they_are(say: Say, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "[red]data[/]"
    assert str(out) in say("data", "import", "classes", pictures / "classes", "--out", out).out
    assert "[red]data[/]" in say("data", "inspect", out).out


def test_shapes_are_written_as_shards(say: Say, recipe: Path, tmp_path: Path) -> None:
    words = ["data", "shapes", "--count", "6", "--resolution", "16", "--objects", "1", "--split", "validation"]
    said = say(*words, "--out", tmp_path / "a")
    assert (said.code, said.out.strip()) == (0, f"6 documents in {tmp_path / 'a'}")
    assert say(*words, "--out", tmp_path / "b").code == 0
    assert (tmp_path / "a" / "shard-000000.tar").read_bytes() == (tmp_path / "b" / "shard-000000.tar").read_bytes()
    assert say(*words, "--seed", "1", "--out", tmp_path / "c").code == 0
    assert (tmp_path / "a" / "shard-000000.tar").read_bytes() != (tmp_path / "c" / "shard-000000.tar").read_bytes()
    assert "16 / 16 / 16" in say("data", "inspect", tmp_path / "a").out


def test_a_process_ends_with_the_code() -> None:
    command = [sys.executable, "-m", "plait.cli", "info", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "plait: absent: no such directory; give that of a run or a checkpoint\n"


def test_an_output_that_nobody_reads_to_its_end_is_no_fault() -> None:
    manifest = Path(__file__).parent / "goldens/minigpt4/published.json"
    command = [sys.executable, "-m", "plait.cli", "import", "minigpt4", "--manifest", str(manifest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout and running.stderr
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait() == 1
