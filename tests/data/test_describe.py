"""What a model is asked about pictures, and which pictures there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

import plait
from plait.data.describe import Describer, pictures_of, sample
from plait.data.shards import ShardWriter
from plait.document import Document, Image, Text, Turn
from plait.errors import InputError
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.systems.cm3leon import CM3Leon
from plait.systems.minigpt4 import SIZES, MiniGPT4, MiniGPT4Format

SETTINGS = Settings(max_new_tokens=6, text=Sampling(), seed=5)
DETAILED = "Describe this image in detail. Give as many details as possible. Say everything you see."


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    pieces = plait.build("minigpt4").system.format.text
    return Model(MiniGPT4(replace(SIZES["tiny"], template="vicuna0"), pieces))


def files(folder: Path, count: int) -> list[bytes]:
    found = []
    for i in range(count):
        PIL.Image.new("RGB", (6 + i, 5), (20 * i, 9, 9)).save(folder / f"{i}.png")
        found.append((folder / f"{i}.png").read_bytes())
    return found


def written(document: Document) -> str:
    assert not document.turns
    return "".join(piece.text if isinstance(piece, Text) else "<>" for piece in document)


def test_the_published_prompts(model: Model) -> None:
    describer = Describer(model=model, settings=SETTINGS)
    image = Image(b"")
    first = f"###Human: <Img><></Img>{DETAILED} ###Assistant: "
    assert written(describer.document(image)) == first
    assert written(describer.document(image, "A dog.")) == f"{first}A dog.###Human: Continue ###Assistant: "
    assert len(describer.document(image, "A dog.")) == 3  # one segment before the picture, one behind
    assert written(describer.document(image, "<ImageHere>")).count("<>") == 1
    format = model.format
    assert isinstance(format, MiniGPT4Format)
    llama2 = MiniGPT4Format(replace(SIZES["tiny"], template="llama2"), format.text)
    assert llama2.prompts["describe"] == f"[INST] <Img><ImageHere></Img>{DETAILED} [/INST] "


def test_any_system_can_be_asked(cm3leon: CM3Leon, picture: Callable[[int], Image], tmp_path: Path) -> None:
    describer = Describer(model=Model(cm3leon), settings=Settings(max_new_tokens=2), more="And?", min_tokens=80)
    image = picture(0)
    asked = Turn("user", [image, DETAILED])
    assert describer.document(image).turns == (asked,)
    assert describer.document(image, "a").turns == (asked, Turn("assistant", "a"), Turn("user", "And?"))
    said = replace(describer, prompt="what?")(files(tmp_path, 2))
    assert [one.continued for one in said] == [True, True]
    raw = replace(describer, prompt="<ImageHere> shows ")
    assert [type(piece) for piece in raw.document(image)] == [Image, Text]


def test_short_descriptions_go_on(model: Model, tmp_path: Path) -> None:
    pictures = files(tmp_path, 3)
    describer = Describer(model=model, settings=SETTINGS, min_tokens=6)
    once = describer(pictures)
    assert [(one.tokens, one.continued) for one in once] == [(6, False)] * 3
    twice = replace(describer, min_tokens=7)(pictures)
    for before, after in zip(once, twice, strict=True):
        assert after.continued and after.tokens == 12
        assert after.text.startswith(before.text + " ") and len(after.text) > len(before.text) + 1
    format = model.format
    full = replace(describer, min_tokens=7, more="word " * 300)  # leaves no room: then it stays short
    assert len(format.layout(full.document(Image(pictures[0]), ""), open=True)) >= format.max_length
    assert full(pictures) == once


def test_a_description_does_not_depend_on_its_neighbours(model: Model, tmp_path: Path) -> None:
    pictures = files(tmp_path, 3)
    describer = Describer(model=model, settings=SETTINGS)
    together = describer(pictures)
    assert [describer([one])[0] for one in reversed(pictures)] == together[::-1]
    assert len({one.text for one in together}) == 3
    assert describer([]) == []


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    files(tmp_path, 2)
    (tmp_path / "below").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("below/A.JPG", ".hidden/b.png", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert [entry.name for entry in pictures_of(tmp_path)] == ["0.png", "1.png", "below/A.JPG"]
    none = _empty(tmp_path / "none")
    with pytest.raises(InputError, match="0 pictures; give a folder"):
        pictures_of(none)
    with pytest.raises(InputError, match="is no folder"):
        pictures_of(tmp_path / "absent")


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_pictures_of_a_data_directory_once_each(tmp_path: Path) -> None:
    contents = files(_empty(tmp_path / "png"), 3)
    for split in ("test", "train"):
        with ShardWriter(tmp_path / "data" / split) as writer:
            writer.add("0", [Document([text, Image(contents[0])]) for text in "ab"])
            writer.add("1", Document(["first", Image(contents[1]), "then", Image(contents[2])]))
            writer.add("2", Document("none"))
    entries = pictures_of(tmp_path / "data")
    names = [
        f"{split}/shard-000000.tar:{name}" for split in ("test", "train") for name in ("0.0.png", "1.0.png", "1.1.png")
    ]
    assert [entry.name for entry in entries] == names
    alone = pictures_of(tmp_path / "data" / "train" / "shard-000000.tar")
    assert [entry.name for entry in alone] == ["shard-000000.tar:" + name for name in ("0.0.png", "1.0.png", "1.1.png")]


def test_a_sample_is_the_same_each_time(tmp_path: Path) -> None:
    files(tmp_path, 9)
    entries = pictures_of(tmp_path)
    few = sample(entries, 4)
    assert few == sample(entries, 4) and len(few) == 4 and few == [entry for entry in entries if entry in few]
    assert few != entries[:4]
    assert sample(entries, None) == sample(entries, 9) == entries
    with pytest.raises(InputError, match="a limit of 0 pictures"):
        sample(entries, 0)
