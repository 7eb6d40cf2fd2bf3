"""SEED's tokenizer (arXiv 2310.01218, fig. 3): a picture as 32 codes that a language model can read and write in order.

    pixels ─▶ EVA ViT-g ─▶ LayerNorm ─▶ causal Q-Former ─▶ down ─▶ nearest of 8,192 codes ─▶ 32 codes

                          ┌─▶ blocks ─▶ the Q-Former's vectors again (in training alone)
    32 codes ─▶ table ─▶ up
                          └─▶ blocks ─▶ head ─▶ CLIP's image embedding ─▶ unCLIP ─▶ picture

It is a system of its own, which reads a picture and writes it again, and a part of SEED-LLaMA. The head is an MLP in
the released weights, and a small Q-Former of one query in the released training code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from plait import images
from plait.config import from_plain
from plait.document import Document, Image
from plait.errors import ConfigError, DocumentError, InputError
from plait.nn.attention import KVCache, whole
from plait.nn.clip import CLIPTextConfig
from plait.nn.diffusion import (
    STABLE_SCHEDULER,
    STABLE_VAE,
    TINY_UNET,
    TINY_VAE,
    DiffusionConfig,
    PromptConfig,
    UnCLIP,
    UnCLIPConfig,
)
from plait.nn.qformer import BLIP2_QFORMER, QFormer, QFormerConfig, QFormerHeads
from plait.nn.quantise import Quantised, VectorQuantiser, nearest_rows
from plait.nn.vit import EVA_VIT_G, VITConfig, eva_vit, vit_block
from plait.sequence import Batch, Prepare, Sequence, Slot, Span
from plait.systems.base import Drawing, Emitted, Format, Grammar, Hidden, Next, Stop, System, sight

READER = "seed"
REVERSE_DEPTH = 4
"""Layers of the Q-Former that is the head, in the released training code."""


@dataclass(frozen=True, kw_only=True)
class SeedTokenizerConfig:
    """The sizes.

    Raises:
        ConfigError: a decoder of another embedding.
    """

    vision: VITConfig
    qformer: QFormerConfig
    """With a text branch while it is trained by contrast (`shared`), without when published."""
    codes: int
    code_width: int
    embedding: int
    """Width of CLIP's image embedding."""
    branch_depth: int = 4
    """Blocks of the branch that reconstructs, and of that which generates."""
    branch_heads: int = 12
    narrowing: tuple[int, ...] = (256, 128, 32)
    """Widths of the head's MLP; empty: the head is a Q-Former of one query (`reverse`)."""
    reverse_depth: int = REVERSE_DEPTH
    """Layers of the head that is a Q-Former."""
    shared: int = 256
    """Width of the space in which pictures and texts are compared, where the Q-Former has a text branch."""
    bicubic: bool = False
    """Pictures are resized by the bicubic filter, as in its own training, not by the bilinear one of all its users."""
    keep_ratio: bool = False
    """The short side is resized and the centre taken, rather than the whole squashed."""
    decoder: UnCLIPConfig | None = None
    """None: codes are written, no pictures."""

    def __post_init__(self) -> None:
        if self.decoder and self.decoder.embedding != self.embedding:
            raise ConfigError(
                f"a decoder of embeddings {self.decoder.embedding} wide for {self.embedding}: both must be the same"
            )

    @property
    def codes_per_image(self) -> int:
        """One for each query."""
        return self.qformer.queries

    @property
    def reverse(self) -> QFormerConfig | None:
        """The Q-Former that is the head, where there is one."""
        if self.narrowing:
            return None
        one = replace(self.qformer, queries=1, image_width=self.qformer.width, causal=False, text=None)
        return replace(one, depth=self.reverse_depth)


