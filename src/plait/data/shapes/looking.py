"""Steps: what one looks at before an answer, one object after the other, and whether it is the one that is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from plait.data.shapes.naming import Named, value_of
from plait.data.shapes.world import Object, Scene

ORDER = ("place", "size", "colour", "shape")
YES, NO, FIRST, SECOND = "yes", "no", "first", "second"


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for, said again before each object, and what is said of each.

    A small model learns to compare what stands side by side far sooner than what stands sentences apart.
    """

    words: str
    verdict: Callable[[Object], str]


ANY = Sought("", lambda item: YES)


def look(scene: Scene, attributes: Named, sought: Sought) -> tuple[str, ...]:
    """ "red? top blue circle no": the objects in the order of reading, by place and attributes, what is said of each.

    The place is what the other attributes of an object are looked up by, so that none is taken from another object.
    """
    asked = [f"{sought.words}?"] if sought.words else []
    return tuple(
        " ".join([*asked, *_facts(item, attributes | {"place"}), sought.verdict(item)]) for item in scene.in_order
    )


def like(meant: Object, named: Named) -> Sought:
    """Each object with these attributes of one."""
    facts = _facts(meant, named)
    return Sought(" ".join(facts), lambda item: YES if _facts(item, named) == facts else NO)


def either(first: Object, one: Named, second: Object, two: Named) -> Sought:
    """Two objects, each named by attributes of its own."""
    words = " or ".join(" ".join(_facts(item, named)) for item, named in ((first, one), (second, two)))
    return Sought(words, lambda item: FIRST if item is first else SECOND if item is second else NO)


def valued(attribute: str, value: str, other: str | None = None) -> Sought:
    """Each object with the value; given another value, which of the two it has."""
    if other is None:
        return Sought(value, lambda item: YES if value_of(item, attribute) == value else NO)
    said = {value: FIRST, other: SECOND}
    return Sought(f"{value} or {other}", lambda item: said.get(value_of(item, attribute), NO))


def _facts(item: Object, attributes: Iterable[str]) -> list[str]:
    return [value_of(item, name) for name in ORDER if name in attributes]
