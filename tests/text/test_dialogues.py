"""How conversations are written. That it is as in the released code: tests/parity/test_seed_language.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plait.document import Blank, Image, Turn, Video
from plait.errors import DocumentError
from plait.text.dialogues import LLAMA2, VICUNA, spoken
from plait.text.templates import as_string

Picture = Callable[[int], Image]


def talk(picture: Picture) -> list[Turn]:
    return [
        Turn("user", [picture(0), "what?"]),
        Turn("assistant", ["This: ", picture(1)]),
        Turn("user", "and?"),
    ]


def test_a_prompt_is_one_string(picture: Picture) -> None:
    turns = talk(picture)
    place = "<ImageHere>"
    assert as_string(VICUNA.prompt(turns)) == (f"USER: {place}what?\nASSISTANT: This: {place}\nUSER: and?\nASSISTANT:")
    assert as_string(LLAMA2.prompt(turns)) == f"[INST] {place}what? [/INST]\nThis: {place}\n[INST] and? [/INST]\n"
    system = [Turn("system", "Be {kind}."), *turns[:1]]
    assert as_string(VICUNA.prompt(system)) == f"Be {{kind}}.\nUSER: {place}what?\nASSISTANT:"
    assert as_string(LLAMA2.prompt(system)) == f"<<SYS>>\nBe {{kind}}.\n<</SYS>>\n\n[INST] {place}what? [/INST]\n"


def test_in_training_every_turn_is_a_string(picture: Picture) -> None:
    turns = [Turn("system", "Hi."), *talk(picture)]
    parts = [(role, as_string(part)) for role, part in VICUNA.parts(turns)]
    assert parts == [
        ("system", "Hi.\n"),
        ("user", "USER: <ImageHere>what?\nASSISTANT:"),
        ("assistant", "This: <ImageHere>"),
        ("user", "\nUSER: and?\nASSISTANT:"),
    ]


def test_a_video_is_its_frames(picture: Picture) -> None:
    frames = (picture(0), picture(1))
    assert spoken([Video(frames)]) == list(frames)


def test_what_has_no_place_is_refused(picture: Picture) -> None:
    user, assistant = Turn("user", "a"), Turn("assistant", "b")
    with pytest.raises(DocumentError, match="does not end with the user's turn"):
        VICUNA.prompt([user, assistant])
    with pytest.raises(DocumentError, match="turn 1 is the user's, not the assistant's: they speak in turn"):
        VICUNA.prompt([user, user])
    with pytest.raises(DocumentError, match="turn 0 is the assistant's, not the user's"):
        list(VICUNA.parts([assistant]))
    with pytest.raises(DocumentError, match="turn 1 is the system's, not the assistant's"):
        list(VICUNA.parts([user, Turn("system", "c")]))
    with pytest.raises(DocumentError, match="a blank for text: only a prompt may end with one"):
        spoken([Blank("text")])
