"""Writings: a text to be written, and the picture of it; a reader says what the picture says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import numpy as np
import PIL.Image

from plait.data.shapes import font
from plait.data.shapes.cases import Case, Drawings, Wordings
from plait.data.shapes.draw import BACKGROUND, COLOURS, Array
from plait.data.shapes.invented import invented
from plait.data.shapes.score import drawing
from plait.data.shapes.split import hashed
from plait.document import Document, Image

LETTERS = 2  # of a line, in as many lines
CELL = 8  # dots of a letter's place, each way
SIDE = LETTERS * CELL  # dots of the picture
MOST = LETTERS**2

WRITE = Wordings(
    ('write "{}".', 'draw "{}".', 'write "{}" into the picture.', 'a picture that says "{}".'),
    ('into the picture write "{}".',),
)


@dataclass(frozen=True, slots=True)
class Print:
    """At most four letters in two lines, black on the grey of scenes, as a source of `plait.document.Image`."""

    text: str
    resolution: int

    def open(self) -> PIL.Image.Image:
        """The picture in RGB."""
        dots = np.zeros((SIDE, SIDE), dtype=np.float32)
        for i, letter in enumerate(self.text[:MOST]):
            top, left = (CELL * at for at in divmod(i, LETTERS))
            dots[top : top + CELL, left : left + CELL] = _templates()[letter]
        paper, ink = (np.array(rgb, dtype=np.float32) for rgb in (BACKGROUND, COLOURS["black"]))
        pixels = (paper + dots[:, :, None] * (ink - paper)).astype(np.uint8)
        return PIL.Image.fromarray(pixels).resize((self.resolution,) * 2, PIL.Image.Resampling.NEAREST)


@dataclass(frozen=True, kw_only=True)
class Writings(Drawings):
    """A text of two to four letters or digits, and the picture that says it.

    Words are invented, and split from numbers by no more than their letters; both are split into parts by their hash,
    so that no text of the test is written in training. The reply is a picture: it counts when the whole text is read
    from it, each letter's place taken as the letter, or the empty place, that it is nearest to.

    Steps: its letters one by one.

    Chance: nothing, by the most frequent text of training.
    """

    name: ClassVar[str] = "writings"
    chance: ClassVar[float] = 0.0

    def text(self, i: int) -> str:
        """What is to be written in case i."""
        chance = self.stream(i)
        length = 2 + chance.below(MOST - 1)
        if chance.unit() < 0.6:
            return invented(chance, self.split, max(length, 3))
        while True:
            number = "".join(str(chance.below(10)) for _ in range(length))
            if hashed(number) == self.split:
                return number

    def case(self, i: int) -> Case:
        """Case i."""
        text = self.text(i)
        request = WRITE.pick(self.stream(i, 1), self.split).format(text)
        told = " ".join(text) if self.steps else ""
        return Case.asked([request], Image(Print(text, self.resolution)), partial(_says, text), told=told)


def read(picture: PIL.Image.Image) -> str:
    """What a square picture of any side says, without the empty places behind the text."""
    small = picture.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.BOX)
    paper, ink = np.mean(BACKGROUND), np.mean(COLOURS["black"])
    dots = np.clip((paper - np.asarray(small, dtype=np.float32).mean(axis=2)) / (paper - ink), 0, 1)
    known = _templates()
    letters, templates = list(known), np.stack(list(known.values()))
    places = [dots[top : top + CELL, left : left + CELL] for top in (0, CELL) for left in (0, CELL)]
    nearest = (int(np.square(templates - place).sum(axis=(1, 2)).argmin()) for place in places)
    return "".join(letters[number] for number in nearest).rstrip()


def _says(text: str, reply: Document) -> float:
    picture = drawing(reply)
    return float(picture is not None and read(picture) == text)


@cache
def _templates() -> dict[str, Array]:
    """Each letter, and the space, in its place: (CELL, CELL)."""
    rim = (1, CELL - font.HEIGHT - 1), (1, CELL - font.WIDTH - 1)
    return {letter: np.pad(glyph, rim) for letter, glyph in font.GLYPHS.items()}
