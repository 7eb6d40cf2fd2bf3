"""Whether a language model is asked rightly; that trained ones pass, only a trained one can show."""

from __future__ import annotations

import math

import pytest
import torch

import plait
from plait.document import Document
from plait.errors import InputError
from plait.generate.verify import BEGIN, ENGLISH, english, said


def test_a_guess_is_told_as_one() -> None:
    model = plait.build("minigpt4")
    with torch.no_grad():
        model.system.language.head.weight.zero_()
    facts = english(model)
    chance = math.log(model.system.config.language.vocabulary)
    ids = len(model.format.text_ids(ENGLISH))
    assert facts["chance"] == chance
    assert facts["nats"] == pytest.approx(chance * model.format.layout(Document([BEGIN, ENGLISH])).spans[-1].length / ids)
    assert said(facts).startswith("NOT verified")
    assert said({"nats": 2.0, "chance": chance}).startswith("verified (2.00 nats")


def test_a_system_without_text(cm3leon: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plait.Model(cm3leon)  # type: ignore[arg-type]
    monkeypatch.setattr(type(model.system), "chance", {"code": 3.0})
    with pytest.raises(InputError, match="cm3leon predicts no tokens of text"):
        english(model)
