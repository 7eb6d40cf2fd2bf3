"""Packing into blocks and the CM3 mask against metaseq's, with the draws that its program made."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, Goldens
from numpy.typing import NDArray

from plait.objectives.cm3 import CM3Mask, clip
from plait.sequence import Sequence, pack_complete, pack_stream, tokens

GOLDENS = Goldens("cm3leon")
CASES = [name for name in GOLDENS.cases if name.startswith("cm3_")]


class Replayed:
    """The draws of one block: recorded, and made again from the seeds of its program.

    Places are drawn in a block's padded length there, and in its own here: they are given in units of the latter.
    """

    def __init__(self, golden: Golden) -> None:
        self.settings = golden.settings
        self.places = np.random.RandomState(self.settings["numpy_seed"])
        self.draws = iter(self.settings["draws"])
        self.present: dict[str, Any] = {}
        self.stretch = 1.0

    def begin(self, length: int) -> None:
        """Goes on to the next block, of so many real elements."""
        self.present = next(self.draws)
        self.stretch = self.settings["block_size"] / length

    def poisson(self, expectation: float) -> int:
        assert expectation == self.settings["expectation"]
        (count,) = self.present["poisson"]
        assert torch.poisson(torch.tensor([float(expectation)])).item() == count
        return int(count)

    def random(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        recorded = np.array(self.present["uniform"]).reshape(-1, 2)
        assert recorded.shape == shape
        assert np.array_equal(recorded, self.places.uniform(size=shape))
        return recorded * self.stretch


def mask_of(golden: Golden) -> CM3Mask:
    settings = golden.settings
    poisson = settings["method"] == "poisson"
    symbols = settings["sentinel_tokens"]
    return CM3Mask(
        sentinels=tuple(symbols[:-1] if poisson else symbols),  # drawn numbers are clamped to one less
        end=settings["eoss"],
        boundaries=() if settings["allow_rotation_across_eod"] else (settings["eod"],),
        expectation=settings["expectation"],
        fixed=None if poisson else 1,
        opening=True,
        sentinel_weight=1.0,
    )


def blocks_of(golden: Golden) -> list[Sequence]:
    """The documents as blocks, without the last where it is a part: metaseq leaves it out."""
    settings = golden.settings
    pack = {"none": pack_stream, "complete": pack_complete}[settings["break_mode"]]
    blocks = pack([Sequence((tokens(ids),)) for ids in settings["documents"]], settings["block_size"] - 1)
    size = settings["block_size"]
    return [block for block in blocks if settings["break_mode"] == "complete" or len(block) == size]


def packed(golden: Golden) -> None:
    settings = golden.settings
    size, pad, mask = settings["block_size"], settings["pad"], mask_of(golden)
    blocks, replayed = blocks_of(golden), Replayed(golden)
    real = [[id for id in block if id != pad] for block in settings["blocks_before"]]
    assert [block.ids().tolist() for block in blocks] == real
    with torch.random.fork_rng():
        torch.manual_seed(settings["torch_seed"])
        for block, spans, after in zip(blocks, settings["raw_spans"], settings["blocks_after"], strict=True):
            replayed.begin(len(block))
            ours = mask(block, replayed).ids().tolist()  # type: ignore[arg-type]
            assert ours == moved(block, spans or [], mask)
            if any(start == stop for start, stop in spans or []):
                continue  # the original loses the element behind an empty span
            kept = [id for id in after if id != pad]  # pads move with their span there, and there are none here
            assert kept == ours[: len(kept)]
            if pad not in after:
                assert after == ours[:size]
    assert next(replayed.draws, None) is None


def moved(block: Sequence, spans: list[list[int]], mask: CM3Mask) -> list[int]:
    """What becomes of a block when the recorded spans move, empty ones left out."""
    ids = block.ids().tolist()
    segments = mask.segments(block.ids())
    clipped = sorted(clip((start, stop), segments) for start, stop in spans)
    return written(ids, [span for span in clipped if span[0] < span[1]], mask.sentinels, mask.end)


def written(ids: list[int], spans: Items[tuple[int, int]], sentinels: Items[int], end: int) -> list[int]:
    """The masked ids, by the words of the paper."""
    source, target, at = [], [], 0
    for (start, stop), sentinel in zip(spans, sentinels, strict=False):
        source += [*ids[at:start], sentinel]
        target += [sentinel, *ids[start:stop], end]
        at = stop
    return [*source, *ids[at:], *target]


def none_crash(golden: Golden) -> None:
    """Without a span a block stays as it is; the original ends with an error."""
    assert golden.settings["error"].startswith("TypeError")
    block, replayed, mask = blocks_of(golden)[0], Replayed(golden), mask_of(golden)
    assert block.ids().tolist() == golden.settings["blocks_before"][0]
    replayed.begin(len(block))
    with torch.random.fork_rng():
        torch.manual_seed(golden.settings["torch_seed"])
        assert mask(block, replayed) is block  # type: ignore[arg-type]


def direct(golden: Golden) -> None:
    settings, ids = golden.settings, golden.given["document"].tolist()
    mask = CM3Mask(sentinels=tuple(settings["sentinels"]), end=settings["eoss"], boundaries=())
    spans = [(start, stop) for start, stop in settings["spans"] if start < stop]
    ours = mask.move(Sequence((tokens(ids),)), spans).ids().tolist()
    assert ours == written(ids, spans, mask.sentinels, mask.end)
    if len(spans) == len(settings["spans"]):  # else the original loses an element
        assert ours == golden.wanted["joined"].tolist()
        assert ours == [*golden.wanted["source"].tolist(), *golden.wanted["target"].tolist()]


def boundaries(golden: Golden) -> None:
    settings = golden.settings
    mask = CM3Mask(sentinels=(), end=-1, boundaries=(settings["eod"],), opening=True)
    segments = mask.segments(np.array(settings["item"]))
    assert [list(segment) for segment in segments] == settings["boundaries"]
    for case in settings["adjust"]:
        assert [list(clip(span, case["constraints"])) for span in case["spans"]] == case["result"]


def check_of(name: str) -> Callable[[Golden], None]:
    if name == "cm3_none_crash":
        return none_crash
    if name == "cm3_boundaries":
        return boundaries
    return direct if name.startswith("cm3_direct") else packed


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    check_of(name)(GOLDENS[name])
