"""The recipe of what the systems took as pretrained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from plait.recipes.foundations import LANGUAGE_STEPS, build, language_stages, tiny
from plait.systems.foundations import TINY, Foundations
from plait.train.optim import assign
from plait.train.run import Run, shortened

LANGUAGE = ("words", "checks", "drill", "language")


@pytest.fixture(scope="module")
def system() -> Foundations:
    torch.manual_seed(0)
    return build(TINY, tiny().build.args[1])  # type: ignore[attr-defined]


def test_the_language_stages_train_the_language_model_alone(system: Foundations) -> None:
    names = [name for name, _ in system.named_parameters()]
    language = {name for name in names if name.startswith("blip2.language.")}
    stages = language_stages(TINY)
    assert tuple(stage.name for stage in stages) == LANGUAGE
    assert tuple(stage.steps for stage in stages) == LANGUAGE_STEPS
    for stage in stages:
        muon, adamw = assign(stage.updates[0].optimisers, names)
        assert set(muon) | set(adamw) == language
        assert all(system.get_parameter(name).ndim == 2 for name in muon)


def test_every_word_of_the_world_is_few_pieces(system: Foundations) -> None:
    text = system.format.text
    for words in ("large red circle top left", "what colour is the small diamond?", "yes"):
        assert len(text.encode(words)) <= len(words.replace("?", " ?").split()), words


@pytest.mark.parametrize("stage", range(len(LANGUAGE)))
def test_documents_fit_a_row_and_predict_answers(system: Foundations, stage: int) -> None:
    data = language_stages(TINY)[stage].data
    for i in range(60):
        sequence = system.format.layout(data.sources["told"][i])
        assert 1 < len(sequence) <= data.length + 1
        assert any(target.weight.any() for span in sequence.spans for target in span.targets)


def test_two_steps_of_the_first_and_the_last_language_stage(tmp_path) -> None:
    recipe = shortened(replace(tiny(), stages=language_stages(TINY)[::3], tasks=(), probes=()), 2)
    torch.manual_seed(0)
    Run(recipe, tmp_path).train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == [name for name in LANGUAGE[::3] for _ in range(2)]
    assert not any(record["skipped"] or record["cut"] for record in records)
