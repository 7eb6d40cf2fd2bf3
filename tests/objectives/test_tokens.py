from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plait.document import Document, Image, Turn
from plait.objectives.tokens import NextToken
from plait.sequence import OWN_INPUT, Batch, Collator, Prepare, Sequence, Slot, Span, Target, tokens
from plait.systems.base import Hidden
from plait.systems.cm3leon import CM3Leon

Picture = Callable[[int], Image]
BOTH = NextToken(kinds=("token", "code"))


def loss(objective: NextToken, system: Any, batch: Batch) -> dict[str, float]:
    with torch.no_grad():
        terms = objective(system, {}, batch, torch.Generator())
    return {kind: float(term) for kind, term in terms.items()}


def weighted(sequence: Sequence) -> Sequence:
    """The same with weights 1, 2, 0.5, 1, 2, ... instead of 1."""
    spans = []
    for span in sequence.spans:
        weights = np.resize(np.array([1, 2, 0.5], np.float32), span.length)
        spans.append(replace(span, targets=tuple(replace(t, weight=t.weight * weights) for t in span.targets)))
    return replace(sequence, spans=tuple(spans))


@torch.no_grad()
def plain(system: CM3Leon, sequence: Sequence) -> tuple[dict[str, float], dict[str, float]]:
    """Sums of weight x -log p and of weights by kind: one document, one pass, one element after the other."""
    ids: list[int] = []
    wanted: list[list[tuple[str, float]]] = []
    for span in sequence.spans:
        if isinstance(span.fill, Slot):
            pixels = system.format.preprocess()["vqgan"](span.fill.image)
            ids += system.codes(torch.from_numpy(pixels)[None])[0].tolist()
        else:
            ids += span.fill.tolist()
        wanted += [[(t.kind, float(t.weight[i])) for t in span.targets] for i in range(span.length)]
    batch = system.format.collator()([[Sequence((tokens(ids),))]], shift=False)
    logprobs = system.unembed(system(batch).states[0]).double().log_softmax(-1)
    sums, weights = {"token": 0.0, "code": 0.0}, {"token": 0.0, "code": 0.0}
    for j in range(1, len(ids)):
        for kind, weight in wanted[j]:
            sums[kind] -= weight * float(logprobs[j - 1, ids[j]])
            weights[kind] += weight
    return sums, weights


@pytest.fixture(scope="module")
def laid(cm3leon: CM3Leon, picture: Picture) -> list[Sequence]:
    a, b = picture(0), picture(1)
    documents = [
        Document(["a dog", a]),
        Document([b, "then", a]),
        Document("only text"),
        Document([Turn("user", [a, "what?"]), Turn("assistant", "a cat")]),
    ]
    return [weighted(cm3leon.layout(document)) for document in documents]


@pytest.fixture(scope="module")
def batch(cm3leon: CM3Leon, laid: list[Sequence]) -> Batch:
    return cm3leon.format.collator()([laid[:3], laid[3:]])


def test_sums_are_those_of_each_document_by_itself(cm3leon: CM3Leon, laid: list[Sequence], batch: Batch) -> None:
    alone = [plain(cm3leon, sequence) for sequence in laid]
    expected = {kind: sum(sums[kind] for sums, _ in alone) for kind in ("token", "code")}
    assert loss(BOTH, cm3leon, batch) == pytest.approx(expected, rel=1e-5)
    weights = {kind: sum(weights[kind] for _, weights in alone) for kind in ("token", "code")}
    assert BOTH.counts(batch) == weights


def test_only_the_kinds_that_are_asked_for_count(cm3leon: CM3Leon, batch: Batch) -> None:
    for kind in ("token", "code"):
        alone = NextToken(kinds=(kind,))
        assert loss(alone, cm3leon, batch) == {kind: loss(BOTH, cm3leon, batch)[kind]}
        assert alone.counts(batch) == {kind: BOTH.counts(batch)[kind]}


def test_one_mean_over_all_targets_or_a_mean_for_each_kind() -> None:
    counts, means = {"token": 30.0, "code": 10.0}, {"token": 2.0, "code": 4.0}
    for objective, total in [
        (BOTH, (30 * 2.0 + 10 * 4.0) / 40),
        (replace(BOTH, joint=False), 2.0 + 4.0),
        (replace(BOTH, joint=False, scale={"code": 0.5}), 2.0 + 0.5 * 4.0),
        (replace(BOTH, scale={"code": 0.5}), (30 * 2.0 + 0.5 * 10 * 4.0) / 40),
    ]:
        weights = objective.weights(counts)
        assert sum(weights[kind] * means[kind] for kind in counts) == pytest.approx(total)


def test_a_kind_without_targets_gives_zero_with_a_graph(cm3leon: CM3Leon) -> None:
    batch = cm3leon.format.collator()([[cm3leon.layout(Document("only text"))]])
    terms = BOTH(cm3leon, {}, batch, torch.Generator())
    assert terms["code"].item() == 0 and terms["code"].requires_grad
    assert BOTH.weights(BOTH.counts(batch)) == {"token": 1.0, "code": 0.0}
    (gradient,) = torch.autograd.grad(terms["code"], cm3leon.embed.weight)
    assert gradient.eq(0).all()


@dataclass
class Fake:
    """A system of two readers that make ids, and one that makes vectors; hidden states are what it is given."""

    states: Tensor
    own: Mapping[str, Tensor]

    heads: Any = None

    def __call__(self, batch: Batch) -> Hidden:
        self.heads = {"token": lambda x: x, "code": lambda x: x}
        return Hidden(states=self.states, own=self.own)


def test_own_input_is_what_the_right_reader_made_of_the_right_element() -> None:
    readers = ("vectors", "first", "second")
    images = [Image(str(i).encode()) for i in range(3)]

    def span(reader: str, i: int, n: int, start: int = 0) -> Span:
        return Span(Slot(reader, images[i], start), n, (Target("code", OWN_INPUT, np.ones(n, np.float32)),))

    ignored = Span(Slot("vectors", images[0]), 2)
    rows = [
        [Sequence((tokens([7]), span("second", 0, 3), ignored, span("first", 1, 2, 1))), Sequence((tokens([6, 5]),))],
        [Sequence((tokens([4]), span("second", 2, 2, 1), span("second", 1, 1)))],
    ]
    batch = Collator(dict.fromkeys(readers, Prepare((3, 1, 1), lambda image, out: out.fill(0))))(rows)
    own = {
        "vectors": torch.randn(1, 2, 20),
        "first": torch.tensor([[10, 11, 12]]),
        "second": torch.tensor([[1, 2, 3], [14, 15, 16], [17, 18, 19]]),  # pictures 0, 2, 1: as they are read
    }
    states = torch.randn(*batch.ids.shape, 20, generator=torch.Generator().manual_seed(0))
    logprobs = states.log_softmax(-1)
    predicted = {"code": [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 5, 11), (0, 6, 12), (1, 0, 15), (1, 1, 16), (1, 2, 17)]}
    predicted["token"] = [(0, 7, 5)]
    expected = {kind: -sum(float(logprobs[at]) for at in places) for kind, places in predicted.items()}
    assert loss(BOTH, Fake(states, own), batch) == pytest.approx(expected, rel=1e-5)
