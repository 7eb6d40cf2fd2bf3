"""`plait data tokenize`: whole sets of shards as codes, counted, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plait import cli
from plait.checkpoints.directory import save
from plait.data.shards import ShardWriter
from plait.data.tokenize import tokenize
from plait.document import Document, Image, Text
from plait.errors import ConfigError, InputError
from plait.systems import minigpt4
from plait.systems.cm3leon import CM3Leon
from plait.systems.seed_tokenizer import READER, SeedTokenizer


def documents(picture: Callable[[int], Image]) -> list[Document]:
    broken = Image(b"\xff\xd8\xffbroken")
    return [Document([picture(0), "a"]), Document([Text("b")]), Document([picture(1), broken, picture(2)])]


@pytest.fixture
def shards(tmp_path: Path, picture: Callable[[int], Image]) -> Path:
    """Two splits; of one, each document is a shard."""
    for name, size in (("train", 1), ("test", 10**6)):
        with ShardWriter(tmp_path / "data" / name, shard_size=size) as writer:
            for i, document in enumerate(documents(picture)):
                writer.add(f"{name}{i}", document)
    return tmp_path / "data"


def lines(path: Path) -> list[dict[str, list[list[int] | None]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_codes_of_whole_sets(
    shards: Path,
    seed_tokenizer: SeedTokenizer,
    picture: Callable[[int], Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, out = save(seed_tokenizer, tmp_path / "checkpoint"), tmp_path / "codes"
    command = ["data", "tokenize", str(shards), "--out", str(out), "--with", str(checkpoint), "--batch", "2"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    prepare = seed_tokenizer.format.preprocess()[READER]
    pixels = torch.stack([torch.from_numpy(prepare(picture(i))) for i in range(3)])
    first, second, third = seed_tokenizer.encode(pixels).tolist()
    wanted = [{"codes": [first]}, {"codes": []}, {"codes": [second, None, third]}]
    assert lines(out / "test" / "shard-000000.jsonl") == wanted
    assert [line for i in range(3) for line in lines(out / "train" / f"shard-{i:06d}.jsonl")] == wanted
    assert json.loads((out / "test" / "manifest.json").read_text()) == {
        "format": 1, "shards": 1, "documents": 3, "unreadable_documents": 0, "pictures": 4, "unreadable_pictures": 1
    }  # fmt: skip
    assert cli.main(command) == 0
    assert capsys.readouterr().out == told


def test_what_is_done_is_not_done_again(shards: Path, seed_tokenizer: SeedTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "codes"
    whole = tokenize(shards, out, {}, lambda: seed_tokenizer)
    assert (whole.shards, whole.documents, whole.pictures, whole.unreadable_pictures) == (4, 6, 8, 2)
    gone = out / "train" / "shard-000001.jsonl"
    before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    gone.unlink()
    told: list[str] = []
    assert tokenize(shards, out, {}, lambda: seed_tokenizer, tell=told.append) == whole
    assert len(told) == 1 and "shard-000001" in told[0]
    assert {path: path.read_bytes() for path in out.rglob("*.jsonl")} == before

    def never() -> SeedTokenizer:
        raise AssertionError("nothing is left to do")

    assert tokenize(shards, out, {}, never) == whole


def test_another_model_or_folder_is_refused(shards: Path, seed_tokenizer: SeedTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "codes"
    tokenize(shards, out, {"parts": "a"}, lambda: seed_tokenizer)
    with pytest.raises(InputError, match="was begun with parts 'a', not 'b': choose another folder"):
        tokenize(shards, out, {"parts": "b"}, lambda: seed_tokenizer)
    with pytest.raises(InputError, match="is not empty"):
        tokenize(shards, shards, {}, lambda: seed_tokenizer)


def test_any_system_with_codes_and_no_other(shards: Path, cm3leon: CM3Leon, tmp_path: Path) -> None:
    out = tmp_path / "codes"
    assert tokenize(shards / "test", out, {}, lambda: cm3leon).pictures == 4
    codes = lines(out / "shard-000000.jsonl")[0]["codes"][0]
    assert codes is not None and len(codes) == 16 and max(codes) < 16

    reads = minigpt4.build("tiny")
    with pytest.raises(ConfigError, match="minigpt4 makes no codes of pictures"):
        reads.picture_codes(torch.zeros(1, 3, 8, 8))
