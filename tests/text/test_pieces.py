from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from plait.errors import CheckpointError, ConfigError
from plait.text.pieces import FairseqPieces, SentencePiece

TEXTS = ["a small red circle above a blue square 2023", "Größe, façade — 犬と猫\nis it a $$ cat? $$ dog."] * 3
SIZE = 330
PLAIN = SentencePiece.train(TEXTS, SIZE)
IMAGE = {"[IMG]": SIZE, "[/IMG]": SIZE + 1}


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<")))
def test_any_text_comes_back(text: str) -> None:
    ids = PLAIN.encode(text)
    assert PLAIN.decode(ids) == text
    assert all(0 <= id < len(PLAIN) for id in ids)


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(0, SIZE - 1) | st.sampled_from(PLAIN.encode("犬と猫é")), max_size=12),
    cut=st.integers(0, 12),
)
def test_what_was_said_is_not_taken_back(ids: list[int], cut: int) -> None:
    assert PLAIN.decode(ids).startswith(PLAIN.decode(ids[:cut]).rstrip("\ufffd"))


def test_half_a_character_is_held_back() -> None:
    ids = PLAIN.encode("a 鳥")  # three bytes, as it was not learned
    told = [PLAIN.decode(ids[:end]).rstrip("\ufffd") for end in range(len(ids) + 1)]
    assert told[-4:] == ["a ", "a ", "a ", "a 鳥"]


def test_symbols_have_the_ids_of_llama_and_are_not_said() -> None:
    assert (PLAIN.unk, PLAIN.bos, PLAIN.eos) == (0, 1, 2)
    assert PLAIN.decode([1, *PLAIN.encode("a cat"), 0, 2]) == "a cat"


def test_symbols_in_a_text_are_read_and_what_follows_begins_anew() -> None:
    word, space = PLAIN.encode("a"), PLAIN.encode(" ")[0]
    assert PLAIN.encode("a</s>a") == [*word, 2, *word]
    assert PLAIN.encode("<s>a<unk>") == [1, *word, 0]
    assert PLAIN.encode("a </s>") == [*word, space, 2]  # nothing is stripped
    assert PLAIN.encode("") == []


def test_added_strings_stand_behind_the_pieces() -> None:
    text = SentencePiece(PLAIN.model, added=IMAGE)
    assert len(text) == SIZE + 2
    assert text.encode("a [IMG][/IMG]") == [*PLAIN.encode("a "), SIZE, SIZE + 1]
    assert text.decode([SIZE, *PLAIN.encode("a cat"), SIZE + 1]) == "a cat"


def test_the_longest_special_string_is_read() -> None:
    text = SentencePiece(PLAIN.model, added={"<a>": SIZE, "<a>b": SIZE + 1})
    assert text.encode("<a>b<a>") == [SIZE + 1, SIZE]


def test_a_string_may_take_the_white_space_beside_it() -> None:
    text = SentencePiece(PLAIN.model, added=IMAGE, strips=["[/IMG]"])
    assert text.encode("a \n[/IMG] \n a") == text.encode("a[/IMG]a")
    assert text.encode("a [/IMG] [IMG]") == [*PLAIN.encode("a"), SIZE + 1, SIZE]
    assert text.encode("a [IMG]") == [*PLAIN.encode("a "), SIZE]


def test_the_end_symbol_pads_unless_another_does() -> None:
    assert PLAIN.pad == PLAIN.eos
    assert SentencePiece(PLAIN.model, added=IMAGE, pad="[IMG]").pad == SIZE
    piece = SentencePiece(PLAIN.model, pad="▁a")
    assert piece.pad == PLAIN.encode("a")[0]
    assert piece.encode("a") == [piece.pad]  # it stays a piece like any other
    assert piece.decode([piece.pad, *PLAIN.encode("cat")]) == "cat"


def test_ids_by_name() -> None:
    assert [PLAIN.id(piece) for piece in ("<unk>", "<s>", "</s>", "<0x0A>")] == [0, 1, 2, 13]
    with pytest.raises(ConfigError, match=r"'\[IMG\]' is no special string and none of the 330 pieces"):
        PLAIN.id("[IMG]")


@pytest.mark.parametrize(
    ("added", "strips", "message"),
    [
        ({"x": SIZE, "y": SIZE}, [], "2 added strings with 1 ids"),
        ({"": SIZE}, [], "each needs a name"),
        ({"x": SIZE - 1}, [], r"'x' has the id 329: the 330 pieces have it"),
        ({"x": -1}, [], r"'x' has the id -1"),
        (IMAGE, ["[img]"], r"strips names \['\[img\]'\], which are none of <unk>, <s>, </s>, \[IMG\]"),
    ],
)
def test_added_strings_that_do_not_fit(added: dict[str, int], strips: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SentencePiece(PLAIN.model, added=added, strips=strips)


def test_a_vocabulary_that_was_written_is_read(tmp_path: Path) -> None:
    PLAIN.write(tmp_path / "tokenizer.model")
    assert SentencePiece.read(tmp_path / "tokenizer.model") == PLAIN
    assert SentencePiece.read(tmp_path / "tokenizer.model", added=IMAGE) == SentencePiece(PLAIN.model, added=IMAGE)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"no model", PLAIN.model[:1000]])
def test_an_unreadable_vocabulary_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: no readable tokenizer"):
        SentencePiece.read(path)


def test_a_vocabulary_without_a_begin_symbol_is_refused() -> None:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["ab"]),
        model_writer=model,
        vocab_size=6,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(CheckpointError, match="begin and end symbols are -1 and 2: both are needed"):
        SentencePiece(model.getvalue())


