"""Positions: where an element stands, put in at the embedding, at the queries and keys, or at their scores.

Three seams. An embedding (`LearnedPositions`, `SinusoidalPositions`) maps positions to vectors that are added to the
input. A rotation (`NoRotation`, `Rotary`, `XPos`) maps queries and keys at given positions; keys enter the cache
already rotated. A bias (`RelativeBias`) maps distances to numbers that `plait.nn.attention.Score` adds to the scores.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.errors import InputError

LONGEST = 48  # times the scale base: what `XPos` spans, see there


class _Constant:
    """A tensor that is no weight, on the device where it is needed.

    No buffer: `.to(bfloat16)` would round it, the meta device lose it.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = self._here = value

    def on(self, device: torch.device) -> Tensor:
        """The tensor, moved once."""
        if self._here.device != device:
            self._here = self._value.to(device)
        return self._here


class LearnedPositions(nn.Module):
    """A table of position vectors. OPT's keeps `offset` = 2 rows in front: row 1 for pads (zero), row 0 unused."""

    def __init__(self, length: int, width: int, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(length + offset, width))
        nn.init.normal_(self.weight, std=0.02)

    @property
    def length(self) -> int:
        """How many positions there are."""
        return len(self.weight) - self.offset

    def forward(self, position: Int[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """The vector of each position."""
        return nn.functional.embedding(position + self.offset, self.weight)


class SinusoidalPositions(nn.Module):
    """fairseq's fixed vectors: all sines, then all cosines, of (position + offset) * exp(-i ln(10^4) / (c / 2 - 1)).

    Position -1 stands for a pad and gives zeros. There is no table, so no longest position. The vectors are fp32.

    Args:
        width: c, even and at least 4.
        offset: the first real position counts as this; 2 in fairseq, whose pads count as 1.

    Raises:
        InputError: a width that has no such vectors.
    """

    def __init__(self, width: int, offset: int = 2) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise InputError(f"sinusoidal positions of width {width}, an even number from 4 on is needed: change it")
        self.offset = offset
        exponent = torch.arange(width // 2, dtype=torch.float64, device="cpu") / (width // 2 - 1)
        self._frequency = _Constant((10_000.0**-exponent).float())  # (c / 2,)

    def forward(self, position: Int[Tensor, "b t"]) -> Float[Tensor, "b t c"]:
        """The vector of each position."""
        angle = (position + self.offset)[..., None].float() * self._frequency.on(position.device)
        return torch.cat((angle.sin(), angle.cos()), dim=-1).masked_fill(position[..., None] < 0, 0.0)


class NoRotation(nn.Module):
    """Queries and keys as they are."""

    def forward(self, qk: Float[Tensor, "b t 2 h d"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t 2 h d"]:
        """qk."""
        return qk


class Rotary(nn.Module):
    """Rotary positions (RoFormer, arXiv 2104.09864): pairs (i, i + d/2) turned by position * base^(-2i/d).

    `adjacent` pairs (2i, 2i + 1) instead, as Chameleon does.
    """

    def __init__(self, head_width: int, base: float = 10_000.0, adjacent: bool = False) -> None:
        super().__init__()
        self.adjacent = adjacent
        self._frequency = _frequencies(head_width, base)
        self._last: tuple[Tensor, torch.dtype, Tensor, Tensor] | None = None

    def forward(self, qk: Float[Tensor, "b t 2 h d"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t 2 h d"]:
        """Queries and keys, turned. Layers that share a rotation and are given the same positions share its angles."""
        if torch.compiler.is_compiling():
            return _turn(qk, *self._angles(position, qk.dtype), self.adjacent)
        if self._last is None or self._last[0] is not position or self._last[1] != qk.dtype:
            self._last = (position, qk.dtype, *self._angles(position, qk.dtype))
        return _turn(qk, *self._last[2:], self.adjacent)

    def _angles(self, position: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angle = position[..., None, None, None].float() * self._frequency.on(position.device)  # (b, t, 1, 1, d / 2)
        return _spread(angle.cos(), angle.sin(), self.adjacent, dtype)


class XPos(nn.Module):
    """xPos (arXiv 2212.10554), as KOSMOS-1 uses it: adjacent pairs turned as by `Rotary`, and scaled.

    Pair i of a query at p is scaled by zeta_i^((p - c) / 512), of a key by the inverse, zeta_i = (2i + 0.4d) / 1.4d
    (released code: torchscale), so that their product falls by zeta_i^(distance / 512). It does not depend on c, the
    centre. The releases take half of the present length, which moves with every new element, and so have to keep keys
    unrotated; here c is half of the longest length, fixed, and a cached key stays right.

    The factors grow exponentially, fastest those of pair 0, with zeta = 2/7. With c in the middle they stay within
    3.5^(length / 1024): 12.3 at KOSMOS-1's 2,048 positions. What limits the length is the score of a key far after the
    query: it is hidden, but must be finite for that, and grows to 3.5^(length / 512), wherever the centre. At the
    longest that is allowed, 24,576, this is 1.3e26, and fp32 and bf16 reach 3e38. Positions beyond `length` follow the
    same rule, and are right as far as the numbers reach.

    Args:
        head_width: d, even.
        length: of the longest sequence, in elements.
        scale_base: the distance over which a pair falls by its zeta.

    Raises:
        InputError: a length whose factors would overflow.
    """

    def __init__(self, head_width: int, length: int, base: float = 10_000.0, scale_base: float = 512.0) -> None:
        super().__init__()
        most = int(LONGEST * scale_base)
        if length > most:
            raise InputError(f"xPos over {length} positions overflows, at most {most} fit: shorten the sequences")
        self.centre = length // 2
        self.scale_base = scale_base
        self._frequency = _frequencies(head_width, base)
        pair = torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu")
        self._log_zeta = _Constant(((pair + 0.4 * head_width) / (1.4 * head_width)).log().float())  # (d / 2,)

    def forward(self, qk: Float[Tensor, "b t 2 h d"], position: Int[Tensor, "b t"]) -> Float[Tensor, "b t 2 h d"]:
        """Queries and keys, turned and scaled."""
        place = position[..., None, None, None]
        angle = place.float() * self._frequency.on(position.device)  # (b, t, 1, 1, d / 2)
        scale = ((place - self.centre) / self.scale_base * self._log_zeta.on(position.device)).exp()
        scale = torch.cat((scale, 1 / scale), dim=2)  # (b, t, 2, 1, d / 2)
        return _turn(qk, *_spread(angle.cos() * scale, angle.sin() * scale, True, qk.dtype), adjacent=True)


def _frequencies(head_width: int, base: float) -> _Constant:
    """(d / 2,): base^(-2i/d), rounded once."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / head_width
    return _Constant((base**-exponent).float())


def _spread(cos: Tensor, sin: Tensor, adjacent: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors of pairs (..., d / 2) as those of their numbers (..., d): (cos, cos) and (-sin, sin)."""
    if adjacent:
        return torch.stack((cos, cos), -1).flatten(-2).to(dtype), torch.stack((-sin, sin), -1).flatten(-2).to(dtype)
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool) -> Tensor:
    """(a cos - b sin, b cos + a sin) of each pair (a, b), by factors that `_spread` gave."""
    swapped = x.view(*x.shape[:-1], -1, 2).flip(-1).flatten(-2) if adjacent else x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cos, swapped, sin)


class RelativeBias(nn.Module):
    """T5's relative bias (arXiv 1910.10683): a learned number for each head and bucket of distances.

    Distances have a bucket each up to half of the buckets, then buckets that grow like their logarithm up to `longest`;
    all from there on share the last. Keys after the query share the bucket of distance 0 (T5's decoder, Emu's
    C-Former); if `bidirectional`, each side has half of the buckets. One module serves all layers of a stack.

    Args:
        buckets: at least 2, or 4 and even if bidirectional.
        heads: h.
        longest: T5's max distance, in elements; above the number of exact distances.

    Raises:
        InputError: too few buckets, or none left to grow.
    """

    def __init__(self, buckets: int, heads: int, longest: int = 128, bidirectional: bool = False) -> None:
        super().__init__()
        sides = 2 if bidirectional else 1
        if buckets < 2 * sides or buckets % sides:
            raise InputError(f"{buckets} buckets on {sides} sides: give each side the same number, at least 2")
        if longest <= buckets // sides // 2:
            raise InputError(
                f"{buckets // sides // 2} exact distances of at most {longest}: give fewer buckets or a larger longest"
            )
        self.longest = longest
        self._bucket = _Constant(_buckets(buckets // sides, longest, bidirectional))
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, distance: Int[Tensor, "*any"]) -> Float[Tensor, "*any h"]:
        """The bias of keys `distance` elements before the query, or after it where it is negative."""
        index = distance.clamp(-self.longest, self.longest) + self.longest
        return nn.functional.embedding(self._bucket.on(distance.device)[index], self.weight)


def _buckets(count: int, longest: int, bidirectional: bool) -> Tensor:
    """(2 * longest + 1,): the bucket of each distance from -longest on, `count` a side.

    In fp32, since some borders are decided by the last bit; once and on the CPU, so that they are the same everywhere.
    """
    distance = torch.arange(-longest, longest + 1, device="cpu")
    after = distance < 0
    far = distance.abs() if bidirectional else distance.clamp(min=0)
    exact = count // 2
    grown = (far.clamp(min=1).float() / exact).log() / math.log(longest / exact) * (count - exact)
    bucket = torch.where(far < exact, far, (exact + grown.long()).clamp(max=count - 1))
    return bucket + after * count if bidirectional else bucket
