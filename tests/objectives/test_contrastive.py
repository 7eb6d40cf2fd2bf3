from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from plait.data.packs import Data
from plait.document import Document, Image, Turn
from plait.errors import ConfigError, TrainingError
from plait.images import from_array
from plait.nn.clip import CLIP, CLIPConfig, CLIPTextConfig
from plait.nn.vit import VITConfig
from plait.objectives.contrastive import Captions, Contrast, captions, info_nce, same_texts
from plait.objectives.tokens import NextToken
from plait.sequence import Batch
from plait.systems.minigpt4 import TINY, MiniGPT4Format
from plait.text.pieces import SentencePiece
from plait.train.stage import Stage, Update

TEXT = SentencePiece.train(["a red circle and a blue square at the top"] * 30, 300)
FORMAT = MiniGPT4Format(TINY, TEXT)


def picture(shade: float) -> Image:
    return Image(from_array(torch.full((3, 32, 32), shade).numpy()))


PAIRS = [
    Document([picture(0.1), "a red circle"]),
    Document([picture(0.5), "a blue square at the top"]),
    Document([picture(-0.5), "a red circle"]),
    Document([picture(0.9), "red"]),
]


def batch(rows: list[list[Document]]) -> Batch:
    return FORMAT.collator()([[FORMAT.layout(document) for document in row] for row in rows])


def read(texts: Captions, i: int) -> str:
    return TEXT.decode(texts.ids[i][texts.real[i]][1:].tolist())


class WithCLIP:
    def __init__(self) -> None:
        torch.manual_seed(0)
        tower = VITConfig(image_size=32, patch=16, width=8, depth=1, heads=2, hidden=16)
        words = CLIPTextConfig(vocabulary=300, positions=40, width=8, depth=1, heads=2, hidden=16)
        self.clip = CLIP(CLIPConfig(image=tower, text=words, shared=4))


# ------------------------------------------------------------------------------------------------ captions


def test_captions_stand_by_their_pictures() -> None:
    given = batch([PAIRS[:2], [Document("red, and no picture"), PAIRS[2]], PAIRS[3:]])
    texts = captions(given)
    assert [read(texts, i).strip() for i in range(4)] == [d.text for d in PAIRS]
    assert read(texts, 0).endswith("\n") and (texts.ids[:, 0] == TEXT.bos).all()
    assert texts.told.all() and not texts.ids[~texts.real].any()
    shades = given.images.mean((1, 2, 3))
    assert shades.argsort().tolist() == [2, 0, 1, 3]


def test_a_picture_that_cannot_be_read_has_no_text() -> None:
    texts = captions(batch([[PAIRS[0], Document([Image(b"broken"), "a blue square"]), PAIRS[3]]]))
    assert texts.told.tolist() == [True, False, True]
    assert texts.real.sum(1)[1] == 1
    assert [read(texts, i).strip() for i in (0, 2)] == ["a red circle", "red"]


def test_a_picture_alone_has_no_text() -> None:
    texts = captions(batch([[Document([picture(0.1)])]]))
    assert texts.ids.tolist() == [[TEXT.bos, 0]] and texts.real.tolist() == [[True, False]] and not texts.told.any()


def test_two_pictures_are_no_pair() -> None:
    with pytest.raises(TrainingError, match="2 pictures in 1 documents"):
        captions(batch([[Document([picture(0.1), picture(0.2), "two"])]]))
    with pytest.raises(TrainingError, match="0 kinds of pictures"):
        captions(batch([[Document("none")]]))


def test_all_answers_of_a_conversation_are_its_text() -> None:
    said = [
        Turn("user", [picture(0.1), "what?"]),
        Turn("assistant", "red"),
        Turn("user", "and?"),
        Turn("assistant", "a"),
    ]
    texts = captions(batch([[Document(said)]]))
    assert read(texts, 0).replace(" ", "") == "reda"  # the end symbols are read as nothing


# -------------------------------------------------------------------------------------------------- losses


