"""Beam search, by the rules of the published systems' code (transformers 4.31, fairseq).

`BeamSearch` knows no model: it is given log-probabilities of the next id of each beam, and says which beams go on with
which ids. `beam_search` runs one to its end. `FairseqSearch` is the same by the rules that KOSMOS-2 was released with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plait.errors import ConfigError
from plait.generate.sampling import Rules, Sampling, keep_top_k, keep_top_p

LATER = -1e9  # the sum with which all beams of a row begin but the first, since they are all the same
BEST = Sampling(temperature=0.0)


@dataclass(frozen=True, kw_only=True)
class Beams:
    """How a beam search is made."""

    beams: int
    max_new_tokens: int
    length_penalty: float = 1.0
    """A reply's score is the sum of its log-probabilities / length^length_penalty."""
    early_stopping: bool | Literal["never"] = False
    """When a row that has `beams` replies is over. True: at once. False: once no beam could do better at its present
    length. "never": once none could at any length."""
    returned: int = 1
    """Replies of each row."""
    sampling: Sampling = BEST
    """Temperature 0 goes on with the best beams, any other draws them. The rules hold for log-probabilities."""

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_new_tokens < 1:
            raise ConfigError(f"{self.beams} beams of {self.max_new_tokens} ids: at least 1 of 1 is needed")
        if not 1 <= self.returned <= self.beams:
            raise ConfigError(f"{self.returned} replies of {self.beams} beams: from 1 up to the beams can be returned")
        if self.early_stopping not in (True, False, "never"):
            raise ConfigError(f"early_stopping {self.early_stopping!r}: it is True, False or 'never'")


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A reply, or what there is of one where the search was cut."""

    ids: list[int]
    """With the id that ended it, if one did."""
    logprobs: list[float]
    """Of each id, before rules, trie and sampling."""
    total: float
    """Their sum, under rules and sampling."""
    score: float
    ended: bool


class BeamSearch:
    """The beams of several rows, step by step. Beam b of row r is number r * beams + b.

    Lengths are counted with the id that ends a reply, or, of replies that are open, with `said`: published code begins
    with a start symbol in place of the end, and its lengths are reached with that symbol in `said`.

    Args:
        settings: see `Beams`.
        ends: ids that end a reply.
        said: ids that count as said before.
        allowed: (row, ids said so far by a beam) -> the ids that may come next, at least one; a trie, for instance.
        stop: of all beams' ids, (rows * beams, t) and -1 in rows that are over: whether all is over.
        random: where beams are drawn.
    """

    _sums: Tensor  # (rows * beams,): of log-probabilities under the rules
    _said: Tensor  # (rows * beams, t): ids, -1 in rows that are over
    _logprobs: Tensor  # (rows * beams, t - len(said))
    _done: Tensor  # (rows,)

    def __init__(
        self,
        settings: Beams,
        ends: Collection[int],
        *,
        said: Items[int] = (),
        allowed: Callable[[int, list[int]], Items[int]] | None = None,
        stop: Callable[[Tensor], bool] | None = None,
        random: np.random.Generator | None = None,
    ) -> None:
        if settings.sampling.temperature and random is None:
            raise ConfigError("drawn beams need random numbers: give a generator, or temperature 0")
        self.settings = settings
        self.ends = sorted(ends)
        self.before = len(said)
        self.over = False
        self._first = list(said)
        self._allowed, self._stop, self._random = allowed, stop, random
        self._started = False

    def advance(self, logprobs: Float[Tensor, "n v"]) -> Int[Tensor, " m"]:
        """One more id for each beam: for each, the number of the row of `logprobs` that it goes on from.

        Args:
            logprobs: those of the next id: at first (rows, v), then (rows * beams, v).
        """
        n = self.settings.beams
        origin = torch.arange(len(logprobs), device=logprobs.device)
        if not self._started:
            self._start(logprobs)
            logprobs, origin = logprobs.repeat_interleave(n, 0), origin.repeat_interleave(n)
        v = logprobs.shape[-1]
        totals = self._ruled(logprobs) + self._sums[:, None]
        totals, candidate = self._candidates(totals.view(-1, n, v))  # (rows, k)
        row = torch.arange(len(totals), device=totals.device)[:, None] * n
        source, id = row + candidate // v, candidate % v
        ended = self._ending(id)
        logprob = logprobs[source, id]
        self._store(totals[:, :n], ended[:, :n], source, id, logprob)
        going = ended.long().argsort(dim=-1, stable=True)[:, :n]  # the first that have not ended
        taken, id, source, logprob = (x.gather(-1, going) for x in (totals, id, source, logprob))
        done = self._done[:, None]
        source = torch.where(done, row + torch.arange(n, device=row.device), source).flatten()
        id = torch.where(done, -1, id).flatten()
        self._sums = torch.where(done, self._sums.view(-1, n), taken).flatten()
        self._said = torch.cat([self._said[source], id[:, None]], 1)
        self._logprobs = torch.cat([self._logprobs[source], logprob.flatten()[:, None]], 1)
        self._judge(totals[:, 0].tolist())
        return origin[source]

    @property
    def last(self) -> Int[Tensor, " m"]:
        """The last id of each beam, to be fed next; 0 where a row is over."""
        return self._said[:, -1].clamp(min=0)

    def best(self) -> list[list[Hypothesis]]:
        """The best replies of each row, best first; beams of rows that are not over count as they are.

        There are fewer than `returned` where a trie has fewer.
        """
        found = []
        n = self.settings.beams
        for row, stored in enumerate(self._stored):
            replies = list(stored)
            if not self._done[row]:
                sums = self._sums[row * n : (row + 1) * n].tolist()
                replies += [self._reply(row * n + beam, total) for beam, total in enumerate(sums)]
            replies = [reply for reply in replies if reply.total > LATER / 2]  # the others are not allowed, or repeat
            found.append(sorted(replies, key=lambda reply: -reply.score)[: self.settings.returned])
        return found

    # ------------------------------------------------------------------------------------------- the parts of a step

    def _start(self, logprobs: Tensor) -> None:
        n, (rows, v), device = self.settings.beams, logprobs.shape, logprobs.device
        sampling = self.settings.sampling
        until = self.before + sampling.min_new_tokens if sampling.min_new_tokens else 0
        m = rows * n
        self._rules = Rules.of([sampling] * m, [until] * m, [self.ends] * m, v, device)
        self._sums = torch.tensor([0.0] + [LATER] * (n - 1), device=device).repeat(rows)
        self._said = torch.tensor(self._first, device=device).long().expand(rows * n, -1)
        self._logprobs = logprobs.new_zeros(rows * n, 0)
        self._done = torch.zeros(rows, dtype=torch.bool, device=device)
        self._stored: list[list[Hypothesis]] = [[] for _ in range(rows)]
        self._started = True

    def _ruled(self, logprobs: Tensor) -> Tensor:
        """(rows * n, v) log-probabilities under the rules and the trie, not normalised again."""
        if self._rules is None and self._allowed is None:
            return logprobs
        allowed = torch.ones_like(logprobs, dtype=torch.bool) if self._allowed is None else self._asked(logprobs)
        scores = logprobs
        if self._rules is not None:
            scores, allowed = self._rules(logprobs, allowed, self._said)
        return torch.where(allowed, scores, -torch.inf)

    def _asked(self, logprobs: Tensor) -> Bool[Tensor, "m v"]:
        """What the trie allows; beams that cannot win any more are not asked about."""
        assert self._allowed is not None
        n = self.settings.beams
        allowed = torch.ones_like(logprobs, dtype=torch.bool)
        alive = (self._sums > -torch.inf) & ~self._done.repeat_interleave(n)
        for beam in alive.nonzero().flatten().tolist():
            allowed[beam] = False
            allowed[beam, list(self._allowed(beam // n, self._said[beam].tolist()))] = True
        return allowed

    def _ending(self, id: Tensor) -> Tensor:
        """Which candidates end a reply."""
        return torch.isin(id, torch.tensor(self.ends, dtype=torch.long, device=id.device))

    def _candidates(self, totals: Float[Tensor, "r n v"]) -> tuple[Float[Tensor, "r k"], Int[Tensor, "r k"]]:
        """Enough of the best, or drawn, to go on with however many of them end; best first."""
        k = min((1 + max(1, len(self.ends))) * self.settings.beams, totals[0].numel())
        if self._random is None or not self.settings.sampling.temperature:
            best, index = totals.flatten(1).topk(k)
            return best, index
        joint = drawn_from(totals, self.settings.sampling).flatten(1)
        noise = torch.from_numpy(self._random.gumbel(size=joint.shape)).to(joint)
        drawn = (joint + noise).topk(k).indices  # Gumbel's way to draw without replacement
        ranked, order = joint.gather(-1, drawn).sort(descending=True)
        return ranked, drawn.gather(-1, order)

    def _store(self, totals: Tensor, ended: Tensor, source: Tensor, id: Tensor, logprob: Tensor) -> None:
        """Candidates (rows, n) that have ended, of those that stand among the first n."""
        n = self.settings.beams
        for row, rank in (ended & ~self._done[:, None]).nonzero().tolist():
            end = int(id[row, rank]), float(logprob[row, rank])
            stored = self._stored[row]
            stored.append(self._reply(int(source[row, rank]), float(totals[row, rank]), end))
            if len(stored) > n:
                stored.remove(min(stored, key=lambda reply: reply.score))

    def _reply(self, beam: int, total: float, end: tuple[int, float] | None = None) -> Hypothesis:
        ids, logprobs = self._said[beam, self.before :].tolist(), self._logprobs[beam].tolist()
        length = len(ids) + (self.before if end is None else 1)
        if end is not None:
            ids, logprobs = [*ids, end[0]], [*logprobs, end[1]]
        score = total / length**self.settings.length_penalty
        return Hypothesis(ids=ids, logprobs=logprobs, total=total, score=score, ended=end is not None)

    def _judge(self, best: list[float]) -> None:
        """Which rows are over, by the best candidate of each, and whether all is."""
        settings, power = self.settings, self.settings.length_penalty
        length = self._said.shape[1]
        longest = self.before + settings.max_new_tokens
        for row, stored in enumerate(self._stored):
            if len(stored) == settings.beams and not self._done[row]:
                at = longest if settings.early_stopping == "never" and power > 0 else length
                worst = min(reply.score for reply in stored)
                self._done[row] = settings.early_stopping is True or worst >= best[row] / at**power
        stopped = self._stop is not None and self._stop(self._said)
        self.over = stopped or length == longest or bool(self._done.all())


class FairseqSearch(BeamSearch):
    """Beam search as fairseq has it, of one prompt, which counts: its n-grams are barred, and scores include it.

    The first replies that end are kept, and once there are as many as beams it is over; what is left when no more ids
    are allowed is ended there. A score is the sum of all log-probabilities, the prompt's too, over the number of all
    ids behind the first, to the power of `length_penalty`.

    Args:
        settings: see `Beams`; `early_stopping` says nothing here.
        ends: ids that end a reply.
        prompt: the ids that the prompt counts as.
        total: the sum of their log-probabilities, but that of the first.
        released: as the program of KOSMOS-2 does by accident, nothing is barred at the first id, and an end that comes
            first ends nothing.
        allowed, stop, random: as of `BeamSearch`.
    """

    def __init__(
        self,
        settings: Beams,
        ends: Collection[int],
        *,
        prompt: Items[int],
        total: float,
        released: bool = False,
        allowed: Callable[[int, list[int]], Items[int]] | None = None,
        stop: Callable[[Tensor], bool] | None = None,
        random: np.random.Generator | None = None,
    ) -> None:
        super().__init__(settings, ends, said=prompt, allowed=allowed, stop=stop, random=random)
        self._total = total
        self._released = released

    def _ruled(self, logprobs: Tensor) -> Tensor:
        said = self._said.shape[1] - self.before
        if said == self.settings.max_new_tokens - 1:
            last = torch.full_like(logprobs, -torch.inf)
            last[:, self.ends] = logprobs[:, self.ends]
            return last
        return logprobs if self._released and said == 0 else super()._ruled(logprobs)

    def _ending(self, id: Tensor) -> Tensor:
        first = self._said.shape[1] == self.before and self.settings.max_new_tokens > 1
        return torch.zeros_like(id, dtype=torch.bool) if self._released and first else super()._ending(id)

    def _store(self, totals: Tensor, ended: Tensor, source: Tensor, id: Tensor, logprob: Tensor) -> None:
        for row, rank in (ended & ~self._done[:, None]).nonzero().tolist():
            if len(self._stored[row]) < self.settings.beams:
                end = int(id[row, rank]), float(logprob[row, rank])
                self._stored[row].append(self._reply(int(source[row, rank]), float(totals[row, rank]), end))

    def _reply(self, beam: int, total: float, end: tuple[int, float] | None = None) -> Hypothesis:
        reply = super()._reply(beam, total, end)
        length = self.before - 1 + len(reply.ids)
        return replace(reply, score=(self._total + total) / length**self.settings.length_penalty)

    def _judge(self, best: list[float]) -> None:
        for row, stored in enumerate(self._stored):
            self._done[row] = len(stored) == self.settings.beams
        stopped = self._stop is not None and self._stop(self._said)
        self.over = (
            stopped or self._said.shape[1] == self.before + self.settings.max_new_tokens or bool(self._done.all())
        )


def drawn_from(totals: Float[Tensor, "r n v"], sampling: Sampling) -> Float[Tensor, "r n v"]:
    """The sums that n beams would have with each next id, as beams are drawn from them: by their joint softmax.

    Temperature, top-k and top-p in this order, on each beam's sums; at least two ids of each stay.
    """
    scores = totals.flatten(0, 1) / sampling.temperature
    if sampling.top_k:
        scores = keep_top_k(scores, torch.full((len(scores),), max(2, sampling.top_k), device=scores.device))
    if sampling.top_p < 1:
        top_p = torch.full((len(scores),), sampling.top_p, device=scores.device)
        scores = scores.masked_fill(keep_top_p(scores.softmax(-1), top_p, least=2) == 0, -math.inf)
    return scores.view_as(totals)


def beam_search(
    search: BeamSearch,
    first: Float[Tensor, "r v"],
    step: Callable[[Int[Tensor, " m"]], Float[Tensor, "m v"]],
    reorder: Callable[[Int[Tensor, " m"]], None],
) -> list[list[Hypothesis]]:
    """The best replies of each row, best first.

    Args:
        search: a fresh one.
        first: log-probabilities of the first id, one row for each prompt.
        step: feeds one id to each of the rows * beams, and gives the log-probabilities of what follows.
        reorder: row i becomes what row index[i] is, before a step; the first time there are `rows` of them.
    """
    index = search.advance(first)
    while not search.over:
        reorder(index)
        index = search.advance(step(search.last))
    return search.best()
