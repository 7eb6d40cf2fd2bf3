"""A system in a user's own file: trained, resumed, saved, loaded, asked and scored like any other."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import PIL.Image
import pytest
import torch

import plait
from plait import Blank, Document, Image, Turn, cli
from plait.checkpoints.directory import find
from plait.checkpoints.outside import from_file
from plait.errors import CheckpointError, ConfigError, DocumentError
from plait.sequence import Sequence, Slot
from plait.systems.base import Emitted, System

FILE = Path(__file__).resolve().parents[2] / "examples" / "colour_words.py"
RECIPE, SYSTEM = f"{FILE}:recipe", f"{FILE}:ColourWords"
TASKS = f"{FILE.with_name('colour_and_place.py')}:tasks"
SMALL = (
    "stages.train.data.rows=1",
    "stages.train.data.window=8",
    "tasks.read.scenes.length=3",
    "tasks.draw.scenes.length=3",
)
BLANK = Blank("image")
Say = Callable[..., str]


def forget() -> None:
    """As in a process that has not run the files."""
    for name in ("colour_words", "colour_and_place"):
        sys.modules.pop(name, None)


def train(out: Path, *settings: str) -> int:
    return cli.main(["train", RECIPE, "--out", str(out), "--steps", "2", "--set", *SMALL, *settings])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two steps."""
    out = tmp_path_factory.mktemp("colours") / "run"
    assert train(out) == 0
    yield out
    forget()


@pytest.fixture
def example() -> Iterator[ModuleType]:
    from_file(SYSTEM)
    yield sys.modules["colour_words"]
    forget()


@pytest.fixture
def system(example: ModuleType) -> System:
    """2 x 2 cells; random weights everywhere, so that every element matters."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made: System = example.ColourWords(example.Config(side=2, width=32, depth=2)).eval()
        for weight in made.parameters():
            weight.normal_(std=0.3)
    return made


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Say]:
    """Runs a command as a process of its own would; what it prints, or the one line of its error."""
    monkeypatch.setenv("COLUMNS", "250")

    def command(*words: object) -> str:
        forget()
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        assert code in (0, 2), said.err
        return said.err if code else said.out

    yield command
    forget()


def shown(sequence: Sequence) -> str:
    """A sequence in words: `|` is <end>, `<` is <picture>, `[n]` a picture's elements; targets in capitals or `!`."""
    out = []
    for span in sequence.spans:
        if isinstance(span.fill, Slot):
            out.append(f"[{span.length}]" + "!" * bool(span.targets))
        else:
            text = "".join("|<"[id] if id < 2 else chr(id - 218) for id in span.fill.tolist())
            out.append(text.upper() if span.targets else text)
    return "".join(out)


def test_layout(system: System) -> None:
    image = Image(PIL.Image.new("RGB", (8, 8)))
    talk = [Turn("user", [image, "what?"]), Turn("assistant", "a cat")]
    for document, whole, prompt in [
        (Document(["a cat", image]), "|A CAT<[4]!|", "|A CAT<[4]!"),
        (Document(talk), "|<[4]what?|A CAT|", "|<[4]what?|A CAT|"),
        (Document(talk[:1]), "|<[4]what?|", "|<[4]what?|"),
    ]:
        assert shown(system.layout(document)) == whole
        assert shown(system.layout(document, open=True)) == prompt
    assert shown(system.layout(Document(["a cat", BLANK]), open=True)) == "|A CAT<"
    assert shown(system.layout(Document([Turn("user", ["a cat", BLANK])]), open=True)) == "|a cat<"
    for pieces, open in [(["a", BLANK], False), ([BLANK, "a"], True), ([BLANK, BLANK], True), ([Blank("text")], True)]:
        with pytest.raises(DocumentError, match="no place for Blank"):
            system.layout(Document(pieces), open=open)  # type: ignore[arg-type]


