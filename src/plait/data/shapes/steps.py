"""Steps: questions that are answered by saying first what there is, then the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from plait.data.shapes import language, questions
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.score import says
from plait.data.shapes.split import draw_scene
from plait.data.shapes.world import SceneImage
from plait.document import Document, Image

OBJECTS = (2, 3)
ASKED = {"count": 1.0, "relation": 1.0, "comparison": 1.0}  # what more than one object must be looked at for
SO = "so the answer is"

THINKING = Wordings(
    ("{q} think step by step.", "{q} say first what you see.", "{q} what do you see, and what is the answer?"),
    ("think step by step: {q}",),
)


@dataclass(frozen=True, kw_only=True)
class Steps(Cases):
    """A question on several objects, the objects in reading order, and "so the answer is two.".

    What is said before these words is not judged; the answer is, word for word.

    Chance: the most frequent answer of training to the same question, or else to one of the same form.
    """

    name: ClassVar[str] = "steps"
    chance: ClassVar[float] = 0.35

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene = draw_scene(chance, OBJECTS, self.split)
        question = questions.questions(scene, chance, 1, self.split != "test", ASKED)[0]
        objects = scene.in_order
        answer = f"{language.say(objects, language.WORDINGS[0])} {SO} {question.answer}."
        asked = THINKING.pick(chance, self.split).format(q=question.text)
        image = Image(SceneImage(scene, self.resolution))
        return Case.asked([image, asked], answer, partial(_concludes, question.answer))


def conclusion(text: str) -> str:
    """What stands behind "so the answer is", the last time that it is said; nothing without it."""
    return text.lower().rpartition(SO)[2] if SO in text.lower() else ""


def _concludes(answer: str, reply: Document) -> float:
    return says(answer, Document([conclusion(reply.text)]))