UNCLIP_SD21 = UnCLIPConfig(  # stabilityai/stable-diffusion-2-1-unclip
    diffusion=DiffusionConfig(
        unet={
            "sample_size": 96,
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2048,
            "upcast_attention": True,
        },
        vae={**STABLE_VAE, "sample_size": 768},
        scheduler={**STABLE_SCHEDULER, "prediction_type": "v_prediction"},
    ),
    embedding=1024,
    noising={"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"},
    prompt=PromptConfig(
        text=CLIPTextConfig(vocabulary=49_408, positions=77, width=1024, depth=23, heads=16, hidden=4096)
    ),
)
SEED_2 = SeedTokenizerConfig(
    vision=EVA_VIT_G,
    qformer=replace(BLIP2_QFORMER, causal=True),
    codes=8192,
    code_width=32,
    embedding=1024,
    decoder=UNCLIP_SD21,
)
_TINY_UNCLIP = UnCLIPConfig(
    diffusion=DiffusionConfig(
        unet={
            **UNCLIP_SD21.diffusion.unet,
            **TINY_UNET,
            "in_channels": TINY_UNET["out_channels"] + 8,
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 64,
            "projection_class_embeddings_input_dim": 768,
        },
        vae=TINY_VAE,
        scheduler=UNCLIP_SD21.diffusion.scheduler,
        guidance=2.0,
        rows=64,
    ),
    embedding=384,
    noising=UNCLIP_SD21.noising,
)
TINY = SeedTokenizerConfig(
    vision=VITConfig(image_size=32, patch=8, width=128, depth=4, heads=4, hidden=512),
    qformer=QFormerConfig(width=96, depth=4, heads=4, hidden=192, queries=32, image_width=128, causal=True),
    codes=128,
    code_width=32,
    embedding=384,
    branch_depth=2,
    branch_heads=4,
    narrowing=(96, 96, 64),
    shared=64,
    decoder=_TINY_UNCLIP,
)
SIZES = {"tiny": TINY, "published": SEED_2}


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """What training looks at."""

    read: Float[Tensor, "m n c"]
    """The Q-Former's vectors."""
    quantised: Quantised
    """Of a map n high and 1 wide."""
    again: Float[Tensor, "m n c"]
    """The Q-Former's vectors, reconstructed from the codes."""
    embedding: Float[Tensor, "m d"]
    """CLIP's image embedding, from the codes."""


