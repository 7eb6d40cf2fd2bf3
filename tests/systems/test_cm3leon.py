from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plait.config import to_plain
from plait.document import Blank, Document, Image, Turn, Video
from plait.errors import ConfigError, DocumentError
from plait.sequence import OWN_INPUT, Sequence, Slot
from plait.systems.base import Contrast, Emitted, Forced, Grammar, Guidance, Next, Stop
from plait.systems.cm3leon import (
    CM3LEON_7B,
    CM3LEON_350M,
    CM3LEON_760M,
    CM3Leon,
    CM3LeonConfig,
    CM3LeonFormat,
    Vocabulary,
)
from plait.text.bpe import BPE
from plait.text.tasks import TASKS

Picture = Callable[[int], Image]
TEXT, DRAWN = Blank("text"), Blank("image")


def shown(format: CM3LeonFormat, sequence: Sequence) -> str:
    """A sequence in words: `<i>` is sentinel i, `[n]` are n elements of a picture."""
    voc = format.vocabulary
    names = {voc.eos: "<eos>", voc.brk: "<break>", voc.eoss: "<eoss>"}
    names |= {voc.first_sentinel + i: f"<{i}>" for i in range(voc.sentinels)}
    parts = []
    for kind, ids in groupby(sequence.ids().tolist(), lambda id: "text" if id >= voc.first_text else id):
        run = list(ids)
        if kind == "text":
            parts.append(format.text.decode([id - voc.first_text for id in run]))
        else:
            parts += [f"[{len(run)}]"] if kind == -1 else [names[id] for id in run]
    return "|".join(parts)


def talk(*said: object) -> Document:
    """Turns of user and assistant in alternation."""
    return Document([Turn("assistant" if i % 2 else "user", what) for i, what in enumerate(said)])  # type: ignore[arg-type]


@pytest.fixture
def format(cm3leon: CM3Leon) -> CM3LeonFormat:
    return cm3leon.format  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------- vocabulary


def test_ids_stand_in_the_order_of_chameleon() -> None:
    voc = CM3LEON_350M.vocabulary
    assert (voc.pad, voc.eos, voc.first_code, voc.eoss, voc.brk) == (1, 2, 4, 8196, 8197)
    assert (voc.first_sentinel, voc.first_text, len(voc)) == (8198, 9216, 65_536)


def test_what_may_be_drawn() -> None:
    voc = Vocabulary(codes=3, sentinels=2, text_tokens=4)  # 0-3, codes 4-6, eoss 7, break 8, 9-10, text 11-14
    assert voc.allow(2, 8).nonzero().flatten().tolist() == [2, 8]
    assert voc.allow(codes=True).nonzero().flatten().tolist() == [4, 5, 6]
    assert voc.allow(7, text=4).nonzero().flatten().tolist() == [7, 11, 12, 13, 14]
    assert voc.allow(7, text=2).nonzero().flatten().tolist() == [7, 11, 12]  # a BPE that fills half of its ids
    apart = Vocabulary(codes=3, sentinels=2, reserved=5, text_tokens=4)
    assert (apart.first_text, len(apart)) == (16, 20)
    assert apart.allow(text=4).nonzero().flatten().tolist() == [16, 17, 18, 19]


# -------------------------------------------------------------------------------------------------- layout


def test_whole_documents(format: CM3LeonFormat, picture: Picture) -> None:
    a, b, c = (picture(i) for i in range(3))
    for document, expected in [
        (Document(["a dog", a]), "<eos>|a dog|<break>|[16]|<eos>"),
        (Document([a, "a dog"]), "<eos>|[16]|<break>|a dog|<eos>"),
        (Document(["a ", "dog"]), "<eos>|a dog|<eos>"),
        (Document(a), "<eos>|[16]|<eos>"),
        (Document(), "<eos>|<eos>"),
        (
            Document(["one", a, "two", b, c, "end"]),
            "<eos>|one|<break>|[16]|<break>|two|<break>|[16]|<break>|[16]|<break>|end|<eos>",
        ),
    ]:
        assert shown(format, format.layout(document)) == expected


