"""The commands of the command line: one dataclass each. What is heavy is imported when a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from plait.errors import InputError, listed


@dataclass(frozen=True)
class Train:
    """Train a recipe, or go on with the run that DIR holds.

    RECIPE is <system>/<size>, <system>/<size>/<stage> (up to that stage), or file.py:function.
    """

    recipe: Positional[str]
    out: Path | None = None
    """Run directory; by default runs/<recipe>."""
    steps: int | None = None
    """At most so many steps in each stage."""
    set: tuple[str, ...] = ()
    """KEY=VALUE: an argument of the recipe (data=DIR) or a setting (stages.pretrain.steps=100)."""
    tensorboard: bool = False
    """Write TensorBoard events into the run directory."""

    def __call__(self) -> None:
        """Trains, scores, and prints the scores and the report's path."""
        import torch

        from plait import recipes
        from plait.train import parallel
        from plait.train.log import TensorBoardSink
        from plait.train.memory import keep_memory
        from plait.train.run import Run, shortened

        keep_memory()
        torch.manual_seed(0)  # initial weights
        recipe = recipes.find(self.recipe, self.set)
        if self.steps is not None:
            recipe = shortened(recipe, self.steps)
        out = self.out or Path("runs") / self.recipe.replace("/", "-").replace(":", "-")
        ranks = parallel.join()
        try:
            run = Run(recipe, out, ranks)
            if self.tensorboard and ranks.first:  # only now: its directory lies in the run's, which must be new
                run.sinks = (TensorBoardSink(out / "tensorboard", run.next_step),)
            report = run.train()
        finally:
            parallel.leave()
        if ranks.first:
            scores = out / "scores.json"
            if scores.exists():
                _table("Scores on held-out scenes", _flat(json.loads(scores.read_text())))
            print(f"report: {report}")


@dataclass(frozen=True)
class Generate:
    """Answer a prompt or a document with text and pictures."""

    checkpoint: Positional[str]
    prompt: str | None = None
    """Text of the prompt."""
    image: tuple[Path, ...] = ()
    """Pictures that the prompt is about; they stand before its text."""
    document: Path | None = None
    """A JSON document instead of prompt and images."""
    draw: bool = False
    """Ask for a picture of the prompt, rather than for what comes next."""
    out: Path | None = None
    """Where pictures, and the reply as reply.json, are written."""
    seed: int = 0
    max_new_tokens: int = 256
    max_images: int = 1
    guidance: float = 1.0
    temperature: float = 0.0
    """Of text; 0 takes the likeliest."""
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    """No so many tokens in a row are said twice."""
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    """Texts of which each ends the reply."""
    beams: int = 1
    """More than 1: text alone, by beam search."""
    length_penalty: float = 1.0
    """Of beams: above 0 favours long replies, below 0 short ones."""
    image_temperature: float = 1.0
    image_top_k: int = 0
    image_top_p: float = 1.0
    system: str | None = None
    """file.py:Class of a system from outside the package; the file is run."""

    def __call__(self) -> None:
        """Generates, prints the text, writes the rest."""
        from plait.generate.engine import Settings
        from plait.generate.model import load
        from plait.generate.sampling import Sampling

        document = self._document()
        settings = Settings(
            max_new_tokens=self.max_new_tokens,
            max_images=self.max_images,
            guidance=self.guidance,
            text=Sampling(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                repetition_penalty=self.repetition_penalty,
                no_repeat_ngram=self.no_repeat_ngram,
                min_new_tokens=self.min_new_tokens,
            ),
            image=Sampling(temperature=self.image_temperature, top_k=self.image_top_k, top_p=self.image_top_p),
            seed=self.seed,
            stop=self.stop,
            beams=self.beams,
            length_penalty=self.length_penalty,
        )
        reply = load(self.checkpoint, system=self.system).generate(document, settings)
        _write(reply.document, self.out)
        print(f"({reply.stop})", file=sys.stderr)

    def _document(self) -> Any:
        from plait.document import Blank, Document, Image, Text, Turn

        if self.document is not None:
            if self.prompt is not None or self.image or self.draw:
                raise InputError("--document and --prompt, --image or --draw: give one or the other")
            return Document.read(self.document)
        pictures = [Image(path) for path in self.image]
        text = [Text(self.prompt)] if self.prompt is not None else []
        if not text and not pictures:
            raise InputError("nothing to answer: give --prompt, --image or --document")
        if self.draw:
            return Document([*pictures, *text, Blank("image")])
        return Document([Turn("user", [*pictures, *text])]) if pictures else Document(text)


