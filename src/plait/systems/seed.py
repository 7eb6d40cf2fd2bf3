"""SEED-LLaMA (arXiv 2310.01218): pictures as 32 words of a language model's vocabulary, read and written alike.

    picture ──SEED tokenizer──▶ 32 codes ┐
                                         ├─▶ <s> words <img> codes </img> words </s> ─▶ LLaMA ─▶ next word or code
    text ──────SentencePiece──▶ words ───┘                                                 └─▶ codes ──unCLIP──▶ picture

The codes are words of their own, `<img_00000>` and so on, between `<img>` and `</img>`. What the paper leaves open is
as in the released code. Pretrained, the model goes on with documents; tuned, it answers in conversations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.config import from_plain
from plait.document import Blank, Document, Image, Piece, Video
from plait.errors import CheckpointError, ConfigError
from plait.nn import lora
from plait.nn.attention import KVCache
from plait.nn.llama import LLAMA2_7B, LLAMA_7B, LLAMA_13B, LLaMA, LLaMAConfig
from plait.nn.lora import LoRAConfig
from plait.sequence import Batch, Prepare, Sequence, Span, compact, picture, tokens
from plait.systems import seed_tokenizer
from plait.systems.base import (
    Adaptable,
    Drawing,
    Emitted,
    Format,
    Grammar,
    Guidance,
    Hidden,
    Interleaved,
    Next,
    Similarity,
    Streams,
    sight,
)
from plait.systems.seed_tokenizer import READER, SeedTokenizer, SeedTokenizerConfig, SeedTokenizerFormat
from plait.text.dialogues import DIALOGUES, spoken
from plait.text.pieces import SentencePiece
from plait.text.requests import DRAW
from plait.text.templates import Segment

TOKENIZER, ADDED = "tokenizer.model", "added_tokens.json"
BEGIN, END, CODE = "<img>", "</img>", "<img_{:05d}>"
PLACE = "<image>"
"""What stands for a picture in a reply that is told as one string."""
PRETRAINED = 32_000
"""Rows of LLaMA's own tables, before the codes."""


@dataclass(frozen=True, kw_only=True)
class SeedConfig:
    """The sizes, and how prompts are written.

    Raises:
        ConfigError: no such dialogue.
    """

    tokenizer: SeedTokenizerConfig
    language: LLaMAConfig
    """Its vocabulary has the pieces, the codes, and the two that stand around them."""
    dialogue: str = "vicuna"
    """A name in `plait.text.dialogues.DIALOGUES`."""
    strips: bool = True
    """White space beside a picture is taken away, as by tokenizers whose files name `<img>` as a plain string."""
    lora: LoRAConfig | None = None
    """Adapters on the language model, while it is trained with them."""

    def __post_init__(self) -> None:
        if self.dialogue not in DIALOGUES:
            raise ConfigError(f"no dialogue {self.dialogue!r}; there are {', '.join(DIALOGUES)}")


def with_codes(config: LLaMAConfig, codes: int = 8192) -> LLaMAConfig:
    """A language model's sizes with the words of pictures."""
    return replace(config, vocabulary=config.vocabulary + codes + 2)


SEED_8B = SeedConfig(tokenizer=seed_tokenizer.SEED_2, language=with_codes(LLAMA_7B))
"""Vicuna 1.1, 7B: 8B with codes and tokenizer."""
SEED_14B = replace(
    SEED_8B,
    language=with_codes(replace(LLAMA_13B, positions=LLAMA2_7B.positions, eps=LLAMA2_7B.eps)),
    dialogue="llama2",
)
"""LLaMA-2-chat, 13B."""
TINY = SeedConfig(
    tokenizer=seed_tokenizer.TINY,
    language=with_codes(
        LLaMAConfig(vocabulary=512, width=128, hidden=344, depth=4, heads=4, positions=512),
        seed_tokenizer.TINY.codes,
    ),
)
SIZES = {"tiny": TINY, "8b": SEED_8B, "14b": SEED_14B}


