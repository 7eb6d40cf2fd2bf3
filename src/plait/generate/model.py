"""The model that users hold: a system, and what can be asked of it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Generator
from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import torch
from torch import Tensor

import plait.systems
from plait.checkpoints import directory as checkpoint
from plait.checkpoints.outside import from_file, is_outside
from plait.document import Document, Piece, Text, Turn
from plait.errors import ConfigError, DocumentError, InputError, hint
from plait.generate.engine import Engine, Reply, Settings
from plait.generate.search import search
from plait.nn.blocks import Decoder
from plait.nn.packed import pack
from plait.retrieval.retriever import Retriever
from plait.sequence import Batch, Sequence
from plait.systems.base import Contrast, Emitted, Format, System

ROWS = 256
"""Rows that run at once: a document needs one, or two or three under guidance."""


class Overrides(TypedDict, total=False):
    """What may be given by name in place of `Settings`, or on top of them."""

    max_new_tokens: int
    max_images: int
    guidance: float
    image_guidance: float | None
    contrast: Contrast | None
    temperature: float
    top_k: int | None
    top_p: float
    repetition_penalty: float
    no_repeat_ngram: int
    min_new_tokens: int
    image_temperature: float
    image_top_k: int | None
    image_top_p: float
    seed: int
    cut_prompt: bool
    stop: str | tuple[str | tuple[int, ...], ...]
    said: tuple[int, ...]
    beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    among: tuple[str, ...]
    search: Literal["transformers", "fairseq", "fairseq_released"]


_OF_TEXT = ("temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram", "min_new_tokens")
_OF_IMAGES = ("temperature", "top_k", "top_p")
_SAMPLING = {name: ("text", name) for name in _OF_TEXT} | {f"image_{name}": ("image", name) for name in _OF_IMAGES}


class Model:
    """A system that answers. The system is put into evaluation mode.

    Args:
        system: any system.
        rows: how many rows run at once; documents beyond wait.
        retriever: puts documents of a memory in front of those that are answered.
    """

    def __init__(self, system: System, rows: int = ROWS, retriever: Retriever | None = None) -> None:
        self.system = system.eval()
        self.rows = rows
        self.retriever = retriever

    @property
    def format(self) -> Format:
        """How documents are laid out."""
        return self.system.format

    def settings(self, preset: str | None = None, **overrides: Unpack[Overrides]) -> Settings:
        """The settings that the system has under a name (`Format.presets`), or the default ones, changed by name.

        Raises:
            ConfigError: no such preset or setting.
        """
        presets = self.format.presets
        if preset is None:
            return _settings(None, overrides)
        if preset not in presets:
            known = hint(preset, presets) if presets else "it has none: leave it out"
            raise ConfigError(f"no preset {preset!r} of {self.system.name}; {known}")
        return _settings(_settings(None, cast("Overrides", presets[preset])), overrides)

    @overload
    def generate(
        self, documents: Document, settings: Settings | None = None, **overrides: Unpack[Overrides]
    ) -> Reply: ...
    @overload
    def generate(
        self,
        documents: Items[Document],
        settings: Settings | Items[Settings] | None = None,
        **overrides: Unpack[Overrides],
    ) -> list[Reply]: ...
    def generate(
        self,
        documents: Document | Items[Document],
        settings: Settings | Items[Settings] | None = None,
        **overrides: Unpack[Overrides],
    ) -> Reply | list[Reply]:
        """The reply to a document, or to each of several, which then run side by side.

        Document i of several is drawn with `seed` + i: alone and with that seed it gets the same reply.

        Args:
            settings: see `Settings`; text is greedy unless a temperature is given. Or one for each document, as it is.
            overrides: the names of `Settings` but `text` and `image`; those of `Sampling` for text;
                `image_temperature`, `image_top_k` and `image_top_p` for pictures.

        Raises:
            DocumentError, ImageError: a document cannot be laid out or read.
            InputError: a prompt leaves no room.
        """
        asked = [documents] if isinstance(documents, Document) else list(documents)
        if not asked:
            return []
        if self.retriever is not None:
            asked = self.retriever(asked)
        if settings is None or isinstance(settings, Settings):
            first = _settings(settings, overrides)
            each = [replace(first, seed=first.seed + i) for i in range(len(asked))]
        else:
            each = [_settings(one, overrides) for one in settings]
        both = list(zip(asked, each, strict=True))
        beside = [pair for pair in both if not pair[1].searched]
        engine = Engine(self.system, self.rows)
        drawn = iter(engine.run([document for document, _ in beside], [one for _, one in beside]))
        replies = [search(self.system, document, one) if one.searched else next(drawn) for document, one in both]
        return replies[0] if isinstance(documents, Document) else replies

    def stream(
        self, document: Document, settings: Settings | None = None, **overrides: Unpack[Overrides]
    ) -> Generator[Piece, None, Reply]:
        """The pieces of the reply as they come: text in chunks, a picture when it is whole; at the end the reply.

        The chunks of text, joined, are the text that `generate` gives for the same settings, as long as the system
        reads what it said before as it did (`Format.read_text`); else the text is told anew. What beams find is known
        at the end only; what may become a stop sequence is held back until it is none.
        """
        settings = _settings(settings, overrides)
        document = document if self.retriever is None else self.retriever(document)
        if settings.searched:
            found = search(self.system, document, settings)
            yield from found
            return found
        stops = settings.stops(self.format)
        engine = Engine(self.system, self.rows)
        number = engine.submit(document, settings)
        at, drawn, said = 0, 0, ""  # the run that is being told, pictures before it, and what was told of it
        reply: Reply | None = None
        while reply is None:
            reply = dict(engine.step()).get(number)
            runs = list(reply.runs) if reply else engine.runs(number)
            while at < len(runs):
                whole = reply is not None or at + 1 < len(runs)
                if runs[at].kind == "text":
                    text = self._text(runs[at], whole, stops)
                    said = said if text.startswith(said) else ""  # the system takes back what it read: told anew
                    if len(text) > len(said):
                        yield Text(text[len(said) :])
                        said = text
                elif runs[at].kind == "image" and whole:
                    yield reply.document.images[drawn] if reply else self.system.write([runs[at]])[0]
                    drawn += 1
                if not whole:
                    break
                at, said = at + 1, ""
        return reply

    def _text(self, run: Emitted, whole: bool, stops: Items[tuple[int, ...]] = ()) -> str:
        """The text of a run so far; a character of which bytes are missing yet, or half a stop, is held back."""
        if whole:
            return self.format.read_text(run)
        begun = max((n for ids in stops for n in range(1, len(ids)) if tuple(run.ids[-n:]) == ids[:n]), default=0)
        return self.format.read_text(replace(run, ids=run.ids[: len(run.ids) - begun])).rstrip("\ufffd")

    @torch.inference_mode()
    def score(self, document: Document | Items[Document], candidates: Items[str], ended: bool = True) -> list[float]:
        """The log-probability of each candidate as the whole of what is said next, in one forward pass.

        A candidate is what the assistant answers where the document is a conversation that ends with the user, or
        text behind the last piece of any other. The symbols around it count: it must begin there, and end. Candidates
        of several lengths are summed, not averaged.

        Args:
            document: of all candidates; or several, one of each.
            ended: whether what ends a document counts too; without it, words that only begin a reply are compared, as
                KOSMOS-1 compares its "Yes".

        Raises:
            DocumentError, ImageError: a document cannot be laid out or read, or already holds the answer.
            InputError: a candidate leaves no room, or there are not as many documents as candidates.
        """
        documents: Items[Document] = [document] * len(candidates) if isinstance(document, Document) else document
        if len(documents) != len(candidates):
            raise InputError(f"{len(documents)} documents for {len(candidates)} candidates: give one for each, or one")
        answered = [self._laid(_answered(*pair), ended) for pair in zip(documents, candidates, strict=True)]
        opened = {key: self.format.layout(each, open=True) for key, each in {id(one): one for one in documents}.items()}
        prompts = [opened[id(each)] for each in documents]
        for prompt, sequence in zip(prompts, answered, strict=True):
            if sequence.cut(0, len(prompt)).ids().tolist() != prompt.ids().tolist():
                raise DocumentError("the answer would not stand behind the document: end it with the user's turn")
        scores: list[float] = []
        for first in range(0, len(answered), self.rows):
            part = slice(first, first + self.rows)
            scores += self._sums(self._batch(answered[part], shift=True), [len(prompt) for prompt in prompts[part]])
        return scores

    def _laid(self, document: Document, ended: bool) -> Sequence:
        """With its targets, up to where it could go on if it has not ended."""
        sequence = self.format.layout(document)
        if ended:
            return sequence
        more = self.format.layout(document, open=True)
        begun = sequence.cut(0, len(more))
        if begun.ids().tolist() != more.ids().tolist():
            raise DocumentError("this system's replies cannot go on where a candidate stops: leave ended at True")
        return begun

    def _sums(self, batch: Batch, prompts: Items[int]) -> list[float]:
        """(b,) sums of log-probabilities of the targets behind so many elements of a row, one sequence a row."""
        hidden = self.system(batch).states.flatten(0, 1)  # (b * t, c)
        width = batch.ids.shape[1]
        begin = torch.tensor(prompts, device=hidden.device) - 1  # element j is predicted at j - 1
        sums = torch.zeros(len(batch.ids), dtype=torch.float64, device=hidden.device)
        for kind, targets in batch.targets.items():
            kept = targets.at % width >= begin[targets.at // width]
            at, value = targets.at[kept], targets.value[kept]
            if len(at):
                logprobs = self.system.heads[kind](hidden[at]).float().log_softmax(-1)
                sums.index_add_(0, at // width, logprobs.gather(-1, value[:, None])[:, 0].double())
        return sums.tolist()

    @torch.inference_mode()
    def embed(self, documents: Document | Items[Document]) -> Tensor:
        """The mean of the last hidden states over the elements of a document: (c,); of several: (n, c). In fp32.

        Raises:
            DocumentError, ImageError: a document cannot be laid out or read.
            InputError: a document is too long.
        """
        asked = [documents] if isinstance(documents, Document) else list(documents)
        if not asked:
            raise InputError("0 documents to embed: give at least one")
        sequences = [self.format.layout(document) for document in asked]
        means = []
        for first in range(0, len(sequences), self.rows):
            batch = self._batch(sequences[first : first + self.rows], shift=False)
            states = self.system(batch).states.float()  # (b, t, c)
            real = (batch.document >= 0).float()[..., None]
            means.append((states * real).sum(1) / real.sum(1))
        joined = torch.cat(means)
        return joined[0] if isinstance(documents, Document) else joined

    def _batch(self, sequences: list[Sequence], shift: bool) -> Batch:
        longest = max(map(len, sequences))
        if longest > self.format.max_length:
            raise InputError(f"a document of {longest} elements, at most {self.format.max_length} fit: shorten it")
        rows = [[sequence] for sequence in sequences]
        return self.format.collator()(rows, shift=shift, strict=True).to(self.system.device)


def load(
    directory: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    system: str | None = None,
    packed: bool = True,
    compile: bool = False,
) -> Model:
    """The model in a run, a checkpoint or an import (`plait.checkpoints.directory.load`), for inference.

    Args:
        packed: on a CPU, weights of linear layers are brought into the order in which they are multiplied soonest
            (`plait.nn.packed`). They cannot be trained any more. Of a large model on a CPU of Intel, one request at a
            time is answered sooner without.
        compile: the step that decodes is compiled when it is first run (`Decoder.compile_step`): a minute or two at
            first, for shorter steps of a small model.

    Raises:
        ConfigError: `compile` without a C++ compiler, or on another device than a CPU.
    """
    built = checkpoint.load(directory, device, dtype, system)
    if packed:
        pack(built)
    if compile:
        for decoder in (module for module in built.modules() if isinstance(module, Decoder)):
            decoder.compile_step()
    return Model(built)


def build(system: str, size: str = "tiny") -> Model:
    """A model with random weights; seed torch to have the same again.

    Args:
        system: the name of a module of `plait.systems`, or `file.py:function` from outside; both take a size.

    Raises:
        ConfigError: no such system or size.
    """
    return Model(_builder(system)(size))


def _builder(system: str) -> Callable[[str], System]:
    if is_outside(system):
        return from_file(system)
    names = [found.name for found in pkgutil.iter_modules(plait.systems.__path__) if found.name != "base"]
    if system not in names:
        raise ConfigError(f"no system {system!r}; {hint(system, names)}, or a file.py:function")
    return importlib.import_module(f"plait.systems.{system}").build


def _settings(settings: Settings | None, overrides: Overrides) -> Settings:
    plain: dict[str, Any] = {}
    sampling: dict[str, dict[str, Any]] = {}
    known = {field.name for field in dataclasses.fields(Settings)} - {"text", "image"} | _SAMPLING.keys()
    for name, value in overrides.items():
        if name not in known:
            raise ConfigError(f"no setting {name!r}; {hint(name, sorted(known))}")
        if name in _SAMPLING:
            kind, field = _SAMPLING[name]
            sampling.setdefault(kind, {})[field] = value
        else:
            plain[name] = value
    settings = settings or Settings()
    plain |= {kind: replace(settings.sampling(kind), **given) for kind, given in sampling.items()}
    return replace(settings, **plain)


def _answered(document: Document, answer: str) -> Document:
    if not document.turns:
        return Document([*document.pieces, Text(answer)])
    if document.turns[-1].role == "assistant":
        raise DocumentError("the last turn is the assistant's: end the conversation with what is asked")
    return Document([*document.turns, Turn("assistant", answer)])
