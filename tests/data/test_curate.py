"""Data written by a model: described, repaired, judged and chosen; nothing is lost, and nothing paid for twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pytest
import torch

import plait
from plait import cli
from plait.checkpoints.directory import save
from plait.data.curate import GIVE_UP, Curation, Log, Repair, Rules, repeated
from plait.data.describe import Description, key_of, pictures_of
from plait.data.repair import Endpoint, Unanswered
from plait.data.review import Choice, read_choices
from plait.data.shards import ShardSource
from plait.document import Document, Image
from plait.errors import InputError

if TYPE_CHECKING:
    from conftest import Server

SHORT = Rules(min_characters=3)
COUNT = 10


class Describer:
    """Says the width of a picture; stops (as by Ctrl-C) before the call after `stop`."""

    def __init__(self, stop: int | None = None, say: Callable[[int], str] = "A picture {} wide.".format) -> None:
        self.calls: list[list[int]] = []
        self.stop = stop
        self.say = say

    def __call__(self, pictures: Sequence[bytes]) -> list[Description]:
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append([Image(one).open().width for one in pictures])
        return [Description(text=self.say(width), tokens=4, continued=width % 2 == 0) for width in self.calls[-1]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures, the first of them twice, and one that is broken."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(COUNT):
        PIL.Image.new("RGB", (10 + i, 8), (25 * i, 99, 0)).save(pictures / f"{i}.png")
    (pictures / "again.png").write_bytes((pictures / "0.png").read_bytes())
    (pictures / "broken.png").write_bytes(b"\x89PNG")
    return pictures


def described(folder: Path, out: Path, describer: Describer | None = None, batch: int = 3) -> Curation:
    curation = Curation(out, {"checkpoint": "a"})
    asked = describer or Describer()
    curation.describe(pictures_of(folder), lambda: asked, batch)
    return curation


def repairer(server: Server, **more: Any) -> Repair:
    return Repair(endpoint=Endpoint(url=server.url, model="m", waits=(0, 0), **more), price=(2.0, 5.0), workers=2)


def texts(out: Path) -> list[str]:
    source = ShardSource(out)
    return [source[i].text for i in range(len(source))]


# --------------------------------------------------------------------------------------------- descriptions


def test_every_picture_is_described_once_and_what_is_left_out_is_listed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = described(folder, out).finish(pictures_of(folder), SHORT)
    assert texts(out) == [f"A picture {10 + i} wide." for i in range(COUNT)]
    source = ShardSource(out, "train")
    assert [source[3].images[0].open().width, source.meta(3)["file"]] == [13, "3.png"]
    assert report["totals"] == {
        "pictures": 12,
        "described": 10,
        "continued": 5,
        "kept": 10,
        "rejected": 0,
        "broken": 1,
        "duplicate": 1,
        "chosen by hand": 0,
    }
    assert report["duplicate"] == [{"name": "again.png", "reason": "0.png"}]
    assert report["broken"][0]["name"] == "broken.png" and "no picture" in report["broken"][0]["reason"]
    assert json.loads((out / "report.json").read_text()) == report


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, stop: int) -> None:
    out, broken_off, rest = tmp_path / "out", Describer(stop), Describer()
    with pytest.raises(KeyboardInterrupt):
        described(folder, out, broken_off)
    with (out / "described.jsonl").open("a") as torn:
        torn.write('{"key": "half a li')
    described(folder, out, rest).finish(pictures_of(folder), SHORT)
    assert sorted(width for call in [*broken_off.calls, *rest.calls] for width in call) == [
        10 + i for i in range(COUNT)
    ]
    assert texts(out) == [f"A picture {10 + i} wide." for i in range(COUNT)]
    again = Describer(stop=0)  # nothing is left to describe
    described(folder, out, again)
    assert not again.calls


def test_no_model_is_loaded_for_nothing(folder: Path, tmp_path: Path) -> None:
    curation = described(folder, tmp_path / "out")
    before = (tmp_path / "out" / "described.jsonl").read_bytes()
    curation.describe(pictures_of(folder), lambda: pytest.fail("loaded"))
    assert (tmp_path / "out" / "described.jsonl").read_bytes() == before


def test_a_broken_picture_that_was_mended_is_described(folder: Path, tmp_path: Path) -> None:
    described(folder, tmp_path / "out")
    PIL.Image.new("RGB", (99, 9)).save(folder / "broken.png")
    asked = Describer()
    report = described(folder, tmp_path / "out", asked).finish(pictures_of(folder), SHORT)
    assert asked.calls == [[99]]
    assert (report["totals"]["kept"], report["totals"]["broken"], report["totals"]["pictures"]) == (11, 0, 12)


def test_a_folder_that_was_begun_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    described(folder, tmp_path / "out")
    with pytest.raises(InputError, match="was begun with checkpoint 'a', not 'b'; give that, or another --out"):
        Curation(tmp_path / "out", {"checkpoint": "b"})
    with pytest.raises(InputError, match="was begun with seed None, not 1"):
        Curation(tmp_path / "out", {"checkpoint": "a", "seed": 1})
    with pytest.raises(InputError, match="is not empty and holds no curation"):
        Curation(folder, {})
    (tmp_path / "out" / "curation.json").write_text('{"a')
    with pytest.raises(InputError, match=r"curation.json: no JSON object .* delete the folder"):
        Curation(tmp_path / "out", {})


def test_a_picture_that_changed_is_not_kept(folder: Path, tmp_path: Path) -> None:
    curation = described(folder, tmp_path / "out")
    PIL.Image.new("RGB", (50, 50)).save(folder / "3.png")
    (folder / "4.png").unlink()
    report = curation.finish(pictures_of(folder), SHORT)
    assert report["gone"] == ["3.png", "4.png"] and report["rejected"] == {"picture gone": 2}
    assert len(texts(tmp_path / "out")) == 8


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nno\n')
    with pytest.raises(InputError, match="a line is no JSON object"):
        Log(tmp_path / "a.jsonl")


# --------------------------------------------------------------------------------------------- rules

ORIGINAL = "There is a large red circle at the top of the picture."
LONG = "There is a large red circle at the top, and a blue ring below it."


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (None, (ORIGINAL, "")),
        (LONG, (LONG, "")),
        ("The text is already correct.", (ORIGINAL, "")),
        ("ALREADY CORRECT", (ORIGINAL, "")),
        ("Already correct but for some repetition.", (ORIGINAL, "repetition")),
        (LONG + " Some of it is incomplete.", (LONG + " Some of it is incomplete.", "incomplete")),
        (LONG[:49], (LONG[:49], "short")),
        ("", ("", "short")),
        ("I’m sorry I made a mistake. " + LONG, ("I’m sorry I made a mistake. " + LONG, "apology")),
        (LONG + " I apologize for that.", (LONG + " I apologize for that.", "apology")),
        (LONG + " " + LONG, (LONG + " " + LONG, "repetition")),
    ],
)
def test_rules(reply: str | None, wanted: tuple[str, str]) -> None:
    assert Rules().judge(ORIGINAL, reply) == wanted


def test_rules_are_settings() -> None:
    assert Rules().judge("a red circle.") == ("a red circle.", "short")
    assert Rules(min_characters=5).judge("a red circle.") == ("a red circle.", "")
    assert Rules(max_repeated=1.0).judge(LONG + " " + LONG)[1] == ""
    assert Rules(apologies=()).judge("I apologize for that. " + LONG)[1] == ""
    assert Rules().judge(ORIGINAL, LONG, cut=True) == (LONG, "cut")
    assert Rules().judge(ORIGINAL, "already correct", cut=True) == (ORIGINAL, "")


def test_repeated_runs_of_words() -> None:
    assert repeated("a small red circle at the top left, a small red square at the top right.") == 0
    assert repeated("the dog and the cat and the dog and the cat and the dog") > 0.3
    assert repeated("A dog! a dog.") == 1
    assert repeated("") == repeated("a dog") == 0


# --------------------------------------------------------------------------------------------- repair


def test_nothing_is_lost_and_nothing_is_paid_for_twice(folder: Path, tmp_path: Path, server: Server) -> None:
    out = tmp_path / "out"
    curation = described(folder, out)
    server.faults = [429, "drop", 500, "cut", "words", 502, "null", "empty", 503]
    told: list[str] = []
    curation.tell = told.append
    curation.repair(repairer(server, tries=10))
    assert server.paid == Counter({f"A picture {10 + i} wide.": 1 for i in range(COUNT)})
    curation.repair(repairer(server))
    assert len(server.requests) == COUNT + 9
    report = curation.finish(pictures_of(folder), SHORT, repairer(server))
    assert texts(out) == [f"A picture {10 + i} wide. It is put right." for i in range(COUNT)]
    bill = {"answers": 10, "tries": 19, "prompt_tokens": 1000, "completion_tokens": 100}
    assert report["repair"] == {**bill, "cost": pytest.approx((1000 * 2 + 100 * 5) / 1e6)}
    assert told[-1] == "repaired 10 of 10 texts: 1000 tokens read, 100 written, cost 0.0025"


def test_an_endpoint_that_goes_down(folder: Path, tmp_path: Path, server: Server) -> None:
    curation = described(folder, tmp_path / "out")
    answered = server.answer

    def tired(text: str) -> str:
        server.down = server.down or sum(server.paid.values()) >= 3
        return answered(text)

    server.answer = tired
    with pytest.raises(Unanswered, match=f"{GIVE_UP} texts in a row: run this again to go on"):
        curation.repair(repairer(server, tries=2))
    first = len(Log(tmp_path / "out" / "repaired.jsonl").lines)
    assert 3 <= first < COUNT and first == sum(server.paid.values())
    report = curation.finish(pictures_of(folder), SHORT, repairer(server))
    assert report["rejected"] == {"not repaired": COUNT - first}
    server.answer, server.down = answered, False
    curation.repair(repairer(server))
    assert set(server.paid.values()) == {1} and len(server.paid) == COUNT
    assert curation.finish(pictures_of(folder), SHORT)["totals"]["kept"] == COUNT


def test_answers_that_are_under_way_are_kept_when_a_person_stops(folder: Path, tmp_path: Path, server: Server) -> None:
    curation = described(folder, tmp_path / "out")

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    curation.tell = stop
    with pytest.raises(KeyboardInterrupt):
        curation.repair(repairer(server))
    assert 1 <= sum(server.paid.values()) == len(Log(tmp_path / "out" / "repaired.jsonl").lines) < COUNT
    curation.tell = lambda text: None
    curation.repair(repairer(server))
    assert set(server.paid.values()) == {1} and len(server.paid) == COUNT


def test_a_wrong_key_ends_it_at_once(folder: Path, tmp_path: Path, server: Server) -> None:
    curation = described(folder, tmp_path / "out")
    server.faults = [401] * 40
    with pytest.raises(InputError, match="state 401"):
        curation.repair(repairer(server))
    assert len(server.requests) <= 4 and not server.paid


def test_answers_of_two_models_are_not_mixed(folder: Path, tmp_path: Path, server: Server) -> None:
    curation = described(folder, tmp_path / "out")
    curation.repair(repairer(server))
    other = Repair(endpoint=Endpoint(url=server.url, model="n"))
    with pytest.raises(InputError, match="has answers of m, not n"):
        curation.repair(other)


# --------------------------------------------------------------------------------------------- choices


def page_items(out: Path) -> dict[str, str]:
    """Key -> rule of the items on the page."""
    page = (out / "review.html").read_text()
    return dict(re.findall(r'<article data-key="(\w+)" data-rule="(.*?)"', page))


def test_the_page_needs_nothing_else_and_shows_all(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    odd = Describer(
        say=lambda width: "</textarea><script>alert(1)</script>" if width == 12 else f"A picture {width} wide."
    )
    described(folder, out, odd).finish(pictures_of(folder), Rules(min_characters=30))
    page = (out / "review.html").read_text()
    assert len(page_items(out)) == COUNT and Counter(page_items(out).values()) == {"short": 9, "": 1}
    assert page.count("data:image/jpeg;base64,") == COUNT
    assert "<script>alert" not in page and "&lt;/textarea&gt;&lt;script&gt;" in page
    assert not re.search(r"""(src|href)=["'](?!data:)|https?:|@import|url\(""", page)


