from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plait.document import Document, Image
from plait.errors import ConfigError
from plait.images import from_array
from plait.nn.qformer import Memory, QFormer, QFormerConfig, QFormerHeads, TextConfig
from plait.objectives.contrastive import captions
from plait.objectives.qformer import ReadAndTell, hard
from plait.sequence import Batch
from plait.systems.minigpt4 import TINY, MiniGPT4Format
from plait.text.pieces import SentencePiece

TEXT = SentencePiece.train(["a red circle and a blue square at the top"] * 30, 300)
FORMAT = MiniGPT4Format(TINY, TEXT)
SIZES = QFormerConfig(
    width=8, depth=2, heads=2, hidden=16, queries=3, image_width=6, text=TextConfig(vocabulary=301, positions=40)
)


def picture(shade: float) -> Image:
    return Image(from_array(torch.full((3, 32, 32), shade).numpy()))


PAIRS = [
    Document([picture(0.1), "a red circle"]),
    Document([picture(0.5), "a blue square at the top"]),
    Document([picture(-0.5), "red"]),
]
BROKEN = Document([Image(b"broken"), "a blue circle"])


def batch(documents: list[Document]) -> Batch:
    return FORMAT.collator()([[FORMAT.layout(document) for document in documents]])


class WithQFormer:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.qformer, self.heads_of_qformer = QFormer(SIZES), QFormerHeads(SIZES, 4)
        self.begin = 300
        for weight in (*self.qformer.parameters(), *self.heads_of_qformer.parameters()):
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.3)

    def see(self, pixels: Tensor) -> Tensor:
        return pixels[:, 0, :5, :6]

    def losses(self, documents: list[Document], objective: ReadAndTell | None = None) -> dict[str, Tensor]:
        with torch.no_grad():
            return (objective or ReadAndTell())(self, {}, batch(documents), torch.Generator().manual_seed(0))


@pytest.fixture
def system() -> WithQFormer:
    return WithQFormer()


def test_contrast_takes_the_nearest_query(system: WithQFormer) -> None:
    given = batch(PAIRS)
    texts, heads = captions(given), system.heads_of_qformer
    with torch.no_grad():
        image = heads.image_features(system.qformer(system.see(given.images)))
        text = heads.text_features(system.qformer.read_text(texts.ids, texts.real))[:, 0]
        rows = (image @ text.T).amax(1) / 0.07
    right = torch.arange(3)
    ways = [nn.functional.cross_entropy(one, right, reduction="sum", label_smoothing=0.1) for one in (rows, rows.T)]
    torch.testing.assert_close(system.losses(PAIRS)["contrast"], sum(ways) / 2)


def test_captions_are_told_word_by_word(system: WithQFormer) -> None:
    given = batch(PAIRS)
    texts, total = captions(given), torch.zeros(())
    table = system.qformer.text
    assert table is not None
    with torch.no_grad():
        for i in range(3):
            ids = texts.ids[i, texts.real[i]]
            memory = Memory()
            system.qformer(system.see(given.images[i : i + 1]), attend=memory.keep)
            read = torch.cat((torch.tensor([300]), ids[1:-1]))[None]
            states = system.qformer.continue_text(read, torch.ones_like(read).bool(), memory)
            logits = system.heads_of_qformer.captioning(states, table.words.weight)[0]
            total += nn.functional.cross_entropy(logits, ids[1:], reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(system.losses(PAIRS)["caption"], total, rtol=1e-4, atol=1e-4)


def test_matching_holds_each_pair_against_a_wrong_picture_and_a_wrong_text(system: WithQFormer) -> None:
    two = PAIRS[:2]  # the wrong one is the other
    given = batch(two)
    texts = captions(given)
    with torch.no_grad():
        image = system.see(given.images)

        def logits(picture: int, text: int) -> Tensor:
            read = texts.ids[text, texts.real[text]][None]
            both = system.qformer.read_both(image[picture][None], read, torch.ones_like(read).bool())
            return system.heads_of_qformer.match(both[:, :3])[0].log_softmax(-1)

        right = logits(0, 0)[1] + logits(1, 1)[1]
        wrong = 2 * (logits(0, 1)[0] + logits(1, 0)[0])
    torch.testing.assert_close(system.losses(two)["matching"], -(right + wrong))


def test_counts_and_weights() -> None:
    given = batch([*PAIRS, BROKEN])
    texts = captions(given)
    words = int(texts.real[:, 1:].sum())
    assert ReadAndTell().counts(given) == {"contrast": 3.0, "matching": 9.0, "caption": float(words)}
    assert ReadAndTell(scale={"matching": 0.5}).weights({}) == {"contrast": 1.0, "matching": 0.5, "caption": 1.0}


def test_matching_may_be_asked_of_some_pairs(system: WithQFormer) -> None:
    half, two = ReadAndTell(matched=0.5), PAIRS[:2]
    assert half.counts(batch(two))["matching"] == 3 and half.counts(batch(PAIRS))["matching"] == 6
    swapped = [two[1], two[0]]
    parts = [system.losses(one, half)["matching"] for one in (two, swapped)]
    torch.testing.assert_close(parts[0] + parts[1], system.losses(two)["matching"])
    with pytest.raises(ConfigError, match="matched=0"):
        ReadAndTell(matched=0)


def test_a_picture_without_text_changes_nothing(system: WithQFormer) -> None:
    two = PAIRS[:2]  # of more, others would be drawn
    torch.testing.assert_close(system.losses([*two, BROKEN]), system.losses(two), rtol=1e-4, atol=1e-4)
    assert all(value.item() == 0 for value in system.losses([BROKEN]).values())


def test_a_pair_by_itself_has_no_wrong_ones(system: WithQFormer) -> None:
    alone = [PAIRS[0]]
    given = batch(alone)
    texts = captions(given)
    with torch.no_grad():
        both = system.qformer.read_both(system.see(given.images), texts.ids, texts.real)[:, :3]
        right = system.heads_of_qformer.match(both)[0].log_softmax(-1)[1]
    terms = system.losses(alone)
    torch.testing.assert_close(terms["matching"], -right)
    assert terms["contrast"].item() == 0


def test_all_that_is_trained_gets_gradients(system: WithQFormer) -> None:
    terms = ReadAndTell()(system, {}, batch(PAIRS), torch.Generator())
    torch.stack(list(terms.values())).sum().backward()
    named = {**dict(system.qformer.named_parameters()), **dict(system.heads_of_qformer.named_parameters())}
    assert not [name for name, weight in named.items() if weight.grad is None]


def test_wrong_ones_are_drawn_by_likeness_among_those_allowed() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([[9.0, 1.0, 3.0, 8.0]]).expand(2000, -1)
    allowed = torch.tensor([[False, True, True, True]]).expand(2000, -1)
    shares = hard(scores, allowed, generator).bincount(minlength=4) / 2000
    assert shares[0] == 0 and shares[3] > 0.97
    assert hard(scores[:5], allowed[:5] & False, generator).shape == (5,)


def test_equal_texts_are_no_wrong_ones() -> None:
    objective, system = ReadAndTell(smoothing=0.0), WithQFormer()
    twice = [PAIRS[0], Document([picture(0.9), "a red circle"])]
    given = batch(twice)
    texts = captions(given)
    with torch.no_grad():
        both = system.qformer.read_both(system.see(given.images), texts.ids, texts.real)[:, :3]
        right = system.heads_of_qformer.match(both).log_softmax(-1)[:, 1].sum()
    torch.testing.assert_close(system.losses(twice, objective)["matching"], -right)
