"""Judges that kinds of case share."""

from __future__ import annotations

import pytest

from plait.data.shapes.checks import Says
from plait.document import Document


@pytest.mark.parametrize(
    ("reply", "worth"), [("red circle", 1), (" Red circle. ", 1), ("red", 0), ("", 0), ("red circle and ring", 0)]
)
def test_says(reply, worth):
    assert Says("red circle")(Document(reply)) == worth
    assert Says("Red circle.")(Document(reply)) == worth
