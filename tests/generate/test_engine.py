from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, DocumentError, ImageError, InputError
from plait.generate.engine import Engine, Reply, Settings
from plait.generate.sampling import Sampling
from plait.sequence import Sequence, Slot, tokens
from plait.systems.base import Contrast, Emitted, Forced, Format, Stop
from plait.systems.cm3leon import CM3Leon

Picture = Callable[[int], Image]
TEXT, DRAWN = Blank("text"), Blank("image")
N = 16  # codes of a picture
LIMIT = 160  # positions
WARM = Sampling()


def written_out(system: CM3Leon, sequence: Sequence) -> list[tuple[int, int]]:
    """The ids of a sequence, with the codes of its pictures, each with its place in the picture or -1."""
    out: list[tuple[int, int]] = []
    for span in sequence.spans:
        if isinstance(span.fill, Slot):
            pixels = system.format.preprocess()["vqgan"](span.fill.image)
            codes = system.codes(torch.from_numpy(pixels)[None])[0].tolist()
            out += [(code, place) for place, code in enumerate(codes)]
        else:
            out += [(id, -1) for id in span.fill.tolist()]
    return out


def full_pass(system: CM3Leon, elements: list[tuple[int, int]]) -> Tensor:
    """(t, v) logits of one document, without cache."""
    ids, places = zip(*elements, strict=True)
    batch = system.format.collator()([[Sequence((tokens(ids),))]], shift=False)
    return system.unembed(system(replace(batch, place=torch.tensor([places]))).states[0])


def distribution(logits: Tensor, allowed: Tensor, sampling: Sampling) -> list[float]:
    """Restriction, temperature, top-p, in double precision."""
    scaled = logits.double().masked_fill(~allowed, -torch.inf) / sampling.temperature
    p = scaled.softmax(-1).tolist()
    mass, kept = 0.0, [0.0] * len(p)
    for id in sorted(range(len(p)), key=lambda id: (-p[id], id)):
        if mass >= sampling.top_p:
            break
        kept[id] = p[id]
        mass += p[id]
    return [x / sum(kept) for x in kept]


def joined(passes: list[Tensor], allowed: Tensor, settings: Settings) -> Tensor:
    """What a picture is drawn from, by the formulas of guidance and contrast."""
    logits = passes[0]
    if settings.image_guidance is not None:
        full, pictures, nothing = passes
        logits = nothing + settings.image_guidance * (pictures - nothing) + settings.guidance * (full - pictures)
    elif settings.guidance != 1:
        logits = passes[1] + settings.guidance * (passes[0] - passes[1])
    return contrasted(logits, passes[-1], allowed, settings.contrast) if settings.contrast else logits


def contrasted(expert: Tensor, amateur: Tensor, allowed: Tensor, contrast: Contrast) -> Tensor:
    """log p_expert - log p_amateur where p_expert is large enough, from probabilities, in double precision."""
    expert, amateur = (x.double().masked_fill(~allowed, -torch.inf).softmax(-1) for x in (expert, amateur))
    kept = expert >= contrast.alpha * expert.sort(descending=True).values[contrast.k - 1]
    return torch.where(kept & allowed, expert.log() - amateur.log(), -torch.inf)


@dataclass
class Answer:
    runs: list[Emitted]
    stop: str


