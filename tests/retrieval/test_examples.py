"""Examples whose pictures are most like that of a question."""

from __future__ import annotations

import PIL.Image
import pytest

from plait.document import Document, Image
from plait.errors import DocumentError, InputError
from plait.retrieval.embed import Embedder
from plait.retrieval.examples import most_alike


def flat(red: int, text: str = "") -> Document:
    picture = Image(PIL.Image.new("RGB", (8, 8), (red, 255 - red, 0)))
    return Document([picture, text] if text else [picture])


def test_the_most_alike_stands_last_whatever_is_said(embedder: Embedder) -> None:
    pool = [flat(red, text) for red, text in ((0, "a"), (250, "b"), (100, "c"), (200, "d"))]
    assert most_alike(embedder, pool, [flat(255, "a"), flat(0)], 3) == [[2, 3, 1], [3, 2, 0]]
    assert most_alike(embedder, pool, [flat(0)] * 2, 0) == [[], []]


def test_what_cannot_be_found_is_said(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="3 examples of a pool of 2"):
        most_alike(embedder, [flat(0), flat(1)], [flat(2)], 3)
    with pytest.raises(DocumentError, match="neither text nor pictures"):
        most_alike(embedder, [Document("words")], [flat(2)], 1)
