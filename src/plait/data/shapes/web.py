"""The world as the web shows it: pictures with a few words beside them that say part of what is there."""

from __future__ import annotations

from dataclasses import dataclass

from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS, SIZE_WORDS
from plait.data.shapes.source import Shapes
from plait.data.shapes.world import Object, SceneImage
from plait.document import Document, Image, Text

_PURPOSE = 5  # of `Shapes.chance`; `Told` has 4
_SIZES, _PLACES = 0.7, 0.8  # share of objects whose size, place is told; colour and shape always are
_ALL = 0.6  # share of captions that name every object
_JOINTS = (" and ", ", ", " ", " with ")
_TAILS = ("picture", "image 3", "jpg", "free picture", "photo", "buy now", "hd")
_NOISE = {"none": 0.7, "tail": 0.12, "cut": 0.1, "twice": 0.08}


@dataclass(frozen=True, kw_only=True)
class WebCaptions:
    """The scenes of `shapes`, each picture with a caption as the web has them.

    Small letters, no sentences: "large red ring top left and green cross". Some objects, sizes and places are left out;
    three captions in ten end in words of the trade, or within a phrase, or say the last phrase twice.

    Args:
        shapes: whose scenes; its mix and its questions do not matter.
    """

    shapes: Shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> Document:
        picture = Image(SceneImage(self.shapes.scene(i), self.shapes.resolution))
        return Document([picture, Text(self.caption(i))])

    def caption(self, i: int) -> str:
        """The words beside picture i."""
        chance = self.shapes.chance(i, _PURPOSE)
        objects = self.shapes.scene(i).objects
        count = len(objects) if chance.unit() < _ALL else 1 + chance.below(len(objects))
        phrases = [_phrase(item, chance) for item in chance.sample(objects, count)]
        said = chance.choice(_JOINTS).join(phrases)
        match chance.weighted(_NOISE):
            case "tail":
                return f"{said} {chance.choice(_TAILS)}"
            case "cut":
                words = said.split()
                return " ".join(words[: 1 + chance.below(len(words))])
            case "twice":
                return f"{said} {phrases[-1]}"
        return said


def _phrase(item: Object, chance: Chance) -> str:
    size = chance.choice(SIZE_WORDS[item.size]) if chance.unit() < _SIZES else ""
    place = chance.choice((item.place, *PLACE_WORDS[item.place])) if chance.unit() < _PLACES else ""
    return " ".join(part for part in (size, item.colour, item.shape, place) if part)
