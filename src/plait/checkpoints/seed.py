"""The published names of SEED-LLaMA's parts.

| file | table |
| --- | --- |
| the tokenizer's | `plait.checkpoints.seed_tokenizer` |
| the folder of the language model, as transformers stores a LLaMA | `plait.checkpoints.minigpt4.LANGUAGE_FILE` |
| adapters on it, as peft saves them in training; never published | `ADAPTERS_FILE` |

Without a language model the tokenizer alone is imported. A language model without words for pictures, such as Vicuna,
is given them, as its training began.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from functools import partial
from pathlib import Path
from typing import Any

from plait.checkpoints.minigpt4 import LANGUAGE, LANGUAGE_FILE, LLAMA2_LICENCE, LLAMA_LICENCE, language_hollow
from plait.checkpoints.parts import (
    LLAMA,
    FilePart,
    adapters,
    hugging_face,
    language_of,
)
from plait.checkpoints.published import Export, Kind, Plan, Published, over
from plait.checkpoints.seed_tokenizer import (
    KINDS,
    TOKENIZER_LICENCES,
    TokenizerFiles,
    tokenizer_exports,
    tokenizer_papers,
    tokenizer_sizes,
    tokenizer_tables,
)
from plait.checkpoints.tensors import TensorFile, read_json
from plait.config import from_plain
from plait.errors import CheckpointError
from plait.nn.llama import LLAMA2_7B, LLAMA_7B
from plait.systems.seed import ADDED, BEGIN, END, TOKENIZER, Seed, SeedConfig, grown
from plait.text.pieces import SentencePiece

ADAPTERS = adapters()
ADAPTERS_FILE = (ADAPTERS | LLAMA).under("base_model.model.", "language.")
"""Adapters, and the tables and norms that train beside them."""

_MAP = "special_tokens_map.json"
_HUB = "https://huggingface.co/AILab-CVC/"


def _strips(folder: Path) -> bool:
    """Whether the tokenizer of a folder takes away white space beside pictures.

    That of the release (transformers 4.30) does so for words that are listed as plain strings; words that are described
    say themselves, and so do all that later versions wrote.
    """
    listed = read_json(folder / _MAP).get("additional_special_tokens", []) if (folder / _MAP).is_file() else []
    path = folder / "tokenizer_config.json"
    later = read_json(path).get("added_tokens_decoder", {}) if path.is_file() else {}
    described = [
        one for one in [*listed, *later.values()] if isinstance(one, dict) and one.get("content") in (BEGIN, END)
    ]
    return all(one.get("lstrip") or one.get("rstrip") for one in described)


def published() -> Published:
    """For `plait import seed` and `plait export`."""
    return SeedFiles()


class SeedFiles(Published):
    """A tokenizer and a language model, or a tokenizer alone."""

    kinds = (
        *KINDS,
        Kind(
            name=LANGUAGE,
            sign="model.embed_tokens.weight",
            what="SEED-LLaMA's language model",
            where=f"the folder of {_HUB}seed-llama-8b-sft, seed-llama-14b-sft or -pretrain",
            hollow=language_hollow,
        ),
    )

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """Sizes are those of the files; the dialogue follows from the norms, which LLaMA-2 has its own of."""
        if LANGUAGE not in given:
            return TokenizerFiles().plan(given, changes)
        file = given[LANGUAGE]
        tokenizer, notes = tokenizer_sizes(given, self.kinds)
        language = language_of(FilePart(file, file.shapes), "language" not in changes)
        rows, width = file.shapes["model.embed_tokens.weight"]
        needed, listed = self._words(file, tokenizer["codes"])
        if rows < needed and listed:
            raise CheckpointError(
                f"{file.path}: has {rows} rows for {needed} words, {tokenizer['codes']} codes among them: give the "
                "tokenizer and the language model of one release"
            )
        if rows < needed:
            notes.append(f"{file.path.name} has no words for pictures: {needed - rows} that have learned nothing yet")
        plain = {
            "tokenizer": tokenizer,
            "language": {**language, "vocabulary": max(rows, needed)},
            "dialogue": "llama2" if language.get("eps", LLAMA_7B.eps) == LLAMA2_7B.eps else "vicuna",
            "strips": _strips(file.folder),
        }
        config = from_plain(SeedConfig, over(plain, changes))
        tables = {
            kind: table.under(ours="tokenizer.") for kind, table in tokenizer_tables(given, config.tokenizer).items()
        }
        drawn = {name for part, name in TOKENIZER_LICENCES.items() if part != "decoder" or config.tokenizer.decoder}
        return Plan(
            system=Seed,
            config=config,
            tables={**tables, LANGUAGE: LANGUAGE_FILE},
            files=file.folder,
            licences={
                "tokenizer": ", ".join(sorted(drawn)),
                "language": LLAMA2_LICENCE if config.dialogue == "llama2" else LLAMA_LICENCE,
            },
            turned={
                name: ((rows, width), partial(grown, rows=needed, seed=seed))
                for seed, name in enumerate(("language.embed.weight", "language.head.weight"))
                if rows < needed
            },
            notes=tuple(notes),
            also=(file.folder / TOKENIZER, *([file.folder / ADDED] if listed else [])),
        )

    def _words(self, file: TensorFile, codes: int) -> tuple[int, bool]:
        """How many words there are with those of pictures, and whether the folder lists these."""
        path, listed = file.folder / TOKENIZER, file.folder / ADDED
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file: put LLaMA's tokenizer.model beside the language model; a tokenizer.json does "
                "not do, other ids come of it"
            )
        added = read_json(listed) if listed.is_file() else {}
        if BEGIN in added:
            return 1 + max(added.values()), True
        return len(SentencePiece.read(path)) + codes + 2, False

    def exports(self, config: SeedConfig, format: str) -> Items[Export]:
        """The tokenizer's files and the folder of the language model; or this alone. Adapters are merged."""
        settings = {**hugging_face(config.language), "pad_token_id": 0}
        language = Export(name="language", table=LANGUAGE_FILE, settings=settings, merged=True)
        if format == "hf":
            return [Export(name=".", table=LANGUAGE_FILE, settings=settings, merged=True)]
        return [*tokenizer_exports(config.tokenizer, "tokenizer."), language]

    def papers(self, config: SeedConfig, format: str) -> Mapping[str, Any]:
        """unCLIP's, and how the words of pictures stand beside white space."""
        plain = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
        words = [] if config.strips else [{"content": one, "lstrip": False, "rstrip": False} for one in (BEGIN, END)]
        special = {**plain, **({"additional_special_tokens": words} if words else {})}
        if format == "hf":
            return {_MAP: special}
        return {**tokenizer_papers(config.tokenizer), f"language/{_MAP}": special}
