"""KOSMOS-1 (arXiv 2302.14045): pictures as 64 vectors each, anywhere among the words of a language model.

    pixels ─▶ CLIP ViT-L ─▶ tokens of length 1 ─▶ resampler ─▶ 64 vectors ──┐
                                                                            ├─▶ × √c ─▶ MAGNETO decoder ─▶ words
    text ──────────────────────────────────────▶ embedding ─────────────────┘

Neither its code nor its weights were released; KOSMOS-2's are, which share all parts. Where they differ from the paper,
in positions alone, the configuration says which is meant: xPos as published, sinusoids for the weights that exist.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from plait import images
from plait.config import from_plain
from plait.document import Document, Image, Piece, Text
from plait.errors import ConfigError, DocumentError
from plait.nn.attention import KVCache
from plait.nn.clip import CLIP_VIT_L14, clip_vit
from plait.nn.magneto import Magneto, MagnetoConfig
from plait.nn.resampler import Resampler
from plait.nn.vit import VITConfig
from plait.sequence import Batch, Prepare, Sequence, Slot, Span, compact, tokens
from plait.systems.base import Emitted, Format, Grammar, Hidden, Next, Stop, System, sight
from plait.text.pieces import FairseqPieces

READER = "vision"
TOKENIZER = "sentencepiece.bpe.model"  # its published name; it is a unigram model
MASK, IMAGE, IMAGE_END, LINE = "<mask>", "<image>", "</image>", "</line>"

_OWN = (MASK, "</doc>", IMAGE, IMAGE_END, "</chunk>", LINE)
_GROUNDING = ("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>", "<grounding>")
SYMBOLS = {
    "kosmos1": _OWN,
    "kosmos2": (*_OWN, *_GROUNDING, *(f"<patch_index_{i:04d}>" for i in range(1024))),
}
"""Vocabulary -> the symbols behind the pieces, in order. KOSMOS-2's begin with KOSMOS-1's."""


@dataclass(frozen=True, kw_only=True)
class KOSMOS1Config:
    """The sizes, and how documents are written."""

    vision: VITConfig
    language: MagnetoConfig
    latents: int = 64
    """Vectors of a picture."""
    symbols: Literal["kosmos1", "kosmos2"] = "kosmos1"
    """A name in `SYMBOLS`."""
    predict_image: bool = True
    """Whether text predicts the `<image>` behind it. The paper says that discrete tokens are predicted; the released
    program's rule for captions, applied to pages, agrees."""
    over_white: bool = True
    """Alpha is laid over white; False drops it, as the released programs do."""


_DECODER = MagnetoConfig(vocabulary=64_007, width=2048, depth=24, heads=32, hidden=8192, dropout=0.1)
KOSMOS1_1_6B = KOSMOS1Config(vision=CLIP_VIT_L14, language=_DECODER)
KOSMOS2_1_6B = replace(
    KOSMOS1_1_6B,
    language=replace(_DECODER, vocabulary=65_037, positions="sinusoidal"),
    symbols="kosmos2",
    over_white=False,
)
"""The successor, whose weights were released: the same parts, more symbols, other positions."""
TINY = KOSMOS1Config(
    vision=VITConfig(image_size=32, patch=8, width=128, depth=4, heads=4, hidden=512, eps=1e-5),
    language=MagnetoConfig(vocabulary=512, width=128, depth=4, heads=4, hidden=512, length=512),
    latents=8,
)
SIZES = {"tiny": TINY, "1.6b": KOSMOS1_1_6B, "kosmos2": KOSMOS2_1_6B}


class KOSMOS1(System):
    """The whole system."""

    format: KOSMOS1Format

    def __init__(self, config: KOSMOS1Config, text: FairseqPieces) -> None:
        super().__init__()
        self.config = config
        self.format = KOSMOS1Format(config, text)
        width, seen = config.language.width, config.vision.width
        self.vision = clip_vit(config.vision, nn.LayerNorm(seen, eps=config.vision.eps))
        self.resampler = Resampler(config.latents, seen, width, config.language.heads)
        self.language = Magneto(config.language)
        with torch.no_grad():
            self.language.embed.weight[text.pad].zero_()

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Vectors of the pictures among embedded words, then the language model."""
        own = {reader: self.read(slots.pictures) for reader, slots in batch.slots.items()}
        x = batch.embedded(self.language.embed, own)  # (b, t, c)
        return Hidden(states=self.language(x, batch.position, sight(batch, cache)), own=own)

    def read(self, pixels: Float[Tensor, "m 3 side side"]) -> Float[Tensor, "m n c"]:
        """The vectors of pictures."""
        return self.resampler(self.look(pixels).to(self.resampler.queries.dtype))

    def look(self, pixels: Float[Tensor, "m 3 side side"]) -> Float[Tensor, "m s e"]:
        """The tower's tokens, the class token among them, each of length 1 (released code)."""
        return nn.functional.normalize(self.vision(pixels.to(self.vision.class_token.dtype)), dim=-1)

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The embedding table itself."""
        return {"token": self.language.embed.logits}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """None is ever asked for: the grammar knows text alone."""
        return []

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(vocabulary)."""
        return {"token": math.log(self.config.language.vocabulary)}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> KOSMOS1:
        """From a plain `KOSMOS1Config` and the tokenizer."""
        sizes = from_plain(KOSMOS1Config, config)
        return cls(sizes, FairseqPieces.read(directory / TOKENIZER, SYMBOLS[sizes.symbols]))


