"""The source: documents by index, their kinds and roles, and its errors."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import pytest

from plait.data.shapes import SceneImage, Shapes
from plait.data.shapes.language import REQUESTS, parse
from plait.document import Image, Text
from plait.errors import ConfigError

SOURCE = Shapes(seed=1, length=300)


def only(kind, **changes):
    return replace(SOURCE, mix={kind: 1}, **changes)


def test_draw():
    source = only("draw")
    for i in range(50):
        caption, image = source[i].pieces
        assert source[i].turns == ()
        assert parse(caption.text) == source.scene(i).content
        assert image == Image(SceneImage(source.scene(i), 32))


def test_describe():
    source = only("describe", resolution=64)
    for i in range(50):
        user, assistant = source[i].turns
        assert (user.role, assistant.role) == ("user", "assistant")
        image, request = user.pieces
        assert image.open().size == (64, 64)
        assert request.text in REQUESTS
        assert assistant.text == source.example(i).caption


def test_questions_and_both():
    for kind, described in (("questions", 0), ("both", 1)):
        source = only(kind, questions_each=3)
        counts, places = set(), set()
        for i in range(50):
            turns, example = source[i].turns, source.example(i)
            said = [turn.text for turn in turns]
            pairs = list(zip(said[::2], said[1::2], strict=True))
            captions = [at for at, (_, answer) in enumerate(pairs) if answer == example.caption]
            assert len(captions) == described
            asked = [pair for at, pair in enumerate(pairs) if at not in captions]
            assert asked == [(question.text, question.answer) for question in example.questions][: len(asked)]
            assert [turn.role for turn in turns] == ["user", "assistant"] * len(pairs)
            assert [isinstance(piece, Image) for piece in source[i]] == [True] + [False] * (2 * len(pairs))
            counts.add(len(asked))
            places |= set(captions)
        assert counts == {1, 2, 3}
        assert places == ({0, 1, 2, 3} if described else set())


def test_caption():
    shown, drawn = only("caption"), only("draw")
    for i in range(5):
        image, text = shown[i].pieces
        assert (text, image) == drawn[i].pieces
        assert text.text == shown.example(i).caption


def test_mix_is_kept():
    source = replace(SOURCE, length=2000, mix={"draw": 3, "questions": 1, "both": 0})
    counts = Counter(source.kind(i) for i in range(len(source)))
    assert set(counts) == {"draw", "questions"}
    assert counts["draw"] / 2000 == pytest.approx(0.75, abs=0.03)
    assert all((source.kind(i) == "draw") == (not source[i].turns) for i in range(100))


def test_an_element_does_not_depend_on_length_order_or_process():
    longer = replace(SOURCE, length=10_000)
    assert [SOURCE[i] for i in (5, 3, 299)] == [longer[i] for i in (5, 3, 299)]
    assert pickle.loads(pickle.dumps(SOURCE))[17] == SOURCE[17]
    assert len(SOURCE) == len(list(SOURCE.examples())) == 300
    assert SOURCE[1] != replace(SOURCE, seed=2)[1]
    with pytest.raises(IndexError, match="300 of 300"):
        SOURCE[300]


def test_the_kind_does_not_change_the_scene():
    assert only("draw").example(9) == only("questions").example(9) == SOURCE.example(9)


def test_only_the_test_has_held_out_wordings():
    for split in ("train", "validation"):
        examples = list(replace(SOURCE, split=split).examples())
        assert all(example.caption_seen and all(q.seen for q in example.questions) for example in examples)
    seen = [example.caption_seen for example in replace(SOURCE, split="test", length=1000).examples()]
    assert 1 - sum(seen) / len(seen) == pytest.approx(1 / 9, abs=0.03)


def test_the_words_are_few():
    words = set()
    for split in ("train", "test"):
        source = replace(SOURCE, split=split, length=1000, objects=(1, 2, 3), mix={"draw": 1, "both": 1})
        for i in range(len(source)):
            for piece in source[i]:
                if isinstance(piece, Text):
                    words.update(piece.text.replace(".", " ").replace(",", " ").replace("?", " ").split())
    assert len(words) == 78


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "dev"}, "'dev' is not one of train, validation, test"),
        ({"objects": ()}, "1 to 9"),
        ({"objects": (0, 1)}, "1 to 9"),
        ({"objects": (10,)}, "1 to 9"),
        ({"resolution": 8}, "resolution=8.*at least 16"),
        ({"mix": {"paint": 1}}, "paint.*draw, caption, describe"),
        ({"mix": {"draw": 0}}, "not all 0"),
        ({"mix": {"draw": 2, "both": -1}}, "shares"),
        ({"length": -1}, "length=-1"),
        ({"questions_each": 0}, "questions_each=0"),
        ({"asks": {"relation": 0.0}}, "asks="),
        ({"asks": {"relation": -1.0, "count": 2.0}}, "asks="),
        ({"asks": {"count": 1.0, "age": 1.0}}, "asks="),
        ({"pairs": "held-out"}, "split='test'"),
        ({"pairs": "odd", "split": "test"}, "'odd'"),
    ],
)
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SOURCE, **changes)
