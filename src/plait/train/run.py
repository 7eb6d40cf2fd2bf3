"""A run: a recipe's stages one after the other in a directory, resumed by the same command.

config.yaml         the recipe, in full; a directory of another recipe is refused
metrics.jsonl       one record a step
checkpoints/        step-00000123/: a Plait directory, and state.pt to go on from
samples/            what the probes were answered
scores.json         of tasks: a stage's at its end, under its name; the recipe's at the end of all
report.html, report.json    when all stages are done
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plait.checkpoints import directory as checkpoints
from plait.config import difference, read_yaml, to_plain, write_yaml
from plait.data.packs import Alternating, Data
from plait.document import Document, Image, Turn
from plait.errors import DISK_FULL, CheckpointError, ConfigError, Interrupted, TrainingError
from plait.evaluate import Task
from plait.generate.engine import Engine, Reply
from plait.generate.model import Model
from plait.objectives.gather import all_sum
from plait.systems.base import System
from plait.train import parallel
from plait.train.log import Progress, RunLog, Sink, write_facts
from plait.train.loop import Loop
from plait.train.parallel import Ranks
from plait.train.report import write_report
from plait.train.stage import Probe, Recipe, Stage

PROBE_ROWS = 64
KEPT = 2  # checkpoints of the stage under way; of those behind it, the last stays


class Run:
    """A recipe in a directory.

    Args:
        recipe: what to do.
        directory: where; what is there is gone on with.
        sinks: receive the records too.

    Raises:
        ConfigError: the directory holds a run of another recipe.
    """

    def __init__(
        self, recipe: Recipe, directory: str | Path, ranks: Ranks | None = None, sinks: tuple[Sink, ...] = ()
    ) -> None:
        self.recipe = recipe
        self.directory = Path(directory)
        self.ranks = ranks or Ranks()
        self.sinks = sinks
        self._claim()

    @property
    def next_step(self) -> int:
        """The step that comes next: the one behind the last checkpoint, or 0."""
        latest = self._latest()
        return _number(latest) if latest else 0

    def train(self) -> Path:
        """Does what is left of every stage, then scores and reports; the report's path.

        Raises:
            Interrupted: Ctrl-C was pressed; the step under way was finished and saved.
            TrainingError: the run must not go on (`Loop.advance`), or the disk is full.
            CheckpointError: the newest checkpoint cannot be read.
        """
        with _room(self):
            return self._train()

    def _train(self) -> Path:
        latest = self._latest()
        if latest is None:
            system, state, step, first = self.recipe.build(), None, 0, 0
        else:
            system, state = _restored(latest)
            step, first = int(state["total"]), [s.name for s in self.recipe.stages].index(state["stage"])
        system.to(self.ranks.device)
        if self.ranks.first:
            write_facts(
                self.directory,
                recipe=self.recipe.name,
                parameters={name: part.parameters for name, part in system.parts.items()},
            )
        sinks = (Progress({s.name: s.steps for s in self.recipe.stages}), *self.sinks) if self.ranks.first else ()
        with self._log(step if latest else None, sinks) as log:
            for stage in self.recipe.stages[first:]:
                step = self._stage(system, stage, state, step, log)
                system, state = self._whole(system), None
                self._score(system, stage.tasks, stage.name)
        self._score(system, self.recipe.tasks)
        return write_report(self.directory) if self.ranks.first else self.directory / "report.html"

    def _whole(self, system: System) -> System:
        """The system with whole weights again, as a stage wants it at its beginning: as it was saved."""
        saved = self._latest()
        if self.ranks.count == 1 or saved is None:
            return system
        return checkpoints.load(saved, self.ranks.device)

    # ------------------------------------------------------------------------------------------ stages

    def _stage(self, system: System, stage: Stage, state: Mapping[str, Any] | None, step: int, log: Any) -> int:
        """Runs what is left of a stage; the number of the next step of the run."""
        loop = Loop(system, stage, self.ranks, state)
        if self.ranks.first:
            self._tidy(loop, step)
        began = time.perf_counter()
        stop = False
        try:
            with _stop_asked() as asked:
                while loop.step < stage.steps and not stop:
                    record = loop.advance()
                    log({"step": step, **record, "elapsed_s": round(time.perf_counter() - began, 3)})
                    step += 1
                    last = loop.step == stage.steps
                    if last or loop.step % stage.probe_every == 0:
                        self._probe(system, stage, step)
                    stop = _anywhere(asked)
                    if last:
                        loop.finish()
                    if last or stop or loop.step % stage.save_every == 0:
                        self._save(loop, step)
        finally:
            loop.loader.close()
        if stop or _anywhere(asked):  # the second: pressed while the stage's last step was saved
            raise Interrupted(f"stopped and saved after step {step}; the same command goes on from there")
        return step

    def _save(self, loop: Loop, step: int) -> None:
        """Writes a checkpoint beside the others, whole or not at all."""
        state = {**loop.save(), "total": step}
        weights = parallel.whole(loop.system.state_dict())
        if self.ranks.first:

            def beside(folder: Path) -> None:
                with (folder / "state.pt").open("wb") as file:
                    torch.save(state, file)

            checkpoints.save(loop.system, self.directory / "checkpoints" / f"step-{step:08d}", beside, weights)
            self._tidy(loop, step)
        self.ranks.wait()

    def _tidy(self, loop: Loop, step: int) -> None:
        """Removes the stage's checkpoints that are no longer needed, and what a kill left of a save or of this."""
        began = step - loop.step
        inside = [path for path in self._saved() if began < _number(path) <= step]
        kept = 1 if loop.step == loop.stage.steps else KEPT
        for path in (*inside[:-kept], *(self.directory / "checkpoints").glob(".step-*.partial")):
            shutil.rmtree(path)

    def _saved(self) -> list[Path]:
        return sorted((self.directory / "checkpoints").glob("step-*"))

    def _latest(self) -> Path | None:
        saved = [path for path in self._saved() if (path / "state.pt").exists()]
        return saved[-1] if saved else None

    # ------------------------------------------------------------------------------------- what is told

    def _probe(self, system: System, stage: Stage, step: int) -> None:
        """Answers the probes, into samples/."""
        if not self.recipe.probes or self.ranks.count > 1:
            return
        system.eval()
        folder = self.directory / "samples"
        folder.mkdir(exist_ok=True)
        items = []
        for name, probe, said, reply in _answered(system, self.recipe.probes):
            pictures = [piece for piece in reply if isinstance(piece, Image)]
            for picture in pictures[:1]:
                picture.open().save(folder / f"{step:08d}-{name}.png")
            items.append(_told(probe, name, said, reply.text, f"{step:08d}-{name}.png" if pictures else None))
        text = json.dumps({"step": step, "stage": stage.name, "items": items})
        (folder / f"{step:08d}.json").write_text(text)

    def _score(self, system: System, tasks: tuple[Task, ...], stage: str | None = None) -> None:
        """Writes the scores that are not there yet into scores.json, those of a stage under its name."""
        if self.ranks.first:
            path = self.directory / "scores.json"
            scores = json.loads(path.read_text()) if path.exists() else {}
            for task in tasks:
                into = scores if stage is None else scores.setdefault(stage, {})
                if task.name not in into:
                    into[task.name] = task.run(Model(system))
                    partial = path.with_suffix(".partial")
                    partial.write_text(json.dumps(scores, indent=1))
                    os.replace(partial, path)
        self.ranks.wait()

    @contextlib.contextmanager
    def _log(self, resume_from: int | None, sinks: tuple[Sink, ...]) -> Iterator[Any]:
        if not self.ranks.first:
            yield lambda record: None
            return
        with RunLog(self.directory, resume_from, sinks) as log:
            yield log.write

    def _claim(self) -> None:
        """Writes config.yaml, or holds this recipe against the one that is there."""
        path = self.directory / "config.yaml"
        stages = [replace(stage, data=_told_of(stage.data), tasks=()) for stage in self.recipe.stages]
        mine = to_plain({"name": self.recipe.name, "build": _called(self.recipe.build), "stages": stages})
        if path.exists():
            changed = difference(_essence(read_yaml(path)), _essence(mine))
            if changed:
                raise ConfigError(
                    f"{self.directory} holds a run that differs in {len(changed)} settings, such as {changed[0]}; "
                    "give another --out, or the settings that it began with"
                )
        elif self.ranks.first:
            if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
                raise ConfigError(f"{self.directory} is not empty and holds no run: give another --out")
            self.directory.mkdir(parents=True, exist_ok=True)
            write_yaml(mine, path)
        self.ranks.wait()


