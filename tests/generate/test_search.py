from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, ImageError, InputError
from plait.generate.beams import Beams, BeamSearch, beam_search
from plait.generate.engine import Engine, Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.generate.search import search
from plait.sequence import Sequence, tokens
from plait.systems.base import Next
from plait.systems.cm3leon import CM3Leon

FAIR = Settings(max_new_tokens=12, beams=4, early_stopping="never")


@torch.no_grad()
@pytest.mark.parametrize("text", ["a", "the big green triangle"])
@pytest.mark.parametrize("rules", [Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=1.4)])
def test_a_reply_is_what_full_passes_find(cm3leon: CM3Leon, text: str, rules: Sampling) -> None:
    document = Document(text)
    prompt = cm3leon.layout(document, open=True).ids().tolist()
    begin = cm3leon.format.grammar(document, 0)([])
    assert isinstance(begin, Next)

    def full(rows: list[list[int]]) -> Tensor:
        batch = cm3leon.format.collator()([[Sequence((tokens(row),))] for row in rows], shift=False)
        logits = cm3leon.unembed(cm3leon(batch).states[:, -1])
        return logits.masked_fill(~begin.allowed, -torch.inf).log_softmax(-1)

    beams = [prompt]

    def reorder(index: Tensor) -> None:
        beams[:] = [beams[i] for i in index.tolist()]

    def step(ids: Tensor) -> Tensor:
        beams[:] = [[*row, id] for row, id in zip(beams, ids.tolist(), strict=True)]
        return full(beams)

    asked = Beams(beams=4, max_new_tokens=12, length_penalty=0.5, early_stopping="never", sampling=rules)
    ((best,),) = beam_search(BeamSearch(asked, begin.ends), full([prompt]), step, reorder)
    reply = search(cm3leon, document, replace(FAIR, length_penalty=0.5, text=rules))
    assert reply.runs[0].ids == best.ids
    assert reply.runs[0].logprobs == pytest.approx(best.logprobs, abs=1e-4)
    assert (reply.stop == "end") == best.ended
    assert reply.text == cm3leon.format.read_text(reply.runs[0])


def test_one_beam_that_stops_early_is_greedy(cm3leon: CM3Leon, picture: Callable[[int], Image]) -> None:
    settings = Settings(max_new_tokens=15, max_images=0, early_stopping=True)
    for document in (Document("a dog"), Document([Turn("user", [picture(0), Text("what?")])])):
        (greedy,) = Engine(cm3leon).run([document], [settings])
        reply = search(cm3leon, document, settings)
        assert [run.ids for run in reply.runs] == [run.ids for run in greedy.runs]
        assert reply.stop == greedy.stop


def test_how_a_search_ends(cm3leon: CM3Leon) -> None:
    whole = search(cm3leon, Document("a"), replace(FAIR, max_new_tokens=6, text=Sampling(temperature=0)))
    said = whole.runs[0].ids
    long = replace(FAIR, text=Sampling(temperature=0, min_new_tokens=999), max_new_tokens=999)
    filled = search(cm3leon, Document("a"), long)
    assert filled.stop == "max_length"
    assert len(filled.runs[0].ids) + len(cm3leon.layout(Document("a"), open=True)) == cm3leon.format.max_length
    assert search(cm3leon, Document("a"), replace(long, max_new_tokens=3)).stop == "max_new_tokens"
    first = replace(long, beams=1, stop=((filled.runs[0].ids[0],), (said[0],)), max_new_tokens=20)
    assert search(cm3leon, Document("a"), first).stop == "stop_sequence"
    assert search(cm3leon, Document("a"), replace(FAIR, max_new_tokens=0)).stop == "max_new_tokens"


def test_a_model_searches_where_beams_are_asked_for(cm3leon: CM3Leon) -> None:
    model = Model(cm3leon)
    documents = [Document("a dog"), Document("the cat")]
    drawn = Sampling(temperature=1.2, top_p=0.9)
    for text in (Sampling(temperature=0), drawn):
        together = model.generate(documents, text_settings(text), beams=3)
        for i, document in enumerate(documents):
            alone = model.generate(document, text_settings(text), beams=3, seed=i)
            assert together[i] == alone
            assert "".join(p.text for p in model.stream(document, text_settings(text), beams=3, seed=i)) == alone.text


def text_settings(text: Sampling) -> Settings:
    return Settings(max_new_tokens=8, text=text)


def test_a_picture_is_found_where_one_is_asked_for_first(cm3leon: CM3Leon) -> None:
    document = Document(["a dog", Blank("image")])
    settings = replace(FAIR, image=Sampling(temperature=0))
    reply = search(cm3leon, document, settings)
    (run,) = reply.runs
    assert (run.kind, len(run.ids), reply.stop) == ("image", 16, "max_images")
    assert len(reply.document.images) == 1 and not reply.text
    (greedy,) = Engine(cm3leon).run([document], [replace(settings, beams=1)])
    one = search(cm3leon, document, replace(settings, beams=1))
    assert sum(run.logprobs) >= sum(one.runs[0].logprobs)
    assert one.runs[0].ids == greedy.runs[0].ids
    assert one.runs[0].seed == greedy.runs[0].seed
    drawn = replace(settings, image=Sampling(temperature=1.5), seed=1)
    assert search(cm3leon, document, drawn).runs[0].ids != search(cm3leon, document, replace(drawn, seed=2)).runs[0].ids
    long = Document(["z" * 150, Blank("image")])
    assert search(cm3leon, long, settings).stop == "max_length"


def test_what_beams_do_not_do_is_refused(cm3leon: CM3Leon) -> None:
    with pytest.raises(ConfigError, match=r"4 beams and guidance 2.0: leave one of them at 1"):
        search(cm3leon, Document("a"), replace(FAIR, guidance=2.0))
    with pytest.raises(ConfigError, match="4 beams in the engine"):
        Engine(cm3leon).submit(Document("a"), FAIR)
    with pytest.raises(ConfigError, match="beams 0: it must be at least 1"):
        Settings(beams=0)
    with pytest.raises(InputError, match="this reply has more"):
        search(cm3leon, Document(["a", Blank("text"), Blank("text")]), replace(FAIR, max_new_tokens=100))
    with pytest.raises(InputError, match="at most 159 fit"):
        search(cm3leon, Document("z" * 400), FAIR)
    with pytest.raises(ImageError):
        search(cm3leon, Document([Image(b"nonsense"), Text("a")]), FAIR)
    assert search(cm3leon, Document(["a", Blank("image")]), FAIR).stop == "max_images"
