"""The engine: every request of every system, text and pictures, in one batch that requests join and leave.

A request is one or more rows (streams), a grammar that says what may come next, sampling, and a generator of its own.
All rows of all requests take each step together. Draws are the inverse of the cumulated distribution at numbers from
the request's own generator, so that its ids do not depend on its neighbours. Vectors are not drawn: each row takes what
its head gives, and is fed it (`Next.vectors`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plait.document import Document, Piece, Text
from plait.errors import ConfigError, InputError
from plait.generate.sampling import Joined, Rules, Sampling, draw, history
from plait.nn.attention import KVCache
from plait.sequence import Batch, Given, Sequence
from plait.systems.base import (
    Contrast,
    Emitted,
    Forced,
    Format,
    Grammar,
    Guidance,
    Join,
    Next,
    Stop,
    Streams,
    System,
)

GREEDY = Sampling(temperature=0.0)
PLAIN = Sampling()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a request is answered."""

    max_new_tokens: int = 256
    """Text tokens; pictures do not count, and one that has begun is always finished."""
    max_images: int = 1
    guidance: float = 1.0
    """Of pictures: how far from what is drawn without the prompt; 1 is none (`Guidance`)."""
    image_guidance: float | None = None
    """Of edits: how far from what is drawn without the prompt's pictures; `guidance` is then that of its text alone."""
    contrast: Contrast | None = None
    """Pictures are drawn by contrastive decoding, against what is drawn without the prompt."""
    text: Sampling = GREEDY
    image: Sampling = PLAIN
    seed: int = 0
    cut_prompt: bool = False
    """A prompt that leaves no room for `max_new_tokens` loses its beginning, be it in a picture, as in released code
    (MiniGPT-4); by default it is refused if it leaves no room at all."""
    stop: str | tuple[str | tuple[int, ...], ...] = ()
    """A text, or several texts or ids: a run of text that ends with one of them is the last, and keeps it."""
    said: tuple[int, ...] = ()
    """Ids that count as said before the reply: published code begins it with a start symbol that is never read."""
    beams: int = 1
    """More than 1: the reply is text alone, and the best that so many beams find (`plait.generate.search`)."""
    length_penalty: float = 1.0
    """Of beams: replies are compared by log-probability / length^length_penalty."""
    early_stopping: bool | Literal["never"] = False
    """Of beams: `plait.generate.beams.Beams`."""
    among: tuple[str, ...] = ()
    """The reply is one of these texts, the best that the beams find along the tree of their ids."""
    search: Literal["transformers", "fairseq", "fairseq_released"] = "transformers"
    """By whose rules beams, or one, are searched: `plait.generate.beams.BeamSearch`, `FairseqSearch`, and the latter
    with what KOSMOS-2's program does at the first id."""

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ConfigError(f"beams {self.beams}: it must be at least 1")
        if self.stop == "" or not all(self.stop):
            raise ConfigError(f"stop {self.stop!r}: an empty sequence would end every reply; leave it out")

    @property
    def searched(self) -> bool:
        """Whether the reply is the end of a search."""
        return self.beams > 1 or bool(self.among) or self.search != "transformers"

    @property
    def guided(self) -> Guidance:
        """What decides about the rows of a request."""
        return Guidance(scale=self.guidance, image=self.image_guidance, contrast=self.contrast)

    def sampling(self, kind: str) -> Sampling:
        """The settings for a run of a kind."""
        return self.image if kind == "image" else self.text

    def stops(self, format: Format) -> tuple[tuple[int, ...], ...]:
        """The stop sequences as ids.

        Raises:
            ConfigError: there are texts, and the system does not say which ids they are.
        """
        given = (self.stop,) if isinstance(self.stop, str) else self.stop
        return tuple(format.text_ids(one) if isinstance(one, str) else tuple(one) for one in given)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a request got: pieces in order, the runs that they were made of, and why it ended."""

    document: Document
    runs: tuple[Emitted, ...]
    stop: str
    """"max_new_tokens", "max_length", "stop_sequence", or what the grammar says: "end", "filled", "max_images"."""

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.document)

    @property
    def text(self) -> str:
        """The text pieces, joined."""
        return self.document.text


def noise(settings: Settings, number: int) -> int:
    """Seed of the noise of run `number` of a reply: another for each run and each seed of a request."""
    return int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])


def following(ids: Tensor, position: Tensor, place: Tensor, given: Given | None = None) -> Batch:
    """Ids that were drawn or forced, (n, t), to be fed to a cache; with their places in a picture, or -1.

    Args:
        given: vectors in place of some of them.
    """
    zeros = torch.zeros_like(ids)
    return Batch(
        ids=ids,
        document=zeros,
        position=position,
        block=zeros - 1,
        place=place,
        slots={},
        targets={},
        readers=(),
        sequences=len(ids),
        given=given,
    )


class _Element(NamedTuple):
    """What is fed next: an id, or vectors (r, c), one for each row."""

    id: int
    place: int = -1
    """In a picture."""
    vectors: Tensor | None = None
    begins: bool = False
    """A run of vectors comes behind it, before which rows beside the first begin anew."""


@dataclass(eq=False)
class _Request:
    number: int
    settings: Settings
    grammar: Grammar
    prompts: tuple[Sequence, ...]
    joins: Mapping[str, Join]
    random: np.random.Generator
    stops: tuple[tuple[int, ...], ...] = ()
    runs: list[Emitted] = field(default_factory=list)
    next: Next | None = None
    left: int = 0  # text tokens that may still come
    stop: str = ""
    restart: int | None = None
    pending: list[_Element] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Elements of its longest row."""
        return max(len(prompt) for prompt in self.prompts) + sum(len(run.ids) for run in self.runs)

    @property
    def said(self) -> list[int]:
        """All ids that count as said."""
        return [*self.settings.said, *(id for run in self.runs for id in run.ids)]

    @property
    def until(self) -> int:
        """How many ids must have been said before the present run may end."""
        if self.next is None or self.next.kind != "text":
            return 0
        missing = self.settings.text.min_new_tokens - (self.settings.max_new_tokens - self.left)
        return len(self.said) + missing if missing > 0 else 0

    def advance(self, limit: int) -> None:
        """Asks the grammar what comes next, once the present run is over; ids that are forced are fed unasked.

        A run that would go beyond `limit` elements, as far as its length is known, does not begin.
        """
        while True:
            step = self.grammar(self.runs)
            if isinstance(step, Forced):
                self.runs.append(Emitted("forced", list(step.ids)))
                self.pending += [_Element(id) for id in step.ids]
                continue
            if isinstance(step, Stop):
                self.stop = step.reason
            elif step.kind == "text" and self.left <= 0:
                self.stop = "max_new_tokens"
            elif self.length + (step.length or 1) > limit:
                self.stop = "max_length"
            else:
                self.next = step
                self.runs.append(Emitted(step.kind, seed=noise(self.settings, len(self.runs))))
                if step.vectors:
                    self.runs[-1].weights = self.joins[step.kind].weights
                    self.pending[-1:] = [last._replace(begins=True) for last in self.pending[-1:]]
            return

    def take(self, id: int, logprob: float) -> bool:
        """Adds a drawn id to the present run; tells whether the run is over."""
        assert self.next is not None
        run = self.runs[-1]
        run.ids.append(id)
        run.logprobs.append(logprob)
        self.pending.append(_Element(id, len(run.ids) - 1 if run.kind == "image" else -1))
        if self.next.kind == "text":
            self.left -= 1
            if any(tuple(run.ids[-len(ids) :]) == ids for ids in self.stops):
                self.stop = "stop_sequence"
                return False
        if self.next.length is not None:
            return len(run.ids) == self.next.length
        if id not in self.next.ends and self.left <= 0:
            self.stop = "max_new_tokens"
        return id in self.next.ends

    def take_vectors(self, vectors: Tensor) -> bool:
        """Adds an element (r, c) to the present run; tells whether the run is over."""
        assert self.next is not None
        run = self.runs[-1]
        self.pending.append(_Element(0, len(run.ids), vectors))
        run.ids.append(-1)
        run.logprobs.append(0.0)
        run.vectors.append(vectors)
        return len(run.ids) == self.next.length

    def fed(self, row: int) -> list[_Element]:
        """Those of the pending elements that go to a row."""
        if not row or self.restart is None:
            return self.pending
        begun = next((at for at, one in enumerate(self.pending) if one.begins), 0)
        return [one for one in self.pending[begun:] if one.begins or one.vectors is not None]


