"""Conversations in the terminal."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import plait
from plait import cli
from plait.checkpoints.directory import save
from plait.document import Document, Image, Text, Turn
from plait.errors import ConfigError, InputError
from plait.generate.chat import Chat, pictured
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.systems.base import Emitted
from plait.systems.cm3leon import CM3Leon
from plait.systems.minigpt4 import SIZES, MiniGPT4, MiniGPT4Format

DRAWN = Settings(max_new_tokens=8, text=Sampling(), seed=3)


class Script:
    """A terminal at which lines are typed one after the other."""

    def __init__(self, *lines: str, heard: Callable[[str], None] = lambda text: None) -> None:
        self._lines = lines
        self.heard = heard
        self.said = ""
        self.notes: list[str] = []

    def lines(self) -> Iterator[str]:
        yield from self._lines

    def say(self, text: str) -> None:
        self.said += text
        self.heard(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    pieces = plait.build("minigpt4").system.format.text
    return Model(MiniGPT4(replace(SIZES["tiny"], template="vicuna0"), pieces))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """red.png, and one with a space in its name."""
    PIL.Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    PIL.Image.new("RGB", (9, 9), "blue").save(tmp_path / "blue one.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    return tmp_path


def shown(text: str) -> str:
    """Without the signs that a terminal obeys: random weights say them too."""
    return "".join(sign for sign in text if sign in "\n\t" or (ord(sign) >= 32 and ord(sign) != 127))


def talk(model: Model, *lines: str, settings: Settings = DRAWN, **more: Any) -> tuple[Chat, Script]:
    """A chat after these lines."""
    script = Script(*lines)
    chat = Chat(model, settings, terminal=script, **more)
    chat.run()
    return chat, script


def test_answers_are_those_of_generate(model: Model, pictures: Path) -> None:
    red, blue = str(pictures / "red.png"), str(pictures / "blue one.png")
    chat, script = talk(model, f"/image {red}", "what is it?", f"'{blue}' and this?", "more")
    asked = [Turn("user", [Image(red), "what is it?"]), Turn("user", [Image(blue), "and this?"]), Turn("user", "more")]
    turns: list[Turn] = []
    for i, question in enumerate(asked):
        turns.append(question)
        reply = model.generate(Document(turns), DRAWN, seed=3 + i)
        turns.append(Turn("assistant", list(reply)))
    assert chat.turns == turns
    assert script.said == "".join(shown(turn.text) + "\n" for turn in turns[1::2])
    assert f"({red}: 20 x 10, picture 1 of the conversation)" in script.notes


def test_pictures_may_come_at_any_time(model: Model, pictures: Path) -> None:
    red, blue = str(pictures / "red.png"), str(pictures / "blue one.png")
    escaped = blue.replace(" ", r"\ ")
    chat, script = talk(model, "hello", red, f"/image {escaped} {red}", f"/image {blue}", "which?")
    assert [image.source for image in chat.turns[2].pieces[:-1] if isinstance(image, Image)] == [red, blue, red, blue]
    assert "picture 4 of the conversation" in script.notes[-1 if script.notes[-1] != "(max_new_tokens)" else -2]
    assert len(chat.turns) == 4


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("what is it?", ["what is it?"]),
        ("what's the dog's name?", ["what's the dog's name?"]),
        ("RED what is it?", ["RED", "what is it?"]),
        ("is it 'BLUE' or RED now", ["is it", "BLUE", "or", "RED", "now"]),
        ("FILE://BLUE", ["BLUE"]),
        ("ESCAPED x", ["BLUE", "x"]),
        ("a .png is what?", ["a .png is what?"]),
        ("", []),
    ],
)
def test_words_that_are_pictures(pictures: Path, line: str, wanted: list[str]) -> None:
    red, blue = str(pictures / "red.png"), str(pictures / "blue one.png")
    places = {
        "FILE://BLUE": "file://" + blue.replace(" ", "%20"),
        "ESCAPED": blue.replace(" ", r"\ "),
        "RED": red,
        "BLUE": blue,
    }
    for name, place in places.items():
        line = line.replace(name, place)
    found = [piece.text if isinstance(piece, Text) else str(piece.source) for piece in pictured(line)]  # type: ignore[union-attr]
    assert found == [places.get(word, word) for word in wanted]


def test_what_cannot_be_done_is_one_line_and_changes_nothing(model: Model, pictures: Path) -> None:
    faults = {
        "/image": "give the path of a picture",
        f"/image {pictures / 'gone.png'}": "cannot be read",
        f"{pictures / 'gone.png'} what is it?": "no such file; check the path, or leave .png out",
        f"{pictures / 'broken.png'} what is it?": "no picture in a format",
        f"/image {pictures / 'broken.png'}": "no picture in a format",
        "/imege x": "no command /imege; did you mean '/image'?",
        "/seed x": "give a number; it is 3",
        "/save": "give the name of a file",
        f"/save {pictures / 'absent' / 'a.json'}": "No such file or directory; check the path",
        "word " * 500: "elements, at most 511 fit",
    }
    chat, script = talk(model, "hello", *faults)
    assert len(chat.turns) == 2 and not chat.pictures
    told = script.notes[-len(faults) :]
    for note, fault in zip(told, faults.values(), strict=True):
        assert fault in note and "\n" not in note


def test_undo_goes_back_step_by_step(model: Model, pictures: Path) -> None:
    red = str(pictures / "red.png")
    chat, script = talk(model, "one", f"{red} two", red, "/undo", "/undo", "again")
    assert [turn.text for turn in chat.turns if turn.role == "user"] == ["one", "again"]
    assert f"({red} is taken back)" in script.notes and "(taken back: 1 picture and 'two')" in script.notes
    other, _ = talk(model, "one", "again")
    assert chat.turns == other.turns  # with the same seed, as if nothing had been in between
    emptied, script = talk(model, "one", "/undo", "/undo")
    assert not emptied.turns and script.notes[-1] == "(nothing to take back)"


def test_reset_and_seed(model: Model, pictures: Path) -> None:
    chat, _ = talk(model, "one", str(pictures / "red.png"), "/reset", "/seed 9", "two")
    other, _ = talk(model, "two", settings=Settings(max_new_tokens=8, text=Sampling(), seed=9))
    assert chat.turns == other.turns and not chat.pictures


def test_quit_and_help(model: Model) -> None:
    chat, script = talk(model, "/help", "/quit", "hello")
    assert not chat.turns
    assert all(command in script.notes[1] for command in [*chat._commands(), "/quit"])


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own answer to Ctrl-C, which a process that was begun in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("words", [1, 3])
def test_ctrl_c_stops_an_answer_and_not_the_chat(model: Model, words: int) -> None:
    chunks: list[str] = []

    def press(text: str) -> None:
        chunks.append(text)
        if len(chunks) == words:
            signal.raise_signal(signal.SIGINT)

    script = Script("hello", "and?", heard=press)
    chat = Chat(model, Settings(max_new_tokens=40, text=Sampling(), seed=3), terminal=script)
    chat.run()
    whole = model.generate(Document([Turn("user", "hello")]), max_new_tokens=40, temperature=1.0, seed=3).text
    assert shown(chat.turns[1].text) == "".join(chunks[:words]) != shown(whole)
    assert whole.startswith(chat.turns[1].text)
    assert "(stopped)" in script.notes and len(chat.turns) == 4


def test_an_answer_that_is_stopped_before_a_word_was_not_asked_for(
    model: Model, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(document: Document, settings: Settings) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(model, "stream", stream)
    chat, script = talk(model, str(pictures / "red.png"), "hello")
    assert not chat.turns and chat.pictures
    assert script.notes[-1] == "(stopped before a word: the question is taken back)"


def test_what_is_saved_goes_on(model: Model, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    (pictures / "below").mkdir()
    chat, script = talk(model, "red.png what is it?", "red.png", "/save below/chat.json")
    assert script.notes[-1] == "(below/chat.json, without 1 pictures that were not asked about)"
    saved = Document.read("below/chat.json")
    assert json.loads(Path("below/chat.json").read_text())["turns"][0]["pieces"][0] == {"image": "../red.png"}
    assert saved.turns[1] == chat.turns[1]
    again, _ = talk(model, "and?", turns=saved.turns)
    whole, _ = talk(model, "red.png what is it?", "and?")
    assert again.turns[3] == whole.turns[3]
    with pytest.raises(InputError, match="ends with a question"):
        Chat(model, DRAWN, turns=saved.turns[:1], terminal=Script())


def test_a_conversation_that_no_longer_fits_loses_its_beginning_and_says_so(model: Model) -> None:
    settings = Settings(max_new_tokens=8, cut_prompt=True)
    chat, script = talk(model, "word " * 500, settings=settings)
    assert len(chat.turns) == 2
    lost = len(model.format.layout(Document(chat.turns[:1]), open=True)) + 8 - model.format.max_length
    assert f"(the first {lost} elements of the conversation no longer fit; /reset begins anew)" in script.notes


def test_pictures_that_are_drawn(cm3leon: CM3Leon, tmp_path: Path) -> None:
    """After an answer with a picture, CM3Leon draws by itself."""
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / "first.png")
    turns = [Turn("user", "a red one"), Turn("assistant", ["so:", Image(tmp_path / "first.png")])]
    settings = Settings(max_new_tokens=30, max_images=2, text=Sampling(), seed=4)
    found: list[Chat] = []
    for seed in range(20):
        settings = Settings(max_new_tokens=30, max_images=2, text=Sampling(), seed=seed)
        chat, script = talk(Model(cm3leon), "a blue one", settings=settings, turns=turns, out=tmp_path / "out")
        if Document(chat.turns[-1:]).images:
            found.append(chat)
            break
    (chat,) = found
    paths = [str(image.source) for image in Document(chat.turns[-1:]).images]
    assert all(path in script.said for path in paths)
    assert [Path(path).name for path in paths] == [f"image-{i}.png" for i in range(len(paths))]
    with PIL.Image.open(paths[0]) as picture:
        assert picture.size == (8, 8)
    again, script = talk(Model(cm3leon), "a blue one", settings=settings, turns=turns)
    assert "--out DIR writes it" in script.said
    assert Document(again.turns[-1:]).images[0].open().tobytes() == Image(paths[0]).open().tobytes()


def test_signs_that_a_terminal_obeys_are_left_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MiniGPT4Format, "read_text", lambda self, run: "a\x1b[31m\x07b\x7f\n"[: 3 * len(run.ids)])
    chat, script = talk(model, "hello")
    assert script.said == "a[31mb\n\n"
    assert chat.turns[1].text == "a\x1b[31m\x07b\x7f\n"


def test_half_a_stop_is_not_told(model: Model) -> None:
    """An answer that ends with a stop of several ids, as generated and as told."""
    document = Document([Turn("user", "hello")])
    ids = model.generate(document, max_new_tokens=12, temperature=1.0, seed=1).runs[0].ids
    stop = tuple(ids[5:8])

    class Cut(MiniGPT4Format):
        def read_text(self, run: Emitted) -> str:
            said = list(run.ids)
            at = next((i for i in range(len(said)) if tuple(said[i : i + 3]) == stop), len(said))
            return " ".join(map(str, said[:at]))

    format = model.format
    assert isinstance(format, MiniGPT4Format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.system, "format", Cut(format.config, format.text))
        settings = Settings(max_new_tokens=12, text=Sampling(), seed=1, stop=(stop,))
        chunks = [piece.text for piece in model.stream(document, settings) if isinstance(piece, Text)]
        assert "".join(chunks) == model.generate(document, settings).text == " ".join(map(str, ids[:5]))
        assert len(chunks) == 5


def test_text_that_is_taken_back_is_told_anew(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Ass", "Assistant", "a", "a dog"]
    monkeypatch.setattr(MiniGPT4Format, "read_text", lambda self, run: texts[min(len(run.ids), 4) - 1])
    document = Document([Turn("user", "hello")])
    chunks = [piece.text for piece in model.stream(document, max_new_tokens=4) if isinstance(piece, Text)]
    assert chunks == ["Ass", "istant", "a", " dog"]
    chat, _ = talk(model, "hello", settings=Settings(max_new_tokens=4))
    assert chat.turns[1].text == "a dog"


# --------------------------------------------------------------------------------------------- presets, commands


def test_presets_of_minigpt4(model: Model) -> None:
    encode = model.format.text_ids
    chat = model.settings("chat")
    wanted = Sampling(temperature=1.0, top_k=50, top_p=0.9, repetition_penalty=1.05)
    assert (chat.text, chat.max_new_tokens, chat.beams, chat.cut_prompt) == (wanted, 128, 1, True)
    assert chat.stop == (encode("###"), encode("\n###")[len(encode("\n")) :])
    first = model.settings("first_release", max_new_tokens=7)
    assert (first.beams, first.text.temperature, first.max_new_tokens, first.stop) == (5, 0.0, 7, chat.stop)
    assert isinstance(model.format, MiniGPT4Format)
    config = replace(model.format.config, language=replace(model.format.config.language, positions=2048))
    published = MiniGPT4Format(config, model.format.text).presets
    assert [published[name]["max_new_tokens"] for name in ("chat", "first_release")] == [300, 200]
    assert model.settings() == Settings() != model.settings(temperature=1.0)
    with pytest.raises(ConfigError, match="no preset 'chatt' of minigpt4; did you mean 'chat'"):
        model.settings("chatt")
    with pytest.raises(ConfigError, match="no preset 'chat' of cm3leon; it has none"):
        plait.build("cm3leon").settings("chat")


def test_templates_have_their_own_ends(model: Model) -> None:
    format = model.format
    assert isinstance(format, MiniGPT4Format)

    def of(template: str) -> MiniGPT4Format:
        return MiniGPT4Format(replace(format.config, template=template), format.text)

    assert of("llama2").presets["chat"]["stop"] == of("minigptv2").presets["chat"]["stop"] == ()
    assert of("vicuna0_first").presets == format.presets
    asked = Document([Turn("user", "hello")])
    laid = [of(name).layout(asked, open=True).ids().tolist() for name in ("vicuna0_first", "vicuna0")]
    assert [format.text.decode(ids)[-11:] for ids in laid] == ["#Assistant:", "Assistant: "]


def test_stops_of_the_real_tokenizer_would_be_both_spellings(model: Model) -> None:
    """ "###" at the beginning of a word, and where it follows another sign."""
    encode, stops = model.format.text_ids, model.settings("chat").stops(model.format)
    assert any(encode("a dog ###")[-len(ids) :] == ids for ids in stops)
    assert any(encode("a dog.###")[-len(ids) :] == ids for ids in stops)
    assert len(set(stops)) == 2


def test_each_document_may_have_its_own_settings(model: Model) -> None:
    document = Document([Turn("user", "hello")])
    each = [Settings(max_new_tokens=3), Settings(max_new_tokens=5, beams=2), Settings(max_new_tokens=4, seed=7)]
    replies = model.generate([document] * 3, each)
    assert [reply.runs[0].ids for reply in replies] == [model.generate(document, one).runs[0].ids for one in each]
    with pytest.raises(ValueError, match="zip"):
        model.generate([document], each)


@pytest.fixture(scope="module")
def checkpoint(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    save(model.system, folder)
    return folder


def test_the_commands_take_presets_and_each_others_documents(
    model: Model, checkpoint: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    monkeypatch.setattr(sys, "stdin", io.StringIO("red.png what?\n/save chat.json\n\xff\nbroken.png ?\n"))
    assert cli.main(["chat", str(checkpoint), "--max-new-tokens", "6"]) == 0
    said = capsys.readouterr()
    assert "broken.png: no picture in a format" in said.err
    first = Document.read("chat.json").turns[1].text
    red = Turn("user", [Image("red.png"), "what?"])
    assert first == model.generate(Document(red), model.settings("chat", max_new_tokens=6)).text
    assert said.out.startswith(shown(first) + "\n")
    words = ["--document", "chat.json", "--preset", "chat", "--max-new-tokens", "6", "--seed", "1"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("and?"))
    assert cli.main(["chat", str(checkpoint), "--document", "chat.json", "--max-new-tokens", "6"]) == 0
    told = capsys.readouterr().out
    assert cli.main(["generate", str(checkpoint), *words, "--prompt", "and?"]) == 0
    assert shown(capsys.readouterr().out.strip()) == told.strip()
    assert cli.main(["generate", str(checkpoint), *words]) == 2
    assert "does not end with the user's turn" in capsys.readouterr().err
    assert cli.main(["generate", str(checkpoint), "--prompt", "a", "--preset", "chatt"]) == 2
    assert "did you mean 'chat'?" in capsys.readouterr().err


def test_without_a_preset_nothing_changes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(checkpoint), "--prompt", "a", "--max-new-tokens", "5"]
    assert cli.main(words) == 0
    plain = capsys.readouterr().out
    given = ["--temperature", "0", "--top-k", "0", "--top-p", "1", "--beams", "1", "--seed", "0"]
    assert cli.main([*words, "--preset", "chat", "--repetition-penalty", "1", *given]) == 0
    assert capsys.readouterr().out == plain