@dataclass(frozen=True)
class Evaluate:
    """Score a checkpoint on a task."""

    checkpoint: Positional[str]
    task: str
    """Name of a task, or file.py:function."""
    limit: int | None = None
    """Items of each group."""
    out: Path | None = None
    """JSON file for the scores."""
    system: str | None = None
    """file.py:Class of a system from outside the package; the file is run."""

    def __call__(self) -> None:
        """Runs the task and prints its scores."""
        from plait.evaluate import evaluate, find
        from plait.generate.model import load

        tasks = find(self.task, self.limit)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
        scores = evaluate(load(self.checkpoint, system=self.system), tasks)
        if self.out is not None:
            self.out.write_text(json.dumps(scores, indent=1) + "\n")
        _table(f"{self.task} of {self.checkpoint}", _flat(scores))


@dataclass(frozen=True)
class Score:
    """Score predictions in a file against references in another, without a model.

    METRIC is cider, vqa, fid, retrieval, ndcg or choice; docs/evaluation.md says what their files hold.
    """

    metric: Positional[str]
    predictions: Path
    references: Path
    variant: str | None = None
    """Of vqa: official, lavis_emu_minigpt4 or always_normalise_lmms_eval_head; of choice: sum or mean."""

    def __call__(self) -> None:
        """Prints one JSON object."""
        from plait.evaluate.score import score

        print(json.dumps(score(self.metric, self.predictions, self.references, self.variant)))


@dataclass(frozen=True)
class Import:
    """Make a checkpoint of published files, which are recognised by their keys.

    SYSTEM is the name of one, or file.py:function from outside; FILES are files, and folders as transformers has them.
    """

    system: Positional[str]
    files: Positional[tuple[Path, ...]] = ()
    out: Path | None = None
    """Directory of the checkpoint."""
    config: Path | None = None
    """YAML or JSON with any part of the configuration; it wins over what the files say."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of all weights; by default each keeps its own."""
    manifest: Path | None = None
    """List of published keys and shapes: a dry run at full size, without weights, which prints JSON."""

    def __call__(self) -> None:
        """Imports, and prints parts and licences; or prints what each file of the manifest would fill."""
        import torch

        from plait.checkpoints import published
        from plait.checkpoints.directory import read_description

        system = published.find(self.system)
        if self.manifest is not None:
            reports = published.check_manifest(system, self.manifest)
            print(json.dumps(reports, indent=1))
            wrong = [report["file"] for report in reports if report["missing"] or report["unexpected"]]
            if wrong:
                raise InputError(f"{self.manifest}: {len(wrong)} files do not fit: {listed(wrong)}; correct the tables")
            return
        if not self.files or self.out is None:
            raise InputError("nothing to import: give files and --out DIR, or --manifest FILE for a dry run")
        dtype = getattr(torch, self.dtype) if self.dtype else None
        folder, notes = published.import_files(
            system, self.files, self.out, self.config, dtype, lambda line: print(line, file=sys.stderr)
        )
        _table(f"{self.out}", _parts(read_description(folder)))
        for note in notes:
            print(f"note: {note}", file=sys.stderr)


@dataclass(frozen=True)
class Export:
    """Write a checkpoint as the files that its system was published in, or its language model for transformers."""

    directory: Positional[str]
    out: Path
    """Folder for the files, new or empty."""
    format: Literal["published", "hf"] = "published"
    system: str | None = None
    """file.py:function that tells the published files of a system from outside; the file is run."""

    def __call__(self) -> None:
        """Writes, and prints the paths."""
        from plait.checkpoints import published

        own = published.find(self.system) if self.system else None
        for path in published.export(self.directory, self.format, self.out, own):
            print(path)