def test_a_picture_is_read_and_written_in_six_steps_of_each_colour(system: System) -> None:
    read, prepare = system.read, system.format.preprocess()["colours"]  # type: ignore[union-attr]
    cells = [(0, 42, 43), (84, 86, 127), (128, 169, 171), (212, 213, 255)]
    picture = PIL.Image.new("RGB", (2, 2))
    picture.putdata(cells)
    [codes] = read(torch.from_numpy(prepare(Image(picture)))[None]).tolist()  # type: ignore[operator]
    steps = [(0, 0, 1), (1, 2, 2), (3, 3, 4), (4, 5, 5)]
    assert codes == [2 + 36 * red + 6 * green + blue for red, green, blue in steps]
    [drawn] = system.write([Emitted("image", codes)])
    assert [drawn.open().getpixel((i % 2, i // 2)) for i in range(4)] == [
        tuple(int((step + 0.5) * 255 / 6) for step in cell) for cell in steps
    ]
    assert read(torch.from_numpy(prepare(drawn))[None]).tolist() == [codes]  # type: ignore[operator]


def test_two_steps_and_the_same_command_again(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(record["stage"], record["stage_step"]) for record in records] == [("train", 0), ("train", 1)]
    assert all(sum(record[f"loss/{kind}"] for record in records) > 0 for kind in ("code", "token"))
    scores = json.loads((run / "scores.json").read_text())
    assert {name: score["n"] for name, score in scores.items()} == {"read": 3, "draw": 3}
    assert (run / "samples" / "00000002-0.png").is_file()
    forget()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".html"}
    assert train(run) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_stopped_run_goes_on_to_the_same_bits(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step alone is kept, as if the process had been killed behind it."""
    from plait.train.run import Run

    monkeypatch.setattr(Run, "_tidy", lambda *_: None)
    begun = tmp_path / "begun"
    assert train(begun, "stages.train.save_every=1") == 0
    whole = (find(begun) / "model.safetensors").read_bytes()
    assert whole == (find(run) / "model.safetensors").read_bytes()
    shutil.rmtree(find(begun))
    assert find(begun).name == "step-00000001"
    forget()
    assert train(begun) == 0
    assert (find(begun) / "model.safetensors").read_bytes() == whole


@pytest.mark.slow  # two processes that import torch
def test_worker_processes_change_nothing(run: Path, tmp_path: Path) -> None:
    forget()
    assert train(tmp_path / "many", "stages.train.data.workers=2") == 0
    weights = [find(folder) / "model.safetensors" for folder in (run, tmp_path / "many")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_it_is_loaded_where_its_file_is_named(run: Path) -> None:
    forget()
    with pytest.raises(CheckpointError, match=r"colour_words.py \(unchanged\); .* give --system .*:ColourWords$"):
        plait.load(run)
    model = plait.load(run, system=SYSTEM)
    answer = model.generate(Document("a red"), max_new_tokens=3, temperature=1.0, seed=1)
    assert len(answer.runs[0].ids) <= 3
    drawn = model.generate(Document(["a red ring", BLANK]), max_new_tokens=0, seed=1)
    assert drawn.document.images[0].open().size == (8, 8)
    again = plait.load(run).generate(Document(["a red ring", BLANK]), max_new_tokens=0, seed=1)  # the file was run
    assert [one.ids for one in again.runs] == [one.ids for one in drawn.runs]
    with pytest.raises(ConfigError, match=r"guidance 2\.0: this system has no row without the prompt"):
        model.generate(Document("a"), guidance=2.0)


def test_commands_take_the_file(run: Path, say: Say, tmp_path: Path) -> None:
    drawn = ["generate", run, "--draw", "--prompt", "a red ring.", "--max-new-tokens", "0", "--out", tmp_path / "out"]
    assert "give --system " in say(*drawn)
    assert str(tmp_path / "out" / "image-0.png") in say(*drawn, "--system", SYSTEM)
    evaluated = say("evaluate", run, "--system", SYSTEM, "--task", TASKS, "--limit", "2")
    assert [f"{name}.n │ 2" in " ".join(evaluated.split()) for name in ("read", "draw")] == [True, True]
    info = " ".join(say("info", run).split())
    assert "system │ colour_words:ColourWords" in info
    assert "examples/colour_words.py (unchanged)" in info
    assert "colour_words" not in sys.modules  # to tell of it, nothing is run
    assert "part decoder │ 589,824 parameters, Apache-2.0" in info


def test_a_file_that_changed_or_went(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy = Path("colour_words.py").resolve()
    shutil.copy(FILE, copy)
    shutil.copy(FILE.with_name("colour_and_place.py"), copy.parent)
    forget()
    assert plait.load(run, system=f"{copy}:ColourWords").system.name == "colourwords"  # elsewhere, but the same
    copy.write_text(copy.read_text() + "# changed\n")
    forget()
    with pytest.warns(UserWarning, match=r"colour_words.py is not as it was when .* was saved"):
        model = plait.load(run, system="colour_words.py:ColourWords")
    from plait.checkpoints.directory import save

    saved = save(model.system, tmp_path / "own")
    assert json.loads((saved / "config.json").read_text())["code"]["file"] == "colour_words.py"
    copy.write_text(copy.read_text() + "# again\n")
    forget()
    with pytest.raises(
        CheckpointError, match=r"colour_words.py \(changed since\); .*give --system colour_words.py:Col"
    ):
        plait.load(saved)
    os.remove(copy)
    with pytest.raises(CheckpointError, match=r"\(not there\); .*give --system PATH/colour_words.py:ColourWords"):
        plait.load(saved)


def test_scores_of_single_answers(system: System) -> None:
    assert system.format.layout(Document("a")).cut(0, 2).ids().tolist() == [0, 218 + ord("a")]
    model = plait.Model(system)
    asked = Document([Turn("user", "what?")])
    likely = model.generate(asked, max_new_tokens=2, temperature=0.0).runs[0].ids
    assert all(id < 2 or id >= 218 for id in likely)
    assert len(model.score(asked, ["a", "bc"])) == 2


def test_the_cache_changes_nothing(system: System) -> None:
    """A drawn picture, scored in one pass without a cache, has the probabilities that it was drawn with."""
    prompt = Document(["a cat", BLANK])
    reply = plait.Model(system).generate(prompt, max_new_tokens=0, image_temperature=1.0, seed=3)
    [run] = reply.runs
    sequence = system.layout(Document(["a cat", reply.document.images[0]]))
    batch = system.format.collator()([[sequence]])
    with torch.no_grad():
        logits = system.unembed(system(batch).states[0])  # type: ignore[operator]
    begin = len(system.layout(prompt, open=True)) - 1
    logits = logits[begin : begin + 4]
    logits[:, :2], logits[:, 218:] = -torch.inf, -torch.inf
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(run.ids)[:, None])[:, 0]
    assert torch.allclose(expected, torch.tensor(run.logprobs), atol=1e-4)  # fp32, two ways to sum attention


def test_the_format_crosses_to_a_worker(system: System) -> None:
    again = pickle.loads(pickle.dumps(system.format))
    assert shown(again.layout(Document("a cat"))) == "|A CAT|"


def test_the_file_is_a_first_lesson() -> None:
    assert len(FILE.read_text().splitlines()) < 150
