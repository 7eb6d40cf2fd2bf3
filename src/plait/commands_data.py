"""The commands `plait data ...`: one dataclass each. What is heavy is imported when a command runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from plait.commands import Answering, table
from plait.errors import InputError

SECONDS = 10.0  # between two lines of progress in a file


@dataclass(frozen=True)
class DataImport:
    """Turn a folder of pictures and words into shards.

    KIND is captions (an image folder and a caption table), classes (a folder for each class), coco (COCO's captions:
    JSON files and image folders), webdataset (tars of images with captions, as img2dataset writes them),
    storyboard (videos, or sheets of their frames, with subtitles) or
    pages (pages of the web: WARC files, or saved as HTML with their images).
    """

    kind: Positional[str]
    source: Positional[Path]
    out: Path
    table: Path | None = None
    """Caption table, where it is not found by itself; of captions."""
    images: Path | None = None
    """Image folder, likewise; of captions and coco. Of pages, one that is looked into besides."""
    split: tuple[str, ...] = ()
    """NAME=FILE: what makes up a split. For captions, a list of picture names; for coco, a JSON."""
    template: tuple[str, ...] = ()
    """Caption of a class, with {name} in it; of classes."""
    every: float | None = None
    """Seconds between two frames of a video [2]; of storyboard."""

    def __call__(self) -> None:
        """Imports and prints what was kept and what was not."""
        from plait.data.importers import KINDS

        if self.kind not in KINDS:
            raise InputError(f"no kind {self.kind!r} of data; there are {', '.join(KINDS)}")
        given: dict[str, tuple[str, Any]] = {  # argument of an importer -> flag and value
            "table": ("--table", self.table),
            "images": ("--images", self.images),
            "splits": ("--split", dict(_named_file(item) for item in self.split)),
            "templates": ("--template", self.template),
            "every": ("--every", self.every),
        }
        taken = signature(KINDS[self.kind]).parameters
        idle = [flag for name, (flag, value) in given.items() if value and name not in taken]
        if idle:
            raise InputError(f"data of kind {self.kind} has no use for {', '.join(idle)}: leave it out")
        options = {name: value for name, (_, value) in given.items() if value}
        report = KINDS[self.kind](self.source, self.out, **options)
        table(f"{self.out}", [(key, str(value)) for key, value in _counted(report.to_json()).items()])


@dataclass(frozen=True)
class DataInspect:
    """Count and measure a data directory, and lay out some of it on a contact sheet."""

    directory: Positional[Path]
    out: Path | None = None
    """PNG for the contact sheet."""
    limit: int = 1000
    """Documents that are looked at, of each split."""

    def __call__(self) -> None:
        """Prints a table a split."""
        from plait.data.inspect import inspect
        from plait.data.shards import ShardSource, splits

        names: list[str | None] = list(splits(self.directory)) or [None]
        for name in names:
            out = self.out if self.out is None or name is None else self.out.with_stem(f"{self.out.stem}-{name}")
            inspection = inspect(ShardSource(self.directory, name), out, self.limit)
            table(f"{self.directory} {name or ''}", inspection.rows())


@dataclass(frozen=True)
class DataTokenize:
    """Write the pictures of shards as codes, a file of JSON lines for each shard; the same command goes on.

    Line i is document i: the codes of its pictures, null for one that cannot be read.
    """

    source: Positional[Path]
    out: Path
    checkpoint: Annotated[str, arg(name="with")]
    """The model whose codes they are: SEED's tokenizer, SEED-LLaMA or CM3Leon."""
    batch: int = 64
    """Pictures that are read at once."""
    system: str | None = None
    """file.py:Class of a system from outside the package; the file is run."""

    def __call__(self) -> None:
        """Goes on where it was, and prints the counts."""
        from plait.checkpoints.directory import find, load, read_description
        from plait.data.tokenize import tokenize
        from plait.errors import Interrupted

        if self.batch < 1:
            raise InputError(f"--batch {self.batch}: it must be at least 1")
        parts = read_description(find(self.checkpoint))["parts"]
        identity = {name: part.get("fingerprint") for name, part in parts.items()}
        with _progress() as tell:
            try:
                counts = tokenize(
                    self.source,
                    self.out,
                    {"parts": identity},
                    lambda: load(self.checkpoint, system=self.system),
                    self.batch,
                    tell,
                )
            except KeyboardInterrupt as stop:
                raise Interrupted("stopped; the same command goes on from there") from stop
        table(f"{self.out}", [(name.replace("_", " "), str(count)) for name, count in vars(counts).items()])


