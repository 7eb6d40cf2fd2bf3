from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.config import to_plain
from plait.data import retrieved as module
from plait.data.packs import Data, Elements
from plait.data.retrieved import Retrieved, neighbours, open_memory, remember, shard_name
from plait.data.shards import ShardSource, ShardWriter
from plait.document import Document, Image
from plait.errors import ConfigError, DocumentError, InputError
from plait.retrieval.embed import Embedder
from plait.retrieval.memory import Memory
from plait.retrieval.select import Selection
from plait.systems.cm3leon import CM3Leon

WORDS = ("red", "green", "blue", "one", "two", "three", "circle", "square")


@pytest.fixture
def shards(tmp_path: Path, picture: Callable[[int], Image]) -> ShardSource:
    """Twelve documents; of number 5 the picture is broken."""
    with ShardWriter(tmp_path / "data" / "shards") as writer:
        for i in range(12):
            said = f"{WORDS[i % 8]} {WORDS[(3 * i + 1) % 8]} {i}"
            writer.add(f"{i:08d}", Document([said, Image(b"\xff\xd8\xffbroken") if i == 5 else picture(i)]))
    return ShardSource(tmp_path / "data" / "shards")


@pytest.fixture
def memory(tmp_path: Path, embedder: Embedder) -> Memory:
    return Memory.create(tmp_path / "data" / "memory", 16, embedder=embedder.identity)


class Until:
    """A source that ends the process, so to say, at a document."""

    def __init__(self, source: Any, last: int) -> None:
        self.source, self.last = source, last

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Document:
        if i == self.last:
            raise KeyboardInterrupt
        return self.source[i]


def test_shards_are_remembered(shards: ShardSource, memory: Memory, embedder: Embedder) -> None:
    told: list[str] = []
    known = remember(memory, shard_name(shards), shards, embedder, batch=5, tell=told.append)
    assert (known["done"], known["broken"], known["documents"]) == (12, 1, 12)
    assert told == [f"embedded {n} of 12 documents" for n in (5, 10, 12)]
    (broken,) = memory.broken()
    assert broken["number"] == 5 and "shard-000000.tar" in broken["reason"]
    again = open_memory(memory.folder)
    assert [again[row].text for row in range(11)] == [shards[i].text for i in range(12) if i != 5]
    assert again[0].images[0].open().size == (8, 8)
    assert remember(again, shard_name(shards), shards, embedder)["done"] == 12 and len(again) == 11