def test_text_answers_are_masked_and_filled_in_behind_the_end(format: CM3LeonFormat, picture: Picture) -> None:
    a, b = picture(0), picture(1)
    for document, expected in [
        (talk([a, "what?"], "a cat"), "<eos>|what?|<0>|<break>|[16]|<eos>|<0>|a cat|<eoss>"),
        (
            talk(["what?", a], "a cat", [b, "and this?"], "a dog"),
            "<eos>|what?|<0>|\nand this?|<1>|<break>|[16]|<break>|[16]|<eos>|<0>|a cat|<eoss>|<1>|a dog|<eoss>",
        ),
        (
            Document([Turn("system", "Be short."), Turn("user", "why?"), Turn("assistant", "so")]),
            "<eos>|Be short.\nwhy?|<0>|<eos>|<0>|so|<eoss>",
        ),
    ]:
        assert shown(format, format.layout(document)) == expected


def test_an_answer_with_a_picture_stands_where_it_is_said(format: CM3LeonFormat, picture: Picture) -> None:
    a, b = picture(0), picture(1)
    assert shown(format, format.layout(talk("draw a cat", a))) == "<eos>|draw a cat|<break>|[16]|<eos>"
    edited = talk([a, "make it red"], b)
    assert shown(format, format.layout(edited)) == "<eos>|[16]|<break>|make it red|<break>|[16]|<eos>"
    again = Document([*edited.turns, Turn("user", "now"), Turn("assistant", ["so", picture(2)])])
    assert shown(format, format.layout(again)).endswith("<break>|now\nso|<break>|[16]|<eos>")


def test_an_answer_that_begins_with_words_and_draws_then(format: CM3LeonFormat, picture: Picture) -> None:
    a, b = picture(0), picture(1)
    for asked, begun in (
        ([a, "make it red"], "<eos>|[16]|<break>|make it red\n"),
        (["red", a], "<eos>|red|<break>|[16]"),
    ):
        prompt = Document([Turn("user", asked), Turn("assistant", [])])
        assert shown(format, format.layout(prompt, open=True)) == begun
        whole = Document([Turn("user", asked), Turn("assistant", ["a red one", b])])
        assert shown(format, format.layout(whole)).startswith(begun)
    with pytest.raises(DocumentError, match="leave nothing to say: end with a question"):
        format.layout(Document([Turn("assistant", [])]), open=True)
    assert shown(format, format.layout(talk([a, "red?"], []), open=True)) == "<eos>|[16]|<break>|red?\n"
    assert shown(format, format.layout(talk([a, "red?"], []))) == "<eos>|red?|<0>|<break>|[16]|<eos>|<0>|<eoss>"


def test_prompts(format: CM3LeonFormat, picture: Picture) -> None:
    a = picture(0)
    for document, expected in [
        (Document(), "<eos>"),
        (Document("a dog"), "<eos>|a dog"),
        (Document(["a dog", a]), "<eos>|a dog|<break>|[16]"),
        (Document(["a dog", DRAWN]), "<eos>|a dog|<break>"),
        (Document(DRAWN), "<eos>"),
        (Document([TEXT, DRAWN]), "<eos>|<0>|<break>"),
        (Document(["a ", TEXT, " dog", DRAWN]), "<eos>|a |<0>| dog|<break>"),
        (Document([a, "like this", DRAWN]), "<eos>|[16]|<break>|like this|<break>"),
        (Document([TEXT, a]), "<eos>|<0>|<break>|[16]|<eos>|<0>"),
        (Document(["a ", TEXT, " dog ", TEXT, a]), "<eos>|a |<0>| dog |<1>|<break>|[16]|<eos>|<0>"),
        (talk([a, "what?"]), "<eos>|what?|<0>|<break>|[16]|<eos>|<0>"),
        (talk("one?", "yes", "two?"), "<eos>|one?|<0>|\ntwo?|<1>|<eos>|<0>|yes|<eoss>|<1>"),
        (talk("draw a cat", DRAWN), "<eos>|draw a cat|<break>"),
    ]:
        assert shown(format, format.layout(document, open=True)) == expected


