"""The Q-Former of BLIP-2 (arXiv 2301.12597, fig. 2): learned queries that read a picture, and the text beside them.

    queries ─┐                    ┌─ queries: cross-attention to the picture (every n-th layer), their own MLP
             ├─ LN ─▶ self-attention                                                        ─▶ next layer
    text ────┘                    └─ text: its own MLP

The layers are BERT's: the norm comes after the sum. It is run in four ways: queries alone (`forward`), text alone
(`read_text`, for the contrastive loss), both seeing each other (`read_both`, matching), and text that sees the queries
and the words before it (`continue_text`, captioning). The text branch is optional: MiniGPT-4 has none.

BERT's dropout of 0.1, with which BLIP-2 was trained, is left out: MiniGPT-4 runs a trained Q-Former frozen.

SEED's (arXiv 2310.01218) is causal: a query sees the queries before it. Beside text, queries see all of the text and
the text all queries. The published programs add -10,000 to scores that are masked, which in fp32 is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.attention import Attend, CrossAttention, SelfAttention, whole
from plait.nn.blocks import MLP
from plait.nn.positions import LearnedPositions, NoRotation

Sight = Callable[[int], Attend]  # what layer i sees through


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of the text branch."""

    vocabulary: int
    positions: int
    """Longest text."""


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """Sizes of a Q-Former."""

    width: int
    depth: int
    heads: int
    hidden: int
    """Width within the MLPs."""
    queries: int
    image_width: int
    """Width of the picture's vectors."""
    cross_every: int = 2
    """Layers 0, n, 2n, ... look at the picture."""
    text: TextConfig | None = None
    """None: there is no text branch."""
    causal: bool = False
    """A query sees itself and the queries before it, rather than all."""
    eps: float = 1e-12
    """Of all LayerNorms."""

    def norm(self) -> nn.LayerNorm:
        """A LayerNorm over the width."""
        return nn.LayerNorm(self.width, eps=self.eps)


BLIP2_QFORMER = QFormerConfig(width=768, depth=12, heads=12, hidden=3072, queries=32, image_width=1408)
BLIP2_TEXT = TextConfig(vocabulary=30_523, positions=512)
"""BERT's ids, and [DEC], 30,522, with which a caption starts."""


class Added(nn.Module):
    """norm(x + part(x, ...)): a step of a post-norm layer."""

    def __init__(self, part: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.norm = norm

    def forward(self, x: Float[Tensor, "b t c"], *more: Any) -> Float[Tensor, "b t c"]:
        """`more` goes to the part."""
        return self.norm(x + self.part(x, *more))


class QFormerBlock(nn.Module):
    """One layer. `cross` is None in layers that do not look at the picture, `text_mlp` where there is no text."""

    def __init__(self, config: QFormerConfig, looks: bool) -> None:
        super().__init__()
        c = config

        def mlp() -> Added:
            return Added(MLP(c.width, c.hidden, nn.GELU(), bias=True), c.norm())

        self.attention = Added(SelfAttention(c.width, c.heads, NoRotation(), bias=True), c.norm())
        self.cross = Added(CrossAttention(c.width, c.image_width, c.heads, bias=True), c.norm()) if looks else None
        self.mlp = mlp()
        self.text_mlp = mlp() if c.text else None

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        queries: int,
        attend: Attend,
        image: Float[Tensor, "b m e"] | None,
        look: Attend,
    ) -> Float[Tensor, "b t c"]:
        """The first `queries` elements are queries, the others text; `look` is what queries see the picture through."""
        position = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        x = self.attention(x, position, attend)
        parts = []
        if queries:
            read = x[:, :queries]
            if self.cross is not None:
                read = self.cross(read, image, look)
            parts.append(self.mlp(read))
        if x.shape[1] > queries:
            assert self.text_mlp is not None, "text has been embedded by the text branch"
            parts.append(self.text_mlp(x[:, queries:]))
        return torch.cat(parts, dim=1)


class TextEmbedding(nn.Module):
    """Words and their places, which start at 0 whether or not queries stand before them."""

    def __init__(self, config: TextConfig, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, width)
        self.positions = LearnedPositions(config.positions, width)

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """Not yet normed."""
        position = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        return self.words(ids) + self.positions(position)


