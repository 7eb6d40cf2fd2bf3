"""Finding the text of a picture, and the picture of a text, among held-out pairs of the shapes world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from plait.data.shapes import Shapes
from plait.data.shapes.source import Example
from plait.data.shapes.world import SceneImage
from plait.document import Image
from plait.errors import ConfigError
from plait.evaluate.metrics.ranking import CUTS, ranks, retrieval
from plait.generate.model import Model

SEARCHED = 20  # scenes for each pair wanted, among which pairs that differ are looked for


@dataclass(frozen=True, kw_only=True)
class ShapesRetrieval:
    """Each of `pairs` test pictures is held against all their captions, and each caption against all pictures.

    Scenes and captions all differ. What compares is the system's: its `similarities` (name -> function of pictures and
    texts) are scored one by one.

    Args:
        objects: numbers of objects in a scene, each as likely.
    """

    name: ClassVar[str] = "retrieval"
    seed: int = 20240
    pairs: int = 500
    objects: tuple[int, ...] = (1, 2, 3)
    resolution: int = 32

    def __post_init__(self) -> None:
        if self.pairs < 2:
            raise ConfigError(f"retrieval among {self.pairs} pairs: give at least 2")

    @classmethod
    def at_most(cls, limit: int | None) -> ShapesRetrieval:
        """The default, with at most `limit` pairs."""
        return cls(pairs=min(cls.pairs, limit or cls.pairs))

    def examples(self) -> list[Example]:
        """The pairs.

        Raises:
            ConfigError: there are not so many that differ.
        """
        found = list(self._distinct())
        if len(found) < self.pairs:
            raise ConfigError(
                f"{len(found)} pairs that differ among {SEARCHED * self.pairs} scenes of {self.objects} objects, "
                f"{self.pairs} wanted: ask for fewer, or for more objects"
            )
        return found

    def _distinct(self) -> Iterator[Example]:
        source = Shapes(
            seed=self.seed,
            length=SEARCHED * self.pairs,
            split="test",
            objects=self.objects,
            resolution=self.resolution,
            questions_each=1,
        )
        seen: set[Any] = set()
        for example in source.examples():
            if len(seen) == 2 * self.pairs:
                return
            if example.scene.content not in seen and example.caption not in seen:
                seen |= {example.scene.content, example.caption}
                yield example

    def run(self, model: Model) -> dict[str, Any]:
        """By each way to compare: {"image_to_text", "text_to_image"}, with "r@1", "r@5", "r@10" and "n".

        Raises:
            ConfigError: the system compares nothing.
        """
        compares = getattr(model.system, "similarities", None)
        if not compares:
            raise ConfigError(f"{model.system.name} compares no pictures with texts: score it by another task")
        examples = self.examples()
        pictures = [Image(SceneImage(example.scene, self.resolution)) for example in examples]
        texts = [example.caption for example in examples]
        right = torch.eye(self.pairs, dtype=torch.bool)
        scores: dict[str, Any] = {}
        for name, compare in compares.items():
            with torch.inference_mode():
                both = compare(pictures, texts)
            scores[name] = {}
            for way, likeness in zip(("image_to_text", "text_to_image"), both, strict=True):
                found = retrieval(ranks(likeness.float().cpu(), right))
                scores[name][way] = {**{f"r@{k}": found[f"r@{k}"] for k in CUTS}, "n": self.pairs}
        return scores
