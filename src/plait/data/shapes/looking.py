"""Steps: what one looks at before an answer, one object after the other, and whether it is the one that is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plait.data.shapes.naming import Named, value_of
from plait.data.shapes.world import Object, Scene

ORDER = ("size", "colour", "shape", "place")
YES, NO, FIRST, SECOND = "yes", "no", "first", "second"


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for: values of attributes, and what is said of each object."""

    values: Mapping[str, tuple[str, ...]]
    verdict: Callable[[Object], str]


ANY = Sought({}, lambda item: YES)


def look(scene: Scene, sought: Sought, *also: str) -> tuple[str, ...]:
    """ "top small large circle circle red no": a large red circle at the top is not the small circle that is sought.

    The objects in the order of reading. Of each, its place, by which the rest is looked up; each value that is sought
    and, beside it, what the object has, as a small model learns to compare neighbours far sooner than what stands
    sentences apart; the attributes of `also`; and the verdict.
    """

    def step(item: Object) -> list[str]:
        words = [item.place]
        for name in ORDER:
            if name in sought.values:
                words += [*sought.values[name], value_of(item, name)]
        words += [value_of(item, name) for name in also if name not in sought.values and name != "place"]
        return [*words, sought.verdict(item)]

    return tuple(" ".join(step(item)) for item in scene.in_order)


def like(meant: Object, named: Named) -> Sought:
    """Each object with these attributes of one."""

    def verdict(item: Object) -> str:
        return YES if all(value_of(item, name) == value_of(meant, name) for name in named) else NO

    return Sought({name: (value_of(meant, name),) for name in named}, verdict)


def either(first: Object, one: Named, second: Object, two: Named) -> Sought:
    """Two objects, each named by attributes of its own."""
    names = ((first, one), (second, two))
    values = {name: tuple(value_of(item, name) for item, named in names if name in named) for name in one | two}
    return Sought(values, lambda item: FIRST if item is first else SECOND if item is second else NO)


def valued(attribute: str, value: str, other: str | None = None) -> Sought:
    """Each object with the value; given another value, which of the two it has."""
    said = {value: YES} if other is None else {value: FIRST, other: SECOND}
    return Sought({attribute: tuple(said)}, lambda item: said.get(value_of(item, attribute), NO))
