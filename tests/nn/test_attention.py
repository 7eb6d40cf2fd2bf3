from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask

from plait.errors import InputError
from plait.nn.attention import KVCache, SelfAttention, Visibility
from plait.nn.blocks import MLP, Block, Decoder
from plait.nn.positions import NoRotation, Rotary

Packs = tuple[Tensor, Tensor, list[tuple[int, int, int]]]  # document, block, (row, first, behind the last)


def draw_packs(random: Random) -> Packs:
    """Rows of documents of many lengths, with whole spans and pads."""
    b, t = random.randint(1, 3), random.randint(1, 30)
    document = torch.full((b, t), -1)
    block = torch.full((b, t), -1)
    places = []
    for row in range(b):
        at = blocks = 0
        spans = random.random() < 0.6
        for number in range(random.randint(0, 5)):
            stop = min(t, at + random.randint(1, 12))
            if at < stop:
                document[row, at:stop] = number
                places.append((row, at, stop))
                if spans:
                    a, b_ = sorted(random.randint(at, stop) for _ in range(2))
                    block[row, a:b_] = blocks
                    blocks += 1
            at = stop
    return document, block, places


def alone(q: Tensor, k: Tensor, v: Tensor, block: Tensor) -> Tensor:
    """Attention of one document, (t, h, d) each, element by element."""
    out = torch.zeros_like(v)
    for i in range(len(q)):
        seen = [j for j in range(len(q)) if j <= i or (block[i] >= 0 and block[i] == block[j])]
        score = torch.einsum("hd,jhd->hj", q[i], k[seen]) / q.shape[-1] ** 0.5
        out[i] = torch.einsum("hj,jhd->hd", score.softmax(-1), v[seen])
    return out


