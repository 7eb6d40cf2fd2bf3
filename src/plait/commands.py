"""The commands of the command line: one dataclass each. What is heavy is imported when a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from plait.errors import InputError


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
    """[1: none]"""
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

        flags = {name: getattr(self, name, None) for name in Overrides.__annotations__}
        given = {name: value for name, value in flags.items() if value not in (None, ())}
        return model.settings(self.preset or preset, **given)


@dataclass(frozen=True)
class Generate(Answering):
    """Answer a prompt or a document with text and pictures."""

    checkpoint: Positional[str]
    prompt: str | None = None
    """Text of the prompt; with a document that is a conversation, what is asked next."""
    image: tuple[Path, ...] = ()
    """Pictures that the prompt is about; they stand before its text."""
    document: Path | None = None
    """A JSON document instead of prompt and images."""
    draw: bool = False
    """Ask for a picture of the prompt, rather than for what comes next."""
    out: Path | None = None
    """Where pictures, and the reply as reply.json, are written."""

    def __call__(self) -> None:
        """Generates, prints the text, writes the rest."""
        from plait.generate.model import load

        document = self._document()
        model = load(self.checkpoint, system=self.system)
        reply = model.generate(document, self.settings(model))
        _write(reply.document, self.out)
        print(f"({reply.stop})", file=sys.stderr)

    def _document(self) -> Any:
        from plait.document import Blank, Document, Image, Text, Turn

        pictures = [Image(path) for path in self.image]
        text = [Text(self.prompt)] if self.prompt is not None else []
        if self.document is not None:
            said = Document.read(self.document)
            if self.draw or ((text or pictures) and not said.turns):
                raise InputError("--document and --prompt, --image or --draw: give one or the other")
            return Document([*said.turns, Turn("user", [*pictures, *text])]) if text or pictures else said
        if not text and not pictures:
            raise InputError("nothing to answer: give --prompt, --image or --document")
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
class Info:
    """Tell what a run or a checkpoint is."""

    directory: Positional[str]

    def __call__(self) -> None:
        """Prints system, sizes, parts, licences, stage and step."""
        from plait.checkpoints.directory import code_state, find, read_description
        from plait.train.run import where

        folder = find(self.directory)
        description = read_description(folder)
        rows = [("checkpoint", str(folder)), ("system", description["system"]), ("plait", description["plait"])]
        rows += [("code", code)] if (code := code_state(description)) else []
        rows += where(folder)
        rows += [(f"config.{key}", str(value)) for key, value in description["config"].items()]
        for name, part in description["parts"].items():
            rows.append((f"part {name}", f"{part['parameters']:,} parameters, {part['licence']}"))
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
