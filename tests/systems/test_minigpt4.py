"""MiniGPT-4's layouts, and what it refuses. That it computes what the original does: tests/parity/test_minigpt4.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch

import plait
from plait.checkpoints.directory import load, save
from plait.document import Blank, Document, Image, Text, Turn, Video
from plait.errors import ConfigError, DocumentError, InputError
from plait.nn.lora import LoRAConfig
from plait.sequence import Sequence, Slot
from plait.systems.minigpt4 import SIZES, TINY, MiniGPT4, MiniGPT4Format, build
from plait.text.pieces import SentencePiece
from plait.text.templates import ALIGNMENT

PIECES = SentencePiece.train(ALIGNMENT, 320)
FORMAT = MiniGPT4Format(replace(TINY, template="vicuna0"), PIECES)
Picture = Callable[[int], Image]


def shown(sequence: Sequence) -> str:
    """Texts as they are tokenised, <n> for n elements of a picture, what is predicted in capitals."""
    parts = []
    for span in sequence.spans:
        if isinstance(span.fill, Slot):
            parts.append(f"<{span.length}>")
            continue
        ids = span.fill.tolist()
        weights = span.targets[0].weight.tolist() if span.targets else [0.0] * len(ids)
        for predicted, run in groupby(zip(ids, weights, strict=True), key=lambda pair: pair[1] > 0):
            if text := PIECES.decode([id for id, _ in run]):
                parts.append(text.upper() if predicted else text)
    return "|".join(parts)


def conversation(picture: Picture) -> list[Turn]:
    return [
        Turn("user", [picture(0), "describe it."]),
        Turn("assistant", "a dog"),
        Turn("user", "and?"),
        Turn("assistant", "no"),
    ]


def test_a_caption_is_predicted_behind_its_picture(picture: Picture) -> None:
    laid = FORMAT.layout(Document([picture(0), "a dog"]))
    assert shown(laid) == "<8>|A DOG\n"
    assert laid.ids()[0] == PIECES.bos and laid.ids()[-1] != PIECES.eos
    assert shown(FORMAT.layout(Document([picture(0), "a dog"]), open=True)) == "<8>|a dog"
    assert shown(FORMAT.layout(Document(["one", picture(0)]))) == "one|<8>"


def test_all_answers_of_a_conversation_are_predicted(picture: Picture) -> None:
    laid = FORMAT.layout(Document(conversation(picture)))
    assert shown(laid) == (
        "###Human: <Img>|<8>|</Img> describe it. ###Assistant: |A DOG###|###Human: and? ###Assistant: |NO###"
    )
    assert laid.ids().tolist().count(PIECES.bos) == 2  # before each question


def test_an_open_conversation_is_a_chat(picture: Picture) -> None:
    laid = FORMAT.layout(Document(conversation(picture)[:3]), open=True)
    assert shown(laid).endswith(
        "###Human: <Img>|<8>|</Img> describe it.###Assistant: a dog###Human: and?###Assistant: "
    )
    assert shown(laid).startswith("Give the following image: <Img>ImageContent</Img>.")


def test_a_plain_chat_asks_as_training_did(picture: Picture) -> None:
    assert TINY.template == "plain"
    plain = MiniGPT4Format(TINY, PIECES)
    asked = plain.layout(Document(conversation(picture)[:1]), open=True)
    trained = plain.layout(Document(conversation(picture)[:2]))
    assert shown(asked) == "[INST] <Img>|<8>|</Img> describe it. [/INST]"
    assert asked.ids().tolist() == trained.ids().tolist()[: len(asked)]
    assert trained.ids()[-1] == PIECES.eos


def test_contexts_and_answers_are_cut(picture: Picture) -> None:
    short = MiniGPT4Format(replace(TINY, max_context=12, max_answer=3), PIECES)
    laid = short.layout(Document(conversation(picture)[:2]))
    assert len(laid) == 1 + 12 + 3
    assert len(short.layout(Document(conversation(picture)))) == 1 + 12 + 3
    caption = MiniGPT4Format(replace(TINY, max_caption=2), PIECES)
    assert len(caption.layout(Document([picture(0), "a dog and a cat"]))) == 1 + 8 + 2
    assert len(caption.layout(Document([picture(0), picture(1), "a dog and a cat"]))) == 1 + 16 + 2


def test_the_padding_piece_is_no_target() -> None:
    padding = PIECES.encode("x")[-1]
    pieces = SentencePiece(PIECES.model, pad=PIECES._pieces.id_to_piece(padding))
    laid = MiniGPT4Format(FORMAT.config, pieces).sequence(["a"], ["xyx"])
    (target,) = laid.spans[-1].targets
    assert target.value is not None
    answer = PIECES.encode("xyx###")
    assert answer.count(padding) == 2
    predicted = [int(v) for v, w in zip(target.value, target.weight, strict=True) if w]
    assert predicted == [id for id in answer if id != padding]


def test_what_has_no_place_is_refused(picture: Picture) -> None:
    wrong = [
        (Document([picture(0), Blank("image")]), "no place for Blank"),
        (Document([Video((picture(0),))]), "no place for Video"),
        (Document([Turn("assistant", "no")]), "begins with the assistant"),
        (Document([Turn("system", "be kind"), *conversation(picture)]), "no place for a system turn"),
        (Document([Turn("user", "draw"), Turn("assistant", [picture(0)])]), "writes text alone"),
        (Document([picture(0), "a dog"]).behind([Document("a cat")]), "no place for 1 documents before another"),
    ]
    for document, message in wrong:
        with pytest.raises(DocumentError, match=message):
            FORMAT.layout(document)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="16 patches cannot be joined by 5"):
        replace(TINY, qformer=None, joined=5)
    with pytest.raises(ConfigError, match="no template 'vicuna'; there are vicuna0"):
        replace(TINY, template="vicuna")
    with pytest.raises(ConfigError, match=r"pieces for a vocabulary of 100"):
        MiniGPT4Format(replace(TINY, language=replace(TINY.language, vocabulary=100)), PIECES)
    with pytest.raises(ConfigError, match="MiniGPT-4 comes as tiny, 7b, 13b, llama2-7b, v2-7b, not 'big'"):
        build("big")


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_the_published_widths(size: str) -> None:
    sizes = SIZES[size]
    with torch.device("meta"):
        projection = MiniGPT4(sizes, PIECES).projection.weight.shape
    wanted = {
        "tiny": (128, 96),
        "7b": (4096, 768),
        "13b": (5120, 768),
        "llama2-7b": (4096, 5632),
        "v2-7b": (4096, 5632),
    }
    assert tuple(projection) == wanted[size]
    assert sizes.vectors == {"tiny": 8, "v2-7b": 256, "llama2-7b": 64}.get(size, 32)


def test_it_is_saved_loaded_and_answers(picture: Picture, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = plait.build("minigpt4")
    asked = Document(conversation(picture)[:1])
    said = model.generate(asked, max_new_tokens=5)
    assert len(said.runs[0].ids) == 5 and said.stop == "max_new_tokens"
    save(model.system, tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert isinstance(again, MiniGPT4) and again.config == model.system.config
    assert plait.load(tmp_path / "saved").generate(asked, max_new_tokens=5).runs[0].ids == said.runs[0].ids


def test_adapters_are_saved_loaded_and_merged(picture: Picture, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = build("tiny").eval()
    batch = system.format.collator()([[FORMAT.layout(Document(conversation(picture)))]])
    plain = system(batch).states
    system.adapt(LoRAConfig(rank=2, alpha=4.0, layers=("q", "v")))
    assert torch.equal(system.eval()(batch).states, plain)
    with pytest.raises(InputError, match="has adapters already"):
        system.adapt(LoRAConfig())
    ups = [weight for name, weight in system.named_parameters() if name.endswith("qkv.up")]
    assert len(ups) == TINY.language.depth
    for up in ups:
        torch.nn.init.normal_(up, std=0.02)
    adapted = system(batch).states
    assert not torch.allclose(adapted, plain, atol=1e-2)
    save(system, tmp_path / "adapted")
    again = load(tmp_path / "adapted")
    assert again.config.lora == LoRAConfig(rank=2, alpha=4.0, layers=("q", "v"))
    assert torch.equal(again(batch).states, adapted)
    system.merge()
    torch.testing.assert_close(system(batch).states, adapted, atol=1e-5, rtol=1e-5)
    save(system, tmp_path / "merged")
    assert torch.equal(load(tmp_path / "merged")(batch).states, system(batch).states)


def test_a_reply_is_cut_at_the_symbols_of_the_template() -> None:
    from plait.systems.base import Emitted

    def said(text: str) -> str:
        return FORMAT.read_text(Emitted("text", PIECES.encode(text)))

    assert said(" a dog ### Human: more") == "a dog"
    assert said("Assistant: a dog") == "a dog"
    assert said("x [/INST] a dog") == "a dog"
    assert isinstance(Document([Text(said("a"))]).pieces[0], Text)