def test_a_prompt_is_how_the_whole_document_begins(format: CM3LeonFormat, picture: Picture) -> None:
    a, b = picture(0), picture(1)
    for prompt, document in [
        (Document(["a dog", DRAWN]), Document(["a dog", a])),
        (Document(["a", b, "c"]), Document(["a", b, "c", a])),
        (talk("one?", "yes", ["two?", a]), talk("one?", "yes", ["two?", a], "no")),
        (talk([a, "draw"], DRAWN), talk([a, "draw"], b)),
    ]:
        asked, told = format.layout(prompt, open=True), format.layout(document)
        assert told.ids()[: len(asked)].tolist() == asked.ids().tolist()


def weights(sequence: Sequence) -> list[tuple[int, float]]:
    """Runs of elements of one weight; each is predicted as what it is."""
    each: list[float] = []
    for span in sequence.spans:
        assert len(span.targets) < 2 and not span.whole
        for target in span.targets:
            if isinstance(span.fill, Slot):
                assert target.kind == "code" and target.value is OWN_INPUT
            else:
                assert target.kind == "token" and target.value is not None
                assert target.value.tolist() == span.fill.tolist()
        each += span.targets[0].weight.tolist() if span.targets else [0.0] * span.length
    assert len(each) == len(sequence)
    return [(len(list(run)), weight) for weight, run in groupby(each)]


def test_every_element_but_a_sentinel_is_predicted(format: CM3LeonFormat, picture: Picture) -> None:
    what, cat, so, joined = (len(format.text.encode(text)) for text in ("what?", "a cat", "so", "\nand?"))
    asked = format.layout(talk([picture(0), "what?"], "a cat", "and?", "so"))
    # eos what? <0> \nand? <1> break picture eos <0> a cat eoss <1> so eoss
    kept = [1 + what, joined, 1 + 16 + 1, cat + 1, so + 1]
    assert [n for n, weight in weights(asked) if weight] == kept
    assert [(n, weight) for n, weight in weights(asked) if weight != 1] == [(1, 0.0)] * 4


def test_what_an_answer_is_about_has_a_weight_of_its_own(
    cm3leon_config: CM3LeonConfig, bpe: BPE, picture: Picture
) -> None:
    format = CM3LeonFormat(replace(cm3leon_config, asked_weight=0.25), bpe)
    what, cat = (len(bpe.encode(text)) for text in ("what?", "a cat"))
    asked = talk([picture(0), "what?"], "a cat")  # eos what? <0> break picture eos <0> a cat eoss
    assert weights(format.layout(asked)) == [
        (1, 1.0),
        (what, 0.25),
        (1, 0.0),
        (17, 0.25),
        (1, 1.0),
        (1, 0.0),
        (cat + 1, 1.0),
    ]
    unasked = Document(["a dog", picture(0)])
    assert weights(format.layout(unasked)) == [(len(format.layout(unasked)), 1.0)]
    format = CM3LeonFormat(replace(cm3leon_config, asked_weight=0.0), bpe)
    assert weights(format.layout(asked)) == [(1, 1.0), (what + 18, 0.0), (1, 1.0), (1, 0.0), (cat + 1, 1.0)]


def test_what_has_no_layout_is_refused(format: CM3LeonFormat, picture: Picture) -> None:
    a = picture(0)
    for document, open, message in [
        (Document(["see", Video((a,))]), False, "reads no video"),
        (Document(["a", DRAWN, "b"]), True, "piece 2 of 3 is a blank picture"),
        (Document([TEXT] * 5), True, "5 blanks but 4 sentinels"),
        (Document(["a", TEXT]), False, "1 blanks but 0 answers"),
        (Document(["a", DRAWN]), False, "1 blanks but 0 answers"),
        (talk("one?", "yes"), True, "1 blanks and 1 answers leave nothing to say"),
    ]:
        with pytest.raises(DocumentError, match=message):
            format.layout(document, open=open)


def test_a_conversation_may_end_with_a_question_that_nobody_answers(format: CM3LeonFormat) -> None:
    whole = format.layout(talk("one?", "yes", "two?"))
    assert shown(format, whole) == "<eos>|one?|<0>|\ntwo?|<eos>|<0>|yes|<eoss>"


