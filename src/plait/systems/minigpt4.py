"""MiniGPT-4 (arXiv 2304.10592): a picture as soft tokens among the words of a frozen language model.

    pixels ─▶ EVA ViT-g ─▶ LayerNorm ─▶ Q-Former ─▶ linear ─▶ 32 vectors ──┐
                                                                           ├─▶ LLaMA ─▶ words
    text ──────────────────────────────────────────────▶ embedding ────────┘

The LLaMA-2 variant and MiniGPT-v2 have no Q-Former: the class token is dropped, and four neighbours in raster order are
joined to one vector. Only the linear layer is trained; v2 adds low-rank adapters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.config import from_plain
from plait.document import Document, Image, Text, Turn
from plait.errors import ConfigError, DocumentError
from plait.nn import lora
from plait.nn.attention import KVCache
from plait.nn.llama import LLAMA2_7B, LLAMA_7B, LLAMA_13B, LLaMA, LLaMAConfig
from plait.nn.lora import LoRAConfig
from plait.nn.qformer import BLIP2_QFORMER, QFormer, QFormerConfig
from plait.nn.vit import EVA_VIT_G, VITConfig, eva_vit
from plait.sequence import Batch, Prepare, Sequence, Slot, Span, Target, compact, tokens
from plait.systems.base import Adaptable, Emitted, Format, Grammar, Hidden, Next, Stop, sight, squashed
from plait.text.pieces import SentencePiece
from plait.text.templates import (
    ALIGNMENT,
    CHATS,
    CLOSE,
    DETAILED,
    INSTRUCTIONS,
    MORE,
    OPEN,
    PLACE,
    Segment,
    written,
)

READER = "vision"
TOKENIZER = "tokenizer.model"
CAPTION_END = "\n"
"""Ends a caption in the first stage."""


@dataclass(frozen=True, kw_only=True)
class MiniGPT4Config:
    """The sizes, and how prompts are written.

    Raises:
        ConfigError: patches that cannot be joined, or no such template.
    """

    vision: VITConfig
    language: LLaMAConfig
    qformer: QFormerConfig | None = None
    """None: patches are joined instead."""
    joined: int = 4
    """Neighbouring patches that become one vector, where there is no Q-Former."""
    template: str = "vicuna0"
    """A name in `plait.text.templates.CHATS` and `INSTRUCTIONS`."""
    pad: str = "$$"
    """The piece that pads; it is no target, even where an answer holds it."""
    max_answer: int = 160
    """Elements of the answers of a document, with their end symbols; what is beyond is cut, the end symbol too."""
    max_caption: int = 32
    """The same of a caption, in the first stage."""
    max_context: int = 3800
    """Elements before the first answer; what is beyond is cut."""
    lora: LoRAConfig | None = None
    """Adapters on the language model (MiniGPT-v2); none where they were merged, or never were."""

    def __post_init__(self) -> None:
        patches = self.vision.grid**2
        if self.qformer is None and patches % self.joined:
            raise ConfigError(f"{patches} patches cannot be joined by {self.joined}: choose a number that divides them")
        if self.template not in INSTRUCTIONS:
            raise ConfigError(f"no template {self.template!r}; there are {', '.join(INSTRUCTIONS)}")

    @property
    def vectors(self) -> int:
        """Elements of a picture."""
        return self.qformer.queries if self.qformer else self.vision.grid**2 // self.joined

    @property
    def read_width(self) -> int:
        """Of what goes into the linear layer."""
        return self.qformer.width if self.qformer else self.vision.width * self.joined


MINIGPT4_7B = MiniGPT4Config(vision=EVA_VIT_G, qformer=BLIP2_QFORMER, language=LLAMA_7B)
MINIGPT4_13B = replace(MINIGPT4_7B, language=LLAMA_13B)
MINIGPT4_LLAMA2_7B = MiniGPT4Config(vision=EVA_VIT_G, language=LLAMA2_7B, template="llama2")
MINIGPTV2_7B = replace(
    MINIGPT4_LLAMA2_7B,
    vision=replace(EVA_VIT_G, image_size=448),
    template="minigptv2",
    max_answer=1024,
)
TINY = MiniGPT4Config(
    vision=VITConfig(image_size=32, patch=8, width=128, depth=4, heads=4, hidden=512),
    qformer=QFormerConfig(width=96, depth=4, heads=4, hidden=192, queries=8, image_width=128),
    language=LLaMAConfig(vocabulary=512, width=128, hidden=344, depth=4, heads=4, positions=512),
    template="plain",
    pad="<unk>",
    max_caption=64,
)
SIZES = {
    "tiny": TINY,
    "7b": MINIGPT4_7B,
    "13b": MINIGPT4_13B,
    "llama2-7b": MINIGPT4_LLAMA2_7B,
    "v2-7b": MINIGPTV2_7B,
}


class MiniGPT4(Adaptable):
    """The whole system."""

    def __init__(self, config: MiniGPT4Config, text: SentencePiece) -> None:
        super().__init__()
        self.config = config
        self.format = MiniGPT4Format(config, text)
        self.vision = eva_vit(config.vision, norm=nn.Identity())
        self.vision_norm = nn.LayerNorm(config.vision.width, eps=1e-5)
        self.qformer = QFormer(config.qformer) if config.qformer else None
        self.projection = nn.Linear(config.read_width, config.language.width)
        self.language = LLaMA(config.language)
        if config.lora:
            lora.adapt(self.language, config.lora)

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Vectors of the pictures among embedded words, then the language model."""
        own = {reader: self.read(slots.pictures) for reader, slots in batch.slots.items()}
        x = batch.embedded(self.language.embed, own)  # (b, t, c)
        return Hidden(states=self.language(x, batch.position, sight(batch, cache)), own=own)

    def read(self, pixels: Float[Tensor, "m 3 side side"]) -> Float[Tensor, "m n c"]:
        """The soft tokens of pictures."""
        seen = self.vision(pixels.to(self.vision.class_token.dtype))  # parts may be of several types, as published
        seen = self.vision_norm(seen.to(self.vision_norm.weight.dtype))  # (m, 1 + patches, w), the class token first
        if self.qformer is not None:
            read = self.qformer(seen.to(self.qformer.queries.dtype))
        else:
            read = seen[:, 1:].unflatten(1, (-1, self.config.joined)).flatten(2)
        return self.projection(read.to(self.projection.weight.dtype))

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """LLaMA's output table."""
        return {"token": self.language.head}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """None is ever asked for: the grammar knows text alone."""
        return []

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(vocabulary)."""
        return {"token": math.log(self.config.language.vocabulary)}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> MiniGPT4:
        """From a plain `MiniGPT4Config` and the tokenizer."""
        sizes = from_plain(MiniGPT4Config, config)
        return cls(sizes, SentencePiece.read(directory / TOKENIZER, pad=sizes.pad))


class MiniGPT4Format(Format):
    """How MiniGPT-4 lays documents out: everything before an answer is read, the answer is predicted."""

    def __init__(self, config: MiniGPT4Config, text: SentencePiece) -> None:
        if len(text) > config.language.vocabulary:
            raise ConfigError(f"{len(text)} pieces for a vocabulary of {config.language.vocabulary}: raise it")
        self.config = config
        self.text = text
        self.chat, self.instruction = CHATS[config.template], INSTRUCTIONS[config.template]

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """`<s> prompt answer end`: answers of a conversation, or of pieces the last, which is a caption.

        An open conversation is written as a chat, whose template differs from that of training (released code). In
        training, questions behind the first are read, each behind a `<s>` of its own, and every answer is predicted.
        """
        if document.before:
            raise DocumentError(
                f"MiniGPT-4 has no place for {len(document.before)} documents before another: give none"
            )
        if not document.turns:
            return self._caption(document, open)
        if open:
            return self.sequence(self.chat.segments(document.turns))
        first, *later = [self._asked(turn) for turn in document.turns]
        if isinstance(first, str):
            raise DocumentError("the conversation begins with the assistant: begin it with what is asked")
        return self.sequence(first, later)

    def sequence(
        self,
        context: Items[Segment],
        spoken: Items[str | Items[Segment]] = (),
        end: str | None = None,
        most: int | None = None,
    ) -> Sequence:
        """Segments that are read; then answers, which are predicted, and segments between them, which are read.

        Args:
            context: the prompt.
            spoken: texts are answers.
            end: behind every answer; None: the template's.
            most: elements from the first answer on; None: the configuration's.
        """
        most = self.config.max_answer if most is None else most
        end = self.instruction.end if end is None else end
        read = self._read(context).cut(0, self.config.max_context)
        bos = tokens([self.text.bos], weight=0.0)
        said: list[Span] = []
        for part in spoken:
            said += [self._answer(part + end)] if isinstance(part, str) else [bos, *self._read(part).spans]
        return Sequence(compact([bos, *read.spans, *Sequence(tuple(said)).cut(0, most).spans]))

    def _asked(self, turn: Turn) -> str | list[Segment]:
        if turn.role == "system":
            raise DocumentError(f"the template {self.config.template} has no place for a system turn: leave it out")
        if turn.role == "user":
            return self.instruction.segments(written(turn.pieces))
        if any(not isinstance(piece, Text) for piece in turn.pieces):
            raise DocumentError("MiniGPT-4 writes text alone: leave pictures out of the assistant's turns")
        return turn.text

    def _read(self, segments: Items[Segment]) -> Sequence:
        encode = self.text.encode
        return Sequence(
            tuple(
                Span(Slot(READER, part), self.config.vectors)
                if isinstance(part, Image)
                else tokens(encode(part), weight=0.0)
                for part in segments
            )
        )

    def _answer(self, text: str) -> Span:
        fill = np.asarray(self.text.encode(text), np.int64)
        return Span(fill, len(fill), (Target("token", fill, (fill != self.text.pad).astype(np.float32)),))

    def _caption(self, document: Document, open: bool) -> Sequence:
        context: list[Segment] = []
        for piece in document.pieces:
            if not isinstance(piece, Image | Text):
                raise DocumentError(f"MiniGPT-4 has no place for {piece}: give pictures and text")
            context.append(piece.text if isinstance(piece, Text) else piece)
        if not open and context and isinstance(last := context[-1], str):
            return self.sequence(context[:-1], [last], CAPTION_END, self.config.max_caption)
        return self.sequence(context)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """As one segment."""
        return tuple(self.text.encode(text))

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """`chat`, the defaults of the present code; `first_release`, those of the first (April 2023): five beams.

        Both cut a conversation that is too long from its beginning, end where the next role begins, and count the
        start symbol as said (`Settings.said`). A small model says no more than a quarter of its positions.
        """
        common = {"stop": self._separators(), "said": (self.text.bos,), "cut_prompt": True}
        chat = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.05}
        most = self.max_length // 4
        return {
            "chat": {**common, **chat, "max_new_tokens": min(300, most)},
            "first_release": {**common, "max_new_tokens": min(200, most), "beams": 5},
        }

    def _separators(self) -> tuple[tuple[int, ...], ...]:
        """What stands behind a message of the chat as ids: at the beginning of a word, and within one."""
        separator, line = self.chat.separator, "\n"  # a line break is a byte, with which no piece is joined
        if not separator:
            return ()
        within = self.text_ids(line + separator)[len(self.text_ids(line)) :]
        return tuple(dict.fromkeys((self.text_ids(separator), within)))

    @property
    def prompts(self) -> Mapping[str, str]:
        """Those that the descriptions of the second stage were asked for with (section 3.2)."""
        before, after = self.instruction.before, self.instruction.after
        return {"describe": f"{before}{OPEN}{PLACE}{CLOSE}{DETAILED}{after}", "continue": f"{before}{MORE}{after}"}

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """Text up to `</s>`."""
        step = Next(
            kind="text",
            head="token",
            allowed=torch.arange(self.config.language.vocabulary) < len(self.text),
            ends=frozenset([self.text.eos]),
        )
        return lambda emitted: Stop("end") if emitted else step

    def read_text(self, run: Emitted) -> str:
        """What stands before the first `###` and behind the last role (released code)."""
        text = self.text.decode(run.ids).split("###")[0]
        return text.rpartition("Assistant:")[2].rpartition("[/INST]")[2].strip()

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """The whole picture squashed to a square, bicubic, with CLIP's mean and deviation; no fast way."""
        return {READER: squashed(self.config.vision.image_size)}

    @property
    def max_length(self) -> int:
        """The positions that the language model was trained for."""
        return self.config.language.positions

    def write_files(self, directory: Path) -> None:
        """The tokenizer."""
        self.text.write(directory / TOKENIZER)


def build(size: str) -> MiniGPT4:
    """Random weights, with pieces learned from a few lines: for trying shapes and speeds.

    Raises:
        ConfigError: no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"MiniGPT-4 comes as {', '.join(SIZES)}, not {size!r}")
    return MiniGPT4(SIZES[size], SentencePiece.train(ALIGNMENT, 320))