@dataclass(frozen=True)
class DataShapes:
    """Write documents of the shapes world as shards."""

    out: Path
    count: int = 1000
    split: str = "train"
    seed: int = 0
    resolution: int = 32
    objects: tuple[int, ...] = (1, 2)

    def __call__(self) -> None:
        """Draws and writes."""
        from plait.data.shapes import Shapes
        from plait.data.shards import ShardWriter, fresh_directory

        if self.split not in ("train", "validation", "test"):
            raise InputError(f"split {self.split!r} is not one of train, validation, test")
        source = Shapes(
            seed=self.seed,
            length=self.count,
            split=self.split,  # type: ignore[arg-type]
            objects=self.objects,
            resolution=self.resolution,
        )
        with fresh_directory(self.out) as folder, ShardWriter(folder) as writer:
            for i in range(len(source)):
                writer.add(f"{i:08d}", source[i])
        print(f"{self.count} documents in {self.out}")


@dataclass(frozen=True)
class DataMemory:
    """Build a memory of documents that are found by what they show and say; search it.

    With --out, SOURCE is a data directory: its documents are embedded into OUT, which may have been begun before.
    Without, SOURCE is a memory: it is told what it is, or what --query and --image find in it.
    """

    source: Positional[Path]
    out: Path | None = None
    """Folder of the memory."""
    embed: str | None = None
    """Run or checkpoint with a tower for texts and one for pictures; by default that of the memory."""
    split: str | None = None
    """Of SOURCE, or of --neighbours."""
    raw: bool = False
    """Compare averages of text and pictures as they are, rather than brought to length 1."""
    half: bool = False
    """Keep vectors in 16 bits."""
    batch: int = 256
    """Documents that are embedded together."""
    query: str | None = None
    """Text that documents are looked for by."""
    image: Path | None = None
    """Picture that they are looked for by; with --query, by both."""
    count: int = 5
    """Documents that are looked for."""
    neighbours: Path | None = None
    """Data directory for each of whose documents is kept beside the memory what stands before it in training."""
    system: str | None = None
    """file.py:Class of a system from outside the package; the file is run."""

    def __call__(self) -> None:
        """Builds, or searches, and prints what there is."""
        asks = {"--query": self.query, "--image": self.image, "--neighbours": self.neighbours}
        wrong = [flag for flag, value in asks.items() if value is not None]
        if self.out is not None and wrong:
            raise InputError(f"--out builds a memory and {wrong[0]} asks one: give {wrong[0]} with the memory, later")
        if self.out is not None:
            self._build(self.out)
        elif self.neighbours is not None:
            self._neighbours(self.neighbours)
        elif self.query is not None or self.image is not None:
            self._search()
        else:
            from plait.retrieval.memory import Memory

            table(f"{self.source}", Memory(self.source).rows())

    def _build(self, out: Path) -> None:
        from plait.data.retrieved import open_memory, remember, shard_name
        from plait.data.shards import ShardSource
        from plait.retrieval.memory import Memory
        from plait.retrieval.store import FACTS

        source = ShardSource(self.source, self.split)
        begun = (out / FACTS).is_file()
        if not begun and self.embed is None:
            raise InputError(f"{out}: a new memory needs towers; give --embed with a run or a checkpoint that has some")
        memory = open_memory(out) if begun else None
        if memory is not None and (self.half or self.raw):
            raise InputError(f"{out}: is a memory; --half and --raw were settled when it was begun: leave them out")
        embedder = self._embedder(memory)
        if memory is None:
            memory = Memory.create(
                out,
                embedder.towers.width,
                dtype="float16" if self.half else "float32",
                style="raw" if self.raw else "unit",
                embedder=embedder.identity,
            )
        with _progress() as tell:
            remember(memory, shard_name(source), source, embedder, batch=self.batch, tell=tell)
        table(f"{out}", memory.rows())

    def _search(self) -> None:
        from plait.data.retrieved import open_memory
        from plait.document import Document, Image

        memory = open_memory(self.source)
        asked = Document([*([self.query] if self.query else []), *([Image(self.image)] if self.image else [])])
        found = memory.search(self._embedder(memory)([asked]).joined()[0], self.count)
        rows = found.rows[0].tolist()
        said = [f"{score:.4f}  {memory.said(row)}" for score, row in zip(found.scores[0].tolist(), rows, strict=True)]
        table(f"{self.source}", [(str(row), line) for row, line in zip(rows, said, strict=True)])

    def _neighbours(self, shards: Path) -> None:
        from plait.data.retrieved import neighbours, open_memory, shard_name
        from plait.data.shards import ShardSource

        memory, source = open_memory(self.source), ShardSource(shards, self.split)
        with _progress() as tell:
            path = neighbours(memory, shard_name(source), source, self._embedder(memory), batch=self.batch, tell=tell)
        print(path)

    def _embedder(self, memory: Any) -> Any:
        from plait.retrieval.embed import load_embedder
        from plait.retrieval.retriever import check_towers

        built_with = memory.store.facts["embedder"]["checkpoint"] if memory is not None else None
        embedder = load_embedder(str(self.embed or built_with), system=self.system)
        if memory is not None:
            check_towers(memory, embedder)
        return embedder


