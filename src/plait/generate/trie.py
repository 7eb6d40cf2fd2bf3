"""Replies that are one of several texts: which ids may follow those that were said, along a tree of all texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from plait.errors import ConfigError


@dataclass(eq=False)
class _Node:
    after: dict[int, _Node] = field(default_factory=dict)
    ends: bool = False


class Trie:
    """The texts as ids.

    Args:
        texts: ids of each; none may be empty.
        ends: ids that end a reply.

    Raises:
        ConfigError: no texts, or an empty one.
    """

    def __init__(self, texts: Iterable[Items[int]], ends: Collection[int]) -> None:
        self._root = _Node()
        self._ends = sorted(ends)
        self.longest = 0
        for ids in texts:
            if not ids:
                raise ConfigError("an empty text to choose from: leave it out")
            node = self._root
            for id in ids:
                node = node.after.setdefault(id, _Node())
            node.ends = True
            self.longest = max(self.longest, len(ids))
        if not self.longest:
            raise ConfigError("0 texts to choose from: give at least one")

    def allowed(self, said: Items[int]) -> list[int]:
        """What may come next: ids that go on with a text, and those that end one that is whole.

        Behind ids that begin none, as those of a beam that has no way to go, it is the end.
        """
        node: _Node | None = self._root
        for id in said:
            node = node.after.get(id) if node else None
        if node is None:
            return self._ends
        return [*node.after, *(self._ends if node.ends else [])]
