"""Vector quantisation (arXiv 1711.00937, as in taming-transformers), and the upkeep of a codebook.

The quantiser is what is published: a table of vectors, the nearest one by squared distance, a straight-through
gradient. Upkeep is what a codebook needs to be learned quickly from scratch: it starts from the encoder's own vectors,
codes that nobody uses are moved to where vectors are, and, if wanted, codes follow the running mean of their vectors
(the paper's appendix A.1) instead of a gradient. Its state is training state: it lives in a module of its own, beside
the model, and the keys of a quantiser stay those of the published files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plait.errors import ConfigError

DRAWS = 16  # places are drawn in so many portions, each far from those before

_FADED = 1e-4  # a running count below which a quotient of sum and count is noise


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What a quantiser returns. Both losses are means over (c, h, w), one number for each picture."""

    vectors: Float[Tensor, "b c h w"]
    """The chosen codes; their gradient goes straight through to the inputs."""
    ids: Int[Tensor, "b h w"]
    inputs: Float[Tensor, "b c h w"]
    """The vectors before quantisation."""
    codebook: Float[Tensor, " b"]
    """Squared distance that moves the codes only."""
    commitment: Float[Tensor, " b"]
    """The same distance, moving the encoder only."""


class VectorQuantiser(nn.Module):
    """The nearest of `codes` vectors of `width` channels, at every place of a map.

    The published loss has a quirk ("legacy beta"): the factor 0.25 stands before the codebook term, not the
    commitment term. Both are returned unweighted.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        if codes < 1 or width < 1:
            raise ConfigError(f"a codebook of {codes} codes and width {width}: both must be at least 1")
        self.codebook = nn.Embedding(codes, width)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Quantised:
        """The codes nearest to z, with the two distances (fp32)."""
        ids = self.nearest(z)
        z = z.float()
        chosen = self.lookup(ids).movedim(-1, 1).float()  # (b, c, h, w)
        return Quantised(
            vectors=z + (chosen - z).detach(),
            ids=ids,
            inputs=z,
            codebook=(chosen - z.detach()).square().mean((1, 2, 3)),
            commitment=(chosen.detach() - z).square().mean((1, 2, 3)),
        )

    @torch.no_grad()
    def nearest(self, z: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """Ids of the nearest codes; of two at the same distance, the lower id."""
        return nearest_rows(z.movedim(1, -1), self.codebook.weight)

    def lookup(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n c"]:
        """The vectors of ids, channels last."""
        return self.codebook(ids)


class GumbelQuantiser(nn.Module):
    """Codes by their logits, as DALL-E's tokenizer and taming's f8 have them: the likeliest at every place of a map.

    The released program adds Gumbel noise in every forward pass, so that a picture has other codes each time. Here it
    has those without noise. What trained it (noise of a falling temperature, a KL term) is left out; the two distances
    are those between the chosen code and the mean of all by their probabilities, through which gradients pass.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.logits = nn.Conv2d(width, codes, 1)
        self.codebook = nn.Embedding(codes, width)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Quantised:
        """The likeliest codes."""
        logits = self.logits(z)
        ids = logits.argmax(1)
        mean = (logits.float().softmax(1).movedim(1, -1) @ self.codebook.weight.float()).movedim(-1, 1)
        chosen = self.lookup(ids).movedim(-1, 1).float()
        return Quantised(
            vectors=mean + (chosen - mean).detach(),
            ids=ids,
            inputs=mean,
            codebook=(chosen - mean.detach()).square().mean((1, 2, 3)),
            commitment=(chosen.detach() - mean).square().mean((1, 2, 3)),
        )

    def lookup(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n c"]:
        """The vectors of ids, channels last."""
        return self.codebook(ids)


def nearest_rows(vectors: Float[Tensor, "*n c"], table: Float[Tensor, "k c"]) -> Int[Tensor, "*n"]:
    """The row of `table` nearest to each vector, by |v|^2 + |e|^2 - 2 v e in fp32, autocast or not."""
    with torch.autocast(vectors.device.type, enabled=False):
        flat, table = vectors.reshape(-1, vectors.shape[-1]).float(), table.float()
        distances = flat.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * flat @ table.T  # (n, k)
        return distances.argmin(1).view(vectors.shape[:-1])


def alike(
    table: Float[Tensor, "k c"], width: int, generator: torch.Generator, reach: float = 0.25
) -> Float[Tensor, "k w"]:
    """Random Fourier features of codes, of mean square 1: codes that stand for nearly the same are nearly the same.

    The cosine of two rows is exp(-r^2 / 2), r their codes' distance in units of `reach` times the median distance.
    """
    vectors = table.float()
    unit = reach * torch.cdist(vectors, vectors)[~torch.eye(len(vectors), dtype=torch.bool)].median()
    directions = torch.randn(vectors.shape[1], width, generator=generator).to(vectors.device)
    phases = 2 * math.pi * torch.rand(width, generator=generator).to(vectors.device)
    return math.sqrt(2) * torch.cos(vectors @ directions / unit + phases)


class MovingAverage(nn.Module):
    """Codes that follow their vectors: code = sum / count, both running sums with the given decay (1711.00937, A.1)."""

    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    @torch.no_grad()
    def update(self, table: Float[Tensor, "k c"], counts: Float[Tensor, " k"], sums: Float[Tensor, "k c"]) -> None:
        """Moves `table` after a step in which code i was nearest to counts[i] vectors that add up to sums[i]."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # An unused code fades in count and sum alike and stays where it is, also when little of either is left.
        followed = (self.sums / self.counts.clamp_min(_FADED)[:, None]).to(table.dtype)
        table.copy_(torch.where(self.counts[:, None] > _FADED, followed, table))

    @torch.no_grad()
    def place(self, rows: Tensor, vectors: Float[Tensor, "n c"]) -> None:
        """Makes the codes at `rows` start anew at `vectors`, with the mean weight of a code."""
        weight = self.counts.mean().clamp_min(1.0)
        self.counts[rows] = weight
        self.sums[rows] = vectors.float() * weight


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one rank saw since the last upkeep; counts and sums are to be added over ranks, pools to be joined."""

    counts: Float[Tensor, " k"]
    sums: Float[Tensor, "k c"]
    pool: Float[Tensor, "n c"]


class CodebookUpkeep(nn.Module):
    """Keeps a codebook in use while it is learned.

    `observe` is called with each forward pass, `take` and `update` once after each optimiser step. In the first
    `settle` steps the whole table is drawn anew from the pool (spread by a few rounds of k-means), since the encoder
    moves fastest then. Later, every `period` steps, codes whose running share of use fell below `dead` times the even
    share 1/k are moved to vectors of the pool, sooner to those far from any code. With `average`, codes also follow the
    mean of their vectors.

    Its state is saved with a run and is no part of the model.
    """

    usage: Tensor
    counts: Tensor
    sums: Tensor
    pool: Tensor

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        decay: float = 0.95,
        dead: float = 0.1,
        period: int = 10,
        settle: int = 1,
        average: MovingAverage | None = None,
    ) -> None:
        super().__init__()
        self.decay, self.dead, self.period, self.settle = decay, dead, period, settle
        self.pool_rows = 4 * codes  # enough for k-means to find k places, small enough to gather
        self.average = average
        self.register_buffer("usage", torch.full((codes,), 1 / codes))
        self.register_buffer("counts", torch.zeros(codes), persistent=False)
        self.register_buffer("sums", torch.zeros(codes, width), persistent=False)
        self.register_buffer("pool", torch.zeros(0, width), persistent=False)

    @torch.no_grad()
    def observe(self, quantised: Quantised, generator: torch.Generator) -> None:
        """Notes which codes were used, and keeps some of the vectors as places for codes."""
        vectors = quantised.inputs.movedim(1, -1).flatten(0, 2).float()  # (n, c)
        ids = quantised.ids.flatten()
        self.counts += torch.bincount(ids, minlength=len(self.counts))
        self.sums.index_add_(0, ids, vectors)
        rows = torch.randperm(len(vectors), generator=generator, device=generator.device)[: self.pool_rows]
        self.pool = torch.cat([self.pool, vectors[rows.to(vectors.device)]])[-self.pool_rows :]

    def take(self) -> Observed:
        """What was observed; the notes begin anew."""
        seen = Observed(counts=self.counts.clone(), sums=self.sums.clone(), pool=self.pool)
        self.counts.zero_()
        self.sums.zero_()
        self.pool = self.pool[:0]
        return seen

    @torch.no_grad()
    def update(self, table: Float[Tensor, "k c"], seen: Observed, step: int, generator: torch.Generator) -> None:
        """One round of upkeep of the whole `table`, in place, from what all ranks saw.

        Every rank must call it with the same values and generator.
        """
        total = seen.counts.sum()
        if not len(seen.pool):
            return
        self.usage.lerp_(seen.counts / total.clamp_min(1), 1 - self.decay)
        if self.average is not None:
            self.average.update(table, seen.counts, seen.sums)
        if step < self.settle:
            self._place(table, torch.arange(len(table), device=table.device), spread(seen.pool, len(table), generator))
        elif step % self.period == 0:
            dead = (self.usage < self.dead / len(table)).nonzero()[:, 0]
            self._place(table, dead, seen.pool[far(seen.pool, table, len(dead), generator)])

    def _place(self, table: Tensor, rows: Tensor, vectors: Tensor) -> None:
        table[rows] = vectors.to(table.dtype)
        self.usage[rows] = 1 / len(table)  # a new code gets the time of a running mean to prove itself
        if self.average is not None:
            self.average.place(rows, vectors)


