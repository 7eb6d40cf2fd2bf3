from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from plait.errors import ConfigError
from plait.evaluate.counted import Counted


@dataclass(frozen=True, kw_only=True)
class Sheep(Counted):
    what: ClassVar[str] = "sheep"
    count: int = 7
    black: bool = False


def test_at_most_so_many_and_at_least_one() -> None:
    assert Sheep.at_most(None) == Sheep.at_most(9) == Sheep() and Sheep.at_most(3).count == 3
    assert Sheep.at_most(3, black=True) == Sheep(count=3, black=True)
    with pytest.raises(ConfigError, match="0 sheep: give at least 1"):
        Sheep(count=0)
