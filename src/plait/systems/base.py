"""The contract of a system: what a model must offer so that training, generation and serving need not know it.

A system is a final class over parts. Nothing outside it asks which system it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from plait import images
from plait.document import Document, Image
from plait.errors import ConfigError, InputError
from plait.nn import lora
from plait.nn.attention import Attend, KVCache, Visibility
from plait.nn.blocks import Block
from plait.nn.llama import LLaMA
from plait.nn.lora import LoRAConfig
from plait.sequence import Batch, Collator, Prepare, Sequence, Slot, Span, pack_stream


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
    allowed: Bool[Tensor, " v"] = field(default_factory=lambda: torch.ones(0, dtype=torch.bool))
    length: int | None = None
    """Exactly so many elements; None: until one of `ends`, which then is part of the run."""
    ends: frozenset[int] = frozenset()
    vectors: bool = False
    """The head gives the elements themselves, which are fed back as they are: nothing is drawn, every row of a request
    goes on with its own, and there are exactly `length`."""


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
    seed: int = field(default=0, compare=False)
    """Of the noise that a picture of the run is drawn from, where it is drawn from some."""
    vectors: list[Tensor] = field(default_factory=list, compare=False, repr=False)
    """Of a run of vectors: (r, c) for each element, one from each row of the request. Its ids are -1."""
    weights: tuple[float, ...] = ()
    """Of these rows, as `Join` has them."""


Grammar = Callable[[Items[Emitted]], Next | Forced | Stop]


@dataclass(frozen=True, kw_only=True)
class Interleaved:
    """The grammar of text with pictures in it: text up to one of its ends; behind the end `begin` a picture, then text.

    Any other end is that of the reply. Once there are `max_images`, `begin` is no longer drawn.
    """

    text: Next
    picture: Next
    begin: int
    begun: bool
    """The prompt ends with `begin`."""
    max_images: int
    close: int | None = None
    """What stands behind every picture, if anything does."""
    alone: bool = False
    """The reply ends with its last picture."""

    def __call__(self, emitted: Items[Emitted]) -> Next | Forced | Stop:
        """What may come next."""
        full = sum(run.kind == "image" for run in emitted) >= self.max_images
        last = emitted[-1].ids[-1] if emitted else self.begin if self.begun else None
        if emitted and emitted[-1].kind == "image" and self.close is not None:
            return Forced((self.close,))
        if full and emitted and self.alone and last not in self.text.ends:
            return Stop("max_images")
        if last == self.begin:
            return Stop("max_images") if full else self.picture
        if last in self.text.ends:
            return Stop("end")
        if not full:
            return self.text
        allowed = self.text.allowed.clone()
        allowed[self.begin] = False
        return replace(self.text, allowed=allowed, ends=self.text.ends - {self.begin})


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Contrastive decoding: ids are drawn by how much likelier an expert finds them than an amateur does.

    score = log p_expert - log p_amateur on the ids whose p_expert is at least `alpha` times the `k`-th largest. k = 1
    is CD (arXiv 2210.15097), which is nearly greedy; more is CM3Leon's CD-K. The paper gives neither number.
    """

    alpha: float
    k: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"contrast with alpha {self.alpha}: it must be above 0 and at most 1")
        if self.k < 1:
            raise ConfigError(f"contrast with k {self.k}: it must be at least 1, which is plain contrastive decoding")


