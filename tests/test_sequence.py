from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from plait.document import Image
from plait.errors import DocumentError, ImageError, TrainingError
from plait.nn.attention import Visibility
from plait.sequence import (
    OWN_INPUT,
    Batch,
    Collator,
    Prepare,
    Sequence,
    Slot,
    Span,
    Target,
    compact,
    join,
    pack_complete,
    pack_isolated,
    pack_stream,
    picture,
    tokens,
)

IMAGES = [Image(str(number).encode()) for number in range(5)]
BROKEN = Image(b"broken")
SHAPES = {"one": (3, 1, 2), "two": (3, 2, 2)}


def write(image: Image, out: NDArray[np.float32]) -> None:
    """Every pixel is the picture's number, plus 100 for the second reader."""
    if image is BROKEN:
        raise ImageError("broken")
    out[...] = int(image.source) + 100 * (out.shape == SHAPES["two"])  # type: ignore[arg-type]


def collator() -> Collator:
    return Collator({reader: Prepare(shape, write) for reader, shape in SHAPES.items()})


@dataclass(frozen=True)
class Element:
    """The oracle's view: one element knows all about itself."""

    id: int
    source: tuple[str, float, int] | None  # reader, the picture's pixel, element of it
    run: object | None  # elements of one whole span share it
    targets: tuple[tuple[str, int | None, float], ...]
    broken: bool = False


Laid = tuple[Sequence, list[Element]]


def draw_span(random: Random) -> tuple[Span, list[Element]]:
    n = random.randint(0 if random.random() < 0.1 else 1, 5)
    run = object() if random.random() < 0.3 else None
    weights = [[random.choice([0.0, 0.5, 1.0, 2.0]) for _ in range(n)] for _ in range(3)]
    ids = [random.randrange(50) for _ in range(n)]
    kinds = random.sample(["token", "code", "vector"], random.randint(0, 3))
    values: dict[str, list[int] | None] = {kind: [random.randrange(50) for _ in range(n)] for kind in kinds}
    source: list[tuple[str, float, int] | None] = [None] * n
    fill: NDArray[np.int64] | Slot = np.array(ids, np.int64)
    broken = False
    if n and random.random() < 0.5:
        reader, start, image = random.choice(["one", "two"]), random.randrange(3), random.choice([*IMAGES, BROKEN])
        if random.random() < 0.8:
            image = random.choice(IMAGES)
        broken = image is BROKEN
        fill, ids = Slot(reader, image, start), [0] * n
        pixel = 0.0 if broken else float(collator().prepare[reader](image).flat[0])
        source = [(reader, pixel, start + i) for i in range(n)]
        values = {kind: None if random.random() < 0.6 else value for kind, value in values.items()}
    targets = [
        Target(kind, OWN_INPUT if value is None else np.array(value, np.int64), np.array(weights[i], np.float32))
        for i, (kind, value) in enumerate(values.items())
    ]
    elements = [
        Element(
            ids[j],
            source[j],
            run,
            tuple((kind, v and v[j], weights[i][j]) for i, (kind, v) in enumerate(values.items())),
            broken,
        )
        for j in range(n)
    ]
    return Span(fill, n, tuple(targets), whole=run is not None), elements


def draw_sequence(random: Random) -> Laid:
    parts = [draw_span(random) for _ in range(random.randint(1, 4))]
    parts.append((tokens([7]), [Element(7, None, None, (("token", 7, 1.0),))]))
    return Sequence(tuple(span for span, _ in parts)), [element for _, elements in parts for element in elements]


def cut(laid: Laid, start: int, stop: int) -> Laid:
    """Elements of a whole span that is cut see only those of their own part."""
    sequence, elements = laid
    runs: dict[int, object] = {}
    kept = [replace(e, run=e.run and runs.setdefault(id(e.run), object())) for e in elements[start:stop]]
    return sequence.cut(start, stop), kept


def rearranged(laid: Laid, random: Random) -> Laid:
    """Cut in three and joined in another order."""
    a, b = sorted(random.randint(0, len(laid[1])) for _ in range(2))
    parts = [cut(laid, 0, a), cut(laid, a, b), cut(laid, b, len(laid[1]))]
    random.shuffle(parts)
    return join(part for part, _ in parts), [element for _, elements in parts for element in elements]


