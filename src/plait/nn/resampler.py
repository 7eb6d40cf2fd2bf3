"""KOSMOS-1's resampler: learned queries look once at what a tower made of a picture, and at themselves.

The paper (arXiv 2302.14045) cites Flamingo's; what was released is one attention, with no norm, feed-forward layer or
residual around it. Dropout of its weights in training (0.1) is left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.attention import CrossAttention, whole


class Resampler(nn.Module):
    """Vectors of a picture, however many, to `count` vectors of another width.

    Args:
        count: vectors that are made.
        source_width: of what is looked at.
        width: of what is made.
        heads: of the attention.
    """

    def __init__(self, count: int, source_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(source_width, width)
        self.queries = nn.Parameter(torch.empty(count, width))
        self.attention = CrossAttention(width, width, heads, bias=True)
        nn.init.normal_(self.queries)
        for matrix in (self.attention.q.weight, *self.attention.kv.weight.chunk(2)):
            nn.init.xavier_uniform_(matrix, gain=2**-0.5)
        nn.init.xavier_uniform_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, seen: Float[Tensor, "m s e"]) -> Float[Tensor, "m n c"]:
        """The vectors of each picture."""
        queries = self.queries.expand(len(seen), -1, -1)
        source = torch.cat((self.project(seen), queries), dim=1)
        made: Tensor = self.attention(queries, source, whole())
        return made