@torch.no_grad()
def naive(system: CM3Leon, document: Document, settings: Settings) -> Answer:
    """One request, one full pass for each id; guidance by its formula on two passes."""
    format = system.format
    grammar = format.grammar(document, settings.max_images)
    prompts = [written_out(system, row) for row in format.streams(document, settings.guided).rows]
    random = np.random.default_rng(settings.seed)
    runs: list[Emitted] = []
    said: list[tuple[int, int]] = []
    left = settings.max_new_tokens
    longest = max(map(len, prompts))
    while True:
        step = grammar(runs)
        if isinstance(step, Stop):
            return Answer(runs, step.reason)
        if isinstance(step, Forced):
            runs.append(Emitted("forced", list(step.ids)))
            said += [(id, -1) for id in step.ids]
            continue
        if step.kind == "text" and not left:
            return Answer(runs, "max_new_tokens")
        if longest + len(said) + (step.length or 1) > LIMIT:
            return Answer(runs, "max_length")
        runs.append(Emitted(step.kind))
        while True:
            passes = [full_pass(system, prompt + said)[-1] for prompt in prompts]
            logits = joined(passes, step.allowed, settings) if step.kind == "image" else passes[0]
            sampling, u = settings.sampling(step.kind), random.random()
            if sampling.temperature == 0:
                id, logprob = int(logits.masked_fill(~step.allowed, -torch.inf).argmax()), 0.0
            else:
                p = distribution(logits, step.allowed, sampling)
                id = int(np.searchsorted(np.cumsum(p), u, side="right"))
                logprob = math.log(p[id])
            runs[-1].ids.append(id)
            runs[-1].logprobs.append(logprob)
            said.append((id, len(runs[-1].ids) - 1 if step.kind == "image" else -1))
            left -= step.kind == "text"
            if len(runs[-1].ids) == step.length or id in step.ends:
                break
            if step.length is None and not left:
                return Answer(runs, "max_new_tokens")
            if step.length is None and longest + len(said) >= LIMIT:
                return Answer(runs, "max_length")


def cases(picture: Picture) -> list[tuple[Document, Settings]]:
    """Prompts of every kind, with settings of every kind."""
    drawing = Settings(max_new_tokens=6, image=Sampling(temperature=0.7, top_p=0.8))
    return [
        (Document(["a small dog", DRAWN]), replace(drawing, seed=1)),
        (Document(["a small dog", DRAWN]), replace(drawing, seed=2, guidance=3.0)),
        (Document([picture(0), "a red circle"]), Settings(max_new_tokens=9)),
        (Document("the big"), Settings(max_new_tokens=12, text=Sampling(temperature=1.3, top_p=0.9), seed=3)),
        (Document([Turn("user", [picture(1), "what?"])]), Settings(max_new_tokens=20, text=WARM, seed=4)),
        (Document(["a ", TEXT, " b ", TEXT, picture(2)]), Settings(max_new_tokens=30, text=WARM, seed=38)),
        (Document(DRAWN), replace(drawing, seed=6, guidance=2.0, text=WARM, max_images=2, max_new_tokens=40)),
        (Document([picture(3)]), Settings(max_new_tokens=10, text=WARM, image=WARM, max_images=2, seed=7)),
        (Document([picture(4), "make it red", DRAWN]), replace(drawing, seed=9, guidance=4.0, image_guidance=1.5)),
        (Document(["a dog", DRAWN]), Settings(seed=10, contrast=Contrast(alpha=0.3, k=3), image=Sampling(top_p=0.9))),
        (
            Document([picture(5), "now", DRAWN]),
            Settings(seed=1, guidance=2.0, image_guidance=2.0, contrast=Contrast(alpha=0.1)),
        ),
        (Document(), Settings(max_new_tokens=3, text=WARM, seed=8)),
        (Document("nothing"), Settings(max_new_tokens=0)),
    ]


def ids(reply: Reply | Answer) -> list[tuple[str, list[int]]]:
    return [(run.kind, run.ids) for run in reply.runs]


@pytest.fixture(scope="module", params=["cm3leon", "cm3leon_raster"])
def system(request: pytest.FixtureRequest) -> CM3Leon:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def answers(system: CM3Leon, picture: Picture) -> list[Answer]:
    return [naive(system, document, settings) for document, settings in cases(picture)]


