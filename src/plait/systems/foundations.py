"""What the published systems took as pretrained, in one system that the recipe `foundations/tiny` trains.

    language      text ─▶ LLaMA ─▶ words
    clip          pixels ─▶ CLIP's tower ─▶ compared ◀─ tower of texts ◀─ text
    eva           pixels ─▶ EVA's tower
    qformer       pixels ─▶ eva ─▶ LayerNorm ─▶ Q-Former ◀─ text          BLIP-2's first stage: compare, match, caption
    bridge        pixels ─▶ eva ─▶ LayerNorm ─▶ Q-Former ─▶ linear ─▶ LLaMA ─▶ words                 its second stage
    vae           pixels ─▶ latents ─▶ pixels
    unclip        pixels ─▶ CLIP's tower, which learned on ─▶ embedding ─▶ U-Net ─▶ latents ─▶ pixels
    painter       text ─▶ CLIP's tower of texts, which learned on ─▶ U-Net ─▶ latents ─▶ pixels

Each system takes the parts that its paper took (`plait.checkpoints.directory.take`). The second stage of BLIP-2
(arXiv 2301.12597) is MiniGPT-4 in all but what trains: it is run as one, on whose parts the others stand. The last
three, which draw, are there where the configuration has `drawers`: SEED-LLaMA took an unCLIP, Emu Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.config import from_plain
from plait.document import Image
from plait.errors import ConfigError
from plait.images import from_array, from_clip
from plait.nn.attention import KVCache
from plait.nn.clip import CLIP, CLIPConfig, CLIPImage, CLIPTextConfig, TextTower
from plait.nn.diffusion import DiffusionConfig, UnCLIP, UnCLIPConfig, VectorDiffusion
from plait.nn.qformer import QFormer, QFormerConfig, QFormerHeads, TextConfig
from plait.nn.vit import ViT
from plait.sequence import Batch
from plait.systems.base import Drawing, Emitted, Hidden, Part, Similarity, System, Towers
from plait.systems.emu import TINY as EMU_TINY
from plait.systems.minigpt4 import CAPTION_END, MiniGPT4, MiniGPT4Config
from plait.systems.minigpt4 import TINY as MINIGPT4_TINY
from plait.systems.seed_tokenizer import TINY as SEED_TINY
from plait.text.pieces import SentencePiece


@dataclass(frozen=True, kw_only=True)
class DrawersConfig:
    """What draws.

    Raises:
        ConfigError: two VAEs.
    """

    unclip: UnCLIPConfig
    """From image embeddings."""
    painter: DiffusionConfig
    """From texts."""
    symbols: int
    """Of a text, with pads behind it; what is beyond is not read. Stable Diffusion has 77."""

    def __post_init__(self) -> None:
        if self.unclip.diffusion.vae != self.painter.vae:
            raise ConfigError("the VAEs of unclip and painter differ: one is trained, give both the same sizes")


@dataclass(frozen=True, kw_only=True)
class FoundationsConfig:
    """The sizes.

    Raises:
        ConfigError: no Q-Former.
    """

    blip2: MiniGPT4Config
    """Tower, Q-Former and language model; how text is laid out."""
    clip: CLIPConfig
    """Its texts are of the language model's ids."""
    text: TextConfig
    """Text branch of the Q-Former in BLIP-2's first stage; its ids are the language model's."""
    shared: int
    """Width of the space in which pictures and texts are compared."""
    drawers: DrawersConfig | None = None
    """None: nothing draws."""

    def __post_init__(self) -> None:
        if self.blip2.qformer is None:
            raise ConfigError("blip2 has no qformer: give its sizes, BLIP-2 trains one")
        width = self.drawers and self.drawers.painter.unet.get("cross_attention_dim")
        if self.drawers and width != self.clip.text.width:
            raise ConfigError(
                f"a painter that looks at vectors of width {width} for those of a tower of {self.clip.text.width}: "
                "both must be the same"
            )

    @property
    def qformer(self) -> QFormerConfig:
        """The Q-Former of the first stage, with its text branch."""
        assert self.blip2.qformer is not None
        return replace(self.blip2.qformer, text=self.text)


LOOKED_AT = 16
"""Candidates of each query that matching looks at; BLIP-2 has 128 on COCO."""

