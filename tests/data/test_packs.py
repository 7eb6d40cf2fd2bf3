from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data.crops import RandomCrop
from plait.data.packs import Alternating, AlternatingLoader, Arrays, Data, Elements, Loader, elements_of, in_order
from plait.data.shapes import Shapes
from plait.data.shards import ShardSource, ShardWriter
from plait.document import Blank, Document, Image
from plait.errors import ConfigError, DocumentError, InputError
from plait.objectives.cm3 import CM3Mask
from plait.systems.cm3leon import CM3Leon, CM3LeonFormat

Picture = Callable[[int], Image]
UNREADABLE = Image(b"nonsense")


def mask(format: CM3LeonFormat) -> CM3Mask:
    voc = format.vocabulary
    sentinels = tuple(range(voc.first_sentinel, voc.first_text))
    return CM3Mask(sentinels=sentinels, end=voc.eoss, boundaries=(voc.eos, voc.brk), whole=0.3)


@pytest.fixture(scope="module")
def format(cm3leon: CM3Leon) -> CM3LeonFormat:
    return cm3leon.format  # type: ignore[return-value]


@pytest.fixture(scope="module")
def data(format: CM3LeonFormat) -> Data:
    """Shapes, masked, in isolated packs: elements of 4 rows, windows of 12 documents."""
    shapes = Shapes(seed=1, length=40, resolution=16)
    return Data(sources={"shapes": shapes}, rows=4, length=150, transforms=(mask(format),), window=12, seed=3)


def texts(count: int, words: int = 3) -> list[Document]:
    """Documents whose number can be read off their text: "0.", "1.", ..."""
    return [Document(f"{i}." + "z" * (words * (i % 4))) for i in range(count)]


def plain(source: Any, **changes: Any) -> Data:
    """Packs of `texts`, each document whole."""
    return replace(Data(sources={"texts": source}, rows=2, length=30, window=6), **changes)


def numbers(format: CM3LeonFormat, arrays: Arrays) -> list[list[list[int]]]:
    """The numbers of the `texts` in each sequence of each row."""
    first = format.vocabulary.first_text
    out = []
    for ids, document in zip(arrays["ids"], arrays["document"], strict=True):
        said = [
            format.text.decode([int(id) - first for id in ids[document == d] if id >= first])
            for d in range(document.max() + 1)
        ]
        out.append([[int(part) for part in text.replace("z", "").split(".") if part] for text in said])
    return out


def same(a: Arrays, b: Arrays, *, but: tuple[str, ...] = ()) -> bool:
    left, right = ({k: v for k, v in x.items() if k not in but} for x in (a, b))
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and np.array_equal(left[k], right[k]) for k in left
    )


def rows_of(arrays: Arrays) -> list[Any]:
    """Each row by itself, whatever the width of the batch and the numbers of its pictures."""
    width = arrays["ids"].shape[1]
    rows: list[Any] = []
    for r, (ids, document, position) in enumerate(
        zip(arrays["ids"], arrays["document"], arrays["position"], strict=True)
    ):
        real = document >= 0
        row = [x[real].tolist() for x in (ids, document, position)]
        for group in sorted({name.rsplit("/", 1)[0] for name in arrays if "/" in name}):
            here = arrays[f"{group}/at"] // width == r
            if not here.any():
                continue
            columns = {k.rsplit("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{group}/")}
            pictures = columns.pop("pictures", arrays.get("slots/vqgan/pictures"))
            columns["at"] = columns["at"] % width
            own = here if group.startswith("slots") else here & (columns["value"] < 0)
            row.append([group, *(pictures[i].tobytes() for i in columns.pop("image")[own])])
            row.append([(name, column[here].tolist()) for name, column in sorted(columns.items())])
        rows.append(row)
    return rows


# ----------------------------------------------------------------------------------------- what an element is