class Memory:
    """Keys and values of queries, layer by layer, for text that comes after them.

    They keep their gradients, as those in a `KVCache` do not: captioning trains the queries.
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(self, layer: int) -> Attend:
        """Everything sees everything, and is kept."""

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._layers[layer] = (k, v)
            return whole()(q, k, v)

        return run

    def before(self, attend: Attend) -> Sight:
        """What was kept stands before the keys and values of new elements."""

        def sight(layer: int) -> Attend:
            keys, values = self._layers[layer]
            return lambda q, k, v: attend(q, torch.cat((keys, k), dim=1), torch.cat((values, v), dim=1))

        return sight


class QFormer(nn.Module):
    """Queries that read a picture, with or without a text branch."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.text = TextEmbedding(config.text, config.width) if config.text else None
        self.norm = config.norm()  # over queries and text together
        self.blocks = nn.ModuleList(QFormerBlock(config, i % config.cross_every == 0) for i in range(config.depth))
        nn.init.normal_(self.queries, std=0.02)
        self.apply(_initialise)

    def forward(
        self,
        image: Float[Tensor, "b m e"],
        real: Bool[Tensor, "b m"] | None = None,
        attend: Sight | None = None,
    ) -> Float[Tensor, "b n c"]:
        """What the queries read from a picture's vectors.

        Args:
            image: the picture's vectors.
            real: which of them are real; None: all. Each picture has at least one.
            attend: what the queries see each other through; `Memory.keep` where text is to come after them.

        Raises:
            ConfigError: `attend`, of a causal Q-Former.
        """
        if attend is not None and self.config.causal:
            raise ConfigError("a causal Q-Former says no captions: leave attend out, or set causal to false")
        own = whole(self._among_queries() if self.config.causal else None)
        return self._through(self._queries(len(image)), self.config.queries, attend or (lambda layer: own), image, real)

    def read_text(self, ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """Text alone, all words seeing each other; `real` is false at pads.

        Raises:
            ConfigError: there is no text branch.
        """
        attend = whole(real[:, None])
        return self._through(self._embedding()(ids), 0, lambda layer: attend)

    def read_both(
        self,
        image: Float[Tensor, "b m e"],
        ids: Int[Tensor, "b t"],
        real: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "b s c"]:
        """Queries, then text, all seeing each other (causal queries only those before them); queries see the picture.

        Raises:
            ConfigError: there is no text branch.
        """
        x = torch.cat((self._queries(len(ids)), self._embedding()(ids)), dim=1)
        n = self.config.queries
        seen = nn.functional.pad(real, (n, 0), value=True)[:, None]  # (b, 1, n + t)
        if self.config.causal:
            seen = seen.repeat(1, x.shape[1], 1)
            seen[:, :n, :n] = self._among_queries()
        attend = whole(seen)
        return self._through(x, n, lambda layer: attend, image)

    def continue_text(
        self, ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"], memory: Memory
    ) -> Float[Tensor, "b t c"]:
        """Text that sees the queries that `memory` kept, and of itself what comes before.

        Raises:
            ConfigError: there is no text branch.
        """
        order = torch.arange(ids.shape[1], device=ids.device)
        seen = (order[:, None] >= order) & real[:, None]  # (b, t, t)
        attend = whole(nn.functional.pad(seen, (self.config.queries, 0), value=True))
        return self._through(self._embedding()(ids), 0, memory.before(attend))

    def forget_text(self) -> None:
        """Takes the text branch away."""
        for block in self.blocks:
            assert isinstance(block, QFormerBlock)
            block.text_mlp = None
        self.text = None
        self.config = replace(self.config, text=None)

    def _through(
        self, x: Tensor, queries: int, attend: Sight, image: Tensor | None = None, real: Tensor | None = None
    ) -> Tensor:
        x = self.norm(x)
        look = whole(None if real is None else real[:, None])
        for i, block in enumerate(self.blocks):
            x = block(x, queries, attend(i), image, look)
        return x

    def _among_queries(self) -> Bool[Tensor, "1 n n"]:
        """Which queries a causal query sees."""
        order = torch.arange(self.config.queries, device=self.queries.device)
        return (order[:, None] >= order)[None]

    def _queries(self, rows: int) -> Tensor:
        return self.queries.expand(rows, -1, -1)

    def _embedding(self) -> TextEmbedding:
        if self.text is None:
            raise ConfigError("this Q-Former has no text branch: give its configuration `text`")
        return self.text


class CaptionHead(nn.Module):
    """BERT's: norm(gelu(dense(x))), then the products with the word embeddings, and a bias for each word."""

    def __init__(self, config: QFormerConfig, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = config.norm()
        self.bias = nn.Parameter(torch.empty(vocabulary))
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "b t c"], words: Float[Tensor, "v c"]) -> Float[Tensor, "b t v"]:
        """Logits of the next word; `words` is the table of the text embedding."""
        return nn.functional.linear(self.norm(nn.functional.gelu(self.dense(x))), words, self.bias)


class QFormerHeads(nn.Module):
    """What BLIP-2's first stage trains a Q-Former by: likeness, matching, captioning.

    Args:
        config: of the Q-Former.
        shared: width of the space in which pictures and texts are compared.
        compares_only: no matching and no captioning (SEED).

    Raises:
        ConfigError: a Q-Former without text.
    """

    def __init__(self, config: QFormerConfig, shared: int = 256, compares_only: bool = False) -> None:
        super().__init__()
        if config.text is None:
            raise ConfigError("heads over text for a Q-Former without a text branch: give its configuration `text`")
        self.image = nn.Linear(config.width, shared)
        self.text = nn.Linear(config.width, shared)
        self.matching = None if compares_only else nn.Linear(config.width, 2)
        self.captioning = None if compares_only else CaptionHead(config, config.text.vocabulary)
        self.temperature = nn.Parameter(torch.empty(()))
        self.apply(_initialise)
        nn.init.constant_(self.temperature, 0.07)

    def image_features(self, queries: Float[Tensor, "b n c"]) -> Float[Tensor, "b n f"]:
        """One vector of length 1 for each query."""
        return nn.functional.normalize(self.image(queries), dim=-1)

    def text_features(self, text: Float[Tensor, "b t c"]) -> Float[Tensor, "b t f"]:
        """One vector of length 1 for each word; that of the first, [CLS], stands for the text."""
        return nn.functional.normalize(self.text(text), dim=-1)

    def similarity(self, image: Float[Tensor, "b n f"], text: Float[Tensor, "a f"]) -> Float[Tensor, "b a"]:
        """How like each picture is to each text: by its nearest query, over the temperature."""
        products = torch.einsum("bnf,af->ban", image, text)
        return products.amax(-1) / self.temperature

    def match(self, queries: Float[Tensor, "b n c"]) -> Float[Tensor, "b 2"]:
        """Logits of not matching and of matching: the mean over the queries that have seen the text."""
        assert self.matching is not None, "heads that compare only match nothing"
        return self.matching(queries).mean(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
