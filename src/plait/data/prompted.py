"""Documents as stages of training want them: captions of the web, answers to prompts, or the templates of a task.

`Captioned` and `Asked` keep documents that already are conversations as they are: an instruction of its own wins over a
list of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.data.packs import Source
from plait.document import Document, Image, Piece, Text, Turn, Video, joined
from plait.errors import ConfigError, DocumentError, hint
from plait.text.questions import QUESTION
from plait.text.requests import TASKS
from plait.text.tasks import Template
from plait.text.templates import caption


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """The pictures of each document, then its text as one caption of the web (`plait.text.templates.caption`)."""

    source: Source
    words: int = 50
    """Of a caption; what is beyond is cut."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        """Document i.

        Raises:
            DocumentError: it has no words, or pieces that are neither text nor pictures.
        """
        document = self.source[i]
        if document.turns:
            return document
        return Document([*document.images, Text(caption(_words(document, i), self.words))])


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The user's turn, the pictures of a document and a prompt; then the assistant's, the document's text.

    Every document comes once with each prompt: an epoch has `len(prompts)` times as many.
    """

    source: Source
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("0 prompts to ask with: give at least 1")

    def __len__(self) -> int:
        return len(self.source) * len(self.prompts)

    def __getitem__(self, i: int) -> Document:
        """Document i modulo the source's length.

        Raises:
            DocumentError: it has no words or no pictures, or pieces that are neither.
        """
        number, way = _which(i, self.source, len(self.prompts))
        document = self.source[number]
        if document.turns:
            return document
        answer = _words(document, number)
        if not document.images:
            raise DocumentError(f"document {number} has no picture to be asked about: write it as turns")
        return Document([Turn("user", [*document.images, Text(self.prompts[way])]), Turn("assistant", answer)])


@dataclass(frozen=True, kw_only=True)
class Templated:
    """Records as the templates of a task (`plait.text.tasks.TASKS`) write them.

    A record is a document, in pieces or in turns: its pictures and its texts take, each in their order, the places for
    pictures and for texts. For an edit that is a picture, an instruction, a picture; for a question a picture, the
    question, the answer. Every record comes once with each template, as in `Asked`.

    Args:
        apart: answers in words stand apart, as blanks that are filled in; else the document is the published text, of
            which CM3 masks what it draws.
    """

    source: Source
    templates: tuple[Template, ...]
    apart: bool = True

    def __post_init__(self) -> None:
        if not self.templates:
            raise ConfigError("0 templates to write with: give at least 1")

    def __len__(self) -> int:
        return len(self.source) * len(self.templates)

    def __getitem__(self, i: int) -> Document:
        """Record i modulo the source's length.

        Raises:
            DocumentError: it has more or fewer texts or pictures than the template, or other pieces.
        """
        number, way = _which(i, self.source, len(self.templates))
        template = self.templates[way]
        values = _values(template, self.source[number], number)
        return template.asked(values) if self.apart else template.document(values)


@dataclass(frozen=True, kw_only=True)
class Requested:
    """Records as the conversations of an instruction task (`plait.text.requests.TASKS`).

    Every record comes once in each way that the task has, as in `Asked`.

    Raises:
        ConfigError: no such task.
    """

    source: Source
    task: str

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"no task {self.task!r}; {hint(self.task, TASKS)}")

    def __len__(self) -> int:
        return len(self.source) * TASKS[self.task].ways

    def __getitem__(self, i: int) -> Document:
        """Record i modulo the source's length.

        Raises:
            DocumentError: it does not have what the task needs.
        """
        task = TASKS[self.task]
        number, way = _which(i, self.source, task.ways)
        return task.make(self.source[number], way)


