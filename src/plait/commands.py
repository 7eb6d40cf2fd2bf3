"""The commands of the command line: one dataclass each. What is heavy is imported when a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from plait.errors import InputError, listed

FRAMES = 64  # of a video that is asked about: more than any system takes of it


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
                table("Scores on held-out scenes", _flat(json.loads(scores.read_text())))
            print(f"report: {report}")


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What the commands that answer share. What is not given is the preset's, or what is said here in brackets."""

    preset: str | None = None
    """Settings that the system was published with, by name; flags beside it win."""
    seed: int | None = None
    """Of the draws [0]."""
    max_new_tokens: int | None = None
    """Of text [256]."""
    max_images: int | None = None
    """Pictures that the reply may hold [1]."""
    guidance: float | None = None
    """Of pictures, by the prompt [1: none]."""
    image_guidance: float | None = None
    """Of edits, by the prompt's pictures; --guidance is then by its text [as --guidance]."""
    contrast: tuple[float, int] | None = None
    """ALPHA K: pictures by contrastive decoding, CD-K for a K above 1 [none]."""
    temperature: float | None = None
    """Of text [0: takes the likeliest]."""
    top_k: int | None = None
    """The likeliest so many [0: all]."""
    top_p: float | None = None
    """The likeliest whose mass reaches it [1: all]."""
    repetition_penalty: float | None = None
    """Of what was said [1: none]."""
    no_repeat_ngram: int | None = None
    """No so many tokens in a row are said twice [0: they may be]."""
    min_new_tokens: int | None = None
    """Before which no run of text ends [0]."""
    stop: tuple[str, ...] = ()
    """Texts of which each ends the reply."""
    beams: int | None = None
    """More than 1: text alone, by beam search [1]."""
    length_penalty: float | None = None
    """Of beams: above 0 favours long replies, below 0 short ones [1]."""
    search: Literal["transformers", "fairseq", "fairseq_released"] | None = None
    """By whose rules beams are searched; fairseq's are those of KOSMOS-2 [transformers]."""
    image_temperature: float | None = None
    """Of pictures [1]."""
    image_top_k: int | None = None
    """[0: all]"""
    image_top_p: float | None = None
    """[1: all]"""
    system: str | None = None
    """file.py:Class of a system from outside the package; the file is run."""

    def settings(self, model: Any, preset: str | None = None) -> Any:
        """Those of the preset, or of another where none is given, with what the flags say."""
        from plait.generate.model import Overrides
        from plait.systems.base import Contrast

        flags = {name: getattr(self, name, None) for name in Overrides.__annotations__}
        given = {name: value for name, value in flags.items() if value not in (None, ())}
        if self.contrast is not None:
            given["contrast"] = Contrast(alpha=self.contrast[0], k=self.contrast[1])
        return model.settings(self.preset or preset, **given)


