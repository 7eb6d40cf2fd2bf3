"""The kinds of case that are about more than one picture, or about what is written in one."""

from __future__ import annotations

from plait.data.shapes.cases import Cases
from plait.data.shapes.episodes import Episodes
from plait.data.shapes.matrices import Matrices
from plait.data.shapes.pages import Pages
from plait.data.shapes.stories import Stories
from plait.data.shapes.videos import Videos
from plait.data.shapes.words import Opinions, Words

PICTURED: dict[str, type[Cases]] = {
    kind.name: kind for kind in (Videos, Stories, Matrices, Words, Opinions, Pages, Episodes)
}
"""By name."""