class KOSMOS1Format(Format):
    """How KOSMOS-1 lays documents out: `<s>` words `<image>` vectors `</image>` words ... `</s>`."""

    def __init__(self, config: KOSMOS1Config, text: FairseqPieces) -> None:
        if len(text) > config.language.vocabulary:
            raise ConfigError(
                f"{len(text)} pieces and symbols for a vocabulary of {config.language.vocabulary}: raise it"
            )
        self.config = config
        self.text = text
        self.image, self.image_end, self.line = (text.id(symbol) for symbol in (IMAGE, IMAGE_END, LINE))

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """`<s>`, then the pieces, each text encoded by itself, and `</s>`, which an open document lacks.

        Words and `</s>` are predicted, and `<image>` behind words if `predict_image` says so; `</image>`, vectors, and
        what stands right behind `<s>` in a document with pictures are not (released code: weights go by the element
        that predicts). In documents of text alone, `</line>` stands between lines; elsewhere a line break is a space.

        Of a conversation, the assistant's turns are predicted, with a `</s>` behind each; an open one whose last turn
        is the assistant's goes on there. Documents before it stand in front, without a `</s>`: few-shot prompts.
        """
        before = [piece for one in document.before for piece in one.pieces]
        pictured = any(isinstance(piece, Image) for piece in (*before, *document.pieces))
        spans = [tokens([self.text.bos], weight=0), *self._spans(before, pictured, read=True)]
        end = tokens([self.text.eos])
        if document.turns:
            for i, turn in enumerate(document.turns):
                said = turn.role == "assistant"
                if said and any(not isinstance(piece, Text) for piece in turn.pieces):
                    raise DocumentError("KOSMOS-1 writes text alone: leave pictures out of the assistant's turns")
                spans += self._spans(turn.pieces, pictured, read=not said)
                spans += [end] if said and not (open and i + 1 == len(document.turns)) else []
        else:
            spans += self._spans(document.pieces, pictured, open=open)
            spans += [] if open else [end]
        return Sequence(compact(_first_read(spans) if pictured else spans), "prompt" if open else "document")

    def _spans(self, pieces: Items[Piece], pictured: bool, read: bool = False, open: bool = False) -> list[Span]:
        """Of pieces that follow each other; `read`: none is predicted."""
        weight = 0.0 if read else 1.0
        if not pictured:
            return [tokens(self._lines(pieces, open), weight=weight)]
        spans: list[Span] = []
        for piece in pieces:
            if isinstance(piece, Image):
                begin = tokens([self.image], weight=weight * self.config.predict_image)
                spans += [begin, Span(Slot(READER, piece), self.config.latents), tokens([self.image_end], weight=0)]
            else:
                spans.append(tokens(self.text_ids(_words(piece)), weight=weight))
        return spans

    def _lines(self, pieces: Items[Piece], open: bool) -> Iterator[int]:
        """Texts line by line; a line break at the end counts where something is to follow."""
        said = broken = False
        for piece in pieces:
            for i, line in enumerate(_words(piece).split("\n")):
                broken |= said and i > 0
                if ids := self.text_ids(line):
                    yield from (self.line, *ids) if broken else ids
                    said, broken = True, False
        if broken and open:
            yield self.line

    def blocks(self, documents: Iterable[Sequence], size: int) -> Iterator[Sequence]:
        """Texts as the released program packs them: blocks of at most `size` elements, whole lines behind `<s>`.

        A line that does not fit begins the next block; one that fits in none is cut, and what ends it is lost.

        Raises:
            DocumentError: a document holds anything but text.
        """
        block = [self.text.bos]
        for document in documents:
            if document.pictures:
                raise DocumentError("a block of text has no place for pictures: leave them out")
            ids = document.ids()[1:]
            for line in np.split(ids, np.flatnonzero(ids[:-1] == self.line) + 1):
                kept = line[: size - 1].tolist()
                if len(block) + len(kept) > size:
                    yield Sequence((tokens(block),), "block")
                    block = [self.text.bos]
                block += kept
        if len(block) > 1:
            yield Sequence((tokens(block),), "block")

    def counted_ids(self, prompt: Sequence) -> tuple[int, ...]:
        """Vectors count as the ids from 4 on, which stand in their places in the released program."""
        places = [np.arange(4, 4 + span.length) if isinstance(span.fill, Slot) else span.fill for span in prompt.spans]
        return tuple(np.concatenate(places).tolist())

    def text_ids(self, text: str) -> tuple[int, ...]:
        """As one segment."""
        return tuple(self.text.encode(text))

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """`captions`, `answers` and `names` as in the paper; `kosmos2` and `kosmos2_released` as in KOSMOS-2's program.

        An answer ends with `</s>`, or where a picture would begin, as behind the answers of few-shot prompts.

        `kosmos2_released` also does what that one does at the first word (`plait.generate.beams.FairseqSearch`). No
        more is said than a quarter of the positions.
        """
        most = self.max_length // 4
        fairseq = {"search": "fairseq", "max_new_tokens": min(most, 500)}
        return {
            "captions": {**fairseq, "beams": 5, "max_new_tokens": min(most, 64)},
            "answers": {"max_new_tokens": min(most, 64), "stop": ((self.image,),)},
            "names": {"beams": 2, "max_new_tokens": min(most, 16)},
            "kosmos2": {**fairseq, "no_repeat_ngram": 3},
            "kosmos2_released": {**fairseq, "no_repeat_ngram": 3, "search": "fairseq_released"},
        }

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """Text up to `</s>`: anything but pads."""
        ids = torch.arange(self.config.language.vocabulary)
        allowed = (ids < len(self.text)) & (ids != self.text.pad)
        step = Next(kind="text", head="token", allowed=allowed, ends=frozenset([self.text.eos]))
        return lambda emitted: Stop("end") if emitted else step

    def read_text(self, run: Emitted) -> str:
        """Lines are broken, KOSMOS-2's symbols are written as they are named, all others left out."""
        return self.text.decode(run.ids, self._shown)

    @functools.cached_property
    def _shown(self) -> dict[int, str]:
        grounding = self.text.symbols[len(_OWN) :]
        return {self.line: "\n", **{self.text.id(symbol): symbol for symbol in grounding}}

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """To a square, bicubic, with CLIP's mean and deviation: in training the centre, else all of it squashed.

        So do the released programs; there is no fast way.
        """
        size = self.config.vision.image_size
        write = functools.partial(_write, train=train, over_white=self.config.over_white)
        return {READER: Prepare((3, size, size), write)}

    @property
    def max_length(self) -> int:
        """The positions that the language model was trained for."""
        return self.config.language.length

    def write_files(self, directory: Path) -> None:
        """The tokenizer."""
        self.text.write(directory / TOKENIZER)


