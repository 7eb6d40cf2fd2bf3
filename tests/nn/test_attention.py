from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask, flex_attention

from plait.errors import InputError
from plait.nn import attention
from plait.nn.attention import PLAIN, Attend, CrossAttention, KVCache, Score, SelfAttention, Visibility, whole
from plait.nn.blocks import MLP, Block, Decoder
from plait.nn.positions import NoRotation, RelativeBias, Rotary, SinusoidalPositions, XPos

Packs = tuple[Tensor, Tensor, list[tuple[int, int, int]]]  # document, block, (row, first, behind the last)


def draw_packs(random: Random) -> Packs:
    """Rows of documents of many lengths, causal, whole or mixed, and pads."""
    b, t = random.randint(1, 3), random.randint(1, 30)
    document = torch.full((b, t), -1)
    block = torch.full((b, t), -1)
    places = []
    for row in range(b):
        at = blocks = 0
        kind = random.choice(["causal", "whole", "mixed"])
        for number in range(random.randint(0, 5)):
            stop = min(t, at + random.randint(1, 12))
            if at < stop:
                document[row, at:stop] = number
                places.append((row, at, stop))
                cuts = [at, stop] if kind == "whole" else sorted(random.randint(at, stop) for _ in range(4))
                for a, b_ in pairwise(cuts):
                    if kind == "whole" or (kind == "mixed" and random.random() < 0.6):
                        block[row, a:b_] = blocks
                        blocks += 1
            at = stop
    return document, block, places


def random_bias(bidirectional: bool = True) -> RelativeBias:
    """Of two heads, with buckets that end within a document."""
    bias = RelativeBias(8, 2, longest=9, bidirectional=bidirectional)
    nn.init.normal_(bias.weight, std=2.0, generator=torch.Generator().manual_seed(5))
    return bias


SCORES: dict[str, Callable[[], Score]] = {
    "plain": Score,
    "unscaled": lambda: Score(scale=1.0),
    "t5": lambda: Score(scale=1.0, bias=random_bias(False)),
    "biased": lambda: Score(bias=random_bias()),
}


@pytest.fixture(params=SCORES)
def score(request: pytest.FixtureRequest) -> Score:
    return SCORES[request.param]()


def alone(q: Tensor, k: Tensor, v: Tensor, block: Tensor, score: Score = PLAIN) -> Tensor:
    """Attention of one document, (t, h, d) each, element by element."""
    out = torch.zeros_like(v)
    scale = q.shape[-1] ** -0.5 if score.scale is None else score.scale
    for i in range(len(q)):
        seen = [j for j in range(len(q)) if j <= i or (block[i] >= 0 and block[i] == block[j])]
        wanted = scale * torch.einsum("hd,jhd->hj", q[i], k[seen])
        if score.bias is not None:
            wanted = wanted + score.bias(torch.tensor([i - j for j in seen])).T
        out[i] = torch.einsum("hj,jhd->hd", wanted.softmax(-1), v[seen])
    return out


def each_alone(qkv: Tensor, block: Tensor, places: list[tuple[int, int, int]], score: Score) -> Tensor:
    """`alone` for every document of a pack (3, b, t, h, d); pads stay zero."""
    expected = torch.zeros_like(qkv[0])
    for row, first, last in places:
        here = (row, slice(first, last))
        expected[here] = alone(*qkv[:, row, first:last], block[here], score)
    return expected


def draw_qkv(random: Random, b: int, t: int) -> Tensor:
    """(3, b, t, 2, 4)."""
    return torch.randn(3, b, t, 2, 4, generator=torch.Generator().manual_seed(random.randrange(1000)))


FIXTURE_STAYS = [HealthCheck.function_scoped_fixture]  # a score is not changed by use


