"""Documents to vectors by a pair of towers, one for texts and one for pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from plait.checkpoints import directory as checkpoint
from plait.document import Document, Image
from plait.errors import DocumentError, ImageError
from plait.retrieval.memory import Embedded
from plait.systems.base import Towers

T = TypeVar("T")


@dataclass(frozen=True)
class Embedder:
    """Documents to vectors.

    Args:
        towers: of a system.
        identity: what a memory keeps to know the towers by, in JSON.
    """

    towers: Towers
    identity: Mapping[str, Any]

    @torch.inference_mode()
    def __call__(self, documents: Items[Document], texts: Items[str] | None = None) -> Embedded:
        """Of each document; of several pictures the average, brought to length 1.

        Args:
            texts: what is embedded as the text of each, in place of its own.

        Raises:
            ImageError: a picture cannot be read.
            DocumentError: a document has neither text nor pictures.
        """
        said = [document.text.strip() for document in documents]
        shown = [document.images for document in documents]
        if any(not text and not pictures for text, pictures in zip(said, shown, strict=True)):
            raise DocumentError("neither text nor pictures to be found by")
        drawn = [b"".join(map(_digest, pictures)) for pictures in shown]
        whole = [text.encode("utf-8", "replace") + b"\0" + digest for text, digest in zip(said, drawn, strict=True)]
        return Embedded(
            text=self._averages([[text] if text else [] for text in texts or said], self.towers.texts),
            pictures=self._averages(shown, self.towers.pictures),
            content=np.array([_number(one) for one in whole], np.uint64),
            picture_content=np.array([_number(one) if one else 0 for one in drawn], np.uint64),
        )

    def readable(
        self, documents: Items[Document], texts: Items[str] | None = None
    ) -> tuple[Embedded, list[int], dict[int, str]]:
        """Of those that can be embedded, with their places; and place -> why not, of the others."""
        try:
            return self(documents, texts), list(range(len(documents))), {}
        except (ImageError, DocumentError) as error:
            if len(documents) == 1:
                return self([]), [], {0: str(error)}
        half = len(documents) // 2
        first, kept, wrong = self.readable(documents[:half], texts and texts[:half])
        second, late, bad = self.readable(documents[half:], texts and texts[half:])
        places = kept + [half + place for place in late]
        return _together(first, second), places, wrong | {half + place: reason for place, reason in bad.items()}

    def _averages(self, groups: Items[Items[T]], embed: Callable[[Items[T]], Tensor]) -> Tensor:
        """(n, c) averages of the vectors of each group, of length 1; zeros for empty ones. In fp32 on the CPU."""
        sums = torch.zeros(len(groups), self.towers.width)
        flat = [item for group in groups for item in group]
        if flat:
            owner = torch.tensor([i for i, group in enumerate(groups) for _ in group])
            sums.index_add_(0, owner, embed(flat).float().cpu())
        return torch.nn.functional.normalize(sums, dim=1)


def load_embedder(directory: str, device: str | torch.device = "cpu", system: str | None = None) -> Embedder:
    """The towers of a run or a checkpoint.

    Args:
        system: file.py:Class, of a system from outside the package.

    Raises:
        CheckpointError: no checkpoint.
        ConfigError: its system has no such towers.
    """
    folder = checkpoint.find(directory)
    description = checkpoint.read_description(folder)
    towers = checkpoint.load(folder, device, system=system).towers
    fingerprints = {name: description["parts"][name]["fingerprint"] for name in towers.parts}
    return Embedder(towers, {"checkpoint": str(folder.resolve()), "fingerprints": fingerprints})


def _together(first: Embedded, second: Embedded) -> Embedded:
    return Embedded(
        text=torch.cat((first.text, second.text)),
        pictures=torch.cat((first.pictures, second.pictures)),
        content=np.concatenate((first.content, second.content)),
        picture_content=np.concatenate((first.picture_content, second.picture_content)),
    )


def _digest(image: Image) -> bytes:
    content = image.content()
    return hashlib.blake2b(content if content is not None else image.open().tobytes(), digest_size=8).digest()


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
