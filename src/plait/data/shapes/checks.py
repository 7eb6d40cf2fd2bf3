"""Judges that kinds of case share."""

from __future__ import annotations

from dataclasses import dataclass

from plait.data.shapes.questions import plain
from plait.document import Document


@dataclass(frozen=True, slots=True)
class Says:
    """Worth 1 when the reply's text is the answer, up to case, outer white space and a final dot; else 0."""

    answer: str

    def __call__(self, reply: Document) -> float:
        """The worth of the reply."""
        return float(plain(reply.text) == plain(self.answer))