@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURE_STAYS)
@given(random=st.randoms(use_true_random=False))
def test_packed_attention_is_that_of_each_document_alone(random: Random, score: Score) -> None:
    document, block, places = draw_packs(random)
    qkv = draw_qkv(random, *document.shape)
    with torch.no_grad():
        expected = each_alone(qkv, block, places, score)
    visible = Visibility(document, block)
    torch.testing.assert_close(visible.attend(*qkv, score), expected, atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(visible.attend(*qkv.bfloat16(), score).float(), expected, atol=6e-2, rtol=3e-2)
    half = [x.bfloat16().requires_grad_() for x in qkv]  # scores written out
    torch.testing.assert_close(visible.attend(*half, score).float(), expected, atol=6e-2, rtol=3e-2)


@settings(max_examples=15, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_gradients_of_a_bias_on_packs_are_those_of_its_documents(random: Random) -> None:
    document, block, places = draw_packs(random)
    if not places:
        return
    score = Score(scale=1.0, bias=random_bias())
    weight = next(score.bias.parameters())
    x = torch.randn(4, *document.shape, 2, 4, generator=torch.Generator().manual_seed(random.randrange(1000)))
    wanted = x[3] * (document >= 0)[..., None, None]
    qkv = x[:3].clone().requires_grad_()
    expected = torch.autograd.grad(each_alone(qkv, block, places, score), (qkv, weight), wanted)
    got = torch.autograd.grad(Visibility(document, block).attend(*qkv, score), (qkv, weight), wanted)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    half = x[:3].bfloat16().requires_grad_()
    out = Visibility(document, block).attend(*half, score)
    (rough,) = torch.autograd.grad(out, (weight,), wanted.bfloat16())
    torch.testing.assert_close(rough, expected[1], atol=0.3, rtol=5e-2)


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


@pytest.fixture
def eager_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as written, which runs on a CPU, forward only."""
    monkeypatch.setattr(attention, "_compiled_flex", lambda: flex_attention)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(max_examples=6, deadline=None, suppress_health_check=FIXTURE_STAYS)
@given(random=st.randoms(use_true_random=False))
@torch.no_grad()
def test_the_gpu_path_is_that_of_each_document_alone(random: Random, score: Score, eager_flex: None) -> None:
    document, block, places = draw_packs(random)
    qkv = draw_qkv(random, *document.shape)
    real = document >= 0
    got = Visibility(document, block)._flex(*qkv, score)
    torch.testing.assert_close(got[real], each_alone(qkv, block, places, score)[real], atol=2e-6, rtol=1e-5)
    assert got.isfinite().all()


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


def test_whole_sees_all_or_what_is_left() -> None:
    q, k, v = torch.randn(3, 2, 5, 2, 4, generator=torch.Generator().manual_seed(0)).unbind(0)  # (b, t, h, d) each
    seen = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[..., 0] = True
    for mask in (None, seen, seen[:, :1]):  # the last: keys left out for all queries alike
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 2
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        torch.testing.assert_close(whole(mask)(q, k, v), torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v))


def test_attention_to_another_sequence() -> None:
    attention = CrossAttention(8, 6, 2, bias=True)
    x, source = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    q, (k, v) = attention.q(x), attention.kv(source).chunk(2, dim=-1)
    heads = [(q[..., a:b] @ k[..., a:b].mT / 2).softmax(-1) @ v[..., a:b] for a, b in ((0, 4), (4, 8))]
    torch.testing.assert_close(attention(x, source, whole()), attention.out(torch.cat(heads, dim=-1)))
    with pytest.raises(InputError, match="width 9 does not divide into 2 heads"):
        CrossAttention(9, 6, 2)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="width 10 does not divide into 4 heads"):
        SelfAttention(10, 4, NoRotation())


# ----------------------------------------------------------------------------------------------- the cache


class Rows:
    """The oracle of a cache: what each row was fed, and the full pass over it."""

    def __init__(self, decoder: Decoder, cache: KVCache, score: Score = PLAIN, embed: nn.Module | None = None) -> None:
        self.decoder = decoder
        self.cache = cache
        self.score = score
        self.embed = embed
        self.fed: list[Tensor] = []  # (t, c) each
        self.blocks: list[Tensor] = []  # (t,) each
        self.generator = torch.Generator().manual_seed(3)

    def run(self, x: Tensor, position: Tensor, attend: Callable[[int], Attend]) -> Tensor:
        return self.decoder(x if self.embed is None else x + self.embed(position), position, attend)

    def feed(self, counts: list[int], cache: KVCache | None = None, first: int = 0, wholes: str = "") -> None:
        """Feeds new elements to the first rows, and compares with the full passes.

        `wholes`: a letter for each new element, the same in all rows; equal letters are a whole span, dots causal.
        """
        while len(self.fed) < first + len(counts):
            self.fed.append(torch.zeros(0, 16))
            self.blocks.append(torch.zeros(0).long())
        x = torch.randn(len(counts), max(counts), 16, generator=self.generator)
        block = torch.tensor([-1 if letter == "." else ord(letter) for letter in wholes or "." * max(counts)])
        block = torch.where(torch.arange(max(counts)) < torch.tensor(counts)[:, None], block, -1)
        cache = cache or self.cache
        position = cache.advance(torch.tensor(counts), block if wholes else None)
        out = self.run(x, position, lambda layer: cache.attend(layer, self.score))
        for i, count in enumerate(counts):
            row = self.fed[first + i] = torch.cat([self.fed[first + i], x[i, :count]])
            new = torch.where(block[i, :count] < 0, -1, block[i, :count] + 1000 * len(self.blocks[first + i]))
            spans = self.blocks[first + i] = torch.cat([self.blocks[first + i], new])
            n = len(row)
            assert position[i, :count].tolist() == list(range(n - count, n))
            one = functools.partial(Visibility(torch.zeros(1, n).long(), spans[None]).attend, score=self.score)
            full = self.run(row[None], torch.arange(n)[None], lambda layer, one=one: one)
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
        for held in (self.fed, self.blocks):
            held[row] = held[-1]
            held.pop()

    def reorder(self, index: list[int]) -> None:
        """Beams go on from others."""
        self.cache.reorder(torch.tensor(index))
        for held in (self.fed, self.blocks):
            held[: len(index)] = [held[i] for i in index]


POSITIONS: dict[str, Callable[[KVCache], Rows]] = {
    "rotary": lambda cache: Rows(model(), cache),
    "xpos": lambda cache: Rows(model(XPos(8, 40)), cache),
    "sinusoidal": lambda cache: Rows(model(NoRotation()), cache, embed=SinusoidalPositions(16)),
    "t5": lambda cache: Rows(model(NoRotation()), cache, SCORES["t5"]()),
    "biased": lambda cache: Rows(model(NoRotation()), cache, SCORES["biased"]()),
}


@pytest.mark.parametrize("capacity", [None, 40])
@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_step_by_step_is_the_full_pass(positions: str, capacity: int | None) -> None:
    rows = POSITIONS[positions](KVCache(4, capacity))
    for counts in ([3, 7, 1], [1, 1, 1], [4, 1, 2], [1, 1, 1], [2, 5, 1], [1, 1, 1]):
        rows.feed(counts)
    assert rows.cache.lengths.tolist() == [12, 16, 7, 0]


@pytest.mark.parametrize("capacity", [None, 40])
@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_whole_spans_in_a_prompt_and_behind_it_are_seen_whole(positions: str, capacity: int | None) -> None:
    rows = POSITIONS[positions](KVCache(3, capacity))
    rows.feed([8, 5, 1], wholes="a.bbb.cc")  # the second ends inside b, the third is one element of its own
    rows.feed([1, 1, 1])
    rows.feed([4, 2, 3], wholes=".aaa")  # the same letter, another span
    rows.feed([1, 1, 1])
    assert rows.cache.lengths.tolist() == [14, 9, 6]


@settings(max_examples=20, deadline=None, suppress_health_check=FIXTURE_STAYS)
@given(random=st.randoms(use_true_random=False))
@torch.no_grad()
def test_a_prefilled_cache_is_a_dense_mask(random: Random, score: Score) -> None:
    document, block, _ = draw_packs(random)
    b, t = document.shape
    document = torch.where(document == 0, 0, -1)  # the first sequence of each row is its prompt
    counts = (document == 0).sum(1)
    if not counts.max():
        return
    cache = KVCache(b)
    cache.advance(counts, block[:, : int(counts.max())])
    qkv = draw_qkv(random, b, t)
    out = cache.attend(0, score)(*qkv[:, :, : int(counts.max())])
    for row, count in enumerate(counts.tolist()):
        expected = alone(*qkv[:, row, :count], block[row], score)
        torch.testing.assert_close(out[row, :count], expected, atol=2e-6, rtol=1e-5)


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


@torch.no_grad()
def test_rows_go_on_from_others() -> None:
    rows = Rows(model(), KVCache(6))
    rows.feed([3, 7])
    rows.reorder([0, 0, 0, 1, 1, 1])
    rows.feed([1] * 6)
    rows.reorder([2, 0, 1, 5, 5, 3])
    rows.feed([1, 2, 1, 3, 1, 1])
    rows.reorder([0, 1, 2, 3, 4, 5])
    rows.reorder([3])  # the others stay
    rows.feed([1] * 6)
    assert rows.cache.lengths.tolist() == [12, 7, 6, 12, 10, 10]


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


@torch.no_grad()
def test_memory_is_taken_for_the_rows_in_use() -> None:
    rows = Rows(model(), KVCache(1000))
    rows.feed([2, 3])
    few = _bytes(rows.cache)
    assert 0 < few < 100_000
    rows.feed([1, 1, 4])  # a third row
    assert _bytes(rows.cache) == 2 * few


def _bytes(cache: KVCache) -> int:
    return sum(storage.nbytes for pair in cache._layers for storage in pair)
