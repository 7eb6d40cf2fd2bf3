"""Descriptions of pictures by a model: which pictures there are, and what it is asked.

Source: MiniGPT-4 (arXiv 2304.10592, section 3.2). Any system that reads pictures and writes text can describe.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plait.data.intake import Entry, existing_folder
from plait.data.shards import PICTURES, ShardSource, splits
from plait.data.tarindex import Member
from plait.document import Document, Image, Turn
from plait.errors import DocumentError, InputError
from plait.generate.engine import Reply, Settings
from plait.generate.model import Model
from plait.text.templates import DETAILED, MORE, PLACE, fill, merge


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model says of a picture."""

    text: str
    tokens: int
    """That were generated, end symbols included."""
    continued: bool
    """Whether it was asked to go on."""


@dataclass(frozen=True, kw_only=True)
class Describer:
    """What asks a model for descriptions.

    Args:
        prompt: with `<ImageHere>` in it, the prompt as it is, with the picture there; without, what the user says of
            the picture. None: the system's own (`Format.prompts`), else the request of the paper.
        more: stands behind a description that is too short; or what the user says then.
        min_tokens: a description of fewer generated tokens is asked to go on, once.
        settings: each picture is drawn with a seed of its own content and this one.
    """

    model: Model
    settings: Settings
    prompt: str | None = None
    more: str | None = None
    min_tokens: int = 80

    def __call__(self, pictures: Sequence[bytes]) -> list[Description]:
        """Of each picture; what was said in two parts is joined by one space."""
        images = [Image(content) for content in pictures]
        seeds = [self.settings.seed + int(key_of(content)[:8], 16) for content in pictures]
        first = self._ask([self.document(image) for image in images], seeds)
        said = [Description(text=reply.text.strip(), tokens=_tokens(reply), continued=False) for reply in first]
        longer = [self.document(image, one.text) for image, one in zip(images, said, strict=True)]
        short = [i for i, one in enumerate(said) if one.tokens < self.min_tokens and self._fits(longer[i])]
        second = self._ask([longer[i] for i in short], [seeds[i] + 1 for i in short])
        for i, reply in zip(short, second, strict=True):
            text = " ".join(filter(None, (said[i].text, reply.text.strip())))
            said[i] = Description(text=text, tokens=said[i].tokens + _tokens(reply), continued=True)
        return said

    def document(self, image: Image, said: str | None = None) -> Document:
        """The prompt for a picture; `said`: for what follows a description that is too short."""
        own = self.model.format.prompts
        if self.prompt is None and "describe" in own:
            prompt, more = own["describe"], self.more or own["continue"]
        else:
            prompt, more = self.prompt or DETAILED, self.more or MORE
        if PLACE in prompt:
            return Document(merge([*fill(prompt, [image]), *([] if said is None else [said + more])]))
        asked = Turn("user", [image, prompt])
        return Document([asked] if said is None else [asked, Turn("assistant", said), Turn("user", more)])

    def _ask(self, documents: Sequence[Document], seeds: Sequence[int]) -> list[Reply]:
        return self.model.generate(documents, [replace(self.settings, seed=seed) for seed in seeds])

    def _fits(self, document: Document) -> bool:
        format = self.model.format
        return self.settings.cut_prompt or len(format.layout(document, open=True)) < format.max_length


def key_of(content: bytes) -> str:
    """What a picture is known by: its bytes."""
    return hashlib.sha256(content).hexdigest()


def _tokens(reply: Reply) -> int:
    return sum(len(run.ids) for run in reply.runs if run.kind == "text")


def pictures_of(source: str | Path) -> list[Entry]:
    """The pictures of a data directory, once each, or those that lie in a folder and in folders below.

    Raises:
        InputError: no folder; no pictures.
    """
    source = Path(source)
    if source.is_file() or splits(source) or any(existing_folder(source).glob("*.tar")):
        found = list(_stored(source))
    else:
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower().removeprefix(".") in PICTURES)
        names = [path.relative_to(source).as_posix() for path in paths]
        found = [Entry(path, name, (), {}) for path, name in zip(paths, names, strict=True) if not _hidden(name)]
    if not found:
        raise InputError(f"{source}: 0 pictures; give a folder of pictures, or a data directory")
    return found


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _stored(source: Path) -> Iterator[Entry]:
    names: list[str | None] = list(splits(source)) or [None]
    for split in names:
        shards = ShardSource(source, split)
        seen: set[Member] = set()  # documents of a sample share its pictures
        for i in range(len(shards)):
            try:
                images = shards[i].images
            except DocumentError:
                continue  # training leaves it out too, and `plait data inspect` lists it
            for image in images:
                member = image.source
                if isinstance(member, Member) and member not in seen:
                    seen.add(member)
                    where = "/".join(filter(None, (split, Path(member.shard).name)))
                    yield Entry(member, f"{where}:{member.name}", (), {})


def sample(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """At most `limit` of the pictures, drawn at random but the same each time, in their order.

    Raises:
        InputError: a limit below 1.
    """
    if limit is None or limit >= len(entries):
        return list(entries)
    if limit < 1:
        raise InputError(f"a limit of {limit} pictures: give at least 1")
    chosen = random.Random(0).sample(range(len(entries)), limit)
    return [entries[i] for i in sorted(chosen)]
