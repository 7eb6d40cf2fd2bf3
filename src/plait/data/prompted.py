"""Documents as stages of training want them: captions of the web, answers to prompts, or the templates of a task.

`Captioned` and `Asked` keep documents that already are conversations as they are: an instruction of its own wins over a
list of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.data.packs import Source
from plait.document import Document, Image, Text, Turn
from plait.errors import ConfigError, DocumentError
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
        time, number = divmod(i, len(self.source))
        document = self.source[number]
        if document.turns:
            return document
        answer = _words(document, number)
        if not document.images:
            raise DocumentError(f"document {number} has no picture to be asked about: write it as turns")
        prompt = self.prompts[(number + time) % len(self.prompts)]
        return Document([Turn("user", [*document.images, Text(prompt)]), Turn("assistant", answer)])


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
        time, number = divmod(i, len(self.source))
        template = self.templates[(number + time) % len(self.templates)]
        values = _values(template, self.source[number], number)
        return template.asked(values) if self.apart else template.document(values)


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