def test_tasks_are_laid_out_as_published(format: CM3LeonFormat, picture: Picture) -> None:
    """Table 5, with <break> at each change of modality; answers in words as the filling of a blank."""
    a, b = picture(0), picture(1)
    edit, edges, vqa, caption = (TASKS[name][0] for name in ("edit", "from-edges", "vqa", "caption"))
    edited = {"before": a, "instruction": "make it red", "after": b}
    drawn = {"features": a, "caption": "a dog", "image": b}
    asked = {"question": "what is it?", "answer": "a cat", "image": a}
    first = "<eos>|Edit first image following the instruction|<break>|[16]|<break>|make it red|<break>"
    made = "<eos>|Make high quality image from canny edge features|<break>|[16]|<break>|a dog|<break>"
    question = "<eos>|Question: what is it? Answer: |<0>|<break>|[16]|<eos>|<0>"
    for document, expected in [
        (edit.asked(edited), f"{first}|[16]|<eos>"),
        (edges.asked(drawn), f"{made}|[16]|<eos>"),
        (TASKS["write"][0].asked({"words": "hi", "image": a}), '<eos>|draw "hi"|<break>|[16]|<eos>'),
        (vqa.document(asked), "<eos>|Question: what is it? Answer: a cat.|<break>|[16]|<eos>"),
        (vqa.asked(asked), f"{question}|a cat.|<eoss>"),
        (caption.asked({"caption": "a cat", "image": a}), "<eos>|<0>|<break>|[16]|<eos>|<0>|a cat|<eoss>"),
    ]:
        assert shown(format, format.layout(document)) == expected
    for prompt, expected in [
        (edit.prompt(edited), first),
        (edges.prompt(drawn), made),
        (vqa.prompt(asked), question),
    ]:
        assert shown(format, format.layout(prompt, open=True)) == expected


def test_every_element_of_a_task_that_is_drawn_has_the_weight_of_cm3(
    cm3leon_config: CM3LeonConfig, bpe: BPE, picture: Picture
) -> None:
    edited = TASKS["edit"][0].asked({"before": picture(0), "instruction": "make it red", "after": picture(1)})
    laid = CM3LeonFormat(cm3leon_config, bpe).layout(edited)
    assert weights(laid) == [(len(laid), 1.0)]
    assert {target.kind for span in laid.spans for target in span.targets} == {"token", "code"}


def test_what_a_picture_answers_has_a_weight_of_its_own_too(
    cm3leon_config: CM3LeonConfig, bpe: BPE, picture: Picture
) -> None:
    format = CM3LeonFormat(replace(cm3leon_config, asked_weight=0.25), bpe)
    laid = format.layout(talk([picture(0), "make it red"], picture(1)))  # eos picture break text break picture eos
    assert weights(laid) == [(1, 1.0), (16 + 1 + len(bpe.encode("make it red")), 0.25), (1 + 16 + 1, 1.0)]


def test_a_conversation_on_several_pictures(format: CM3LeonFormat, picture: Picture) -> None:
    a, b = picture(0), picture(1)
    vqa = TASKS["vqa"][1]
    turns = [
        turn
        for image, question, answer in ((a, "what?", "a cat"), (b, "and this?", "a dog"))
        for turn in vqa.asked({"image": image, "question": question, "answer": answer}).turns
    ]
    told = shown(format, format.layout(Document(turns)))
    assert told == (
        "<eos>|Question: what? \n |<0>|\nQuestion: and this? \n |<1>|<break>|[16]|<break>|[16]|<eos>"
        "|<0>|a cat|<eoss>|<1>|a dog|<eoss>"
    )


# ------------------------------------------------------------------------------------------------- grammar


def allowed(format: CM3LeonFormat, step: Next) -> str:
    """What may be drawn, in words."""
    voc = format.vocabulary
    ids = set(step.allowed.nonzero().flatten().tolist())
    parts = []
    for name, some in [
        ("codes", range(voc.first_code, voc.eoss)),
        ("text", range(voc.first_text, voc.first_text + len(format.text))),
    ]:
        if ids & set(some):
            assert set(some) <= ids
            parts.append(name)
            ids -= set(some)
    names = {voc.eos: "eos", voc.brk: "break", voc.eoss: "eoss"}
    assert step.ends == frozenset(ids)
    return " ".join([*parts, *sorted(names[id] for id in ids)])