def test_an_element_is_a_function_of_its_number_alone(data: Data, format: CM3LeonFormat) -> None:
    elements = Elements(data, format)
    asked = [elements[k] for k in range(6)]
    assert len({tuple(x["anchor"]) for x in asked}) > 2  # else these elements would show little
    again = Elements(data, format)
    for k in (4, 0, 5, 2, 2, 1, 3):
        assert same(again[k], asked[k])
    pickled = pickle.loads(pickle.dumps(again))
    for k in (3, 0):
        assert same(pickled[k], asked[k])
    for k in range(6):  # planned from where element k begins
        window, before = asked[k]["anchor"].tolist()
        later = Elements(data, format, first=k, start=(window, before))
        assert all(same(later[i], asked[k + i]) for i in range(6 - k))
    assert not same(Elements(replace(data, seed=4), format)[0], asked[0])


def test_an_element_can_be_handed_over_in_shared_memory(data: Data, format: CM3LeonFormat) -> None:
    """What is not contiguous goes through a pipe, in which a worker that is killed leaves half a message."""
    arrays = Elements(data, format)[0]
    assert arrays["slots/vqgan/pictures"].ndim == 4
    assert [name for name, array in arrays.items() if not array.flags.c_contiguous] == []


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_rows_of_an_element(data: Data, format: CM3LeonFormat, ranks: int) -> None:
    whole = Elements(data, format)
    parts = [Elements(data, format, rank, ranks) for rank in range(ranks)]
    for k in range(5):
        one, shares = whole[k], [part[k] for part in parts]
        assert [row for share in shares for row in rows_of(share)] == rows_of(one)
        for name in ("sequences", "broken", "skipped", "cut"):
            assert sum(int(share[name]) for share in shares) == one[name]
        assert all(np.array_equal(share["anchor"], one["anchor"]) for share in shares)


def test_what_lies_before_the_start_is_refused(data: Data, format: CM3LeonFormat) -> None:
    with pytest.raises(ConfigError, match="row 0 lies before row 9, where this loader starts"):
        Elements(data, format, start=(2, 9))[0]


# --------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("policy", ["isolated", "stream", "complete"])
def test_every_document_of_a_window_stands_in_its_rows_once(format: CM3LeonFormat, policy: Any) -> None:
    elements = Elements(plain(texts(18), shuffle=False, policy=policy), format)
    rows = [row for k in range(12) for row in numbers(format, elements[k])]
    at = 0
    for window in range(4):
        expected = [i % 18 for i in range(window * 6, window * 6 + 6)]
        seen: list[int] = []
        while len(seen) < 6:
            seen += [i for document in rows[at] for i in document]
            at += 1
        assert sorted(seen) == sorted(expected)
        if policy == "stream":
            assert seen == expected


def test_isolated_rows_hold_whole_documents(format: CM3LeonFormat) -> None:
    elements = Elements(plain(texts(18)), format)
    lengths = [len(format.layout(document)) - 1 for document in texts(18)]
    for k in range(6):
        arrays = elements[k]
        assert arrays["ids"].shape[1] <= 30
        for document, row in zip(arrays["document"], numbers(format, arrays), strict=True):
            assert [int((document == d).sum()) for d in range(len(row))] == [lengths[i] for (i,) in row]


