"""Text in pictures: words and numbers to be read, and short opinions to be judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from plait.data.shapes import font
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.draw import COLOURS
from plait.data.shapes.invented import invented
from plait.data.shapes.score import says
from plait.data.shapes.split import hashed
from plait.document import Document, Image, Text, Turn
from plait.errors import ConfigError, DocumentError
from plait.sequence import Sequence as Laid
from plait.sequence import Slot, Span, Target

Colour = tuple[int, int, int]

LETTERS = tuple(font.GLYPHS)
LEAST = 64  # pixels a side, so that nine letters beside each other have a pixel for each dot
LONGEST = 9  # letters of a line
TILT = math.radians(8)  # each way
MOST_DOT = 2.5 / 64  # side of a dot, as a share of the picture's
NOISE = 40.0  # from end to end, of 255

PAPERS: dict[Colour, tuple[str, ...]] = {
    (240, 240, 240): ("red", "green", "blue", "purple", "black"),
    (250, 235, 200): ("red", "green", "blue", "purple", "black"),
    (30, 30, 40): ("yellow", "cyan", "pink"),
}
"""Colours of paper, and the colours of ink that can be read on it."""

READ = ("what does it say?", "what is written here?", "read the picture.")
READ_HELD_OUT = ("what is the word here?", "what does the picture say?")

JUDGE = (
    "what is the sentiment of the opinion?",
    "is the opinion positive or negative?",
    "read the opinion. is it positive or negative?",
)
JUDGE_HELD_OUT = ("is the sentiment positive or negative?",)

SUBJECTS = (
    "soup", "film", "book", "song", "hotel", "show", "game", "meal", "story", "trip", "room", "beach", "cake",
    "concert", "garden", "lesson", "museum", "market", "tea", "play", "painting", "train", "weather", "service",
)  # fmt: skip
GOOD = (
    "good", "great", "lovely", "superb", "brilliant", "wonderful", "excellent", "charming", "splendid", "fine", "nice",
    "pleasant",
)  # fmt: skip
BAD = (
    "bad", "awful", "poor", "dreadful", "terrible", "horrible", "dull", "nasty", "boring", "ugly", "weak", "shabby",
)  # fmt: skip
FRAMES = ("the {subject} was {word}", "this {subject} is {word}", "i found the {subject} {word}", "{word} {subject}")
TURNED = ("the {subject} was not {word}", "this {subject} is not {word}")  # say the contrary


@dataclass(frozen=True, slots=True)
class Writing:
    """Lines of text on paper, as a source of `plait.document.Image`.

    `x` and `y` are the middle and `dot` the side of a dot of the font, as shares of the side; `angle` is in radians;
    `grain` is the seed of the noise.
    """

    lines: tuple[str, ...]
    resolution: int
    paper: Colour
    ink: Colour
    x: float
    y: float
    dot: float
    angle: float
    grain: int

    def open(self) -> PIL.Image.Image:
        """The picture in RGB."""
        covered = font.cover(self.lines, self.resolution, self.x, self.y, self.dot * self.resolution, self.angle)
        paper, ink = np.array(self.paper, dtype=np.float32), np.array(self.ink, dtype=np.float32)
        pixels = paper + covered[:, :, None] * (ink - paper)
        pixels += np.float32(NOISE) * (Chance(self.grain).units(self.resolution, self.resolution, 1) - np.float32(0.5))
        return PIL.Image.fromarray(np.clip(pixels + np.float32(0.5), 0, 255).astype(np.uint8))

    def letters(self, cells: int) -> NDArray[np.int64]:
        """Of each cell of a grid the number in `LETTERS` of the letter that it holds, 0 for none: (cells, cells)."""
        found = np.zeros((cells, cells), np.int64)
        for letter, x, y in font.middles(self.lines, cells, self.x, self.y, self.dot * cells, self.angle):
            if letter != " ":
                found[int(y), int(x)] = LETTERS.index(letter)
        return found


def write(text: str, resolution: int, chance: Chance) -> Writing:
    """The text in lines of nine letters, as large as fits or smaller, somewhere in the picture, a little aslant."""
    lines = font.wrap(text, LONGEST)
    angle = chance.between(-TILT, TILT)
    width, height = font.extent(lines)
    turn, tilt = math.cos(angle), abs(math.sin(angle))
    across, down = width * turn + height * tilt, width * tilt + height * turn  # of the box around
    most = min(MOST_DOT, 0.97 / max(across, down))
    dot = chance.between(min(most, 1 / LEAST), most)
    paper = chance.choice(tuple(PAPERS))
    margins = (1 - dot * across) / 2, (1 - dot * down) / 2
    return Writing(
        lines=lines,
        resolution=resolution,
        paper=paper,
        ink=COLOURS[chance.choice(PAPERS[paper])],
        x=0.5 + chance.between(-margins[0], margins[0]),
        y=0.5 + chance.between(-margins[1], margins[1]),
        dot=dot,
        angle=angle,
        grain=chance.below(1 << 30),
    )


@dataclass(frozen=True, kw_only=True)
class Lettered:
    """A transform of sequences with written pictures: in the place of their vectors cells of a grid, told by letters.

    The targets are of the kind "letter", row by row (`plait.objectives.reading`). No language model is to be given
    such sequences.

    Args:
        cells: of the grid, along a side.
    """

    cells: int

    def __call__(self, sequence: Laid, generator: np.random.Generator) -> Laid:
        """The same with all cells of each picture.

        Raises:
            DocumentError: one is not a `Writing`.
        """
        return Laid(tuple(self._spelled(span) for span in sequence.spans), sequence.origin)

    def _spelled(self, span: Span) -> Span:
        if not isinstance(span.fill, Slot):
            return span
        if not isinstance(span.fill.image.source, Writing):
            raise DocumentError("a picture of which nobody knows what is written in it: give `Writing`s")
        letters = span.fill.image.source.letters(self.cells).ravel()
        target = Target("letter", letters, np.ones(len(letters), np.float32))
        return Span(span.fill, len(letters), (target,))


@dataclass(frozen=True, kw_only=True)
class _Written(Cases):
    """What kinds of written pictures share: room for the letters, and two turns on a picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < LEAST:
            raise ConfigError(f"resolution={self.resolution}: nine letters need at least {LEAST} pixels a side")

    def _case(self, i: int, text: str, request: str, answer: str) -> Case:
        image = Image(write(text, self.resolution, self.stream(i, 2)))
        user = Turn("user", [image, Text(request)])
        document = Document([user, Turn("assistant", answer)])
        return Case(document, Document([user]), partial(says, answer), Document(answer))


