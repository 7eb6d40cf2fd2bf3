"""Emu (arXiv 2307.05222): pictures as vectors among the words, read by a causal transformer and written by regression.

    pixels ─▶ EVA ViT-g ─▶ LayerNorm ─▶ causal transformer ─▶ linear ─▶ 32 vectors ─┐
                                                                                    ├─▶ LLaMA ─┬─▶ next word
    text ─────────────────────────────────────────────────────────▶ embedding ──────┘          └─▶ next vector
                                                                                                      │
                                                      picture ◀── Stable Diffusion's U-Net, VAE ◀── 32 vectors

A picture stands between `[IMG]` and `[/IMG]`. Behind `[IMG]` each vector is predicted from those before it, and fed
back when the model draws. Pretrained, it goes on with documents; tuned (Emu-I), it answers in conversations. What the
paper leaves open is as in the released code.
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
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait import images
from plait.config import from_plain
from plait.document import Blank, Document, Image, Piece, Text, Turn, Video
from plait.errors import ConfigError, DocumentError
from plait.nn import lora
from plait.nn.attention import KVCache
from plait.nn.cformer import CFormer, CFormerBlock, CFormerConfig
from plait.nn.diffusion import (
    STABLE_SCHEDULER,
    STABLE_VAE,
    TINY_UNET,
    TINY_VAE,
    DiffusionConfig,
    VectorDiffusion,
)
from plait.nn.llama import LLAMA_13B, LLaMA, LLaMAConfig
from plait.nn.lora import LoRAConfig
from plait.nn.vit import EVA_VIT_G, VITConfig, eva_vit
from plait.sequence import Batch, Prepare, Sequence, Slot, Span, Target, compact, tokens
from plait.systems.base import (
    Adaptable,
    Emitted,
    Format,
    Grammar,
    Guidance,
    Hidden,
    Interleaved,
    Next,
    Stop,
    Streams,
    Towers,
    sight,
    square,
    squashed,
)
from plait.text.dialogues import EMU, spoken
from plait.text.instructions import IMAGE_MESSAGE, PROMPTS, VIDEO_MESSAGE
from plait.text.pieces import SentencePiece
from plait.text.templates import Segment, merge

READER, CANVAS = "vision", "canvas"
"""What pictures are read by; and, where the decoder is trained, what it is to draw."""
TOKENIZER = "tokenizer.model"
PAD, BEGIN, END, PLACE = "[PAD]", "[IMG]", "[/IMG]", "<image>"
WORDS = (PAD, BEGIN, END, PLACE)
ROLES = ("[USER]", "[ASSISTANT]")


@dataclass(frozen=True, kw_only=True)
class UnreadConfig:
    """Sizes of what the published weights hold and nothing reads."""

    embedding: int = 1024
    """Of EVA-CLIP, to which the tower's head leads."""
    words: int = 32_128
    """Of T5, whose embedding the causal transformer kept."""


@dataclass(frozen=True, kw_only=True)
class EmuConfig:
    """The sizes, and what is trained how."""

    vision: VITConfig
    cformer: CFormerConfig
    language: LLaMAConfig
    """Its vocabulary has the pieces and the added words."""
    decoder: DiffusionConfig | None = None
    """None: vectors are written, no pictures."""
    tuned: bool = False
    """There are words for both sides of a conversation (Emu-I)."""
    begins: bool = False
    """`[IMG]` is a word that is predicted, so that the model may begin a picture by itself. As published it is not: a
    picture is drawn where one is asked for."""
    frames: int = 8
    """That are taken of a video."""
    behind: float = 0.5
    """How often, in training, a picture stands behind the text that follows it in the document (section 3.1)."""
    image_message: str = IMAGE_MESSAGE
    video_message: str = VIDEO_MESSAGE
    """What the system says before a conversation about one picture, or about a video."""
    unread: UnreadConfig | None = None
    lora: LoRAConfig | None = None
    """Adapters on the language model."""

    def __post_init__(self) -> None:
        if self.cformer.image_width != self.vision.width:
            raise ConfigError(
                f"a causal transformer over patches of width {self.cformer.image_width}, and the tower's have "
                f"{self.vision.width}: both must be the same"
            )
        if self.decoder and (width := self.decoder.unet.get("cross_attention_dim")) != self.language.width:
            raise ConfigError(
                f"a U-Net that looks at vectors of width {width} for those of a language model of "
                f"{self.language.width}: both must be the same"
            )
        if not 0 <= self.behind <= 1:
            raise ConfigError(f"pictures stand behind their text with probability {self.behind}: give one from 0 to 1")