def test_choices_win_and_stay(folder: Path, tmp_path: Path) -> None:
    out, entries = tmp_path / "out", pictures_of(folder)
    curation = described(folder, out)
    rules = Rules(min_characters=len("A picture 10 wide.") + 1)
    assert curation.finish(entries, rules)["totals"]["kept"] == 0
    assert not (out / "train").exists()
    keys = [key_of((folder / f"{i}.png").read_bytes()) for i in range(4)]
    value = {keys[0]: {"keep": True}, keys[1]: {"keep": False}, keys[2]: {"keep": True, "text": "By hand."}}
    value[keys[3]] = {"keep": True, "text": " "}
    (tmp_path / "choices.json").write_text(json.dumps({"format": 1, "choices": value}))
    report = curation.finish(entries, rules, choices=tmp_path / "choices.json")
    assert texts(out) == ["A picture 10 wide.", "By hand."]
    assert report["rejected"] == {"by hand": 1, "nothing said": 1, "short": 6}
    assert report["totals"]["chosen by hand"] == 4
    page = (out / "review.html").read_text()
    assert f'"{keys[2]}": {{"keep": true, "text": "By hand."}}' in page and ">\nA picture 12 wide.</textarea>" in page
    assert curation.finish(entries, SHORT)["totals"]["kept"] == 8  # in force without being given again
    assert texts(out)[1] == "By hand."


