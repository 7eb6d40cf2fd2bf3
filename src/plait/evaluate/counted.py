"""Tasks on a number of held-out items of the shapes world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from plait.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A task on items of the world, drawn by a seed.

    Args:
        count: items.
        resolution: pixels a side.

    Raises:
        ConfigError: no items.
    """

    what: ClassVar[str] = "items"
    """Items by their name, for messages."""
    seed: int = 20240
    count: int = 200
    resolution: int = 32

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"{self.count} {self.what}: give at least 1")

    @classmethod
    def at_most(cls, limit: int | None, **more: Any) -> Self:
        """The default, with at most `limit` items; `more` are further fields."""
        return cls(count=min(cls.count, limit or cls.count), **more)
