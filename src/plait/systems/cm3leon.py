"""CM3Leon (arXiv 2309.02591): one decoder over text and image tokens, trained by the CM3 objective.

    picture ──VQGAN──▶ codes ┐
                             ├─▶ <eos> text <break> codes <eos> ─▶ decoder ─▶ next token, text or code alike
    text ─────BPE────▶ ids ──┘                                                  └─▶ codes ──VQGAN──▶ picture

No code or weights were released. The sizes are the paper's; what it leaves open follows its parents: metaseq's decoder
(biases nowhere, norms without parameters, learned positions with two rows in front, tied output) and Chameleon's
vocabulary. A blank in the text is `<mask>`; its filling follows the final `<eos>` behind the same symbol
(`<infill>`), and ends with `<eoss>`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait import images
from plait.config import from_plain
from plait.document import Blank, Document, Image, Piece, Text
from plait.errors import ConfigError, DocumentError
from plait.nn.attention import KVCache, SelfAttention
from plait.nn.blocks import MLP, Block, Decoder, SquaredReLU
from plait.nn.chameleon import ChameleonConfig, chameleon_decoder
from plait.nn.clip import CLIP, CLIPConfig
from plait.nn.norms import plain_layer_norm
from plait.nn.packed import TiedEmbedding
from plait.nn.positions import LearnedPositions, NoRotation, Rotary
from plait.nn.quantise import alike
from plait.nn.vqgan import VQGAN, VQGANConfig
from plait.sequence import Batch, Prepare, Sequence, Span, compact, picture, tokens
from plait.systems.base import (
    Emitted,
    Forced,
    Format,
    Grammar,
    Guidance,
    Hidden,
    Next,
    Stop,
    Streams,
    System,
    Towers,
    sight,
    square,
)
from plait.text.bpe import BPE

READER = "vqgan"
TOKENIZER = "tokenizer.json"
CLIP_TOKENIZER = "clip_tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class CM3LeonConfig:
    """Sizes of a CM3Leon."""

    image: VQGANConfig
    width: int
    depth: int
    heads: int
    hidden: int | None = None
    """Width within the MLPs; None: 4 * width."""
    positions: int = 4096
    text_tokens: int = 56_320
    sentinels: int = 512
    reserved: int = 0
    """Ids between sentinels and text that nothing uses."""
    raster: bool = False
    """Codes also carry their place in the picture. Not in the paper: with running positions alone, a small model takes
    many times longer to find out where in a picture a code stands."""
    rotary: float | None = None
    """Base of rotary positions, beside the learned ones. Not in the paper: a small model finds neighbours sooner by
    their distance."""
    asked_weight: float = 1.0
    """Weight, as targets, of the words and pictures that an answer in turns is about; answers have 1."""
    retrieved_weight: float = 1.0
    """Weight, as targets, of documents that stand before another; 0.1 in RA-CM3 (arXiv 2211.12561)."""
    activation: Literal["relu", "gelu", "squared_relu"] = "relu"  # OPT's; the paper gives none
    chameleon: ChameleonConfig | None = None
    """The successor's decoder in place of metaseq's: rotary positions alone, an output table of its own."""
    retriever: CLIPConfig | None = None
    """The frozen CLIP that finds documents and ranks pictures, where it is kept with the model."""
    init_std: float = 0.006
    position_std: float = 0.0002

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads")

    @property
    def vocabulary(self) -> Vocabulary:
        """Who has which ids."""
        return Vocabulary(
            codes=self.image.codes, sentinels=self.sentinels, reserved=self.reserved, text_tokens=self.text_tokens
        )


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids, in Chameleon's order: four specials, codes, <eoss>, <break>, sentinels, reserved ids, text."""

    codes: int
    sentinels: int
    text_tokens: int
    reserved: int = 0

    pad: ClassVar[int] = 1
    eos: ClassVar[int] = 2
    first_code: ClassVar[int] = 4

    @property
    def eoss(self) -> int:
        """The end of an infill."""
        return self.first_code + self.codes

    @property
    def brk(self) -> int:
        """<break>: stands at each change of modality."""
        return self.eoss + 1

    @property
    def first_sentinel(self) -> int:
        """Sentinel i is both <mask:i> and <infill:i>."""
        return self.brk + 1

    @property
    def first_text(self) -> int:
        """The first id of the BPE."""
        return self.first_sentinel + self.sentinels + self.reserved

    def __len__(self) -> int:
        return self.first_text + self.text_tokens

    def allow(self, *ids: int, codes: bool = False, text: int = 0) -> Tensor:
        """(v,) mask of what may be drawn: these ids, all codes or none, the first `text` text tokens."""
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[list(ids)] = True
        mask[self.first_code : self.eoss] = codes
        mask[self.first_text : self.first_text + text] = True
        return mask