class Seed(Adaptable):
    """The whole system: tokenizer of pictures, language model."""

    config: SeedConfig
    format: SeedFormat

    def __init__(self, config: SeedConfig, text: SentencePiece) -> None:
        super().__init__()
        self.config = config
        self.format = SeedFormat(config, text)
        self.tokenizer = SeedTokenizer(config.tokenizer)
        self.language = LLaMA(config.language)
        if config.lora:
            lora.adapt(self.language, config.lora)
        self.negative: tuple[int, ...] | None = None
        """Codes away from which pictures are drawn."""

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Codes of the pictures among the words, then the language model."""
        own = {reader: self.codes(slots.pictures) for reader, slots in batch.slots.items()}
        x = self.language.embed(batch.filled(own))  # (b, t, c)
        return Hidden(states=self.language(x, batch.position, sight(batch, cache)), own=own)

    @torch.no_grad()
    def codes(self, pixels: Float[Tensor, "m 3 side side"]) -> Int[Tensor, "m n"]:
        """The words for pictures. The tokenizer is never trained through the language model."""
        return self.tokenizer.encode(pixels) + self.format.first_code

    def picture_codes(self, pixels: Float[Tensor, "m 3 side side"]) -> Int[Tensor, "m n"]:
        """The tokenizer's own numbers of the codes, from 0 on."""
        return self.tokenizer.encode(pixels)

    def codes_of(self, run: Emitted) -> tuple[int, ...]:
        """The codes of a picture that was written: what `negative` takes, for one."""
        return tuple(id - self.format.first_code for id in run.ids)

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Words and codes are one vocabulary."""
        return {"token": self.language.head, "code": self.language.head}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """The pictures of runs of codes, each from the noise of its own seed."""
        if not runs:
            return []
        codes = torch.tensor([self.codes_of(run) for run in runs], device=self.device)
        negative = None if self.negative is None else torch.tensor([self.negative], device=self.device)
        return self.tokenizer.decode(codes, [torch.Generator().manual_seed(run.seed) for run in runs], negative)

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The tokenizer's."""
        return self.tokenizer.drawings

    @property
    def similarities(self) -> Mapping[str, Similarity]:
        """How like pictures are to texts, by the last of the causal queries; none without the text branch."""
        return {"causal": self._likeness} if self.config.tokenizer.qformer.text else {}

    def _likeness(self, pictures: Items[Image], texts: Items[str]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(self.format.compared_ids(text)) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.device)
        told = self.tokenizer.text_features(ids.clamp(min=0), ids >= 0)
        likeness = self.tokenizer.image_features(self.pixels(pictures)) @ told.T
        return likeness, likeness.T

    @property
    def units(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """The blocks, and the tokenizer, which is entered by what it is asked for."""
        asked = ("encode", "decode", "embed", "tokenise", "image_features", "text_features")
        return [*super().units, (self.tokenizer, asked)]

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(vocabulary)."""
        return dict.fromkeys(("token", "code"), math.log(self.config.language.vocabulary))

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> Seed:
        """From a plain `SeedConfig`, the pieces, and the added words if they are listed."""
        sizes = from_plain(SeedConfig, config)
        listed = directory / ADDED
        added = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else None
        model = (directory / TOKENIZER).read_bytes()
        return cls(sizes, vocabulary(model, sizes.tokenizer.codes, sizes.strips, added))


def vocabulary(model: bytes, codes: int, strips: bool = True, added: Mapping[str, int] | None = None) -> SentencePiece:
    """Pieces, and the words of pictures behind them.

    Args:
        model: the content of a `tokenizer.model`.
        added: word -> id, as a published folder lists them; where it lists no `<img>`, it is the codes, `<img>` and
            `</img>` in this order.

    Raises:
        CheckpointError: the list has not one id for each.
    """
    names = [*(CODE.format(code) for code in range(codes)), BEGIN, END]
    if added is None or BEGIN not in added:
        first = len(SentencePiece(model))
        added = {name: first + i for i, name in enumerate(names)}
    lacking = [name for name in names if name not in added]
    if lacking:
        raise CheckpointError(
            f"{len(lacking)} of {len(names)} words of pictures have no id, as {lacking[0]}: give the tokenizer that "
            "was published with SEED-LLaMA"
        )
    return SentencePiece(model, added=added, strips=names if strips else (), pad="<unk>")


def grown(table: Float[Tensor, "v c"], rows: int, seed: int = 0) -> Float[Tensor, "w c"]:
    """An embedding or output table of a LLaMA with rows for further words, N(0, 0.02), as the models began."""
    new = torch.randn(rows - len(table), table.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.cat([table, 0.02 * new.to(table)])


@dataclass(frozen=True, kw_only=True)
class Told:
    """What ids say that nothing kept in order, such as those of another program."""

    text: str
    """With `<image>` for each picture."""
    pictures: tuple[tuple[int, ...], ...]
    """The codes of each, right or wrong."""
    problems: tuple[str | None, ...]
    """Of each picture; None: it can be drawn."""
    unpaired: str | None = None
    """What is wrong with the reply as a whole: then none of its pictures is taken out."""


class SeedFormat(Format):
    """How SEED-LLaMA lays documents out, and what it may say when."""

    def __init__(self, config: SeedConfig, text: SentencePiece) -> None:
        if len(text) > config.language.vocabulary:
            raise ConfigError(f"{len(text)} words for a vocabulary of {config.language.vocabulary}: raise it")
        self.config = config
        self.text = text
        self.dialogue = DIALOGUES[config.dialogue]
        self._pictures = SeedTokenizerFormat(config.tokenizer)
        self.begin, self.end = text.id(BEGIN), text.id(END)
        self.count, self.codes = config.tokenizer.codes_per_image, config.tokenizer.codes
        self.first_code, last = (text.id(CODE.format(code)) for code in (0, self.codes - 1))
        if last - self.first_code != self.codes - 1:
            raise ConfigError(f"{self.codes} codes between {self.first_code} and {last}: their ids must be in order")

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """`<s> ... </s>`, pictures as `<img> codes </img>`.

        Of pieces every element is predicted, but videos, and what stands before them, are read. Of a conversation the
        answers are predicted, each part tokenised by itself, and one `</s>` stands behind the last (released code). An
        open document ends where the model is to go on, behind `<img>` for a blank picture; in a conversation this is
        the last piece of the user's, or all there is of the answer.
        """
        if not document.turns:
            return self._continued(document.pieces, open)
        if open:
            turns, drawn = document.turns, _draws(document)
            last = replace(turns[-1], pieces=turns[-1].pieces[:-1]) if drawn else turns[-1]
            begun = last.role == "assistant" and not last.pieces  # its answer, which may begin with a picture
            return self._prompt(self.dialogue.prompt(turns[:-1] if begun else [*turns[:-1], last]), drawn)
        spans = [tokens([self.text.bos], weight=0.0)]
        for role, part in self.dialogue.parts(document.turns):
            spans += self._string(part, len(part) if role != "assistant" else 0)
        if document.turns[-1].role == "assistant":
            spans.append(tokens([self.text.eos]))
        return Sequence(compact(spans))

    def _continued(self, pieces: Items[Piece], open: bool) -> Sequence:
        """Pieces as one string."""
        drawn = open and pieces[-1:] == (Blank("image"),)
        pieces = pieces[:-1] if drawn else pieces
        films = [at for at, piece in enumerate(pieces) if isinstance(piece, Video)]
        before = 1 + films[-1] if films else 0
        read, told = spoken(pieces[:before]), spoken(pieces[before:])
        if open:
            return self._prompt([*read, *told], drawn)
        bos = tokens([self.text.bos], weight=0.0 if films else 1.0)
        return Sequence(compact([bos, *self._string([*read, *told], len(read)), tokens([self.text.eos])]))

    def _prompt(self, segments: Items[Segment], drawn: bool) -> Sequence:
        spans = [tokens([self.text.bos]), *self._string(segments)]
        return Sequence(compact([*spans, tokens([self.begin])] if drawn else spans), "prompt")

    def _string(self, segments: Items[Segment], read: int = 0) -> list[Span]:
        """Segments that are tokenised as one string, of which the first `read` are no targets."""
        spans: list[Span] = []
        for at, segment in enumerate(segments):
            weight = float(at >= read)
            if isinstance(segment, Image):
                inside = picture(READER, segment, self.count, weight=weight)
                spans += [tokens([self.begin], weight=weight), inside, tokens([self.end], weight=weight)]
                continue
            if self.config.strips and at and isinstance(segments[at - 1], Image):
                segment = segment.lstrip()
            if self.config.strips and at + 1 < len(segments) and isinstance(segments[at + 1], Image):
                segment = segment.rstrip()
            spans.append(tokens(self.text.encode(segment), weight=weight))
        return spans

    def text_ids(self, text: str) -> tuple[int, ...]:
        """As one string."""
        return tuple(self.text.encode(text))

    def compared_ids(self, text: str) -> tuple[int, ...]:
        """What stands for a text that is compared with pictures: a document of it alone."""
        return self.text.bos, *self.text.encode(text), self.text.eos

    def streams(self, document: Document, guidance: Guidance) -> Streams:
        """The prompt; and nothing, `<s>`, with `<img>` where the prompt ends with it.

        Not in the released code, which guides unCLIP alone; its training never left captions out.
        """
        drawn = _draws(document)
        return guidance.streams(self.layout(document, open=True), lambda: self._prompt([], drawn))

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """Words up to `</s>`; behind `<img>` exactly as many codes as a picture has, and `</img>`.

        A document that ends with a blank picture is over with its last picture; a conversation goes on.
        """
        ids = torch.arange(self.config.language.vocabulary)
        words = (ids < self.first_code) & (ids != self.text.unk) & (ids != self.text.bos)
        words[self.begin], words[self.end] = True, False
        codes = (ids >= self.first_code) & (ids < self.first_code + self.codes)
        return Interleaved(
            text=Next(kind="text", head="token", allowed=words, ends=frozenset([self.text.eos, self.begin])),
            picture=Next(kind="image", head="code", allowed=codes, length=self.count),
            begin=self.begin,
            begun=_draws(document),
            max_images=max_images,
            close=self.end,
            alone=_draws(document) and not document.turns,
        )

    def read_text(self, run: Emitted) -> str:
        """Without the words of pictures."""
        return self.text.decode(run.ids)

    def read(self, ids: Items[int], forced: bool = False) -> Told:
        """What ids say that no grammar kept in order (the released server).

        Args:
            forced: the prompt ended with `<img>`.
        """
        ids = [*([self.begin] if forced else []), *ids]
        begins, ends = ([at for at, id in enumerate(ids) if id == mark] for mark in (self.begin, self.end))
        if len(begins) != len(ends) or any(last < first for first, last in zip(begins, ends, strict=False)):
            text = self.text.spell(ids, ["</s>"])
            return Told(text=text, pictures=(), problems=(), unpaired=f"{len(begins)} {BEGIN} and {len(ends)} {END}")
        pictures, words, at = [], [], 0
        for first, last in zip(begins, ends, strict=True):
            words += [*ids[at : first + 1], self.end]
            pictures.append(tuple(id - self.first_code for id in ids[first + 1 : last]))
            at = last + 1
        text = self.text.spell([*words, *ids[at:]])
        told = text.replace(f"{BEGIN} {END} ", PLACE).replace(f"{BEGIN} {END}", PLACE).replace("</s>", "")
        return Told(text=told, pictures=tuple(pictures), problems=tuple(map(self._problem, pictures)))

    def _problem(self, codes: Items[int]) -> str | None:
        if len(codes) != self.count:
            return f"a picture of {len(codes)} codes, not {self.count}"
        wrong = [code for code in codes if not 0 <= code < self.codes]
        return f"a picture with the code {wrong[0]}, there are {self.codes}" if wrong else None

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """`chat`, of the demo; `scripts`, of the inference scripts; `draw`, `caption` and `vqa`, of the evaluations.

        Tokens are counted without those of pictures. A small model says no more than a quarter of its positions.
        `draw` is for the pretrained model, and a prompt that ends with a blank picture.
        """
        text = {"temperature": 1.0, "top_p": 0.5, "top_k": 50}  # top_k is the default of transformers, which they kept
        drawn = {f"image_{name}": value for name, value in text.items()}
        few, many, short = (min(count, self.max_length // 4) for count in (256, 512, 120))
        return {
            "chat": {**text, **drawn, "max_new_tokens": few, "max_images": 8},
            "scripts": {**text, **drawn, "max_new_tokens": many, "max_images": 8},
            "draw": {"beams": 4, "image_temperature": 0.0},
            "caption": {"beams": 5, "max_new_tokens": short},
            "vqa": {**text, "beams": 5, "max_new_tokens": many},
        }

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """As the tokenizer reads pictures: squashed to a square, in all scripts."""
        return self._pictures.preprocess(train, fast)

    @property
    def max_length(self) -> int:
        """The positions that the language model was trained for."""
        return self.config.language.positions

    def write_files(self, directory: Path) -> None:
        """The pieces, and the ids of the added words."""
        self.text.write(directory / TOKENIZER)
        (directory / ADDED).write_text(json.dumps(self.text.added, indent=0), encoding="utf-8")


def _draws(document: Document) -> bool:
    """Whether a prompt asks for a picture first."""
    return document.pieces[-1:] == (Blank("image"),)


def build(size: str) -> Seed:
    """Random weights, with pieces learned from a few lines: for trying shapes and speeds.

    Raises:
        ConfigError: no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"SEED-LLaMA comes as {', '.join(SIZES)}, not {size!r}")
    config = SIZES[size]
    lines = [line for way in DRAW for line in (way.asked, way.answered)]
    pieces = SentencePiece.train(lines, 320)
    return Seed(config, vocabulary(pieces.model, config.tokenizer.codes, config.strips))
