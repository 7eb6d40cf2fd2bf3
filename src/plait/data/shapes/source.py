"""Documents of the world by index: captions to draw, pictures with captions, pictures to answer questions on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from plait.data.shapes import language, questions
from plait.data.shapes.chance import Chance
from plait.data.shapes.questions import Question
from plait.data.shapes.split import STREAMS, Pairs, Part, draw_scene
from plait.data.shapes.world import PLACES, Scene, SceneImage
from plait.document import Document, Image, Piece, Text, Turn
from plait.errors import ConfigError

KINDS = ("draw", "caption", "describe", "questions", "both")


@dataclass(frozen=True, slots=True)
class Example:
    """A scene with what is said and asked about it; the caption's wording is one of training, or not."""

    scene: Scene
    caption: str
    caption_seen: bool
    questions: list[Question]


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """A source of documents; element i depends on the fields other than `length` and on i alone.

    The kinds of document, by the shares of `mix`:

        draw       a caption, then the picture
        caption    a picture, then its caption
        describe   turns: picture and request, caption
        questions  turns: picture and first question, answer, second question, answer, ...
        both       the same with a request, and the caption, at a random place among the questions

    Args:
        split: "train", "validation" (unseen scenes) or "test" (unseen scenes; a tenth of the wordings unseen too).
        objects: numbers of objects in a scene, each as likely.
        resolution: pixels a side.
        mix: share of each kind of document; they need not sum to one.
        questions_each: questions of an example; its document holds one to all of them.
        asks: share of each kind of question.
        steps: answers stand behind the steps that lead to them (`plait.data.shapes.looking`).
        pairs: "held-out" for test scenes with at least one pair of colour and shape that never occurs in training.

    Raises:
        ConfigError: a field is out of range, or asks for held-out pairs outside the test.
    """

    seed: int
    length: int
    split: Part = "train"
    objects: tuple[int, ...] = (1, 2)
    resolution: int = 32
    mix: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(("draw", "describe", "questions"), 1.0))
    questions_each: int = 4
    asks: Mapping[str, float] = field(default_factory=lambda: dict(questions.KINDS))
    pairs: Pairs = "seen"
    steps: bool = False

    def __post_init__(self) -> None:
        if self.split not in STREAMS:
            raise ConfigError(f"split {self.split!r} is not one of {', '.join(STREAMS)}")
        if not self.objects or not set(self.objects) <= set(range(1, len(PLACES) + 1)):
            raise ConfigError(f"objects={self.objects}: give numbers from 1 to {len(PLACES)}, one object a place")
        if self.resolution < 16:
            raise ConfigError(f"resolution={self.resolution}: small shapes need at least 16 pixels a side")
        for name, shares, known in (("mix", self.mix, KINDS), ("asks", self.asks, tuple(questions.KINDS))):
            if set(shares) - set(known) or min(shares.values(), default=0) < 0 or not sum(shares.values()):
                raise ConfigError(f"{name}={dict(shares)}: give shares, not all 0, of {', '.join(known)}")
        if self.length < 0 or self.questions_each < 1:
            raise ConfigError(f"length={self.length}, questions_each={self.questions_each}: at least 0 and 1")
        if self.pairs not in ("seen", "held-out") or (self.pairs == "held-out" and self.split != "test"):
            raise ConfigError(
                f"pairs={self.pairs!r} with split={self.split!r}: 'seen', or 'held-out' with split='test'"
            )

    def __len__(self) -> int:
        return self.length

    def scene(self, i: int) -> Scene:
        """The scene of document i."""
        return draw_scene(self.chance(i, 0), self.objects, self.split, self.pairs)

    def kind(self, i: int) -> str:
        """The kind of document i."""
        return self.chance(i, 3).weighted(self.mix)

    def example(self, i: int) -> Example:
        """The scene of document i with a caption and questions, of which the document holds those of its kind."""
        scene = self.scene(i)
        text, seen = self._caption(i, scene)
        return Example(scene, text, seen, self._questions(i, scene))

    def examples(self) -> Iterator[Example]:
        """All examples in order."""
        return (self.example(i) for i in range(self.length))

    def __getitem__(self, i: int) -> Document:
        scene, chance = self.scene(i), self.chance(i, 3)
        kind = chance.weighted(self.mix)
        image = Image(SceneImage(scene, self.resolution))
        if kind == "draw":
            return Document([Text(self._caption(i, scene).text), image])
        if kind == "caption":
            return Document([image, Text(self._caption(i, scene).text)])
        said: list[tuple[str, str]] = []
        if kind != "describe":
            asked = 1 + chance.below(self.questions_each)
            said = [(question.text, question.said(self.steps)) for question in self._questions(i, scene)[:asked]]
        if kind != "questions":
            described = chance.choice(language.REQUESTS), self._caption(i, scene).text
            said.insert(chance.below(len(said) + 1), described)
        turns: list[Turn] = []
        for question, answer in said:
            pieces: list[Piece] = [Text(question)] if turns else [image, Text(question)]
            turns += [Turn("user", pieces), Turn("assistant", answer)]
        return Document(turns)

    def chance(self, i: int, purpose: int) -> Chance:
        """What is drawn with for document i; 0 to 3 are in use here, further purposes are other sources'."""
        if not 0 <= i < self.length:
            raise IndexError(f"document {i} of {self.length}")
        return Chance(self.seed, i, STREAMS[self.split] + purpose)

    def _caption(self, i: int, scene: Scene) -> language.Caption:
        return language.caption(scene, self.chance(i, 1), train=self.split != "test")

    def _questions(self, i: int, scene: Scene) -> list[Question]:
        chance = self.chance(i, 2)
        return questions.questions(scene, chance, self.questions_each, self.split != "test", self.asks)
