from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.qformer import (
    BLIP2_QFORMER,
    BLIP2_TEXT,
    Memory,
    QFormer,
    QFormerConfig,
    QFormerHeads,
    TextConfig,
)

TEXT = TextConfig(vocabulary=20, positions=6)
TINY = QFormerConfig(width=8, depth=3, heads=2, hidden=12, queries=3, image_width=10, text=TEXT)
IDS = torch.tensor([[1, 7, 3, 9], [1, 4, 0, 0]])
REAL = IDS > 0


@pytest.fixture
def model() -> QFormer:
    """Random weights large enough that everything that is seen matters."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        former = QFormer(TINY).eval()
        for weight in former.parameters():
            weight.normal_(std=0.5)
    return former


def image(rows: int = 2) -> Tensor:
    return torch.randn(rows, 5, 10, generator=torch.Generator().manual_seed(0))


def changed(before: Tensor, after: Tensor) -> list[list[int]]:
    """Which elements (row, place) differ."""
    return (before != after).any(-1).nonzero().tolist()


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        model = QFormer(BLIP2_QFORMER)
        norm = nn.LayerNorm(BLIP2_QFORMER.image_width)
        whole = QFormer(replace(BLIP2_QFORMER, text=BLIP2_TEXT))
    positions = 512  # ids that the file counts among the parameters
    count = sum(weight.numel() for part in (model, norm) for weight in part.parameters())
    assert count + positions == 105_165_568
    assert whole.text is not None and whole.text.words.weight.shape == (30_523, 768)


def test_causal_queries_see_those_before_them_and_all_of_the_text(model: QFormer) -> None:
    causal = QFormer(replace(TINY, causal=True))
    causal.load_state_dict(model.state_dict())
    alone, both = causal(image()), causal.read_both(image(), IDS, REAL)
    with torch.no_grad():
        causal.queries[0, 1] *= -1  # the norm would take the same number everywhere away
    assert changed(alone, causal(image())) == [[row, place] for row in range(2) for place in (1, 2)]
    n, after = TINY.queries, causal.read_both(image(), IDS, REAL)
    assert not torch.allclose(both[:, n:], after[:, n:])  # the text sees all queries
    other = IDS.clone()
    other[0, 3] = 5  # a text's last word matters to every query
    assert [0, 0] in changed(after, causal.read_both(image(), other, REAL))
    with pytest.raises(ConfigError, match="a causal Q-Former says no captions"):
        causal(image(), attend=Memory().keep)


def test_heads_that_only_compare_are_the_others_without_two() -> None:
    whole, few = QFormerHeads(TINY, 4).state_dict(), QFormerHeads(TINY, 4, compares_only=True).state_dict()
    assert set(few) == {name for name in whole if not name.startswith(("matching", "captioning"))}


def test_layers_look_at_the_picture_in_turn(model: QFormer) -> None:
    assert [block.cross is not None for block in model.blocks] == [True, False, True]


def test_what_is_not_real_of_a_picture_is_not_seen(model: QFormer) -> None:
    real = torch.tensor([[True, True, False, True, True], [True, False, False, False, False]])
    other = image()
    other[~real] = 7.0
    assert torch.equal(model(image(), real), model(other, real))
    torch.testing.assert_close(model(image()[1:, :1]), model(image(), real)[1:])


def test_text_alone_sees_no_pads(model: QFormer) -> None:
    other = IDS.masked_fill(~REAL, 5)
    assert torch.equal(model.read_text(IDS, REAL)[REAL], model.read_text(other, REAL)[REAL])
    torch.testing.assert_close(model.read_text(IDS[1:, :2], REAL[1:, :2]), model.read_text(IDS, REAL)[1:, :2])


def test_queries_and_text_see_each_other(model: QFormer) -> None:
    other = IDS.clone()
    other[0, 3] = 11
    before, after = model.read_both(image(), IDS, REAL), model.read_both(image(), other, REAL)
    assert before.shape == (2, 7, 8)
    assert changed(before, after) == [[0, i] for i in range(7)]
    assert not torch.allclose(before[:, :3], model(image()))


def test_a_caption_sees_the_queries_and_what_comes_before(model: QFormer) -> None:
    memory = Memory()
    queries = model(image(), attend=memory.keep)
    torch.testing.assert_close(queries, model(image()))
    before = model.continue_text(IDS, REAL, memory)
    other = IDS.clone()
    other[0, 2] = 11
    assert changed(before, model.continue_text(other, REAL, memory)) == [[0, 2], [0, 3]]
    model(image().flip(0), attend=memory.keep)  # each text after the other's picture
    assert len(changed(before, model.continue_text(IDS, REAL, memory))) == IDS.numel()


def test_a_caption_trains_what_reads_the_picture(model: QFormer) -> None:
    memory = Memory()
    model(image(), attend=memory.keep)
    model.continue_text(IDS, REAL, memory)[REAL].square().sum().backward()
    assert model.queries.grad is not None and model.queries.grad.any()


def test_queries_and_text_have_their_own_mlps(model: QFormer) -> None:
    picture, text = model(image()), model.read_text(IDS, REAL)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.part.out.bias += 1.0
    assert torch.equal(model.read_text(IDS, REAL), text)
    assert not torch.equal(model(image()), picture)


def test_without_a_text_branch() -> None:
    config = replace(TINY, text=None)
    model = QFormer(config)
    assert not any("text" in name for name, _ in model.named_parameters())
    assert model(image()).shape == (2, 3, 8)
    for use in (lambda: model.read_text(IDS, REAL), lambda: model.read_both(image(), IDS, REAL)):
        with pytest.raises(ConfigError, match="no text branch"):
            use()
    with pytest.raises(ConfigError, match="without a text branch"):
        QFormerHeads(config)


def test_heads() -> None:
    heads = QFormerHeads(TINY, shared=4)
    queries, text = torch.randn(2, 3, 8), torch.randn(5, 4, 8)
    pictures, words = heads.image_features(queries), heads.text_features(text)
    torch.testing.assert_close(pictures.norm(dim=-1), torch.ones(2, 3))
    likeness = heads.similarity(pictures, words[:, 0])
    assert likeness.shape == (2, 5)
    torch.testing.assert_close(likeness[1, 4], (pictures[1] @ words[4, 0]).max() / 0.07)
    torch.testing.assert_close(heads.match(queries)[1], heads.matching(queries[1]).mean(0))
    table = torch.randn(20, 8)
    assert heads.captioning(text, table).shape == (5, 4, 20)
