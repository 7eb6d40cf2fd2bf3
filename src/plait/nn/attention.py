"""Attention: to the own sequence and to another, and the ways in which elements see each other.

A module does not know how a batch is packed or cached: it is given an `Attend`, a function of (q, k, v).

* `Visibility.attend`: rows of packed sequences; an element sees those of its own sequence before it, and all of its
  own whole span. On a CPU the sequences of similar length are gathered and run through scaled-dot-product attention
  together, so no element attends to another sequence's; on a GPU one FlexAttention kernel skips them.
* `KVCache.attend(layer)`: new elements see all that the cache holds of their row, and all of their own whole span.
* `whole(seen)`: everything sees everything, or what a mask leaves: towers over pictures, queries, short texts.

The first two take a `Score` where it is not the usual one: another scale, or a bias for distances. It belongs to the
`Attend`, not to a layer's module, so the layers of a stack share one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from plait.errors import InputError

WRITTEN_OUT = 512  # sequences up to this length, see _written_out
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (b, t, h, d) three times -> (b, t, h, d)


@dataclass(frozen=True)
class Score:
    """How much a query wants a key: scale * q k + bias(distance)."""

    scale: float | None = None
    """None: 1 / sqrt(d)."""
    bias: Callable[[Tensor], Tensor] | None = None
    """Distances (...) in elements, positive to keys before the query -> (..., h). `RelativeBias` is one."""

    def added(self, distance: Int[Tensor, "*any q k"], seen: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What is added to the scaled products, (..., h, q, k): the bias, and -inf where `seen` is false."""
        bias = torch.zeros((), dtype=dtype, device=distance.device)
        if self.bias is not None:
            bias = self.bias(distance).movedim(-1, -3).to(dtype)
        return bias if seen is None else torch.where(seen, bias, -torch.inf)

    def modification(self, length: int, device: torch.device) -> Callable[..., Tensor] | None:
        """The bias as FlexAttention wants it: a function of (score, row, head, query, key) in rows of `length`."""
        if self.bias is None:
            return None
        bias = self.bias(torch.arange(1 - length, length, device=device))  # (2 * length - 1, h)
        nearest = torch.tensor(length - 1, device=device)  # a tensor: a number would compile anew for each length
        return lambda score, row, head, query, key: score + bias[query - key + nearest, head]


PLAIN = Score()