def test_what_was_interrupted_goes_on(shards: ShardSource, memory: Memory, embedder: Embedder, tmp_path: Path) -> None:
    whole = Memory.create(tmp_path / "whole", 16, embedder=embedder.identity)
    remember(whole, "s", shards, embedder, batch=4)
    with pytest.raises(KeyboardInterrupt):
        remember(memory, "s", Until(shards, 9), embedder, batch=4)
    assert memory.source("s")["done"] == 8
    again = Memory(memory.folder)
    remember(again, "s", shards, embedder, batch=4)
    for name in ("vectors.f32", "records.bin", "broken.jsonl"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_memory_moves_with_its_shards(
    shards: ShardSource, memory: Memory, embedder: Embedder, tmp_path: Path
) -> None:
    remember(memory, shard_name(shards), shards, embedder)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = open_memory(tmp_path / "moved" / "memory")
    assert moved[0].text == "red green 0"
    shutil.move(tmp_path / "moved" / "shards", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"is gone, and .* has 12 documents of it"):
        open_memory(tmp_path / "moved" / "memory")
    given = {shard_name(shards): ShardSource(tmp_path / "elsewhere")}
    assert open_memory(tmp_path / "moved" / "memory", given)[0].text == "red green 0"


def test_other_data_is_refused(shards: ShardSource, memory: Memory, embedder: Embedder) -> None:
    remember(memory, shard_name(shards), shards, embedder)
    fewer = [shards[i] for i in range(4)]
    with pytest.raises(InputError, match="4 documents, but the memory has looked at 12"):
        remember(memory, shard_name(shards), fewer, embedder)
    with pytest.raises(ConfigError, match="0 documents in a batch"):
        remember(memory, "s", fewer, embedder, batch=0)
    with pytest.raises(InputError, match="was built with the towers of none"):
        remember(memory, "s", fewer, replace(embedder, identity={"fingerprints": {"clip": "1"}}))
    shutil.rmtree(shards.root)
    with ShardWriter(shards.root) as writer:
        writer.add("0", Document("a"))
    with pytest.raises(InputError, match=r"1 documents but .* was made of 12"):
        open_memory(memory.folder)


def found(memory: Memory, source: Any, embedder: Embedder, name: str = "s", **settings: Any) -> np.ndarray:
    return np.load(neighbours(memory, name, source, embedder, Selection(cut=1.0, **settings), batch=5))


def test_neighbours_are_found_once(
    shards: ShardSource, memory: Memory, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(memory, "s", shards, embedder)
    rows = found(memory, shards, embedder)
    assert rows.shape == (12, 4)
    assert (rows[5] == -1).all()  # it cannot be read
    records = memory.records
    for number, taken in enumerate(rows):
        assert number not in records["number"][taken[taken >= 0]]
    assert (rows[[*range(5), *range(6, 12)]] >= 0).all()
    monkeypatch.setattr(module, "_taken", None)
    assert np.array_equal(found(memory, shards, embedder), rows)
    monkeypatch.undo()
    dropped = [found(memory, shards, embedder, dropout=0.5) for _ in range(2)]
    assert np.array_equal(dropped[0], dropped[1]) and not np.array_equal(dropped[0], rows)
    elsewhere = found(memory, shards, embedder, name="other")
    assert np.array_equal(elsewhere, rows)  # by content if not by number


def test_neighbours_go_on_where_they_were(shards: ShardSource, memory: Memory, embedder: Embedder) -> None:
    remember(memory, "s", shards, embedder)
    with pytest.raises(KeyboardInterrupt):
        found(memory, Until(shards, 11), embedder)
    (partial,) = memory.folder.glob("neighbours-*.partial")
    assert partial.stat().st_size == 10 * 4 * 8
    with partial.open("ab") as file:
        file.write(b"half")
    rows = found(memory, shards, embedder)
    assert not [*memory.folder.glob("*.partial")]
    (path,) = memory.folder.glob("neighbours-*.npy")
    path.unlink()
    assert np.array_equal(found(memory, shards, embedder), rows)


@pytest.fixture
def source(shards: ShardSource, memory: Memory, embedder: Embedder) -> Retrieved:
    remember(memory, shard_name(shards), shards, embedder)
    path = neighbours(memory, shard_name(shards), shards, embedder)
    return Retrieved(source=shards, memory=memory.folder, neighbours=path, counts=(0, 1, 2))


def test_documents_stand_behind_their_neighbours(source: Retrieved, shards: ShardSource) -> None:
    rows = np.load(source.neighbours)
    memory = open_memory(source.memory)
    for i in (*range(5), *range(6, 12)):
        document = source[i]
        assert document.pieces == shards[i].pieces
        assert {one.text for one in document.before} <= {memory[row].text for row in rows[i] if row >= 0}
        assert source[i] == document  # drawn by its number
    counts = {len(replace(source, seed=seed)[i].before) for seed in range(5) for i in (0, 1, 2)}
    assert counts == {0, 1, 2}
    assert source[5].before == ()


def test_it_can_be_a_setting_and_be_sent_to_workers(source: Retrieved) -> None:
    told = source[0]
    again = pickle.loads(pickle.dumps(source))
    assert again[0] == told
    assert len(pickle.dumps(source)) < 2000
    plain = to_plain(source)
    assert plain["counts"] == [0, 1, 2] and plain["neighbours"] == str(source.neighbours)


def test_packs_of_documents_with_neighbours(source: Retrieved, cm3leon: CM3Leon) -> None:
    data = Data(sources={"s": replace(source, counts=(2,))}, rows=2, length=159, window=12, shuffle=False)
    arrays = Elements(data, cm3leon.format)[0]
    # each has its own picture and two more; number 5, which has none, was read as a blank
    assert arrays["sequences"] >= 2
    assert arrays["slots/vqgan/pictures"].shape[0] == 3 * int(arrays["sequences"])


def test_what_does_not_fit_is_refused(source: Retrieved, shards: ShardSource) -> None:
    with pytest.raises(ConfigError, match="counts="):
        replace(source, counts=())
    with pytest.raises(InputError, match="neighbours of 12 documents for 2"):
        replace(source, source=[shards[0], shards[1]])


def test_a_neighbour_that_is_broken_now_is_told(source: Retrieved, shards: ShardSource) -> None:
    class Broken:
        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> Document:
            raise DocumentError("gone")

    with pytest.raises(DocumentError, match="gone"):
        replace(source, sources={shard_name(shards): Broken()}, counts=(2,))[0]
