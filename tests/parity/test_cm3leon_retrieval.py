"""CM3Leon's retrieval, query dropout and layouts against what the goldens have of CLIP and of the paper's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import MODULES, Golden, Goldens, assert_near
from test_cm3leon_parts import clip
from torch import Tensor

from plait.document import Blank, Document, Image
from plait.nn.vqgan import VQGANConfig
from plait.retrieval.memory import Embedded, Memory
from plait.retrieval.select import diverse, query_dropout
from plait.sequence import Sequence
from plait.systems.base import Guidance
from plait.systems.cm3leon import CM3LeonConfig, CM3LeonFormat
from plait.text.bpe import BPE

GOLDENS = Goldens("cm3leon")
RANKED = 9  # of the places behind, gaps are within the noise


def real(ids: Tensor, end: int) -> Tensor:
    """Up to the first end of text: its id is also that of pads."""
    before = (ids == end).cumsum(1) - (ids == end).long()
    return before == 0


def remembered(folder: Path, style: str, text: Tensor, pictures: Tensor) -> Memory:
    n, width = text.shape
    memory = Memory.create(folder, width, style=style)  # type: ignore[arg-type]
    numbers = np.arange(n, dtype=np.uint64)
    embedded = Embedded(text=text, pictures=pictures, content=numbers, picture_content=numbers)
    with memory.appending():
        memory.append("bank", range(n), embedded)
    return memory


def alike(rows: list[int], settings: dict[str, Any]) -> list[int]:
    """Rows with one name for documents that are the same."""
    first = {row: group[0] for group in settings["equivalent"] for row in group}
    return [first.get(row, row) for row in rows]


def clip_retrieval(golden: Golden, tmp_path: Path) -> None:
    given, wanted, settings = golden.given, golden.wanted, golden.settings
    model, end = clip(), settings["eos_token_id"]
    with torch.no_grad():
        text = model.text_features(given["bank_input_ids"], real(given["bank_input_ids"], end))
        pictures = model.image_features(given["bank_pixels"])
        asked_text = model.text_features(given["query_input_ids"], real(given["query_input_ids"], end))
        asked_pictures = model.image_features(given["query_pixels"])
    unit = torch.nn.functional.normalize
    assert_near(text, unit(wanted["bank_text_features"], dim=1), MODULES)
    assert_near(pictures, unit(wanted["bank_image_features"], dim=1), MODULES)
    assert_near(asked_text, wanted["query_text"], MODULES)
    assert_near(asked_pictures, wanted["query_image"], MODULES)
    numbers = np.zeros(len(asked_text), np.uint64)
    asked = Embedded(text=asked_text, pictures=asked_pictures, content=numbers, picture_content=numbers)
    whole, lengths = asked.joined()
    assert_near(whole * lengths[:, None], wanted["query_document"], MODULES)
    assert_near(whole, wanted["query_document_unit"], MODULES)
    for style, bank in (("raw", "bank_documents"), ("unit", "bank_documents_unit")):
        memory = remembered(tmp_path / style, style, text, pictures)
        assert_near(memory.compared(np.arange(len(memory))), wanted[bank], MODULES)
        document = whole if style == "unit" else whole * lengths[:, None]
        for kind, queries in (("text", asked_text), ("image", asked_pictures), ("document", document)):
            found = memory.search(queries, len(memory))
            for place, (scores, rows) in enumerate(zip(found.scores, found.rows, strict=True)):
                name = f"{style}_{kind}_{place}"
                chosen, golden_order = settings["selections"][name], wanted[f"order_{name}"].tolist()
                in_order = torch.empty_like(scores).scatter(0, rows, scores)
                assert_near(in_order, wanted[f"scores_{name}"].float(), MODULES)
                assert alike(rows[:RANKED].tolist(), settings) == alike(golden_order[:RANKED], settings)
                vectors = memory.compared(rows.numpy())
                for count, kept in ((2, "kept_two"), (4, "kept_four")):
                    places = diverse(scores, vectors, count, settings["cut"])
                    assert alike(rows[places].tolist(), settings) == alike(chosen[kept], settings)
    for place in range(len(asked_text)):
        pool = settings["selections"][f"pool_{place}"]
        assert pool["by_image"] == settings["selections"][f"unit_image_{place}"]["kept_two"]
        assert pool["by_text"] == settings["selections"][f"unit_text_{place}"]["kept_two"]


def dropout(golden: Golden, tmp_path: Path) -> None:
    class Recorded(np.random.Generator):
        def random(self, size: int) -> Any:  # type: ignore[override]
            assert size == len(golden.given["uniforms"])
            return golden.given["uniforms"].numpy()

    generator = Recorded(np.random.PCG64(0))
    kept = query_dropout(golden.given["tokens"].tolist(), golden.settings["rate"], generator)
    assert kept == golden.wanted["kept"].tolist()


def layouts(golden: Golden, tmp_path: Path) -> None:
    ids, example = golden.settings["vocabulary"], golden.settings["example"]
    vocab = GOLDENS.config["vocab"]
    n = len(example["pairs"][0][1])

    class Ids(BPE):
        """A text is its ids."""

        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return vocab["vocab_size"] - vocab["text_first"]

        def encode(self, text: str) -> list[int]:
            return [int(one) - vocab["text_first"] for one in text.split()]

    class Few(VQGANConfig):
        """Pictures of as many codes as those of the example."""

        codes_per_image = property(lambda self: n)  # type: ignore[assignment]

    codes = vocab["image_last"] - vocab["image_first"] + 1
    config = CM3LeonConfig(
        image=Few(codes=codes),
        width=8,
        depth=1,
        heads=1,
        sentinels=vocab["sentinel_count"],
        text_tokens=len(Ids()),
    )
    format = CM3LeonFormat(config, Ids())
    voc = config.vocabulary
    assert (voc.eos, voc.brk, voc.first_sentinel, voc.eoss) == (ids["eos"], ids["brk"], ids["mask0"], ids["eoss"])
    shown = {}
    pairs = []
    for words, picture in example["pairs"]:
        one = Image(bytes(picture))
        shown[id(one)] = picture
        pairs.append(Document([" ".join(map(str, words)), one]))

    def written(sequence: Sequence) -> list[int]:
        filled = iter([code for _, one in sequence.pictures for code in shown[id(one)]])
        return [next(filled) if id == -1 else id for id in sequence.ids().tolist()]

    *before, last = pairs
    words, pictures = zip(*example["pairs"], strict=True)
    eos, brk, mask = ids["eos"], ids["brk"], ids["mask0"]
    assert written(format.layout(last.behind(before))) == example["ids"]
    assert written(format.layout(last)) == [eos, *words[-1], brk, *pictures[-1], eos]
    asked = Document([last.text, Blank("image")])
    prompt, nothing = format.streams(asked, Guidance(scale=3.0)).rows
    assert written(prompt) == [eos, *words[-1], brk] and written(nothing) == [eos, mask, brk]
    front = example["ids"][: -len(words[-1]) - len(pictures[-1]) - 2]
    prompt, nothing = format.streams(asked.behind(before), Guidance(scale=3.0)).rows
    assert written(prompt) == [*front, *words[-1], brk] and written(nothing) == [*front, mask, brk]
    described = format.layout(Document([Blank("text"), last.images[0]]), open=True)
    assert written(described) == [eos, mask, brk, *pictures[-1], eos, ids["infill"]]


CHECKS: dict[str, Callable[[Golden, Path], None]] = {
    "clip_retrieval": clip_retrieval,
    "query_dropout": dropout,
    "layouts": layouts,
}


@pytest.mark.parametrize("name", CHECKS)
def test_case(name: str, tmp_path: Path) -> None:
    CHECKS[name](GOLDENS[name], tmp_path)