def test_mixed_requests_get_what_a_loop_without_cache_gives(
    system: CM3Leon, picture: Picture, answers: list[Answer]
) -> None:
    documents, settings = zip(*cases(picture), strict=True)
    replies = Engine(system).run(documents, settings)
    for reply, answer in zip(replies, answers, strict=True):
        assert ids(reply) == ids(answer)
        assert reply.stop == answer.stop
        for run, expected in zip(reply.runs, answer.runs, strict=True):
            assert run.logprobs == pytest.approx(expected.logprobs, abs=2e-4)
    assert {"max_images", "max_new_tokens"} <= {reply.stop for reply in replies}
    assert "forced" in {run.kind for reply in replies for run in reply.runs}


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_ids_do_not_depend_on_neighbours_or_on_when_a_request_joined(
    system: CM3Leon, picture: Picture, answers: list[Answer], rows: int
) -> None:
    asked = list(zip(cases(picture), answers, strict=True))
    random = Random(rows)
    random.shuffle(asked)
    engine = Engine(system, rows=rows)
    expected: dict[int, Answer] = {}
    done: dict[int, Reply] = {}
    while asked or engine.busy:
        for _ in range(random.choice([0, 0, 0, 1, 2])):
            if asked:
                (document, settings), answer = asked.pop()
                expected[engine.submit(document, settings)] = answer
        done.update(engine.step())
    assert done.keys() == expected.keys()
    for number, reply in done.items():
        assert (ids(reply), reply.stop) == (ids(expected[number]), expected[number].stop)


@torch.no_grad()
def test_logprobs_are_those_of_one_full_pass(system: CM3Leon, picture: Picture) -> None:
    document = Document(["a dog", picture(0), "and", DRAWN])
    (reply,) = Engine(system).run([document], [Settings(seed=3)])
    (run,) = reply.runs
    prompt = written_out(system, system.layout(document, open=True))
    drawn = [(id, place) for place, id in enumerate(run.ids)]
    logits = full_pass(system, prompt + drawn)[len(prompt) - 1 : -1]
    allowed = system.vocabulary.allow(codes=True)
    logprobs = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
    assert run.logprobs == pytest.approx([float(logprobs[i, id]) for i, id in enumerate(run.ids)], abs=1e-4)


@torch.no_grad()
def test_a_prompt_keeps_its_whole_spans(cm3leon: CM3Leon, picture: Picture) -> None:
    documents = [Document([picture(0), "a red circle"]), Document(["a dog", picture(1), picture(2), "and"])]
    causal = [cm3leon.layout(document, open=True) for document in documents]
    whole = [
        replace(prompt, spans=tuple(replace(span, whole=isinstance(span.fill, Slot)) for span in prompt.spans))
        for prompt in causal
    ]
    read, otherwise = Engine(cm3leon)._read(whole, 0), Engine(cm3leon)._read(causal, 0)
    for i, prompt in enumerate(whole):
        states = cm3leon(cm3leon.format.collator()([[prompt]], shift=False)).states
        torch.testing.assert_close(read[i], states[0, -1], atol=2e-5, rtol=1e-4)
        assert (read[i] - otherwise[i]).abs().max() > 1e-2


def test_guidance_1_and_2_differ_and_text_is_not_guided(cm3leon: CM3Leon) -> None:
    one, two = Engine(cm3leon).run([Document(["a dog", DRAWN])] * 2, [Settings(), Settings(guidance=2.0)])
    assert one.runs[0].ids != two.runs[0].ids
    text = [Settings(guidance=guidance, max_new_tokens=8, text=WARM, max_images=0) for guidance in (1.0, 4.0)]
    plain, guided = Engine(cm3leon).run([Document("a dog")] * 2, text)
    assert ids(plain) == ids(guided)


# --------------------------------------------------------------------------------------------- how it ends


def whole_pictures(reply: Reply) -> int:
    pictures = [run for run in reply.runs if run.kind == "image"]
    assert all(len(run.ids) == N == len(run.logprobs) for run in pictures)
    assert len(pictures) == len(reply.document.images)
    return len(pictures)


