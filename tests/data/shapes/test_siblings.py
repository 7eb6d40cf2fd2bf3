"""Families of pairs that are nearly alike."""

from __future__ import annotations

import pytest

from plait.data.shapes.language import parse
from plait.data.shapes.siblings import CHANGED, Siblings
from plait.data.shapes.split import part
from plait.errors import ConfigError

SOURCE = Siblings(seed=4, length=1500)


def test_siblings_differ_from_the_first_in_one_fact():
    kinds, alike = [], 0
    for first in range(0, 1500, 5):
        contents = [SOURCE.scene(first + k).content for k in range(5)]
        alike += len(set(contents)) < 5
        for content in contents[1:]:
            (gone,), (new,) = set(contents[0]) - set(content), set(content) - set(contents[0])
            (changed,) = [i for i in range(4) if gone[i] != new[i]]
            kinds.append(("colour", "shape", "size", "place")[changed])
    assert alike < 15  # of 300 families: those with a scene that has no sibling of a kind
    assert all(0.2 < kinds.count(kind) / len(kinds) < 0.3 for kind in CHANGED)


def test_all_are_of_the_training_and_told_as_they_are():
    for i in range(200):
        content = SOURCE.scene(i).content
        assert part(content) == "train"
        image, text = SOURCE[i].pieces
        assert parse(text.text) == content == image.source.scene.content
    assert {len(SOURCE.scene(i)) for i in range(200)} == {1, 2, 3}
    assert SOURCE[7] == Siblings(seed=4, length=8)[7]


def test_a_size_that_belongs_to_the_test_is_gone_around():
    alone = Siblings(seed=1, length=2500, objects=(1,))
    assert all(part(alone.scene(i).content) == "train" for i in range(3, 2500, 5))


def test_fields_out_of_range_are_refused():
    for fields in ({"objects": (9,)}, {"objects": ()}, {"length": -1}, {"family": 0}):
        with pytest.raises(ConfigError):
            Siblings(**{"seed": 1, "length": 5, **fields})
    with pytest.raises(IndexError, match="document 5 of 5"):
        Siblings(seed=1, length=5)[5]
