"""Pictures with what is written beside them: a description, or questions with short answers, as Emu is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plait.data.shapes.questions import Question
from plait.data.shapes.source import Shapes
from plait.data.shapes.world import SceneImage
from plait.document import Document, Image, Piece, Text
from plait.errors import ConfigError
from plait.text.instructions import LOOK, asked_of, step_two

FORMS = ("look", "direct", "told", "both")

_PURPOSE = 6  # of `Shapes.chance`; `Told` has 4, `WebCaptions` 5


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The examples of `shapes` in the words that the pretrained Emu is prompted with, in pieces.

    The forms, by the shares of `mix`:

        look    the picture, words that ask for a description, and the caption
        direct  the picture, words that ask for short answers, and questions, each with its answer
        told    no picture, its caption, a question and its answer
        both    the picture, its caption, a question and its answer

    So neither answering at once nor by way of a description is new to who was trained on them.

    Args:
        shapes: the scenes, captions and questions; its `mix` has no say here.
        mix: share of each form; they need not sum to one.

    Raises:
        ConfigError: shares of no known form, or all 0.
    """

    shapes: Shapes
    mix: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FORMS, 1.0))

    def __post_init__(self) -> None:
        if set(self.mix) - set(FORMS) or min(self.mix.values(), default=0) < 0 or not sum(self.mix.values()):
            raise ConfigError(f"mix={dict(self.mix)}: give shares, not all 0, of {', '.join(FORMS)}")

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> Document:
        example, chance = self.shapes.example(i), self.shapes.chance(i, _PURPOSE)
        form = chance.weighted(self.mix)
        picture: list[Piece] = [Image(SceneImage(example.scene, self.shapes.resolution))] if form != "told" else []
        caption, (question, *others) = example.caption.removesuffix("."), example.questions
        if form == "look":
            return Document([*picture, Text(f"{LOOK} {caption}.")])
        if form == "direct":
            more = others[: chance.below(len(others) + 1)]
            said = [(asked_of(question.text), question), *((one.text, one) for one in more)]
            return Document([*picture, Text(" ".join(f"{text} {self._answer(one)}" for text, one in said))])
        return Document([*picture, Text(f"{step_two(caption, question.text)} {self._answer(question)}")])

    def _answer(self, question: Question) -> str:
        return f"{question.said(self.shapes.steps)}."
