"""Seen and unseen: which scenes belong to training, and the drawing of random scenes of one part.

A scene belongs to the part that a hash of its content (colours, shapes, sizes, places; not the noise) names: 13 of 16
to training, 1 to validation, 2 to the test. A tenth of the pairs of colour and shape never occur in training or
validation: any scene with such a pair belongs to the test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from plait.data.shapes.chance import Chance
from plait.data.shapes.draw import SHADING, SHIFT, STRETCH
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, VALUES, Facts, Object, Scene

Part = Literal["train", "validation", "test"]
Pairs = Literal["seen", "held-out"]

STREAMS = {"train": 0, "validation": 8, "test": 16}  # first of the eight purposes (`Chance`) of a part

# 5 of 48, no colour and no shape twice: five in six of the pairs of each colour stay, and seven in eight of each shape
HELD_OUT_PAIRS = frozenset(
    {("red", "ring"), ("green", "triangle"), ("blue", "cross"), ("yellow", "diamond"), ("black", "circle")}
)

_ALL = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
SEEN_PAIRS = tuple(pair for pair in _ALL if pair not in HELD_OUT_PAIRS)
_HELD_OUT = tuple(pair for pair in _ALL if pair in HELD_OUT_PAIRS)

REPEAT = 0.2  # chance that an object takes the colour of the one before it; as much again for the shape


def part(content: Iterable[Facts]) -> Part:
    """The part that a scene of this content belongs to."""
    facts = sorted(content)
    if any(item[:2] in HELD_OUT_PAIRS for item in facts):
        return "test"
    return hashed(repr(facts))


def hashed(content: str) -> Part:
    """The part that a hash of the text names."""
    bucket = hashlib.blake2b(content.encode(), digest_size=1).digest()[0]
    return "test" if bucket < 32 else "validation" if bucket < 48 else "train"


def belong(scenes: Sequence[Scene], asked: Scene, wanted: Part) -> bool:
    """Whether pictures shown together may be shown in a part.

    In training all of them belong to training. In another part the one that is asked about belongs to it, so that it
    never occurs in training, whatever stands beside.
    """
    checked = scenes if wanted == "train" else (asked,)
    return all(part(scene.content) == wanted for scene in checked)


def draw_scene(chance: Chance, objects: Sequence[int], wanted: Part, pairs: Pairs = "seen") -> Scene:
    """A random scene of one part.

    Args:
        objects: numbers of objects, each as likely.
        pairs: "seen" for pairs of colour and shape that occur in training, "held-out" for at least one that does not
            (the part is then the test).
    """
    count = chance.choice(objects)
    while True:
        kinds = _kinds(chance, count, pairs)
        places = chance.sample(PLACES, count)
        facts = [
            (colour, shape, chance.choice(SIZES), place) for (colour, shape), place in zip(kinds, places, strict=True)
        ]
        if pairs == "held-out" or part(facts) == wanted:
            return Scene(tuple(noisy(chance, item) for item in facts))


def draw_distinct(chance: Chance, count: int) -> Scene:
    """A random scene of any part whose pairs of colour and shape occur in training and differ from each other."""
    pairs, places = chance.sample(SEEN_PAIRS, count), chance.sample(PLACES, count)
    return Scene(
        tuple(noisy(chance, (*pair, chance.choice(SIZES), place)) for pair, place in zip(pairs, places, strict=True))
    )


def another(item: Object, attribute: str, chance: Chance, train: bool) -> str:
    """A value that the object does not have; in training, none that makes a held-out pair."""
    values = [value for value in VALUES[attribute] if value != getattr(item, attribute)]
    if train and attribute == "colour":
        values = [value for value in values if (value, item.shape) not in HELD_OUT_PAIRS]
    if train and attribute == "shape":
        values = [value for value in values if (item.colour, value) not in HELD_OUT_PAIRS]
    return chance.choice(values)


def noisy(chance: Chance, facts: Facts) -> Object:
    """The object with random noise of place, radius and brightness."""
    return Object(
        *facts,
        dx=chance.between(-SHIFT, SHIFT),
        dy=chance.between(-SHIFT, SHIFT),
        scale=chance.between(1 - STRETCH, 1 + STRETCH),
        shade=chance.between(-SHADING, SHADING),
    )


def _kinds(chance: Chance, count: int, pairs: Pairs) -> list[tuple[str, str]]:
    first, others = (SEEN_PAIRS, SEEN_PAIRS) if pairs == "seen" else (_HELD_OUT, _ALL)
    kinds = [chance.choice(first)]
    while len(kinds) < count:
        colour, shape = kinds[-1]
        which = chance.unit()
        if which < REPEAT:
            kinds.append(chance.choice([pair for pair in others if pair[0] == colour]))
        elif which < 2 * REPEAT:
            kinds.append(chance.choice([pair for pair in others if pair[1] == shape]))
        else:
            kinds.append(chance.choice(others))
    return kinds
