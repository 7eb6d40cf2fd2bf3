from __future__ import annotations

from dataclasses import replace

from plait.data.shapes.descriptions import Descriptions
from plait.data.shapes.split import part
from plait.document import Image, Text

SOURCE = Descriptions(seed=1, length=60, split="test")


def test_one_of_two_names_is_what_the_picture_shows():
    for case in SOURCE.cases():
        told, picture, _ = case.prompt.pieces
        assert isinstance(told, Text) and isinstance(picture, Image)
        (item,) = picture.source.scene.objects
        meanings = [sentence.split()[-1] for sentence in told.text.split(".")[:2]]
        shown = [meaning in (item.colour, item.shape, item.size) for meaning in meanings]
        assert shown.index(True) == case.right and sum(shown) == 1
        assert part([picture.source.scene.content[0]]) == "test"
        assert case.check(case.reply) == 1 and case.check(case.candidates[1 - case.right]) == 0
        assert case.document.pieces == (*case.prompt.pieces, Text(case.reply.text))
    assert 20 < sum(case.right for case in SOURCE.cases()) < 40


def test_the_same_cases_without_what_the_names_mean_or_without_pictures():
    bare, blind = (list(replace(SOURCE, **{name: False}).cases()) for name in ("described", "pictured"))
    for case, named, unseen in zip(SOURCE.cases(), bare, blind, strict=True):
        assert named.prompt.pieces[1:] == case.prompt.pieces[1:] and named.right == unseen.right == case.right
        assert named.prompt.text.startswith("the names are ") and all(
            c.text in named.prompt.text for c in case.candidates
        )
        assert not unseen.prompt.images and unseen.prompt.pieces[0] == case.prompt.pieces[0]


def test_no_name_of_the_test_occurs_in_training():
    seen = {c.text for case in replace(SOURCE, split="train", length=500).cases() for c in case.candidates}
    assert not seen & {c.text for case in SOURCE.cases() for c in case.candidates}
