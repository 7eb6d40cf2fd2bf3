"""Pictures with captions in families that are nearly alike: for learning from what sets them apart."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from plait.data.shapes import language
from plait.data.shapes.chance import Chance
from plait.data.shapes.split import another, draw_scene, noisy, part
from plait.data.shapes.world import PLACES, Facts, Scene, SceneImage
from plait.document import Document, Image, Text
from plait.errors import ConfigError

CHANGED = ("shape", "colour", "size", "place")
"""What sets siblings apart from the first, in turn, so that they hardly ever equal each other."""
TRIES = 20  # a scene may have no sibling of one kind: its only other size may belong to the test


@dataclass(frozen=True, kw_only=True)
class Siblings:
    """A source of pairs [picture, caption] of training scenes, in families of neighbouring documents.

    The first of a family is a random scene; each other one differs from it in the shape, colour, size or place of one
    object. All have noise and a wording of their own. Read in order, families stay together.

    Raises:
        ConfigError: a field is out of range.
    """

    seed: int
    length: int
    family: int = 1 + len(CHANGED)
    objects: tuple[int, ...] = (1, 2, 3)
    resolution: int = 32

    def __post_init__(self) -> None:
        if not self.objects or not set(self.objects) <= set(range(1, len(PLACES))):
            raise ConfigError(
                f"objects={self.objects}: give numbers from 1 to {len(PLACES) - 1}, so that a place is free"
            )
        if self.length < 0 or self.family < 1:
            raise ConfigError(f"length={self.length}, family={self.family}: at least 0 and 1")

    def __len__(self) -> int:
        return self.length

    def scene(self, i: int) -> Scene:
        """The scene of document i."""
        if not 0 <= i < self.length:
            raise IndexError(f"document {i} of {self.length}")
        family, place = divmod(i, self.family)
        first = draw_scene(Chance(self.seed, family, 0), self.objects, "train")
        chance = Chance(self.seed, i, 1)
        facts = _changed(first, CHANGED[(place - 1) % len(CHANGED)], chance) if place else first.content
        return Scene(tuple(noisy(chance, item) for item in facts))

    def __getitem__(self, i: int) -> Document:
        scene = self.scene(i)
        text = language.caption(scene, Chance(self.seed, i, 2)).text
        return Document([Image(SceneImage(scene, self.resolution)), Text(text)])


def _changed(scene: Scene, attribute: str, chance: Chance) -> tuple[Facts, ...]:
    """The facts of a training scene in which one object has another value of an attribute, or of any if need be."""
    for attempt in itertools.count():
        item = chance.choice(scene.objects)
        changed = attribute if attempt < TRIES else chance.choice(CHANGED)
        new = item.changed(changed, another(item, changed, chance, train=True))
        facts = tuple(new.facts if other is item else other.facts for other in scene.objects)
        if len({fact[3] for fact in facts}) == len(facts) and part(facts) == "train":
            return facts
    raise AssertionError("places are free, and most scenes are of training")
