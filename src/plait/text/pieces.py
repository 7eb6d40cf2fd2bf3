"""SentencePiece text, as the published programs encode and decode it.

`SentencePiece` is that of LLaMA's descendants (source: transformers 4.28 to 4.31, class LlamaTokenizer in its legacy
behaviour), `FairseqPieces` that of KOSMOS-1, under fairseq's dictionary. In both, special strings that stand in a text
are read as their ids, and every part between them is encoded by itself, so that each begins with a space of its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_LLAMA: dict[str, Any] = {  # how LLaMA's vocabulary was learned
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "character_coverage": 0.99995,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
}
_UNIGRAM: dict[str, Any] = {"model_type": "unigram", "character_coverage": 0.99995}  # KOSMOS-1's, as far as it tells


class SentencePiece:
    """A vocabulary of pieces with the ids 0 .. n - 1, and special strings that may stand behind it.

    Two are equal if they encode and decode everything alike. It can be pickled.

    Args:
        model: the content of a `tokenizer.model`.
        added: special string -> id, for those that the model does not hold.
        strips: the special strings that take away the white space on both sides of them. Published tokenizers do so
            for those that their files name as plain strings, not for those that are described as objects.
        pad: the string whose id pads, a special one or a piece; none: the end symbol.

    Raises:
        CheckpointError: the model is none, or has no begin or end symbol.
        ConfigError: two added strings of one id, an id that the model has, or a name without an id.
    """

    def __init__(
        self,
        model: bytes,
        *,
        added: Mapping[str, int] | None = None,
        strips: Iterable[str] = (),
        pad: str | None = None,
    ) -> None:
        self.model = model
        self.added = dict(added or {})
        self.strips = frozenset(strips)
        self._pieces = _load(model)
        self.unk, self.bos, self.eos = self._pieces.unk_id(), self._pieces.bos_id(), self._pieces.eos_id()
        if min(self.bos, self.eos) < 0:
            raise CheckpointError(
                f"a SentencePiece model whose begin and end symbols are {self.bos} and {self.eos}: both are needed"
            )
        symbols = {self._pieces.id_to_piece(id): id for id in (self.unk, self.bos, self.eos)}
        self._special = symbols | self.added
        self._check()
        self._split = _splitter(self._special)
        self.pad = self.eos if pad is None else self.id(pad)
        self._silent = frozenset({*self._special.values(), self.pad})

    @classmethod
    def train(cls, texts: Iterable[str], size: int, symbols: Iterable[str] = ()) -> SentencePiece:
        """Learns at most `size` pieces from the lines of `texts`, with the settings of LLaMA.

        Three symbols and the 256 bytes are always among them, and nearly every character of the texts.

        Args:
            symbols: words that are one piece each, with the white space in front of them.

        Raises:
            ConfigError: no text, or more characters than `size` leaves room for.
        """
        return cls(_learned(texts, size, symbols, _LLAMA))

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        added: Mapping[str, int] | None = None,
        strips: Iterable[str] = (),
        pad: str | None = None,
    ) -> SentencePiece:
        """The vocabulary in a `tokenizer.model`, published or written by `write`.

        Raises:
            CheckpointError: missing, or no SentencePiece model.
            ConfigError: `added`, `strips` or `pad` do not fit it.
        """
        try:
            return cls(Path(path).read_bytes(), added=added, strips=strips, pad=pad)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{path}: no readable tokenizer ({error})") from error

    def write(self, path: str | Path) -> None:
        """The model as one file; added strings are the system's to keep."""
        Path(path).write_bytes(self.model)

    def __len__(self) -> int:
        """How many ids there are."""
        return max(len(self._pieces), *(id + 1 for id in self.added.values()), 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SentencePiece) and all(
            getattr(self, name) == getattr(other, name) for name in ("model", "added", "strips", "pad")
        )

    def __hash__(self) -> int:
        return hash(self.model)

    def id(self, piece: str) -> int:
        """The id of a special string or of a piece.

        Raises:
            ConfigError: there is none.
        """
        id = self._special.get(piece, self._pieces.piece_to_id(piece))
        if id == self.unk and piece != self._pieces.id_to_piece(self.unk):
            raise ConfigError(f"{piece!r} is no special string and none of the {len(self._pieces)} pieces")
        return id

    def encode(self, text: str) -> list[int]:
        """Ids of one segment of text, without a begin or end symbol that the text does not hold.

        Half a surrogate pair, which JSON can hold but UTF-8 cannot, is read as "?".
        """
        parts = self._split.split(_valid(text))  # text, special, text, ..., text
        ids: list[int] = []
        for at, part in enumerate(parts):
            if at % 2:
                ids.append(self._special[part])
                continue
            if at and parts[at - 1] in self.strips:
                part = part.lstrip()
            if at + 1 < len(parts) and parts[at + 1] in self.strips:
                part = part.rstrip()
            ids += self._pieces.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without their special ones; bytes that are no valid UTF-8 become replacement characters.

        The text of the first ids is the beginning of the text of all, but for replacement characters at its end.
        """
        return self._pieces.decode([id for id in ids if id not in self._silent])

    def spell(self, ids: Sequence[int], silent: Iterable[str] = ()) -> str:
        """The text of ids with their special ones, as published code tells what a model said (transformers 4.30).

        Added strings have a space on both sides; a symbol of the model has one before the text in front of it, if that
        begins behind an added string or another symbol.

        Args:
            silent: special strings that are left out.
        """
        names = {id: piece for piece, id in self._special.items()}
        left_out = {self._special[piece] for piece in silent}
        added = set(self.added.values())
        parts: list[str] = []
        run: list[int] = []
        for id in ids:
            if id in left_out:
                continue
            if id in added:
                parts += [self._run(run, names)] if run else []
                parts.append(names[id])
                run = []
            else:
                run.append(id)
        return " ".join([*parts, self._run(run, names)] if run else parts)

    def _run(self, ids: Sequence[int], names: Mapping[int, str]) -> str:
        """Ids of the model alone."""
        told, words = "", []
        for at, id in enumerate(ids):
            if id not in names:
                words.append(id)
                continue
            if at and (words or ids[at - 1] not in names):
                told += " "
            told += self._pieces.decode(words) + names[id]
            words = []
        return told + self._pieces.decode(words)

    def _check(self) -> None:
        taken = {id: piece for piece, id in self.added.items()}
        if "" in self.added or len(taken) < len(self.added):
            raise ConfigError(f"{len(self.added)} added strings with {len(taken)} ids: each needs a name and one id")
        for id, piece in taken.items():
            if id < len(self._pieces) and (id < 0 or self._pieces.id_to_piece(id) != piece):
                raise ConfigError(f"{piece!r} has the id {id}: the {len(self._pieces)} pieces have it, add it behind")
        if unknown := self.strips - self._special.keys():
            raise ConfigError(f"strips names {sorted(unknown)}, which are none of {', '.join(self._special)}")


class FairseqPieces:
    """A vocabulary of pieces under fairseq's dictionary, and symbols behind it: KOSMOS-1's.

    Ids: 0 `<s>`, 1 `<pad>`, 2 `</s>`, 3 unknown, then the pieces behind SentencePiece's own three, then the symbols.
    A text is split at the symbols that stand in it, the longest first. Two are equal if they encode and decode
    everything alike. It can be pickled.

    Args:
        model: the content of a `sentencepiece.bpe.model`, whose first three pieces are unknown, `<s>` and `</s>`.
        symbols: special strings, in the order of their ids.

    Raises:
        CheckpointError: the model is none, or begins with other pieces.
        ConfigError: a symbol without a name, or two of one.
    """

    bos, pad, eos, unk = range(4)

    def __init__(self, model: bytes, symbols: Sequence[str]) -> None:
        self.model = model
        self.symbols = tuple(symbols)
        self._pieces = _load(model)
        begins = [self._pieces.unk_id(), self._pieces.bos_id(), self._pieces.eos_id()]
        if begins != [0, 1, 2]:
            raise CheckpointError(
                f"a SentencePiece model whose unknown, begin and end symbols are {begins}: they must be 0, 1 and 2, as "
                "fairseq's dictionary takes them to be"
            )
        if not all(self.symbols) or len(set(self.symbols)) < len(self.symbols):
            raise ConfigError(
                f"{len(self.symbols)} symbols, {len(set(self.symbols))} of them different: name each once"
            )
        first = self.plain
        self._special = {symbol: first + i for i, symbol in enumerate(self.symbols)}
        self._split = _splitter(self._special) if self.symbols else re.compile("(?!)")  # never
        self._strings = ["", "", "", "", *map(self._pieces.id_to_piece, range(3, len(self._pieces))), *self.symbols]

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, symbols: Sequence[str], words: Iterable[str] = (), longest: int = 16
    ) -> FairseqPieces:
        """Learns a unigram model of at most `size` pieces from the lines of `texts`; the symbols come behind them.

        Args:
            words: those that are one piece each, with the white space in front of them.
            longest: characters of other pieces, the white space in front among them.

        Raises:
            ConfigError: no text, or more characters than `size` leaves room for.
        """
        return cls(_learned(texts, size, words, {**_UNIGRAM, "max_sentencepiece_length": longest}), symbols)

    @classmethod
    def read(cls, path: str | Path, symbols: Sequence[str]) -> FairseqPieces:
        """The vocabulary in a `sentencepiece.bpe.model`, published or written by `write`.

        Raises:
            CheckpointError: missing, or no such model.
        """
        try:
            return cls(Path(path).read_bytes(), symbols)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{path}: no readable tokenizer ({error})") from error

    def write(self, path: str | Path) -> None:
        """The model as one file; symbols are the system's to keep."""
        Path(path).write_bytes(self.model)

    @property
    def plain(self) -> int:
        """How many ids stand before the symbols."""
        return len(self._pieces) + 1

    def __len__(self) -> int:
        """How many ids there are."""
        return self.plain + len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FairseqPieces) and (self.model, self.symbols) == (other.model, other.symbols)

    def __hash__(self) -> int:
        return hash(self.model)

    @property
    def dictionary(self) -> list[str]:
        """The pieces from id 4 on, as the lines of a `dict.txt` name them."""
        return self._strings[4 : self.plain]

    def id(self, piece: str) -> int:
        """The id of a symbol or of a piece.

        Raises:
            ConfigError: there is none.
        """
        if piece in self._special:
            return self._special[piece]
        id = self._pieces.piece_to_id(piece)
        if id < 3:
            raise ConfigError(f"{piece!r} is no symbol and none of the {len(self._pieces)} pieces")
        return id + 1

    def encode(self, text: str) -> list[int]:
        """Ids of one segment of text, with those of the symbols that it holds.

        White space is one space each, and none at the ends; half a surrogate pair is read as "?".
        """
        ids: list[int] = []
        for at, part in enumerate(self._split.split(_valid(text))):  # text, symbol, text, ..., text
            if at % 2:
                ids.append(self._special[part])
            else:
                ids += [id + 1 if id else self.unk for id in self._pieces.encode(part)]
        return ids

    def decode(self, ids: Sequence[int], shown: Mapping[int, str] | None = None) -> str:
        """The text of ids; the first four ids, and symbols, are left out.

        Args:
            shown: symbol -> what is written for it.
        """
        shown = shown or {}
        parts = (shown.get(id, "") if id >= self.plain else self._strings[id] for id in ids)
        return "".join(parts).replace("\u2581", " ").removeprefix(" ")


