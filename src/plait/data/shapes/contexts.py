"""Pictures in a prompt that tell what words do not: the style of the next picture, or the object that a noun names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

from plait.data.shapes.cases import Case, Cases
from plait.data.shapes.draw import STYLES
from plait.data.shapes.invented import invented
from plait.data.shapes.language import PLACE_WORDS, caption
from plait.data.shapes.score import draws
from plait.data.shapes.split import SEEN_PAIRS, belong, draw_scene, noisy
from plait.data.shapes.styles import worth
from plait.data.shapes.world import PLACES, SIZES, Scene, SceneImage
from plait.document import Blank, Document, Image, Piece, Text
from plait.errors import ConfigError

Form = Literal["style", "object"]


@dataclass(frozen=True, kw_only=True)
class Contexts(Cases):
    """Sentences with their pictures, and a last sentence that is to be drawn as these were.

    In a document on a style all pictures have the same, of which nothing is said; a drawing that comes nearest to
    another is worth nothing. In one on an object an invented noun names the colour and the shape of the one object
    in each picture. The noun is drawn anew in each document, and none occurs in two parts:

        style   "a red circle at the top." image "a small blue ring at the left." image "..." | image
        object  "a small dakub at the top." image "a large dakub in the middle." image "a large dakub at the left." |
                image

    Chance: the plain style, where a style is to be seen; a red circle, where an object is.

    Args:
        forms: which of "style" and "object", each as likely.
        shots: pictures that are shown.
        objects: numbers of objects in each scene of a document on a style, each as likely.
    """

    name: ClassVar[str] = "contexts"
    chance: ClassVar[float] = 0.07

    forms: tuple[Form, ...] = ("style", "object")
    shots: int = 2
    objects: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.forms or not set(self.forms) <= set(get_args(Form)):
            raise ConfigError(f"forms={self.forms}: give some of {', '.join(get_args(Form))}")
        if self.shots < 1:
            raise ConfigError(f"shots={self.shots}: at least one picture must be shown")

    def form(self, i: int) -> Form:
        """Of case i."""
        return self.stream(i, 1).choice(self.forms)

    def case(self, i: int) -> Case:
        """Case i."""
        texts, scenes, style = (self._styled if self.form(i) == "style" else self._named)(i)
        pieces: list[Piece] = []
        for text, scene in zip(texts, scenes, strict=True):
            pieces += [Text(text), Image(SceneImage(scene, self.resolution, style))]
        asked: Callable[[Document], float] = partial(worth, scenes[-1], style)
        if self.form(i) == "object":
            asked = partial(draws, scenes[-1].content)
        return Case(Document(pieces), Document([*pieces[:-1], Blank("image")]), asked, Document(pieces[-1]))

    def _styled(self, i: int) -> tuple[list[str], list[Scene], str]:
        """Captions, scenes of the part, and a style."""
        chance, words = self.stream(i), self.stream(i, 2)
        scenes = [draw_scene(chance, self.objects, self.split) for _ in range(self.shots + 1)]
        texts = [caption(scene, words, self.split != "test").text for scene in scenes]
        return texts, scenes, chance.choice(tuple(STYLES))

    def _named(self, i: int) -> tuple[list[str], list[Scene], str]:
        """Sentences with a noun, and what it names, at other places or of another size each time."""
        chance = self.stream(i)
        noun = invented(chance, self.split)
        while True:
            pair = chance.choice(SEEN_PAIRS)  # within: of few pairs there is no scene in a small part
            each = chance.sample([(size, place) for size in SIZES for place in PLACES], self.shots + 1)
            scenes = [Scene((noisy(chance, (*pair, *one)),)) for one in each]
            if belong(scenes, scenes[-1], self.split):
                break
        return [f"a {size} {noun} {PLACE_WORDS[place][0]}." for size, place in each], scenes, "plain"
