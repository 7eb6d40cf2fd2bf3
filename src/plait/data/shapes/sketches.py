"""Sketches: what is to be drawn, what is then to be changed in it, and a question on what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from plait.data.shapes import language, questions
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.edits import drawn_edit
from plait.data.shapes.score import says
from plait.data.shapes.world import SceneImage
from plait.document import Image

OBJECTS = (1, 2)

DRAWING = Wordings(("draw this: {s}", "draw the picture: {s}", "draw a picture: {s}"), ("a picture to draw: {s}",))


@dataclass(frozen=True, kw_only=True)
class Sketches(Cases):
    """A caption to draw, an edit of the drawing, and a question on the drawing after it, in a turn each.

    Both drawings are in the document. The answer is checked, word for word.

    Chance: the most frequent answer of training to the same question, or else to one of the same form.
    """

    name: ClassVar[str] = "sketches"
    chance: ClassVar[float] = 0.25

    def case(self, i: int) -> Case:
        """Case i."""
        chance, train = self.stream(i), self.split != "test"
        before, instruction, edit = drawn_edit(chance, self.split, OBJECTS)
        asked = DRAWING.pick(chance, self.split).format(s=language.caption(before, chance, train).text)
        (question,) = questions.questions(edit.after, chance, 1, train)
        first, second = (Image(SceneImage(scene, self.resolution)) for scene in (before, edit.after))
        return Case.asked(
            [question.text],
            question.answer,
            partial(says, question.answer),
            before=[([asked], first), ([instruction], second)],
        )
