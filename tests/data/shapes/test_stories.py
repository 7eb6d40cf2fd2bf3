"""Stories: text and pictures by turns, sentences that are read back, and judges that a copy does not please."""

from __future__ import annotations

import pytest

from plait.data.shapes.language import parse as parse_caption
from plait.data.shapes.stories import HELD_OUT_WORDINGS, WORDINGS, Redraws, Stories, Tells, parse
from plait.data.shapes.world import Object, Scene, SceneImage
from plait.document import Document, Image, Text
from plait.errors import ConfigError

SOURCE = Stories(seed=3, length=300)
SCENE = Scene((Object("red", "circle", "large", "top"), Object("blue", "ring", "small", "left")))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_sentences_tell_the_scenes(split):
    source = Stories(seed=4, length=200, split=split)
    for i, document in enumerate(source):
        scenes = source.scenes(i)
        text_first = source.form(i) == "draw"
        pieces = list(document)
        texts, images = pieces[1 - text_first :: 2], pieces[text_first::2]
        assert [image.source.scene for image in images] == scenes
        assert parse_caption(texts[0].text) == scenes[0].content
        assert 2 <= len(scenes) <= 4
        for before, after, text in zip(scenes, scenes[1:], texts[1:], strict=False):
            assert parse(text.text, before).apply(before).content == after.content != before.content
            assert len({item.facts[:2] for item in after.objects}) == len(after) in (1, 2, 3)


def test_the_picture_before_is_worth_nothing_and_the_next_one_all():
    source = Stories(seed=5, length=100, forms=("draw",))
    for case in source.cases():
        assert isinstance(case.document.pieces[-1], Image)
        assert case.check(case.reply) == 1
        assert case.check(Document(case.prompt.images[-1])) == 0
        assert case.check(Document(Image(b"broken"))) == 0
        assert case.check(Document(Image(SceneImage(Scene(()), 64)))) == 0


def test_half_of_what_was_to_be_gained_is_worth_half():
    two = Scene((Object("red", "circle", "large", "top"), Object("blue", "ring", "small", "left")))
    after = Scene((Object("red", "circle", "large", "right"), Object("pink", "ring", "small", "left")))
    reply = Scene((two.objects[0], after.objects[1]))
    assert Redraws(two, after)(Document(Image(SceneImage(reply, 64)))) == 0.5


@pytest.mark.parametrize(
    ("sentence", "worth"),
    [
        ("the red circle moves to the bottom.", 1),
        ("Now the red circle is at the bottom", 1),
        ("the red circle goes to the top left.", 0),
        ("the blue ring moves to the bottom.", 0),
        ("the green ring moves to the bottom.", 0),
        ("the red circle moves to the bottom. the blue ring vanishes.", 0),
        ("", 0),
    ],
)
def test_a_sentence_is_worth_what_it_makes_of_the_scene(sentence, worth):
    after = Scene((Object("red", "circle", "large", "bottom"), SCENE.objects[1]))
    assert Tells(SCENE, after)(Document(sentence)) == worth


@pytest.mark.parametrize(
    ("sentence", "content"),
    [
        ("the blue ring vanishes.", [("red", "circle", "large", "top")]),
        ("the blue ring becomes pink.", [("pink", "ring", "small", "left"), ("red", "circle", "large", "top")]),
        ("the blue ring becomes large.", [("blue", "ring", "large", "left"), ("red", "circle", "large", "top")]),
        (
            "a small pink cross appears in the middle.",
            [
                ("blue", "ring", "small", "left"),
                ("pink", "cross", "small", "middle"),
                ("red", "circle", "large", "top"),
            ],
        ),
    ],
)
def test_sentences_are_read(sentence, content):
    assert parse(sentence, SCENE).apply(SCENE).content == tuple(content)


def test_held_out_wordings_come_in_the_test_alone():
    words = {word for texts in WORDINGS.values() for text in texts for word in text.replace(".", "").split()}
    assert {w for texts in HELD_OUT_WORDINGS.values() for t in texts for w in t.replace(".", "").split()} <= words
    starts = ("now a ", "now the {a} moves")

    def held_out(split):
        texts = [p.text for d in Stories(seed=6, length=300, split=split) for p in d if isinstance(p, Text)]
        return sum(text.startswith(starts[0]) or (text.startswith("now the") and " moves " in text) for text in texts)

    assert held_out("train") == 0
    assert held_out("test") > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"forms": ()}, "draw, tell"), ({"forms": ("sing",)}, "sing"), ({"changes": (0,)}, "at least 1")],
)
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Stories(seed=0, length=1, **changes)
