"""Which examples stand in front of a question about a picture: those whose pictures are most like it (RICES).

Retrieval of in-context examples by similarity (Yang et al., arXiv 2109.05014), as Flamingo and Emu use it.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np

from plait.document import Document
from plait.errors import InputError
from plait.retrieval.embed import Embedder
from plait.retrieval.search import exact


def most_alike(embedder: Embedder, pool: Items[Document], queries: Items[Document], count: int) -> list[list[int]]:
    """For each query the numbers of the documents whose pictures are most like its own, the most alike last.

    Texts are not compared: those of the pool tell what is asked for. Large pools are `plait.retrieval.memory`'s.

    Raises:
        InputError: more are wanted than there are, or fewer than none.
        DocumentError: a document without a picture.
    """
    if not 0 <= count <= len(pool):
        raise InputError(
            f"{count} examples of a pool of {len(pool)}: ask for at least 0, and for no more than there are"
        )
    if not count:
        return [[] for _ in queries]
    known, asked = (embedder([Document(one.images) for one in some]).pictures for some in (pool, queries))
    _, rows = exact(known.numpy(), np.ones(len(pool), np.float32), asked, count)
    found: list[list[int]] = rows.flip(1).tolist()
    return found
