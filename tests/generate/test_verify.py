"""Whether a language model is asked rightly; that trained ones pass, only a trained one can show."""

from __future__ import annotations

import math

import pytest
import torch

import plait
from plait.errors import InputError
from plait.generate.verify import english, said


def test_a_guess_is_told_as_one() -> None:
    model = plait.build("minigpt4")
    with torch.no_grad():
        model.system.language.head.weight.zero_()
    facts = english(model)
    chance = math.log(model.system.config.language.vocabulary)
    assert facts["nats"] == pytest.approx(chance)
    assert said(facts).startswith("NOT verified")
    assert said({"nats": 2.0, "chance": chance}).startswith("verified (2.00 nats")


def test_a_system_without_text(cm3leon: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plait.Model(cm3leon)  # type: ignore[arg-type]
    monkeypatch.setattr(type(model.system), "chance", {"code": 3.0})
    with pytest.raises(InputError, match="cm3leon predicts no tokens of text"):
        english(model)
