"""The recipe of what the systems took as pretrained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from plait.document import Document, Turn
from plait.recipes.foundations import build, language_stage, tiny
from plait.systems.foundations import TINY, Foundations
from plait.train.optim import assign
from plait.train.run import Run, shortened


@pytest.fixture(scope="module")
def system() -> Foundations:
    torch.manual_seed(0)
    return build(TINY, tiny().build.args[1])  # type: ignore[attr-defined]


def test_the_language_stage_trains_the_language_model_alone(system: Foundations) -> None:
    names = [name for name, _ in system.named_parameters()]
    muon, adamw = assign(language_stage().updates[0].optimisers, names)
    assert set(muon) | set(adamw) == {name for name in names if name.startswith("blip2.language.")}
    assert all(system.get_parameter(name).ndim == 2 for name in muon)


def test_every_word_of_the_world_is_few_pieces(system: Foundations) -> None:
    text = system.format.text
    for words in ("large red circle top left", "what colour is the small diamond?", "yes"):
        assert len(text.encode(words)) <= len(words.replace("?", " ?").split()), words


def test_documents_fit_a_row_and_predict_answers(system: Foundations) -> None:
    data = language_stage().data
    for i in range(100):
        sequence = system.format.layout(data.sources["told"][i])
        assert 1 < len(sequence) <= data.length + 1
        assert any(target.weight.any() for span in sequence.spans for target in span.targets)


def test_the_end_of_an_answer_is_predicted(system: Foundations) -> None:
    laid = system.format.layout(Document([Turn("user", "red?"), Turn("assistant", "yes")]))
    assert laid.ids()[-1] == system.format.text.eos
    assert laid.spans[-1].targets[0].weight[-1] == 1


def test_two_steps_of_the_language_stage(tmp_path) -> None:
    recipe = shortened(replace(tiny(), stages=(language_stage(),), tasks=(), probes=()), 2)
    torch.manual_seed(0)
    Run(recipe, tmp_path).train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["language"] * 2
    assert not any(record["skipped"] or record["cut"] for record in records)
