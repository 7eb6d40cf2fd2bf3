"""What the published systems took as pretrained, in one system that the recipe `foundations/tiny` trains.

    language      text ─▶ LLaMA ─▶ words
    eva           pixels ─▶ EVA's tower
    qformer       pixels ─▶ eva ─▶ LayerNorm ─▶ Q-Former ◀─ text          BLIP-2's first stage: compare, match, caption
    bridge        pixels ─▶ eva ─▶ LayerNorm ─▶ Q-Former ─▶ linear ─▶ LLaMA ─▶ words                 its second stage

Each system takes the parts that its paper took (`plait.checkpoints.directory.take`). The second stage of BLIP-2
(arXiv 2301.12597) is MiniGPT-4 in all but what trains: it is run as one, on whose parts the others stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from plait.config import from_plain
from plait.document import Image
from plait.errors import ConfigError
from plait.nn.attention import KVCache
from plait.nn.qformer import QFormer, QFormerConfig, QFormerHeads, TextConfig
from plait.sequence import Batch
from plait.systems.base import Emitted, Hidden, Part, System
from plait.systems.minigpt4 import TINY as MINIGPT4_TINY
from plait.systems.minigpt4 import MiniGPT4, MiniGPT4Config
from plait.text.pieces import SentencePiece


@dataclass(frozen=True, kw_only=True)
class FoundationsConfig:
    """The sizes.

    Raises:
        ConfigError: no Q-Former.
    """

    blip2: MiniGPT4Config
    """Tower, Q-Former and language model; how text is laid out."""
    text: TextConfig
    """Text branch of the Q-Former in BLIP-2's first stage; its ids are the language model's."""
    shared: int
    """Width of the space in which pictures and texts are compared."""

    def __post_init__(self) -> None:
        if self.blip2.qformer is None:
            raise ConfigError("blip2 has no qformer: give its sizes, BLIP-2 trains one")

    @property
    def qformer(self) -> QFormerConfig:
        """The Q-Former of the first stage, with its text branch."""
        assert self.blip2.qformer is not None
        return replace(self.blip2.qformer, text=self.text)


TINY = FoundationsConfig(blip2=MINIGPT4_TINY, text=TextConfig(vocabulary=513, positions=96), shared=64)


class Foundations(System):
    """All of them. What it reads and says by itself is what BLIP-2 does after its second stage."""

    def __init__(self, config: FoundationsConfig, text: SentencePiece) -> None:
        super().__init__()
        self.config = config
        self.blip2 = MiniGPT4(config.blip2, text)
        self.qformer = QFormer(config.qformer)
        self.heads_of_qformer = QFormerHeads(config.qformer, config.shared)
        self.format = self.blip2.format

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """BLIP-2's second stage, or the language model where there are no pictures."""
        return self.blip2(batch, cache)

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
        modules = {
            "eva": self.blip2.vision,
            "vision_norm": self.blip2.vision_norm,
            "qformer": self.qformer,
            "heads": self.heads_of_qformer,
            "bridge": self.blip2.qformer,
            "projection": self.blip2.projection,
            "language": self.blip2.language,
        }
        return {name: Part(module=module) for name, module in modules.items() if module is not None}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> Foundations:
        """From a plain `FoundationsConfig` and the tokenizer."""
        sizes = from_plain(FoundationsConfig, config)
        return cls(sizes, SentencePiece.read(directory / "tokenizer.model", pad=sizes.blip2.pad))
