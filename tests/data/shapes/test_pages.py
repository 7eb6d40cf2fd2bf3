"""Pages: the question is about one picture, and what else is on the page does not answer it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from plait.data.shapes.pages import HELD_OUT_WORDINGS, NAMES, Pages
from plait.data.shapes.world import SHAPES
from plait.document import Image, Text
from plait.errors import ConfigError

SOURCE = Pages(seed=1, length=400)


def captioned(pieces, name):
    """The picture that the caption with this name belongs to."""
    (at,) = [i for i, piece in enumerate(pieces) if isinstance(piece, Text) and name in piece.text]
    return pieces[at - 1] if "above" in pieces[at].text else pieces[at + 1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_answer_is_that_of_the_picture_that_the_caption_names(split):
    source = Pages(seed=2, length=300, split=split)
    for i, document in enumerate(source):
        *pieces, question = document.turns[0].pieces
        page, name = source.page(i), next(name for name in NAMES if name in question.text)
        scene = captioned(pieces, name).source.scene
        assert scene == page.scenes[page.at]
        words = question.text.replace("?", "").replace(":", "").split()
        fit = [item for item in scene.objects if item.shape in words or (item.colour in words and "object" in words)]
        (item,) = fit
        assert getattr(item, page.asked) == page.answer == document.turns[1].text


def test_every_other_picture_answers_otherwise():
    for i in range(len(SOURCE)):
        page = SOURCE.page(i)
        answers = [getattr(scene.objects[0], page.asked) for scene in page.scenes]
        assert len(set(answers)) == len(answers) == len(page.names) in (2, 3)
        name = "colour" if page.asked == "shape" else "shape"
        assert len({getattr(scene.objects[0], name) for scene in page.scenes}) == 1
        assert page.names[page.at]
        assert sum(map(bool, page.names)) >= 2


def test_some_pictures_have_no_caption_and_some_text_no_picture():
    kinds = Counter(sum(map(bool, SOURCE.page(i).names)) - len(SOURCE.page(i).names) for i in range(len(SOURCE)))
    assert set(kinds) == {0, -1}
    texts = [sum(isinstance(piece, Text) for piece in document.turns[0].pieces) for document in SOURCE]
    assert set(texts) == {1 + 3 + captions + 1 for captions in (2, 3)}
    assert all(
        sum(isinstance(piece, Text) for piece in document.turns[0].pieces) == 4
        for document in Pages(seed=1, length=10, distractions=0, pictures=(2,))
    )


def test_text_that_belongs_to_no_picture_tells_nothing():
    """The answer's colour or shape stands in it no more often than any."""
    mentioned, all_of_them = 0, 0
    for i in range(len(SOURCE)):
        page, document = SOURCE.page(i), SOURCE[i]
        if page.asked == "shape":
            *pieces, _ = document.turns[0].pieces
            said = [s for p in pieces if isinstance(p, Text) for s in SHAPES if re.search(rf"\b{s}\b", p.text)]
            mentioned += said.count(page.answer)
            all_of_them += len(said)
    assert all_of_them > 100
    assert mentioned / all_of_them == pytest.approx(1 / 6, abs=0.08)


def test_pictures_come_in_any_order_and_the_asked_one_anywhere():
    at = Counter((len(SOURCE.page(i).scenes), SOURCE.page(i).at) for i in range(len(SOURCE)))
    assert set(at) == {(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)}
    assert min(at.values()) > 30
    first = [next(p for p in d.turns[0].pieces if isinstance(p, Image)).source.scene for d in SOURCE]
    shares = [scene == SOURCE.page(i).scenes[SOURCE.page(i).at] for i, scene in enumerate(first)]
    assert 0.3 < sum(shares) / len(shares) < 0.55


def test_held_out_wordings_come_in_the_test_alone():
    (frame,) = HELD_OUT_WORDINGS["colour"]
    start = frame.split("{")[0]
    assert not any(document.turns[0].pieces[-1].text.startswith(start) for document in SOURCE)
    test = Pages(seed=1, length=100, split="test")
    assert any(document.turns[0].pieces[-1].text.startswith(start) for document in test)


@pytest.mark.parametrize("changes", [{"pictures": (1,)}, {"pictures": ()}, {"distractions": -1}, {"distractions": 11}])
def test_wrong_fields_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Pages(seed=0, length=1, **changes)
