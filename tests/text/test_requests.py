"""Instruction tasks. That conversations are as in the released code: tests/parity/test_seed_language.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plait.document import Document, Image, Text, Turn, Video
from plait.errors import DocumentError
from plait.text import requests
from plait.text.requests import DESCRIBE, DESCRIBE_VIDEO, DRAW, EDITED, ONE_WORD, STORY, TASKS

Picture = Callable[[int], Image]


def made(task: str, record: Document, way: int = 0) -> Document:
    return TASKS[task].make(record, way)


def told(document: Document) -> list[tuple[str, str, int]]:
    """Role, words and number of pictures of each turn."""
    return [(turn.role, turn.text, sum(isinstance(p, Image) for p in turn.pieces)) for turn in document.turns]


def test_there_are_as_many_ways_to_ask_as_published() -> None:
    assert len(DRAW) == len(set(DRAW)) == 20
    assert [way.asked[-1] for way in DRAW] == ["."] * 14 + ["?"] * 6
    assert all(way.asked.count("{}") == 1 for way in DRAW)
    assert len(set(EDITED)) == 6


def test_a_question_is_answered_with_a_full_stop(picture: Picture) -> None:
    record = Document([picture(0), "what?", " a cat"])
    assert told(made("vqa", record)) == [("user", f"what?{ONE_WORD}", 1), ("assistant", "a cat.", 0)]
    assert told(made("question", record))[0] == ("user", "what?", 1)


def test_half_of_the_captions_are_drawn(picture: Picture) -> None:
    record = Document([picture(0), "a cat."])
    assert told(made("caption", record)) == [("user", DESCRIBE, 1), ("assistant", "a cat.", 0)]
    asked, shown = told(made("caption", record, 3))
    assert asked == ("user", DRAW[1].asked.format("a cat"), 0) and shown == ("assistant", DRAW[1].answered, 1)
    ways = {tuple(told(made("caption", record, way))) for way in range(TASKS["caption"].ways)}
    assert len(ways) == 21  # twenty to draw, one to describe


def test_braces_in_a_caption_stay(picture: Picture) -> None:
    assert made("draw", Document([picture(0), "{a} {"])).turns[0].text == "Draw {a} {."


def test_edits_have_any_number_of_steps(picture: Picture) -> None:
    shown = [picture(i) for i in range(3)]
    twice = made("edit", Document([shown[0], "redder", shown[1], "bluer", shown[2]]), 1)
    assert told(twice) == [
        ("user", "redder", 1),
        ("assistant", EDITED[1], 1),
        ("user", "bluer", 0),
        ("assistant", EDITED[1], 1),
    ]
    assert twice.images == shown
    with pytest.raises(DocumentError, match="an edit of 0 steps"):
        made("edit", Document([shown[0]]))
    with pytest.raises(DocumentError, match="1 pictures where 2 are needed"):
        made("edit", Document([shown[0], "redder"]))


def test_two_pictures_are_told_apart(picture: Picture) -> None:
    record = Document([picture(0), picture(1), "Is image A above image b?", "No, image abroad is."])
    before, behind = (made("difference", record, way) for way in (0, 1))
    assert isinstance(before.pieces[0], Text) and isinstance(behind.pieces[0], Image)
    words = "This is the first image. This is the second image. Is the first image above the second image?"
    assert before.turns[0].text == behind.turns[0].text == words
    assert before.turns[1].text == "No, image abroad is."  # only A and B by themselves


def test_stories(picture: Picture) -> None:
    shown = [picture(i) for i in range(3)]
    record = Document(["One.", shown[0], "Two.", shown[1], "Three.", shown[2]])
    assert told(made("story", record)) == [
        ("user", "One.Two. Please generate an image.", 1),
        ("assistant", "Here is an image.", 1),
        ("user", "Three. Please generate an image.", 0),
        ("assistant", "Here is an image.", 1),
    ]
    once = made("story", record, 1)
    assert told(once) == [
        ("user", "One." + STORY[0].asked.strip(), 1),
        ("assistant", STORY[0].answered + "\nTwo.\nThree.", 2),
    ]
    with pytest.raises(DocumentError, match="1 pictures where 2 are needed"):
        made("story", Document(["One.", shown[0], "Two."]))
    with pytest.raises(DocumentError, match="a story of 1 pictures and 1 texts"):
        made("story", Document(["One.", shown[0]]))


def test_a_video_gives_a_few_frames(picture: Picture) -> None:
    film = Video(tuple(picture(i) for i in range(9)))
    asked, said = made("video", Document([film, "what moves", "a cat\nnoise"])).turns
    assert isinstance(asked.pieces[0], Video) and asked.pieces[0].frames == tuple(film.frames[i] for i in (0, 2, 4, 7))
    assert (asked.text, said.text) == (f"what moves?{ONE_WORD}", "a cat.")
    (long, _) = made("long-video", Document([film, "a cat"])).turns
    assert isinstance(long.pieces[0], Video) and len(long.pieces[0].frames) == 8 and long.text == DESCRIBE_VIDEO
    with pytest.raises(DocumentError, match="0 videos where 1 is needed"):
        made("video", Document([picture(0), "a", "b"]))


def test_conversations_in_two_strings(picture: Picture) -> None:
    made = requests.talk([picture(0)], "Question: one? Question: two?", "Answer: 1 Answer: 2.")
    assert told(made) == [("user", "one?", 1), ("assistant", "1.", 0), ("user", "two?", 0), ("assistant", "2.", 0)]
    with pytest.raises(DocumentError, match="2 questions and 1 answers"):
        requests.talk([], "Question: one? Question: two?", "Answer: 1")
    with pytest.raises(DocumentError, match="'Image Descriptions', which are none of its words"):
        requests.talk([], "Question: one?", "Answer: Image Descriptions: 1")


def test_conversations_in_turns(picture: Picture) -> None:
    record = Document([Turn("user", [picture(0), "one?"]), Turn("assistant", "1"), Turn("user", "draw")])
    drawn = Turn("assistant", ["Here", picture(1)])
    assert told(made("talk", Document([*record.turns, drawn]))) == [
        ("user", "one?", 1),
        ("assistant", "1.", 0),
        ("user", "draw", 0),
        ("assistant", "Here", 1),
    ]
    with pytest.raises(DocumentError, match="a record of pieces where a conversation is needed"):
        made("talk", Document("one?"))
    with pytest.raises(DocumentError, match="'Image Descriptions'"):
        made("talk", Document([Turn("user", "Image Descriptions")]))
    with pytest.raises(DocumentError, match="a record of 1 texts where 2 are needed"):
        made("vqa", Document([picture(0), "what?"]))