STABLE_DIFFUSION = DiffusionConfig(  # 1.5, with wider cross-attention; diffusers' own defaults are its sizes
    unet={"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": LLAMA_13B.width},
    vae={**STABLE_VAE, "sample_size": 512},
    scheduler=STABLE_SCHEDULER,
    steps=50,
    guidance=7.5,
)
EMU_14B = EmuConfig(
    vision=replace(EVA_VIT_G, depth=40),
    cformer=CFormerConfig(),
    language=replace(LLAMA_13B, vocabulary=LLAMA_13B.vocabulary + len(WORDS)),
    decoder=STABLE_DIFFUSION,
    unread=UnreadConfig(),
)
EMU_I = LoRAConfig(rank=16, alpha=16.0, dropout=0.05, layers=("q", "k", "v", "o"))
"""The adapters of Emu-I."""
EMU_I_14B = replace(
    EMU_14B,
    language=replace(LLAMA_13B, vocabulary=LLAMA_13B.vocabulary + len(WORDS + ROLES)),
    decoder=None,
    tuned=True,
    lora=EMU_I,
)
TINY = EmuConfig(
    vision=VITConfig(image_size=32, patch=8, width=128, depth=4, heads=4, hidden=512),
    cformer=CFormerConfig(
        width=96,
        depth=4,
        heads=4,
        head_width=24,
        hidden=192,
        queries=8,
        image_width=128,
        buckets=8,
        longest=16,
        dropout=0.0,
    ),
    language=LLaMAConfig(vocabulary=512, width=128, hidden=344, depth=4, heads=4, positions=512),
    decoder=DiffusionConfig(
        unet={
            **TINY_UNET,
            "in_channels": TINY_UNET["out_channels"] + 32,
            "attention_head_dim": 4,
            "cross_attention_dim": 128,
        },
        vae=TINY_VAE,
        # Stable Diffusion 1.5 predicts noise, which hardly depends on the picture where little of that is left
        scheduler={**STABLE_DIFFUSION.scheduler, "prediction_type": "v_prediction"},
        guidance=2.0,
        rows=64,
    ),
)
SIZES = {"tiny": TINY, "14b": EMU_14B, "instruct-14b": EMU_I_14B}


class Unread(nn.Module):
    """What the published weights hold beside the model, so that an export has it again."""

    def __init__(self, config: UnreadConfig, vision: VITConfig, width: int) -> None:
        super().__init__()
        self.vision_norm = nn.LayerNorm(vision.width, eps=vision.eps)
        self.vision_head = nn.Linear(vision.width, config.embedding)
        self.words = nn.Embedding(config.words, width)
        self.requires_grad_(False)


