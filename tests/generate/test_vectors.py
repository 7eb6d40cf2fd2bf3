"""Vectors that a model writes behind the prompts of a batch: with a cache, by reading anew, and by the engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from plait.document import Blank, Document, Image
from plait.generate.model import Model
from plait.generate.vectors import continued, recomputed
from plait.systems.emu import TINY, Emu, build

Picture = Callable[[int], Image]
N = TINY.cformer.queries


@pytest.fixture(scope="module")
def system() -> Emu:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = build("tiny").eval()
        for weight in made.language.parameters():
            weight.normal_(std=0.2)
    assert made.decoder is not None
    made.decoder.diffusion.reschedule("DDIMScheduler", steps=1)
    return made


def batch(system: Emu, documents: list[Document]) -> object:
    rows = [[system.layout(document, open=True)] for document in documents]
    return system.format.collator()(rows, shift=False)


def test_a_cache_changes_nothing(system: Emu, picture: Picture) -> None:
    documents = [Document([picture(0), "ab", Blank("image")]), Document([picture(1), "ab", Blank("image")])]
    made = batch(system, documents)
    cached, anew = continued(system, made, N), recomputed(system, made, N)
    assert cached.shape == (2, N, TINY.language.width)
    torch.testing.assert_close(cached, anew, rtol=0, atol=2e-5)  # fp32, sums in another order
    assert not torch.allclose(cached[0], cached[1]) and not torch.allclose(cached[:, 0], cached[:, 1])


def test_rows_of_several_lengths_are_as_the_engine_has_them(system: Emu, picture: Picture) -> None:
    documents = [
        Document(["a", Blank("image")]),
        Document([picture(0), "a longer text", picture(1), Blank("image")]),
        Document([Blank("image")]),
    ]
    found = continued(system, batch(system, documents), N)
    for number, reply in enumerate(Model(system).generate(documents)):
        wanted = torch.stack(reply.runs[0].vectors)[:, 0]
        torch.testing.assert_close(found[number], wanted, rtol=0, atol=1e-4)
