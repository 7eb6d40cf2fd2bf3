"""Styles: eight ways to draw a scene, told apart and read without learning."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from plait.data.shapes import oracle
from plait.data.shapes.draw import STYLES
from plait.data.shapes.language import parse
from plait.data.shapes.source import Shapes
from plait.data.shapes.styles import Compositions, Restylings, StyleDrawings, StyleNames, worth
from plait.data.shapes.world import Object, Scene
from plait.document import Document, Image

SCENE = Scene((Object("red", "circle", "large", "top", dx=0.01), Object("black", "ring", "small", "left")))


def reply(scene, style, resolution=64):
    return Document([Image(scene.draw(resolution, style))])


@pytest.mark.parametrize("kind", [StyleNames, StyleDrawings, Restylings, Compositions])
def test_every_style_comes(kind):
    counts = Counter(case.document.images[-1].source.style for case in kind(seed=1, length=400).cases())
    assert set(counts) == set(STYLES)
    assert min(counts.values()) > 25


def test_what_is_said_is_what_is_drawn():
    for case in StyleNames(seed=1, length=50).cases():
        assert case.reply.text == case.document.images[0].source.style
    for case in StyleDrawings(seed=1, length=50).cases():
        source, text = case.reply.images[0].source, case.prompt.text
        assert source.style in text
        told = text.partition(": ")[2] if ": " in text else text.partition(". ")[0]
        assert parse(told) == source.scene.content
    for case in Restylings(seed=1, length=50).cases():
        before, after = (image.source for image in case.document.images)
        assert before.scene == after.scene and before.style != after.style
        assert after.style in case.prompt.text
    for case in Compositions(seed=1, length=50).cases():
        content, look, both = (image.source for image in case.document.images)
        assert both.scene == content.scene != look.scene and both.style == look.style != content.style


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("style", STYLES)
def test_style_and_objects_both_count(style, resolution):
    assert worth(SCENE, style, reply(SCENE, style, resolution)) == 1
    for other in set(STYLES) - {style}:
        assert worth(SCENE, style, reply(SCENE, other, resolution)) == 0
    assert worth(SCENE, style, reply(Scene(SCENE.objects[:1]), style, resolution)) == 1 / 2
    assert worth(SCENE, style, reply(Scene(()), style, resolution)) == 0


@pytest.mark.parametrize("style", STYLES)
def test_noise_of_places_does_not_matter(style):
    """Who draws from a caption cannot know it."""
    source = Shapes(seed=8, length=40, objects=(1, 2, 3))
    moved = [Scene(tuple(Object(*item.facts) for item in source.scene(i).objects)) for i in range(40)]
    right = [worth(source.scene(i), style, reply(scene, style)) for i, scene in enumerate(moved)]
    assert np.mean(right) >= 0.97


def test_chance_of_names(worth, learned):
    assert StyleNames.chance == 1 / len(STYLES)
    guess = worth(StyleNames, learned(StyleNames))
    assert guess == pytest.approx(StyleNames.chance, abs=0.05)


def test_chance_of_drawings(worth, copied):
    one = {style: reply(Scene((Object("red", "square", "large", "middle"),)), style) for style in STYLES}
    guess = worth(StyleDrawings, lambda case: one[case.reply.images[0].source.style])
    assert guess == pytest.approx(StyleDrawings.chance, abs=0.01)
    assert worth(Restylings, copied) == Restylings.chance
    assert worth(Compositions, copied) == Compositions.chance
    assert worth(Compositions, lambda case: Document(case.prompt.images[1])) < 0.02


def test_the_oracle_reads_all_styles():
    source = Shapes(seed=11, length=60, objects=(1, 2, 3), split="test")
    for style in STYLES:
        for i in range(60):
            picture = source.scene(i).draw(64, style)
            assert oracle.read(picture, style).content == source.scene(i).content
