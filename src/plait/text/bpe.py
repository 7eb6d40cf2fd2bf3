"""Byte-level BPE text, through the `tokenizers` library. No text is ever read as a special symbol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from plait.errors import CheckpointError


class BPE:
    """A byte-level BPE vocabulary with ids 0 .. size - 1; every string of bytes has an encoding."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> BPE:
        """Learns at most `size` tokens from `texts`; the 256 bytes are always among them."""
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def read(cls, path: str | Path) -> BPE:
        """A vocabulary that `write` wrote.

        Raises:
            CheckpointError: missing or of another form.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{path}: no readable tokenizer ({error})") from error

    def behind(self, first: int) -> BPE:
        """The text of a vocabulary whose ids below `first` are symbols of other kinds; it begins at 0."""
        content = json.loads(self._tokenizer.to_str())
        model = content["model"]
        kept = {token: id - first for token, id in model["vocab"].items() if id >= first}
        pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        merges = [pair for pair in pairs if {*pair, "".join(pair)} <= kept.keys()]
        model |= {"vocab": kept, "merges": merges, "unk_token": None}
        content |= {"model": model, "added_tokens": [], "post_processor": None}
        return BPE(tokenizers.Tokenizer.from_str(json.dumps(content)))

    def write(self, path: str | Path) -> None:
        """One JSON file in the `tokenizers` library's form."""
        text = json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False)
        Path(path).write_text(text, encoding="utf-8")

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; half a surrogate pair, which JSON can hold but UTF-8 cannot, is read as "?"."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no valid UTF-8 become the replacement character."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)