@dataclass(eq=False)
class _Controls:
    """What the present runs of the requests that draw ids are drawn with, besides logits."""

    requests: list[_Request]
    rows: Tensor | None  # theirs; None: all
    head: Callable[[Tensor], Tensor]  # (rows, c) -> (rows, v): of the ids from `first` on
    first: int
    joined: Joined
    allowed: Tensor  # (requests, v)
    temperature: Tensor  # (requests,)
    top_p: Tensor  # (requests,)
    top_k: Tensor | None  # (requests,), if any has one
    rules: Rules | None
    said: Tensor  # (requests, t), where there are rules


def prompt(format: Format, document: Document, settings: Settings) -> Streams:
    """The rows of a request, cut if that is asked for.

    Raises:
        DocumentError: the document cannot be laid out.
        InputError: it leaves no room.
    """
    streams, limit = format.streams(document, settings.guided), format.max_length
    if settings.cut_prompt:
        kept = limit - settings.max_new_tokens
        if kept < 1:
            raise InputError(
                f"max_new_tokens {settings.max_new_tokens} of {limit} elements leave no prompt: ask for less"
            )
        streams = replace(streams, rows=tuple(row.cut(max(0, len(row) - kept), len(row)) for row in streams.rows))
    longest = max(len(row) for row in streams.rows)
    if longest >= limit:
        raise InputError(f"a prompt of {longest} elements, at most {limit - 1} fit: shorten it, or ask for cut_prompt")
    return streams


