"""Random parts of pictures: the same wherever and whenever a document is read."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from plait.data.crops import RandomCrop
from plait.data.packs import Data, Loader
from plait.document import Document, Image, Turn
from plait.errors import ConfigError
from plait.sequence import Sequence, Slot, Span
from plait.systems.minigpt4 import TINY, MiniGPT4Format
from plait.text.pieces import SentencePiece
from plait.text.templates import ALIGNMENT

FORMAT = MiniGPT4Format(TINY, SentencePiece.train(ALIGNMENT, 320))
RAMP = np.indices((24, 24)).transpose(1, 2, 0)  # each pixel says where it is


def ramp(number: int = 0) -> Image:
    pixels = np.concatenate([RAMP, np.full((24, 24, 1), number)], axis=2)
    return Image(PIL.Image.fromarray(pixels.astype(np.uint8)))


def pictures(sequence: Sequence) -> list[np.ndarray]:
    return [np.asarray(image.open()) for _, image in sequence.pictures]


def test_a_part_stands_in_place_of_each_picture() -> None:
    laid = FORMAT.layout(Document([ramp(1), ramp(2), "words"]))
    cropped = RandomCrop()(laid, np.random.default_rng(3))
    assert [(span.length, span.targets) for span in cropped.spans] == [(s.length, s.targets) for s in laid.spans]
    first, second = pictures(cropped)
    assert first.shape != second.shape or not np.array_equal(first[..., :2], second[..., :2])
    for number, part in enumerate((first, second), 1):
        top, left = part[0, 0, :2]
        assert np.array_equal(part[..., :2], RAMP[top : top + len(part), left : left + part.shape[1]])
        assert (part[..., 2] == number).all() and 0.45 < part.shape[0] * part.shape[1] / 24**2 < 1
    for again in (cropped, RandomCrop()(laid, np.random.default_rng(3)), pickle.loads(pickle.dumps(cropped))):
        assert all(np.array_equal(a, b) for a, b in zip(pictures(again), (first, second), strict=True))
    other = pictures(RandomCrop()(laid, np.random.default_rng(4)))
    assert not np.array_equal(other[0], first)


def test_a_picture_that_stands_twice_is_cropped_once() -> None:
    image = ramp()
    laid = Sequence((Span(Slot("vision", image), 4), Span(Slot("vision", image, 4), 4)))
    first, second = (span.fill for span in RandomCrop()(laid, np.random.default_rng(0)).spans)
    assert isinstance(first, Slot) and isinstance(second, Slot)
    assert first.image is second.image and (first.start, second.start) == (0, 4)


@pytest.mark.timeout(60)
def test_neither_workers_nor_ranks_nor_a_resume_change_a_part() -> None:
    documents = [Document([Turn("user", [ramp(i), "what?"]), Turn("assistant", f"{i}")]) for i in range(10)]
    data = Data(sources={"a": documents}, rows=4, length=120, window=4, transforms=(RandomCrop(),), policy="alone")
    loader = Loader(data, FORMAT)
    wanted = [next(loader)["slots/vision/pictures"] for _ in range(4)]
    loader.close()
    whole = Loader(replace(data, transforms=()), FORMAT)
    assert not np.array_equal(next(whole)["slots/vision/pictures"], wanted[0])
    state = whole.state  # behind the first element
    whole.close()
    assert not np.array_equal(wanted[0], wanted[1])
    for rank in range(2):
        worked = Loader(replace(data, workers=1), FORMAT, rank, 2, state=state if rank else None)
        for k in range(1 if rank else 0, 4):
            assert np.array_equal(next(worked)["slots/vision/pictures"], wanted[k][2 * rank : 2 * rank + 2])
        worked.close()


def test_shares_that_are_none_are_refused() -> None:
    for scale in ((0.0, 1.0), (0.9, 0.5), (0.5, 1.5)):
        with pytest.raises(ConfigError, match="give two shares of the area, the smaller first"):
            RandomCrop(scale=scale)