_PAPER = functools.partial(CM3LeonConfig, image=VQGANConfig(), reserved=506)  # 65,536 ids, as Chameleon has
CM3LEON_350M = _PAPER(width=1024, depth=24, heads=16)
CM3LEON_760M = _PAPER(width=1536, depth=24, heads=16)
CM3LEON_7B = _PAPER(width=4096, depth=32, heads=32)
CHAMELEON_VQGAN = VQGANConfig(resolution=512, multipliers=(1, 1, 2, 2, 4), attention_resolutions=())
CHAMELEON_7B = _PAPER(image=CHAMELEON_VQGAN, width=4096, depth=32, heads=32, chameleon=ChameleonConfig(hidden=11_008))
"""The successor, the nearest that was released: as a beginning, since it was trained on another layout."""
TINY = CM3LeonConfig(
    image=VQGANConfig(
        resolution=32,
        channels=16,
        multipliers=(1, 2, 4),
        blocks=1,
        attention_resolutions=(),
        groups=8,
        latent_channels=64,
        code_width=4,
        codes=128,
        local=True,
    ),
    width=192,
    depth=4,
    heads=6,
    positions=512,
    text_tokens=512,
    sentinels=8,
    raster=True,
    rotary=1000.0,
    asked_weight=0.0,
    activation="squared_relu",
    init_std=0.02,
    position_std=0.02,
)
SIZES = {"tiny": TINY, "350m": CM3LEON_350M, "760m": CM3LEON_760M, "7b": CM3LEON_7B, "chameleon_7b": CHAMELEON_7B}