class SeedTokenizer(System):
    """The whole tokenizer."""

    config: SeedTokenizerConfig
    format: SeedTokenizerFormat

    def __init__(self, config: SeedTokenizerConfig) -> None:
        super().__init__()
        c = self.config = config
        width, n = c.qformer.width, c.codes_per_image
        self.format = SeedTokenizerFormat(c)
        self.vision = eva_vit(c.vision, norm=nn.Identity())
        self.vision_norm = nn.LayerNorm(c.vision.width, eps=1e-5)
        self.qformer = QFormer(c.qformer)
        self.heads_of_qformer = QFormerHeads(c.qformer, c.shared, compares_only=True) if c.qformer.text else None
        self.down = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, c.code_width))
        self.quantiser = VectorQuantiser(c.codes, c.code_width)
        self.up = nn.Sequential(nn.Linear(c.code_width, c.code_width), nn.Tanh(), nn.Linear(c.code_width, width))
        self.reconstruct = Branch(c, n)
        self.generate = Branch(c, n)
        self.head: nn.Module = ReverseHead(c.reverse, c.embedding) if c.reverse else MLPHead(c)
        self.decoder = UnCLIP(c.decoder) if c.decoder else None

    def see(self, pixels: Float[Tensor, "m 3 y x"]) -> Float[Tensor, "m p w"]:
        """What the queries look at; the norm is always in fp32."""
        seen = self.vision(pixels.to(self.vision.class_token.dtype))
        norm = self.vision_norm
        weight, bias = norm.weight.float(), norm.bias.float()
        seen = nn.functional.layer_norm(seen.float(), norm.normalized_shape, weight, bias, norm.eps)
        return seen.to(self.qformer.queries.dtype)

    def tokenise(self, pixels: Float[Tensor, "m 3 y x"]) -> Tokenised:
        """From pixels to both branches, with gradients that go straight through the codes."""
        read = self.qformer(self.see(pixels))
        quantised = self.quantiser(self.down(read).mT[..., None])
        up = self.up(quantised.vectors[..., 0].mT.to(read.dtype))  # (m, n, c)
        return Tokenised(
            read=read, quantised=quantised, again=self.reconstruct(up), embedding=self.head(self.generate(up))
        )

    def image_features(self, pixels: Float[Tensor, "m 3 y x"]) -> Float[Tensor, "m f"]:
        """What pictures are compared by with texts: the last query, which has seen all others.

        Raises:
            ConfigError: the Q-Former has no text branch.
        """
        return self._compared().image_features(self.qformer(self.see(pixels))[:, -1:])[:, 0]

    def text_features(self, ids: Int[Tensor, "k t"], real: Bool[Tensor, "k t"]) -> Float[Tensor, "k f"]:
        """What texts are compared by: their first symbol.

        Raises:
            ConfigError: as `image_features`.
        """
        return self._compared().text_features(self.qformer.read_text(ids, real)[:, :1])[:, 0]

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """What the products of features are divided by while they are trained.

        Raises:
            ConfigError: as `image_features`.
        """
        return self._compared().temperature

    def _compared(self) -> QFormerHeads:
        if self.heads_of_qformer is None:
            raise ConfigError("this tokenizer compares no texts: give the configuration of its Q-Former `text`")
        return self.heads_of_qformer

    def forget_texts(self) -> None:
        """Takes the text branch of the Q-Former away, which only its first stage needs."""
        self.qformer.forget_text()
        self.heads_of_qformer = None
        self.config = self.format.config = replace(self.config, qformer=self.qformer.config)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "m 3 y x"]) -> Int[Tensor, "m n"]:
        """Codes of pictures, from 0 on."""
        vectors = self.down(self.qformer(self.see(pixels)))
        return nearest_rows(vectors, self.quantiser.codebook.weight)

    def picture_codes(self, pixels: Float[Tensor, "m 3 y x"]) -> Int[Tensor, "m n"]:
        """The same."""
        return self.encode(pixels)

    def embed(self, codes: Int[Tensor, "m n"]) -> Float[Tensor, "m d"]:
        """CLIP's image embedding of codes; it has any length.

        Raises:
            InputError: codes of another number, or that there are not.
        """
        n, last = self.config.codes_per_image, self.config.codes - 1
        if codes.shape[1] != n:
            raise InputError(f"{codes.shape[1]} codes for a picture of {n}: give all of one picture in a row")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= last:
            raise InputError(f"codes from {int(codes.min())} to {int(codes.max())}: there are 0 to {last}")
        return self.head(self.generate(self.up(self.quantiser.lookup(codes))))

    @torch.no_grad()
    def decode(
        self,
        codes: Int[Tensor, "m n"],
        generator: torch.Generator | Items[torch.Generator],
        negative: Int[Tensor, "_ n"] | None = None,
    ) -> list[Image]:
        """Pictures of codes.

        Args:
            codes: of each picture.
            generator: of the noise, on the CPU: one, from which the pictures take theirs in order, or one for each.
            negative: codes of what the pictures are guided away from, one for all or one for each; None: zeros.

        Raises:
            ConfigError: there is no decoder.
            InputError: as `embed`; or generators or negatives of another number.
        """
        if self.decoder is None:
            raise ConfigError("this tokenizer has no image decoder: import it with the folder of unCLIP")
        if not len(codes):
            return []
        each = [generator] * len(codes) if isinstance(generator, torch.Generator) else list(generator)
        if len(each) != len(codes) or (negative is not None and len(negative) not in (1, len(codes))):
            away = "" if negative is None else f" and {len(negative)} negatives"
            raise InputError(
                f"{len(each)} generators{away} for {len(codes)} pictures: give one of each, or one for all"
            )
        against = None if negative is None else self.embed(negative)
        pixels = self.decoder.draw(self.embed(codes), each, against)
        return [Image(images.from_array(values, rounded=True)) for values in pixels.float().cpu().numpy()]

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Pictures again, from their codes alone; nothing without a decoder."""
        return {"codes": self._again} if self.decoder else {}

    def _again(self, pictures: Items[Image], texts: Items[str], generators: Items[torch.Generator]) -> list[Image]:
        return self.decode(self.encode(self.pixels(pictures)), generators)

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Behind a picture that was read comes the same again: the state of element p is the code n - 1 before it.

        It is an attention that copies: its keys are places, its values the vectors of codes.
        """
        own = {reader: self.encode(slots.pictures) for reader, slots in batch.slots.items()}
        vectors = self.quantiser.lookup(batch.filled(own)).float()  # (b, t, c)
        n, c = self.config.codes_per_image, self.config.code_width
        width = max(n, c)
        place = nn.functional.one_hot(batch.position % n, width).float()
        asked = nn.functional.one_hot((batch.position + 1) % n, width).float() * _SHARP
        value = nn.functional.pad(vectors, (0, width - c))
        copied = sight(batch, cache)(0)(asked[:, :, None], place[:, :, None], value[:, :, None])  # one head
        return Hidden(states=copied[:, :, 0, :c], own=own)

    def nearest(self, states: Float[Tensor, "*any c"]) -> Float[Tensor, "*any k"]:
        """Logits that leave nothing to chance: 0 for the nearest code."""
        ids = nearest_rows(states, self.quantiser.codebook.weight)
        logits = states.new_full((*ids.shape, self.config.codes), -torch.inf)
        return logits.scatter(-1, ids[..., None], 0.0)

    @property
    def tokenizer(self) -> SeedTokenizer:
        """Itself, for objectives of systems that hold one."""
        return self

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The codes."""
        return {"code": self.nearest}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """Pictures of codes, each with the noise of its own seed."""
        codes = torch.tensor([run.ids for run in runs], device=self.device)
        return self.decode(codes, [torch.Generator().manual_seed(run.seed) for run in runs]) if runs else []

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(codes)."""
        return {"code": math.log(self.config.codes)}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> SeedTokenizer:
        """From a plain `SeedTokenizerConfig`."""
        return cls(from_plain(SeedTokenizerConfig, config))