class SelfAttention(nn.Module):
    """Multi-head self-attention: out(softmax(q k^T / sqrt(d)) v), with q and k turned by `rotation`.

    What the softmax is taken of is for `attend` to say: see `Score`.

    Args:
        head_width: d; None: the heads share the width among them.
    """

    def __init__(
        self, width: int, heads: int, rotation: nn.Module, bias: bool = False, head_width: int | None = None
    ) -> None:
        super().__init__()
        inner = _inner(width, heads, head_width)
        self.heads = heads
        self.rotation = rotation
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """Every element gathers from those that `attend` lets it see."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (b, t, 3, h, d)
        q, k = self.rotation(qkv[:, :, :2], position).unbind(2)
        return self.out(attend(q, k, qkv[:, :, 2]).flatten(-2))


class GroupedSelfAttention(nn.Module):
    """`SelfAttention` in which neighbouring heads share keys and values (arXiv 2305.13245).

    Args:
        shared: heads of keys and values; the heads of queries are a multiple of it.
    """

    def __init__(self, width: int, heads: int, shared: int, rotation: nn.Module, bias: bool = False) -> None:
        super().__init__()
        if width % heads or heads % shared:
            raise InputError(f"width {width} for {heads} heads on {shared} of keys: each must divide the one before")
        self.heads = heads
        self.shared = shared
        self.rotation = rotation
        self.qkv = nn.Linear(width, width + 2 * shared * (width // heads), bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(
        self, x: Float[Tensor, "b t c"], position: Int[Tensor, "b t"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """Every element gathers from those that `attend` lets it see."""
        heads = self.qkv(x).unflatten(-1, (self.heads + 2 * self.shared, -1))  # (b, t, h + 2 s, d)
        q, k, v = heads.split((self.heads, self.shared, self.shared), dim=2)
        k, v = (each.repeat_interleave(self.heads // self.shared, dim=2) for each in (k, v))
        q, k = self.rotation(torch.stack((q, k), dim=2), position).unbind(2)
        return self.out(attend(q, k, v).flatten(-2))


class CrossAttention(nn.Module):
    """Multi-head attention to another sequence: out(softmax(q k^T / sqrt(d)) v), k and v from the `source`.

    Args:
        head_width: d; None: the heads share the width among them.
    """

    def __init__(
        self, width: int, source_width: int, heads: int, bias: bool = False, head_width: int | None = None
    ) -> None:
        super().__init__()
        inner = _inner(width, heads, head_width)
        self.heads = heads
        self.q = nn.Linear(width, inner, bias=bias)
        self.kv = nn.Linear(source_width, 2 * inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)

    def forward(
        self, x: Float[Tensor, "b t c"], source: Float[Tensor, "b s e"], attend: Attend
    ) -> Float[Tensor, "b t c"]:
        """Every element gathers from those of the source that `attend` lets it see."""
        q = self.q(x).unflatten(-1, (self.heads, -1))  # (b, t, h, d)
        k, v = self.kv(source).unflatten(-1, (2, self.heads, -1)).unbind(2)  # (b, s, h, d) each
        return self.out(attend(q, k, v).flatten(-2))


def _inner(width: int, heads: int, head_width: int | None) -> int:
    """The width of all heads together."""
    if head_width is not None:
        return heads * head_width
    if width % heads:
        raise InputError(f"width {width} does not divide into {heads} heads")
    return width


def whole(seen: Bool[Tensor, "b _ k"] | None = None, score: Score = PLAIN, dropout: float = 0.0) -> Attend:
    """Everything sees everything, or what `seen` leaves of it: each query must keep a key, or it becomes NaN.

    Args:
        seen: whether a query sees a key; one row for all queries where only keys are left out.
        score: what the softmax is taken of.
        dropout: the share of what is seen that is dropped.
    """
    mask = None if seen is None else seen[:, None]  # (b, 1, q or 1, k)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        added = mask
        if score.bias is not None:
            order = [torch.arange(x.shape[-2], device=x.device) for x in (q, k)]
            added = score.added(order[0][:, None] - order[1], mask, q.dtype)
        if not _written_out(q, k):
            out = scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout, scale=score.scale)
            return out.transpose(1, 2)
        scores = (q.shape[-1] ** -0.5 if score.scale is None else score.scale) * q @ k.transpose(-1, -2)
        if added is not None and added.dtype == torch.bool:
            scores = scores.masked_fill(~added, -torch.inf)
        elif added is not None:
            scores = scores + added
        return (nn.functional.dropout(scores.softmax(-1), dropout) @ v).transpose(1, 2)

    return run


def _written_out(q: Tensor, k: Tensor) -> bool:
    """Whether attention (s, h, n, d) is to be three matrix products, with the scores written out.

    In bf16 the CPU kernel's backward takes five times as long (measured for n = 85 and 150), so short sequences are
    trained that way.
    """
    short = max(q.shape[-2], k.shape[-2]) <= WRITTEN_OUT
    return short and q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled()


class Visibility:
    """Who sees whom in rows of packed sequences.

    Args:
        document: (b, t) number of the sequence within its row, -1 at pads; a sequence's elements are consecutive.
        block: (b, t) number of the whole span within the row, -1 where an element sees only those before it.
    """

    def __init__(self, document: Int[Tensor, "b t"], block: Int[Tensor, "b t"]) -> None:
        self.document = document
        self.block = block

    def dense(self) -> Bool[Tensor, "b t t"]:
        """The mask written out: [b, query, key]. Pads see themselves."""
        t = self.document.shape[1]
        order = torch.arange(t, device=self.document.device)
        before = order[:, None] >= order
        together = (self.block[:, :, None] == self.block[:, None, :]) & (self.block >= 0)[:, :, None]
        same = self.document[:, :, None] == self.document[:, None, :]
        real = (self.document >= 0)[:, :, None]
        return torch.where(real, same & (before | together), torch.eye(t, dtype=torch.bool, device=order.device))

    def attend(
        self,
        q: Float[Tensor, "b t h d"],
        k: Float[Tensor, "b t h d"],
        v: Float[Tensor, "b t h d"],
        score: Score = PLAIN,
    ) -> Float[Tensor, "b t h d"]:
        """Packed attention; pads give zeros on a CPU and anything on a GPU."""
        return self._flex(q, k, v, score) if q.is_cuda else self._grouped(q, k, v, score)

    def _flex(self, q: Tensor, k: Tensor, v: Tensor, score: Score) -> Tensor:
        heads = (x.transpose(1, 2) for x in (q, k, v))
        changed = score.modification(q.shape[1], q.device)
        run = _compiled_flex()
        return run(*heads, score_mod=changed, block_mask=self._block_mask, scale=score.scale).transpose(1, 2)

    @functools.cached_property
    def _block_mask(self) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        b, t = self.document.shape
        return create_block_mask(self._sees(), b, None, t, t, device=self.document.device)

    def _sees(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The mask as FlexAttention wants it: a function of (row, head, query, key). Pads see the pads before them."""
        document, block = self.document, self.block
        # A lambda: FlexAttention counts its arguments, which shape checks would hide.
        return lambda row, head, query, key: (
            (document[row, query] == document[row, key])
            & ((query >= key) | ((block[row, query] == block[row, key]) & (block[row, query] >= 0)))
        )

    @functools.cached_property
    def _groups(self) -> tuple[list[_Group], Tensor, Tensor]:
        """Sequences of similar length; the inputs of all groups, joined; and of each of the b * t its place there."""
        document = self.document.flatten()
        b, t = self.document.shape
        row = torch.arange(b, device=document.device).repeat_interleave(t)
        edge = torch.ones_like(document, dtype=torch.bool)
        edge[1:] = (document[1:] != document[:-1]) | (row[1:] != row[:-1])
        start = edge.nonzero().flatten()
        length = torch.diff(start, append=start.new_tensor([b * t]))
        kept = document[start] >= 0
        start, length = start[kept], length[kept]
        order = length.argsort(descending=True, stable=True)
        start, length = start[order], length[order]
        groups, taken, inverse, at = [], [start[:0]], torch.full_like(document, -1), 0
        for first, last in _similar(length.tolist()):
            size = int(length[first])
            inside = torch.arange(size, device=document.device)
            real = inside < length[first:last, None]  # (s, size)
            index = torch.where(real, start[first:last, None] + inside, start[first:last, None])
            inverse[index[real]] = at + real.flatten().nonzero().flatten()
            groups.append(_Group(index.shape, self._group_mask(index, real)))
            taken.append(index.flatten())
            at += index.numel()
        return groups, torch.cat(taken), torch.where(inverse < 0, at, inverse)

    def _group_mask(self, index: Tensor, real: Tensor) -> Tensor | None:
        """None where plain causal attention is right: pads stand last, so no real element sees them."""
        block = torch.where(real, self.block.flatten()[index], -1)
        if not (block >= 0).any():
            return None
        return Visibility(torch.where(real, 0, -1), block).dense()[:, None]

    def _grouped(self, q: Tensor, k: Tensor, v: Tensor, score: Score) -> Tensor:
        groups, taken, inverse = self._groups
        b, t, h, d = q.shape
        qkv = torch.stack((q, k, v)).reshape(3, b * t, h, d)
        gathered = torch.split(qkv.index_select(1, taken), [group.shape.numel() for group in groups], dim=1)
        parts = []
        for group, three in zip(groups, gathered, strict=True):
            queries, keys, values = three.view(3, *group.shape, h, d).transpose(2, 3)  # (s, h, n, d) each
            parts.append(_attend(queries, keys, values, group.mask, score))
        flat = [part.transpose(1, 2).reshape(-1, h, d) for part in parts]
        joined = torch.cat([*flat, q.new_zeros(1, h, d)])  # the last row is what pads get
        return joined.index_select(0, inverse).view(b, t, h, d)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, score: Score) -> Tensor:
    """Attention (s, h, n, d) under a mask (s, 1, n, n), or plainly causal where there is none."""
    n = q.shape[-2]
    written_out = _written_out(q, k)
    if score.bias is None and not written_out:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=score.scale)
    order = torch.arange(n, device=q.device)
    distance = order[:, None] - order
    added = score.added(distance, distance >= 0 if mask is None else mask, q.dtype)
    if not written_out:
        return scaled_dot_product_attention(q, k, v, attn_mask=added, scale=score.scale)
    added = added.expand(*q.shape[:2], n, n).reshape(-1, n, n) if added.dim() > 2 else added
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # (s * h, n, d)
    scale = q.shape[-1] ** -0.5 if score.scale is None else score.scale
    scores = torch.baddbmm(added, queries, keys.transpose(-1, -2), alpha=scale)
    return torch.bmm(scores.softmax(-1), values).view(q.shape)