def test_a_picture_is_finished_and_its_codes_are_no_text_tokens(cm3leon: CM3Leon) -> None:
    (reply,) = Engine(cm3leon).run([Document(["a dog", DRAWN])], [Settings(max_new_tokens=0)])
    assert whole_pictures(reply) == 1 and reply.stop == "max_images"
    # Text tokens are counted on both sides of pictures: <break> or <eos> behind each of them.
    several = [Settings(max_new_tokens=m, max_images=9, text=WARM, seed=s) for m in range(5) for s in range(4)]
    for reply, settings in zip(Engine(cm3leon).run([Document(["a dog", DRAWN])] * 20, several), several, strict=True):
        assert whole_pictures(reply) >= 1
        said = sum(len(run.ids) for run in reply.runs if run.kind == "text")
        assert said <= settings.max_new_tokens
        assert (reply.stop == "max_new_tokens") == (said == settings.max_new_tokens and reply.stop != "end")


def of_length(system: CM3Leon, length: int, *behind: Blank | Image) -> Document:
    """A prompt of exactly `length` elements."""
    for letters in range(length):
        document = Document(["z" * letters, *behind])
        if len(system.layout(document, open=True)) == length:
            return document
    raise AssertionError(length)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_picture_that_does_not_fit_is_not_begun(cm3leon: CM3Leon, guidance: float) -> None:
    settings = Settings(guidance=guidance)
    for length, pictures, stop in [(LIMIT - N, 1, "max_images"), (LIMIT - N + 1, 0, "max_length")]:
        (reply,) = Engine(cm3leon).run([of_length(cm3leon, length, DRAWN)], [settings])
        assert (whole_pictures(reply), reply.stop) == (pictures, stop)


def test_text_fills_the_positions_and_no_more(cm3leon: CM3Leon) -> None:
    greedy = Settings(max_new_tokens=1000, max_images=0)
    for length in (LIMIT - 1, LIMIT - 40):
        (reply,) = Engine(cm3leon).run([of_length(cm3leon, length)], [greedy])
        said = sum(len(run.ids) for run in reply.runs)
        assert reply.stop == "end" or (reply.stop, length + said) == ("max_length", LIMIT)
    assert reply.stop == "max_length"


def test_pictures_until_the_positions_end(cm3leon: CM3Leon) -> None:
    """Also where the row without the prompt is the longer one."""
    many = [Settings(max_images=99, max_new_tokens=999, guidance=2.0, text=WARM, seed=seed) for seed in range(12)]
    replies = Engine(cm3leon).run([Document(DRAWN)] * 12, many)
    for reply in replies:
        assert whole_pictures(reply) >= 1
        assert 3 + sum(len(run.ids) for run in reply.runs) <= LIMIT
    assert "max_length" in {reply.stop for reply in replies}


def test_each_picture_has_noise_of_its_own(cm3leon: CM3Leon) -> None:
    settings = [Settings(seed=seed, max_images=3, max_new_tokens=20) for seed in (1, 2, 1)]
    replies = Engine(cm3leon).run([Document([Blank("image")])] * 3, settings)
    seeds = [[run.seed for run in reply.runs if run.kind == "image"] for reply in replies]
    assert seeds[0] == seeds[2] and len({*seeds[0], *seeds[1]}) == len(seeds[0]) + len(seeds[1]) >= 2


def test_every_stop_has_its_reason(cm3leon: CM3Leon, picture: Picture) -> None:
    voc = cm3leon.vocabulary
    asked = Document([Turn("user", [picture(1), "what?"])])
    some = [Settings(max_new_tokens=25, text=WARM, seed=seed) for seed in range(24)]
    for document, reason, symbol in [(asked, "filled", voc.eoss), (Document(picture(0)), "end", voc.eos)]:
        replies = Engine(cm3leon).run([document] * 24, some)
        assert {reason, "max_new_tokens"} <= {reply.stop for reply in replies}
        for reply in replies:
            assert (reply.stop == reason) == (reply.runs[-1].ids[-1] == symbol)