@dataclass(frozen=True)
class Generate(Answering):
    """Answer a prompt or a document with text and pictures."""

    checkpoint: Positional[str]
    prompt: str | None = None
    """Text of the prompt; with a document that is a conversation, what is asked next."""
    image: tuple[Path, ...] = ()
    """Pictures that the prompt is about; they stand before its text."""
    video: tuple[Path, ...] = ()
    """Videos that it is about, of at most 64 frames each; they stand before its text, behind its pictures."""
    document: Path | None = None
    """A JSON document instead of prompt and images."""
    draw: bool = False
    """Ask for a picture of the prompt, rather than for what comes next."""
    best_of: int = 1
    """Draw so many pictures, with seeds one behind the other, and keep the one that the judge likes best."""
    judge: str | None = None
    """A checkpoint that compares pictures with texts by CLIP; or `self`: how likely the model finds the prompt's text,
    given the picture."""
    judge_request: str = ""
    """With --judge self: what the model is asked about each picture."""
    halves: bool = False
    """Half of the pictures with --guidance and --image-top-p, half by --contrast."""
    out: Path | None = None
    """Where pictures, and the reply as reply.json, are written."""
    memory: Path | None = None
    """Of `plait data memory`: what it holds on the prompt stands in front of it."""
    retrieve: int = 2
    """Documents of the memory that do."""
    embed: str | None = None
    """Run or checkpoint with the towers of the memory; by default where they were when it was built."""

    def __call__(self) -> None:
        """Generates, prints the text, writes the rest."""
        from plait.generate.model import load

        document = self._document()
        if (self.best_of > 1) != (self.judge is not None) or (self.halves and self.best_of < 2):
            raise InputError("--best-of above 1 and --judge CKPT go together, and --halves with both: give all or none")
        model = load(self.checkpoint, system=self.system)
        if self.memory is not None:
            model.retriever = self._retriever(self.memory)
        settings = self.settings(model)
        reply = self._best(model, document, settings) if self.judge else model.generate(document, settings)
        _write(reply.document, self.out)
        print(f"({reply.stop})", file=sys.stderr)

    def _best(self, model: Any, document: Any, settings: Any) -> Any:
        from plait.generate.candidates import candidates, halves, judge_of, reader_of
        from plait.generate.model import load

        own = self.judge == "self"
        judge = reader_of(model, self.judge_request) if own else judge_of(load(str(self.judge)))
        each = halves(settings, self.best_of) if self.halves else [settings] * self.best_of
        (found,) = candidates(model, [document], judge, each)
        print("scores: " + ", ".join(f"{score:.3f}" for score in found.scores), file=sys.stderr)
        return found.best

    def _retriever(self, folder: Path) -> Any:
        from plait.data.retrieved import open_memory
        from plait.retrieval.embed import load_embedder
        from plait.retrieval.retriever import Retriever

        memory = open_memory(folder)
        embedder = load_embedder(self.embed or memory.store.facts["embedder"]["checkpoint"])
        return Retriever(memory=memory, embedder=embedder, count=self.retrieve)

    def _document(self) -> Any:
        from plait.data.video import read_video
        from plait.document import Blank, Document, Image, Piece, Text, Turn

        pictures: list[Piece] = [Image(path) for path in self.image]
        pictures += [read_video(path, most=FRAMES).video for path in self.video]
        text = [Text(self.prompt)] if self.prompt is not None else []
        if self.document is not None:
            said = Document.read(self.document)
            if self.draw or ((text or pictures) and not said.turns):
                raise InputError("--document and --prompt, --image, --video or --draw: give one or the other")
            return Document([*said.turns, Turn("user", [*pictures, *text])]) if text or pictures else said
        if not text and not pictures:
            raise InputError("nothing to answer: give --prompt, --image, --video or --document")
        if self.draw:
            return Document([*pictures, *text, Blank("image")])
        return Document([Turn("user", [*pictures, *text])]) if pictures else Document(text)


@dataclass(frozen=True)
class Chat(Answering):
    """Talk with a model about pictures, in the terminal; /help there tells how.

    The preset is `chat`, where the system has one and no other is asked for. Answers go to stdout, notes to stderr.
    """

    checkpoint: Positional[str]
    document: Path | None = None
    """A JSON conversation to go on with, as /save writes it."""
    out: Path | None = None
    """Where pictures that the model draws are written."""

    def __call__(self) -> None:
        """Reads lines until /quit or the end of the input."""
        from plait.document import Document
        from plait.generate.chat import Chat as Conversation
        from plait.generate.model import load

        turns = Document.read(self.document).turns if self.document else ()
        model = load(self.checkpoint, system=self.system)
        settings = self.settings(model, "chat" if "chat" in model.format.presets else None)
        Conversation(model, settings, out=self.out, turns=turns).run()


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
        table(f"{self.task} of {self.checkpoint}", _flat(scores))


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
    fresh: tuple[str, ...] = ()
    """Parts to be trained, which no file is given of: of minigpt4, projection; of cm3leon, decoder."""
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
            system, self.files, self.out, self.config, dtype, self.fresh, lambda line: print(line, file=sys.stderr)
        )
        table(f"{self.out}", _parts(read_description(folder)))
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
    """Tell what a run, a checkpoint or a memory is."""

    directory: Positional[str]
    verify: bool = False
    """Load it, and ask the language model for a plain English text, which a trained one finds likely."""

    def __call__(self) -> None:
        """Prints system, sizes, parts, licences, stage and step."""
        from plait.checkpoints.directory import code_state, find, note, read_description
        from plait.retrieval.store import FACTS
        from plait.train.run import where

        if (Path(self.directory) / FACTS).is_file():
            from plait.retrieval.memory import Memory

            table(self.directory, Memory(self.directory).rows())
            return
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
        table(f"{self.directory}", rows)


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


def _flat(scores: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested scores as rows."""
    if not isinstance(scores, dict):
        return [(path, f"{scores:.3f}" if isinstance(scores, float) else str(scores))]
    return [row for key, value in scores.items() for row in _flat(value, f"{path}.{key}" if path else str(key))]


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Prints two columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))  # not str: brackets in a name would be read as markup
    Console().print(table)
