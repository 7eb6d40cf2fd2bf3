"""Random parts of pictures in place of the whole ones, for training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import PIL.Image

from plait import images
from plait.document import Image
from plait.errors import ConfigError
from plait.sequence import Sequence, Slot, Span


@dataclass(frozen=True)
class Part:
    """A random part of a picture; the same one whenever it is opened."""

    image: Image
    seed: int
    scale: tuple[float, float]

    def open(self) -> PIL.Image.Image:
        """The part in RGB (`images.random_part`)."""
        return images.random_part(self.image.open(), np.random.default_rng(self.seed), self.scale)


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Sequence x generator -> sequence with a random part in place of each picture, which is then read as any other.

    Which part it is follows from the number of the document, as all that is drawn for it: no worker, rank or resume
    can change it. Nothing is read here.

    Args:
        scale: least and largest share of a picture's area.

    Raises:
        ConfigError: shares out of order, or outside of (0, 1].
    """

    scale: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        least, most = self.scale
        if not 0 < least <= most <= 1:
            raise ConfigError(
                f"scale={self.scale}: give two shares of the area, the smaller first, above 0 and up to 1"
            )

    def __call__(self, sequence: Sequence, generator: np.random.Generator) -> Sequence:
        """The same elements, of parts."""
        whole = {id(image): image for _, image in sequence.pictures}
        parts = {key: Image(Part(image, int(generator.integers(2**63)), self.scale)) for key, image in whole.items()}

        def cropped(span: Span) -> Span:
            fill = span.fill
            return replace(span, fill=replace(fill, image=parts[id(fill.image)])) if isinstance(fill, Slot) else span

        return replace(sequence, spans=tuple(map(cropped, sequence.spans)))