def _splitter(special: Iterable[str]) -> re.Pattern[str]:
    """What splits a text at special strings, the longest first, and keeps them."""
    longest_first = sorted(special, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def _learned(texts: Iterable[str], size: int, words: Iterable[str], options: Mapping[str, Any]) -> bytes:
    """A SentencePiece model of at most `size` pieces, from the lines of `texts`.

    Args:
        words: those that are one piece each, with the white space in front of them.
        options: of the trainer.

    Raises:
        ConfigError: no text, or more characters than `size` leaves room for.
    """
    import sentencepiece

    lines = [line for text in texts for line in _valid(text).split("\n") if line]
    if not lines:
        raise ConfigError("0 lines of text to learn pieces from: give at least one")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            max_sentence_length=1 << 30,  # longer lines would be left out
            num_threads=1,
            minloglevel=2,
            user_defined_symbols=[f"\u2581{word}" for word in words],
            **options,
        )
    except RuntimeError as error:
        raise ConfigError(f"{size} pieces cannot be learned from {len(lines)} lines ({error})") from error
    return model.getvalue()


def _load(model: bytes) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor  # here, so that a command that needs no text does not wait for it

    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(model)
    except RuntimeError as error:  # also where it has no unknown symbol
        raise CheckpointError("no SentencePiece model; is it a tokenizer.model?") from error
    return pieces


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
