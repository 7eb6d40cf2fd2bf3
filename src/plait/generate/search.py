"""A reply of one text, or of one picture, by beam search: any system, one request at a time, its beams side by side."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from plait.document import Document, Piece, Text
from plait.errors import ConfigError, InputError
from plait.generate.beams import Beams, BeamSearch, FairseqSearch, Hypothesis, beam_search
from plait.generate.engine import Reply, Settings, following, noise, prompt
from plait.generate.trie import Trie
from plait.nn.attention import KVCache
from plait.sequence import Sequence
from plait.systems.base import Emitted, Forced, Grammar, Next, Stop, System


@torch.inference_mode()
def search(system: System, document: Document, settings: Settings) -> Reply:
    """The reply with the best score that `settings.beams` beams find.

    It is text alone, whatever `max_images` says, or one picture where the prompt asks for one first. A stop sequence
    ends the search when the first of the beams ends with it, as in published code. `among` has it end by itself.

    Raises:
        ConfigError: guidance.
        DocumentError, ImageError: the document cannot be laid out or read.
        InputError: the prompt leaves no room, or more than one run of text or codes is asked for.
    """
    format = system.format
    rows = prompt(format, document, settings).rows
    if len(rows) > 1:
        raise ConfigError(f"{settings.beams} beams and guidance {settings.guidance}: leave one of them at 1")
    room = format.max_length - len(rows[0])
    grammar = format.grammar(document, 1)
    begin = grammar([])
    if not _draws(begin):
        grammar = format.grammar(document, 0)
        begin = grammar([])
    if isinstance(begin, Stop) or not (_draws(begin) or settings.max_new_tokens):
        stop = begin.reason if isinstance(begin, Stop) else "max_new_tokens"
        return Reply(document=Document(), runs=(), stop=stop)
    if not isinstance(begin, Next) or (begin.kind == "text") != (begin.length is None):
        raise InputError("beams look for one run of text or codes, and this reply begins otherwise: leave beams at 1")
    if begin.vectors:
        raise InputError("beams look for text or codes, and this reply begins with vectors: leave beams at 1")
    if (begin.length or 1) > room:
        return Reply(document=Document(), runs=(), stop="max_length")
    most = begin.length or min(settings.max_new_tokens, room)
    if settings.among and (missing := 1 + _trie(system, begin, settings).longest - most) > 0:
        raise InputError(
            f"the longest of {len(settings.among)} texts has {missing} ids more than fit: ask for more tokens"
        )
    best = hypotheses(system, rows[0], begin, settings, most)[0]
    runs = [Emitted(begin.kind, best.ids, best.logprobs, noise(settings, 0))]
    stop = "max_new_tokens" if most == settings.max_new_tokens else "max_length"
    if best.ended or begin.length:
        stop = _end(grammar, runs)
    elif len(best.ids) < most:
        stop = "stop_sequence"
    if _draws(begin):
        return Reply(document=Document(system.write(runs[:1])), runs=tuple(runs), stop=stop)
    text = format.read_text(runs[0])
    pieces: list[Piece] = [Text(text)] if text else []
    return Reply(document=Document(pieces), runs=tuple(runs), stop=stop)


def _draws(begin: Next | Forced | Stop) -> bool:
    return isinstance(begin, Next) and begin.kind == "image" and begin.length is not None


def _trie(system: System, begin: Next, settings: Settings) -> Trie:
    """Of the texts that may be said.

    Raises:
        ConfigError: the reply is a picture; one of them is empty, or the system does not say which ids they are.
    """
    if _draws(begin):
        raise ConfigError(f"a picture that is one of {len(settings.among)} texts: leave `among` out")
    return Trie([system.format.text_ids(text) for text in settings.among], begin.ends)


def _end(grammar: Grammar, runs: list[Emitted]) -> str:
    """Why the reply ends behind the run; ids that are forced behind it are added."""
    after = grammar(runs)
    if isinstance(after, Forced):
        runs.append(Emitted("forced", list(after.ids)))
        after = grammar(runs)
    if not isinstance(after, Stop):
        raise InputError("beams look for one run of text or codes, and this reply has more: leave beams at 1")
    return after.reason


def hypotheses(
    system: System, prompt: Sequence, begin: Next, settings: Settings, most: int, returned: int = 1
) -> list[Hypothesis]:
    """The best of what may follow a prompt, of at most so many ids; the best first."""
    stops = () if _draws(begin) else settings.stops(system.format)
    sampling = settings.sampling(begin.kind)
    places = itertools.count() if _draws(begin) else itertools.repeat(-1)
    cache = KVCache(settings.beams)
    allowed = begin.allowed.to(system.device)
    fairseq = settings.search != "transformers"
    trie = _trie(system, begin, settings) if settings.among else None

    def logprobs(hidden: Tensor) -> Tensor:
        logits = system.heads[begin.head](hidden).float()
        if fairseq:  # what is not allowed has its share all the same
            return torch.where(allowed, logits.log_softmax(-1), -torch.inf)
        return torch.where(allowed, logits, -torch.inf).log_softmax(-1)

    def step(ids: Tensor) -> Tensor:
        position = cache.advance(torch.ones(len(ids), dtype=torch.long))
        batch = following(ids.cpu()[:, None], position, torch.full_like(position, next(places)))
        return logprobs(system(batch.to(system.device), cache).states[:, 0])

    def stopped(said: Tensor) -> bool:
        first = tuple(said[0, before:].tolist())
        return any(first[-len(one) :] == one for one in stops)

    batch = system.format.collator()([[prompt]], shift=False, strict=True)
    cache.advance(torch.tensor([len(prompt)]), batch.block)
    states = system(batch.to(system.device), cache).states[:, : len(prompt)]
    beams = Beams(
        beams=settings.beams,
        max_new_tokens=most,
        length_penalty=settings.length_penalty,
        early_stopping=settings.early_stopping,
        sampling=sampling,
        returned=returned,
    )

    def along(row: int, said: list[int]) -> list[int]:
        assert trie is not None
        return trie.allowed(said[before:])

    stop = stopped if stops else None
    only = along if trie else None
    random = np.random.default_rng(settings.seed) if sampling.temperature else None
    search: BeamSearch
    if fairseq:
        counted = system.format.counted_ids(prompt)
        search = FairseqSearch(
            beams,
            begin.ends,
            prompt=counted,
            total=_total(system, begin.head, states, counted),
            released=settings.search == "fairseq_released",
            allowed=only,
            stop=stop,
            random=random,
        )
    else:
        search = BeamSearch(beams, begin.ends, said=settings.said, allowed=only, stop=stop, random=random)
    before = search.before
    (found,) = beam_search(search, logprobs(states[:, -1]), step, cache.reorder)
    return found


def _total(system: System, head: str, states: Tensor, ids: tuple[int, ...]) -> float:
    """The log-probability of a prompt's ids, but the first, given its hidden states (1, t, c)."""
    if len(ids) != states.shape[1]:
        raise ConfigError(f"a prompt of {states.shape[1]} elements counts as {len(ids)} ids: search by transformers")
    logprobs = system.heads[head](states[0, :-1]).float().log_softmax(-1)
    return float(logprobs.gather(-1, torch.tensor(ids[1:], device=logprobs.device)[:, None]).sum())