def test_choices_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    path.write_text('{"choices": {"a": {"keep": true}, "b": {"keep": false, "text": "x"}}}')
    assert read_choices(path, "ab") == {"a": Choice(keep=True), "b": Choice(keep=False, text="x")}
    with pytest.raises(InputError, match="1 of 2 choices are of other pictures"):
        read_choices(path, "a")
    for wrong in ("", "[]", '{"choices": []}', '{"choices": {"a": 1}}', '{"choices": {"a": {"keep": 1}}}'):
        path.write_text(wrong)
        with pytest.raises(InputError, match="no choices as the page saves them"):
            read_choices(path, "a")


# --------------------------------------------------------------------------------------------- the command


def test_the_command(
    folder: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ENDPOINT_KEY", "secret")
    torch.manual_seed(0)
    save(plait.build("minigpt4").system, tmp_path / "tiny")
    out = tmp_path / "out"
    words = ["data", "curate", str(tmp_path / "tiny"), str(folder), "--out", str(out), "--min-characters", "1"]
    words += ["--max-new-tokens", "4", "--min-tokens", "5"]
    repair = ["--repair-url", server.url, "--repair-model", "m", "--repair-key-env", "ENDPOINT_KEY"]
    repair += ["--repair-price", "1", "2"]
    assert cli.main([*words, *repair]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"page: {out / 'review.html'}" in said and re.search(r"continued +│ 10", said)
    source = ShardSource(out)
    assert len(source) == json.loads((out / "report.json").read_text())["totals"]["kept"] > 0
    assert all(source[i].text.endswith("It is put right.") for i in range(len(source)))
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert not any(b"secret" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    first = next(iter(page_items(out)))
    (tmp_path / "choices.json").write_text(json.dumps({"choices": {first: {"keep": False}}}))
    assert cli.main([*words, "--choices", str(tmp_path / "choices.json")]) == 0
    assert len(ShardSource(out)) == len(source) - 1 and set(server.paid.values()) == {1}
    faults = {
        "was begun with max_new_tokens 4, not 5": [*words, "--max-new-tokens", "5"],
        "absent.json: no such file; save it from": [*words, "--choices", "absent.json"],
        "--repair-url without --repair-model": [*words, "--repair-url", server.url],
        "--repair-key-env ABSENT: there is no such variable": [*words, *repair, "--repair-key-env", "ABSENT"],
        "is no address of an endpoint": [*words, *repair, "--repair-url", "file:///a"],
        "0 pictures in a batch": [*words, "--batch", "0"],
        "0 workers to repair": [*words, *repair, "--repair-workers", "0"],
        "0 pictures; give": [*words[:3], str(out / "train.new"), *words[4:]],
    }
    (out / "train.new").mkdir()
    capsys.readouterr()
    for fault, line in faults.items():
        assert cli.main(line) == 2
        told = capsys.readouterr().err
        assert fault in told and len(told.splitlines()) == 1


def test_the_shards_are_captions_as_an_import_makes_them(folder: Path, tmp_path: Path) -> None:
    described(folder, tmp_path / "out").finish(pictures_of(folder), SHORT)
    document = ShardSource(tmp_path / "out")[0]
    assert [type(piece).__name__ for piece in document] == ["Text", "Image"]
    assert document.images[0].content() == (folder / "0.png").read_bytes()
    assert isinstance(document, Document)
