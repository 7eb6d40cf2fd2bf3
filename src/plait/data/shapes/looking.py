"""Steps: what one looks at before an answer, one object after the other, and whether it is the one that is meant."""

from __future__ import annotations

from collections.abc import Callable

from plait.data.shapes.naming import Named, phrase, value_of
from plait.data.shapes.world import Object, Scene

ORDER = ("size", "colour", "shape", "place")
YES, NO, FIRST, SECOND = "yes", "no", "first", "second"


def look(scene: Scene, attributes: Named, said: Callable[[Object], str]) -> tuple[str, ...]:
    """ "small red circle no": the objects in the order of reading, by these attributes, and what is said of each."""
    shown = [name for name in ORDER if name in attributes]
    return tuple(" ".join([*(value_of(item, name) for name in shown), said(item)]) for item in scene.in_order)


def the(meant: Object) -> Callable[[Object], str]:
    """Yes for this object alone."""
    return lambda item: YES if item is meant else NO


def either(first: Object, second: Object) -> Callable[[Object], str]:
    """Which of the two it is, if any."""
    return lambda item: FIRST if item is first else SECOND if item is second else NO


def called(name: str, named: Named) -> Callable[[Object], str]:
    """Yes for each object that this is a name of."""
    return lambda item: YES if phrase(item, named) == name else NO


def valued(attribute: str, value: str, other: str | None = None) -> Callable[[Object], str]:
    """Yes for each object with the value; given another value, which of the two it has."""
    said = {value: YES} if other is None else {value: FIRST, other: SECOND}
    return lambda item: said.get(value_of(item, attribute), NO)
