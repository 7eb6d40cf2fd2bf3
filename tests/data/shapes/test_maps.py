"""Maps: flat colours and edges on black, compared over the objects."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from plait.data.shapes import draw
from plait.data.shapes.maps import Edges, Maps, agreement, colours, labels
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, Object, Scene
from plait.document import Document, Image

SCENE = Scene((Object("black", "square", "large", "right"), Object("red", "circle", "small", "top left", shade=0.05)))


def filled(colour, background=draw.BACKGROUND, shape="square"):
    """All nine places, in one colour on a background."""
    scene = Scene(tuple(Object(colour, shape, "large", place) for place in PLACES))
    pixels = np.array(scene.draw(64))
    pixels[(pixels == draw.BACKGROUND).all(axis=-1)] = background
    return Document([Image(PIL.Image.fromarray(pixels))])


def test_a_map_is_flat_colours_on_black():
    pixels = np.asarray(SCENE.draw(64, "segments"))
    assert pixels[32, 53].tolist() == [255, 255, 255]  # what is black
    assert pixels[11, 11].tolist() == list(draw.COLOURS["red"])  # without its noise of brightness
    assert pixels[60, 4].tolist() == [0, 0, 0]
    mapped = labels(pixels, "segments")
    assert set(np.unique(mapped).tolist()) == {0, 1, 1 + COLOURS.index("black")}


def test_edges_are_white_along_the_rim():
    pixels = np.asarray(SCENE.draw(64, "edges"))
    assert pixels[32, 53].tolist() == [0, 0, 0]  # inside the square
    assert pixels[32, 46].tolist() == [255, 255, 255]  # its left rim: 53 - 0.9 * 9.2 = 44.7
    assert set(np.unique(labels(pixels, "edges"))) == {0, 1}


@pytest.mark.parametrize("style", ["plain", "segments"])
def test_each_colour_has_a_label(style):
    for i, colour in enumerate(COLOURS):
        pixels = np.asarray(Scene((Object(colour, "square", "large", "middle"),)).draw(64, style))
        assert labels(pixels, style)[32, 32] == i + 1


def test_agreement_counts_objects_and_no_background():
    def drawn(*objects):
        return Document([Image(Scene(objects).draw(64, "segments"))])

    black, red = SCENE.objects
    assert agreement(SCENE, 64, "segments", drawn(black, red)) == 1
    assert agreement(SCENE, 64, "segments", drawn()) == 0  # though nine pixels of ten are right
    assert 0.65 < agreement(SCENE, 64, "segments", drawn(black)) < 0.8
    assert 0.65 < agreement(SCENE, 64, "segments", drawn(black, red.changed("colour", "green"))) < 0.8
    assert agreement(SCENE, 64, "segments", drawn(red.changed("place", "left"))) == 0
    assert agreement(SCENE, 64, "segments", Document("black")) == 0


def test_shapes_in_the_same_place_share_some():
    for shape in SHAPES:
        scene = Scene((Object("red", shape, "large", "middle"),))
        assert agreement(scene, 64, "segments", Document([Image(scene.draw(64, "segments"))])) == 1
    square = Document([Image(Scene((Object("red", "square", "large", "middle"),)).draw(64, "segments"))])
    circle = Scene((Object("red", "circle", "large", "middle"),))
    assert 0.7 < agreement(circle, 64, "segments", square) < 0.95


def test_smaller_pictures_are_judged_at_the_resolution():
    small = Document([Image(SCENE.draw(32, "segments"))])
    assert agreement(SCENE, 64, "segments", small) > 0.75


@pytest.mark.parametrize("kind", [Maps, Edges])
def test_both_ways_come_as_often(kind):
    styles = [tuple(image.source.style for image in case.document.images) for case in kind(seed=1, length=400).cases()]
    mapped = "segments" if kind is Maps else "edges"
    assert set(styles) == {("plain", mapped), (mapped, "plain")}
    assert styles.count(("plain", mapped)) / 400 == pytest.approx(0.5, abs=0.08)


def test_colours_are_said_where_edges_do_not_tell():
    assert colours(SCENE) == "red and black"
    for case in Edges(seed=1, length=50).cases():
        scene = case.document.images[0].source.scene
        assert (colours(scene) in case.prompt.text) == bool(case.reply.images[0].source.style == "plain")


def test_chance_of_maps(worth, copied):
    guesses = {"a copy": copied}
    for shape in ("square", "circle"):
        picture, segments = filled("red", shape=shape), filled("red", (0, 0, 0), shape)
        guesses[shape] = lambda case, fills=(segments, picture): fills[case.reply.images[0].source.style == "plain"]
    found = {name: worth(Maps, guess) for name, guess in guesses.items()}
    print(found)
    assert max(found.values()) == pytest.approx(Maps.chance, abs=0.03)


def test_chance_of_edges(worth, copied):
    everywhere = {shape: Scene(tuple(Object("red", shape, "large", place) for place in PLACES)) for shape in SHAPES}
    rims = {shape: Document([Image(scene.draw(64, "edges"))]) for shape, scene in everywhere.items()}
    fills = {(colour, shape): filled(colour, shape=shape) for colour in COLOURS for shape in SHAPES}

    def guess(case, shape):
        said = [colour for colour in COLOURS if colour in case.prompt.text]
        return fills[min(said, key=case.prompt.text.index), shape] if said else rims[shape]

    found = {
        shape: worth(Edges, lambda case, shape=shape: guess(case, shape)) for shape in ("circle", "square", "ring")
    }
    found["a copy"] = worth(Edges, copied)
    print(found)
    assert max(found.values()) == pytest.approx(Edges.chance, abs=0.03)
