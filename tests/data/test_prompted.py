"""Documents as captions of the web, as answers to prompts, and as the templates of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from plait.data.prompted import (
    Asked,
    BothOrders,
    Captioned,
    Pages,
    Requested,
    Several,
    Shown,
    Spoken,
    Templated,
    spoken,
)
from plait.document import Blank, Document, Image, Text, Turn, Video
from plait.errors import ConfigError, DocumentError
from plait.text.tasks import TASKS

Picture = Callable[[int], Image]
TALK = Document([Turn("user", "and?"), Turn("assistant", "Yes!")])


def test_a_caption_stands_behind_its_pictures(picture: Picture) -> None:
    first, second = picture(0), picture(1)
    source = [Document(['A "Dog".  Runs!', first]), TALK, Document([first, "one ", second, "TWO"]), Document("Word.")]
    captioned = Captioned(source=source, words=3)
    assert len(captioned) == 4
    assert captioned[0].pieces == (first, Text("a dog runs"))
    assert captioned[1] is TALK
    assert captioned[2].pieces == (first, second, Text("one two"))
    assert captioned[3].pieces == (Text("word"),)
    assert Captioned(source=[Document(["a b c d", first])], words=2)[0].text == "a b"


def test_every_document_is_asked_with_every_prompt_once(picture: Picture) -> None:
    shown = [picture(i) for i in range(3)]
    source = [Document([f"Text {i}.", image]) for i, image in enumerate(shown)]
    asked = Asked(source=source, prompts=("what?", "and?"))
    assert len(asked) == 6
    said = Counter()
    for i in range(6):
        user, assistant = asked[i].turns
        assert (user.role, assistant.role) == ("user", "assistant")
        assert user.pieces[0] is shown[i % 3] and assistant.text == f"Text {i % 3}."
        said[user.text, assistant.text] += 1
    assert len(said) == 6
    assert {asked[i].turns[0].text for i in range(3)} == {"what?", "and?"}  # already the first time through


def test_an_instruction_of_its_own_wins(picture: Picture) -> None:
    both = Document(["one", picture(0), picture(1)])
    asked = Asked(source=[TALK, both], prompts=("what?",))
    assert asked[0] is TALK
    assert asked[1].turns[0].pieces == (*both.images, Text("what?"))


def test_what_cannot_be_asked_or_captioned_is_refused(picture: Picture) -> None:
    def refused(document: Document, message: str) -> None:
        with pytest.raises(DocumentError, match=message):
            Asked(source=[document], prompts=("what?",))[0]

    refused(Document("words"), "document 0 has no picture to be asked about: write it as turns")
    refused(Document([picture(0), " "]), "document 0 has no words")
    refused(Document([picture(0), "words", Blank("text")]), "document 0 has a Blank: give pictures and text")
    with pytest.raises(DocumentError, match="document 0 has no words"):
        Captioned(source=[Document([picture(0)])])[0]
    with pytest.raises(ConfigError, match="0 prompts"):
        Asked(source=[TALK], prompts=())


def test_records_are_written_by_the_templates_of_a_task(picture: Picture) -> None:
    shown = [picture(i) for i in range(3)]
    records = [
        Document([shown[0], "what is it?", "a cat"]),
        Document([Turn("user", [shown[1], "and this?"]), Turn("assistant", "a dog")]),
        Document(["who?", shown[2], "nobody"]),
    ]
    asked = Templated(source=records, templates=TASKS["vqa"])
    whole = Templated(source=records, templates=TASKS["vqa"], apart=False)
    assert len(asked) == 9
    said = {(asked[i].turns[0].text, asked[i].turns[1].text) for i in range(9)}
    assert len(said) == 9 and ("Question: and this? The answer is ", "a dog.") in said
    assert [whole[i].text for i in range(3)] == [
        "Question: what is it? Answer: a cat.",
        "Question: and this? \n a dog",
        "Question: who? The answer is nobody.",
    ]
    assert all(whole[i].images == asked[i].images == [shown[i % 3]] for i in range(9))


def test_an_edit_is_a_picture_an_instruction_and_a_picture(picture: Picture) -> None:
    first, second = picture(0), picture(1)
    record = Document([Turn("user", [first, "make it red"]), Turn("assistant", second)])
    edited = Templated(source=[record], templates=TASKS["edit"])[0]
    assert edited == Document(["Edit first image following the instruction", first, "make it red", second])


def test_a_record_that_does_not_fit_its_template_is_refused(picture: Picture) -> None:
    for record, message in (
        (Document(["a", "b", "c", picture(0)]), "document 0 has 3 texts for the 2 of .*: give question, answer"),
        (Document(["a", "b"]), "document 0 has 0 pictures for the 1 of .*: give image"),
        (Document(["a", "b", Blank("text"), picture(0)]), "pieces that are neither text nor pictures"),
    ):
        with pytest.raises(DocumentError, match=message):
            Templated(source=[record], templates=TASKS["vqa"])[0]
    with pytest.raises(ConfigError, match="0 templates to write with"):
        Templated(source=[TALK], templates=())


# ------------------------------------------------------------------------------------------------- SEED-LLaMA


def test_every_record_comes_once_in_each_way_of_its_task(picture: Picture) -> None:
    source = [Document([picture(i), f"text {i}."]) for i in range(3)]
    drawn = Requested(source=source, task="draw")
    assert len(drawn) == 3 * 20
    said = Counter((drawn[i].turns[0].text, drawn[i].turns[1].text) for i in range(60))
    assert len(said) == 60
    assert all(f"text {i % 3}" in drawn[i].turns[0].text for i in range(60))
    with pytest.raises(ConfigError, match="no task 'drow'; did you mean 'draw'"):
        Requested(source=source, task="drow")


def test_both_orders_come_once(picture: Picture) -> None:
    source = [Document(["words", picture(0), picture(1)]), Document(["other", picture(2)])]
    both = BothOrders(source=source)
    orders = [[type(piece).__name__ for piece in both[i]] for i in range(len(both))]
    assert orders == [["Image", "Image", "Text"], ["Text", "Image"], ["Text", "Image", "Image"], ["Image", "Text"]]
    with pytest.raises(DocumentError, match="document 0 has no words"):
        BothOrders(source=[Document(picture(0))])[0]


def test_pictures_may_only_be_shown(picture: Picture) -> None:
    first, second = picture(0), picture(1)
    shown = Shown(source=[Document(["a ", first, "dog", second])])
    assert len(shown) == 1 and shown[0].pieces == (Video((first, second)), Text("a dog"))


def test_pages_are_cut_behind_the_text_of_their_last_picture(picture: Picture) -> None:
    shown = [picture(i) for i in range(3)]
    page = Document(["zero", shown[0], "one", shown[1], "two", shown[2], "three"])
    assert Pages(source=[page], images=2)[0].pieces == page.pieces[:5]
    assert Pages(source=[page], images=3)[0] == page
    swapped = Pages(source=[page], images=2, swap=1.0)[0]
    assert swapped.pieces == (Text("zero"), Text("one"), shown[0], Text("two"), shown[1])
    assert Pages(source=[Document([shown[0]])], swap=1.0)[0].pieces == (shown[0],)
    assert Pages(source=[TALK])[0] is TALK


def test_pictures_of_pages_change_places_by_number(picture: Picture) -> None:
    source = [Document([picture(0), "one", picture(1), "two"])] * 40
    pages = Pages(source=source, swap=0.5, seed=3)
    assert len(pages) == 40
    orders = Counter(tuple(type(piece).__name__ for piece in pages[i]) for i in range(40))
    assert len(orders) == 4
    assert [pages[i] for i in range(40)] == [Pages(source=source, swap=0.5, seed=3)[i] for i in range(40)]


def test_conversations_are_spoken_as_text(picture: Picture) -> None:
    shown = picture(0)
    talk = Document([Turn("user", ["look: ", shown, "what?"]), *TALK.turns[1:], *TALK.turns])
    source = Spoken(source=[talk, Document(["as it is", shown])], template="Q: {question} A:")
    assert len(source) == 2 and source[1].pieces == (Text("as it is"), shown)
    said = [Text("Q: what? A:"), Text("Yes!."), Text("Q: and? A:"), Text("Yes!.")]
    assert source[0].pieces == (Text("look: "), shown, *said)
    ended = Document([Turn("user", [shown]), Turn("assistant", "A dot. ")])
    assert spoken(ended).pieces == (shown, Text("A dot."))


def test_several_documents_in_turn_are_one() -> None:
    source = [Document(str(i)) for i in range(10)]
    several = Several(source=source, counts=(1, 3))
    assert len(several) == 5 and [several[i].text for i in range(5)] == ["0", "123", "4", "567", "8"]
    assert several[5].text == "901"
    with pytest.raises(DocumentError, match="1 conversations of 2 documents to be joined"):
        Several(source=[TALK, Document("0")], counts=(2,))[0]
    with pytest.raises(ConfigError, match="give numbers of documents, each at least 1"):
        Several(source=source, counts=(0,))