@settings(max_examples=40, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_packed_attention_is_that_of_each_document_alone(random: Random) -> None:
    document, block, places = draw_packs(random)
    b, t = document.shape
    q, k, v = torch.randn(3, b, t, 2, 4, generator=torch.Generator().manual_seed(random.randrange(1000)))
    expected = torch.zeros_like(v)  # pads stay zero
    for row, first, last in places:
        here = (row, slice(first, last))
        expected[here] = alone(q[here], k[here], v[here], block[here])
    visible = Visibility(document, block)
    torch.testing.assert_close(visible.attend(q, k, v), expected, atol=2e-6, rtol=1e-5)
    half = [x.bfloat16().requires_grad_() for x in (q, k, v)]  # scores written out
    torch.testing.assert_close(visible.attend(*half).float(), expected, atol=5e-2, rtol=2e-2)


@settings(max_examples=20, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_gradients_in_bf16_are_those_in_fp32(random: Random) -> None:
    document, block, places = draw_packs(random)
    if not places:
        return
    x = torch.randn(4, *document.shape, 2, 4, generator=torch.Generator().manual_seed(random.randrange(1000)))
    wanted = x[3] * (document >= 0)[..., None, None]
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        qkv = [part.to(dtype).requires_grad_() for part in x[:3]]
        out = Visibility(document, block).attend(*qkv)
        gradients.append(torch.stack(torch.autograd.grad(out, qkv, wanted.to(dtype))).float())
    torch.testing.assert_close(gradients[1], gradients[0], atol=8e-2, rtol=5e-2)


@settings(max_examples=30, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_the_mask_of_the_gpu_kernel_is_the_dense_one(random: Random) -> None:
    document, block, _ = draw_packs(random)
    b, t = document.shape
    visible = Visibility(document, block)
    mask = create_mask(visible._sees(), b, None, t, t, device="cpu")[:, 0]
    real = document >= 0
    assert torch.equal(mask[real], visible.dense()[real])
    assert mask.any(-1).all()  # a query that sees nothing would give NaN


def model(rotation: nn.Module | None = None) -> Decoder:
    torch.manual_seed(0)
    parts = [
        Block(
            nn.LayerNorm(16),
            SelfAttention(16, 2, rotation or Rotary(8)),
            nn.LayerNorm(16),
            MLP(16, 32, nn.ReLU()),
        )
        for _ in range(2)
    ]
    return Decoder(parts, nn.LayerNorm(16))


def test_gradients_of_a_pack_are_those_of_its_documents() -> None:
    decoder, lengths = model(), [5, 9, 1, 8, 3]
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randn(1, n, 16, generator=generator) for n in lengths]
    wanted = [torch.randn(1, n, 16, generator=generator) for n in lengths]

    def spread(parts: list[Tensor], pad: int) -> Tensor:
        """Documents 0, 1, 2 in one row, 3 and 4 in the other, which ends with pads."""
        rows = [torch.cat(parts[:3], 1), torch.cat([*parts[3:], torch.full_like(parts[0], pad)[:, :4]], 1)]
        return torch.cat(rows)

    block = torch.full((2, 15), -1)
    block[0, 6:9], block[1, 8:10] = 0, 0
    number = spread([torch.full((1, n, 1), i) for i, n in enumerate(lengths)], -1)[..., 0].long()
    position = spread([torch.arange(n)[None, :, None] for n in lengths], 0)[..., 0]
    visible = Visibility(number, block)

    packed = decoder(spread(documents, 0), position, lambda layer: visible.attend)
    packed.backward(spread(wanted, 0))
    together = {name: p.grad for name, p in decoder.named_parameters()}
    decoder.zero_grad()
    for x, g, at in zip(documents, wanted, [(0, 0), (0, 5), (0, 14), (1, 0), (1, 8)], strict=True):
        n = x.shape[1]
        one = Visibility(torch.zeros(1, n).long(), block[at[0], at[1] : at[1] + n][None])
        decoder(x, torch.arange(n)[None], lambda layer, one=one: one.attend).backward(g)
    for name, p in decoder.named_parameters():
        torch.testing.assert_close(together[name], p.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="width 10 does not divide into 4 heads"):
        SelfAttention(10, 4, NoRotation())


# ----------------------------------------------------------------------------------------------- the cache


class Rows:
    """The oracle of a cache: what each row was fed, and the full pass over it."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self.decoder = decoder
        self.cache = cache
        self.fed: list[Tensor] = []  # (t, c) each
        self.generator = torch.Generator().manual_seed(3)

    def feed(self, counts: list[int], cache: KVCache | None = None, first: int = 0) -> None:
        """Feeds new elements to the first rows, and compares with the full passes."""
        while len(self.fed) < first + len(counts):
            self.fed.append(torch.zeros(0, 16))
        x = torch.randn(len(counts), max(counts), 16, generator=self.generator)
        cache = cache or self.cache
        position = cache.advance(torch.tensor(counts))
        out = self.decoder(x, position, cache.attend)
        for i, count in enumerate(counts):
            row = self.fed[first + i] = torch.cat([self.fed[first + i], x[i, :count]])
            n = len(row)
            assert position[i, :count].tolist() == list(range(n - count, n))
            one = Visibility(torch.zeros(1, n).long(), torch.full((1, n), -1))
            full = self.decoder(row[None], torch.arange(n)[None], lambda layer, one=one: one.attend)
            torch.testing.assert_close(out[i, :count], full[0, n - count :], atol=2e-5, rtol=1e-4)

    def adopt(self, counts: list[int]) -> None:
        first = len(self.fed)
        apart = KVCache(len(counts))
        self.feed(counts, apart, first)
        self.cache.adopt(apart, first)

    def leave(self, row: int) -> None:
        """The last row takes the place of one that is done."""
        self.cache.move(len(self.fed) - 1, row)
        self.cache.clear(len(self.fed) - 1)
        self.fed[row] = self.fed[-1]
        self.fed.pop()


@pytest.mark.parametrize("capacity", [None, 40])
@torch.no_grad()
def test_step_by_step_is_the_full_pass(capacity: int | None) -> None:
    rows = Rows(model(), KVCache(4, capacity))
    for counts in ([3, 7, 1], [1, 1, 1], [4, 1, 2], [1, 1, 1], [2, 5, 1], [1, 1, 1]):
        rows.feed(counts)
    assert rows.cache.lengths.tolist() == [12, 16, 7, 0]


@settings(max_examples=15, deadline=None)
@given(random=st.randoms(use_true_random=False), capacity=st.sampled_from([None, 200]))
@torch.no_grad()
def test_rows_that_join_and_leave_stay_what_they_are(random: Random, capacity: int | None) -> None:
    rows = Rows(model(), KVCache(4, capacity))
    for _ in range(8):
        if len(rows.fed) < 4 and random.random() < 0.5:
            joined = random.randint(1, 4 - len(rows.fed))
            rows.adopt([random.randint(1, 9) for _ in range(joined)])
        elif rows.fed and random.random() < 0.4:
            rows.leave(random.randrange(len(rows.fed)))
        elif rows.fed:
            rows.feed([random.choice([1, 1, 1, 2, 5]) for _ in rows.fed])
    assert rows.cache.lengths[: len(rows.fed)].tolist() == [len(row) for row in rows.fed]


@torch.no_grad()
def test_a_growing_cache_keeps_what_it_holds() -> None:
    rows = Rows(model(), KVCache(2))
    rows.feed([60, 3])
    rows.feed([5, 4])  # beyond the first 64
    assert rows.cache.capacity == 128
    rows.feed([1, 70])
    assert rows.cache.capacity == 128


@torch.no_grad()
def test_a_fixed_cache_can_be_filled_to_the_last_place_and_not_beyond() -> None:
    rows = Rows(model(), KVCache(2, 12))
    rows.feed([11, 2])
    rows.feed([1, 5])  # the fillers of the first row find no room, and need none
    assert rows.cache.lengths.tolist() == [12, 7]
    with pytest.raises(InputError, match="13 elements in a cache of 12"):
        rows.cache.advance(torch.tensor([1, 1]))
    assert rows.cache.lengths.tolist() == [12, 7]
    long = KVCache(1)
    long.advance(torch.tensor([13]))
    with pytest.raises(InputError, match="13 elements in a cache of 12"):
        rows.cache.adopt(long, 1)


def test_fillers_stand_at_real_positions() -> None:
    cache = KVCache(3)
    assert cache.advance(torch.tensor([3, 1, 2])).tolist() == [[0, 1, 2], [0, 0, 0], [0, 1, 1]]
    assert cache.advance(torch.tensor([1, 2, 0])).tolist() == [[3, 3], [1, 2], [1, 1]]
    assert cache.lengths.tolist() == [4, 3, 2]


@torch.no_grad()
def test_rows_of_equal_length_after_a_step_may_have_been_fed_differently() -> None:
    rows = Rows(model(), KVCache(2))
    rows.feed([3, 2])
    rows.feed([0, 1])
    rows.feed([1, 1])
