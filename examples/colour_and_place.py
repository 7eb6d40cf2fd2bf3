"""A metric in one file: of scenes of one object, are colour and place right, in words and in drawings?

    plait evaluate runs/colours --system examples/colour_words.py:ColourWords --task examples/colour_and_place.py:tasks
    plait evaluate runs/demo --task examples/colour_and_place.py:tasks --limit 50

A task is any object with a `name` and a method `run(model)` that gives scores.
"""

from dataclasses import dataclass

from plait import Blank, Document, Image, Sampling, Settings, Turn
from plait.data.shapes import Shapes, language, oracle


@dataclass(frozen=True)
class Read:
    """The picture is described in words, which the grammar of captions reads back."""

    scenes: Shapes
    name = "read"

    def run(self, model):
        pictures = [Image(example.scene.draw(32)) for example in self.scenes.examples()]
        prompts = [Document([Turn("user", [picture, "describe the picture."])]) for picture in pictures]
        replies = model.generate(prompts, Settings(max_new_tokens=96))
        return scores(self.scenes, [language.parse(reply.text) or () for reply in replies])


@dataclass(frozen=True)
class Draw:
    """The caption is drawn; the oracle reads the drawing back."""

    scenes: Shapes
    name = "draw"

    def run(self, model):
        prompts = [Document([example.caption, Blank("image")]) for example in self.scenes.examples()]
        replies = model.generate(prompts, Settings(max_new_tokens=0, image=Sampling(temperature=0.3)))
        return scores(self.scenes, [oracle.read(reply.document.images[0].open()).content for reply in replies])


def scores(scenes, found):
    """Shares of the scenes of which exactly one object was found, with the right colour, the right place, both."""
    asked = [example.scene.content[0] for example in scenes.examples()]
    ones = [objects[0] if len(objects) == 1 else (None,) * 4 for objects in found]
    colour = [wanted[0] == one[0] for wanted, one in zip(asked, ones, strict=True)]
    place = [wanted[3] == one[3] for wanted, one in zip(asked, ones, strict=True)]
    both = [a and b for a, b in zip(colour, place, strict=True)]
    return {"colour": mean(colour), "place": mean(place), "both": mean(both), "n": len(asked)}


def mean(values):
    return sum(values) / len(values)


def tasks(limit=None):
    """Both, on at most `limit` scenes that training never shows; 100 by default."""
    scenes = Shapes(seed=7, length=limit or 100, objects=(1,), split="test")
    return Read(scenes), Draw(scenes)
