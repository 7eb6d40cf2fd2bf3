"""Styles: to name the one a picture is drawn in, to draw in a named one, to draw a picture again in another.

The other is named, or is that of a second picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from plait.data.shapes import language, oracle
from plait.data.shapes.cases import Case, Cases, Drawings, Wordings
from plait.data.shapes.draw import STYLES
from plait.data.shapes.score import drawing, draws, says
from plait.data.shapes.split import draw_scene
from plait.data.shapes.world import Scene, SceneImage
from plait.document import Document, Image

OBJECTS = (1, 2, 3)

NAMING = Wordings(
    ("which style does the picture have?", "what is the style of the picture?", "in which style is it?"),
    ("the picture has which style?",),
)
DRAWING = Wordings(
    ("{s} draw it in the {v} style.", "draw in the {v} style: {s}", "in the {v} style: {s}"),
    ("in the {v} style draw: {s}",),
)
RESTYLING = Wordings(
    ("draw it in the {v} style.", "draw the picture in the {v} style.", "make the picture {v}.", "make it {v}."),
    ("draw the picture again, {v}.",),
)
COMPOSING = Wordings(
    (
        "draw the first picture in the style of the other.",
        "make the first picture like the other in style.",
        "the first picture in the style of the other.",
    ),
    ("draw the first picture again in the style of the other.",),
)


@dataclass(frozen=True, kw_only=True)
class StyleNames(Cases):
    """The name of the style of a picture, one of eight, each as likely.

    Chance: any one of the names.
    """

    name: ClassVar[str] = "style-names"
    chance: ClassVar[float] = 0.125

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene, style = draw_scene(chance, OBJECTS, self.split), chance.choice(tuple(STYLES))
        image = Image(SceneImage(scene, self.resolution, style))
        return Case.asked([image, NAMING.pick(chance, self.split)], style, partial(says, style))


@dataclass(frozen=True, kw_only=True)
class StyleDrawings(Cases):
    """A caption and a style, and the picture. A drawing that comes nearest to another style is worth nothing, others
    are worth the share of the objects that the oracle finds.

    Chance: one object in the middle, in the style asked for.
    """

    name: ClassVar[str] = "style-drawings"
    chance: ClassVar[float] = 0.0

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene, style = draw_scene(chance, OBJECTS, self.split), chance.choice(tuple(STYLES))
        caption = language.caption(scene, chance, train=self.split != "test").text
        request = DRAWING.pick(chance, self.split).format(s=caption, v=style)
        image = Image(SceneImage(scene, self.resolution, style))
        return Case.asked([request], image, partial(worth, scene, style))


@dataclass(frozen=True, kw_only=True)
class Restylings(Drawings):
    """A picture in one style and the name of another, and the picture in that; judged as `StyleDrawings`.

    Chance: a copy of the picture, which is in the wrong style.
    """

    name: ClassVar[str] = "restylings"
    chance: ClassVar[float] = 0.0

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene, (first, second) = draw_scene(chance, OBJECTS, self.split), chance.sample(tuple(STYLES), 2)
        before, after = (Image(SceneImage(scene, self.resolution, style)) for style in (first, second))
        request = RESTYLING.pick(chance, self.split).format(v=second)
        told = _told(self.told(scene), second)
        return Case.asked([before, request], after, partial(worth, scene, second), told=told)


@dataclass(frozen=True, kw_only=True)
class Compositions(Drawings):
    """Two pictures, and a third: the scene of the first in the style of the second; judged as `StyleDrawings`.

    The first is in another style than the second, which shows another scene.

    Chance: a copy of the first picture, which is in the wrong style.
    """

    name: ClassVar[str] = "compositions"
    chance: ClassVar[float] = 0.0

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene, (first, second) = draw_scene(chance, OBJECTS, self.split), chance.sample(tuple(STYLES), 2)
        other = draw_scene(chance, OBJECTS, self.split)
        while other.content == scene.content:
            other = draw_scene(chance, OBJECTS, self.split)
        shown = ((scene, first), (other, second), (scene, second))
        content, look, both = (Image(SceneImage(one, self.resolution, style)) for one, style in shown)
        asked: list[Image | str] = [content, look, COMPOSING.pick(chance, self.split)]
        return Case.asked(asked, both, partial(worth, scene, second), told=_told(self.told(scene), second))


def _told(caption: str, style: str) -> str:
    """ "in the dotted style: a red circle at the top."; nothing of no caption."""
    return DRAWING.seen[-1].format(s=caption, v=style) if caption else ""


def worth(scene: Scene, style: str, reply: Document) -> float:
    """How far the reply's picture is the scene in the style; 0 if these objects come nearer to it in another style."""
    picture = drawing(reply)
    if picture is None or oracle.style(picture, scene.objects) != style:
        return 0.0
    return draws(scene.content, reply, style)