def test_a_blank_cut_short_is_not_filled(cm3leon: CM3Leon) -> None:
    some = [Settings(max_new_tokens=1, text=WARM, seed=seed) for seed in range(8)]
    replies = Engine(cm3leon).run([Document(["a ", TEXT, " b ", TEXT])] * 8, some)
    cut = [reply for reply in replies if reply.runs[0].ids != [cm3leon.vocabulary.eoss]]
    assert cut and all(len(reply.runs) == 1 for reply in cut)
    assert {reply.stop for reply in replies} == {"max_new_tokens"}


def test_a_request_that_asks_for_nothing_ends_at_once(cm3leon: CM3Leon) -> None:
    engine = Engine(cm3leon, rows=1)
    numbers = [engine.submit(Document("a"), Settings(max_new_tokens=n)) for n in (0, 2, 0)]
    ended = []
    while engine.busy:
        ended += engine.step()
    assert sorted(number for number, _ in ended) == numbers
    assert [len(dict(ended)[number].runs) for number in numbers] == [0, 1, 0]


def test_a_reply_is_a_document(cm3leon: CM3Leon) -> None:
    settings = Settings(max_new_tokens=40, max_images=2, text=WARM, seed=5)
    (reply,) = Engine(cm3leon).run([Document(["a dog", DRAWN])], [settings])
    first = next(iter(reply))
    assert isinstance(first, Image) and first.open().size == (8, 8)
    texts = [cm3leon.format.read_text(run) for run in reply.runs if run.kind == "text"]
    assert [piece.text for piece in reply if isinstance(piece, Text)] == [text for text in texts if text]
    assert reply.text == "".join(texts)


# ------------------------------------------------------------------------------ what is not said again or too soon


def ruled() -> list[Settings]:
    """Requests of which each asks for something else, or for nothing."""
    rules = [
        Sampling(temperature=1.5),
        Sampling(temperature=1.5, top_k=4),
        Sampling(temperature=1.5, repetition_penalty=3.0, top_k=0),
        Sampling(temperature=0.0, repetition_penalty=1.5),
        Sampling(temperature=0.0, no_repeat_ngram=1),
        Sampling(temperature=1.5, no_repeat_ngram=2, top_p=0.7),
        Sampling(temperature=1.5, min_new_tokens=25),
    ]
    return [Settings(max_new_tokens=30, max_images=1, text=text, seed=seed) for seed, text in enumerate(rules)]


def test_rules_hold_beside_requests_without_them(cm3leon: CM3Leon, picture: Picture) -> None:
    document = Document([Turn("user", [picture(1), "what?"])])
    alone = [Engine(cm3leon).run([document], [settings])[0] for settings in ruled()]
    engine = Engine(cm3leon, rows=4)  # they join and leave in the midst of each other
    together = engine.run([document] * len(alone), ruled())
    assert [ids(reply) for reply in together] == [ids(reply) for reply in alone]
    said = [reply.runs[0].ids for reply in together]
    assert len(set(said[4])) == len(said[4]) > 5
    pairs = list(pairwise(said[5]))
    assert len(set(pairs)) == len(pairs) > 5
    assert len(said[6]) >= 25


def test_text_does_not_end_too_soon(cm3leon: CM3Leon, picture: Picture) -> None:
    document = Document([Turn("user", [picture(1), "what?"])])
    soon = [Settings(max_new_tokens=12, text=WARM, seed=seed) for seed in range(16)]
    late = [replace(settings, text=Sampling(min_new_tokens=10)) for settings in soon]
    replies = Engine(cm3leon).run([document] * 32, soon + late)
    lengths = [len(reply.runs[0].ids) for reply in replies]
    assert min(lengths[:16]) <= 10 < min(lengths[16:])  # the end comes behind 10
    blanks = Document(["a ", TEXT, " b ", TEXT])  # the first filling may be all of it, or leave some for the second
    replies = Engine(cm3leon).run([blanks] * 16, late)
    assert min(len(reply.runs[0].ids) for reply in replies) > 10


