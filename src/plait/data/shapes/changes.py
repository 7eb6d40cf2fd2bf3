"""Changes of a scene: an object appears, vanishes, moves, or takes another colour or size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plait.data.shapes.chance import Chance
from plait.data.shapes.split import SEEN_PAIRS, noisy
from plait.data.shapes.world import COLOURS, PLACES, SIZES, Object, Scene

Kind = Literal["appears", "vanishes", "moves", "turns", "resizes"]
"""`turns` is to another colour."""


@dataclass(frozen=True, slots=True)
class Change:
    """What befalls one object: `before` becomes `after`. None before: it appears; none after: it vanishes."""

    before: Object | None
    after: Object | None

    def apply(self, scene: Scene) -> Scene:
        """The scene after the change."""
        gone = None if self.before is None else self.before.facts
        rest = tuple(item for item in scene.objects if item.facts != gone)
        return Scene(rest if self.after is None else (*rest, self.after))


def draw_change(
    kind: Kind, scene: Scene, chance: Chance, spared: Sequence[Object] = (), past: Sequence[Object] = ()
) -> Change | None:
    """A random change; pairs of colour and shape stay different from each other, and known from training.

    Args:
        spared: objects that are to stay as they are.
        past: objects whose pair and place nothing takes, as if they were still there.

    Returns:
        None when the scene has no room for it, or nothing that may change; the last object does not vanish.
    """
    known = (*scene.objects, *past)
    pairs, places = {(item.colour, item.shape) for item in known}, {item.place for item in known}
    free = [place for place in PLACES if place not in places]
    if kind == "appears":
        new = [pair for pair in SEEN_PAIRS if pair not in pairs]
        if not free:
            return None
        return Change(None, noisy(chance, (*chance.choice(new), chance.choice(SIZES), chance.choice(free))))
    may = [item for item in scene.objects if item not in spared]
    if not may:
        return None
    item = chance.choice(may)
    match kind:
        case "vanishes":
            return Change(item, None) if len(scene) > 1 else None
        case "moves":
            return Change(item, replace(item, place=chance.choice(free))) if free else None
        case "resizes":
            return Change(item, replace(item, size=SIZES[1 - SIZES.index(item.size)]))
        case "turns":
            pool = [c for c in COLOURS if (c, item.shape) in SEEN_PAIRS and (c, item.shape) not in pairs]
            return Change(item, replace(item, colour=chance.choice(pool))) if pool else None