class _Group:
    """s sequences that go through one call: (s, n), short ones filled up to n, and their mask if not causal."""

    def __init__(self, shape: torch.Size, mask: Tensor | None) -> None:
        self.shape = shape
        self.mask = mask


def _similar(lengths: list[int]) -> list[tuple[int, int]]:
    """Ranges (first, behind the last) of falling lengths in which the shortest has at least 7/8 of the longest."""
    ranges, first = [], 0
    for i, length in enumerate(lengths):
        if length * 8 < lengths[first] * 7:
            ranges.append((first, i))
            first = i
    return [*ranges, (first, len(lengths))] if lengths else []


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@dataclass
class _Use:
    """What a step of a cache works on: the first `need` elements of the first n rows, and t new ones in each."""

    need: int
    position: Tensor  # (n, t)
    place: Tensor  # (n, t): where the new elements are written
    seen: Tensor | None  # (n, 1, t, need), None where all see all
    into: Tensor | None = None  # (n, t, h): which of a layer's rows * h * (capacity + 1) vectors the new ones become
    added: Tensor | None = None  # (n, 1, t, need): `seen` as it is added to scores

    def prepare(self, keys: Tensor) -> Tensor:
        """Once a step, not once a layer: all is brought to where the layers are; `into`."""
        if self.into is None:
            device = keys.device
            self.position, place = self.position.to(device), self.place.to(device)
            rows, heads, room, _ = keys.shape
            first = torch.arange(rows * heads, device=device).view(rows, 1, heads)[: len(place)] * room
            self.into = first + place[..., None]
            if self.seen is not None:
                self.seen = self.seen.to(device)
                self.added = torch.zeros_like(self.seen, dtype=keys.dtype).masked_fill_(~self.seen, -torch.inf)
        return self.into


