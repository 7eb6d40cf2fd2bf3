"""What is drawn from and what is denoised: prompts before a picture, gradients of the U-Net alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.document import Document, Image
from plait.errors import DocumentError
from plait.nn.diffusion import scheduler
from plait.objectives.denoising import KIND, Denoise, ToDraw
from plait.sequence import Batch, Sequence, Slot
from plait.systems.emu import CANVAS, READER, Emu, build

Picture = Callable[[int], Image]
KEPT, DROPPED = ToDraw(canvas=CANVAS, drop=0.0), ToDraw(canvas=CANVAS, drop=1.0)


@pytest.fixture(scope="module")
def system() -> Emu:
    torch.manual_seed(0)
    return build("tiny")


def laid(system: Emu, document: Document, transform: ToDraw = KEPT) -> Sequence:
    return transform(system.layout(document), np.random.default_rng(0))


def test_what_stands_before_the_last_picture_is_the_prompt(system: Emu, picture: Picture) -> None:
    document = Document([picture(0), "ab", picture(1), "behind"])
    found = laid(system, document)
    whole = system.layout(document).ids()
    end = int(np.flatnonzero(whole == system.format.begin)[1]) + 1
    assert found.ids()[:-1].tolist() == whole[:end].tolist() and len(found) == end + 1
    *_, drawn = found.spans
    assert isinstance(drawn.fill, Slot) and drawn.fill.reader == CANVAS and drawn.fill.image is document.images[1]
    assert [(span.targets[0].kind, span is drawn) for span in found.spans if span.targets] == [(KIND, True)]
    assert [reader for reader, _ in found.pictures] == [READER, CANVAS]


def test_a_dropped_prompt_is_the_empty_one(system: Emu, picture: Picture) -> None:
    dropped = laid(system, Document(["a text", picture(0)]), DROPPED)
    assert dropped.ids().tolist() == [system.format.text.bos, system.format.begin, -1]
    half = ToDraw(canvas=CANVAS, drop=0.1)
    lengths = [len(half(system.layout(Document(["a text", picture(0)])), np.random.default_rng(i))) for i in range(400)]
    assert 0.06 < lengths.count(3) / 400 < 0.15


def test_what_cannot_be_drawn_is_left_out(system: Emu, picture: Picture) -> None:
    with pytest.raises(DocumentError, match="without a picture"):
        laid(system, Document("words"))
    with pytest.raises(DocumentError, match=r"a prompt of .* elements, at most 4"):
        laid(system, Document(["many words here", picture(0)]), replace(KEPT, longest=4))


def batch(system: Emu, picture: Picture, count: int = 2) -> Batch:
    documents = [Document([picture(i), "ab" * i, picture(i + 5)]) for i in range(count)]
    return system.format.collator(train=True)([[laid(system, one)] for one in documents])


def test_the_u_net_and_its_map_alone_get_a_gradient(system: Emu, picture: Picture) -> None:
    made, objective = batch(system, picture), Denoise(canvas=CANVAS)
    assert objective.counts(made) == {KIND: 2.0} and objective.weights({KIND: 2.0}) == {KIND: 1.0}
    loss = objective(system, {}, made, torch.Generator().manual_seed(0))[KIND]
    again = objective(system, {}, made, torch.Generator().manual_seed(0))[KIND]
    assert system.decoder is not None
    noise = scheduler(system.decoder.diffusion.config.scheduler).alphas_cumprod.mean()  # its part of the velocity
    assert loss.item() == again.item() and 0.7 * noise < loss.item() / 2 < 2  # a new U-Net says next to nothing
    loss.backward()
    moved = {name for name, weight in system.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved and all(name.startswith(("decoder.diffusion.unet.", "decoder.diffusion.canvas.")) for name in moved)
    assert any(".attn2.to_k." in name for name in moved)
    system.zero_grad(set_to_none=True)


def test_broken_pictures_count_for_nothing(system: Emu, picture: Picture) -> None:
    rows = [[laid(system, Document(["a", Image(b"no picture")]))], [laid(system, Document(["a", picture(0)]))]]
    made = system.format.collator(train=True)(rows)
    assert made.broken == 1 and Denoise(canvas=CANVAS).counts(made) == {KIND: 1.0}
    none = system.format.collator(train=True)(rows[:1])
    loss = Denoise(canvas=CANVAS)(system, {}, none, torch.Generator())[KIND]
    assert loss.item() == 0 and loss.requires_grad