@dataclass(frozen=True)
class DataCurate(Answering):
    """Let a model describe pictures, as data for a second stage: repaired by an endpoint, judged by rules and by you.

    SOURCE is a folder of pictures or a data directory. The same command goes on with what OUT holds. OUT/review.html is
    the page to choose on; what it saves is given with --choices. The preset is `chat`, where the system has one.
    """

    checkpoint: Positional[str]
    source: Positional[Path]
    out: Path
    prompt: str | None = None
    """What is asked of a picture; with <ImageHere> in it, the prompt as it is. By default the system's own."""
    more: str | None = None
    """What is asked behind a description that is too short; by default the system's own."""
    min_tokens: int = 80
    """A description of fewer tokens is asked to go on, once."""
    limit: int | None = None
    """Pictures at most, drawn at random."""
    batch: int = 8
    """Pictures that are described side by side."""
    repair_url: str | None = None
    """An OpenAI-compatible endpoint, as https://HOST/v1; without it the texts stay as they are."""
    repair_model: str | None = None
    """The model that it is asked for."""
    repair_key_env: str | None = None
    """Name of the environment variable that holds its key."""
    repair_price: tuple[float, float] = (0.0, 0.0)
    """For a million tokens that it reads, and that it writes."""
    repair_max_tokens: int = 200
    """Of an answer; one that is cut is rejected."""
    repair_workers: int = 4
    """Texts that are there at once."""
    min_characters: int = 50
    """Shorter texts are rejected."""
    max_repeated: float = 0.2
    """So is a text with a larger share of runs of four words that were there before."""
    choices: Path | None = None
    """What review.html saved."""

    def __call__(self) -> None:
        """Goes on where it was, and prints the counts."""
        from plait.data.curate import Curation, Rules
        from plait.data.describe import Describer, pictures_of, sample
        from plait.errors import Interrupted
        from plait.generate.model import Overrides, load

        if self.choices is not None and not self.choices.is_file():
            raise InputError(f"{self.choices}: no such file; save it from {self.out / 'review.html'}")
        repair = self._repair()
        decides = [
            "checkpoint",
            "source",
            "prompt",
            "more",
            "min_tokens",
            "limit",
            "preset",
            *Overrides.__annotations__,
        ]
        identity = {name: getattr(self, name) for name in decides if getattr(self, name, None) not in (None, ())}
        entries = sample(pictures_of(self.source), self.limit)

        def describer() -> Describer:
            model = load(self.checkpoint, system=self.system)
            settings = self.settings(model, "chat" if "chat" in model.format.presets else None)
            return Describer(
                model=model, settings=settings, prompt=self.prompt, more=self.more, min_tokens=self.min_tokens
            )

        with _progress() as tell:
            curation = Curation(self.out, identity | {"source": str(self.source)}, tell)
            try:
                curation.describe(entries, describer, self.batch)
                if repair is not None:
                    curation.repair(repair)
            except KeyboardInterrupt as stop:
                raise Interrupted("stopped; the same command goes on from there") from stop
            rules = Rules(min_characters=self.min_characters, max_repeated=self.max_repeated)
            report = curation.finish(entries, rules, repair, self.choices)
        rows = {**report["totals"], **{f"rejected: {name}": n for name, n in report["rejected"].items()}}
        if report["repair"]["answers"]:
            rows |= {f"repair: {name}": value for name, value in report["repair"].items()}
        table(f"{self.out}", [(name, str(value)) for name, value in rows.items()])
        print(f"page: {self.out / 'review.html'}")

    def _repair(self) -> Any:
        from plait.data.curate import Repair
        from plait.data.repair import Endpoint

        if self.repair_url is None:
            return None
        if self.repair_model is None:
            raise InputError("--repair-url without --repair-model: name the model that is asked for")
        key = os.environ.get(self.repair_key_env, "") if self.repair_key_env else ""
        if self.repair_key_env and not key:
            raise InputError(f"--repair-key-env {self.repair_key_env}: there is no such variable; set it to the key")
        endpoint = Endpoint(url=self.repair_url, model=self.repair_model, key=key, max_tokens=self.repair_max_tokens)
        return Repair(endpoint=endpoint, price=self.repair_price, workers=self.repair_workers)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What tells of progress on stderr: in one line that changes, or where nobody watches in one line a while."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(text))
        return
    told = 0.0

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told > SECONDS:
            told = time.monotonic()
            console.out(text, highlight=False)

    yield tell


def _named_file(item: str) -> tuple[str, str]:
    name, sign, file = item.partition("=")
    if not sign:
        raise InputError(f"--split {item}: give NAME=FILE")
    return name, file


def _counted(report: dict[str, Any]) -> dict[str, Any]:
    """Lists by their lengths: the full ones stand in report.json."""
    return {key: len(value) if isinstance(value, list | tuple) else value for key, value in report.items()}
