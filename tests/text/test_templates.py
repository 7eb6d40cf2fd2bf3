from __future__ import annotations

import pytest

from plait.document import Blank, Image, Piece, Text, Turn, Video
from plait.errors import DocumentError
from plait.text.templates import (
    ALIGNMENT,
    CHATS,
    INSTRUCTIONS,
    VICUNA0,
    VICUNA0_FIRST,
    VICUNA0_INSTRUCTION,
    Segment,
    as_string,
    caption,
    fill,
    merge,
    written,
)

CAT, DOG = Image("cat.jpg"), Image("dog.jpg")
ASKED = Turn("user", [CAT, "What is it?"])


def test_pictures_stand_between_texts() -> None:
    found = VICUNA0.segments([Turn("system", "Look."), ASKED])
    assert found == ["Look.###Human: <Img>", CAT, "</Img> What is it?###Assistant: "]
    assert as_string(found) == "Look.###Human: <Img><ImageHere></Img> What is it?###Assistant: "


def test_answers_are_part_of_the_prompt() -> None:
    found = VICUNA0.segments([ASKED, Turn("assistant", "A cat."), Turn("user", "Sure?")])
    assert found[-1] == "</Img> What is it?###Assistant: A cat.###Human: Sure?###Assistant: "


def test_the_first_release_left_out_a_space() -> None:
    first, later = (as_string(chat.segments([ASKED])) for chat in (VICUNA0_FIRST, VICUNA0))
    assert first + " " == later
    assert first.startswith(VICUNA0.system + "###Human: <Img>")


@pytest.mark.parametrize("turns", [[Turn("user", [CAT]), Turn("user", ["What is it?"])], [ASKED]])
def test_words_behind_a_picture_belong_to_it(turns: list[Turn]) -> None:
    assert VICUNA0.segments(turns)[1:] == [CAT, "</Img> What is it?###Assistant: "]


def test_every_other_message_has_its_role() -> None:
    found = VICUNA0.segments([Turn("system", ""), Turn("user", ["One ", "text", CAT, DOG]), Turn("user", "?")])
    assert as_string(found) == (
        "###Human: One text###Human: <Img><ImageHere></Img>###Human: <Img><ImageHere></Img> ?###Assistant: "
    )
    found = VICUNA0.segments([Turn("system", ""), Turn("user", "One"), Turn("user", "two")])
    assert found == ["###Human: One###Human: two###Assistant: "]
    found = VICUNA0.segments([Turn("user", CAT), Turn("assistant", "A cat."), Turn("user", "?")])
    assert found[-1] == "</Img>###Assistant: A cat.###Human: ?###Assistant: "


def test_no_words_make_a_place_for_a_picture() -> None:
    found = VICUNA0.segments([Turn("user", "What is <ImageHere>?")])
    assert len(found) == 1


@pytest.mark.parametrize("name", CHATS)
def test_a_prompt_without_pictures_is_one_text(name: str) -> None:
    (text,) = CHATS[name].segments([Turn("user", "Hello")])
    assert isinstance(text, str)
    assert text.startswith(CHATS[name].system) and text.endswith(CHATS[name].opening)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "does not end with the user's turn"),
        ([Turn("system", "Look.")], "does not end with the user's turn"),
        ([ASKED, Turn("assistant", "A cat.")], "does not end with the user's turn"),
        ([ASKED, Turn("system", "Look."), ASKED], "a turn of the system behind another"),
        ([Turn("system", CAT), ASKED], "Image has no place in a turn of the system"),
        ([Turn("assistant", CAT), ASKED], "Image has no place in a turn of the assistant"),
        ([Turn("user", Blank())], "Blank has no place in a turn of the user"),
        ([Turn("user", Video((CAT,)))], "Video has no place in a turn of the user"),
    ],
)
def test_what_cannot_be_written_is_named(turns: list[Turn], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        VICUNA0.segments(turns)


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ([], []),
        ([Text("Hello")], ["Hello"]),
        ([CAT, Text("What?")], ["<Img>", CAT, "</Img> What?"]),
        ([CAT, Text("and "), DOG, Text("differ.")], ["<Img>", CAT, "</Img> and <Img>", DOG, "</Img> differ."]),
    ],
)
def test_one_message(pieces: list[Piece], wanted: list[Segment]) -> None:
    assert written(pieces) == wanted


@pytest.mark.parametrize("line", ALIGNMENT)
def test_an_instruction_is_wrapped(line: str) -> None:
    found = VICUNA0_INSTRUCTION.segments(written([CAT, Text(line)]))
    assert as_string(found) == f"###Human: <Img><ImageHere></Img> {line} ###Assistant: "
    assert VICUNA0_INSTRUCTION.segments(fill(f"<Img><ImageHere></Img> {line}", [CAT])) == found


def test_the_other_instructions() -> None:
    texts = {name: INSTRUCTIONS[name].segments(["Hello"]) for name in INSTRUCTIONS}
    assert texts == {
        "vicuna0": ["###Human: Hello ###Assistant: "],
        "vicuna0_first": ["###Human: Hello ###Assistant: "],
        "llama2": ["[INST] Hello [/INST] "],
        "minigptv2": ["[INST] Hello [/INST]"],
        "plain": ["[INST] Hello [/INST]"],
    }
    assert [INSTRUCTIONS[name].end for name in texts] == ["###", "###", "</s>", "</s>", "</s>"]


def test_places_are_filled_in_order() -> None:
    assert fill("<ImageHere> and <ImageHere>", [CAT, DOG]) == [CAT, " and ", DOG]
    assert fill("none", []) == ["none"]


@pytest.mark.parametrize("images", [[], [CAT, DOG]])
def test_places_and_pictures_must_agree(images: list[Image]) -> None:
    with pytest.raises(DocumentError, match=rf"1 places <ImageHere> but {len(images)} images in 'a <ImageHere>'"):
        fill("a <ImageHere>", images)


def test_neighbouring_texts_are_joined() -> None:
    assert merge(["", "a", "b", CAT, "", DOG, "c", ""]) == ["ab", CAT, DOG, "c"]


def test_a_caption_keeps_its_words() -> None:
    assert caption('A "Dog";  runs (fast).\n') == "a dog runs fast"
    assert caption("a\tb\nc", words=1) == "a\tb\nc"  # only spaces part words
    assert caption("one two three", words=2) == "one two"
    assert caption(" ") == ""
