"""Names: what tells an object of a scene from the others, and how it is said."""

from __future__ import annotations

from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS
from plait.data.shapes.world import Object, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Named = frozenset[str]
"""The attributes that name an object."""

NAMED: tuple[Named, ...] = (
    frozenset(),
    frozenset({"shape"}),
    frozenset({"colour"}),
    frozenset({"size"}),
    frozenset({"colour", "shape"}),
    frozenset({"size", "shape"}),
    frozenset({"size", "colour", "shape"}),
    frozenset({"place"}),
)


def value_of(item: Object, attribute: str) -> str:
    """Its colour, shape, size or place."""
    value: str = getattr(item, attribute)
    return value


def phrase(item: Object, named: Named) -> str:
    """ "large red circle", "red object", "object at the top left": what names the object by these attributes."""
    words = [item.size] if "size" in named else []
    if "colour" in named:
        words.append(item.colour)
    words.append(item.shape if "shape" in named else "object")
    if "place" in named:
        words.append(PLACE_WORDS[item.place][0])
    return " ".join(words)


def plural(attribute: str, value: str) -> str:
    """ "crosses", "red objects"."""
    if attribute == "shape":
        return value + ("es" if value.endswith("s") else "s")
    return value + " objects"


def names_of(scene: Scene, item: Object, without: str, options: tuple[Named, ...] = NAMED) -> list[Named]:
    """The options by which the object is told from all others of the scene, without telling an attribute."""
    shared = [_shared(item, other) for other in scene.objects if other is not item]
    return [named for named in options if without not in named and not any(named <= same for same in shared)]


def name_of(scene: Scene, item: Object, without: str, chance: Chance, options: tuple[Named, ...] = NAMED) -> str | None:
    """A phrase that only this object of the scene answers to, and that does not tell the attribute `without`."""
    named = named_by(scene, item, without, chance, options)
    return None if named is None else phrase(item, named)


def named_by(
    scene: Scene, item: Object, without: str, chance: Chance, options: tuple[Named, ...] = NAMED
) -> Named | None:
    """The attributes of such a phrase."""
    fit = names_of(scene, item, without, options)
    return chance.choice(fit) if fit else None


def _shared(item: Object, other: Object) -> Named:
    return frozenset(
        name
        for name, same in (
            ("colour", item.colour == other.colour),
            ("shape", item.shape == other.shape),
            ("size", item.size == other.size),
        )
        if same
    )
