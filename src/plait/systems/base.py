"""The contract of a system: what a model must offer so that training, generation and serving need not know it.

A system is a final class over parts. Nothing outside it asks which system it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from plait.document import Document, Image
from plait.nn.attention import KVCache
from plait.sequence import Batch, Collator, Prepare, Sequence, Span


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What a forward pass leaves behind."""

    states: Float[Tensor, "b t c"]
    """The last hidden states, which the heads read."""
    own: Mapping[str, Tensor]
    """Reader -> what it made of each picture: ids (m, n) or vectors (m, n, c), for targets that are OWN_INPUT."""


@dataclass(frozen=True, kw_only=True)
class Next:
    """What may come next while generating: a run of elements of one kind."""

    kind: str
    """"text" or "image": what the run is, and whose sampling settings it is drawn with."""
    head: str
    allowed: Bool[Tensor, " v"]
    length: int | None = None
    """Exactly so many elements; None: until one of `ends`, which then is part of the run."""
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Forced:
    """Ids that come next without being drawn."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """Nothing comes next, and why."""

    reason: str


@dataclass
class Emitted:
    """A run that was generated, with the log-probability of each drawn id under what it was drawn from."""

    kind: str
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


Grammar = Callable[[Items[Emitted]], Next | Forced | Stop]


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The rows of one request, and how their logits are joined: for each kind of run, a weight for each row.

    The first row is the request itself. What is emitted is appended to every row.
    """

    rows: tuple[Sequence, ...]
    weights: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named part of a system, for stages, import, export and `plait info`."""

    module: nn.Module
    licence: str = "Apache-2.0"

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(parameter.numel() for parameter in self.module.parameters())


class Format(ABC):
    """The weightless half of a system: how documents become sequences, and what may be said when.

    It is small and can be pickled, so that the workers of a loader need no weights.
    """

    @abstractmethod
    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """The sequence of a document; `open`: a prompt, to be continued.

        Raises:
            DocumentError: the system has no place for a piece of it.
        """

    @abstractmethod
    def picture_spans(self, document: Document) -> list[Span]:
        """A span, without targets, for each picture: what is laid out for parts that are trained on pixels alone."""

    @abstractmethod
    def grammar(self, document: Document, max_images: int) -> Grammar:
        """What may follow the prompt of `document`, given what was emitted so far."""

    @abstractmethod
    def streams(self, document: Document, guidance: float) -> Streams:
        """The rows that answer a request: alone, or with an unconditional one for guidance."""

    @abstractmethod
    def read_text(self, run: Emitted) -> str:
        """The text of a generated run of kind "text", without its end symbol."""

    @abstractmethod
    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """Reader -> the function that makes (3, height, width) pixels of a picture.

        Args:
            fast: sooner and not to the bit (`images.fast_square`), where the system has such a way.
        """

    @property
    @abstractmethod
    def picture_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Reader -> (3, height, width)."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """How many elements a sequence may have."""

    @abstractmethod
    def write_files(self, directory: Path) -> None:
        """Writes what the configuration does not hold: the text vocabulary."""

    def collator(self, train: bool = False, fast: bool = False) -> Collator:
        """What turns laid-out documents into batches; `fast` as in `preprocess`."""
        return Collator(self.preprocess(train, fast), self.picture_shapes)


class System(nn.Module, ABC):
    """Base of the five systems, and of any that joins from outside: a format, parts with weights, heads."""

    name: ClassVar[str]
    config: Any
    format: Format

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Hidden states of a batch of packed rows; with a cache, of new elements behind those that it holds."""

    @property
    @abstractmethod
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Kind of target -> the head that predicts it from hidden states (..., c)."""

    @abstractmethod
    def write(self, runs: Items[Emitted]) -> list[Image]:
        """The pictures of generated runs of kind "image"."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """Name -> part."""

    @property
    @abstractmethod
    def units(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """Modules that are sharded and compiled as wholes, with the methods, besides forward, that enter them."""

    @property
    @abstractmethod
    def chance(self) -> Mapping[str, float]:
        """Kind of target -> the loss of a uniform guess, in nats; the kind that is watched first."""

    @classmethod
    @abstractmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> System:
        """The system of a plain configuration and the files of its format, with weights still to be filled in.

        Raises:
            ConfigError, CheckpointError: they do not fit.
        """

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """The sequence of a document (`Format.layout`)."""
        return self.format.layout(document, open=open, generator=generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