def test_streams_are_full_rows(format: CM3LeonFormat) -> None:
    elements = Elements(plain(texts(18), policy="stream", shuffle=False), format)
    lengths = [sum(len(format.layout(d)) for d in texts(18)[a : a + 6]) for a in (0, 6, 12)]
    expected = [31 * (n // 31) * [0] and [30] * (n // 31) + [n % 31 - 1] * (n % 31 > 1) for n in lengths]
    rows = [int((document >= 0).sum()) for k in range(6) for document in elements[k]["document"]]
    wanted = list(itertools.chain.from_iterable(expected))
    assert rows[: len(wanted)] == wanted[: len(rows)]
    assert all((elements[k]["document"] <= 0).all() for k in range(6))


def test_no_row_of_a_stream_is_without_inputs(format: CM3LeonFormat) -> None:
    lengths = [sum(len(format.layout(d)) for d in texts(n)) for n in range(1, 7)]
    for n, length in enumerate(lengths, 1):
        elements = Elements(plain(texts(n), window=n, rows=1, length=length - 2, policy="stream"), format)
        assert [elements[k]["ids"].shape[1] for k in range(3)] == [length - 2] * 3  # and one element is left over


def test_documents_are_shuffled_anew_in_each_epoch() -> None:
    epochs = [[in_order(plain(texts(20)))[i][1].text for i in range(20 * e, 20 * e + 20)] for e in range(3)]
    assert all(sorted(epoch) == sorted(d.text for d in texts(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    still = in_order(plain(texts(20), shuffle=False))
    assert [still[i][1].text for i in range(40)] == [d.text for d in texts(20)] * 2


def test_a_source_smaller_than_a_window_repeats(format: CM3LeonFormat) -> None:
    elements = Elements(plain(texts(3), window=9), format)
    rows, seen = 0, Counter[int]()
    while sum(seen.values()) < 9:
        for row in numbers(format, elements[rows // 2])[rows % 2 :][:1]:
            seen.update(i for document in row for i in document)
        rows += 1
    assert seen == {0: 3, 1: 3, 2: 3}


def test_shares_of_a_mixture() -> None:
    a, b = [[Document(f"{name}{i}") for i in range(n)] for name, n in (("a", 5), ("b", 40))]

    def drawn(count: int, **changes: Any) -> Counter[str]:
        order = in_order(replace(Data(sources={"a": a, "b": b}, rows=1, length=9), **changes))
        drawn = [order[i] for i in range(count)]
        assert all(source == document.text[0] for source, document in drawn)
        return Counter(source for source, _ in drawn)

    assert drawn(80, shares={"a": 3.0, "b": 1.0}) == {"a": 60, "b": 20}
    assert drawn(90) == {"a": 10, "b": 80}  # in proportion to their lengths
    assert drawn(40, shares={"a": 0.5, "b": 0.5}) == {"a": 20, "b": 20}


def test_shares_of_elements(format: CM3LeonFormat) -> None:
    """Documents of one source are three times as long, and are drawn a third as often."""
    short, long = ([Document(name * n) for _ in range(90)] for name, n in (("a", 7), ("b", 27)))
    lengths = [len(format.layout(source[0])) for source in (short, long)]
    data = Data(
        sources={"a": short, "b": long}, shares={"a": 1.0, "b": 1.0}, measure="elements", rows=4, length=60, window=60
    )
    shares = Elements(data, format)._shares()
    assert shares["a"] / shares["b"] == pytest.approx(lengths[1] / lengths[0]) and lengths[1] > 2 * lengths[0]
    drawn = Counter(in_order(data, shares)[i][0] for i in range(120))
    assert drawn["a"] * lengths[0] == pytest.approx(drawn["b"] * lengths[1], rel=0.1)
    with pytest.raises(ConfigError, match="no shares, which are to be of elements"):
        replace(data, shares={})


def test_joined_sources_stand_in_blocks_beside_the_others(format: CM3LeonFormat) -> None:
    """Text goes on from row to row, cut where a block is full; documents with a row to share stay whole."""
    apart = [Document("!" * 20) for _ in range(10)]
    data = Data(
        sources={"apart": apart, "texts": texts(40)},
        shares={"apart": 1.0, "texts": 3.0},
        joined=("texts",),
        rows=2,
        length=60,
        window=40,
        shuffle=False,
    )
    elements = Elements(data, format)
    window = elements._window(0).rows
    laid = [format.layout(document).ids().tolist() for document in texts(30)]
    blocks = [
        one.ids().tolist()
        for row in window
        for one in row
        if one.ids().tolist() != format.layout(apart[0]).ids().tolist()
    ]
    assert sorted(map(len, blocks))[1:] == [61] * (len(blocks) - 1)
    assert sorted(id for block in blocks for id in block) == sorted(id for ids in laid for id in ids)
    whole = [one for row in window for one in row if len(one) == len(format.layout(apart[0]))]
    assert len(whole) == 10 and elements[0]["skipped"] == 0
    broken = replace(data, sources={**data.sources, "texts": [Document([Blank("text")] * 9), *texts(39)]})
    assert Elements(broken, format)._window(0).skipped == 1
    for wrong in ({"joined": ("other",)}, {"policy": "stream"}):
        with pytest.raises(ConfigError, match="name sources that there are, and pack isolated or alone"):
            replace(data, **wrong)


# ------------------------------------------------------------------------------------------- what goes wrong


def count(elements: Elements, until: int, name: str) -> int:
    return sum(int(elements[k][name]) for k in range(until))


def first_rows(elements: Elements, windows: int) -> int:
    """How many elements the rows of the first windows fill, at least."""
    k = 0
    while elements[k]["anchor"][0] < windows:
        k += 1
    return k


def test_a_document_that_cannot_be_laid_out_is_skipped_and_counted(format: CM3LeonFormat) -> None:
    documents = texts(12)
    documents[2] = documents[3] = documents[9] = Document([Blank("text")] * 9)
    elements = Elements(plain(documents, shuffle=False, rows=1), format)
    until = first_rows(elements, 4)  # two epochs
    assert count(elements, until, "skipped") == 6
    seen = [i for k in range(until) for row in numbers(format, elements[k]) for d in row for i in d]
    assert Counter(seen) == dict.fromkeys({*range(12)} - {2, 3, 9}, 2)


def test_a_document_that_is_too_long_is_cut_and_counted(format: CM3LeonFormat) -> None:
    documents = texts(12)
    documents[1] = Document("1." + "z" * 60)
    documents[7] = Document("7." + "z" * 60)
    elements = Elements(plain(documents, shuffle=False, rows=1), format)
    until = first_rows(elements, 2)
    assert count(elements, until, "cut") == 2
    assert Counter(i for k in range(until) for row in numbers(format, elements[k]) for d in row for i in d) == dict(
        Counter(range(12))
    )
    assert max(elements[k]["ids"].shape[1] for k in range(until)) == 30
    stream = Elements(plain(documents, shuffle=False, rows=1, policy="stream"), format)
    assert count(stream, first_rows(stream, 2), "cut") == 0  # it goes on in the next row


def test_a_window_without_any_document_is_an_error(format: CM3LeonFormat) -> None:
    elements = Elements(plain([Document([Blank("text")] * 9)]), format)
    with pytest.raises(DocumentError, match="none of the 6 documents of window 0 can be laid out"):
        elements[0]


def test_a_picture_that_cannot_be_read_keeps_its_place(format: CM3LeonFormat, picture: Picture) -> None:
    good = [Document([f"{i}.", picture(i)]) for i in range(6)]
    bad = [*good[:3], Document(["3.", UNREADABLE]), *good[4:]]
    arrays, wanted = (
        Elements(plain(documents, shuffle=False, rows=6, window=6), format)[0] for documents in (bad, good)
    )
    assert (int(arrays["broken"]), int(arrays["sequences"])) == (1, 6)
    for name in ("ids", "document", "position"):
        assert np.array_equal(arrays[name], wanted[name])
    lost = [r for r, row in enumerate(numbers(format, arrays)) if row == [[3]]]
    width = arrays["ids"].shape[1]
    for kind in ("token", "code"):
        at, all_at = arrays[f"targets/{kind}/at"], wanted[f"targets/{kind}/at"]
        assert sorted(at) == sorted(i for i in all_at if i // width not in lost)


def test_pictures_by_themselves(format: CM3LeonFormat, picture: Picture) -> None:
    documents = [Document(["a", picture(0), picture(1)]), Document("no picture"), Document(picture(2))]
    elements = Elements(plain(documents, shuffle=False, rows=3, window=3, length=15, reads="pictures"), format)
    arrays = elements[0]
    pixels = [format.preprocess()["vqgan"](picture(i)) for i in range(3)]
    assert np.array_equal(arrays["slots/vqgan/pictures"], np.stack(pixels))
    assert not [name for name in arrays if name.startswith("targets/")] and arrays["skipped"] == 0


def test_pictures_read_the_fast_way(format: CM3LeonFormat, tmp_path: Path) -> None:
    side = format.config.image.resolution
    x, y = np.meshgrid(np.linspace(0, 255, 3 * side), np.linspace(0, 255, 2 * side))
    path = tmp_path / "a.jpg"
    PIL.Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(path, quality=95)
    sources = [Document(Image(path)), Document(Image(path.read_bytes())), Document(Image(PIL.Image.open(path)))]
    settings = {"shuffle": False, "rows": 3, "window": 3, "length": 15, "reads": "pictures"}
    exact, fast = (
        Elements(plain(sources, images=images, **settings), format)[0]["slots/vqgan/pictures"]
        for images in ("exact", "fast")
    )
    assert np.array_equal(fast[0], fast[1]) and np.array_equal(fast[2], exact[2])  # the last has no file
    assert 0 < np.abs(fast[0] - exact[0]).mean() < 0.02


def test_what_cannot_be_trained_on_is_refused(format: CM3LeonFormat) -> None:
    for changes, message in [
        ({"sources": {}}, "at least one source"),
        ({"sources": {"a": [], "b": texts(2)}}, r"\{'a': 0, 'b': 2\} documents"),
        ({"shares": {"other": 1.0}}, r"shares of \['other'\] for sources \['texts'\]"),
    ]:
        with pytest.raises(ConfigError, match=message):
            plain(texts(3), **changes)
    with pytest.raises(ConfigError, match="2 rows on 4 ranks"):
        Elements(plain(texts(3)), format, rank=0, ranks=4)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=15),
    window=st.integers(1, 7),
    rows=st.integers(1, 3),
    policy=st.sampled_from(["isolated", "stream"]),
)
def test_any_plan_can_be_taken_up_anywhere(
    cm3leon: CM3Leon, lengths: list[int], window: int, rows: int, policy: Any
) -> None:
    format: Any = cm3leon.format
    documents = [Document("z" * n) for n in lengths]
    chosen = plain(documents, window=window, rows=rows, policy=policy)
    elements = Elements(chosen, format)
    asked = [elements[k] for k in range(5)]
    assert max(x["ids"].shape[1] for x in asked) <= 30
    for k in (2, 4):
        window_, before = asked[k]["anchor"].tolist()
        assert same(Elements(chosen, format, first=k, start=(window_, before))[0], asked[k])


# ---------------------------------------------------------------------------------------------- the loader


def take(loader: Loader | AlternatingLoader, n: int) -> list[Arrays]:
    return [next(loader) for _ in range(n)]


def test_a_loader_gives_the_elements_and_goes_on_from_its_state(data: Data, format: CM3LeonFormat) -> None:
    elements = Elements(data, format)
    loader = Loader(data, format)
    assert loader.state["next"] == 0
    asked = take(loader, 3)
    state = loader.state
    asked += take(loader, 3)
    loader.close()
    assert state["next"] == 3
    assert all(same(x, elements[k], but=("anchor",)) and "anchor" not in x for k, x in enumerate(asked))
    later = Loader(data, format, state=state)
    assert all(same(a, b) for a, b in zip(take(later, 3), asked[3:], strict=True))
    later.close()
    halves = [Loader(data, format, rank, 2, state) for rank in range(2)]  # a resume may change the number of ranks
    for k in range(3, 6):
        assert [row for half in halves for row in rows_of(next(half))] == rows_of(asked[k])
    for half in halves:
        half.close()


def test_a_loader_goes_on_with_the_documents_it_began_with(format: CM3LeonFormat) -> None:
    loader = Loader(plain(texts(18)), format)
    take(loader, 2)
    loader.close()
    with pytest.raises(ConfigError, match=r"of {'texts': 17} documents, but the run began with {'texts': 18}: give"):
        Loader(plain(texts(17)), format, state=loader.state)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_shard_that_goes_while_it_is_read_is_an_error(tmp_path: Path, format: CM3LeonFormat, workers: int) -> None:
    with ShardWriter(tmp_path / "data") as writer:
        for i, document in enumerate(texts(60)):
            writer.add(f"{i}", document)
    loader = Loader(plain(ShardSource(tmp_path / "data"), window=2, workers=workers), format)
    try:
        take(loader, 1)
        (tmp_path / "data" / "shard-000000.tar").unlink()
        with pytest.raises(InputError, match=r"shard-000000.tar: cannot be read \(No such file or directory\)"):
            take(loader, 60)
    finally:
        loader.close()


@pytest.mark.slow  # three times two processes that import torch
def test_worker_processes_change_nothing(data: Data, format: CM3LeonFormat) -> None:
    alone, many = Loader(data, format), Loader(replace(data, workers=2), format)
    try:
        pairs = list(zip(take(alone, 6), take(many, 6), strict=True))
        assert all(same(a, b) for a, b in pairs)
        assert alone.state == many.state
        resumed = Loader(replace(data, workers=2), format, state=alone.state)
        assert same(next(resumed), next(alone))
        resumed.close()
    finally:
        alone.close()
        many.close()


def test_a_source_of_something_else_is_refused(format: CM3LeonFormat) -> None:
    with pytest.raises(ConfigError, match="of the sources texts is a str: give Documents"):
        Elements(plain(["a", "b"]), format)[0]


def test_a_document_alone_has_a_row_of_its_own(format: CM3LeonFormat) -> None:
    elements = Elements(plain(texts(18), policy="alone", rows=3, length=20, shuffle=False), format)
    laid = [format.layout(document) for document in texts(18)]
    for k in range(7):
        arrays = elements[k]
        assert arrays["document"].max() == 0
        inputs = [min(len(laid[i % 18]) - 1, 20) for i in range(3 * k, 3 * k + 3)]
        assert (arrays["document"] == 0).sum(1).tolist() == inputs
    assert sum(int(elements[k]["cut"]) for k in range(4)) == sum(len(laid[i]) > 21 for i in range(12))


def test_pictures_by_themselves_are_transformed_too(format: CM3LeonFormat, picture: Picture) -> None:
    documents = [Document([picture(i), picture(i + 50)]) for i in range(6)]
    data = plain(documents, reads="pictures", length=15, rows=4, transforms=(RandomCrop(scale=(0.3, 0.5)),))
    arrays, whole = Elements(data, format)[0], Elements(replace(data, transforms=()), format)[0]
    for part, picture_ in zip(arrays["slots/vqgan/pictures"], whole["slots/vqgan/pictures"], strict=True):
        assert not np.array_equal(part, picture_)
    assert same(arrays, Elements(data, format)[0])


# --------------------------------------------------------------------------------------------- sets in turn


def test_each_element_is_of_one_set_as_often_as_is_said(format: CM3LeonFormat) -> None:
    one, two = plain(texts(18)), plain(texts(18), rows=4)
    data = Alternating(sets={"one": one, "two": two}, shares={"one": 2.0, "two": 1.0})
    found = elements_of(data, format)
    sizes = [len(next(found)["ids"]) for _ in range(9)]
    assert sizes.count(2) == 6 and sizes.count(4) == 3 and sizes[:3].count(4) == 1
    found.close()
    even = elements_of(Alternating(sets={"one": one, "two": two}), format)
    assert [len(next(even)["ids"]) for _ in range(4)] == [2, 4, 2, 4]
    even.close()


def test_sets_go_on_from_their_state(format: CM3LeonFormat) -> None:
    data = Alternating(sets={"one": plain(texts(18)), "two": plain(texts(12), rows=4)}, shares={"one": 1.0, "two": 3.0})
    first = elements_of(data, format)
    take(first, 3)
    state = first.state
    wanted = take(first, 4)
    first.close()
    assert state["sets"]["one"]["next"] + state["sets"]["two"]["next"] == 3
    later = elements_of(data, format, state=state)
    assert all(same(a, b) for a, b in zip(take(later, 4), wanted, strict=True))
    later.close()
    halves = [elements_of(data, format, rank, 2, state) for rank in range(2)]
    for k in range(4):
        assert [row for half in halves for row in rows_of(next(half))] == rows_of(wanted[k])
    for half in halves:
        half.close()
    with pytest.raises(ConfigError, match=r"data sets \['one'\], but the run began with \['one', 'two'\]"):
        elements_of(Alternating(sets={"one": data.sets["one"]}), format, state=state)


@pytest.mark.parametrize("shares", [{"two": 1.0}, {"one": 0.0}, {"one": 1.0, "two": 1.0}])
def test_wrong_shares_of_sets_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give one above 0 for each, or none"):
        Alternating(sets={"one": plain(texts(4))}, shares=shares)
