from __future__ import annotations

import base64
import io
import json
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from plait.errors import InputError
from plait.train.log import RunLog
from plait.train.report import write_report

VOID = {"meta", "img", "br"}
CAT = {"pieces": [{"text": "What is <this>?"}, {"image": "cat.png"}]}
DRAW = {"turns": [{"role": "user", "pieces": [{"text": "Draw."}, {"blank": "image"}]}]}
SCORES = {
    "caption": {
        "object_f1": 0.91234,
        "n": 500,
        "by_objects": {"1": {"object_f1": 0.99, "n": 100}, "2": {"object_f1": 0.875, "n": 400, "interval": [0.8, 0.9]}},
        "pairs": {"seen": 0.95, "never_seen": None},
    },
    "vqa": {
        "accuracy": 0.5,
        "kinds": {"colour": {"seen": {"accuracy": 0.75, "n": 4}, "unseen": {"accuracy": 0.25, "n": 4}}},
    },
}


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def picture(path: Path, colour: tuple[int, int, int], size: int = 8) -> None:
    path.parent.mkdir(exist_ok=True)
    PIL.Image.new("RGB", (size, size), colour).save(path)


def make_run(run: Path, steps: int = 30, samples: tuple[int, ...] = (10, 20, 30)) -> Path:
    """A run of two stages as the training loop leaves it."""
    run.mkdir()
    (run / "config.yaml").write_text("recipe: toy/tiny\nseed: 3 # <seed>\n")
    facts = {"parameters": {"decoder": 1200, "drawer": 34}, "hardware": "one core", "versions": {"torch": "2.13"}}
    (run / "facts.json").write_text(json.dumps(facts))
    with RunLog(run) as log:
        for step in range(2 * steps):
            stage, at = ("pretrain", step) if step < steps else ("tune", step - steps)
            value = 4 / (1 + at / 10)
            log.write({
                "step": step, "stage": stage, "stage_step": at, "loss": value, "loss/text": value * 0.7,
                "loss/image": value * 0.3, "lr": 1e-3 * min(1, at / 10), "tokens_per_s": 9000.0 + at % 7,
                "grad_norm": 1.0 / (at + 1), "elapsed_s": (step + 1) * 0.5,
            })  # fmt: skip
    for step in samples:
        picture(run / "samples" / f"{step}.png", (step, 200 - step, 120))
        picture(run / "samples" / "cat.png", (200, 80, 20), 16)
        items: list[dict[str, Any]] = [
            {"prompt": CAT, "answer": f"a cat & {step}", "image": None, "reference": "a cat", "reference_image": None},
            {"prompt": DRAW, "answer": None, "image": f"{step}.png", "reference": None, "reference_image": "cat.png"},
        ]
        sample = {"step": step, "stage": "pretrain", "items": items}
        (run / "samples" / f"{step:06d}.json").write_text(json.dumps(sample))
    (run / "scores.json").write_text(json.dumps(SCORES))
    return run


def contents(page: Page) -> list[bytes]:
    return [base64.b64decode((image["src"] or "").partition(",")[2]) for image in page.images]


