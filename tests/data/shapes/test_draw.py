"""The drawing: what is covered, where, in which colour, and how far things stand apart."""

from __future__ import annotations

import hashlib
import itertools
import pickle

import numpy as np
import pytest

from plait.data.shapes import draw
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene, SceneImage
from plait.document import Image, Picture

AREAS = {  # in squares of the radius, by geometry
    "circle": np.pi,
    "square": 1.8**2,
    "triangle": 1.85,
    "diamond": 2 * 1.05**2,
    "cross": 2 * 2 * 0.62 - 0.62**2,
    "ring": np.pi * (1 - 0.48**2),
}


@pytest.mark.parametrize("shape", draw.SHAPES)
@pytest.mark.parametrize("resolution", [32, 64])
def test_coverage_sums_to_the_area(shape, resolution):
    centres = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution - 0.5
    radius = draw.SIZES["large"]
    mask = draw.coverage(shape, centres, centres, radius, 1 / resolution)
    assert mask.shape == (resolution, resolution)
    assert mask.min() == 0 and mask.max() == 1
    assert mask.sum() == pytest.approx(AREAS[shape] * (radius * resolution) ** 2, rel=0.05)


@pytest.mark.parametrize("resolution", [32, 50, 64])
def test_an_object_stands_at_its_place_in_its_colour(resolution):
    for place, (x, y) in draw.PLACES.items():
        pixels = np.asarray(Scene((Object("blue", "square", "large", place),)).draw(resolution)).astype(int)
        changed = np.argwhere((pixels != draw.BACKGROUND).any(axis=-1))
        assert np.allclose((changed.mean(axis=0) + 0.5) / resolution, (y, x), atol=0.5 / resolution)
        assert tuple(pixels[int(y * resolution), int(x * resolution)]) == draw.COLOURS["blue"]


def test_noise_moves_stretches_and_shades():
    plain = Object("red", "circle", "small", "middle")
    reference = np.asarray(Scene((plain,)).draw(32)).astype(int)
    for noise in ({"dx": draw.SHIFT}, {"dy": -draw.SHIFT}, {"scale": 1.03}, {"shade": -0.06}):
        other = np.asarray(Scene((Object("red", "circle", "small", "middle", **noise),)).draw(32)).astype(int)
        assert np.abs(other - reference).max() > 0
    assert other[16, 16].tolist() == [202, 19, 19]


def test_neighbours_at_their_noisiest_leave_each_other_alone():
    left = Object("red", "square", "large", "left", dx=draw.SHIFT, scale=1 + draw.STRETCH)
    middle = Object("blue", "circle", "large", "middle", dx=-draw.SHIFT, scale=1 + draw.STRETCH)
    order = [np.asarray(Scene(objects).draw(32)).astype(int) for objects in ((left, middle), (middle, left))]
    assert np.abs(order[0] - order[1]).max() <= 16  # the soft edges alone


def test_colours_stand_apart():
    colours = np.array([draw.BACKGROUND, *draw.COLOURS.values()], dtype=float)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > 130


def test_shapes_stand_apart_even_small():
    centres = (np.arange(32, dtype=np.float32) + 0.5) / 32 - 0.5
    masks = [draw.coverage(s, centres, centres, draw.SIZES["small"], 1 / 32) for s in draw.SHAPES]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(masks, 2)) > 5  # pixels


def test_a_scene_is_a_picture_that_opens_late_and_travels():
    scene = Scene((Object("green", "ring", "large", "top"),))
    source = pickle.loads(pickle.dumps(SceneImage(scene, 48)))
    assert isinstance(source, Picture)
    assert source == SceneImage(scene, 48)
    picture = Image(source).open()
    assert (picture.mode, picture.size) == ("RGB", (48, 48))
    assert picture.tobytes() == scene.draw(48).tobytes()


def full(i):
    """Nine objects with noise: another colour, shape and size at each place for each i."""
    return Scene(
        tuple(
            Object(
                COLOURS[(i + k) % 8],
                SHAPES[(i + k) % 6],
                SIZES[(i + k) % 2],
                place,
                dx=(k - 4) / 400,
                dy=(4 - k) / 500,
                scale=1 + k / 400,
                shade=(k - 4) / 80,
            )
            for k, place in enumerate(PLACES)
        )
    )


def test_the_plain_style_is_pinned_to_the_bit():
    pixels = b"".join(full(i).draw(resolution).tobytes() for i in range(48) for resolution in (32, 64))
    assert hashlib.sha256(pixels).hexdigest()[:32] == "371aa73e8bacdf8703e3c32460ef6559"  # as before there were styles
    assert full(0).draw(64).tobytes() == full(0).draw(64, "plain").tobytes()


@pytest.mark.parametrize("style", draw.ALL)
def test_each_style_mixes_its_background_with_its_colours(style):
    look = draw.ALL[style]
    pixels = np.asarray(Scene((Object("blue", "square", "large", "middle"),)).draw(64, style)).astype(float)
    background, colour = np.array(look.background, dtype=float), look.palette["blue"]
    share = (pixels - background) @ (colour - background) / np.square(colour - background).sum()
    assert share.min() >= -0.01 and 0.9 < share.max() <= 1.01
    assert np.abs(background + share[..., None] * (colour - background) - pixels).max() <= 2
    assert (pixels[:8] == background).all()


def test_styles_differ_from_each_other():
    pictures = {style: np.asarray(full(1).draw(64, style)).astype(float) for style in draw.STYLES}
    assert len(pictures) == 8
    for (_, first), (_, second) in itertools.combinations(pictures.items(), 2):
        assert np.abs(first - second).mean() > 5


def test_pastel_and_dark_colours_stand_apart():
    for style, least in (("dark", 95), ("pastel", 65)):
        look = draw.STYLES[style]
        colours = np.array([look.background, *look.colours.values()], dtype=float)
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) > least