def spread(
    vectors: Float[Tensor, "n c"], codes: int, generator: torch.Generator, rounds: int = 5
) -> Float[Tensor, "k c"]:
    """`codes` places among the vectors: far ones first (k-means||), moved by some rounds of k-means.

    Places go where vectors differ, not where there are many of them: a plain background gets few codes, and looks the
    same to whoever reads the codes.
    """
    places = vectors[far(vectors, vectors.mean(0, keepdim=True), 1, generator)]
    for wanted in [codes * (i + 1) // DRAWS for i in range(DRAWS)]:
        places = torch.cat([places, vectors[far(vectors, places, wanted - len(places), generator)]])
    for _ in range(rounds):
        ids = nearest_rows(vectors, places)
        counts = torch.bincount(ids, minlength=codes).to(places.dtype)[:, None]
        means = torch.zeros_like(places).index_add_(0, ids, vectors) / counts.clamp_min(1)
        places = torch.where(counts > 0, means, places)
    return places


def far(
    vectors: Float[Tensor, "n c"], table: Float[Tensor, "k c"], count: int, generator: torch.Generator
) -> Int[Tensor, " m"]:
    """Rows of `vectors`, drawn with repeats in proportion to their squared distance from the nearest of `table`."""
    if count < 1:
        return torch.zeros(0, dtype=torch.long, device=vectors.device)
    distance = (vectors - table[nearest_rows(vectors, table)]).square().sum(1) + 1e-12  # all at a place: any
    return torch.multinomial(distance.to(generator.device), count, True, generator=generator).to(vectors.device)
