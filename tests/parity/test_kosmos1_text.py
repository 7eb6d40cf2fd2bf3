"""Ids and texts of KOSMOS-1 under fairseq's dictionary, against those of its successor's program."""

from __future__ import annotations

import json

from kosmos1_model import FOLDER, system

LISTED = json.loads((FOLDER / "cases.json").read_text())


def test_the_dictionary() -> None:
    text, vocabulary = system().format.text, LISTED["vocabulary"]
    symbols = vocabulary["symbols"]
    assert (text.bos, text.pad, text.eos, text.unk) == tuple(vocabulary[name] for name in ("bos", "pad", "eos", "unk"))
    assert (system().format.image, system().format.image_end) == (vocabulary["boi"], vocabulary["eoi"])
    assert len(text) == vocabulary["size"] == len(symbols)
    assert symbols[4:] == [*text.dictionary, *text.symbols]
    assert [text.id(symbol) for symbol in symbols[4:]] == list(range(4, len(symbols)))


def test_strings() -> None:
    text = system().format.text
    assert LISTED["strings"]
    for case in LISTED["strings"]:
        assert text.encode(case["text"]) == case["ids"]


def test_decoding() -> None:
    """But for what has no piece: the golden decodes the pieces themselves, which ids do not tell."""
    text = system().format.text
    known = [case for case in LISTED["decode"] if text.unk not in case["ids"]]
    assert known
    for case in known:
        assert text.decode(case["ids"]) == case["text"]