@dataclass(frozen=True)
class Join:
    """How the logits of a request's rows become one: a weight for each row; under a contrast, the amateur's too."""

    weights: tuple[float, ...]
    amateur: tuple[float, ...] = ()
    contrast: Contrast | None = None


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The rows of one request, and how their logits are joined for each kind of run.

    The first row is the request itself. What is emitted is appended to every row, unless `restart` says otherwise.
    """

    rows: tuple[Sequence, ...]
    joins: Mapping[str, Join]
    restart: int | None = None
    """The rows behind the first take no text: they go back to so many elements before each run of vectors, and see of
    what was emitted the element that begins it alone."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What pictures are drawn from, besides the prompt's own row: f of the prompt, i of its pictures, u of nothing.

    Logits are u + scale (f - u), or u + image (i - u) + scale (f - i) for edits (InstructPix2Pix, 2211.09800; order of
    rows and formula as in Chameleon's code). Under a contrast these are the expert's, and u the amateur's.
    """

    scale: float = 1.0
    image: float | None = None
    contrast: Contrast | None = None

    def __str__(self) -> str:
        if self.scale != 1:
            return f"guidance {self.scale}"
        return "a contrast" if self.contrast else f"image_guidance {self.image}"

    @property
    def plain(self) -> bool:
        """Whether the prompt's own row is all there is."""
        return self.scale == 1 and self.image is None and self.contrast is None

    def streams(
        self, prompt: Sequence, nothing: Callable[[], Sequence], pictures: Callable[[], Sequence] | None = None
    ) -> Streams:
        """The rows that are needed, and their joins; text is said by the prompt's row alone.

        Args:
            nothing: makes the row without the prompt.
            pictures: makes the row of the prompt's pictures without its text.

        Raises:
            ConfigError: guidance by pictures, of a system that has no row for them.
        """
        if self.plain:
            return Streams(rows=(prompt,), joins={"text": Join((1.0,)), "image": Join((1.0,))})
        if self.image is None:
            rows: tuple[Sequence, ...] = (prompt, nothing())
            weights: tuple[float, ...] = (self.scale, 1 - self.scale)
        elif pictures is None:
            raise ConfigError(f"image_guidance {self.image}: this system has no row of pictures alone; leave it out")
        else:
            rows = (prompt, pictures(), nothing())
            weights = (self.scale, self.image - self.scale, 1 - self.image)
        alone = (1.0, *[0.0] * (len(rows) - 1))
        return Streams(rows=rows, joins={"text": Join(alone), "image": Join(weights, alone[::-1], self.contrast)})


OWN = "Apache-2.0"
"""The licence of what Plait itself trained."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named part of a system, for stages, import, export and `plait info`."""

    module: nn.Module
    licence: str = OWN

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(parameter.numel() for parameter in self.module.parameters())


@dataclass(frozen=True, kw_only=True)
class Towers:
    """A pair of towers that put texts and pictures into one space, where they are compared by their products."""

    width: int
    """Of the vectors."""
    parts: tuple[str, ...]
    """The parts of the system that decide them."""
    texts: Callable[[Items[str]], Tensor]
    """(m, width) of length 1; of a text that is too long its beginning."""
    pictures: Callable[[Items[Image]], Tensor]
    """(m, width) of length 1."""


Similarity = Callable[[Items[Image], Items[str]], tuple[Tensor, Tensor]]
"""Pictures and texts -> scores of texts for each picture (m, k), and of pictures for each text (k, m)."""
Drawing = Callable[[Items[Image], Items[str], Items[torch.Generator]], list[Image]]
"""Pictures, their texts, and generators of noise -> as many pictures, each drawn from one of the two."""


def square(size: int, fast: bool = False) -> Prepare:
    """(3, size, size) in [-1, 1]: short side to `size` with Lanczos, then the centre; fast: `images.fast_square`."""
    return Prepare((3, size, size), _write_fast_square if fast else _write_square)


def squashed(size: int) -> Prepare:
    """(3, size, size) with CLIP's mean and deviation: the whole picture squashed to a square, bicubic."""
    return Prepare((3, size, size), _write_squashed)


def _write_squashed(image: Image, out: NDArray[np.float32]) -> None:
    images.to_clip(images.squash(image.open(), out.shape[-1]), out)


def _write_square(image: Image, out: NDArray[np.float32]) -> None:
    images.to_array(images.resize_and_crop(image.open(), out.shape[-1]), out)


def _write_fast_square(image: Image, out: NDArray[np.float32]) -> None:
    content = image.content()
    near = None if content is None else images.fast_square(content, out.shape[-1])
    if near is None:
        _write_square(image, out)
    else:
        out[...] = near


def sight(batch: Batch, cache: KVCache | None) -> Callable[[int], Attend]:
    """Layer -> what the elements of a batch see through there: their own sequences, or what the cache holds too."""
    if cache is not None:
        return cache.attend
    visible = Visibility(batch.document, batch.block)
    return lambda layer: visible.attend


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
    def grammar(self, document: Document, max_images: int) -> Grammar:
        """What may follow the prompt of `document`, given what was emitted so far."""

    @abstractmethod
    def read_text(self, run: Emitted) -> str:
        """The text of a generated run of kind "text", without its end symbol."""

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text by itself, as they stand in a generated run.

        Raises:
            ConfigError: the system does not say.
        """
        raise ConfigError(f"this system does not say which ids {text!r} is: give ids in place of text")

    def blocks(self, documents: Iterable[Sequence], size: int) -> Iterable[Sequence]:
        """Laid out documents in blocks of at most `size` elements, cut wherever that is, unless the system says how."""
        return pack_stream(documents, size - 1)

    def counted_ids(self, prompt: Sequence) -> tuple[int, ...]:
        """A prompt's ids, as published generators score it and bar what it holds: those outside pictures.

        `plait.generate.beams.FairseqSearch` asks.
        """
        return tuple(id for id in prompt.ids().tolist() if id >= 0)

    @abstractmethod
    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        """Reader -> what makes pixels of a picture.

        Args:
            fast: sooner and not to the bit (`images.fast_square`), where the system has such a way.
        """

    @property
    @abstractmethod
    def max_length(self) -> int:
        """How many elements a sequence may have."""

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> settings of generation, by the names that `Model.generate` takes, as the system was published with.

        `chat` is what a chat takes unless it is told otherwise. None, unless the system says some.
        """
        return {}

    @property
    def prompts(self) -> Mapping[str, str]:
        """Name -> a prompt as one string, with `<ImageHere>` for a picture, where the system has its own for a task.

        `describe` asks for a detailed description of a picture, `continue` stands behind one that is too short
        (`plait.data.curate`).
        """
        return {}

    def streams(self, document: Document, guidance: Guidance) -> Streams:
        """The rows that answer a request: alone, or with those that guidance needs.

        The prompt alone, unless the system says what else it runs.

        Raises:
            ConfigError: guidance, of a system that has none.
        """
        if not guidance.plain:
            raise ConfigError(f"{guidance}: this system has no row without the prompt; leave it out")
        return Streams(rows=(self.layout(document, open=True),), joins={"text": Join((1.0,)), "image": Join((1.0,))})

    def write_files(self, directory: Path) -> None:  # noqa: B027  # many have nothing to write
        """Writes what the configuration does not hold, such as a text vocabulary."""

    def picture_spans(self, document: Document) -> list[Span]:
        """The spans of each picture, without targets: what is laid out for parts that are trained on pixels alone."""
        laid = (self.layout(Document(image)) for image in document.images)
        return [replace(span, targets=()) for one in laid for span in one.spans if isinstance(span.fill, Slot)]

    def collator(self, train: bool = False, fast: bool = False) -> Collator:
        """What turns laid-out documents into batches; `fast` as in `preprocess`."""
        return Collator(self.preprocess(train, fast))


class System(nn.Module, ABC):
    """Base of the five systems, and of any that joins from outside: a format, parts with weights, heads."""

    config: Any
    format: Format
    licences: Mapping[str, str] = MappingProxyType({})
    """Part -> the licence of its weights, of those that came from files."""

    @property
    def name(self) -> str:
        """That of the class, in small letters."""
        return type(self).__name__.lower()

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        """Hidden states of a batch of packed rows; with a cache, of new elements behind those that it holds."""

    @property
    @abstractmethod
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Kind of target -> the head that predicts it from hidden states (..., c)."""

    def narrowed(self, kind: str, first: int, last: int) -> Callable[[Tensor], Tensor] | None:
        """A head for the ids first .. last - 1 alone, (..., c) to (..., last - first), where that saves time.

        None: there is none, and all ids are asked for.
        """
        return None

    def word_vectors(self, ids: Int[Tensor, "*any"]) -> Float[Tensor, "*any c"]:
        """What ids are as inputs, for targets that are vectors.

        Raises:
            ConfigError: the system has no such targets.
        """
        raise ConfigError(f"{self.name} predicts no vectors: leave their loss out")

    @abstractmethod
    def write(self, runs: Items[Emitted]) -> list[Image]:
        """The pictures of generated runs of kind "image"."""

    def picture_codes(self, pixels: Float[Tensor, "m 3 y x"]) -> Int[Tensor, "m n"]:
        """The codes that pictures are read as, from 0 on.

        Raises:
            ConfigError: it reads pictures as vectors, unless it says otherwise.
        """
        raise ConfigError(f"{self.name} makes no codes of pictures: give a model that does, as SEED's tokenizer")

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

    @property
    def parts(self) -> Mapping[str, Part]:
        """Name -> part: the modules that it holds, unless it says more of them."""
        children = dict(self.named_children())
        return {name: Part(module=child, licence=self.licences.get(name, OWN)) for name, child in children.items()}

    @property
    def units(self) -> list[tuple[nn.Module, tuple[str, ...]]]:
        """Modules that are sharded and compiled as wholes, with the methods, besides forward, that enter them.

        Its blocks, unless it adds others.
        """
        return [(module, ()) for module in self.modules() if isinstance(module, Block)]

    @property
    def towers(self) -> Towers:
        """The towers that it finds documents by.

        Raises:
            ConfigError: it has none, unless it says so.
        """
        raise ConfigError(f"{self.name} has no towers that compare texts with pictures: give a run of foundations/tiny")

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        """The sequence of a document (`Format.layout`)."""
        return self.format.layout(document, open=open, generator=generator)

    def pixels(self, pictures: Items[Image]) -> Float[Tensor, "m 3 y x"]:
        """Pictures as its only reader looks at them."""
        (prepare,) = self.format.preprocess().values()
        return torch.stack([torch.from_numpy(prepare(picture)) for picture in pictures]).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


class Adaptable(System):
    """A system whose language model is a LLaMA that takes adapters; its configuration tells which it has, in `lora`."""

    config: Any
    language: LLaMA

    def adapt(self, config: LoRAConfig) -> None:
        """Puts adapters, which change nothing yet, on the language model.

        Raises:
            InputError: it has some already.
        """
        if self.config.lora:
            raise InputError("the language model has adapters already: merge them first")
        lora.adapt(self.language, config)
        self.config = replace(self.config, lora=config)

    def merge(self) -> None:
        """Adds the adapters, if there are any, to the weights of the language model."""
        lora.merge(self.language)
        self.config = replace(self.config, lora=None)
