"""Edits: the change is done, the rest is kept, and a copy is worth nothing."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from plait.data.shapes.edits import WORDINGS, Edits, done
from plait.data.shapes.split import HELD_OUT_PAIRS, part
from plait.data.shapes.world import Object, Scene
from plait.document import Document

RED = Object("red", "circle", "large", "top")
BLUE = Object("blue", "ring", "small", "left")
PINK = Object("pink", "cross", "small", "right")
GREEN = RED.changed("colour", "green")
BEFORE = Scene((RED, BLUE, PINK))


@pytest.mark.parametrize(
    ("after", "found", "expected"),
    [
        ((GREEN, BLUE, PINK), (GREEN, BLUE, PINK), 1),
        ((GREEN, BLUE, PINK), (RED, BLUE, PINK), 0),  # a copy
        ((GREEN, BLUE, PINK), (GREEN,), 0),  # the others are gone
        ((GREEN, BLUE, PINK), (GREEN, BLUE), 1 / 2),
        ((GREEN, BLUE, PINK), (GREEN, BLUE, PINK, Object("red", "ring", "large", "bottom")), 2 / 3),
        ((BLUE, PINK), (BLUE, PINK), 1),  # removed
        ((BLUE, PINK), (RED, BLUE, PINK), 0),
        ((BLUE, PINK), (), 0),
        ((BLUE, PINK), (GREEN, BLUE, PINK), 2 / 3),  # not the same object, but one too many
        ((RED, BLUE), (RED, BLUE), 1),
        ((RED.changed("place", "bottom"), BLUE, PINK), (RED.changed("place", "bottom"), RED, BLUE, PINK), 0),
    ],
)
def test_done(after, found, expected):
    assert done(BEFORE, Scene(after), Scene(found)) == pytest.approx(expected)


def test_adding_keeps_what_was_there():
    assert done(Scene((RED, BLUE)), BEFORE, BEFORE) == 1
    assert done(Scene((RED, BLUE)), BEFORE, Scene((PINK,))) == 0
    assert done(Scene((RED, BLUE)), BEFORE, Scene((RED, BLUE))) == 0


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_object_changes_and_both_scenes_are_of_the_part(split):
    kinds = Counter()
    for case in Edits(seed=2, length=150, split=split).cases():
        before, after = (image.source.scene for image in case.document.images)
        gone, new = set(before.objects) - set(after.objects), set(after.objects) - set(before.objects)
        assert len(gone) <= 1 and len(new) <= 1 and gone != new
        assert part(before.content) == part(after.content) == split
        assert not any(item[:2] in HELD_OUT_PAIRS for item in after.content)
        if gone and new:
            (old,), (now,) = gone, new
            assert (old.dx, old.dy, old.scale, old.shade) == (now.dx, now.dy, now.scale, now.shade)
            differing = [
                a for a, b, c in zip(("colour", "shape", "size", "place"), old.facts, now.facts, strict=True) if b != c
            ]
            assert len(differing) == 1
            said = case.prompt.turns[0].text
            if differing[0] in ("colour", "shape"):
                assert getattr(now, differing[0]) in said
            kinds[differing[0]] += 1
        else:
            kinds["remove" if gone else "add"] += 1
    assert set(kinds) == set(WORDINGS)
    assert min(kinds.values()) > 10


def test_places_are_said_as_places():
    texts = " ".join(case.prompt.text for case in Edits(seed=3, length=1000).cases())
    assert re.search(r" to the top left( corner)?\.", texts) and re.search(
        r" be (at|in) the top left( corner)?\.", texts
    )
    assert re.search(r" to the (middle|centre)\.", texts) and not re.search(r" to (at|in) ", texts)


def test_chance(worth, copied):
    assert worth(Edits, copied) == Edits.chance
    others = {case.prompt: other.reply for case, other in pairwise(Edits(seed=1, length=301, split="test").cases())}
    assert worth(Edits, lambda case: others.get(case.prompt, Document())) < 0.01  # the picture of another case