class KVCache:
    """Keys and values of the elements so far, for `rows` sequences of their own lengths; never padded on the left.

    The rows in use are always 0 .. n - 1: `move` fills the gap that a finished row leaves.

    Args:
        rows: at most so many.
        capacity: elements a row can hold. None: memory for rows and elements is taken by doubling, as needed; a number:
            all of it at once, and more elements are an error.
    """

    def __init__(self, rows: int, capacity: int | None = None) -> None:
        self.fixed = capacity is not None
        self.capacity = capacity or 0
        self.rows = rows
        self._held = rows if self.fixed else 0  # rows that there is memory for
        self.lengths = torch.zeros(rows, dtype=torch.long)
        self._layers: list[tuple[Tensor, Tensor]] = []  # (held, h, capacity + 1, d) twice, one pair a layer
        self._use: _Use | None = None

    def advance(self, counts: Int[Tensor, " n"], block: Int[Tensor, "n t"] | None = None) -> Int[Tensor, "n t"]:
        """Makes room for counts[i] new elements in row i < n, and returns their positions, t = max(counts).

        Elements behind a row's count are fillers: they repeat its last position, are written to the spare place
        behind the capacity and are seen by none.

        Args:
            counts: new elements of each row.
            block: numbers of the new elements' whole spans, -1 where an element sees only those before it; None: all
                do. A whole span comes in one call, since what is in the cache cannot see what follows.
        """
        n, t = len(counts), int(counts.max())
        order = torch.arange(t)
        before = self.lengths[:n].clone()
        after = before + counts
        need = int(after.max())
        self._take(n, need)
        self.lengths[:n] = after
        position = place = before[:, None] + order
        if int(counts.min()) < t:  # there are fillers
            position = torch.minimum(position, after[:, None] - 1).clamp(min=0)
            place = torch.where(order < counts[:, None], position, self.capacity)
        seen = None
        if not n or int(position.min()) < need - 1:  # else all see all
            seen = (torch.arange(need) <= position[..., None])[:, None]  # (n, 1, t, need)
            if block is not None and (block >= 0).any():
                spans = torch.full((n, self.capacity + 1), -1)
                spans.scatter_(1, place, block)
                together = (spans[:, None, :need] == block[..., None]) & (block >= 0)[..., None]
                seen |= together[:, None]
        self._use = _Use(need, position, place, seen)
        return position

    def attend(self, layer: int, score: Score = PLAIN) -> Attend:
        """The `Attend` of one layer, for the elements that `advance` made room for."""

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            use = self._use
            assert use is not None, "advance comes before attend"
            keys, values = self._storage(layer, k)
            into = use.prepare(keys)
            keys.view(-1, k.shape[-1])[into] = k
            values.view(-1, k.shape[-1])[into] = v
            mask = use.added
            if score.bias is not None:
                distance = use.position[..., None] - torch.arange(use.need, device=k.device)
                mask = score.added(distance, use.seen, q.dtype)
            q, keys, values = q.transpose(1, 2), keys[: len(q), :, : use.need], values[: len(q), :, : use.need]
            return scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=score.scale).transpose(1, 2)

        return run

    def adopt(self, other: KVCache, first: int) -> None:
        """Takes over the rows of a cache that was filled apart, as rows from `first` on."""
        length = int(other.lengths.max())
        self._take(first + other.rows, length)
        self.lengths[first : first + other.rows] = other.lengths
        for layer, pair in enumerate(other._layers):
            for own, theirs in zip(self._storage(layer, pair[0].transpose(1, 2)), pair, strict=True):
                own[first : first + other.rows, :, :length] = theirs[:, :, :length]

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes what row `source` is."""
        length = int(self.lengths[source])
        self.lengths[target] = length
        for pair in self._layers:
            for storage in pair:
                storage[target, :, :length] = storage[source, :, :length]

    def reorder(self, index: Int[Tensor, " n"]) -> None:
        """Row i < n becomes what row index[i] is; a row may be taken several times, or not at all."""
        n = len(index)
        if torch.equal(index.cpu(), torch.arange(n)):
            return
        self._take(n, 0)
        self.lengths[:n] = self.lengths[index.cpu()]
        length = int(self.lengths[:n].max())
        for pair in self._layers:
            for storage in pair:
                storage[:n, :, :length] = storage[index.to(storage.device), :, :length]

    def clear(self, row: int, length: int = 0) -> None:
        """Forgets a row, from element `length` on."""
        self.lengths[row] = length

    def _storage(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """That of a layer with keys (..., h, d)."""
        while len(self._layers) <= layer:
            *_, heads, width = like.shape
            shape = (self._held, heads, self.capacity + 1, width)
            self._layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self._layers[layer]

    def _take(self, rows: int, need: int) -> None:
        """Room for `need` elements in each of so many rows."""
        if need > self.capacity and self.fixed:
            raise InputError(
                f"{need} elements in a cache of {self.capacity}: give a larger capacity or shorter prompts"
            )
        longer = max(need, 2 * self.capacity, 64) - self.capacity if need > self.capacity else 0
        more = min(self.rows, max(rows, 2 * self._held)) - self._held if rows > self._held else 0
        if longer or more:
            self.capacity += longer
            self._held += more
            self._layers = [
                (_padded(keys, more, longer), _padded(values, more, longer)) for keys, values in self._layers
            ]


def _padded(storage: Float[Tensor, "r h n d"], rows: int, elements: int) -> Tensor:
    return nn.functional.pad(storage, (0, 0, 0, elements, 0, 0, 0, rows))
