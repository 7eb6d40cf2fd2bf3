"""Objects: how they lie, and what changes when one thing does."""

from __future__ import annotations

import pytest

from plait.data.shapes.world import OPPOSITE, PLACES, VALUES, Object

NOISY = Object("red", "circle", "large", "top left", dx=0.01, dy=-0.01, scale=1.02, shade=0.03)


@pytest.mark.parametrize("attribute", VALUES)
def test_changed_keeps_all_else(attribute):
    for value in VALUES[attribute]:
        other = NOISY.changed(attribute, value)
        assert getattr(other, attribute) == value
        assert other.changed(attribute, getattr(NOISY, attribute)) == NOISY


def test_relations_are_by_column_or_row_alone():
    for place in PLACES:
        for anchor in PLACES:
            item, other = Object("red", "ring", "small", place), Object("blue", "ring", "small", anchor)
            assert item.lies("left of", other) == (item.column < other.column)
            assert item.lies("above", other) == (item.row < other.row)
            for relation, opposite in OPPOSITE.items():
                assert item.lies(relation, other) == other.lies(opposite, item)
