"""What KOSMOS-1 is trained on beside captions and pages (arXiv 2302.14045, section 3), as the shapes world has it.

Sources of documents for models that are not spoken to: names of pictures, things with invented names, what is written
in pictures, and instructions in text alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.data.shapes.cases import Case, Cases
from plait.data.shapes.nouns import said, things
from plait.data.shapes.source import Shapes
from plait.data.shapes.told import tell
from plait.data.shapes.words import Opinions
from plait.data.shapes.world import SceneImage
from plait.document import Document, Image, Text, Turn
from plait.errors import ConfigError
from plait.text.questions import CAPTION, INTRODUCE, NAME, QUESTION, SENTIMENT

SAYS = "the picture says {text}."
_PURPOSE = 6  # of `Shapes.chance`; `WebCaptions` has 5


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Pictures with their captions, every other one behind the words that ask for it: "An image of"."""

    source: Shapes
    """Of documents of a picture and its caption."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        document = self.source[i]
        if i % 2:
            return document
        picture, caption = document.pieces
        return Document([picture, Text(CAPTION), caption])


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """A picture and the name of the first thing in it: "The photo of the" "red circle."."""

    shapes: Shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> Document:
        scene = self.shapes.scene(i)
        first = scene.objects[0]
        picture = Image(SceneImage(scene, self.shapes.resolution))
        return Document([picture, Text(NAME), Text(f"{first.colour} {first.shape}.")])


@dataclass(frozen=True, kw_only=True)
class NounCaptions(Cases):
    """A picture of things with invented names, and its caption: "a dax at the top and a wug in the middle."."""

    name: ClassVar[str] = "noun-captions"
    chance: ClassVar[float] = 0.0

    def case(self, i: int) -> Case:
        """Case i."""
        nouns, scene = things(self.stream(i), self.split)
        picture, caption = Image(SceneImage(scene, self.resolution)), f"{said(nouns, scene)}."
        return Case(
            document=Document([picture, Text(caption)]),
            prompt=Document([picture]),
            check=lambda reply: float(reply.text.strip() == caption),
            reply=Document(caption),
        )


@dataclass(frozen=True, kw_only=True)
class Written:
    """Pictures of written opinions: what they say, how that is meant, or first the one and then the other, in turn.

    Args:
        ways: of "read", "judge" and "both"; and "bare", the text itself and no word that asks for it. Of "both" the
            first request is left out, as in the second prompt of a chain of thought (arXiv 2302.14045).
        shown: False leaves the pictures out: how to judge, in text alone.
    """

    opinions: Opinions
    ways: tuple[str, ...] = ("read", "judge", "both")
    shown: bool = True

    def __post_init__(self) -> None:
        if not self.ways or not set(self.ways) <= {"read", "judge", "both", "bare"}:
            raise ConfigError(f"ways={self.ways}: give some of read, judge, both, bare")

    def __len__(self) -> int:
        return len(self.opinions)

    def __getitem__(self, i: int) -> Document:
        text, good = self.opinions.opinion(i)
        way = self.ways[i % len(self.ways)]
        says = Text(SAYS.format(text=text))
        said = {"read": [Text(INTRODUCE), says], "judge": [], "both": [says], "bare": [Text(text)]}[way]
        judged = [Text(SENTIMENT), Text("positive." if good else "negative.")] if way in ("judge", "both") else []
        pictures = self.opinions.case(i).prompt.images if self.shown else ()
        return Document([*pictures, *said, *judged])


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What is replied to cases, without what is asked: with steps, how to conclude, in text alone."""

    cases: Cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> Document:
        return self.cases.case(i).reply


@dataclass(frozen=True, kw_only=True)
class ToldInstructions:
    """Instructions in text alone: a scene in words as the input, a question on it, and the answer, which is learned.

    What is asked stands as pages ask it, with words where these have a picture. (How the three are joined is not
    published.)
    """

    shapes: Shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> Document:
        example = self.shapes.example(i)
        told = tell(example.scene, self.shapes.chance(i, _PURPOSE))
        question = example.questions[0]
        asked = [Text(f"{told}."), Text(QUESTION.format(question=question.text))]
        return Document([Turn("user", asked), Turn("assistant", f"{question.answer}.")])
