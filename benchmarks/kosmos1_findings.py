"""What KOSMOS-1's paper found of its training and its prompts, on the shapes world.

    plait train kosmos1/tiny/lists --out runs/kosmos1-lists --set foundations=runs/foundations-tiny
    python benchmarks/kosmos1_findings.py runs/kosmos1-lists [--steps N] [--follow N] [--limit N] [--seeds 0 1]

All arms begin with the end of that run, which has seen captions, written pictures and text, and take `steps` steps of
the stage `pretrain`:

    all                    as the recipe
    without pages          without the pages that show several pictures with their answers
    without nouns          without the pictures of things with invented names

then those of `all` `follow` more, on instructions in text alone beside the same data, or on that data alone:

    instructions, more of the same

    instruction tuning     questions on pictures, of kinds that pages hold and of others, behind either
    chain of thought       rendered opinions, judged at once, and after what they say was told
    interleaved data       questions behind 0, 2, 4 and 8 examples, and episodes, with such pages and without
    transfer               colour, shape and size of the invented nouns, asked in text alone, with their pictures or not

In processes of one thread, one for each arm and seed. Figures go to benchmarks/results/kosmos1_findings.json; with
--print they are printed alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import results
from drawing import processes, spread, told
from retrieving import end_of

from plait.checkpoints import directory
from plait.evaluate import Task, evaluate
from plait.evaluate.choices import ShapesCommonsense, ShapesOpinions
from plait.evaluate.shots import ShapesEpisodes, ShapesShots
from plait.generate.model import Model, load
from plait.recipes import find
from plait.recipes.kosmos1 import SHOTS
from plait.systems.kosmos1 import KOSMOS1
from plait.train.loop import Loop
from plait.train.parallel import Ranks
from plait.train.stage import Stage

PAGES = ("pages/shots", *(f"pages/episodes of {shots}" for shots in SHOTS))
NOUNS = ("captions/nouns",)
FIRST: Mapping[str, tuple[str, ...]] = {"all": (), "without pages": PAGES, "without nouns": NOUNS}
"""Arm -> the sources that are left out."""
THEN = {"instructions": "language_instruct", "more of the same": "pretrain"}
"""Arm -> the stage whose data is taken."""


@dataclass(frozen=True)
class Given:
    """Where everything lies, and how much is done."""

    start: Path
    work: Path
    steps: int
    follow: int
    limit: int

    def folder(self, arm: str, seed: int) -> Path:
        """Where the system of an arm lies."""
        return self.work / f"{arm.replace(' ', '-')}-{seed}"


def stage(name: str, seed: int, steps: int, without: tuple[str, ...] = ()) -> Stage:
    """A stage of the recipe of so many steps, without some of its sources."""
    (given,) = [one for one in find("kosmos1/tiny", [f"seed={seed}"]).stages if one.name == name]
    data = given.data
    sources = {key: one for key, one in data.sources.items() if key not in without}
    data = replace(data, sources=sources, shares={key: data.shares[key] for key in sources})
    return replace(given, data=data, steps=steps, tasks=())


# ------------------------------------------------------------------------------- jobs, each within one process


def trained(begin: Path, end: Path, what: Stage) -> float:
    """Trains a system from one folder into another; the seconds that it took."""
    began = time.perf_counter()
    loop = Loop(directory.load_as(begin, KOSMOS1), what, Ranks())
    for _ in range(what.steps):
        loop.advance()
    loop.finish()
    directory.save(loop.system, end)
    return round(time.perf_counter() - began, 1)


def pretrained(given: Given, arm: str, seed: int) -> float:
    """An arm of the first kind."""
    return trained(given.start, given.folder(arm, seed), stage("pretrain", seed, given.steps, FIRST[arm]))


def followed(given: Given, arm: str, seed: int) -> float:
    """An arm of the second kind, behind `all`; both at the rates of tuning."""
    tuned = stage("language_instruct", seed, given.follow)
    data = stage(THEN[arm], seed, given.follow).data
    return trained(
        given.folder("all", seed), given.folder(arm, seed), replace(tuned, data=replace(data, seed=tuned.seed))
    )


def questions(given: Given, arm: str, seed: int) -> dict[str, float]:
    """Without examples."""
    found = scored(given, arm, seed, ShapesShots(count=given.limit, shots=(0,)))["by_shots"]["0"]
    return {kind: found.get(kind, {}).get("accuracy", 0.0) for kind in ("trained", "new")}


def opinions(given: Given, arm: str, seed: int) -> dict[str, float]:
    """At once, and in two steps."""
    ways = {way: ShapesOpinions(count=given.limit, steps=way == "in steps") for way in ("at once", "in steps")}
    found = {way: scored(given, arm, seed, task) for way, task in ways.items()}
    return {**{way: one["accuracy"] for way, one in found.items()}, "read": found["in steps"]["read"]}


def shots(given: Given, arm: str, seed: int) -> dict[str, dict[str, float]]:
    """Behind more and more examples."""
    tasks: dict[str, Task] = {
        "questions": ShapesShots(count=given.limit),
        "episodes": ShapesEpisodes(count=given.limit, steps=True),
    }
    found = {name: scored(given, arm, seed, task)["by_shots"] for name, task in tasks.items()}
    return {name: {count: one["accuracy"] for count, one in by.items()} for name, by in found.items()}


def transfer(given: Given, arm: str, seed: int) -> dict[str, float]:
    """By what is asked; each beside what the commonest answer is worth."""
    found = scored(given, arm, seed, ShapesCommonsense(limit=given.limit))["by_kind"]
    chances = {f"{kind}, chance": one["chance"] for kind, one in found.items()}
    return {**{kind: one["accuracy"] for kind, one in found.items()}, **chances}


def scored(given: Given, arm: str, seed: int, task: Task) -> Any:
    """The scores of a task."""
    model: Model = load(given.folder(arm, seed))
    return evaluate(model, [task])[task.name]


MEASURES = {"questions": questions, "opinions": opinions, "shots": shots, "transfer": transfer}
FINDINGS = {
    "instruction tuning": ("questions", ("instructions", "more of the same")),
    "chain of thought": ("opinions", ("all",)),
    "interleaved data": ("shots", ("all", "without pages")),
    "transfer": ("transfer", ("all", "without nouns")),
}
"""Finding -> what is measured, of which arms."""


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="of kosmos1/tiny/lists, or of all of kosmos1/tiny")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--follow", type=int, default=200)
    parser.add_argument("--limit", type=int, default=240, help="items of a task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--print", action="store_true", help="print the figures and write nothing")
    return parser.parse_args()


def main() -> None:
    """Trains, scores, writes the figures."""
    args = parsed()
    start, began = end_of(args.run, "lists"), time.perf_counter()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = Given(start, work, args.steps, args.follow, args.limit)
        pool = stack.enter_context(processes(args.processes))
        seconds = told({(arm, seed): pool.submit(pretrained, given, arm, seed) for seed in args.seeds for arm in FIRST})
        seconds |= told({(arm, seed): pool.submit(followed, given, arm, seed) for seed in args.seeds for arm in THEN})
        jobs = {
            (finding, arm, seed): pool.submit(MEASURES[measure], given, arm, seed)
            for finding, (measure, arms) in FINDINGS.items()
            for arm in arms
            for seed in args.seeds
        }
        found = told(jobs)
    each = [
        {finding: {arm: found[finding, arm, seed] for arm in arms} for finding, (_, arms) in FINDINGS.items()}
        for seed in args.seeds
    ]
    figures = {**spread(each), "longest_arm_s": max(seconds.values()), "seconds": round(time.perf_counter() - began, 1)}
    names = ("steps", "follow", "limit", "seeds", "processes")
    config = {"run": Path(args.run).name, "start": start.name, **{name: getattr(args, name) for name in names}}
    print(figures if args.print else results.write("kosmos1_findings", figures, config))


if __name__ == "__main__":
    main()