@dataclass(frozen=True)
class Info:
    """Tell what a run or a checkpoint is."""

    directory: Positional[str]
    verify: bool = False
    """Load it, and ask the language model for a plain English text, which a trained one finds likely."""

    def __call__(self) -> None:
        """Prints system, sizes, parts, licences, stage and step."""
        from plait.checkpoints.directory import code_state, find, note, read_description
        from plait.train.run import where

        folder = find(self.directory)
        if self.verify:
            from plait.generate.model import load
            from plait.generate.verify import english

            note(folder, "english", english(load(folder)))
        description = read_description(folder)
        rows = [("checkpoint", str(folder)), ("system", description["system"]), ("plait", description["plait"])]
        rows += [("code", code)] if (code := code_state(description)) else []
        rows += where(folder)
        rows += [(f"config.{key}", str(value)) for key, value in description["config"].items()]
        rows += _parts(description)
        rows += [("note", text) for text in description.get("notes", ())]
        rows += _verified(description)
        _table(f"{self.directory}", rows)


@dataclass(frozen=True)
class DataImport:
    """Turn a folder of pictures and words into shards.

    KIND is captions (an image folder and a caption table), classes (a folder for each class), coco (COCO's captions:
    JSON files and image folders) or webdataset (tars of images with captions, as img2dataset writes them).
    """

    kind: Positional[str]
    source: Positional[Path]
    out: Path
    table: Path | None = None
    """Caption table, where it is not found by itself; of captions."""
    images: Path | None = None
    """Image folder, likewise; of captions and coco."""
    split: tuple[str, ...] = ()
    """NAME=FILE: what makes up a split. For captions, a list of picture names; for coco, a JSON."""
    template: tuple[str, ...] = ()
    """Caption of a class, with {name} in it; of classes."""

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
        }
        taken = signature(KINDS[self.kind]).parameters
        idle = [flag for name, (flag, value) in given.items() if value and name not in taken]
        if idle:
            raise InputError(f"data of kind {self.kind} has no use for {', '.join(idle)}: leave it out")
        options = {name: value for name, (_, value) in given.items() if value}
        report = KINDS[self.kind](self.source, self.out, **options)
        _table(f"{self.out}", [(key, str(value)) for key, value in _counted(report.to_json()).items()])


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
            _table(f"{self.directory} {name or ''}", inspection.rows())


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


def _write(document: Any, out: Path | None) -> None:
    """Prints text, writes pictures and the document."""
    from plait.document import Image, Text

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    pictures = 0
    for piece in document:
        if isinstance(piece, Text):
            print(piece.text)
        elif isinstance(piece, Image):
            name = f"image-{pictures}.png"
            pictures += 1
            if out is None:
                print(f"[a picture; --out DIR writes it as {name}]")
            else:
                piece.open().save(out / name)
                print(out / name)
    if out is not None:
        (out / "reply.json").write_text(json.dumps(document.to_json(), indent=1) + "\n")


def _parts(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parts with their licences, and the files that an import was made of."""
    rows = [
        (f"part {name}", f"{part['parameters']:,} parameters, {part['licence']}")
        for name, part in description["parts"].items()
    ]
    return rows + [
        (f"from {source['file']}", f"{source['kind']}, {source['bytes']:,} bytes, SHA-256 {source['sha256']}")
        for source in description.get("sources", ())
    ]


def _verified(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Whether the language model was asked, and what came of it; of an import always."""
    if "english" in description:
        from plait.generate.verify import said

        return [("language model", said(description["english"]))]
    return [("language model", "not verified: give --verify")] if "sources" in description else []


def _named_file(item: str) -> tuple[str, str]:
    name, sign, file = item.partition("=")
    if not sign:
        raise InputError(f"--split {item}: give NAME=FILE")
    return name, file


def _flat(scores: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested scores as rows."""
    if not isinstance(scores, dict):
        return [(path, f"{scores:.3f}" if isinstance(scores, float) else str(scores))]
    return [row for key, value in scores.items() for row in _flat(value, f"{path}.{key}" if path else str(key))]


def _counted(report: dict[str, Any]) -> dict[str, Any]:
    """Lists by their lengths: the full ones stand in report.json."""
    return {key: len(value) if isinstance(value, list | tuple) else value for key, value in report.items()}


def _table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))  # not str: brackets in a name would be read as markup
    Console().print(table)