def test_info_nce_is_cross_entropy_against_the_right_one() -> None:
    scores, everyone = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)), torch.ones(3, dtype=torch.bool)
    for smoothing in (0.0, 0.1):
        wanted = nn.functional.cross_entropy(scores, torch.arange(3), reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(info_nce(scores, torch.eye(3).bool(), everyone, smoothing), wanted)


def test_equal_texts_share_the_mass_and_absent_ones_do_not_count() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0, 9.0]])
    same, there = torch.tensor([[True, True, False, False]]), torch.tensor([True, True, True, False])
    logs = scores[0, :3].log_softmax(0)
    torch.testing.assert_close(info_nce(scores, same, there), -(logs[:2].mean())[None])
    assert info_nce(scores, same & False, there).tolist() == [0.0]


def test_texts_are_the_same_to_the_letter() -> None:
    same, there = same_texts(captions(batch([PAIRS])))
    assert same.tolist() == [
        [True, False, True, False],
        [False, True, False, False],
        [True, False, True, False],
        [False, False, False, True],
    ]
    assert there.all()
    swapped = Captions(
        ids=torch.tensor([[1, 2, 3], [1, 3, 2]]), real=torch.ones(2, 3).bool(), told=torch.ones(2).bool()
    )
    assert same_texts(swapped)[0].tolist() == [[True, False], [False, True]]


def loss(system: Any, given: Batch) -> Tensor:
    return Contrast()(system, {}, given, torch.Generator())["contrast"]


def test_contrast_is_the_mean_of_both_ways() -> None:
    system, given = WithCLIP(), batch([[PAIRS[0], PAIRS[1], PAIRS[3]]])
    texts = captions(given)
    image = system.clip.image_features(given.images)
    text = system.clip.text_features(texts.ids, texts.real)
    rows = system.clip.similarity(image, text)
    wanted = sum(nn.functional.cross_entropy(one, torch.arange(3), reduction="sum") for one in (rows, rows.T)) / 2
    torch.testing.assert_close(loss(system, given), wanted)
    assert Contrast().counts(given) == {"contrast": 3.0} and Contrast().weights({}) == {"contrast": 1.0}


def test_a_picture_without_text_changes_nothing() -> None:
    system, broken = WithCLIP(), Document([Image(b"broken"), "a blue square at the top"])
    torch.testing.assert_close(loss(system, batch([[PAIRS[0], broken, PAIRS[3]]])), loss(system, batch([PAIRS[::3]])))
    nothing = loss(system, batch([[broken]]))
    nothing.backward()
    assert nothing.item() == 0 and all(p.grad is None or p.grad.isfinite().all() for p in system.clip.parameters())


def test_it_refuses_accumulation() -> None:
    data = Data(sources={"pairs": PAIRS}, rows=1, length=40)
    with pytest.raises(ConfigError, match="accumulate 2 with Contrast"):
        Stage(name="a", data=data, updates=(Update(objective=Contrast(), optimisers=()),), steps=1, accumulate=2)
    Stage(name="a", data=data, updates=(Update(objective=NextToken(), optimisers=()),), steps=1, accumulate=2)


# --------------------------------------------------------------------------------------------------- ranks


def gradients(system: WithCLIP) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in system.clip.named_parameters() if weight.grad is not None}


def _one_rank(rank: int, ranks: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
    system = WithCLIP()
    mine = loss(system, batch([(PAIRS[:1], PAIRS[1:])[rank]]))
    mine.backward()
    torch.save((mine.detach(), gradients(system)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_compare_all_their_pairs(tmp_path: Path) -> None:
    mp.spawn(_one_rank, args=(2, f"file://{tmp_path}/store", str(tmp_path)), nprocs=2)
    (first, some), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    system = WithCLIP()
    whole = loss(system, batch([PAIRS]))
    whole.backward()
    torch.testing.assert_close(first + second, whole.detach())
    for name, gradient in gradients(system).items():
        torch.testing.assert_close(some[name] + others[name], gradient, rtol=1e-4, atol=1e-6)