def test_ids_that_count_as_said(cm3leon: CM3Leon) -> None:
    settings = Settings(max_new_tokens=4, text=Sampling(temperature=0, no_repeat_ngram=1), max_images=0)
    (reply,) = Engine(cm3leon).run([Document("a dog")], [settings])
    first = reply.runs[0].ids[0]
    (other,) = Engine(cm3leon).run([Document("a dog")], [replace(settings, said=(first,))])
    assert first not in other.runs[0].ids


def test_stop_sequences(cm3leon: CM3Leon) -> None:
    settings = Settings(max_new_tokens=20, text=WARM, seed=11, max_images=0)
    (whole,) = Engine(cm3leon).run([Document("a")], [settings])
    said = whole.runs[0].ids
    assert len(said) >= 4
    stops: list[tuple[str | tuple[int, ...], ...]] = [((said[2], said[1]), tuple(said[1:3])), (tuple(said[:4]),)]
    text = cm3leon.format.text.decode([said[1] - cm3leon.vocabulary.first_text])
    if cm3leon.format.text_ids(text) == (said[1],):
        stops.append((text,))
    for stop, length in zip(stops, (3, 4, 2), strict=False):
        (reply,) = Engine(cm3leon).run([Document("a")], [replace(settings, stop=stop)])
        assert (reply.stop, reply.runs[0].ids) == ("stop_sequence", said[:length])
    assert Settings(stop="a c").stops(cm3leon.format) == Settings(stop=("a c",)).stops(cm3leon.format)
    for empty in ("", ("",), ((1,), ())):
        with pytest.raises(ConfigError, match="an empty sequence would end every reply"):
            Settings(stop=empty)
    with pytest.raises(ConfigError, match="this system does not say which ids '#' is: give ids"):
        Format.text_ids(cm3leon.format, "#")


# --------------------------------------------------------------------------------------- coming and going


def test_cancelled_requests_leave_the_others_as_they_are(
    system: CM3Leon, picture: Picture, answers: list[Answer]
) -> None:
    engine = Engine(system, rows=6)
    numbers = [engine.submit(document, settings) for document, settings in cases(picture)]
    dropped = {numbers[i] for i in (0, 2, 8)}  # running, and one that still waits
    done: dict[int, Reply] = {}
    for _ in range(3):
        done.update(engine.step())
    for number in [*dropped, 99]:
        engine.cancel(number)
    while engine.busy:
        done.update(engine.step())
    assert done.keys() == set(numbers) - dropped
    assert all(ids(done[n]) == ids(answers[n]) for n in done)
    engine.cancel(numbers[1])  # it has ended
    assert engine.step() == []


def test_requests_wait_for_room(cm3leon: CM3Leon) -> None:
    engine = Engine(cm3leon, rows=3)
    settings = [Settings(guidance=2.0, seed=seed) for seed in range(3)]
    replies = engine.run([Document(["a", DRAWN])] * 3, settings)  # two rows each: one at a time
    alone = [Engine(cm3leon).run([Document(["a", DRAWN])], [one])[0] for one in settings]
    assert [ids(reply) for reply in replies] == [ids(reply) for reply in alone]


def test_what_cannot_run_is_refused_when_it_is_submitted(cm3leon: CM3Leon) -> None:
    engine = Engine(cm3leon, rows=1)
    with pytest.raises(InputError, match=f"a prompt of {LIMIT} elements, at most {LIMIT - 1} fit"):
        engine.submit(of_length(cm3leon, LIMIT))
    with pytest.raises(InputError, match="a request of 2 rows in an engine of 1"):
        engine.submit(Document(["a", DRAWN]), Settings(guidance=2.0))
    with pytest.raises(ImageError, match="no picture"):
        engine.submit(Document(["a", Image(b"nonsense")]))
    with pytest.raises(DocumentError, match="5 blanks but 4 sentinels"):
        engine.submit(Document([TEXT] * 5))
    assert not engine.busy and engine.step() == []
