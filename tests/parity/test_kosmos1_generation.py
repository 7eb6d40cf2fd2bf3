"""Replies of KOSMOS-1 against those of the released generator, hypothesis by hypothesis, with the scores of all ids."""

from __future__ import annotations

import pytest
import torch
from golden import MODULES, assert_near
from kosmos1_model import CASES, GOLDENS, prompt, system

from plait.generate.beams import Hypothesis
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.generate.search import hypotheses
from plait.sequence import Sequence
from plait.systems.base import Next
from plait.systems.kosmos1 import KOSMOS1

NAMES = [name for name in CASES if name.startswith("generate.")]


def search(name: str) -> tuple[KOSMOS1, Sequence, list[Hypothesis], Settings]:
    """What the generator finds in a case."""
    settings = CASES[name]["settings"]
    assert settings["min_len"] == 1  # the prompt has more
    model = system(settings["variant"])
    document = prompt(settings["prompt"])
    laid = model.format.layout(document, open=True)
    assert settings["first_generated"] == len(laid) - 1
    asked = Settings(
        max_new_tokens=settings["max_len_b"] + 1 - settings["first_generated"],
        text=Sampling(temperature=0.0, no_repeat_ngram=settings["no_repeat_ngram_size"]),
        beams=settings["beam"],
        length_penalty=settings["len_penalty"],
        search="fairseq_released",
    )
    begin = model.format.grammar(document, 0)([])
    assert isinstance(begin, Next)
    with torch.inference_mode():
        found = hypotheses(model, laid, begin, asked, asked.max_new_tokens, settings["beam"])
    return model, laid, found, asked


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str) -> None:
    golden = GOLDENS[name]
    model, laid, found, settings = search(name)
    ids = list(model.format.counted_ids(laid))
    assert len(found) == sum(key.startswith("tokens") for key in golden.wanted)
    with torch.inference_mode():
        batch = model.format.collator()([[laid]], shift=False)
        logprobs = model.heads["token"](model(batch).states)[0].log_softmax(-1)
    before = logprobs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    for i, one in enumerate(found):
        assert [*ids[1:], *one.ids] == golden.wanted[f"tokens{i}"].tolist()
        assert_near(torch.tensor([*before, *one.logprobs]), golden.wanted[f"positional_scores{i}"], MODULES)
        assert_near(torch.tensor([one.score]), golden.wanted[f"score{i}"], MODULES)
    reply = Model(model).generate(prompt(golden.settings["prompt"]), settings)
    assert reply.runs[0].ids == found[0].ids and reply.stop == "end"
