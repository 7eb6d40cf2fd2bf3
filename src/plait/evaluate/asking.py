"""Ways to ask a model that was never tuned to answer: at once or in two steps, alone or behind examples in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from plait.data.shapes.looked import Looked
from plait.data.shapes.questions import Question, correct
from plait.data.shapes.source import Shapes
from plait.document import Document, Text, joined
from plait.errors import ConfigError
from plait.evaluate.examples import without_pictures
from plait.evaluate.shapes import ANSWER_TOKENS, CAPTION_TOKENS, Held, Item
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.text.instructions import LOOK, asked_of, step_two

Steps = Literal["one", "two"]
EXAMPLES_SEED = 20241


@dataclass(frozen=True, kw_only=True)
class ShapesPrompted:
    """Questions on the picture in a document of pieces, which a pretrained Emu goes on with (section 4.1).

    In one step the picture stands before the question. In two the model describes the picture first, and is then asked
    about its own description. What counts is what it says up to its first full stop.

    Args:
        steps: "one" or "two".
        looks: the picture stands before the second step too. The paper does not say whether it does.
        examples: so many questions with answers stand before the prompt, in words alone, as Flamingo has them for
            results without examples (two, marked by a star in Emu's tables).
    """

    held: Held = field(default_factory=Held)
    steps: Steps = "two"
    looks: bool = False
    examples: int = 0

    def __post_init__(self) -> None:
        if self.examples < 0 or (self.looks and self.steps == "one"):
            raise ConfigError(
                f"{self.examples} examples, looks={self.looks} in {self.steps} steps: give at least 0, and looks for "
                "two steps alone; in one step the picture is always there"
            )

    @property
    def name(self) -> str:
        """Such as "vqa_two_steps"."""
        name = "vqa_one_step" if self.steps == "one" else "vqa_two_steps"
        return f"{name}{'_looks' if self.looks else ''}{f'_{self.examples}_texts' if self.examples else ''}"

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n"}, over the scenes that count at the top."""
        items = [item for item in self.held.items() if item.counts]
        captions = self._captions(model, items) if self.steps == "two" else [""] * len(items)
        both = [
            (item, caption, question)
            for item, caption in zip(items, captions, strict=True)
            for question in item.example.questions
        ]
        prompts = [self.prompt(item, caption, question) for item, caption, question in both]
        replies = model.generate(prompts, Settings(max_new_tokens=ANSWER_TOKENS, stop="."))
        right = [correct(one[2], reply.text.partition(".")[0]) for one, reply in zip(both, replies, strict=True)]
        return {"accuracy": sum(right) / len(right), "n": len(right)}

    def prompt(self, item: Item, caption: str, question: Question) -> Document:
        """What is answered.

        Args:
            caption: of the first step; in one step none is needed.
        """
        text = asked_of(question.text) if self.steps == "one" else step_two(caption, question.text)
        looked = self.steps == "one" or self.looks
        picture = [self.held.picture(item.example.scene)] if looked else []
        return joined([*without_pictures(self._examples()), Document([*picture, Text(text)])])

    def _captions(self, model: Model, items: list[Item]) -> list[str]:
        """What the model says of each picture, up to the first full stop."""
        prompts = [Document([self.held.picture(item.example.scene), Text(LOOK)]) for item in items]
        replies = model.generate(prompts, Settings(max_new_tokens=CAPTION_TOKENS, stop="."))
        return [reply.text.partition(".")[0].strip() for reply in replies]

    def _examples(self) -> list[Document]:
        """Of training, in the words of the prompt."""
        shapes = Shapes(seed=EXAMPLES_SEED, length=max(1, self.examples), questions_each=1)
        form = "direct" if self.steps == "one" else "both"
        source = Looked(shapes=shapes, mix={form: 1.0})
        return [Document([f"{source[i].text} "]) for i in range(self.examples)]
