from __future__ import annotations

import pytest
import torch

from plait.errors import ConfigError
from plait.nn.clip import clip_vit
from plait.nn.vit import VITConfig
from plait.objectives.letters import Letters, Speller
from plait.sequence import Batch, Targets

SIZES = VITConfig(image_size=16, patch=8, width=8, depth=1, heads=2, hidden=16)


class Reading:
    """A tower of four patches, and what a batch of three pictures has."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.vision = clip_vit(SIZES, torch.nn.Identity())
        self.speller = Speller(8, 2, 5)
        at, none = torch.arange(6), torch.zeros(6)
        value, image, offset = (
            torch.tensor(one) for one in ([0, 4, 0, 1, 0, 2], [0, 0, 1, 1, 2, 2], [1, 2, 7, 8, 3, 15])
        )
        targets = Targets(at=at, value=value, weight=none + 1, reader=none.long(), image=image, offset=offset)
        self.images, self.targets = torch.randn(3, 3, 16, 16), {"letter": targets}

    def loss(self) -> torch.Tensor:
        batch: Batch = self  # type: ignore[assignment]
        return Letters()(self, {"speller": self.speller}, batch, torch.Generator())["letter"]


def test_cells_lie_in_their_patches() -> None:
    speller, seen = Speller(4, 2, 5), torch.randn(1, 9, 4)
    told = speller(seen)
    assert told.shape == (1, 36, 5)
    by_patch = speller.head(seen[0]).view(9, 2, 2, 5)
    for y in range(6):
        for x in range(6):
            assert torch.equal(told[0, 6 * y + x], by_patch[3 * (y // 2) + x // 2, y % 2, x % 2])
    with pytest.raises(ConfigError, match="10 patches are no square"):
        speller(torch.randn(1, 10, 4))


def test_it_is_the_cross_entropy_of_the_cells_that_are_asked_for() -> None:
    reading = Reading()
    told = reading.speller(reading.vision(reading.images)[:, 1:]).log_softmax(-1)
    asked = reading.targets["letter"]
    each = [told[i, o, v] for i, o, v in zip(asked.image, asked.offset, asked.value, strict=True)]
    torch.testing.assert_close(reading.loss(), -torch.stack(each).sum())
    reading.loss().backward()
    assert reading.vision.patch.weight.grad is not None and reading.speller.head.weight.grad is not None


def test_letters_alone_are_counted() -> None:
    batch: Batch = Reading()  # type: ignore[assignment]
    assert Letters().counts(batch) == {"letter": 3.0} and Letters().weights({"letter": 3.0}) == {"letter": 1.0}
