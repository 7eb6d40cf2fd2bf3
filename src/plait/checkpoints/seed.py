"""The published names of SEED-LLaMA's parts.

| file | table |
| --- | --- |
| the tokenizer's | `plait.checkpoints.seed_tokenizer` |
| the folder of the language model, as transformers stores a LLaMA | `LANGUAGE_FILE` |

Without a language model the tokenizer alone is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

import torch
from torch import Tensor

from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.parts import LLAMA, language_sizes, shape_of, state_of
from plait.checkpoints.published import Export, Kind, Plan, Published
from plait.checkpoints.seed_tokenizer import KINDS, TokenizerFiles
from plait.checkpoints.tensors import Shape, TensorFile
from plait.config import from_plain
from plait.errors import CheckpointError
from plait.nn.llama import LLaMA, LLaMAConfig

LANGUAGE_FILE = LLAMA.under(ours="language.")
LANGUAGE = "language"


def _language(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    config = from_plain(LLaMAConfig, language_sizes(shape_of(shapes), {}))
    with torch.device("meta"):
        return state_of(language=LLaMA(config)), LANGUAGE_FILE


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
            where="the folder of https://huggingface.co/AILab-CVC/seed-llama-8b-sft, seed-llama-14b-sft or -pretrain",
            hollow=_language,
        ),
    )

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """The tokenizer's, where there is no language model."""
        if LANGUAGE in given:
            raise CheckpointError(f"{given[LANGUAGE].path}: SEED-LLaMA's language model is not known yet: leave it out")
        return TokenizerFiles().plan(given, changes)

    def exports(self, config: Any, format: str) -> Items[Export]:
        """The tokenizer's."""
        return TokenizerFiles().exports(config, format)

    def papers(self, config: Any, format: str) -> Mapping[str, Any]:
        """The tokenizer's."""
        return TokenizerFiles().papers(config, format)
