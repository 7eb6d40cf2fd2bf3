"""Captions as the web has them."""

from __future__ import annotations

from collections import Counter

from plait.data.shapes import Shapes, language
from plait.data.shapes.web import WebCaptions
from plait.data.shapes.world import SceneImage

SOURCE = WebCaptions(shapes=Shapes(seed=1, length=2000, objects=(1, 2, 3), resolution=16))


def test_a_picture_and_its_words() -> None:
    assert len(SOURCE) == 2000
    again = WebCaptions(shapes=Shapes(seed=1, length=10, objects=(1, 2, 3), resolution=16))
    for i in range(10):
        image, text = SOURCE[i]
        assert image.source == SceneImage(SOURCE.shapes.scene(i), 16)
        assert text.text == SOURCE.caption(i) == again.caption(i)


def test_no_caption_is_a_description_and_few_are_foreign() -> None:
    faults = Counter(language.fault(SOURCE.caption(i)) for i in range(2000))
    assert set(faults) == {"fragment", "foreign", "repetition"}
    assert 0.5 < faults["fragment"] / 2000 < 0.8
    assert all(SOURCE.caption(i) == SOURCE.caption(i).lower() for i in range(100))


def test_what_is_said_is_there_and_in_part() -> None:
    colours = whole = 0
    for i in range(1000):
        words, scene = SOURCE.caption(i).split(), SOURCE.shapes.scene(i)
        there = {item.colour for item in scene.objects}
        named = {word for word in words if word in language.COLOURS}
        assert named <= there
        colours += bool(named)
        whole += named == there
    assert colours > 950 and 600 < whole < 950
