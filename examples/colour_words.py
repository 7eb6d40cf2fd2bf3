"""A system in one file: it reads and writes pictures as words for colours, one for each of 8 x 8 cells.

    plait train examples/colour_words.py:recipe --out runs/colours
    plait generate runs/colours --system examples/colour_words.py:ColourWords --draw --prompt "a red ring at the top."

Laid out: `<end> text <picture> colours text ... <end>`, an `<end>` behind each turn. Text is bytes, colours 6 x 6 x 6.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from plait import Blank, Document, Image, Sampling, Settings, Text, Turn, images
from plait.config import from_plain
from plait.data.packs import Data
from plait.data.shapes import Shapes
from plait.errors import DocumentError
from plait.evaluate import find
from plait.nn.attention import SelfAttention
from plait.nn.blocks import MLP, Block, Decoder, SquaredReLU
from plait.nn.norms import plain_layer_norm
from plait.nn.positions import LearnedPositions, Rotary
from plait.objectives.tokens import NextToken
from plait.sequence import Sequence, picture, tokens
from plait.systems.base import Format, Hidden, Interleaved, Next, System, sight, square
from plait.train.stage import Optimiser, Probe, Recipe, Schedule, Stage, Update

END, PICTURE, COLOUR, BYTE, IDS = 0, 1, 2, 218, 474  # the first id of each kind, and how many there are
BLANK = Blank("image")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Cells a side; width and depth of the decoder."""

    side: int = 8
    width: int = 128
    depth: int = 3


@dataclass
class ColourFormat(Format):
    """The half without weights: how documents are laid out, and what may be said when."""

    side: int
    max_length = 1024

    def layout(self, document, *, open=False, generator=None):
        drawn = open and document.pieces.count(BLANK) == 1 and document.pieces[-1] == BLANK
        spans = [tokens([END])]
        for said in document.turns or [Turn("assistant", document.pieces)]:
            weight = float(said.role == "assistant")  # what others say is no target
            spans += [span for piece in said.pieces for span in self._spans(piece, drawn, weight)]
            spans.append(tokens([END], weight=weight))
        return Sequence(tuple(spans[:-1] if open and (drawn or not document.turns) else spans))

    def _spans(self, piece, drawn, weight):
        if isinstance(piece, Text):
            return [tokens((BYTE + byte for byte in piece.text.encode()), weight=weight)]
        if isinstance(piece, Image):
            return [tokens([PICTURE], weight=weight), picture("colours", piece, self.side**2, weight=weight)]
        if piece == BLANK and drawn:
            return [tokens([PICTURE])]
        raise DocumentError(f"no place for {piece}: give text and pictures, and a blank picture at the end of a prompt")

    def grammar(self, document, max_images):
        colours = torch.isin(torch.arange(IDS), torch.arange(COLOUR, BYTE))
        text = Next(kind="text", head="token", allowed=~colours, ends=frozenset([END, PICTURE]))
        image = Next(kind="image", head="code", allowed=colours, length=self.side**2)
        begun = bool(self.layout(document, open=True).ids()[-1] == PICTURE)
        return Interleaved(text=text, picture=image, begin=PICTURE, begun=begun, max_images=max_images)

    def read_text(self, run):
        return bytes(id - BYTE for id in run.ids if id >= BYTE).decode(errors="replace")

    def preprocess(self, train=False, fast=False):
        return {"colours": square(self.side, fast)}  # (3, side, side) in [-1, 1]


class ColourWords(System):
    """The half with weights: a vector for each id and for each cell, and a decoder."""

    def __init__(self, config):
        super().__init__()
        self.config, self.format = config, ColourFormat(config.side)
        self.embed = nn.Embedding(IDS, config.width)
        self.places = LearnedPositions(config.side**2, config.width, offset=1)  # row 0: no picture
        self.decoder = Decoder([_block(config.width) for _ in range(config.depth)], plain_layer_norm(config.width))
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, batch, cache=None):
        own = {reader: self.read(slots.pictures) for reader, slots in batch.slots.items()}
        x = self.embed(batch.filled(own)) + self.places(batch.place)  # (b, t, c)
        return Hidden(states=self.decoder(x, batch.position, sight(batch, cache)), own=own)

    def read(self, pictures):  # (m, 3, side, side) -> (m, n)
        red, green, blue = (3 * pictures + 3).long().clamp(0, 5).flatten(2).unbind(1)
        return COLOUR + 36 * red + 6 * green + blue

    def write(self, runs):
        colour = torch.tensor([run.ids for run in runs]).view(-1, self.config.side, self.config.side) - COLOUR
        steps = torch.stack([colour // 36, colour // 6 % 6, colour % 6], dim=1)  # (m, 3, side, side)
        return [Image(images.from_array(one.numpy())) for one in (2 * steps - 5) / 6]

    def unembed(self, hidden):
        return nn.functional.linear(hidden, self.embed.weight)

    @property
    def heads(self):
        return {"token": self.unembed, "code": self.unembed}

    @property
    def chance(self):
        return dict.fromkeys(("code", "token"), math.log(IDS))

    @classmethod
    def from_files(cls, config, directory):
        return cls(from_plain(Config, config))


def _block(width):
    attention = SelfAttention(width, width // 32, rotation=Rotary(32, 1000.0))
    return Block(plain_layer_norm(width), attention, plain_layer_norm(width), MLP(width, 4 * width, SquaredReLU()))


def recipe(steps: int = 500) -> Recipe:
    """Learns to say what a picture shows, and to draw what a caption says, on scenes of one object."""
    scenes = Shapes(seed=1, length=1_000_000, objects=(1,), mix={"describe": 0.65, "draw": 0.35})
    muon = Optimiser(train=("decoder.*",), kind="muon", lr=0.02, betas=(0.95, 0.0), weight_decay=0.01)
    adamw = Optimiser(train=("embed.*", "places.*"), lr=6e-3)
    update = Update(objective=NextToken(kinds=("token", "code")), optimisers=(muon, adamw))
    data = Data(sources={"scenes": scenes}, rows=8, length=480)
    stage = Stage(
        name="train", data=data, updates=(update,), steps=steps, schedule=Schedule(warmup=30), precision="bf16"
    )
    asked = Document(["a large red circle at the top left.", BLANK])
    return Recipe(
        name="colour_words",
        build=functools.partial(ColourWords, Config()),
        stages=(stage,),
        probes=(Probe(prompt=asked, settings=Settings(max_new_tokens=0, image=Sampling(temperature=0.3))),),
        tasks=tuple(find(f"{Path(__file__).with_name('colour_and_place.py')}:tasks")),
    )