@dataclass(frozen=True, kw_only=True)
class Words(_Written):
    """A picture of a word or a number to be read.

    A document is two turns: the picture and "what does it say?"; "dakub", or "dakub tivol", or "4071". Words are
    invented, of five letters; numbers have two to five digits. They are split by their hash: no text of the test
    is written in training, and who reads it must read its letters. Letters are of 5 by 7 dots, about a pixel each at
    64 pixels a side for the longest lines.

    Chance: nothing, by the most frequent text of training; a reply counts when the whole text is right.
    """

    name: ClassVar[str] = "words"
    chance: ClassVar[float] = 0.0

    def text(self, i: int) -> str:
        """What is written in case i."""
        chance = self.stream(i)
        kind = chance.below(3)
        if kind < 2:
            return " ".join(invented(chance, self.split) for _ in range(kind + 1))
        digits = 2 + chance.below(4)
        while True:
            number = "".join(str(chance.below(10)) for _ in range(digits))
            if hashed(number) == self.split:
                return number

    def case(self, i: int) -> Case:
        """Case i."""
        text = self.text(i)
        return self._case(i, text, Wordings(READ, READ_HELD_OUT).pick(self.stream(i, 1), self.split), text)


@dataclass(frozen=True, kw_only=True)
class Opinions(_Written):
    """A picture of a short opinion, and whether it is positive.

    A document is two turns: a picture of "the soup was awful" and "what is the sentiment of the opinion?"; "negative".
    A third of the opinions say "not". They are split by the hash of their text; the words are the same in all parts.

    Chance: one half, by either answer.
    """

    name: ClassVar[str] = "opinions"
    chance: ClassVar[float] = 0.5

    def opinion(self, i: int) -> tuple[str, bool]:
        """What is written in case i, and whether it is positive."""
        chance = self.stream(i)
        positive, turned = chance.unit() < 0.5, chance.unit() < 1 / 3
        frames: Sequence[str] = TURNED if turned else FRAMES
        while True:
            word = chance.choice(GOOD if positive != turned else BAD)
            text = chance.choice(frames).format(subject=chance.choice(SUBJECTS), word=word)
            if hashed(text) == self.split:
                return text, positive

    def case(self, i: int) -> Case:
        """Case i."""
        text, positive = self.opinion(i)
        request = Wordings(JUDGE, JUDGE_HELD_OUT).pick(self.stream(i, 1), self.split)
        return self._case(i, text, request, "positive" if positive else "negative")
