"""Documents behind what a memory holds on them, for generation; for training: `plait.data.retrieved`."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from typing import overload

from plait.document import Document
from plait.errors import InputError
from plait.retrieval.embed import Embedder
from plait.retrieval.memory import Memory
from plait.retrieval.select import Selection, best, select


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """Puts the most relevant documents of a memory in front of others.

    Args:
        memory: with its sources.
        embedder: with the towers that it was built with.
        count: documents in front of each; fewer where nothing more is found. 0 leaves documents as they are.

    Raises:
        InputError: a count below 0; other towers than the memory's.
    """

    memory: Memory
    embedder: Embedder
    count: int = 2
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"{self.count} documents to retrieve: give at least 0")
        check_towers(self.memory, self.embedder)

    @overload
    def __call__(self, documents: Document) -> Document: ...
    @overload
    def __call__(self, documents: Items[Document]) -> list[Document]: ...
    def __call__(self, documents: Document | Items[Document]) -> Document | list[Document]:
        """The same documents behind others: by their pictures and by their text in turn, the most relevant first.

        Raises:
            ImageError, DocumentError: one cannot be embedded, or a found one cannot be read any more.
        """
        asked = [documents] if isinstance(documents, Document) else list(documents)
        if self.count and asked:
            selection = replace(self.selection, each=max(self.selection.each, self.count))
            taken = select(self.memory, self.embedder(asked), selection)
            found = [[self.memory[row] for row in best(rows, self.count)] for rows in taken]
            asked = [document.behind(before) for document, before in zip(asked, found, strict=True)]
        return asked[0] if isinstance(documents, Document) else asked


def check_towers(memory: Memory, embedder: Embedder) -> None:
    """Whether a memory was built with these towers.

    Raises:
        InputError: it was not.
    """
    built, given = (one.get("fingerprints") for one in (memory.store.facts["embedder"], embedder.identity))
    if built != given or memory.width != embedder.towers.width:
        raise InputError(
            f"{memory.folder}: was built with the towers of {memory.store.facts['embedder'].get('checkpoint')}, which "
            f"{embedder.identity.get('checkpoint')} has not: give that checkpoint, or build another memory"
        )