def walk(format: CM3LeonFormat, grammar: Grammar, *says: str) -> list[str]:
    """What the grammar asks for, run by run, when the model says: "text eos", "text break", "break", "codes", ..."""
    voc, said, emitted, steps = format.vocabulary, list(says), [], []
    while True:
        step = grammar(emitted)
        if isinstance(step, Stop):
            assert not said
            return [*steps, f"stop: {step.reason}"]
        if isinstance(step, Forced):
            steps.append("forced: " + ",".join(str(id - voc.first_sentinel) for id in step.ids))
            emitted.append(Emitted("forced", list(step.ids)))
            continue
        steps.append(f"{step.kind}: {allowed(format, step)}")
        assert (step.length == 16 and step.head == "code") if step.kind == "image" else step.length is None
        ids: list[int] = []
        for word in said.pop(0).split():
            named = {"text": [voc.first_text], "codes": [voc.first_code] * 16}
            ids += named.get(word) or [{"eos": voc.eos, "break": voc.brk, "eoss": voc.eoss}[word]]
        assert all(step.allowed[id] for id in ids)
        assert step.length == len(ids) or (ids[-1] in step.ends and not set(ids[:-1]) & step.ends)
        emitted.append(Emitted(step.kind, ids))


def test_text_to_image(format: CM3LeonFormat) -> None:
    asked = Document(["a dog", DRAWN])
    assert walk(format, format.grammar(asked, 1), "codes") == ["image: codes", "stop: max_images"]
    # The model may also go on with the text itself, and say <break> when it is time to draw.
    said = walk(format, format.grammar(Document("a dog"), 1), "text break", "codes")
    assert said == ["text: text break eos", "image: codes", "stop: max_images"]
    assert walk(format, format.grammar(Document("a dog"), 1), "break", "codes")[1:] == said[1:]


def test_an_unconditional_picture(format: CM3LeonFormat) -> None:
    for asked in (Document(DRAWN), Document([TEXT, DRAWN])):
        assert walk(format, format.grammar(asked, 1), "codes") == ["image: codes", "stop: max_images"]


def test_no_pictures_wanted(format: CM3LeonFormat, picture: Picture) -> None:
    assert walk(format, format.grammar(Document("a dog"), 0), "text eos") == ["text: text eos", "stop: end"]
    assert walk(format, format.grammar(Document(["a", DRAWN]), 0)) == ["stop: max_images"]
    described = walk(format, format.grammar(Document(picture(0)), 0), "break", "text eos")
    assert described == ["text: break eos", "text: text eos", "stop: end"]


def test_text_behind_a_picture(format: CM3LeonFormat, picture: Picture) -> None:
    grammar = format.grammar(Document(["a", picture(0)]), 1)
    assert walk(format, grammar, "eos") == ["text: break eos", "stop: end"]
    assert walk(format, grammar, "break", "text break", "codes") == [
        "text: break eos",
        "text: text break eos",
        "image: codes",
        "stop: max_images",
    ]


def test_several_pictures_in_a_stream(format: CM3LeonFormat) -> None:
    drawn = walk(format, format.grammar(Document("a"), 2), "text break", "codes", "break", "text break", "codes")
    assert drawn == [
        "text: text break eos",
        "image: codes",
        "text: break eos",
        "text: text break eos",
        "image: codes",
        "stop: max_images",
    ]
    ended = walk(format, format.grammar(Document(["a", DRAWN]), 2), "codes", "break", "text eos")
    assert ended == ["image: codes", "text: break eos", "text: text break eos", "stop: end"]
    # Between two pictures without text stand two <break>: out of the first, and into the second.
    beside = walk(format, format.grammar(Document(["a", DRAWN]), 2), "codes", "break", "break", "codes")
    assert beside[-2:] == ["image: codes", "stop: max_images"]


def test_image_to_text_and_blanks(format: CM3LeonFormat, picture: Picture) -> None:
    one = walk(format, format.grammar(talk([picture(0), "what?"]), 1), "text eoss")
    assert one == ["text: text eoss", "stop: filled"]
    asked = Document([TEXT, " a ", TEXT, " b ", TEXT, picture(0)])
    assert walk(format, format.grammar(asked, 1), "text eoss", "eoss", "text text eoss") == [
        "text: text eoss",
        "forced: 1",
        "text: text eoss",
        "forced: 2",
        "text: text eoss",
        "stop: filled",
    ]
    second = walk(format, format.grammar(talk("one?", "yes", "two?"), 1), "text eoss")
    assert second == ["text: text eoss", "stop: filled"]


