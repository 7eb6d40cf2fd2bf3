"""The oracle reads noisy and blurred pictures of true scenes; the figures of docs/shapes.md are these."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from plait.data.shapes import Shapes
from plait.data.shapes.draw import STYLES
from plait.data.shapes.oracle import read, style
from plait.data.shapes.score import object_accuracy
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene

SOURCES = [
    Shapes(seed=11, length=200, objects=(1, 2, 3), split="test"),
    Shapes(seed=11, length=100, objects=(1, 2, 3), split="test", pairs="held-out"),
]


def spoil(picture, noise, blur, rng):
    """Blur and noise as a lossy image tokenizer leaves them; `blur` in pixels of a picture of 32."""
    if blur:
        picture = picture.filter(PIL.ImageFilter.GaussianBlur(blur * picture.width / 32))
    pixels = np.asarray(picture) + rng.normal(0, noise, (picture.height, picture.width, 3))
    return PIL.Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize(
    ("noise", "blur", "least"), [(0, 0, 1), (6, 0, 1), (6, 0.6, 0.99), (12, 0.8, 0.99), (20, 1, 0.97), (6, 1.2, 0.97)]
)
def test_reads_spoilt_pictures(resolution, noise, blur, least):
    rng = np.random.default_rng(0)
    scenes = [source.scene(i) for source in SOURCES for i in range(len(source))]
    found = [read(spoil(scene.draw(resolution), noise, blur, rng)) for scene in scenes]
    accuracy = np.mean([object_accuracy(a.content, b.content) for a, b in zip(scenes, found, strict=True)])
    print(f"{resolution} px, noise {noise}, blur {blur}: {accuracy:.4f}")
    assert accuracy >= least


def test_reads_every_object_everywhere():
    for place in PLACES:
        for i, colour in enumerate(COLOURS):
            for shape in SHAPES:
                scene = Scene((Object(colour, shape, SIZES[i % 2], place),))
                assert read(scene.draw(32)) == scene


def test_reads_a_full_picture_of_small_objects_and_an_empty_one():
    rng = np.random.default_rng(1)
    full = Scene(tuple(Object(COLOURS[i % 8], SHAPES[i % 6], "small", place) for i, place in enumerate(PLACES)))
    assert read(full.draw(64)) == full
    assert read(spoil(Scene(()).draw(32), 20, 0, rng)) == Scene(())
    assert read(PIL.Image.new("L", (32, 32), 90)) == Scene(())


def test_does_not_see_what_was_rubbed_out():
    scene = Scene((Object("red", "circle", "large", "middle"),))
    faint = PIL.Image.blend(Scene(()).draw(32), scene.draw(32), 0.3)
    assert read(faint) == Scene(())
    other = Scene((Object("red", "circle", "small", "middle"),))
    assert read(other.draw(32)) != scene


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("name", STYLES)
def test_reads_and_tells_styles_in_spoilt_pictures(name, resolution):
    rng = np.random.default_rng(2)
    scenes = [SOURCES[0].scene(i) for i in range(40)]
    spoilt = [spoil(scene.draw(resolution, name), 6, 0.5, rng) for scene in scenes]
    found = [read(picture, name).content for picture in spoilt]
    plain = [[Object(*item.facts) for item in scene.objects] for scene in scenes]  # the noise is not known
    told = [style(picture, objects) == name for picture, objects in zip(spoilt, plain, strict=True)]
    accuracy = np.mean([object_accuracy(a.content, b) for a, b in zip(scenes, found, strict=True)])
    print(f"{name}, {resolution} px: {accuracy:.3f} of the objects read, {np.mean(told):.3f} of the styles told")
    assert accuracy >= 0.95 and np.mean(told) >= 0.95


def test_tells_the_style_by_the_objects_that_are_there():
    scene = Scene((Object("red", "circle", "large", "top"), Object("black", "ring", "small", "left")))
    for name in STYLES:
        assert style(Scene(scene.objects[:1]).draw(64, name), scene.objects) == name