def test_equal_are_those_that_do_the_same() -> None:
    same = SentencePiece(PLAIN.model)
    assert same == PLAIN and hash(same) == hash(PLAIN)
    others = [
        SentencePiece.train(TEXTS, 320),
        SentencePiece(PLAIN.model, added=IMAGE),
        SentencePiece(PLAIN.model, strips=["</s>"]),
        SentencePiece(PLAIN.model, pad="<unk>"),
    ]
    assert all(other != PLAIN for other in others)
    assert PLAIN.model != PLAIN


def test_a_copy_in_another_process_does_the_same() -> None:
    text = SentencePiece(PLAIN.model, added=IMAGE, strips=["[IMG]"], pad="<unk>")
    copy = pickle.loads(pickle.dumps(text))
    assert copy == text
    assert copy.encode("a cat [IMG] <s>") == text.encode("a cat [IMG] <s>")
    assert copy.decode([SIZE, *PLAIN.encode("a cat")]) == "a cat"


def test_two_trainings_give_the_same_vocabulary() -> None:
    assert SentencePiece.train(TEXTS, SIZE).model == PLAIN.model


def test_symbols_are_one_piece_each() -> None:
    text = SentencePiece.train(TEXTS, SIZE, symbols=["[INST]", "<Img>"])
    assert len(text.encode("[INST] <Img>")) == 2
    assert text.decode(text.encode("a [INST] a")) == "a [INST] a"
    assert len(PLAIN.encode("[INST]")) > 1


def test_training_learns_pieces_up_to_the_size() -> None:
    assert len(PLAIN) == SIZE
    assert len(SentencePiece.train(["ab"] * 4, 500)) < 300  # there is no more to learn
    assert len(PLAIN.encode("circle")) < len("circle")
    assert PLAIN.encode("2023") == [PLAIN.encode(" ")[0], *(PLAIN.id(digit) for digit in "2023")]
    assert PLAIN.encode("a\n")[-1] == PLAIN.id("<0x0A>")  # a line break is no piece


def test_long_lines_are_learned_from() -> None:
    text = SentencePiece.train(["zebra " * 2000, "犬"], 290)
    assert text.encode("zebra zebra") == [text.id("▁zebra")] * 2


@pytest.mark.parametrize(
    ("texts", "size", "message"), [([], 300, "0 lines"), (["\n", ""], 300, "0 lines"), (TEXTS, 262, "262")]
)
def test_a_vocabulary_that_cannot_be_learned(texts: list[str], size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SentencePiece.train(texts, size)


def test_half_a_surrogate_pair_is_shown_as_such() -> None:
    assert PLAIN.decode(PLAIN.encode("a\ud83d b")) == "a? b"


def test_the_library_is_loaded_when_it_is_used() -> None:
    code = "import sys, plait.text.pieces; sys.exit('sentencepiece' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_said_is_told_with_its_symbols() -> None:
    text = SentencePiece(PLAIN.model, added={"<x>": len(PLAIN), "<y>": len(PLAIN) + 1})
    ids = [text.bos, *text.encode("a b"), text.eos, len(PLAIN), *text.encode("c"), len(PLAIN) + 1, text.eos]
    assert text.spell(ids) == "<s> a b</s> <x> c <y> </s>"
    assert text.spell(ids, ["<s>", "</s>"]) == "a b <x> c <y>"
    assert text.spell(ids, ["<x>", "</s>"]) == "<s>a b c <y>"
    assert text.spell([]) == "" and text.spell([text.eos, text.eos]) == "</s></s>"


CATS = ("the cat sat on the mat, and a dog? a small red fox!", "is it a cat? the dog sat.")
SYMBOLS = ("<mask>", "<image>", "<image_end>", "<line>")


def test_fairseq_ids() -> None:
    text = FairseqPieces.train(CATS, 40, SYMBOLS)
    ids = text.encode("the <image_end> cat<line>")
    assert [id for id in ids if id >= text.plain] == [text.id("<image_end>"), text.id("<line>")]  # the longest first
    assert text.decode(ids) == "the cat" and text.decode(ids, {text.id("<line>"): "|"}) == "the cat|"
    assert len(text) == text.plain + 4 == text.id("<line>") + 1
    assert text.encode("\u2603")[-1] == text.unk and text.encode("\ud800") == text.encode("?")
    assert text.encode("") == [] and text.encode(" the   cat ") == text.encode("the cat")
    assert text.id(text.dictionary[0]) == 4
    assert pickle.loads(pickle.dumps(text)) == text
    assert FairseqPieces(text.model, ()).encode("a <image>")[-1] < text.plain
    with pytest.raises(ConfigError, match="is no symbol and none of the"):
        text.id("<pad>")


def test_fairseq_files(tmp_path: Path) -> None:
    text = FairseqPieces.train(CATS, 40, SYMBOLS, words=["cat"])
    assert len(text.encode("cat")) == 1
    short = FairseqPieces.train(CATS, 40, SYMBOLS, words=["cat"], longest=2)
    assert {len(piece) for piece in short.dictionary if piece != "\u2581cat"} == {1, 2} and short.decode([4]) == "cat"
    text.write(tmp_path / "sentencepiece.bpe.model")
    assert FairseqPieces.read(tmp_path / "sentencepiece.bpe.model", SYMBOLS) == text
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        FairseqPieces.read(tmp_path / "none", SYMBOLS)
    with pytest.raises(ConfigError, match="2 symbols, 1 of them different"):
        FairseqPieces(text.model, ("<a>", "<a>"))
