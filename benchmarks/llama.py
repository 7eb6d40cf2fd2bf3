"""A text model of LLaMA's form out of Plait's parts, with the weights of a `transformers.LlamaForCausalLM` beside it.

For benchmarks alone: tokens are bytes of the prompt, a picture is read as vectors that are given, and what is emitted
is a run of a fixed number of ids, so that both sides do the same work at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from plait.checkpoints.parts import LLAMA
from plait.document import Document, Image, Text
from plait.nn.attention import KVCache
from plait.nn.llama import LLaMA, LLaMAConfig
from plait.nn.packed import PackedLinear
from plait.sequence import Batch, Prepare, Sequence, Slot, Span, tokens
from plait.systems.base import Emitted, Format, Grammar, Guidance, Hidden, Next, Stop, Streams, System, sight

SIZES = {"10m": (256, 8, 8), "100m": (768, 12, 12)}  # width, depth, heads
VOCABULARY = 8000
READER = "vectors"
LENGTH = 2048


def peer(size: str) -> Any:
    """The transformers model, with random weights, in fp32."""
    import transformers

    width, depth, heads = SIZES[size]
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 16 * 16,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=LENGTH,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


class Llama(System):
    """Plait's parts with the peer's weights.

    Args:
        theirs: the peer.
        emitted: ids of a reply.
        vectors: what every picture is read as, (n, width).
    """

    def __init__(self, theirs: Any, emitted: int, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.config = theirs.config
        self.vectors = torch.empty(0, self.config.hidden_size) if vectors is None else vectors
        self.format = Run(emitted, len(self.vectors))
        with torch.device("meta"):
            self.language = LLaMA(
                LLaMAConfig(
                    vocabulary=VOCABULARY,
                    width=self.config.hidden_size,
                    hidden=self.config.intermediate_size,
                    depth=self.config.num_hidden_layers,
                    heads=self.config.num_attention_heads,
                    positions=LENGTH,
                    eps=self.config.rms_norm_eps,
                )
            )
        wanted = {name: tuple(tensor.shape) for name, tensor in self.language.state_dict().items()}
        self.language.load_state_dict(dict(LLAMA.read(theirs.state_dict().items(), wanted)), assign=True)

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Embedding, then the decoder."""
        own = {name: self.vectors.expand(len(slots.pictures), -1, -1) for name, slots in batch.slots.items()}
        x = batch.embedded(self.language.embed, own)
        return Hidden(states=self.language(x, batch.position, sight(batch, cache)), own={})

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The output table."""
        return {"token": self.language.head}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        """Nothing to see."""
        return [Image(PIL.Image.new("RGB", (1, 1))) for _ in runs]

    @property
    def chance(self) -> Mapping[str, float]:
        """Nothing is trained."""
        return {}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> Llama:
        """It is never saved."""
        raise NotImplementedError

    def products(self, rows: int, prompt: int) -> Callable[[int], None]:
        """The matrix products of a prompt of so many elements in each row, and of so many steps (`products`)."""
        return products([m for m in self.modules() if m is not self.language.head], self.language.head, rows, prompt)


def products(modules: Iterable[nn.Module], head: nn.Module, rows: int, prompt: int) -> Callable[[int], None]:
    """The matrix products of the linear layers among `modules` and of the output, and nothing else.

    They are those of `torch.nn.functional.linear`, or packed where a layer is. Of so many rows: of a prompt of so many
    elements in each, whose last one alone goes through `head`, and of as many steps as what is returned is given.
    """
    layers = [module for module in modules if isinstance(module, nn.Linear | PackedLinear)]
    first = [torch.randn(rows * prompt, layer.weight.shape[1]) for layer in layers]
    first.append(torch.randn(rows, head.weight.shape[1]))
    later = [x[:rows].clone() for x in first]
    layers.append(head)

    def run(steps: int) -> None:
        for inputs in (first, *[later] * (steps - 1)):
            for layer, x in zip(layers, inputs, strict=True):
                layer(x)

    return run


class Run(Format):
    """A prompt's pictures and bytes, then `emitted` ids; under guidance beside the prompt's first byte alone."""

    def __init__(self, emitted: int, vectors: int = 0) -> None:
        self.emitted = emitted
        self.vectors = vectors
        self.allowed = torch.ones(VOCABULARY, dtype=torch.bool)

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """Vectors and bytes."""
        return Sequence(
            tuple(
                tokens(piece.text.encode()) if isinstance(piece, Text) else Span(Slot(READER, piece), self.vectors)
                for piece in document
                if isinstance(piece, Text | Image)
            )
        )

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """One run."""
        step = Next(kind="image", head="token", allowed=self.allowed, length=self.emitted)
        return lambda emitted: Stop("end") if emitted else step

    def streams(self, document: Document, guidance: Guidance) -> Streams:
        """u + guidance (c - u)."""
        prompt = self.layout(document)
        return guidance.streams(prompt, lambda: prompt.cut(0, 1))

    def read_text(self, run: Emitted) -> str:
        """No text is emitted."""
        return ""

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """No pixel is looked at."""
        return {READER: Prepare((3, 1, 1), lambda image, out: out.fill(0))}

    @property
    def max_length(self) -> int:
        """As the peer's."""
        return LENGTH