class Emu(Adaptable):
    """The whole system."""

    config: EmuConfig
    format: EmuFormat

    def __init__(self, config: EmuConfig, text: SentencePiece) -> None:
        super().__init__()
        self.config = config
        self.format = EmuFormat(config, text)
        self.vision = eva_vit(config.vision, norm=nn.Identity())
        self.vision_norm = nn.LayerNorm(config.vision.width, eps=1e-6)
        self.cformer = CFormer(config.cformer)
        self.projection = nn.Linear(config.cformer.width, config.language.width)
        self.language = LLaMA(config.language)
        if config.lora:
            lora.adapt(self.language, config.lora)
        self.regression = nn.Linear(config.language.width, config.language.width, bias=False)
        self.decoder = VectorDiffusion(config.decoder) if config.decoder else None
        self.unread = Unread(config.unread, config.vision, config.cformer.width) if config.unread else None

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Vectors of the pictures among embedded words, then the language model."""
        own = {READER: self.read(batch.slots[READER].pictures)} if READER in batch.slots else {}
        x = batch.embedded(self.language.embed, own)  # (b, t, c)
        if not own and cache is None and torch.is_grad_enabled():  # all ranks run the same modules, pictures or not
            side = self.config.vision.image_size
            x = x + 0.0 * self.read(torch.zeros(1, 3, side, side, device=x.device)).sum()
        return Hidden(states=self.language(x, batch.position, sight(batch, cache)), own=own)

    def read(self, pixels: Float[Tensor, "m 3 side side"]) -> Float[Tensor, "m n c"]:
        """The vectors of pictures."""
        seen = self.vision(pixels.to(self.vision.class_token.dtype))  # (m, 1 + patches, w), the class token too
        seen = self.vision_norm(seen.to(self.vision_norm.weight.dtype))
        read = self.cformer(seen.to(self.cformer.queries.dtype))
        return self.projection(read.to(self.projection.weight.dtype))

    def word_vectors(self, ids: Int[Tensor, "*any"]) -> Float[Tensor, "*any c"]:
        """As the language model embeds them."""
        vectors: Tensor = self.language.embed(ids)
        return vectors

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """LLaMA's output table, and the linear layer that predicts the next vector."""
        return {"token": self.language.head, "vector": self.regression}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """The pictures of runs of vectors, guided away from those of the empty prompt, each with the noise of its seed.

        Raises:
            ConfigError: there is no image decoder.
        """
        if not runs:
            return []
        if self.decoder is None:
            raise ConfigError("this Emu has no image decoder: import it with unet, vae and scheduler of its folder")
        drawn: dict[int, Image] = {}
        scales = [run.weights[0] if len(run.weights) > 1 else 1.0 for run in runs]
        for scale in dict.fromkeys(scales):
            these = [at for at, one in enumerate(scales) if one == scale]
            vectors = torch.stack([torch.stack(runs[at].vectors) for at in these])  # (m, n, rows, c)
            noise = [torch.Generator().manual_seed(runs[at].seed) for at in these]
            negative = vectors[:, :, 1] if scale != 1 else None
            pixels = self.decoder.draw(vectors[:, :, 0], noise, negative, scale).cpu().numpy()
            drawn |= {at: Image(images.from_array(one, rounded=True)) for at, one in zip(these, pixels, strict=True)}
        return [drawn[at] for at in range(len(runs))]

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(vocabulary); there is none of vectors."""
        return {"token": math.log(self.config.language.vocabulary)}

    def converse(self) -> None:
        """Adds the words for both sides of a conversation (Emu-I), unless they are there.

        They begin as the mean of the pieces of "user" and of "assistant".
        """
        if self.config.tuned:
            return
        text = self.format.text
        self.language.extend([text.encode(role.strip("[]").lower()) for role in ROLES])
        self.config = replace(self.config, tuned=True, language=self.language.config)
        self.format = EmuFormat(self.config, vocabulary(text.model, tuned=True))

    def redraw(self, config: DiffusionConfig) -> None:
        """A decoder with other sizes in place of the present one, with random weights."""
        self.config = replace(self.config, decoder=config)
        self.format = EmuFormat(self.config, self.format.text)
        self.decoder = VectorDiffusion(config).to(self.device)

    @property
    def towers(self) -> Towers:
        """EVA's, for pictures alone: by the mean of its patches. Its tower of texts is not part of Emu."""

        def texts(texts: Items[str]) -> Tensor:
            raise ConfigError(f"Emu has no tower of texts, for {len(texts)} of them: compare pictures with pictures")

        def pictures(pictures: Items[Image]) -> Tensor:
            prepare = self.format.preprocess()[READER]
            pixels = torch.stack([torch.from_numpy(prepare(picture)) for picture in pictures]).to(self.device)
            seen = self.vision(pixels.to(self.vision.class_token.dtype))[:, 1:]  # (m, patches, w)
            return nn.functional.normalize(seen.float().mean(1), dim=1)

        return Towers(width=self.config.vision.width, parts=("vision",), texts=texts, pictures=pictures)

    @property
    def units(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """The blocks of the causal transformer too."""
        return [*super().units, *((module, ()) for module in self.modules() if isinstance(module, CFormerBlock))]

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> Emu:
        """From a plain `EmuConfig` and the tokenizer."""
        sizes = from_plain(EmuConfig, config)
        return cls(sizes, vocabulary((directory / TOKENIZER).read_bytes(), sizes.tuned))


def vocabulary(model: bytes, tuned: bool = False) -> SentencePiece:
    """LLaMA's pieces, and the words that stand for pictures, or sides of a conversation, behind them.

    Args:
        model: the content of a `tokenizer.model`.
        tuned: with those of Emu-I.
    """
    first = len(SentencePiece(model))
    added = {word: first + i for i, word in enumerate(WORDS + ROLES if tuned else WORDS)}
    return SentencePiece(model, added=added, strips=[*added, "<s>", "</s>"], pad=PAD)


class EmuFormat(Format):
    """How Emu lays documents out, and what it may say when."""

    def __init__(self, config: EmuConfig, text: SentencePiece) -> None:
        if len(text) > config.language.vocabulary:
            raise ConfigError(f"{len(text)} words for a vocabulary of {config.language.vocabulary}: raise it")
        self.config = config
        self.text = text
        self.begin, self.end = text.id(BEGIN), text.id(END)
        self._silent = [text.id(word) for word in (PAD, PLACE, END, *(() if config.begins else (BEGIN,)))]

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """`<s> ... </s>`, pictures as `[IMG] vectors [/IMG]`, videos as some of their frames.

        Of pieces all words are predicted, and of each picture its vectors and the embedding of `[/IMG]`. Of a
        conversation the answers are predicted, each tokenised by itself, and the `</s>` behind each. Without a turn of
        the system it begins with what Emu-I was told of one picture, or of a video; an empty one is none.

        Args:
            generator: each picture stands before or behind the text that follows it, and random frames of videos are
                taken; None: all as it is, and frames at equal distances.
        """
        drawn = open and document.pieces[-1:] == (Blank("image"),)
        if document.turns:
            spans = self._conversation(document.turns, open, drawn)
        else:
            pieces: Items[Piece] = document.pieces[:-1] if drawn else document.pieces
            if generator is not None and not open:
                pieces = either_order(pieces, generator, self.config.behind)
            told = self._told(pieces, generator)
            if drawn and told and isinstance(told[-1], str):
                told[-1] = told[-1].rstrip()  # as beside every mark
            spans = self._string(told)
            if not open:
                spans.append(tokens([self.text.eos]))
        if drawn:
            spans.append(tokens([self.begin], weight=0.0))
        bos = tokens([self.text.bos], weight=0.0 if document.turns else 1.0)
        return Sequence(compact([bos, *spans]), "prompt" if open else "document")

    def _told(self, pieces: Items[Piece], generator: Any = None) -> list[Segment]:
        """Texts and pictures."""
        return spoken([self._frames(piece, generator) if isinstance(piece, Video) else piece for piece in pieces])

    def _frames(self, video: Video, generator: Any) -> Video:
        total, count = len(video.frames), self.config.frames
        if generator is None or total <= count:
            kept = frame_numbers(total, count)
        else:
            kept = sorted(int(i) for i in generator.choice(total, count, replace=False))
        return Video(tuple(video.frames[i] for i in kept))

    def _conversation(self, turns: Items[Turn], open: bool, drawn: bool) -> list[Span]:
        if open and turns[-1].role != "user":
            raise DocumentError("the conversation does not end with the user's turn: end it with what is asked")
        if drawn:
            turns = [*turns[:-1], replace(turns[-1], pieces=turns[-1].pieces[:-1])]
        turns = [Turn(turn.role, self._shown(turn.pieces)) for turn in self._introduced(turns)]
        spans: list[Span] = []
        read: list[Segment] = []
        for role, part in EMU.parts(turns):
            if role != "assistant":
                read += part
            elif open:
                read += [EMU.gap, *part, "</s>"]
            else:
                spans += [*self._string(merge(read), 0.0), *self._string(part), tokens([self.text.eos])]
                read = []
        return [*spans, *self._string(merge(read), 0.0)]

    def _shown(self, pieces: Items[Piece]) -> list[Piece]:
        return [Text(part) if isinstance(part, str) else part for part in self._told(pieces)]

    def _introduced(self, turns: Items[Turn]) -> list[Turn]:
        """With what the system says."""
        if turns[0].role == "system":
            return list(turns)
        seen = [piece for turn in turns for piece in turn.pieces if isinstance(piece, Image | Video)]
        if any(isinstance(piece, Video) for piece in seen):
            return [Turn("system", self.config.video_message), *turns]
        return [Turn("system", self.config.image_message), *turns] if len(seen) == 1 else list(turns)

    def _string(self, segments: Items[Segment], weight: float = 1.0) -> list[Span]:
        """Segments that are tokenised as one string."""
        spans: list[Span] = []
        for at, segment in enumerate(segments):
            if isinstance(segment, Image):
                spans += self._picture(segment, weight)
                continue
            if at and isinstance(segments[at - 1], Image):
                segment = segment.lstrip()
            if at + 1 < len(segments) and isinstance(segments[at + 1], Image):
                segment = segment.rstrip()
            fill = np.asarray(self.text.encode(segment), np.int64)
            weights = (weight * ~np.isin(fill, self._silent)).astype(np.float32)
            spans.append(Span(fill, len(fill), (Target("token", fill, weights),) if weight else ()))
        return spans

    def _picture(self, image: Image, weight: float) -> list[Span]:
        """Between its marks. The vector that follows the last is the embedding of the mark."""
        count, ends = self.config.cformer.queries, np.asarray([self.end], np.int64)
        vectors = (Target("vector", None, np.full(count, weight, np.float32)),) if weight else ()
        last = (Target("vector", ends, np.full(1, weight, np.float32)),) if weight else ()
        begins = weight if self.config.begins else 0.0
        return [
            tokens([self.begin], weight=begins),
            Span(Slot(READER, image), count, vectors),
            Span(ends, 1, last),
        ]

    def text_ids(self, text: str) -> tuple[int, ...]:
        """As one string."""
        return tuple(self.text.encode(text))

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """Words up to `</s>`; behind `[IMG]` exactly as many vectors as a picture has, and `[/IMG]`.

        A document that ends with a blank picture is over with its last picture; a conversation goes on. Where no
        picture can come, the words are not kept in order, as in the released code.
        """
        draws = document.pieces[-1:] == (Blank("image"),)
        words = torch.arange(self.config.language.vocabulary) < len(self.text)
        said = Next(kind="text", head="token", allowed=words, ends=frozenset([self.text.eos]))
        if not draws and not (self.config.begins and max_images):
            return lambda emitted: Stop("end") if emitted else said
        words[[self.text.bos, *self._silent]] = False
        ends = {self.text.eos, self.begin} if self.config.begins else {self.text.eos}
        return Interleaved(
            text=replace(said, ends=frozenset(ends)),
            picture=Next(kind="image", head="vector", length=self.config.cformer.queries, vectors=True),
            begin=self.begin,
            begun=draws,
            max_images=max_images,
            close=self.end,
            alone=draws and not document.turns,
        )

    def streams(self, document: Document, guidance: Guidance) -> Streams:
        """Under guidance an empty prompt, which goes on with a picture of its own and takes no text.

        Raises:
            ConfigError: guidance by pictures, or a contrast.
        """
        if guidance.contrast is not None:
            raise ConfigError(f"{guidance}: vectors have no probabilities to contrast; use guidance")
        rows = guidance.streams(self.layout(document, open=True), lambda: self._nothing(document))
        return replace(rows, restart=1) if len(rows.rows) > 1 else rows

    def _nothing(self, document: Document) -> Sequence:
        drawn = document.pieces[-1:] == (Blank("image"),)
        return self.layout(Document([Blank("image")] if drawn else []), open=True)

    def read_text(self, run: Emitted) -> str:
        """Without added words."""
        return self.text.decode(run.ids)

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Those of the released scripts and evaluations; `draw` and `draw_in_context` are for the pretrained model.

        Lengths count the start symbol with which the published program begins (`Settings.said`). A small model says no
        more than a quarter of its positions.
        """
        most = self.max_length // 4
        beams = {"beams": 5, "length_penalty": 0.0, "said": (self.text.bos,)}
        scored = {**beams, "length_penalty": -1.0, "max_new_tokens": 20}
        return {
            "chat": {**beams, "max_new_tokens": min(128, most)},
            "caption": {**beams, "max_new_tokens": min(512, most)},
            "video": {**beams, "length_penalty": 1.0, "max_new_tokens": min(128, most)},
            "vqa": scored,
            "coco": {**scored, "min_new_tokens": 7},
            "draw": {"guidance": 7.5},
            "draw_in_context": {"guidance": 10.0},
        }

    @property
    def prompts(self) -> Mapping[str, str]:
        """Of the released scripts (`plait.text.instructions`)."""
        return PROMPTS

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """The whole picture squashed to a square, bicubic, with CLIP's mean and deviation; no fast way.

        What is to be drawn: its centre, at the size of the decoder.
        """
        readers = {READER: squashed(self.config.vision.image_size)}
        if self.config.decoder is not None:
            readers[CANVAS] = square(self.config.decoder.side)
        return readers

    @property
    def max_length(self) -> int:
        """The positions that the language model was trained for."""
        return self.config.language.positions

    def write_files(self, directory: Path) -> None:
        """The tokenizer."""
        self.text.write(directory / TOKENIZER)


def frame_numbers(frames: int, count: int) -> list[int]:
    """The numbers of frames at equal distances, from half a distance on (released code); few frames come several times.

    Raises:
        DocumentError: a video without frames.
    """
    if not frames:
        raise DocumentError("a video of 0 frames: leave it out")
    distance = (frames - 1) / count
    return [int(distance / 2) + round(distance * k) for k in range(count)]


def either_order(pieces: Items[Piece], generator: np.random.Generator, behind: float) -> list[Piece]:
    """Each picture before or, so often, behind the text that follows it (section 3.1)."""
    ordered = list(pieces)
    at = 0
    while at + 1 < len(ordered):
        first, second = ordered[at : at + 2]
        if isinstance(first, Image) and isinstance(second, Text):
            if generator.random() < behind:
                ordered[at : at + 2] = [second, first]
            at += 1
        at += 1
    return ordered


def build(size: str) -> Emu:
    """Random weights, with pieces learned from a few lines: for trying shapes and speeds.

    Raises:
        ConfigError: no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"Emu comes as {', '.join(SIZES)}, not {size!r}")
    config = SIZES[size]
    return Emu(config, vocabulary(SentencePiece.train([*PROMPTS.values(), VIDEO_MESSAGE], 320).model, config.tuned))
