"""Episodes for few-shot learning: invented names for kinds of picture, a few pictures of each, and one to name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.invented import distinct
from plait.data.shapes.questions import behind, concluded
from plait.data.shapes.score import says
from plait.data.shapes.split import SEEN_PAIRS, noisy, part
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Scene, SceneImage
from plait.document import Document, Image, Piece
from plait.errors import ConfigError

WORDINGS = ("this is a {}.", "here is a {}.", "we see a {}.", "a {}.", "the picture shows a {}.")
HELD_OUT_WORDINGS = ("here we see a {}.",)
TELLS = ("colour", "shape")


@dataclass(frozen=True, slots=True)
class Names:
    """Worth 1 when the reply holds, behind its steps, the right one of the labels and no other; else 0."""

    right: str
    labels: tuple[str, ...]

    def __call__(self, reply: Document) -> float:
        """The worth of the reply."""
        words = set(concluded(reply.text).lower().replace(".", " ").split())
        return float(words & set(self.labels) == {self.right})


@dataclass(frozen=True, slots=True)
class Episode(Case):
    """A case with the replies that name each of the labels, to be ranked by likelihood."""

    candidates: tuple[Document, ...]
    right: int
    """The index of the right one."""


@dataclass(frozen=True, kw_only=True)
class Episodes(Cases):
    """Pictures of one object each with invented names, and a last one to be named.

    In an episode names go either by shape or by colour, and nothing else of a picture tells. A document of two ways and
    one shot:

        image "this is a dakub." image "this is a tivol." image | "this is a dakub."

    Names are drawn anew in each episode, and none occurs in two parts. A case gives the reply for each name
    (`Episode.candidates`): rank them by likelihood, or let the model speak.

    Chance: one in `ways`, by any of the names.

    Args:
        ways: names, 2 to 6.
        shots: pictures of each.
        steps: whether the last name stands behind what each picture shows, and how it is named: "red circle dakub, red
            ring tivol, blue circle dakub: this is a dakub."
    """

    name: ClassVar[str] = "episodes"
    chance: ClassVar[float] = 0.5

    ways: int = 2
    shots: int = 2
    steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.ways <= len(SHAPES) or self.shots < 1:
            raise ConfigError(f"ways={self.ways}, shots={self.shots}: give 2 to {len(SHAPES)} ways, at least one shot")

    def case(self, i: int) -> Episode:
        """Case i."""
        chance = self.stream(i)
        labels = distinct(chance, self.split, self.ways)
        right = chance.below(self.ways)
        order = chance.sample([way for way in range(self.ways) for _ in range(self.shots)], self.ways * self.shots)
        tells = chance.choice(TELLS)
        scenes = self._scenes(chance, [*order, right], tells)
        wording = Wordings(WORDINGS, HELD_OUT_WORDINGS).pick(self.stream(i, 1), self.split)
        candidates = tuple(Document(wording.format(label)) for label in labels)
        pieces: list[Piece] = []
        for way, scene in zip((*order, right), scenes, strict=True):
            pieces += [Image(SceneImage(scene, self.resolution)), *candidates[way]]
        prompt = Document(pieces[:-1])
        shown = (f"{_seen(scene)} {labels[way]}" for way, scene in zip((*order, right), scenes, strict=True))
        steps = [behind(shown)] if self.steps else []
        reply = Document([*steps, *candidates[right]])
        return Episode(Document([*prompt, *reply]), prompt, Names(labels[right], labels), reply, candidates, right)

    def _scenes(self, chance: Chance, ways: Sequence[int], tells: str) -> list[Scene]:
        """A picture for each way, by the attribute that tells; the last one is none of the others, and of the part."""
        at = TELLS.index(tells)
        values = chance.sample(SHAPES if at else COLOURS, self.ways)
        scenes: list[Scene] = []
        for number, way in enumerate(ways, 1):
            pairs = [pair for pair in SEEN_PAIRS if pair[at] == values[way]]
            query = number == len(ways)
            while True:
                facts = (*chance.choice(pairs), chance.choice(SIZES), chance.choice(PLACES))
                if query and any(scene.content == (facts,) for scene in scenes):
                    continue
                if part([facts]) == self.split or not (query or self.split == "train"):
                    break
            scenes.append(Scene((noisy(chance, facts),)))
        return scenes


def _seen(scene: Scene) -> str:
    (item,) = scene.objects
    return f"{item.colour} {item.shape}"


@dataclass(frozen=True, kw_only=True)
class Lists(Cases):
    """Text alone: words and the names invented for them, again and again, "circle dakub, red tivol, circle dakub, ...".

    Behind its first time, what a word is called stands in front: whoever reads on learns to look it up, which is what
    episodes are about, and learns it from each entry.

    Chance: one in `words`, by any of the names.

    Args:
        words: colours and shapes of a list, from and to.
        entries: in a list.
    """

    name: ClassVar[str] = "lists"
    chance: ClassVar[float] = 0.5

    words: tuple[int, int] = (2, 6)
    entries: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = self.words
        if not 1 <= least <= most <= len(SHAPES) + len(COLOURS) or self.entries < 2:
            raise ConfigError(f"words={self.words}, entries={self.entries}: give at least 1 word, and 2 entries")

    def case(self, i: int) -> Case:
        """Case i; the last entry is one that has been there."""
        chance = self.stream(i)
        least, most = self.words
        words = chance.sample([*COLOURS, *SHAPES], least + chance.below(most - least + 1))
        names = dict(zip(words, distinct(chance, self.split, len(words)), strict=True))
        said = [chance.choice(words) for _ in range(self.entries - 1)]
        last = chance.choice(said)
        told = "".join(f"{word} {names[word]}, " for word in said) + last
        answer = f"{names[last]}."
        return Case(Document(f"{told} {answer}"), Document(told), partial(says, names[last]), Document(f" {answer}"))