def rows(format: CM3LeonFormat, document: Document, **guidance: Any) -> list[str]:
    return [shown(format, row) for row in format.streams(document, Guidance(**guidance)).rows]


def test_streams(format: CM3LeonFormat, picture: Picture) -> None:
    drawing = Document(["a dog", DRAWN])
    assert rows(format, drawing) == ["<eos>|a dog|<break>"]
    assert rows(format, drawing, scale=3.0) == ["<eos>|a dog|<break>", "<eos>|<0>|<break>"]
    assert rows(format, drawing, contrast=Contrast(alpha=0.1)) == ["<eos>|a dog|<break>", "<eos>|<0>|<break>"]
    # Here the model itself says <break>, in both rows.
    assert rows(format, Document("a dog"), scale=3.0) == ["<eos>|a dog", "<eos>|<0>"]


def test_rows_of_pictures_alone(format: CM3LeonFormat, picture: Picture) -> None:
    a, b = picture(0), picture(1)
    for pieces, expected in [
        ([a, "make it red", DRAWN], "<eos>|[16]|<break>|<0>|<break>"),
        (["edit", a, "make it red", DRAWN], "<eos>|<0>|<break>|[16]|<break>"),
        ([a, "one", b, "two", DRAWN], "<eos>|[16]|<break>|<0>|<break>|[16]|<break>"),
        ([a, DRAWN], "<eos>|<0>|<break>|[16]|<break>"),
        ([a, "make it red"], "<eos>|[16]|<break>|<0>"),
        (["make it red", a], "<eos>|<0>|<break>|[16]"),
    ]:
        full, alone, nothing = rows(format, Document(pieces), scale=7.5, image=1.5)
        assert full == shown(format, format.layout(Document(pieces), open=True))
        assert (alone, nothing) == (expected, "<eos>|<0>|<break>" if pieces[-1] == DRAWN else "<eos>|<0>")
    with pytest.raises(DocumentError, match="image_guidance for a prompt of 0 pictures: leave it out"):
        rows(format, Document(["a dog", DRAWN]), image=1.5)


def test_documents_before_another_stand_in_front(format: CM3LeonFormat, picture: Picture) -> None:
    pair, words, said = Document(["one", picture(0)]), Document("two"), talk([picture(1), "three?"], "yes")
    front = "<eos>|one|<break>|[16]|<break>|two|<break>|[16]|<break>|three?\nyes|<break>|"
    before = [pair, words, said]
    own = Document(["a dog", picture(2)]).behind(before)
    assert shown(format, format.layout(own)) == f"{front}a dog|<break>|[16]|<eos>"
    asked = talk([picture(2), "what?"], "a dog").behind(before)
    assert shown(format, format.layout(asked)) == f"{front}what?|<0>|<break>|[16]|<eos>|<0>|a dog|<eoss>"
    streams = format.streams(Document(["a dog", DRAWN]).behind(before), Guidance(scale=3.0))
    assert [shown(format, row) for row in streams.rows] == [f"{front}a dog|<break>", f"{front}<0>|<break>"]
    free = format.streams(Document("a dog").behind(before), Guidance(scale=3.0))
    assert [shown(format, row) for row in free.rows] == [f"{front}a dog", f"{front}<0>"]


def test_documents_before_another_have_their_own_weight(cm3leon_config: CM3LeonConfig, bpe: BPE) -> None:
    format = CM3LeonFormat(replace(cm3leon_config, retrieved_weight=0.1), bpe)
    document = Document("dog").behind([Document("cat")])
    sequence = format.layout(document)
    weights = np.concatenate([target.weight for span in sequence.spans for target in span.targets])
    n = len(format.text.encode("cat")) + 1  # with <break>
    np.testing.assert_allclose(weights, [1, *[0.1] * n, *[1] * (len(weights) - n - 1)])


def test_the_text_of_a_run_is_without_symbols(format: CM3LeonFormat) -> None:
    voc = format.vocabulary
    ids = [voc.first_text + id for id in format.text.encode("a dög")]
    assert format.read_text(Emitted("text", [*ids, voc.eoss])) == "a dög"


