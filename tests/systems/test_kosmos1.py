"""KOSMOS-1's layouts, and what it refuses. That it computes what the original does: tests/parity/test_kosmos1.py."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import plait
from plait.checkpoints.directory import load, save
from plait.document import Document, Image, Turn, Video
from plait.errors import ConfigError, DocumentError
from plait.generate.model import Model
from plait.sequence import Sequence, Slot
from plait.systems.base import Emitted, Stop
from plait.systems.kosmos1 import KOSMOS1, READER, SYMBOLS, TINY, KOSMOS1Format, build
from plait.text.pieces import FairseqPieces

TEXTS = ("An image of a small red fox.", "Question: what is it? Answer: a dog in the snow.", "Is it correct? Yes")
PIECES = FairseqPieces.train(TEXTS, 96, SYMBOLS["kosmos1"])
FORMAT = KOSMOS1Format(TINY, PIECES)
Picture = Callable[[int], Image]
NAMES = {id: symbol for symbol in ("<image>", "</image>", "</line>") for id in [PIECES.id(symbol)]} | {2: "</s>"}


def shown(sequence: Sequence) -> str:
    """Texts as they are tokenised, <n> for n elements of a picture, what is predicted in capitals."""
    parts = []
    for span in sequence.spans:
        if isinstance(span.fill, Slot):
            parts.append(f"<{span.length}>")
            continue
        ids = span.fill.tolist()
        weights = span.targets[0].weight.tolist() if span.targets else [0.0] * len(ids)
        for (predicted, symbol), run in groupby(
            zip(ids, weights, strict=True), key=lambda pair: (pair[1] > 0, pair[0] in NAMES)
        ):
            each = [id for id, _ in run]
            text = "".join(NAMES[id] for id in each) if symbol else PIECES.decode(each)
            parts.append(text.upper() if predicted else text)
    return "|".join(part for part in parts if part)


def test_a_caption(picture: Picture) -> None:
    laid = FORMAT.layout(Document([picture(0), "a dog"]))
    assert shown(laid) == "<image>|<8>|</image>|A DOG|</S>"
    assert laid.ids()[0] == PIECES.bos
    assert shown(FORMAT.layout(Document([picture(0), "a dog"]), open=True)) == "<image>|<8>|</image>|A DOG"


def test_a_page(picture: Picture) -> None:
    page = Document(["a fox", picture(0), picture(1), "a\ndog"])
    laid = FORMAT.layout(page)
    assert shown(laid) == "A FOX|<IMAGE>|<8>|</image>|<IMAGE>|<8>|</image>|A DOG|</S>"
    assert laid.spans[0].targets[0].weight[:3].tolist() == [0, 0, 1]  # <s>, and the piece behind it
    silent = KOSMOS1Format(replace(TINY, predict_image=False), PIECES)
    assert shown(silent.layout(page)).count("<image>") == 2


def test_texts_have_lines() -> None:
    assert shown(FORMAT.layout(Document("a fox\n\na dog\n"))) == "A FOX|</LINE>|A DOG|</S>"
    assert shown(FORMAT.layout(Document("a fox\n"), open=True)) == "A FOX|</LINE>"
    assert shown(FORMAT.layout(Document(["a fox\n", "a dog"]))) == "A FOX|</LINE>|A DOG|</S>"
    assert shown(FORMAT.layout(Document("\n"))) == "</S>"
    run = Emitted("text", FORMAT.layout(Document("a fox\na dog")).ids()[1:].tolist())
    assert FORMAT.read_text(run) == "a fox\n a dog"


def test_answers_are_predicted_and_end(picture: Picture) -> None:
    turns = [
        Turn("user", [picture(0), "what is it?"]),
        Turn("assistant", "a dog"),
        Turn("user", "Is it?"),
        Turn("assistant", "Yes"),
    ]
    laid = shown(FORMAT.layout(Document(turns)))
    assert laid == "<image>|<8>|</image>|what is it?|A DOG|</S>|Is it?|YES|</S>"
    assert shown(FORMAT.layout(Document(turns[:3]), open=True)) == laid.rpartition("|YES")[0]
    assert shown(FORMAT.layout(Document(turns), open=True)) == laid.removesuffix("|</S>")
    with pytest.raises(DocumentError, match="writes text alone"):
        FORMAT.layout(Document([Turn("assistant", [picture(0)])]))


def test_shots_stand_in_front_without_an_end(picture: Picture) -> None:
    shots = [Document([picture(i), "a fox"]) for i in range(2)]
    laid = shown(FORMAT.layout(Document([picture(2), "a dog"], before=shots)))
    one = "<image>|<8>|</image>|a fox|"
    assert laid == f"{one}{one}<IMAGE>|<8>|</image>|A DOG|</S>"


def test_blocks_hold_whole_lines() -> None:
    texts = ["a fox\na dog", "", "Is it? Yes"]
    laid = [FORMAT.layout(Document(text)) for text in texts]
    first, second, third = (one.ids()[1:].tolist() for one in laid)
    blocks = [one.ids().tolist() for one in FORMAT.blocks(laid, 200)]
    assert blocks == [[0, *first, *second, *third]]
    size = 1 + len(first) + len(second)
    assert size >= 1 + len(third)
    assert [one.ids().tolist() for one in FORMAT.blocks(laid, size)] == [
        [0, *first, *second],
        [0, *third],
    ]
    cut = [one.ids().tolist() for one in FORMAT.blocks(laid[2:], 4)]
    assert cut == [[0, *third[:3]]]  # what ends it is lost
    block = next(FORMAT.blocks(laid, 200))
    assert (block.spans[0].targets[0].weight == 1).all()
    with pytest.raises(DocumentError, match="no place for pictures"):
        list(FORMAT.blocks([FORMAT.layout(Document([Image(b""), "a"]))], 200))


def test_what_has_no_place(picture: Picture) -> None:
    with pytest.raises(DocumentError, match="no place for a Video"):
        FORMAT.layout(Document([Video((picture(0),)), "a"]))
    with pytest.raises(ConfigError, match="for a vocabulary of 8: raise it"):
        KOSMOS1Format(replace(TINY, language=replace(TINY.language, vocabulary=8)), PIECES)
    with pytest.raises(ConfigError, match="comes as tiny"):
        build("7b")


def test_it_says_anything_but_pads(picture: Picture) -> None:
    step = FORMAT.grammar(Document("a"), 1)([])
    assert not isinstance(step, Stop) and step.ends == {PIECES.eos}
    assert step.allowed.nonzero().flatten().tolist() == [0, *range(2, len(PIECES))]


def test_grounding_is_told() -> None:
    pieces = FairseqPieces.train(TEXTS, 96, SYMBOLS["kosmos2"])
    config = replace(TINY, symbols="kosmos2", language=replace(TINY.language, vocabulary=len(pieces)))
    format = KOSMOS1Format(config, pieces)
    said = "<grounding><phrase> a dog</phrase><object><patch_index_0044></object> in the snow"
    ids = format.layout(Document(said), open=True).ids()[1:].tolist()
    assert ids[:2] == [pieces.id("<grounding>"), pieces.id("<phrase>")]
    assert format.read_text(Emitted("text", ids)) == said
    assert pieces.decode(ids) == "a dog in the snow"


def test_alpha_is_laid_over_white_or_dropped() -> None:
    file = io.BytesIO()
    PIL.Image.new("RGBA", (40, 20), (200, 100, 0, 0)).save(file, "PNG")
    image = Image(file.getvalue())
    kept, dropped = (
        KOSMOS1Format(replace(TINY, over_white=white), PIECES).preprocess()[READER](image) for white in (True, False)
    )
    white, brown = ((np.array(rgb) / 255 - 0.48145466) / 0.26862954 for rgb in (255, 200))
    assert np.allclose(kept[0], white, atol=1e-5) and np.allclose(dropped[0], brown, atol=1e-5)


def test_pixels_are_cropped_in_training_and_squashed_else() -> None:
    wide = PIL.Image.new("RGB", (64, 32))
    wide.paste((255, 255, 255), (16, 0, 48, 32))
    trained, asked = (FORMAT.preprocess(train=train)[READER](Image(wide)) for train in (True, False))
    assert trained.shape == asked.shape == (3, 32, 32)
    assert (trained > 1).all() and not (asked > 1).all()


def test_a_begun_reply_is_scored_without_its_end(picture: Picture) -> None:
    torch.manual_seed(0)
    model = Model(KOSMOS1(TINY, PIECES))
    document = Document([picture(0), "Is it correct?"])
    (whole,) = model.score(document, ["Yes"])
    (begun,) = model.score(document, ["Yes"], ended=False)
    laid = FORMAT.layout(Document([*document.pieces, "Yes"]), open=True)
    with torch.no_grad():
        states = model.system(FORMAT.collator()([[laid]], shift=False)).states[0]
        end = model.system.heads["token"](states[-1]).log_softmax(-1)[PIECES.eos]
    assert whole == pytest.approx(begun + float(end), rel=1e-5)


def test_presets_run(picture: Picture) -> None:
    torch.manual_seed(0)
    model = plait.build("kosmos1")
    document = Document([picture(0), "An image of"])
    for name in model.format.presets:
        reply = model.generate(document, model.settings(name, max_new_tokens=3))
        assert 0 < len(reply.runs[0].ids) <= 3


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = KOSMOS1(TINY, PIECES)
    again = load(save(system, tmp_path / "saved"))
    assert again.name == "kosmos1" and again.config == TINY and again.format.text == PIECES
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in system.state_dict().items())
    assert not system.language.embed.weight[PIECES.pad].any()
