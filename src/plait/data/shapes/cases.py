"""A case of the world: what training sees of it, what a model is asked, and who judges the reply."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from plait.data.shapes import language
from plait.data.shapes.chance import Chance
from plait.data.shapes.split import STREAMS, Part
from plait.data.shapes.world import Scene
from plait.document import Blank, Document, Image, Piece, Turn
from plait.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Case:
    """A document in full, the part of it that a model is given, and a judge of what the model says or draws next."""

    document: Document
    prompt: Document
    check: Callable[[Document], float]
    """The worth of a reply, 0 to 1; a reply that cannot be read is worth 0."""
    reply: Document
    """The right reply: `check` gives it 1."""

    @classmethod
    def asked(
        cls,
        question: Sequence[Piece | str],
        answer: str | Image,
        check: Callable[[Document], float],
        before: Sequence[tuple[Sequence[Piece | str], str | Image]] = (),
        told: str = "",
    ) -> Case:
        """A question in a turn of its own and its answer, in words or as a picture; `before` holds such turns too.

        What is told before a picture is the model's to say: the prompt ends where its turn begins.
        """
        said = [turn for asked, reply in before for turn in (Turn("user", asked), Turn("assistant", reply))]
        user = Turn("user", question)
        reply = [told, answer] if told else [answer]
        begun = [] if told else [Blank("image")]
        return cls(
            document=Document([*said, user, Turn("assistant", reply)]),
            prompt=Document([*said, user, *([Turn("assistant", begun)] if isinstance(answer, Image) else [])]),
            check=check,
            reply=Document(reply),
        )


class Wordings(NamedTuple):
    """Ways to say one thing: those of training, and some that occur in the test alone."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def pick(self, chance: Chance, part: Part) -> str:
        """One of them, each as likely; in the test any, else one of training's."""
        return chance.choice(self.seen + self.held_out if part == "test" else self.seen)


@dataclass(frozen=True, kw_only=True)
class Cases:
    """A kind of case as a source of documents: element i depends on the fields other than `length` and on i alone.

    Subclasses name themselves, say what a guess without looking is worth (`chance`, at its default settings), and make
    case i from streams of random numbers.

    Raises:
        ConfigError: a field is out of range.
    """

    name: ClassVar[str]
    chance: ClassVar[float]
    parts: ClassVar[tuple[Part, ...]] = ("train", "validation", "test")
    """Those that there are cases for."""

    seed: int
    length: int
    split: Part = "train"
    resolution: int = 64

    def __post_init__(self) -> None:
        if self.split not in self.parts:
            raise ConfigError(f"{self.name}: split {self.split!r} is not one of {', '.join(self.parts)}")
        if self.length < 0 or self.resolution < 16:
            raise ConfigError(f"length={self.length}, resolution={self.resolution}: at least 0, and 16 pixels a side")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Document:
        return self.case(i).document

    def cases(self) -> Iterator[Case]:
        """All cases in order."""
        return (self.case(i) for i in range(self.length))

    def case(self, i: int) -> Case:
        """Case i."""
        raise NotImplementedError

    def stream(self, i: int, purpose: int = 0) -> Chance:
        """The random numbers of case i for one of eight purposes.

        Raises:
            IndexError: there is no such case.
        """
        if not 0 <= i < self.length:
            raise IndexError(f"case {i} of {self.length}")
        return Chance(self.seed, i, (zlib.crc32(self.name.encode()) << 8) + STREAMS[self.split] + purpose)


@dataclass(frozen=True, kw_only=True)
class Drawings(Cases):
    """A kind of case whose reply is a picture.

    Args:
        steps: whether the reply first tells what is to be drawn, so that a small model does one thing after the other.
            Judges look at the picture alone.
    """

    steps: bool = False

    def told(self, scene: Scene) -> str:
        """A caption of the scene that is to be drawn, always in the same wording and order; nothing without steps."""
        return language.say(scene.in_order, language.WORDINGS[0]) if self.steps else ""