@dataclass(frozen=True, kw_only=True)
class BothOrders:
    """Pictures before the words, or the words before the pictures: every document comes once in each order."""

    source: Source

    def __len__(self) -> int:
        return len(self.source) * 2

    def __getitem__(self, i: int) -> Document:
        """Document i modulo the source's length.

        Raises:
            DocumentError: it has no words, or pieces that are neither text nor pictures.
        """
        number, way = _which(i, self.source, 2)
        document = self.source[number]
        words = Text(_words(document, number))
        return Document([words, *document.images] if way else [*document.images, words])


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The pictures of each document, which are read alone, then its words: what pictures are compared with texts by."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        """Document i.

        Raises:
            DocumentError: it has no words, or pieces that are neither text nor pictures.
        """
        document = self.source[i]
        return Document([Video(tuple(document.images)), Text(_words(document, i))])


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Documents of texts and pictures, up to `images` pictures and the texts behind the last of them.

    A picture changes places with the text behind it at random, drawn by the number of the document (SEED-LLaMA's code,
    for MMC4).
    """

    source: Source
    images: int = 7
    swap: float = 0.0
    """How often."""
    seed: int = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        """Document i."""
        document = self.source[i]
        if document.turns:
            return document
        random = np.random.default_rng((self.seed, i))
        kept = list(document.pieces)
        places = [at for at, piece in enumerate(kept) if isinstance(piece, Image)]
        kept = kept[: places[self.images]] if len(places) > self.images else kept
        for at in places[: self.images]:
            swapped = random.random() < self.swap
            if swapped and at + 1 < len(kept) and isinstance(kept[at + 1], Text):
                kept[at], kept[at + 1] = kept[at + 1], kept[at]
        return Document(kept)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Conversations as the text of pages (`spoken`), for models that are not spoken to; other documents as they are."""

    source: Source
    template: str = QUESTION

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        """Document i."""
        document = self.source[i]
        return spoken(document, self.template) if document.turns else document


@dataclass(frozen=True, kw_only=True)
class Several:
    """Neighbours of a source as one document, as few-shot prompts are: of `counts` documents in turn."""

    source: Source
    counts: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1:
            raise ConfigError(f"counts={self.counts}: give numbers of documents, each at least 1")

    def __len__(self) -> int:
        return max(1, len(self.source) * len(self.counts) // sum(self.counts))

    def __getitem__(self, i: int) -> Document:
        """Document i.

        Raises:
            DocumentError: conversations and others stand beside each other.
        """
        rounds, at = divmod(i, len(self.counts))
        first = rounds * sum(self.counts) + sum(self.counts[:at])
        return joined([self.source[(first + j) % len(self.source)] for j in range(self.counts[at])])


def spoken(document: Document, template: str = QUESTION) -> Document:
    """The pieces of a conversation: the last words of each of the user's turns by the template, answers with a dot."""
    pieces: list[Piece] = []
    for turn in document.turns:
        *before, last = turn.pieces
        if isinstance(last, Text) and turn.role == "user":
            last = Text(template.format(question=last.text))
        elif isinstance(last, Text):
            last = Text(last.text.rstrip().removesuffix(".") + ".")
        pieces += [*before, last]
    return Document(pieces)


def _which(i: int, source: Source, ways: int) -> tuple[int, int]:
    """The number of the document that element i is, and its way: each document comes in another way in each round."""
    time, number = divmod(i, len(source))
    return number, (number + time) % ways


def _values(template: Template, record: Document, number: int) -> dict[str, str | Image]:
    texts = [piece.text for piece in record.pieces if isinstance(piece, Text)]
    pictures = record.images
    if len(texts) + len(pictures) != len(record.pieces):
        raise DocumentError(f"document {number} has pieces that are neither text nor pictures: leave them out")
    for kind, given, named in (("texts", texts, template.texts), ("pictures", pictures, template.pictures)):
        if len(given) != len(named):
            raise DocumentError(
                f"document {number} has {len(given)} {kind} for the {len(named)} of {template.written!r}: give "
                f"{', '.join(named) or 'none'}"
            )
    return {**dict(zip(template.texts, texts, strict=True)), **dict(zip(template.pictures, pictures, strict=True))}


def _words(document: Document, number: int) -> str:
    for piece in document.pieces:
        if not isinstance(piece, Text | Image):
            raise DocumentError(f"document {number} has a {type(piece).__name__}: give pictures and text")
    if not document.text.strip():
        raise DocumentError(f"document {number} has no words: nothing is there to be predicted")
    return document.text