def draw_rows(random: Random) -> list[list[Laid]]:
    rows = [[draw_sequence(random) for _ in range(random.randint(1, 3))] for _ in range(random.randint(1, 3))]
    return [[rearranged(laid, random) if random.random() < 0.4 else laid for laid in row] for row in rows]


def expected_targets(rows: list[list[Laid]], width: int, shift: bool) -> dict[str, Counter[tuple[object, ...]]]:
    """What is predicted where: (flat input, value or the element of a picture, weight), by kind."""
    expected: dict[str, Counter[tuple[object, ...]]] = {}
    for r, row in enumerate(rows):
        column = 0
        for _, elements in row:
            broken = any(element.broken for element in elements)
            for j, element in enumerate(elements):
                for kind, value, weight in element.targets:
                    if j and weight and not broken:
                        entry = (r * width + column + j - 1, element.source if value is None else value, weight)
                        expected.setdefault(kind, Counter())[entry] += 1
            column += len(elements) - shift
    return expected


def actual_targets(batch: Batch) -> dict[str, Counter[tuple[object, ...]]]:
    actual: dict[str, Counter[tuple[object, ...]]] = {}
    for kind, t in batch.targets.items():
        for at, value, weight, number, image, offset in zip(
            *(x.tolist() for x in (t.at, t.value, t.weight, t.reader, t.image, t.offset)), strict=True
        ):
            reader = batch.readers[number]
            own = lambda: (reader, float(batch.slots[reader].pictures[image].flatten()[0]), offset)  # noqa: B023, E731
            actual.setdefault(kind, Counter())[at, own() if value < 0 else value, weight] += 1
    return actual


@settings(max_examples=120, deadline=None)
@given(random=st.randoms(use_true_random=False), shift=st.booleans())
def test_a_batch_is_what_its_elements_say(random: Random, shift: bool) -> None:
    rows = draw_rows(random)
    if not any(len(elements) > shift for row in rows for _, elements in row):
        return
    batch = collator()([[sequence for sequence, _ in row] for row in rows], shift=shift)
    width = batch.ids.shape[1]
    assert width == max(sum(len(elements) - shift for _, elements in row) for row in rows)

    slots = {
        (int(at)): (reader, float(s.pictures[image].flatten()[0]), int(offset))
        for reader, s in batch.slots.items()
        for at, image, offset in zip(s.at, s.image, s.offset, strict=True)
    }
    seen = 0
    sees = torch.zeros(len(rows), width, width, dtype=torch.bool)
    for r, row in enumerate(rows):
        column = 0
        for d, (_, elements) in enumerate(row):
            fed = elements[: len(elements) - shift]
            for i, element in enumerate(fed):
                here = (r, column + i)
                assert batch.ids[here] == element.id
                assert batch.document[here] == d
                assert batch.position[here] == i
                assert batch.place[here] == (element.source[2] if element.source else -1)
                assert slots.get(r * width + column + i) == element.source
                seen += element.source is not None
                for j, other in enumerate(fed):
                    together = element.run is not None and element.run is other.run
                    sees[r, column + i, column + j] = j <= i or together
            column += len(fed)
        for pad in range(column, width):
            pads = [int(x[r, pad]) for x in (batch.document, batch.ids, batch.block, batch.place)]
            assert pads == [-1, 0, -1, -1]
            sees[r, pad, pad] = True
    assert seen == len(slots) == sum(len(s.at) for s in batch.slots.values())
    assert torch.equal(Visibility(batch.document, batch.block).dense(), sees)

    assert actual_targets(batch) == expected_targets(rows, width, shift)
    assert batch.sequences == sum(len(row) for row in rows)
    assert batch.broken == sum(any(e.broken for e in elements) for row in rows for _, elements in row)


