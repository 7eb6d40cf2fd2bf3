from __future__ import annotations

import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.corpora import Captions, NounCaptions, Photographs, Replies, ToldInstructions, Written
from plait.data.shapes.matrices import Matrices
from plait.data.shapes.nouns import NOUNS
from plait.data.shapes.words import Opinions
from plait.document import Image, Text
from plait.errors import ConfigError
from plait.text.questions import INTRODUCE, SENTIMENT

SCENES = Shapes(seed=1, length=40, objects=(1, 2))


def texts(document):
    return [piece.text for piece in document.pieces if isinstance(piece, Text)]


def test_photographs_are_named_by_their_first_object():
    source = Photographs(shapes=SCENES)
    assert len(source) == 40
    for i in range(40):
        first = SCENES.scene(i).objects[0]
        assert texts(source[i]) == ["The photo of the", f"{first.colour} {first.shape}."]
        assert source[i].images[0].source.scene == SCENES.scene(i)


def test_replies_stand_alone():
    cases = Matrices(seed=1, length=20, form="judge", steps=True)
    source = Replies(cases=cases)
    assert len(source) == 20 and not any(document.images for document in source)
    assert [texts(document)[-1] for document in source] == [texts(document)[-1] for document in cases]
    assert texts(source[3])[0].startswith("colour ")


def test_every_other_caption_is_asked_for():
    captions = Shapes(seed=1, length=40, mix={"caption": 1.0})
    source = Captions(source=captions)
    assert len(source) == 40
    for i in range(40):
        picture, caption = captions[i].pieces
        assert source[i].pieces == ((picture, caption) if i % 2 else (picture, Text("An image of"), caption))


def test_captions_name_nouns_and_say_nothing_of_what_they_look_like():
    source = NounCaptions(seed=1, length=40)
    told = {word for colour, shape, size in NOUNS.values() for word in (colour, shape, size)}
    for case in source.cases():
        (caption,) = texts(case.document)
        words = set(caption.replace(",", " ").replace(".", " ").split())
        assert words & set(NOUNS) and not words & told
        assert case.check(case.reply) == 1 and case.document.pieces[0] == case.prompt.pieces[0]
        scene = case.document.images[0].source.scene
        assert {(i.colour, i.shape, i.size) for i in scene.objects} == {NOUNS[noun] for noun in words & set(NOUNS)}


def test_opinions_are_read_judged_or_both():
    opinions = Opinions(seed=1, length=6, resolution=64)
    source = Written(opinions=opinions)
    for i in range(6):
        text, good = opinions.opinion(i)
        read, judged = [INTRODUCE, f"the picture says {text}."], [SENTIMENT, "positive." if good else "negative."]
        assert texts(source[i]) == [read, judged, [read[1], *judged]][i % 3]
        assert isinstance(source[i].pieces[0], Image)
    assert all(texts(Written(opinions=opinions, ways=("judge",))[i])[0] == SENTIMENT for i in range(6))
    assert all(texts(Written(opinions=opinions, ways=("bare",))[i]) == [opinions.opinion(i)[0]] for i in range(6))
    told = Written(opinions=opinions, ways=("both",), shown=False)
    assert all(not told[i].images and texts(told[i]) == texts(source[i])[-3:] for i in (2, 5))
    with pytest.raises(ConfigError, match="give some of read, judge, both"):
        Written(opinions=opinions, ways=("guess",))


def test_instructions_are_text_alone_of_which_the_answer_is_the_assistants():
    source = ToldInstructions(shapes=SCENES)
    for i in range(40):
        document, question = source[i], SCENES.example(i).questions[0]
        assert not document.images and [turn.role for turn in document.turns] == ["user", "assistant"]
        assert document.turns[0].pieces[1] == Text(f"Question: {question.text} Answer:")
        assert document.turns[1].text == f"{question.answer}."
