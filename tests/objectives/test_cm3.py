from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.document import Image
from plait.objectives.cm3 import CM3Mask
from plait.sequence import OWN_INPUT, Sequence, Slot, Span, Target, tokens

EOS, BREAK, EOSS, SENTINELS, FIRST_TEXT = 1, 2, 3, (4, 5, 6), 10
MASK = CM3Mask(sentinels=SENTINELS, end=EOSS, boundaries=(BREAK, EOS), expectation=2.0)
Element = tuple[object, ...]


def elements(sequence: Sequence) -> list[Element]:
    """What each element is, with what it must be predicted as, and how heavily."""
    out: list[Element] = []
    for span in sequence.spans:
        for i in range(span.length):
            what = (id(span.fill.image), span.fill.start + i) if isinstance(span.fill, Slot) else int(span.fill[i])
            targets = [(t.kind, None if t.value is None else int(t.value[i]), float(t.weight[i])) for t in span.targets]
            out.append((what, *(target for target in targets if target[2])))
    return out


def draw_sequence(random: Random) -> Sequence:
    """Segments of text and pictures between boundaries; every text id occurs once."""
    spans, next_id = [tokens([EOS])], FIRST_TEXT
    for i in range(random.randint(0, 5)):
        spans += [tokens([random.choice([BREAK, EOS])])] if i else []
        n = random.randint(0, 12)
        if random.random() < 0.4 and n:
            spans.append(Span(Slot("vqgan", Image(b"")), n, (Target("code", OWN_INPUT, np.ones(n, np.float32)),)))
        else:
            spans.append(tokens(range(next_id, next_id + n), weight=random.choice([0.0, 0.5, 1.0])))
            next_id += n
    return Sequence((*spans, tokens([EOS])), "here")


def taken_apart(masked: list[Element], sentinel: dict[int, Element]) -> tuple[list[Element], list[list[Element]]]:
    """The elements put back in their places, and the spans that had been moved."""
    count = sum(element in sentinel.values() for element in masked) // 2
    tail = [i for i, element in enumerate(masked) if element == sentinel[SENTINELS[0]]][1] if count else len(masked)
    spans: list[list[Element]] = []
    rest = masked[tail:]
    for symbol in SENTINELS[:count]:
        assert rest[0] == sentinel[symbol]
        end = rest.index((EOSS, ("token", EOSS, 1.0)))
        spans.append(rest[1:end])
        rest = rest[end + 1 :]
    assert not rest
    whole: list[Element] = []
    places = [element for element in masked[:tail] if element in sentinel.values()]
    assert places == [sentinel[symbol] for symbol in SENTINELS[:count]]
    for element in masked[:tail]:
        whole += spans[places.index(element)] if element in places else [element]
    return whole, spans


@settings(max_examples=250, deadline=None)
@given(
    random=st.randoms(use_true_random=False),
    seed=st.integers(0, 2**32 - 1),
    weight=st.sampled_from([0.0, 1.0]),
    whole=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_what_moves_is_conserved(random: Random, seed: int, weight: float, whole: float) -> None:
    sequence = draw_sequence(random)
    mask = replace(MASK, sentinel_weight=weight, whole=whole)
    masked = mask(sequence, np.random.default_rng(seed))
    sentinel: dict[int, Element] = {s: (s, ("token", s, 1.0)) if weight else (s,) for s in SENTINELS}
    back, spans = taken_apart(elements(masked), sentinel)
    assert back == elements(sequence)
    assert len(masked) == len(sequence) + 3 * len(spans)
    assert masked.origin == "here"
    for span in spans:
        assert span
        assert not {element[0] for element in span} & {EOS, BREAK}
    again = mask(sequence, np.random.default_rng(seed))
    assert elements(again) == elements(masked)


def test_a_span_that_is_moved_by_hand() -> None:
    moved = MASK.move(Sequence((tokens([1, 10, 11, 12, 2, 13, 1]),)), [(2, 4), (5, 6)])
    assert moved.ids().tolist() == [1, 10, 4, 2, 5, 1, 4, 11, 12, 3, 5, 13, 3]
    assert [element[0] for element in elements(moved) if len(element) == 1] == [4, 5, 4, 5]  # not predicted


def test_a_picture_that_is_cut_keeps_its_codes_apart() -> None:
    picture = Span(Slot("vqgan", Image(b"")), 6, (Target("code", OWN_INPUT, np.ones(6, np.float32)),))
    moved = MASK.move(Sequence((tokens([EOS]), picture, tokens([EOS]))), [(3, 5)])
    parts = [(s.fill.start, s.length, len(s.targets[0].weight)) for s in moved.spans if isinstance(s.fill, Slot)]
    assert parts == [(0, 2, 2), (4, 2, 2), (2, 2, 2)]


@settings(max_examples=80, deadline=None)
@given(random=st.randoms(use_true_random=False), seed=st.integers(0, 2**32 - 1))
def test_a_whole_text_is_one_segment(random: Random, seed: int) -> None:
    sequence = draw_sequence(random)
    ids = sequence.ids().tolist()
    cuts = [-1, *(i for i, id in enumerate(ids) if id in (EOS, BREAK))]
    texts = [tuple(ids[a + 1 : b]) for a, b in pairwise(cuts)]
    texts = [text for text in texts if text and -1 not in text]
    masked = replace(MASK, whole=1.0)(sequence, np.random.default_rng(seed)).ids().tolist()
    if texts:
        assert masked[-1] == EOSS and masked.count(SENTINELS[0]) == 2
        moved = masked[len(masked) - 1 - masked[::-1].index(SENTINELS[0]) + 1 : -1]
        assert tuple(moved) in texts


def test_every_text_is_masked_as_often() -> None:
    sequence = Sequence((tokens([EOS, 10, 11, BREAK, 12, BREAK, 13, 14, 15, EOS]),))
    generator = np.random.default_rng(0)
    firsts = Counter(int(replace(MASK, whole=1.0)(sequence, generator).ids()[-2]) for _ in range(300))
    assert set(firsts) == {11, 12, 15} and min(firsts.values()) > 70


@pytest.mark.parametrize("expectation", [0.0, 1.0])
def test_the_number_of_spans_is_drawn_from_poisson(expectation: float) -> None:
    sequence = Sequence((tokens([EOS, *range(10, 400), EOS]),))
    mask = replace(MASK, sentinels=tuple(range(1000, 1020)), expectation=expectation)
    generator = np.random.default_rng(0)
    counts = [(len(mask(sequence, generator)) - len(sequence)) // 3 for _ in range(400)]
    assert np.mean(np.array(counts) == 0) == pytest.approx(np.exp(-expectation), abs=0.06)
    assert max(counts) >= 3 * expectation  # more are found less often: they must not intersect


def test_there_are_at_most_as_many_spans_as_sentinels() -> None:
    sequence = Sequence((tokens([EOS, *range(10, 400), EOS]),))
    mask = replace(MASK, expectation=50.0)
    generator = np.random.default_rng(0)
    assert max(len(mask(sequence, generator)) - len(sequence) for _ in range(30)) <= 9


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_an_answered_document_stays_as_it_is(whole: float) -> None:
    sequence = Sequence((tokens([EOS, 10, SENTINELS[0], EOS, SENTINELS[0], 11, EOSS]),))
    for seed in range(20):
        assert replace(MASK, whole=whole)(sequence, np.random.default_rng(seed)) is sequence


def test_nothing_to_mask() -> None:
    for sequence in (Sequence((tokens([EOS, EOS]),)), Sequence(())):
        for seed in range(10):
            assert replace(MASK, whole=0.5)(sequence, np.random.default_rng(seed)) is sequence