@settings(max_examples=60, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_cut_and_joined_sequences_keep_their_ids(random: Random) -> None:
    sequence, elements = rearranged(draw_sequence(random), random)
    assert len(sequence) == len(elements)
    assert sequence.ids(missing=-5).tolist() == [-5 if e.source else e.id for e in elements]


def test_neighbours_of_one_kind_become_one_span() -> None:
    other = Span(np.array([8]), 1, (Target("code", np.array([9]), np.ones(1, np.float32)),))
    whole = Span(np.array([5]), 1, whole=True)
    picture = Span(Slot("one", IMAGES[0]), 2)
    spans = [tokens([1, 2]), tokens([3], weight=0), tokens([]), tokens([4], weight=0.5), other, whole, whole, picture]
    made = compact([*spans, tokens([6]), tokens([7])])
    assert [span.length for span in made] == [4, 1, 1, 1, 2, 2]
    (target,) = made[0].targets
    assert made[0].fill.tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert target.weight.tolist() == [1.0, 1.0, 0.0, 0.5]


def test_a_picture_cut_in_two_goes_on_in_the_next_block() -> None:
    span = Span(Slot("one", IMAGES[3]), 6, (Target("code", OWN_INPUT, np.ones(6, np.float32)),))
    blocks = pack_stream([Sequence((tokens([5, 6]), span)), Sequence((tokens([8]),))], 5)
    assert [len(block) for block in blocks] == [6, 3]
    batch = collator()([[block] for block in blocks])
    slots, codes = batch.slots["one"], batch.targets["code"]
    assert slots.at.tolist() == [2, 3, 4, 5, 6]  # element 3 of the picture is the last of its block, and no input
    assert slots.offset.tolist() == [0, 1, 2, 4, 5]
    assert codes.at.tolist() == [1, 2, 3, 4, 5]  # element 4 of the picture is the first of its block: not predicted
    assert codes.offset.tolist() == [0, 1, 2, 3, 5]
    assert codes.value.tolist() == [-1] * 5
    assert slots.pictures[slots.image].flatten(1)[:, 0].tolist() == [3.0] * 5


def test_a_broken_picture_costs_its_sequence_all_targets_and_no_other() -> None:
    target = Target("code", OWN_INPUT, np.ones(2, np.float32))
    bad = Sequence((tokens([1, 2]), Span(Slot("two", BROKEN), 2, (target,)), tokens([3])))
    good = Sequence((tokens([4, 5]), Span(Slot("two", IMAGES[1]), 2, (target,)), tokens([6])))
    batch = collator()([[bad, good]])
    assert (batch.sequences, batch.broken) == (2, 1)
    assert batch.ids.tolist() == [[1, 2, 0, 0, 4, 5, 0, 0]]
    assert batch.document.tolist() == [[0] * 4 + [1] * 4]
    assert batch.slots["two"].pictures.flatten(1)[:, 0].tolist() == [0.0, 101.0]  # a blank in its place
    assert batch.targets["token"].at.tolist() == [4, 7] and batch.targets["code"].at.tolist() == [5, 6]


def test_a_picture_is_read_once_for_each_reader() -> None:
    same = [Span(Slot(reader, IMAGES[2], start), 2) for reader in ("one", "two", "one") for start in (0, 2)]
    batch = collator()([[Sequence((*same, tokens([1])))]])
    assert {reader: len(slots.pictures) for reader, slots in batch.slots.items()} == {"one": 1, "two": 1}


def test_the_pictures_of_a_batch_with_two_readers_must_be_named() -> None:
    both = Sequence((Span(Slot("one", IMAGES[0]), 2), Span(Slot("two", IMAGES[0]), 2)))
    with pytest.raises(TrainingError, match="2 kinds of pictures, 1 needed"):
        _ = collator()([[both]]).images
    with pytest.raises(TrainingError, match="0 kinds of pictures, 1 needed"):
        _ = collator()([[Sequence((tokens([1, 2]),))]]).images
    assert collator()([[Sequence((Span(Slot("one", IMAGES[4]), 2),))]]).images.tolist() == [[[[4.0, 4.0]]] * 3]


def test_weight_0_is_no_target() -> None:
    assert tokens([1, 2], weight=0).targets == ()
    batch = collator()([[Sequence((tokens([1, 2], weight=0),))]])
    assert batch.targets == {} and batch.slots == {}


def test_a_batch_moves_as_a_whole() -> None:
    laid = [draw_sequence(Random(seed))[0] for seed in range(4)]
    batch = collator()([laid])
    meta = batch.to("meta")
    tensors = [*meta.targets.values(), *meta.slots.values(), meta]
    for value in itertools.chain.from_iterable(vars(x).values() for x in tensors):
        assert not isinstance(value, torch.Tensor) or value.device.type == "meta"
    assert (meta.readers, meta.sequences, meta.broken) == (batch.readers, batch.sequences, batch.broken)


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 21), max_size=40), size=st.integers(20, 40))
def test_isolated_packs_hold_every_sequence_once_and_fit(lengths: list[int], size: int) -> None:
    rows = pack_isolated(lengths, size)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    loads = [sum(lengths[i] - 1 for i in row) for row in rows]
    assert max(loads, default=0) <= size
    assert all(row == sorted(row) for row in rows) and rows == sorted(rows)
    assert all(a + b > size for a, b in itertools.combinations(loads, 2))  # no two rows could share one
    assert pack_isolated(list(lengths), size) == rows


