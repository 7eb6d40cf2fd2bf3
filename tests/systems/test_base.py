"""What follows for every system from what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from plait.document import Document, Image
from plait.sequence import Slot
from plait.systems.base import Emitted, Forced, Interleaved, Next, Stop, square
from plait.systems.cm3leon import CM3Leon

END, BEGIN = 0, 1  # then codes 2 and 3, text 4 and 5
TEXT = Next(kind="text", head="token", allowed=torch.tensor([1, 1, 0, 0, 1, 1]).bool(), ends=frozenset([END, BEGIN]))
PICTURE = Next(kind="image", head="code", allowed=torch.tensor([0, 0, 1, 1, 0, 0]).bool(), length=2)


def grammar(begun: bool = False, max_images: int = 1, **more: Any) -> Interleaved:
    return Interleaved(text=TEXT, picture=PICTURE, begin=BEGIN, begun=begun, max_images=max_images, **more)


def said(*ids: int) -> Emitted:
    return Emitted("text", list(ids))


DRAWN = Emitted("image", [2, 3])


def test_text_then_a_picture_then_text_until_the_end() -> None:
    step = grammar(max_images=2)
    assert step([]) is TEXT
    assert step([said(4, BEGIN)]) is PICTURE
    assert step([said(4, BEGIN), DRAWN]) is TEXT
    assert step([said(4, BEGIN), DRAWN, said(BEGIN)]) is PICTURE
    assert step([said(4, END)]) == Stop("end")
    assert step([said(4, BEGIN), DRAWN, said(5, END)]) == Stop("end")


def test_a_picture_that_was_asked_for_comes_first() -> None:
    assert grammar(begun=True)([]) is PICTURE
    assert grammar(begun=True)([said(4, BEGIN)]) is PICTURE


def test_behind_the_last_picture_there_is_text_alone() -> None:
    step = grammar()([said(BEGIN), DRAWN])
    assert isinstance(step, Next)
    assert step.allowed.tolist() == [True, False, False, False, True, True]
    assert step.ends == {END}
    assert TEXT.allowed[BEGIN]  # not changed in place
    assert grammar(max_images=0)([]).ends == {END}  # type: ignore[union-attr]
    assert grammar(begun=True, max_images=0)([]) == Stop("max_images")


def test_what_closes_a_picture_is_not_drawn() -> None:
    step = grammar(max_images=2, close=6)
    assert step([said(4, BEGIN), DRAWN]) == Forced((6,))
    closed = [said(4, BEGIN), DRAWN, Emitted("forced", [6])]
    assert step(closed) is TEXT
    assert step([*closed, said(5, BEGIN)]) is PICTURE
    assert step([*closed, said(5, END)]) == Stop("end")


def test_a_reply_may_be_pictures_alone() -> None:
    step = grammar(begun=True, close=6, alone=True)
    assert step([]) is PICTURE
    assert step([DRAWN]) == Forced((6,))
    assert step([DRAWN, Emitted("forced", [6])]) == Stop("max_images")
    two = grammar(begun=True, alone=True, max_images=2)
    assert two([DRAWN]) is TEXT
    assert two([DRAWN, said(BEGIN), DRAWN]) == Stop("max_images")
    assert two([DRAWN, said(4, END)]) == Stop("end")


def test_pictures_for_parts_that_are_trained_on_pixels(cm3leon: CM3Leon, picture: Callable[[int], Image]) -> None:
    a, b = picture(0), picture(1)
    spans = cm3leon.format.picture_spans(Document(["one", a, "two", b]))
    assert [(span.fill, span.length, span.targets) for span in spans] == [
        (Slot("vqgan", a), 16, ()),
        (Slot("vqgan", b), 16, ()),
    ]


def test_parts_and_units(cm3leon: CM3Leon) -> None:
    assert {name: part.module for name, part in cm3leon.parts.items()} == dict(cm3leon.named_children())
    tokenizer = (cm3leon.image_tokenizer, ("encode", "decode"))
    assert cm3leon.units == [*((block, ()) for block in cm3leon.decoder.blocks), tokenizer]
    assert cm3leon.name == "cm3leon"


def test_the_blank_has_the_shape_of_every_picture(cm3leon: CM3Leon, picture: Callable[[int], Image]) -> None:
    prepare = cm3leon.format.collator().prepare["vqgan"]
    assert prepare.shape == (3, 8, 8) == prepare(picture(0)).shape


def test_squares(picture: Callable[[int], Image]) -> None:
    pixels = square(4)(picture(0))
    assert pixels.shape == (3, 4, 4)
    assert -1 <= pixels.min() < pixels.max() <= 1