def test_a_format_can_be_pickled(format: CM3LeonFormat) -> None:
    again = pickle.loads(pickle.dumps(format))
    assert again.layout(Document("a dog")).ids().tolist() == format.layout(Document("a dog")).ids().tolist()


def test_a_text_vocabulary_that_is_too_large_is_refused(cm3leon_config: CM3LeonConfig, bpe: BPE) -> None:
    with pytest.raises(ConfigError, match="270 tokens for text_tokens = 269"):
        CM3LeonFormat(replace(cm3leon_config, text_tokens=269), bpe)
    with pytest.raises(ConfigError, match="width 32 does not divide into 5 heads"):
        replace(cm3leon_config, heads=5)


# -------------------------------------------------------------------------------------------------- weights


def test_initial_weights_are_those_of_metaseq(cm3leon_config: CM3LeonConfig, bpe: BPE) -> None:
    torch.manual_seed(0)
    config = replace(cm3leon_config, width=64, init_std=0.006, position_std=0.0002)
    system = CM3Leon(config, bpe)
    voc = system.vocabulary
    for block in system.decoder.blocks:
        assert block.attention.out.weight.eq(0).all() and block.mlp.out.weight.eq(0).all()
        for weight in (block.attention.qkv.weight, block.mlp.hidden.weight):
            assert weight.abs().max() <= 3 * 0.006 and weight.std().item() == pytest.approx(0.006, rel=0.05)
    assert system.embed.weight[voc.pad].eq(0).all() and system.positions.weight[1].eq(0).all()
    assert system.embed.weight.abs().max() <= 3 * 0.006
    assert system.embed.weight.std().item() == pytest.approx(0.006, rel=0.05)
    assert system.positions.weight.shape == (162, 64)
    assert system.positions.weight.std().item() == pytest.approx(0.0002, rel=0.05)


def test_no_biases_no_norm_weights_and_one_table(cm3leon: CM3Leon) -> None:
    keys = [key for key in cm3leon.state_dict() if not key.startswith("image_tokenizer.")]
    kept = ["attention.qkv.weight", "attention.out.weight", "mlp.hidden.weight", "mlp.out.weight"]
    blocks = [f"decoder.blocks.{i}.{name}" for i in range(2) for name in kept]
    assert keys == ["embed.weight", "positions.weight", *blocks]
    assert set(cm3leon.parts) == {"image_tokenizer", "embed", "positions", "decoder"}
    assert sum(part.parameters for part in cm3leon.parts.values()) == sum(p.numel() for p in cm3leon.parameters())


@pytest.mark.parametrize(
    ("config", "decoder", "total"),
    [(CM3LEON_350M, 302.0, 373.3), (CM3LEON_760M, 679.5, 786.4), (CM3LEON_7B, 6442.5, 6727.7)],
)
def test_published_sizes(config: CM3LeonConfig, decoder: float, total: float, bpe: BPE) -> None:
    """In millions; the totals are those of a vocabulary of 65,536."""
    with torch.device("meta"):
        system = CM3Leon(config, bpe)
    parts = {name: part.parameters / 1e6 for name, part in system.parts.items()}
    assert round(parts["decoder"], 1) == decoder
    assert round(parts["decoder"] + parts["embed"] + parts["positions"], 1) == total
    assert all(p.is_meta for p in system.parameters())


# -------------------------------------------------------------------------------------------------- forward


