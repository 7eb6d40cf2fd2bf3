from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.document import Blank, Document, Image, Piece, Text, Turn, Video, joined, middles
from plait.errors import DocumentError, ImageError

names = st.text("abc/.é ", min_size=1, max_size=8).filter(lambda name: not name.startswith("/")).map(Path)
pictures = st.builds(Image, names)
seconds = st.floats(0, 1e6)
videos = st.lists(st.tuples(pictures, seconds), max_size=3).flatmap(
    lambda frames: st.sampled_from(
        [
            Video(tuple(frame for frame, _ in frames)),
            Video(tuple(frame for frame, _ in frames), tuple(time for _, time in frames)),
        ]
    )
)
pieces: st.SearchStrategy[Piece] = st.one_of(
    st.builds(Text, st.text()), pictures, videos, st.builds(Blank, st.sampled_from(["text", "image"]))
)
turns = st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), st.lists(pieces, max_size=3))
documents = st.builds(Document, st.one_of(st.lists(pieces, max_size=4), st.lists(turns, max_size=3)))


def normal(document: Document) -> Any:
    """The JSON form, as it comes back from a file: paths are written in one way there."""
    return json.loads(json.dumps(document.to_json()))


@given(documents)
def test_json_round_trip(document: Document) -> None:
    form = json.loads(json.dumps(document.to_json()))
    again = Document.from_json(form)
    assert normal(again) == form
    assert [type(piece) for piece in again] == [type(piece) for piece in document]
    assert again.text == document.text
    assert [turn.role for turn in again.turns] == [turn.role for turn in document.turns]
    assert [len(turn.pieces) for turn in again.turns] == [len(turn.pieces) for turn in document.turns]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["pieces", "turns", "text", "image", "video", "times", "blank", "role"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_document_or_a_document_error(value: Any) -> None:
    try:
        document = Document.from_json(value)
    except DocumentError:
        return
    assert normal(Document.from_json(document.to_json())) == normal(document)


def test_strings_are_text() -> None:
    assert Document("a") == Document(["a"]) == Document(Text("a")) == Document([Text("a")])
    assert Turn("user", "a") == Turn("user", ["a"]) == Turn("user", Text("a"))
    assert Document(Turn("user", "a")) == Document([Turn("user", "a")])
    assert len(Document()) == 0 and list(Document(["a", Blank()])) == [Text("a"), Blank("text")]


def test_what_a_document_offers() -> None:
    image, video = Image("a.png"), Video((Image("b.png"),))
    document = Document(["x", image, video, "y"])
    assert document.text == "xy" and document.images == [image] and document.turns == ()
    talk = Document([Turn("user", [image, "q"]), Turn("assistant", "a")])
    assert talk.pieces == (image, Text("q"), Text("a")) and talk.text == "qa"
    assert [turn.text for turn in talk.turns] == ["q", "a"]
    assert hash(talk) == hash(Document(talk.turns))


def test_the_json_form() -> None:
    form = {
        "pieces": [
            {"text": "A photo of "},
            {"image": "cat.jpg"},
            {"video": ["0.jpg", "1.jpg"], "times": [0.0, 0.5]},
            {"blank": "image"},
        ]
    }
    assert Document.from_json(form).to_json() == form
    talk = {"turns": [{"role": "user", "pieces": [{"image": "cat.jpg"}]}, {"role": "assistant", "pieces": []}]}
    assert Document.from_json(talk).to_json() == talk


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    PIL.Image.new("RGB", (3, 2), (9, 8, 7)).save(folder / "cat.png")
    path = folder / "document.json"
    form = {"pieces": [{"text": "é"}, {"image": "cat.png"}]}
    path.write_text(json.dumps(form, ensure_ascii=False), encoding="utf-8")
    document = Document.read(path)
    assert document.text == "é"
    assert document.images[0].open().getpixel((0, 0)) == (9, 8, 7)
    relative = Document(["é", Image("set/cat.png")])
    assert relative.to_json() == {"pieces": [{"text": "é"}, {"image": "set/cat.png"}]}
    assert relative.to_json("set") == form
    assert Document.from_json(relative.to_json("set"), "set") == Document(["é", Image(Path("set/cat.png"))])
    absolute = {"pieces": [{"image": str(folder / "cat.png")}]}
    assert Document.from_json(absolute, "elsewhere").to_json("there") == absolute


def test_pictures_in_memory_become_data_addresses() -> None:
    picture = PIL.Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")

    class Scene:
        def open(self) -> PIL.Image.Image:
            return picture

    for source in (picture, buffer.getvalue(), Scene()):
        form = Document([Image(source), Video((Image(source),))]).to_json()
        assert form["pieces"][0]["image"].startswith("data:image/png;base64,")
        again = Document.from_json(json.loads(json.dumps(form)), "ignored")
        np.testing.assert_array_equal(np.asarray(again.images[0].open()), np.asarray(picture))
        np.testing.assert_array_equal(np.asarray(again.pieces[1].frames[0].open()), np.asarray(picture))


def test_pixels_are_read_when_they_are_opened() -> None:
    document = Document.from_json({"pieces": [{"image": "nowhere.png"}]})
    with pytest.raises(ImageError, match=r"nowhere.png: cannot be read \(No such file or directory\); check the path"):
        document.images[0].open()
    assert Image(PIL.Image.new("L", (2, 2), 7)).open().getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, r"one of 'pieces' or 'turns', not \[\]"),
        ({"pieces": [], "turns": []}, r"not \['pieces', 'turns'\]"),
        ({"pieces": [], "extra": 1}, r"not \['extra', 'pieces'\]"),
        ([], "one of 'pieces' or 'turns', not list"),
        (3, "one of 'pieces' or 'turns', not int"),
        ({"pieces": "abc"}, "'pieces' is a list, not str"),
        ({"turns": None}, "'turns' is a list, not NoneType"),
        ({"pieces": ["abc"]}, "a piece is one of text, image, video .* not str"),
        ({"pieces": [{"text": 3}]}, r"a piece is one of .*, not \['text'\]"),
        ({"pieces": [{"text": "a", "bold": True}]}, r"not \['bold', 'text'\]"),
        ({"pieces": [{"image": 3}]}, "an image is a path or a data: address, not int"),
        ({"pieces": [{"image": "data:image/png;base64,*"}]}, "no valid base64"),
        ({"pieces": [{"image": "data:image/png"}]}, "no ';base64,' part with content"),
        ({"pieces": [{"image": "data:;base64,"}]}, "no ';base64,' part with content"),
        ({"pieces": [{"video": ["a", "b"], "times": [1]}]}, "2 frames but 1 times: give one for each"),
        ({"pieces": [{"video": ["a"], "times": "1"}]}, "'times' is a list, not str"),
        ({"pieces": [{"video": ["a"], "times": ["1"]}]}, "'times' of a video are seconds, not"),
        ({"pieces": [{"video": "a"}]}, r"a piece is one of .*, not \['video'\]"),
        ({"pieces": [{"blank": "sound"}]}, r"a piece is one of .*, not \['blank'\]"),
        ({"turns": [3]}, "a turn has 'role' and 'pieces', not int"),
        ({"turns": [{"role": "user"}]}, r"a turn has 'role' and 'pieces', not \['role'\]"),
        ({"turns": [{"role": "robot", "pieces": []}]}, "role 'robot' is not one of system, user, assistant"),
        ({"turns": [{"role": [], "pieces": []}]}, r"role \[\] is not one of"),
        ({"turns": [{"role": "user", "pieces": {}}]}, "'pieces' is a list, not dict"),
    ],
)
def test_wrong_forms(value: Any, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        Document.from_json(value)


def test_wrong_content() -> None:
    with pytest.raises(DocumentError, match="1 turns among 2 items: a document holds either pieces or turns"):
        Document([Turn("user", "a"), "b"])
    with pytest.raises(DocumentError, match="int is no piece: use text, Image, Video or Blank"):
        Document(["a", 3])  # type: ignore[list-item]
    with pytest.raises(DocumentError, match="role 'robot' is not one of"):
        Turn("robot", "a")  # type: ignore[arg-type]
    with pytest.raises(DocumentError, match="1 frames but 2 times"):
        Video((Image("a"),), (0.0, 1.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "no readable JSON"),
        (b"\xff", "no readable JSON"),
        (b"[]", "not list"),
        (b"[" * 100_000, "no readable JSON"),
    ],
)
def test_wrong_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "document.json"
    path.write_bytes(content)
    with pytest.raises(DocumentError, match=rf"document.json: .*{message}"):
        Document.read(path)
    with pytest.raises(DocumentError, match=r"gone.json: no readable JSON document \(.*No such file"):
        Document.read(tmp_path / "gone.json")