class Engine:
    """Submit requests, step until they are done, collect replies.

    Args:
        system: any system.
        rows: how many rows run at once; requests beyond wait.
    """

    def __init__(self, system: System, rows: int = 128) -> None:
        self.system = system
        self.capacity = rows
        self._waiting: deque[_Request] = deque()
        self._active: list[_Request] = []
        self._limit = system.format.max_length
        self._cache = KVCache(rows)
        self._collate = system.format.collator()
        self._submitted = 0
        self._controls: _Controls | None = None  # until a run changes

    def submit(self, document: Document, settings: Settings = Settings()) -> int:
        """Queues a request; its number.

        Raises:
            DocumentError, ImageError: the document cannot be laid out or read.
            ConfigError: a stop sequence is text, in a system that takes ids; or beams, which are not the engine's.
            InputError: the prompt leaves no room.
        """
        if settings.searched:
            raise ConfigError(f"{settings.beams} beams in the engine: ask `Model.generate`, or leave beams at 1")
        streams = prompt(self.system.format, document, settings)
        if len(streams.rows) > self.capacity:
            raise InputError(f"a request of {len(streams.rows)} rows in an engine of {self.capacity}: give more rows")
        for reader, image in streams.rows[0].pictures:
            self._collate.prepare[reader](image)
        request = _Request(
            number=self._submitted,
            settings=settings,
            grammar=self.system.format.grammar(document, settings.max_images),
            prompts=streams.rows,
            joins=streams.joins,
            restart=streams.restart,
            random=np.random.default_rng(settings.seed),
            stops=settings.stops(self.system.format),
            left=settings.max_new_tokens,
        )
        self._submitted += 1
        self._waiting.append(request)
        return request.number

    @torch.inference_mode()
    def cancel(self, number: int) -> None:
        """Drops a request, waiting or running; an unknown number is no error, it may just have ended."""
        self._waiting = deque(request for request in self._waiting if request.number != number)
        self._leave({request for request in self._active if request.number == number})

    def runs(self, number: int) -> list[Emitted]:
        """The runs of a running request so far, the last one unfinished; of any other, none."""
        return next((request.runs for request in self._active if request.number == number), [])

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._waiting or self._active)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Reply]]:
        """Lets waiting requests in, draws one id for each running one; the requests that ended, with their replies."""
        hidden, ended = self._join()
        if self._active:
            self._draw(self._feed() if hidden is None else hidden)
        ended += [request for request in self._active if request.stop]
        self._leave(set(ended))
        return [(request.number, reply) for request, reply in zip(ended, self._replies(ended), strict=True)]

    def run(self, documents: Iterable[Document], settings: Items[Settings]) -> list[Reply]:
        """Submits all and steps to the end; replies in the order of the documents."""
        numbers = [self.submit(document, one) for document, one in zip(documents, settings, strict=True)]
        done: dict[int, Reply] = {}
        while self.busy:
            done.update(self.step())
        return [done[number] for number in numbers]

    # -------------------------------------------------------------------------------------------- rows

    def _join(self) -> tuple[Tensor | None, list[_Request]]:
        """Lets requests in while there is room, and reads their prompts.

        Returns: last hidden states (n, c) of all rows, if any joined; the requests that ended before they began.
        """
        used = sum(len(request.prompts) for request in self._active)
        joined: list[_Request] = []
        ended: list[_Request] = []
        while self._waiting and used + len(self._waiting[0].prompts) <= self.capacity:
            request = self._waiting.popleft()
            request.advance(self._limit)
            if request.stop:
                ended.append(request)
            else:
                joined.append(request)
                used += len(request.prompts)
        if not joined:
            return None, ended
        before = self._feed() if self._active else None
        rows = [prompt for request in joined for prompt in request.prompts]
        after = self._read(rows, sum(len(request.prompts) for request in self._active))
        self._active += joined
        self._controls = None
        return after if before is None else torch.cat([before, after]), ended

    def _read(self, prompts: list[Sequence], first: int) -> Tensor:
        """Prefills rows from `first` on: (n, c) last hidden states."""
        batch = self._collate([[prompt] for prompt in prompts], shift=False)
        fresh = KVCache(len(prompts))
        counts = torch.tensor([len(prompt) for prompt in prompts])
        fresh.advance(counts, batch.block)
        hidden = self.system(batch.to(self.system.device), fresh).states
        self._cache.adopt(fresh, first)
        return hidden[torch.arange(len(prompts)), counts.to(hidden.device) - 1]

    def _feed(self) -> Tensor:
        """Feeds what was drawn or forced to every row of its request: (n, c) last hidden states."""
        rows = [(request, number) for request in self._active for number in range(len(request.prompts))]
        fed = [request.fed(number) for request, number in rows]
        for row, (request, number) in enumerate(rows):
            if number and request.restart is not None and any(one.begins for one in fed[row]):
                self._cache.clear(row, request.restart)
        counts = torch.tensor([len(elements) for elements in fed])
        width = int(counts.max())
        padded = [elements + [_Element(0)] * (width - len(elements)) for elements in fed]
        ids, place = torch.tensor([[one[:2] for one in elements] for elements in padded]).unbind(-1)
        position = self._cache.advance(counts)
        found = [
            (row * width + at, one.vectors[number])
            for row, (elements, (_, number)) in enumerate(zip(fed, rows, strict=True))
            for at, one in enumerate(elements)
            if one.vectors is not None
        ]
        given = Given(torch.tensor([at for at, _ in found]), torch.stack([x for _, x in found])) if found else None
        device = self.system.device
        batch = following(ids, position, place, given).to(device)
        hidden = self.system(batch, self._cache).states
        for request in self._active:
            request.pending = []
        return hidden[:, 0] if width == 1 else hidden[torch.arange(len(fed)), counts.to(device) - 1]

    def _leave(self, ended: set[_Request]) -> None:
        """Rows stay gap-free and in order: those behind a request that leaves move forward, each at most once."""
        if not ended:
            return
        rows = [request for request in self._active for _ in request.prompts]
        kept = [row for row, request in enumerate(rows) if request not in ended]
        for target, source in enumerate(kept):
            if source != target:
                self._cache.move(source, target)
        for row in range(len(kept), len(rows)):
            self._cache.clear(row)
        self._active = [request for request in self._active if request not in ended]
        self._controls = None

    # ------------------------------------------------------------------------------------------- draws

    def _draw(self, hidden: Tensor) -> None:
        """Draws one id for each request, or takes its vectors, from the hidden states (n, c) of all rows."""
        drawing = [request for request in self._active if request.next and not request.next.vectors]
        if drawing and self._controls is None:
            self._controls = self._prepare(drawing)
        controls, rules = self._controls, None
        if len(drawing) < len(self._active):
            self._take_vectors(hidden)
        if controls is None:
            return
        if controls.rows is not None:
            hidden = hidden[controls.rows]
        if controls.rules is not None:
            rules = partial(controls.rules, said=controls.said)
        logits, allowed = controls.joined(controls.head(hidden).float(), controls.allowed, rules)
        uniform = torch.tensor([request.random.random() for request in controls.requests], device=logits.device)
        ids, logprobs = draw(logits, allowed, controls.temperature, controls.top_p, uniform.float(), controls.top_k)
        ids += controls.first
        if controls.rules is not None:
            controls.said = torch.cat([controls.said, ids[:, None]], 1)
        for request, id, logprob in zip(controls.requests, ids.tolist(), logprobs.tolist(), strict=True):
            self._ask(request, request.take(id, logprob))

    def _take_vectors(self, hidden: Tensor) -> None:
        """One element for each request that writes vectors."""
        at = 0
        for request in self._active:
            rows = slice(at, at + len(request.prompts))
            at = rows.stop
            if request.next is not None and request.next.vectors:
                self._ask(request, request.take_vectors(self.system.heads[request.next.head](hidden[rows])))

    def _ask(self, request: _Request, over: bool) -> None:
        """What comes next, where a run is over."""
        if over:
            request.advance(self._limit)
            self._controls = None
        if not request.stop and request.length >= self._limit:
            request.stop = "max_length"

    def _prepare(self, requests: list[_Request]) -> _Controls:
        """How rows are joined, and the allowed ids and settings of the present runs of the requests that draw ids."""
        device = self.system.device
        rows = None
        if len(requests) < len(self._active):
            numbered = [request for request in self._active for _ in request.prompts]
            rows = torch.tensor([i for i, request in enumerate(numbered) if request in requests], device=device)
        steps = [request.next for request in requests if request.next]
        sampling = [request.settings.sampling(step.kind) for request, step in zip(requests, steps, strict=True)]
        allowed = torch.stack([step.allowed for step in steps])
        top_k = torch.tensor([s.top_k or 0 for s in sampling])
        until = [request.until for request in requests]
        rules = Rules.of(sampling, until, [step.ends for step in steps], allowed.shape[-1], device)
        every = range(allowed.shape[-1])
        head, ids = self._head({step.head for step in steps}, every if rules else _within(allowed), every)
        return _Controls(
            requests=requests,
            rows=rows,
            head=head,
            first=ids.start,
            joined=Joined.of([r.joins[step.kind] for r, step in zip(requests, steps, strict=True)], device),
            allowed=allowed[:, ids.start : ids.stop].to(device),
            temperature=torch.tensor([s.temperature for s in sampling], device=device),
            top_p=torch.tensor([s.top_p for s in sampling], device=device),
            top_k=top_k.to(device) if bool(top_k.any()) else None,
            rules=rules,
            said=history([request.said if rules else [] for request in requests], device),
        )

    def _head(self, kinds: set[str], ids: range, every: range) -> tuple[Callable[[Tensor], Tensor], range]:
        """The head of runs of these kinds, and whose logits it gives: of `ids`, if they are few, or of all."""
        heads = list(dict.fromkeys(self.system.heads[kind] for kind in sorted(kinds)))
        if len(heads) > 1:
            raise InputError(f"runs of {len(heads)} heads in one step, 1 is supported: draw them in separate engines")
        few = self.system.narrowed(min(kinds), ids.start, ids.stop) if 2 * len(ids) <= len(every) else None
        return (heads[0], every) if few is None else (few, ids)

    def _replies(self, ended: list[_Request]) -> list[Reply]:
        """Runs become pieces; the pictures of all requests that ended are drawn together."""
        wholes = [run for r in ended for run in r.runs if run.kind == "image"]
        pictures = iter(self.system.write(wholes) if wholes else [])
        replies = []
        for request in ended:
            runs = [run for run in request.runs if run.ids]
            pieces: list[Piece] = []
            for run in runs:
                if run.kind == "image":
                    pieces.append(next(pictures))
                elif run.kind == "text" and (text := self.system.format.read_text(run)):
                    pieces.append(Text(text))
            replies.append(Reply(document=Document(pieces), runs=tuple(runs), stop=request.stop))
        return replies


def _within(allowed: Tensor) -> range:
    """From the first to the last id that any row of (n, v) allows."""
    ids = allowed.any(0).nonzero().flatten().tolist()
    return range(ids[0], ids[-1] + 1)