_SHARP = 1e5
"""Makes the softmax of the copy exact."""


class Branch(nn.Module):
    """Places, then blocks in which all of a picture's elements see each other."""

    def __init__(self, config: SeedTokenizerConfig, elements: int) -> None:
        super().__init__()
        width = config.qformer.width
        self.positions = nn.Parameter(torch.empty(1, elements, width))
        nn.init.zeros_(self.positions)
        self.blocks = nn.ModuleList(
            vit_block(width, config.branch_heads, 4 * width, 1e-6, i) for i in range(config.branch_depth)
        )

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n c"]:
        """Of the same shape."""
        position = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        x, attend = x + self.positions, whole()
        for block in self.blocks:
            x = block(x, position, attend)
        return x


class MLPHead(nn.Module):
    """Each vector is narrowed, then all of a picture's become one (released weights)."""

    def __init__(self, config: SeedTokenizerConfig) -> None:
        super().__init__()
        widths = (config.qformer.width, *config.narrowing)
        layers: list[nn.Module] = []
        for i, (wide, narrow) in enumerate(pairwise(widths)):
            layers += [nn.ReLU()] * (i > 0) + [nn.Linear(wide, narrow, bias=False)]
        self.narrow = nn.Sequential(*layers)
        self.out = nn.Linear(widths[-1] * config.codes_per_image, config.embedding)

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m d"]:
        """One vector a picture."""
        return self.out(self.narrow(x).flatten(1))


class ReverseHead(nn.Module):
    """One query that reads a picture's vectors (released training code)."""

    def __init__(self, config: QFormerConfig, embedding: int) -> None:
        super().__init__()
        self.qformer = QFormer(config)
        self.out = nn.Linear(config.width, embedding)

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m d"]:
        """One vector a picture."""
        return self.out(self.qformer(x)[:, 0])


class SeedTokenizerFormat(Format):
    """One picture, and the same again."""

    def __init__(self, config: SeedTokenizerConfig) -> None:
        self.config = config

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """The codes of the picture, without targets.

        Raises:
            DocumentError: the document is not one picture alone.
        """
        pieces = [piece for turn in document.turns for piece in turn.pieces] or list(document.pieces)
        if len(pieces) != 1 or not isinstance(pieces[0], Image):
            raise DocumentError(
                f"{len(document.images)} pictures among {len(pieces)} pieces: SEED's tokenizer reads a document of one "
                "picture alone; give each its own"
            )
        return Sequence((Span(Slot(READER, pieces[0]), self.config.codes_per_image),))

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """One picture."""
        allowed = torch.ones(self.config.codes, dtype=torch.bool)
        picture = Next(kind="image", head="code", allowed=allowed, length=self.config.codes_per_image)
        return lambda emitted: Stop("end") if emitted else Stop("max_images") if max_images < 1 else picture

    def read_text(self, run: Emitted) -> str:
        """None is ever written."""
        return ""

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """CLIP's mean and deviation; resized as the configuration says. No fast way."""
        size = self.config.vision.image_size
        return {READER: Prepare((3, size, size), partial(_write, self.config.bicubic, self.config.keep_ratio))}

    @property
    def max_length(self) -> int:
        """A picture and the same again."""
        return 2 * self.config.codes_per_image


def _write(bicubic: bool, keep_ratio: bool, image: Image, out: NDArray[np.float32]) -> None:
    fit = images.bilinear_square if keep_ratio else images.squash if bicubic else images.squash_bilinear
    images.to_clip(fit(image.open(), out.shape[-1]), out)


def build(size: str) -> SeedTokenizer:
    """Random weights.

    Raises:
        ConfigError: no such size.
    """
    if size not in SIZES:
        raise ConfigError(f"SEED's tokenizer comes as {', '.join(SIZES)}, not {size!r}")
    return SeedTokenizer(SIZES[size])