def test_base64_of_the_original_bytes_is_accepted(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (250, 0, 0)).save(buffer, "JPEG")
    address = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    image = Document.from_json({"pieces": [{"image": address}]}).images[0]
    assert image.source == buffer.getvalue() and image.open().size == (4, 4)


def test_the_bytes_of_a_picture(tmp_path: Path) -> None:
    class Stored:
        def open(self) -> PIL.Image.Image:
            return PIL.Image.new("RGB", (1, 1))

        def read(self) -> bytes:
            return b"stored"

    path = tmp_path / "a.png"
    path.write_bytes(b"file")
    found = [Image(source).content() for source in (path, str(path), b"bytes", Stored(), tmp_path / "none")]
    assert found == [b"file", b"file", b"bytes", b"stored", None]
    assert Image(PIL.Image.new("RGB", (1, 1))).content() is None


def test_documents_stand_before_another() -> None:
    first, second = Document(["a", Image(PIL.Image.new("RGB", (2, 2)))]), Document([Turn("user", "b")])
    document = Document("c").behind([first, second])
    assert document.before == (first, second) and document.text == "c" and not document.images
    assert document.behind([]) == Document("c")
    form = document.to_json()
    assert [*form] == ["pieces", "before"]
    again = Document.from_json(json.loads(json.dumps(form)))
    assert [one.text for one in again.before] == ["a", "b"] and again.before[0].images[0].open().size == (2, 2)
    talk = Document([Turn("user", "d")], before=[first])
    assert Document.from_json(talk.to_json()).before[0].text == "a"
    for wrong in (Document(["a", Blank()]), document):
        with pytest.raises(DocumentError, match="neither blanks nor others before it"):
            Document("c").behind([wrong])
    with pytest.raises(DocumentError, match="'before' is a list, not dict"):
        Document.from_json({"pieces": [], "before": {}})


def test_documents_are_joined() -> None:
    picture = Image(PIL.Image.new("RGB", (2, 2)))
    first, second = Document(["a", picture]), Document("b").behind([Document("c")])
    assert joined([first, second]).pieces == (*first.pieces, *second.pieces) and not joined([first, second]).before
    talk = Document([Turn("user", "d"), Turn("assistant", "e")])
    assert joined([talk, talk]).turns == talk.turns * 2 and joined([]) == Document()
    with pytest.raises(DocumentError, match="1 conversations of 2 documents to be joined: give all as pieces"):
        joined([first, talk])


def test_frames_of_a_video_from_the_middles_of_equal_parts() -> None:
    assert middles(50, 4) == [5, 18, 30, 43]
    assert middles(3, 8) == [0, 1, 2] and middles(0, 4) == []
    video = Video(tuple(Image(f"{i}.png") for i in range(5)), tuple(float(i) for i in range(5)))
    assert [frame.source for frame in video.middles(2).frames] == ["0.png", "3.png"]
    assert video.middles(2).times == (0.0, 3.0) and Video(video.frames).middles(2).times == ()
    with pytest.raises(DocumentError, match="0 frames of 5: ask for at least 1"):
        video.middles(0)
