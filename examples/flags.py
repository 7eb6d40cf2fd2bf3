"""Data in one file: flags of three stripes and what they are called, for the tiny CM3Leon.

    plait train examples/flags.py:recipe --out runs/flags
    plait generate runs/flags --draw --prompt "a flag of blue, white and red." --out out

A source is any object with `__len__` and `__getitem__` that gives documents and that can be pickled, so that other
processes can read it too (`--set stages.pretrain.data.workers=2`).
"""

import functools
import itertools

import numpy as np
import PIL.Image

from plait import Document, Image
from plait.recipes.cm3leon import build, pretrain_stage, tokenizer_stage
from plait.systems.cm3leon import TINY
from plait.train.stage import Recipe

COLOURS = {
    "red": (200, 30, 40),
    "white": (250, 250, 250),
    "blue": (20, 50, 160),
    "green": (0, 130, 70),
    "gold": (250, 200, 40),
    "black": (15, 15, 15),
}


class Flags:
    """Every flag of three colours, by number."""

    def __init__(self):
        self.flags = list(itertools.product(COLOURS, repeat=3))

    def __len__(self):
        return len(self.flags)

    def __getitem__(self, i):
        stripes = np.array([[COLOURS[name] for name in self.flags[i]]], dtype=np.uint8)  # (1, 3, 3)
        picture = PIL.Image.fromarray(stripes).resize((32, 32), PIL.Image.Resampling.NEAREST)
        return Document(["a flag of {}, {} and {}.".format(*self.flags[i]), Image(picture)])


def recipe():
    """CM3Leon's two stages on flags."""
    source = Flags()
    return Recipe(
        name="flags",
        build=functools.partial(build, TINY, source),
        stages=(
            tokenizer_stage(TINY, {"flags": source}, steps=200),
            pretrain_stage(TINY, {"flags": source}, steps=200),
        ),
    )
