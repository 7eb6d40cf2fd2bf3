"""Pictures that tell the style, or what a noun names: what is shown, what a drawing is worth, chance."""

from __future__ import annotations

import pytest

from plait.data.shapes.contexts import Contexts
from plait.data.shapes.draw import STYLES
from plait.data.shapes.language import parse
from plait.data.shapes.split import part
from plait.data.shapes.world import Object, Scene, SceneImage
from plait.document import Blank, Document, Image
from plait.errors import ConfigError


def scenes(document):
    return [image.source.scene for image in document.images]


def test_all_pictures_have_the_style_of_which_nothing_is_said():
    source = Contexts(seed=1, length=60, forms=("style",))
    styles = set()
    for case in source.cases():
        found = {image.source.style for image in case.document.images}
        assert len(found) == 1 and not found & set(case.document.text.split())
        assert [parse(piece.text) for piece in case.document.pieces[::2]] == [s.content for s in scenes(case.document)]
        styles |= found
    assert styles == set(STYLES)


def test_a_noun_names_colour_and_shape_alone():
    for case in Contexts(seed=2, length=60, forms=("object",), shots=3).cases():
        shown = [scene.objects[0] for scene in scenes(case.document)]
        assert len({(one.colour, one.shape) for one in shown}) == 1 and len(shown) == 4
        assert len({(one.size, one.place) for one in shown}) == 4
        assert not {shown[0].colour, shown[0].shape} & set(case.document.text.replace(".", " ").split())
        assert case.prompt.pieces == (*case.document.pieces[:-1], Blank("image"))


def test_a_drawing_is_worth_what_it_has_of_both():
    styled = next(
        case
        for case in Contexts(seed=3, length=50, forms=("style",)).cases()
        if case.reply.images[0].source.style == "dark"
    )
    scene = styled.reply.images[0].source.scene
    assert styled.check(styled.reply) == 1
    assert styled.check(Document(Image(SceneImage(scene, 64)))) == 0  # plain
    named = Contexts(seed=3, length=50, forms=("object",)).case(0)
    (right,) = named.reply.images[0].source.scene.objects
    other = Object("red" if right.colour != "red" else "blue", right.shape, right.size, right.place)
    assert named.check(named.reply) == 1
    assert named.check(Document(Image(SceneImage(Scene((other,)), 64)))) == 0


def test_the_scene_that_is_asked_for_belongs_to_the_part():
    for split in ("train", "validation", "test"):
        for document in (Contexts(seed=5, length=40, split=split)[i] for i in range(40)):
            asked = scenes(document)[-1:] if split != "train" else scenes(document)
            assert all(part(scene.content) == split for scene in asked)


@pytest.mark.parametrize(("changes", "message"), [({"forms": ()}, "style, object"), ({"shots": 0}, "at least one")])
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Contexts(seed=0, length=1, **changes)