class CM3Leon(System):
    """The whole system: image tokenizer, token embedding (also the output), positions, decoder."""

    format: CM3LeonFormat

    def __init__(self, config: CM3LeonConfig, text: BPE, clip_text: BPE | None = None) -> None:
        super().__init__()
        self.config = config
        self.format = CM3LeonFormat(config, text, clip_text)
        self.vocabulary = config.vocabulary
        self.image_tokenizer = VQGAN(config.image)
        self.embed = TiedEmbedding(len(self.vocabulary), config.width)
        learned = LearnedPositions(config.positions, config.width, offset=2)
        self.positions = None if config.chameleon else learned
        self.places = LearnedPositions(config.image.codes_per_image, config.width, offset=1) if config.raster else None
        self.decoder = _decoder(config)
        self.head = nn.Linear(config.width, len(self.vocabulary), bias=False) if config.chameleon else None
        self.retriever = CLIP(config.retriever) if config.retriever else None
        self._initialise()

    def _initialise(self) -> None:
        """metaseq's: truncated normals, and zeros in the layers that write to the residual."""
        cut = functools.partial(nn.init.trunc_normal_, std=self.config.init_std, a=-3 * self.config.init_std)
        for name, weight in [("embed", self.embed.weight), *self.decoder.named_parameters()]:
            if name.endswith("out.weight"):
                nn.init.zeros_(weight)
            elif weight.dim() > 1:  # not a norm's
                cut(weight, b=3 * self.config.init_std)
        if self.head is not None:
            cut(self.head.weight, b=3 * self.config.init_std)
        for table in (self.positions, self.places):
            if table is not None:
                nn.init.normal_(table.weight, std=self.config.position_std)
        with torch.no_grad():
            self.embed.weight[self.vocabulary.pad].zero_()
            if self.positions is not None:
                self.positions.weight[1].zero_()

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Codes of the pictures, then embedding, positions, decoder."""
        own = {reader: self.codes(slots.pictures) for reader, slots in batch.slots.items()}
        x = self.embed(batch.filled(own))  # (b, t, c)
        if self.positions is not None:
            x = x + self.positions(batch.position)
        if self.places is not None:
            x = x + self.places(batch.place)
        return Hidden(states=self.decoder(x, batch.position, sight(batch, cache)), own=own)

    @torch.no_grad()
    def codes(self, pictures: Float[Tensor, "m 3 height width"]) -> Tensor:
        """(m, n) token ids of pictures, in raster order. The tokenizer is never trained through the decoder."""
        return self.image_tokenizer.encode(pictures).flatten(1) + self.vocabulary.first_code

    def picture_codes(self, pixels: Float[Tensor, "m 3 height width"]) -> Tensor:
        """(m, n) codes of the VQGAN, in raster order."""
        return self.codes(pixels) - self.vocabulary.first_code

    @torch.no_grad()
    def embed_codes(self, generator: torch.Generator, reach: float = 0.25) -> None:
        """Starts the embeddings of codes as random Fourier features of the codebook's vectors.

        Codes that stand for nearly the same patch are then nearly the same symbol.
        """
        table = self.image_tokenizer.quantiser.codebook.weight
        features = self.config.init_std * alike(table, self.config.width, generator, reach)
        self.embed.weight[self.vocabulary.first_code : self.vocabulary.eoss] = features.to(self.embed.weight.dtype)

    def unembed(self, hidden: Float[Tensor, "*any c"]) -> Float[Tensor, "*any v"]:
        """Logits, by the embedding table itself (Chameleon: by a table of its own)."""
        return self.embed.logits(hidden) if self.head is None else self.head(hidden)

    def narrowed(self, kind: str, first: int, last: int) -> Callable[[Tensor], Tensor] | None:
        """The rows of those ids: for codes, 8,192 of 65,536."""
        return functools.partial(self.embed.logits, first=first, last=last) if self.head is None else None

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Text tokens and codes are one vocabulary."""
        return {"token": self.unembed, "code": self.unembed}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """The pictures of runs of codes, by the VQGAN's decoder."""
        grid = self.config.image.grid
        ids = torch.tensor([run.ids for run in runs], device=self.device).view(-1, grid, grid)
        with torch.no_grad():
            pixels = self.image_tokenizer.decode(ids - self.vocabulary.first_code).float().cpu().numpy()
        return [Image(images.from_array(values)) for values in pixels]

    @property
    def towers(self) -> Towers:
        """The retriever's."""
        if self.retriever is None or self.format.clip_text is None:
            return super().towers
        width = self.retriever.config.shared
        return Towers(width=width, parts=("retriever",), texts=self._embed_texts, pictures=self._embed_pictures)

    def _embed_texts(self, texts: Items[str]) -> Tensor:
        """Each between the last two symbols of CLIP's vocabulary, its begin and end."""
        assert self.retriever is not None and self.format.clip_text is not None
        sizes, text = self.retriever.config.text, self.format.clip_text
        begin, end = sizes.vocabulary - 2, sizes.vocabulary - 1
        rows = [torch.tensor([begin, *text.encode(one)[: sizes.positions - 2], end]) for one in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.device)
        return self.retriever.text_features(ids.clamp(min=0), ids >= 0)

    def _embed_pictures(self, pictures: Items[Image]) -> Tensor:
        assert self.retriever is not None
        side = self.retriever.config.image.image_size
        pixels = [torch.from_numpy(images.to_clip(images.clip_square(one.open(), side))) for one in pictures]
        return self.retriever.image_features(torch.stack(pixels).to(self.device, self.retriever.log_scale.dtype))

    @property
    def units(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """The blocks, and the image tokenizer, which is entered by what it is asked for."""
        return [*super().units, (self.image_tokenizer, ("encode", "decode"))]

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(vocabulary)."""
        return dict.fromkeys(("token", "code"), math.log(len(self.vocabulary)))

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> CM3Leon:
        """From a plain `CM3LeonConfig` and the BPE, which may hold all ids of the vocabulary, as Chameleon's does."""
        sizes = from_plain(CM3LeonConfig, config)
        text = BPE.read(directory / TOKENIZER)
        whole = len(text) == len(sizes.vocabulary)
        clip_text = BPE.read(directory / CLIP_TOKENIZER) if sizes.retriever else None
        return cls(sizes, text.behind(sizes.vocabulary.first_text) if whole else text, clip_text)


class CM3LeonFormat(Format):
    """How CM3Leon lays documents out, and what it may say when."""

    def __init__(self, config: CM3LeonConfig, text: BPE, clip_text: BPE | None = None) -> None:
        if len(text) > config.text_tokens:
            raise ConfigError(f"a BPE of {len(text)} tokens for text_tokens = {config.text_tokens}: raise text_tokens")
        self.config = config
        self.text = text
        self.clip_text = clip_text
        """That of the retriever."""
        self.vocabulary = config.vocabulary

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """`<eos> text <break> codes ... <eos>`, then the fillings of blanks.

        Answers of a conversation are blanks of its text, which stands before its pictures (paper, table 5); answers
        that hold a picture stand where they are said. An open document ends where the model is to go on: behind its
        last piece, behind `<break>` for a blank picture (blanks in text stay), else behind the first open `<infill>`;
        with an empty turn of the assistant at its end, behind what was said, so that words may come before a picture.
        Documents before it stand in front, with `<break>` between (paper, figure 9).
        """
        voc = self.vocabulary
        pieces, answers = _asked(document, open)
        blanks = sum(piece == Blank("text") for piece in pieces)
        if blanks > voc.sentinels:
            raise DocumentError(f"{blanks} blanks but {voc.sentinels} sentinels: ask less in one document")
        drawn = bool(pieces) and pieces[-1] == Blank("image")
        if not open and blanks + drawn != len(answers):
            raise DocumentError(
                f"{blanks + drawn} blanks but {len(answers)} answers: only an open document leaves some unfilled"
            )
        if open and blanks and blanks == len(answers):
            raise DocumentError(f"{blanks} blanks and {len(answers)} answers leave nothing to say: end with a question")
        spans = [tokens([voc.eos])]
        for one in document.before:
            spans += self._spans(_runs(_as_said(one)), lambda _: self.config.retrieved_weight)
            spans.append(tokens([voc.brk], weight=self.config.retrieved_weight))
        asked = pieces if answers else [p for turn in document.turns if turn.role != "assistant" for p in turn.pieces]
        weights = dict.fromkeys(map(id, asked), self.config.asked_weight)
        spans += self._spans(_runs(pieces), lambda piece: weights.get(id(piece), 1.0))
        if open and (drawn or not blanks):
            return Sequence(compact(spans), "prompt")
        spans.append(tokens([voc.eos]))
        for i, answer in enumerate(answers):
            spans += [tokens([voc.first_sentinel + i], weight=0), self._text(answer), tokens([voc.eoss])]
        if open:
            spans.append(tokens([voc.first_sentinel + len(answers)]))
        return Sequence(compact(spans))

    def _spans(self, runs: Items[list[Text | Blank] | Image | None], weight: Callable[[Piece], float]) -> list[Span]:
        """`text <break> codes ...`, each piece with its weight, as has the break before it; a blank text is the next
        sentinel."""
        voc = self.vocabulary
        spans: list[Span] = []
        sentinel = voc.first_sentinel
        for i, run in enumerate(runs):
            if i:
                spans.append(
                    tokens([voc.brk], weight=weight(run[0] if isinstance(run, list) else run or Blank("image")))
                )
            if isinstance(run, Image):
                spans.append(picture(READER, run, self.config.image.codes_per_image, weight=weight(run)))
            for piece in run if isinstance(run, list) else []:
                text = self._text(piece.text, weight(piece)) if isinstance(piece, Text) else None
                spans.append(text or tokens([sentinel], weight=0))
                sentinel += isinstance(piece, Blank)
        return spans

    def _text(self, text: str, weight: float = 1.0) -> Span:
        return tokens(self.text_ids(text), weight=weight)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """By the BPE."""
        return tuple(i + self.vocabulary.first_text for i in self.text.encode(text))

    def streams(self, document: Document, guidance: Guidance) -> Streams:
        """The prompt; nothing, `<eos> <mask> <break>`; and its pictures, with `<mask>` for the first text and no other.

        The last `<break>` is left to come with what is emitted, where the prompt does not end with it. What the rows of
        edits hold is not in the paper. Documents before it stand in all rows: guidance is towards its own text.
        """
        nothing, pictures = (functools.partial(self._row, document, keep) for keep in (False, True))
        return guidance.streams(self.layout(document, open=True), nothing, pictures)

    def _row(self, document: Document, pictures: bool) -> Sequence:
        """A prompt without its text, or without anything."""
        pieces, _ = _asked(document, open=True)
        kept = [piece for piece in pieces if isinstance(piece, Image)] if pictures else []
        if pictures and not kept:
            raise DocumentError("image_guidance for a prompt of 0 pictures: leave it out, guidance alone does the same")
        words = next((i for i, piece in enumerate(pieces) if isinstance(piece, Text) or piece == Blank("text")), 0)
        before = sum(isinstance(piece, Image) for piece in pieces[:words]) if pictures else 0
        rest: list[Piece] = [*kept[:before], Blank("text"), *kept[before:], Blank("image")]
        masked = self.layout(Document(rest, before=document.before), open=True)
        return masked if pieces[-1:] == [Blank("image")] else masked.cut(0, len(masked) - 1)

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """Fill the blanks one by one; or go on: text up to <break> or <eos>, exactly n codes after <break>."""
        pieces, answers = _asked(document, open=True)
        blanks = sum(piece == Blank("text") for piece in pieces) - len(answers)
        last = pieces[-1] if pieces else None
        if blanks and last != Blank("image"):
            return functools.partial(self._fill, blanks, len(answers))
        return functools.partial(self._continue, last, max_images)

    def _fill(self, blanks: int, answered: int, emitted: Items[Emitted]) -> Next | Forced | Stop:
        voc = self.vocabulary
        filled = sum(run.kind == "text" for run in emitted)
        if filled == blanks:
            return Stop("filled")
        if filled and emitted[-1].kind == "text":
            return Forced((voc.first_sentinel + answered + filled,))
        allowed = voc.allow(voc.eoss, text=len(self.text))
        return Next(kind="text", head="token", allowed=allowed, ends=frozenset([voc.eoss]))

    def _continue(self, last: Piece | None, max_images: int, emitted: Items[Emitted]) -> Next | Stop:
        voc = self.vocabulary
        drawn = sum(run.kind == "image" for run in emitted)
        ended = emitted[-1].ids[-1] if emitted else None
        after_image = emitted[-1].kind == "image" if emitted else isinstance(last, Image)
        if ended == voc.eos:
            return Stop("end")
        begun = last == Blank("image") if not emitted else ended == voc.brk
        turned = begun and _turn_to_image(last, emitted)
        if drawn >= max_images and (turned or (drawn and after_image)):
            return Stop("max_images")
        if turned:
            n = self.config.image.codes_per_image
            return Next(kind="image", head="code", allowed=voc.allow(codes=True), length=n)
        ends = [voc.eos] + ([voc.brk] if after_image or drawn < max_images else [])
        allowed = voc.allow(*ends, text=0 if after_image else len(self.text))
        return Next(kind="text", head="token", allowed=allowed, ends=frozenset(ends))

    def read_text(self, run: Emitted) -> str:
        """Symbols of the system are left out."""
        first = self.vocabulary.first_text
        return self.text.decode([i - first for i in run.ids if i >= first])

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """Short side to the resolution with Lanczos, centre crop, [-1, 1] (Chameleon's code); fast: bicubic."""
        return {READER: square(self.config.image.resolution, fast)}

    @property
    def max_length(self) -> int:
        """The rows of the position table."""
        return self.config.positions

    def write_files(self, directory: Path) -> None:
        """The BPE, and the retriever's."""
        self.text.write(directory / TOKENIZER)
        if self.clip_text is not None:
            self.clip_text.write(directory / CLIP_TOKENIZER)


def build(size: str) -> CM3Leon:
    """Random weights, with a BPE that knows single bytes only: for trying shapes and speeds.

    Raises:
        ConfigError: no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"CM3Leon comes as {', '.join(SIZES)}, not {size!r}")
    return CM3Leon(SIZES[size], BPE.train([], 256))


def _decoder(config: CM3LeonConfig) -> Decoder:
    if config.chameleon:
        return chameleon_decoder(config.width, config.depth, config.heads, config.chameleon)
    return Decoder(_blocks(config), plain_layer_norm(config.width))


def _blocks(config: CM3LeonConfig) -> list[nn.Module]:
    activation = {"relu": nn.ReLU(), "gelu": nn.GELU("tanh"), "squared_relu": SquaredReLU()}[config.activation]
    rotation = Rotary(config.width // config.heads, config.rotary) if config.rotary else NoRotation()
    return [_block(config, activation, rotation) for _ in range(config.depth)]


def _block(config: CM3LeonConfig, activation: nn.Module, rotation: nn.Module) -> Block:
    return Block(
        attention_norm=plain_layer_norm(config.width),
        attention=SelfAttention(config.width, config.heads, rotation=rotation),
        mlp_norm=plain_layer_norm(config.width),
        mlp=MLP(config.width, config.hidden or 4 * config.width, activation),
    )


def _asked(document: Document, open: bool) -> tuple[list[Piece], list[str]]:
    """The pieces as they are laid out, and the known answers to their first blanks.

    An open document whose last turn is an empty one of the assistant goes on as it is said: an answer that may draw.
    """
    turns = document.turns
    if not turns:
        return list(document.pieces), []
    if open and document.pieces and turns[-1].role == "assistant" and not turns[-1].pieces:
        said = _as_said(document)
        return [*said, *([Text("\n")] if isinstance(said[-1], Text) else [])], []
    answers = [turn for turn in turns if turn.role == "assistant"]
    if any(not isinstance(piece, Text) for turn in answers for piece in turn.pieces):
        return _as_said(document), []
    text: list[Piece] = []
    for turn in turns:
        if turn.role == "assistant":
            text.append(Blank("text"))
        else:
            text += [Text("\n")] if text else []
            text += [piece for piece in turn.pieces if isinstance(piece, Text)]
    if open and turns[-1].role != "assistant":
        text.append(Blank("text"))
    pictures = [piece for turn in turns for piece in turn.pieces if not isinstance(piece, Text)]
    return [*text, *pictures], [turn.text for turn in answers]


def _as_said(document: Document) -> list[Piece]:
    """The pieces in their order; texts of two turns in a row stand on lines of their own."""
    said = [list(turn.pieces) for turn in document.turns if turn.pieces] or [list(document.pieces)]
    apart = [[Text("\n")] if isinstance(a[-1], Text) and isinstance(b[0], Text) else [] for a, b in pairwise(said)]
    return [piece for turn, between in zip(said, [*apart, []], strict=True) for piece in [*turn, *between]]


def _runs(pieces: Items[Piece]) -> list[list[Text | Blank] | Image | None]:
    """Runs of text and text blanks, and pictures one by one; None for a picture that is to be drawn.

    Raises:
        DocumentError: a video, or a blank picture before the end.
    """
    runs: list[list[Text | Blank] | Image | None] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, Image):
            runs.append(piece)
        elif piece == Blank("image"):
            if i + 1 < len(pieces):
                raise DocumentError(
                    f"piece {i + 1} of {len(pieces)} is a blank picture: only the last piece can be one"
                )
            runs.append(None)
        elif isinstance(piece, Text | Blank):
            if not runs or not isinstance(runs[-1], list):
                runs.append([])
            runs[-1].append(piece)  # type: ignore[union-attr]
        else:
            raise DocumentError("CM3Leon reads no video: give single pictures")
    return runs


def _turn_to_image(last: Piece | None, emitted: Items[Emitted]) -> bool:
    """Whether the <break> just passed leads from text to a picture, rather than back to text."""
    if not emitted:
        return True
    before = emitted[-2].kind if len(emitted) > 1 else ("image" if isinstance(last, Image) else "text")
    return len(emitted[-1].ids) > 1 or before != "image"