TINY = FoundationsConfig(
    blip2=MINIGPT4_TINY,
    clip=CLIPConfig(
        image=replace(MINIGPT4_TINY.vision, eps=1e-5),
        text=CLIPTextConfig(vocabulary=512, positions=96, width=96, depth=2, heads=4, hidden=384),
        shared=96,
    ),
    text=TextConfig(vocabulary=513, positions=96),
    shared=64,
)
assert SEED_TINY.decoder is not None and EMU_TINY.decoder is not None
DRAWERS = replace(
    TINY,
    drawers=DrawersConfig(
        unclip=SEED_TINY.decoder,
        painter=replace(EMU_TINY.decoder, unet={**EMU_TINY.decoder.unet, "cross_attention_dim": TINY.clip.text.width}),
        symbols=48,
    ),
)
"""The same, with those that draw."""


class Foundations(System):
    """All of them. What it reads and says by itself is what BLIP-2 does after its second stage."""

    def __init__(self, config: FoundationsConfig, text: SentencePiece) -> None:
        super().__init__()
        self.config = config
        self.blip2 = MiniGPT4(config.blip2, text)
        self.clip = CLIP(config.clip)
        self.qformer = QFormer(config.qformer)
        self.heads_of_qformer = QFormerHeads(config.qformer, config.shared)
        if config.drawers:
            drawers = config.drawers
            sizes, embedding = config.clip, drawers.unclip.embedding
            self.embedder = CLIPImage(sizes.image, embedding, sizes.activation, patches=True)
            self.unclip = UnCLIP(drawers.unclip)
            self.prompter = TextTower(config.clip.text, config.clip.activation)
            self.painter = VectorDiffusion(drawers.painter)
        self.format = self.blip2.format
        self.pieces = text

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """BLIP-2's second stage, or the language model where there are no pictures."""
        return self.blip2(batch, cache)

    @property
    def eva(self) -> ViT:
        """EVA's tower."""
        return self.blip2.vision

    def see(self, pixels: Float[Tensor, "m 3 y x"]) -> Float[Tensor, "m n c"]:
        """What the Q-Former looks at."""
        seen: Tensor = self.blip2.vision_norm(self.blip2.vision(pixels))
        return seen

    @property
    def begin(self) -> int:
        """With which the Q-Former begins a caption; BLIP-2's [DEC]."""
        return self.config.text.vocabulary - 1

    @property
    def similarities(self) -> Mapping[str, Similarity]:
        """How like pictures are to texts: by CLIP; by the Q-Former; and by it, the nearest looked at once more."""
        return {
            "clip": self._by_clip,
            "qformer": self._by_qformer,
            "qformer_matched": self._by_matching,
        }

    def _by_clip(self, pictures: Items[Image], texts: Items[str]) -> tuple[Tensor, Tensor]:
        towers = self.towers
        likeness = self.clip.similarity(towers.pictures(pictures), towers.texts(texts))
        return likeness, likeness.T

    @property
    def towers(self) -> Towers:
        """CLIP's."""
        longest = self.config.clip.text.positions
        return Towers(
            width=self.config.clip.shared,
            parts=("clip",),
            texts=lambda texts: self.clip.text_features(*self._padded(texts, longest)),
            pictures=lambda pictures: self.clip.image_features(self.pixels(pictures)),
        )

    def _by_qformer(self, pictures: Items[Image], texts: Items[str]) -> tuple[Tensor, Tensor]:
        likeness = self._nearest(self.see(self.pixels(pictures)), *self._padded(texts))
        return likeness, likeness.T

    def _by_matching(self, pictures: Items[Image], texts: Items[str]) -> tuple[Tensor, Tensor]:
        image, (ids, real) = self.see(self.pixels(pictures)), self._padded(texts)
        likeness = self._nearest(image, ids, real)

        def matched(picture: Tensor, text: Tensor) -> Tensor:
            both = self.qformer.read_both(image[picture], ids[text], real[text])
            return self.heads_of_qformer.match(both[:, : self.qformer.config.queries])[:, 1]

        return _again(likeness, matched), _again(likeness.T, lambda text, picture: matched(picture, text))

    def _nearest(self, image: Tensor, ids: Tensor, real: Tensor) -> Tensor:
        features = self.heads_of_qformer.image_features(self.qformer(image))
        first = self.heads_of_qformer.text_features(self.qformer.read_text(ids, real)[:, :1])[:, 0]
        return self.heads_of_qformer.similarity(features, first)

    def _padded(self, texts: Items[str], most: int | None = None) -> tuple[Tensor, Tensor]:
        """(m, t) ids as in training, from the first symbol of a document to the end of the caption; which are real.

        Args:
            most: ids of a text; one that has more keeps its beginning and its last symbol.
        """
        text = self.pieces
        whole = ([text.bos, *text.encode(one + CAPTION_END)] for one in texts)
        rows = [torch.tensor(row if most is None or len(row) <= most else [*row[: most - 1], row[-1]]) for row in whole]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.device)
        return ids.clamp(min=0), ids >= 0

    @property
    def vae(self) -> Any:
        """That of both that draw: the painter has a copy."""
        return self.unclip.diffusion.vae

    def whiten(self, pictures: Items[Image]) -> None:
        """Brings the VAE's latents, those of these pictures, to mean 0 and deviation 1 (`LatentDiffusion.whiten`)."""
        self.unclip.diffusion.whiten(from_clip(self.pixels(pictures)))

    def look(self, ids: Int[Tensor, "m t"], real: Bool[Tensor, "m t"]) -> Float[Tensor, "m n e"]:
        """What the painter looks at; `real` is false where a text has no symbol, and everywhere for no text."""
        assert self.config.drawers, "nothing draws"
        missing = self.config.drawers.symbols - ids.shape[1]
        return self.prompter.states(nn.functional.pad(ids.masked_fill(~real, 0), (0, missing)))

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The ways to draw: pictures given back by the VAE, drawn from their embeddings, drawn from their texts."""
        if self.config.drawers is None:
            return {}
        return {"vae": self._given_back, "unclip": self._from_embeddings, "painter": self._from_texts}

    def _given_back(self, pictures: Items[Image], texts: Items[str], generators: Items[torch.Generator]) -> list[Image]:
        diffusion = self.unclip.diffusion
        return _images(diffusion.pixels(diffusion.latents(from_clip(self.pixels(pictures)))))

    def _from_embeddings(
        self, pictures: Items[Image], texts: Items[str], generators: Items[torch.Generator]
    ) -> list[Image]:
        return _images(self.unclip.draw(self.embedder(self.pixels(pictures)), generators))

    def _from_texts(self, pictures: Items[Image], texts: Items[str], generators: Items[torch.Generator]) -> list[Image]:
        ids, real = self._padded(texts)
        seen, nothing = self.look(ids, real), self.look(ids[:1], torch.zeros_like(real[:1]))
        return _images(self.painter.draw(seen, generators, nothing))

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """LLaMA's output table."""
        return self.blip2.heads

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """None is ever asked for."""
        return self.blip2.write(runs)

    @property
    def chance(self) -> Mapping[str, float]:
        """ln(vocabulary)."""
        return self.blip2.chance

    @property
    def parts(self) -> Mapping[str, Part]:
        """Those that other systems take, and `projection`, which leads from the bridge to the language model."""
        modules: dict[str, nn.Module | None] = {
            "clip": self.clip,
            "eva": self.blip2.vision,
            "vision_norm": self.blip2.vision_norm,
            "qformer": self.qformer,
            "heads": self.heads_of_qformer,
            "bridge": self.blip2.qformer,
            "projection": self.blip2.projection,
            "language": self.blip2.language,
        }
        if self.config.drawers:
            drawers = ("embedder", "unclip", "prompter", "painter")
            modules |= {name: self.get_submodule(name) for name in drawers}
        return {name: Part(module=module) for name, module in modules.items() if module is not None}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> Foundations:
        """From a plain `FoundationsConfig` and the tokenizer."""
        sizes = from_plain(FoundationsConfig, config)
        return cls(sizes, SentencePiece.read(directory / "tokenizer.model", pad=sizes.blip2.pad))


def _images(pixels: Float[Tensor, "m 3 y x"]) -> list[Image]:
    return [Image(from_array(values, rounded=True)) for values in pixels.float().cpu().numpy()]


def _again(likeness: Tensor, matched: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Likeness (q, c), to which for the nearest candidates of each query that of matching is added; the others follow.

    As released: the logit of matching is added to the likeness of the contrast.
    """
    q, c = likeness.shape
    near = likeness.topk(min(LOOKED_AT, c), dim=1).indices
    out = likeness - 1e4
    for row in range(q):
        nearest = near[row]
        out[row, nearest] = likeness[row, nearest] + matched(torch.full_like(nearest, row), nearest)
    return out
