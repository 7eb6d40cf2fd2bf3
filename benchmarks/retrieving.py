"""What retrieval does to the drawings of a CM3Leon: in training, in drawing, in both, and in neither.

    python benchmarks/retrieving.py RUN --judge FOUNDATIONS [--steps N] [--memory N] [--scenes N] [--seeds 0 1]

The checkpoint that ends the stage `pretrain` of RUN goes on for the same number of steps at half the learning rate, on
captions with their pictures alone: with nothing in front of them, or with 0, 1 or 2 documents of a memory, each as
likely (RA-CM3's way). Rows hold the same number of tokens either way, so that with retrieval they hold fewer captions.
The memory is the training data itself, embedded by FOUNDATIONS' CLIP; a document never gets itself. Both then draw
held-out scenes of one to three objects from their captions by the recipe's settings, with 0, 1 and 2 documents of the
same memory in front. Figures are those of drawing.py, for each seed of training and of drawing.

In processes of one thread. Figures go to benchmarks/results/retrieving.json; those of fewer than 2,000 scenes are
printed alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drawing import ENOUGH, USUAL, Worth, described, drawn, kept, model, processes, spread, told, wanted

from plait.checkpoints import directory
from plait.data.retrieved import Retrieved, neighbours, open_memory, remember
from plait.data.shapes import Shapes
from plait.errors import CheckpointError
from plait.recipes.cm3leon import GUIDANCE, finetune_stage
from plait.retrieval.embed import load_embedder
from plait.retrieval.memory import Memory
from plait.retrieval.retriever import Retriever
from plait.systems.cm3leon import CM3Leon
from plait.train.loop import Loop
from plait.train.parallel import Ranks
from plait.train.run import where

SEED = 20242
NAME = "shapes"
COUNTS = (0, 1, 2)
FACTS = "training.json"
WAYS = {"without": (0,), "with": COUNTS}
"""How many documents stand in front in training."""


@dataclass(frozen=True)
class Given:
    """Where everything lies, and how much is done."""

    start: Path
    judge: str
    work: Path
    memory: int
    steps: int
    scenes: int

    @property
    def source(self) -> Shapes:
        """What is trained on and remembered."""
        return Shapes(seed=SEED, length=self.memory, objects=(1, 2, 3), mix={"draw": 1.0})

    @property
    def folder(self) -> Path:
        """The memory's."""
        return self.work / "memory"

    def trained(self, way: str, seed: int) -> Path:
        """Where a trained system lies."""
        return self.work / f"{way}-seed-{seed}-{self.steps}-steps"


def end_of(run: str, stage: str) -> Path:
    """The last checkpoint of a stage of a run.

    Raises:
        CheckpointError: it has none.
    """
    folders = sorted(Path(run, "checkpoints").glob("step-*"))
    found = [folder for folder in folders if dict(where(folder)).get("stage") == stage]
    if not found:
        raise CheckpointError(f"{run}: none of {len(folders)} checkpoints is of the stage {stage}: train it first")
    return found[-1]


def remembered(given: Given) -> Path:
    """Builds the memory, or goes on with it; the neighbours of its own documents."""
    embedder = load_embedder(given.judge)
    if not given.folder.exists():
        Memory.create(given.folder, embedder.towers.width, embedder=embedder.identity)
    memory = Memory(given.folder)
    remember(memory, NAME, given.source, embedder)
    return neighbours(memory, NAME, given.source, embedder)


def shared(given: Given) -> int:
    """Held-out scenes whose content is in the memory."""
    source = given.source
    known = {tuple(sorted(source.scene(i).content)) for i in range(len(source))}
    held = [tuple(sorted(example.scene.content)) for example in wanted(given.judge, given.scenes).examples]
    return sum(content in known for content in held)


# ------------------------------------------------------------------------------- jobs, each within one process


def trained(given: Given, found: Path, way: str, seed: int) -> Path:
    """Trains, and keeps the system with what is told of its training."""
    began = time.perf_counter()
    system = directory.load_as(given.start, CM3Leon)
    documents = Retrieved(
        source=given.source,
        memory=given.folder,
        neighbours=found,
        counts=WAYS[way],
        seed=seed,
        sources={NAME: given.source},
    )
    stage = finetune_stage(system.config, {NAME: documents}, given.steps)
    loop = Loop(system, replace(stage, data=replace(stage.data, seed=seed), seed=seed), Ranks())
    records = [loop.advance() for _ in range(given.steps)]
    loop.finish()
    facts = {
        "captions": sum(record["sequences"] for record in records),
        "longer_than_a_row": sum(record["cut"] for record in records),
        "seconds": round(time.perf_counter() - began, 1),
    }
    beside = json.dumps(facts)
    return directory.save(system, given.trained(way, seed), lambda folder: _noted(folder, beside))


def _noted(folder: Path, facts: str) -> None:
    (folder / FACTS).write_text(facts)


def judged(given: Given, way: str, count: int, seed: int) -> Worth:
    """Drawings of a trained system with `count` documents in front."""
    memory = open_memory(given.folder, {NAME: given.source})
    retriever = Retriever(memory=memory, embedder=load_embedder(given.judge), count=count)
    scenes = wanted(given.judge, given.scenes)
    return scenes.worth(drawn(model(str(given.trained(way, seed))), USUAL, retriever(scenes.prompts), seed))


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--judge", required=True, help="a run of foundations/tiny")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--memory", type=int, default=20_000, help="documents in it")
    parser.add_argument("--scenes", type=int, default=ENOUGH)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keeps what is made, and goes on with what is there, of one RUN")
    return parser.parse_args()


def main() -> None:
    """Trains, draws, writes the figures."""
    args = parsed()
    start, began = end_of(args.run, "pretrain"), time.perf_counter()
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        given = Given(start, args.judge, work, args.memory, args.steps, args.scenes)
        found = remembered(given)
        print(f"{given.memory} documents remembered in {time.perf_counter() - began:.0f} s", flush=True)
        pool = stack.enter_context(processes(args.processes))
        arms = [(way, seed) for seed in args.seeds for way in WAYS]
        missing = [(way, seed) for way, seed in arms if not given.trained(way, seed).exists()]
        told({arm: pool.submit(trained, given, found, *arm) for arm in missing})
        jobs: dict[Any, Future[Any]] = {
            (way, count, seed): pool.submit(judged, given, way, count, seed) for way, seed in arms for count in COUNTS
        }
        drawings = told(jobs)
        training = {arm: json.loads((given.trained(*arm) / FACTS).read_text()) for arm in arms}
    each = [{way: {str(n): drawings[way, n, seed] for n in COUNTS} for way in WAYS} for seed in args.seeds]
    figures: Mapping[str, Any] = {
        "drawn": spread(each),
        "training": spread([{way: training[way, seed] for way in WAYS} for seed in args.seeds]),
        "held_out_scenes_in_the_memory": shared(given),
        "seconds": round(time.perf_counter() - began, 1),
    }
    config = {
        **described(args.run, args.judge),
        **{name: getattr(args, name) for name in ("steps", "memory", "scenes", "seeds", "processes")},
        "start": start.name,
        "objects": [1, 2, 3],
        "guidance": GUIDANCE,
    }
    kept("retrieving", figures, config)


if __name__ == "__main__":
    main()