def plain_forward(system: CM3Leon, elements: list[tuple[int, int]]) -> Tensor:
    """(t, c) last hidden states of one document of ids and places in pictures, written out operation by operation."""
    ids, places = (list(x) for x in zip(*elements, strict=True))
    x = system.embed.weight[ids] + system.positions.weight[2 : 2 + len(ids)]
    if system.places is not None:
        x = x + system.places.weight[[place + 1 for place in places]]
    t, width = x.shape
    norm = lambda y: torch.nn.functional.layer_norm(y, (width,))  # noqa: E731
    for block in system.decoder.blocks:
        q, k, v = (norm(x) @ block.attention.qkv.weight.T).view(t, 3, 2, width // 2).permute(1, 2, 0, 3)
        score = (q @ k.transpose(1, 2)) / (width // 2) ** 0.5
        score = score.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -torch.inf)
        x = x + (score.softmax(-1) @ v).transpose(0, 1).reshape(t, width) @ block.attention.out.weight.T
        x = x + (norm(x) @ block.mlp.hidden.weight.T).relu() @ block.mlp.out.weight.T
    return norm(x)


def written_out(system: CM3Leon, sequence: Sequence) -> list[tuple[int, int]]:
    """The ids of a sequence, with the codes of its pictures, each with its place in the picture or -1."""
    out: list[tuple[int, int]] = []
    for span in sequence.spans:
        if isinstance(span.fill, Slot):
            pixels = system.format.preprocess()["vqgan"](span.fill.image)
            codes = system.codes(torch.from_numpy(pixels)[None])[0].tolist()
            out += [(codes[i], i) for i in range(span.fill.start, span.fill.start + span.length)]
        else:
            out += [(id, -1) for id in span.fill.tolist()]
    return out


@pytest.fixture(params=["cm3leon", "cm3leon_raster"])
def system(request: pytest.FixtureRequest) -> CM3Leon:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def test_a_packed_batch_is_each_document_by_itself(system: CM3Leon, picture: Picture) -> None:
    a, b, c = (picture(i) for i in range(3))
    documents = [Document(["a dog", a]), Document([b, "then", c]), Document("text"), talk([a, "what?"], "a cat")]
    laid = [system.layout(document) for document in documents]
    hidden = system(system.format.collator()([laid[:2], laid[2:]]))
    assert hidden.own["vqgan"].shape == (4, 16)
    assert all(len(codes.unique()) > 3 for codes in hidden.own["vqgan"])  # else the test would show nothing
    at = [0, 0]
    for i, sequence in enumerate(laid):
        ids = written_out(system, sequence)[:-1]
        got = hidden.states[i // 2, at[i // 2] : at[i // 2] + len(ids)]
        torch.testing.assert_close(got, plain_forward(system, ids), atol=2e-5, rtol=1e-4)
        at[i // 2] += len(ids)


@torch.no_grad()
def test_half_a_picture_has_its_half_of_the_codes(system: CM3Leon, picture: Picture) -> None:
    half = system.layout(Document(["a dog", picture(3), "b"]))
    half = half.cut(len(half) - 12, len(half))  # its picture begins at a late code
    hidden = system(system.format.collator()([[half]]))
    ids = written_out(system, half)
    assert isinstance(half.spans[0].fill, Slot) and half.spans[0].fill.start > 0
    torch.testing.assert_close(hidden.states[0], plain_forward(system, ids[:-1]), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_heads_are_the_table_itself(cm3leon: CM3Leon) -> None:
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for kind in ("token", "code"):
        torch.testing.assert_close(cm3leon.heads[kind](hidden), hidden @ cm3leon.embed.weight.T)


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary(cm3leon: CM3Leon) -> None:
    logprob = torch.zeros(len(cm3leon.vocabulary)).log_softmax(-1)[0].item()
    assert cm3leon.chance == pytest.approx(dict.fromkeys(cm3leon.heads, -logprob))


@torch.no_grad()
def test_runs_of_codes_become_pictures(cm3leon: CM3Leon) -> None:
    first = cm3leon.vocabulary.first_code
    runs = [Emitted("image", [first + (i * 7 + j) % 16 for j in range(16)]) for i in range(2)]
    codes = torch.tensor([run.ids for run in runs]).view(2, 4, 4) - first
    for drawn, pixels in zip(cm3leon.write(runs), cm3leon.image_tokenizer.decode(codes), strict=True):
        expected = ((pixels.clamp(-1, 1) + 1) / 2 * 255).numpy().astype(np.uint8).transpose(1, 2, 0)
        assert np.array_equal(np.asarray(drawn.open()), expected) and drawn.open().size == (8, 8)


@torch.no_grad()
def test_a_system_comes_back_from_its_files(cm3leon: CM3Leon, tmp_path: Path) -> None:
    cm3leon.format.write_files(tmp_path)
    again = CM3Leon.from_files(to_plain(cm3leon.config), tmp_path)
    again.load_state_dict(cm3leon.state_dict())
    batch = cm3leon.format.collator()([[cm3leon.layout(Document("a dog"))]])
    assert torch.equal(
        again(again.format.collator()([[again.layout(Document("a dog"))]])).states, cm3leon(batch).states
    )
    assert cm3leon.format.max_length == 160
