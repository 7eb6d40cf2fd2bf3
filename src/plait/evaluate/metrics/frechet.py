"""The Fréchet distance between two sets of features: FID, where the features are Inception's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plait.errors import InputError


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and scatter of rows of features, in float64; those of two sets add up to those of both.

    Summed over batches, and then over what the ranks hold, they are what all rows at once would give, to rounding.
    """

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "d d"]
    """Sum over rows of the outer square of the difference from the mean."""

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> Moments:
        """Of at least one row.

        Raises:
            InputError: no rows of features, or values that are not finite.
        """
        if features.ndim != 2 or not features.numel():
            raise InputError(f"features of shape {tuple(features.shape)}: give rows of features, (n, d)")
        rows = features.detach().double()
        wrong = int((~rows.isfinite().all(1)).sum())
        if wrong:
            raise InputError(f"{wrong} of {len(rows)} rows of features hold NaN or infinity: leave them out")
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of rows (Chan, Golub and LeVeque, 1979)."""
        _same_width(self, other)
        count = self.count + other.count
        step = other.mean - self.mean
        between = torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Over count - 1.

        Raises:
            InputError: fewer than 2 rows.
        """
        if self.count < 2:
            raise InputError(f"a covariance of {self.count} row of features: give at least 2")
        return self.scatter / (self.count - 1)

    def factor(self) -> Float[Tensor, "d r"]:
        """F with covariance F Fᵀ; n rows span r = n - 1 directions at most, and the rest, all rounding, is left out."""
        values, vectors = torch.linalg.eigh(self.covariance)  # ascending
        rank = min(self.count - 1, len(values))
        return vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean difference|² + tr(A + B - 2 (A B)^½) for covariances A and B; at least 0 (Heusel et al., arXiv 1706.08500).

    No root of an unsymmetric matrix is taken: with A = F Fᵀ and B = G Gᵀ, the eigenvalues of A B are the squared
    singular values of Fᵀ G. So nothing complex appears, and sets of fewer rows than features need no added diagonal.
    Few rows are biased upwards, by much: compare distances only at equal numbers of rows.

    Raises:
        InputError: widths that differ, or a set of fewer than 2 rows.
    """
    _same_width(a, b)
    spread = a.covariance.trace() + b.covariance.trace()
    shared = torch.linalg.svdvals(a.factor().T @ b.factor()).sum()
    return float(((a.mean - b.mean).square().sum() + spread - 2 * shared).clamp(min=0))


def _same_width(a: Moments, b: Moments) -> None:
    if len(a.mean) != len(b.mean):
        raise InputError(f"{len(a.mean)} features a row, {len(b.mean)} in the other set: take both from one network")