def test_the_page_holds_everything_and_needs_nothing(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    page = Page(path)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "script" not in path.read_text()
    for words in (
        "toy/tiny",
        "60 (pretrain 30, tune 30)",
        "1,234 (decoder 1,200, drawer 34)",
        "one core",
        "torch 2.13",
        "30 s",
    ):
        assert words in page.text
    for words in ("What is <this>?", "a cat & 10", "a cat & 30", "step 20", "reference", "seed: 3 # <seed>"):
        assert words in page.text
    for words in ("0.912", "500", "by objects", "0.875", "0.800 – 0.900", "never seen", "colour", "0.250"):
        assert words in page.text
    vectors = [content for content in contents(page) if b"<svg" in content]
    assert len(vectors) == 2 * 4
    assert all(xml.etree.ElementTree.fromstring(content).tag.endswith("svg") for content in vectors)
    pictures = [PIL.Image.open(io.BytesIO(content)) for content in contents(page) if b"<svg" not in content]
    assert [p.size for p in pictures] == [(16, 16), (16, 16), (8, 8), (8, 8), (8, 8)]
    assert [p.getpixel((0, 0)) for p in pictures[2:]] == [(10, 190, 120), (20, 180, 120), (30, 170, 120)]
    assert all(image["alt"] for image in page.images)


def test_the_json_says_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_report(run)
    report = json.loads((run / "report.json").read_text())
    assert report["scores"] == SCORES
    facts = report["run"]
    assert (facts["recipe"], facts["steps"], facts["seconds"]) == ("toy/tiny", 60, 30.0)
    assert facts["parameters"] == {"decoder": 1200, "drawer": 34}
    assert [(s["name"], s["steps"], s["seconds"]) for s in facts["stages"]] == [
        ("pretrain", 30, 15.0),
        ("tune", 30, 15.0),
    ]
    assert facts["stages"][0]["first"]["loss"] == 4.0
    assert facts["stages"][0]["last"]["loss/text"] == 4 / (1 + 29 / 10) * 0.7


def test_the_same_run_gives_the_same_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob("*.partial"))


def test_what_is_absent_is_said_to_be(tmp_path: Path) -> None:
    run = tmp_path / "empty-run"
    run.mkdir()
    page = Page(write_report(run))
    for words in ("empty-run", "no scores.json", "no samples/", "no metrics.jsonl", "no config.yaml", "not recorded"):
        assert words in page.text
    assert page.images == []
    report = json.loads((run / "report.json").read_text())
    assert report["scores"] is None
    assert report["run"]["stages"] == []
    assert report["run"]["parameters"] is None


def test_pictures_that_cannot_be_shown_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", samples=(10,))
    picture(tmp_path / "secret.png", (1, 2, 3))
    (run / "samples" / "broken.png").write_bytes(b"no picture")
    names = ("../../secret.png", "gone.png", "broken.png", "data:image/png;base64,!!")
    items = [{"prompt": CAT | {"pieces": [{"text": name}]}, "image": name, "answer": ""} for name in names]
    (run / "samples" / "20.json").write_text(json.dumps({"step": 20, "stage": "tune", "items": items}))
    page = Page(write_report(run))
    assert "../../secret.png: lies outside the run directory" in page.text
    assert "gone.png: is absent" in page.text
    assert "broken.png: cannot identify" in page.text
    assert page.text.count("empty") == 4


def test_many_steps_and_samples_stay_readable(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=5000, samples=tuple(range(1, 21)))
    path = write_report(run)
    page = Page(path)
    assert "6 of 20 steps are shown" in page.text
    assert "step 1" in page.text
    assert "step 20" in page.text
    assert path.stat().st_size < 700_000


def test_a_run_that_goes_on_or_was_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {"step": i, "stage": "a", "stage_step": i, "loss": "nan", "elapsed_s": t} for i, t in enumerate((1, 2, 0.5, 1))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "sta')
    page = Page(write_report(run))
    assert "4 (a 4)" in page.text
    assert json.loads((run / "report.json").read_text())["run"]["seconds"] == 3.0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.json", "{"),
        ("facts.json", "x"),
        ("samples/1.json", "["),
        ("samples/1.json", '{"step": 1}'),
        ("config.yaml", "a: ["),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name):
        write_report(tmp_path)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        write_report(tmp_path / "gone")


def test_thinned_curves_keep_their_mean() -> None:
    from plait.train.report import MAX_POINTS, _thin

    values = np.random.default_rng(0).normal(size=MAX_POINTS * 7)
    thin = _thin(values)
    assert len(thin) == MAX_POINTS
    np.testing.assert_allclose(thin, values.reshape(MAX_POINTS, 7).mean(1))
    assert _thin(values[:10]) is not None
