"""Names: they fit one object, and do not tell what is asked."""

from __future__ import annotations

from plait.data.shapes.chance import Chance
from plait.data.shapes.naming import NAMED, name_of, names_of, phrase, plural, value_of
from plait.data.shapes.source import Shapes
from plait.data.shapes.world import VALUES, Object, Scene

SCENE = Scene(
    (
        Object("red", "circle", "large", "top left"),
        Object("red", "square", "small", "right"),
        Object("blue", "circle", "small", "bottom"),
    )
)


def test_names_fit_one_object_and_leave_out_what_is_asked():
    for scene in (SCENE, *map(Shapes(seed=0, length=100, objects=(1, 2, 3)).scene, range(100))):
        for item in scene.objects:
            for without in ("", *VALUES):
                for named in names_of(scene, item, without):
                    assert without not in named
                    fits = [o for o in scene.objects if all(value_of(o, a) == value_of(item, a) for a in named)]
                    assert fits == [item]


def test_phrases():
    assert [phrase(SCENE.objects[1], named) for named in NAMED] == [
        "object",
        "square",
        "red object",
        "small object",
        "red square",
        "small square",
        "small red square",
        "object at the right",
    ]
    assert (plural("shape", "cross"), plural("colour", "red")) == ("crosses", "red objects")


def test_twins_have_no_name_but_their_place():
    twins = Scene(tuple(Object("red", "ring", "small", place) for place in ("top", "left")))
    assert name_of(twins, twins.objects[0], "place", Chance(0)) is None
    assert name_of(twins, twins.objects[0], "colour", Chance(0)) == "object at the top"
