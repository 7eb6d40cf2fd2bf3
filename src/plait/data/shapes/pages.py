"""Pages as of the web: pictures, captions, and text that belongs to no picture; a question on one of the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import ClassVar

from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS
from plait.data.shapes.naming import value_of
from plait.data.shapes.score import says
from plait.data.shapes.split import SEEN_PAIRS, belong, noisy
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Facts, Scene, SceneImage
from plait.document import Document, Image, Piece, Text, Turn
from plait.errors import ConfigError

NAMES = (
    "the garden", "the market", "the harbour", "the station", "the museum", "the school", "the kitchen", "the tower",
    "the bridge", "the library", "the island", "the workshop",
)  # fmt: skip

ABOVE = ("above: {name}.", "the picture above shows {name}.", "{name}, in the picture above.")
BELOW = ("below: {name}.", "the picture below shows {name}.", "{name}, in the picture below.")

HEADINGS = ("welcome to our page.", "news of the week.", "a walk through the town.", "our pictures.", "travel diary.")
DISTRACTIONS = (
    "menu: home, news, shop, about us.",
    "buy a {size} {colour} {shape} today.",
    "the {colour} {shape} of last week is gone.",
    "every {shape} in {colour} at half the price.",
    "a reader asks: where is my {colour} {shape}?",
    "the {shape} {place} was {colour} once.",
    "weather: rain at night, wind from the sea.",
    "the shop is open from nine to five.",
    "sign in to write a comment.",
    "read more on the next page.",
)

WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": (
        "what colour is the {shape} in the picture of {name}?",
        "in the picture of {name}, what is the colour of the {shape}?",
    ),
    "shape": (
        "what shape is the {colour} object in the picture of {name}?",
        "in the picture of {name}, what is the shape of the {colour} object?",
    ),
    "place": (
        "where is the {shape} in the picture of {name}?",
        "in the picture of {name}, in which place is the {shape}?",
    ),
}
HELD_OUT_WORDINGS: dict[str, tuple[str, ...]] = {"colour": ("the picture of {name}: what colour is the {shape}?",)}


@dataclass(frozen=True, slots=True)
class Page:
    """The pictures of a page and their names ("" for none), which is asked about, what is asked, and the answer."""

    scenes: tuple[Scene, ...]
    names: tuple[str, ...]
    at: int
    asked: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Pages(Cases):
    """A page of text and pictures, and a question on the picture that a caption names.

    A document is two turns; the user's is the page and the question, in pieces:

        "news of the week." "buy a small red circle today." image "the picture above shows the harbour."
        "below: the market." image "sign in to write a comment." image
        "what colour is the circle in the picture of the harbour?" | "green"

    Captions stand below their picture ("above: ...") or above it, and some pictures have none. Every picture has one
    object that the question could be about, with another answer in each: right is only who finds the picture. Other
    text is drawn at random, with colours, shapes and places that tell nothing.

    Chance: the most frequent answer of training to the kind of question.

    Args:
        pictures: numbers of pictures, each as likely; at least two, of which two or more have captions.
        distractions: pieces of text that belong to no picture.
    """

    name: ClassVar[str] = "pages"
    chance: ClassVar[float] = 0.145

    pictures: tuple[int, ...] = (2, 3)
    distractions: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pictures or not set(self.pictures) <= {2, 3, 4} or not 0 <= self.distractions <= len(DISTRACTIONS):
            raise ConfigError(
                f"pictures={self.pictures}, distractions={self.distractions}: "
                f"give 2 to 4 pictures, and 0 to {len(DISTRACTIONS)} texts"
            )

    def page(self, i: int) -> Page:
        """The pictures of case i and the question."""
        chance = self.stream(i)
        count, asked = chance.choice(self.pictures), chance.choice(tuple(WORDINGS))
        named = 2 + chance.below(count - 1)
        names = chance.sample([*chance.sample(NAMES, named), *[""] * (count - named)], count)
        at = chance.choice([at for at, name in enumerate(names) if name])
        while True:
            scenes = _scenes(chance, asked, count)
            if belong(scenes, scenes[at], self.split):
                return Page(scenes, tuple(names), at, asked, value_of(scenes[at].objects[0], asked))

    def case(self, i: int) -> Case:
        """Case i."""
        page, chance = self.page(i), self.stream(i, 1)
        blocks: list[list[Piece]] = [[Text(text)] for text in _distractions(chance, self.distractions)]
        for scene, name in zip(page.scenes, page.names, strict=True):
            image = Image(SceneImage(scene, self.resolution))
            if not name:
                block: list[Piece] = [image]
            elif chance.unit() < 0.5:
                block = [image, Text(chance.choice(ABOVE).format(name=name))]
            else:
                block = [Text(chance.choice(BELOW).format(name=name)), image]
            blocks.append(block)
        item = page.scenes[page.at].objects[0]
        wordings = Wordings(WORDINGS[page.asked], HELD_OUT_WORDINGS.get(page.asked, ()))
        question = wordings.pick(self.stream(i, 2), self.split)
        pieces = [Text(chance.choice(HEADINGS)), *chain.from_iterable(chance.sample(blocks, len(blocks)))]
        question = question.format(name=page.names[page.at], colour=item.colour, shape=item.shape)
        user = Turn("user", [*pieces, Text(question)])
        document = Document([user, Turn("assistant", page.answer)])
        return Case(document, Document([user]), partial(says, page.answer), Document(page.answer))


def _scenes(chance: Chance, asked: str, count: int) -> tuple[Scene, ...]:
    """Pictures whose first objects answer to the same name, each with another answer."""
    given = 0 if asked == "shape" else 1  # the attribute that names the object: its colour, or its shape
    value = chance.choice(COLOURS if given == 0 else SHAPES)
    pairs = [pair for pair in SEEN_PAIRS if pair[given] == value]
    others = [pair for pair in SEEN_PAIRS if pair[given] != value]
    if asked == "place":
        chosen, places = [chance.choice(pairs) for _ in range(count)], chance.sample(PLACES, count)
    else:
        chosen, places = chance.sample(pairs, count), [chance.choice(PLACES) for _ in range(count)]
    scenes = []
    for pair, place in zip(chosen, places, strict=True):
        facts: list[Facts] = [(*pair, chance.choice(SIZES), place)]
        if chance.unit() < 0.5:
            elsewhere = [other for other in PLACES if other != place]
            facts.append((*chance.choice(others), chance.choice(SIZES), chance.choice(elsewhere)))
        scenes.append(Scene(tuple(noisy(chance, item) for item in facts)))
    return tuple(scenes)


def _distractions(chance: Chance, count: int) -> list[str]:
    texts = []
    for text in chance.sample(DISTRACTIONS, count):
        colour, shape = chance.choice(SEEN_PAIRS)
        place = PLACE_WORDS[chance.choice(PLACES)][0]
        texts.append(text.format(size=chance.choice(SIZES), colour=colour, shape=shape, place=place))
    return texts
