from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.errors import CheckpointError
from plait.text.bpe import BPE

TEXTS = ["a small red circle above a blue square", "Größe, façade — 犬と猫", "<break> is a word, </s> too"] * 3


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(bpe: BPE, text: str) -> None:
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert all(0 <= id < len(bpe) for id in ids)


def test_two_trainings_give_the_same_vocabulary(tmp_path: Path) -> None:
    for name in ("a", "b"):
        BPE.train(TEXTS, 320).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_training_learns_merges_up_to_the_size() -> None:
    assert len(BPE.train(TEXTS, 290)) == 290
    assert len(BPE.train([], 300)) == 256  # the bytes are always there
    assert len(BPE.train(TEXTS, 290).encode(" circle")) < len(" circle")


@pytest.mark.parametrize("text", ["<break>", "<eos>", "</s>", "<mask:0>", "<pad>", "[UNK]", "<|endoftext|>"])
def test_what_looks_like_a_symbol_is_plain_text(bpe: BPE, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text
    assert len(bpe.encode(text)) > 1


def test_a_vocabulary_that_was_written_is_read(tmp_path: Path) -> None:
    learned = BPE.train(TEXTS, 320)
    learned.write(tmp_path / "tokenizer.json")
    read = BPE.read(tmp_path / "tokenizer.json")
    assert len(read) == len(learned)
    assert all(read.encode(text) == learned.encode(text) for text in TEXTS)


@pytest.mark.parametrize("content", [None, "", "{}", "no json"])
def test_an_unreadable_vocabulary_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no readable tokenizer"):
        BPE.read(path)


def test_half_a_surrogate_pair_and_half_a_character_are_shown_as_such(bpe: BPE) -> None:
    assert bpe.decode(bpe.encode("a\ud83d b")) == "a? b"  # JSON can hold it, UTF-8 cannot
    assert bpe.decode(bpe.encode("é")[:1]) == "\ufffd"


def test_the_text_of_a_vocabulary_with_other_symbols_in_front() -> None:
    text = BPE.train(TEXTS, 300)
    content = json.loads(text._tokenizer.to_str())
    names = {f"<{i}>": i for i in range(7)} | {name: id + 7 for name, id in content["model"]["vocab"].items()}
    content["model"]["vocab"] = names
    whole = BPE(tokenizers.Tokenizer.from_str(json.dumps(content)))
    behind = whole.behind(7)
    assert len(behind) == 300
    assert behind.encode(TEXTS[1]) == text.encode(TEXTS[1]) == [id - 7 for id in whole.encode(TEXTS[1])]