def test_a_sequence_longer_than_a_row_is_refused() -> None:
    assert pack_isolated([11], 10) == [[0]]
    with pytest.raises(DocumentError, match="12 elements in rows of 10"):
        pack_isolated([3, 12], 10)


@settings(max_examples=60, deadline=None)
@given(random=st.randoms(use_true_random=False), size=st.integers(1, 12), count=st.integers(0, 5))
def test_a_stream_holds_every_element_once_and_in_order(random: Random, size: int, count: int) -> None:
    laid = [draw_sequence(random) for _ in range(count)]
    blocks = pack_stream([sequence for sequence, _ in laid], size)
    elements = [element for _, part in laid for element in part]
    assert [len(block) for block in blocks[:-1]] == [size + 1] * max(len(blocks) - 1, 0)
    assert all(0 < len(block) <= size + 1 for block in blocks)
    assert [id for block in blocks for id in block.ids().tolist()] == [-1 if e.source else e.id for e in elements]
    at = 0
    rows: list[list[Laid]] = []
    for block in blocks:  # the targets, too, are those of the elements
        rows.append([(block, elements[at : at + len(block)])])
        at += len(block)
    if rows:
        batch = collator()([[block] for block in blocks])
        assert actual_targets(batch) == expected_targets(rows, batch.ids.shape[1], shift=True)


def test_codes_fill_the_places_of_their_pictures() -> None:
    a, b = IMAGES[1], IMAGES[2]
    spans = [tokens([7]), picture("one", a, 2), tokens([8]), picture("two", b, 2, weight=0.5), picture("one", a, 1)]
    batch = collator()([[Sequence(tuple(spans))]], shift=False)
    filled = batch.filled({"one": torch.tensor([[50, 51]]), "two": torch.tensor([[60, 61]])})
    assert filled.tolist() == [[7, 50, 51, 8, 60, 61, 50]]
    table = torch.nn.Embedding.from_pretrained(torch.arange(10.0)[:, None].double())
    vectors = {"one": torch.tensor([[[0.5], [0.25]]]), "two": torch.tensor([[[-1.0], [-2.0]]])}
    embedded = batch.embedded(table, vectors)
    assert embedded.dtype == torch.float64 and embedded.flatten().tolist() == [7, 0.5, 0.25, 8, -1, -2, 0.5]
    assert batch.ids.tolist() == [[7, 0, 0, 8, 0, 0, 0]]
    assert batch.targets["code"].weight.tolist() == [1, 1, 0.5, 0.5, 1]
    assert picture("one", a, 2, weight=0).targets == ()


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), max_size=12), size=st.integers(2, 12))
def test_complete_blocks_hold_whole_neighbours(lengths: list[int], size: int) -> None:
    laid = [Sequence((tokens([i] * n),)) for i, n in enumerate(lengths)]
    blocks = pack_complete(laid, size)
    assert [id for block in blocks for id in block.ids()] == [i for i, n in enumerate(lengths) for _ in range(n)]
    for i, block in enumerate(blocks):
        assert len(block) <= size + 1 or len(set(block.ids().tolist())) == 1  # a long one is alone
        if i:
            first = int(block.ids()[0])
            assert len(blocks[i - 1]) + lengths[first] > size + 1  # it had no room before