def _write(image: Image, out: NDArray[np.float32], train: bool, over_white: bool) -> None:
    size, opened = out.shape[-1], image.open(over_white)
    square = images.clip_square(opened, size, ties_even=True) if train else images.squash(opened, size)
    images.to_clip(square, out)


def _words(piece: Piece) -> str:
    if not isinstance(piece, Text):
        raise DocumentError(f"KOSMOS-1 has no place for a {type(piece).__name__}: give pictures and text")
    return piece.text


def _first_read(spans: list[Span]) -> list[Span]:
    """The same spans, of which the first element behind `<s>` is not predicted."""
    laid = Sequence(tuple(spans))
    return [*laid.cut(0, 2).without_targets().spans, *laid.cut(2, len(laid)).spans]


def build(size: str) -> KOSMOS1:
    """Random weights, with pieces learned from a few lines: for trying shapes and speeds.

    Raises:
        ConfigError: no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"KOSMOS-1 comes as {', '.join(SIZES)}, not {size!r}")
    config = SIZES[size]
    return KOSMOS1(config, FairseqPieces.train(_LINES, 96, SYMBOLS[config.symbols]))


_LINES = (
    "An image of a small red fox.",
    "Question: what is the animal doing? Answer: it sleeps.",
    "Is it correct? Yes",
)