@contextlib.contextmanager
def _room(run: Run) -> Iterator[None]:
    """Says of a full disk how much room there is, and where the run goes on."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(run.directory).free
        raise TrainingError(
            f"{error.filename or run.directory}: {error.strerror}, {free:,} bytes are free; make room, and the same "
            f"command goes on behind step {run.next_step}"
        ) from error


def _restored(checkpoint: Path) -> tuple[System, dict[str, Any]]:
    """The system and the state in a checkpoint of a run."""
    try:
        return checkpoints.load(checkpoint), torch.load(checkpoint / "state.pt", weights_only=True)
    except (CheckpointError, OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{checkpoint}: cannot be read ({str(error).splitlines()[0]}); delete this folder, and the same command "
            "goes on from the one before it"
        ) from error


@contextlib.contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """A list that is empty until the user presses Ctrl-C: the step under way is finished first. Twice stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _anywhere(asked: list[int]) -> bool:
    """Whether a stop was asked for on any rank: all must stop at the same step."""
    return bool(all_sum(torch.tensor(len(asked))))


def where(folder: Path) -> list[tuple[str, str]]:
    """Stage and step of a checkpoint within a run; nothing for one that is no part of a run."""
    path = folder / "state.pt"
    if not path.is_file():
        return []
    state = torch.load(path, weights_only=True, mmap=True)
    return [("stage", str(state["stage"])), ("step", f"{state['step']} of the stage, {state['total']} of the run")]


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with at most `steps` steps in each stage."""
    return replace(recipe, stages=tuple(replace(stage, steps=min(steps, stage.steps)) for stage in recipe.stages))


def _called(build: Callable[[], System]) -> Any:
    """What builds a system, with the arguments that it is bound to."""
    if isinstance(build, functools.partial):
        keywords = {name: _plainly(value) for name, value in build.keywords.items()}
        return {"function": build.func, "arguments": [*map(_plainly, build.args)], "keywords": keywords}
    return build


@dataclass(frozen=True)
class Unwritten:
    """Stands in config.yaml for an object that has no plain form: its class, and its length."""

    of: str
    length: int

    def __len__(self) -> int:
        return self.length


def _told_of(data: Data | Alternating) -> Data | Alternating:
    if isinstance(data, Alternating):
        return replace(data, sets={name: _written(one) for name, one in data.sets.items()})
    return _written(data)


def _written(data: Data) -> Data:
    return replace(data, sources={name: _plainly(source) for name, source in data.sources.items()})


def _plainly(value: Any) -> Any:
    """A source that `to_plain` cannot write as what stands for it; anything else as it is."""
    try:
        to_plain(value)
    except ConfigError:
        if not isinstance(value, Sized):
            raise
        return Unwritten(f"{type(value).__module__}:{type(value).__qualname__}", len(value))
    return value


def _essence(config: Any) -> Any:
    """What makes a run what it is: all but how fast its batches and steps are, and how often it is saved and probed."""
    config = copy.deepcopy(config)
    for stage in config.get("stages", ()):
        for name in ("compile", "save_every", "probe_every", "tasks"):
            stage.pop(name, None)
        for data in stage["data"].get("sets", {"": stage["data"]}).values():
            data.pop("workers", None)
    return config


def _answered(system: System, probes: Items[Probe]) -> Iterator[tuple[str, Probe, Document, Reply]]:
    """Each exchange of each probe: a name, the probe, what is new in it, and the answer; a conversation's in order."""
    engine = Engine(system, PROBE_ROWS)
    prompts = {i: probe.prompt for i, probe in enumerate(probes)}
    exchanges: dict[tuple[int, int], tuple[Document, Reply]] = {}
    for turn in range(1 + max(len(probe.then) for probe in probes)):
        replies = engine.run(list(prompts.values()), [probes[i].settings for i in prompts])
        behind = {}
        for (i, prompt), reply in zip(prompts.items(), replies, strict=True):
            exchanges[i, turn] = (Document([prompt.turns[-1]]) if turn else prompt, reply)
            for asked in probes[i].then[turn : turn + 1]:
                behind[i] = Document([*prompt.turns, Turn("assistant", reply.document.pieces), Turn("user", asked)])
        prompts = behind
    for (i, turn), (said, reply) in sorted(exchanges.items(), key=lambda one: one[0]):
        yield f"{i}-{turn}" if turn else str(i), probes[i], said, reply


def _told(probe: Probe, name: str, said: Document, text: str, image: str | None) -> dict[str, Any]:
    return {
        "exchange": name,
        "prompt": said.to_json(),
        "answer": text or None,
        "image": image,
        "reference": probe.reference if said is probe.prompt else None,
        "reference_image": None,
    }


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
