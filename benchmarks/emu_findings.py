"""What Emu's choices do at our scale: the loss on vectors, two steps of asking, pages beside pairs.

    python benchmarks/emu_findings.py --start DIR [--arms NAME ...] [--seeds 0 1] [--steps N M] [--limit N]

All arms begin with the checkpoint of `emu/tiny` behind its first stage (`plait train emu/tiny/tower`, or a step of a
whole run) and train the next two for fewer steps (pretraining and the decoder, N and M), each in a process of its own
of one thread; its scores are on held-out scenes.

    whole       as the recipe has it
    no vectors  without the loss on vectors; what is drawn then looks at what the head was never taught
    pairs       pretrained on pictures with texts alone: no stories, episodes, videos, contexts

Of each arm: `draw`, questions asked at once (`one`), in two steps from the description alone (`two`), in two steps with
the picture before the second too (`looks`), and episodes with 0, 2, 4 and 8 examples, by chance and by likeness.
Figures go to benchmarks/results/emu_findings.json, with the mean over seeds and each; those of fewer steps than by
default are printed alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import results
from drawing import processes, spread, told

from plait.checkpoints import directory
from plait.evaluate import Task, evaluate
from plait.evaluate.asking import ShapesPrompted
from plait.evaluate.examples import ShapesExamples
from plait.evaluate.shapes import Held, ShapesDraw
from plait.generate.model import Model
from plait.recipes import emu
from plait.systems.emu import Emu
from plait.train.loop import Loop
from plait.train.parallel import Ranks
from plait.train.stage import Stage

ARMS: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "no vectors": {"regression": False},
    "pairs": {"interleaved": False},
}
STEPS = (350, 500)  # of pretraining and of the decoder: some ten minutes


@dataclass(frozen=True)
class Given:
    """An arm with a seed."""

    arm: str
    seed: int
    start: str
    steps: tuple[int, int]
    limit: int | None


def tasks(limit: int | None) -> list[Task]:
    """Those of every arm."""
    held = Held.at_most(limit)
    return [
        ShapesDraw(held=held, guidance=emu.DRAWING),
        ShapesPrompted(held=held, steps="one"),
        ShapesPrompted(held=held, steps="two"),
        ShapesPrompted(held=held, steps="two", looks=True),
        ShapesExamples.at_most(limit),
    ]


def run(given: Given) -> dict[str, Any]:
    """Trains and scores."""
    began = time.monotonic()
    system = directory.load_as(directory.find(given.start), Emu)
    seeds = [emu.SEED + 10 * given.seed + number for number in range(2)]
    stages: list[Stage] = [
        emu.tiny_pretrain(seeds[0], given.steps[0], **ARMS[given.arm]),
        emu.tiny_decoder(seeds[1], given.steps[1]),
    ]
    losses = {}
    for stage in stages:
        loop = Loop(system, stage, Ranks())
        for _ in range(stage.steps):
            record = loop.advance()
        loop.finish()
        losses[stage.name] = {name: round(value, 4) for name, value in record.items() if name.startswith("loss")}
    trained = time.monotonic() - began
    scores = evaluate(Model(system), tasks(given.limit))
    return {"scores": figures(scores), "losses": losses, "train_s": round(trained)}


def figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """The figures that arms are compared by, on one level."""
    found = {
        "draw": scores["draw"]["object_accuracy"],
        "one": scores["vqa_one_step"]["accuracy"],
        "two": scores["vqa_two_steps"]["accuracy"],
        "looks": scores["vqa_two_steps_looks"]["accuracy"],
    }
    for way in ("random", "alike"):
        found |= {f"{way} {k}": value for k, value in scores["examples"][way].items()}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    """Runs all arms, writes the figures."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--start", required=True, help="a run of emu/tiny/tower, or a checkpoint")
    asked.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    asked.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    asked.add_argument("--steps", nargs=2, type=int, default=STEPS)
    asked.add_argument("--limit", type=int, help="scenes of each group, and episodes")
    asked.add_argument("--processes", type=int, default=2)
    given = asked.parse_args()
    steps = (given.steps[0], given.steps[1])
    wanted = [Given(arm, seed, given.start, steps, given.limit) for seed in given.seeds for arm in given.arms]
    with processes(given.processes) as pool:
        found = told({one: pool.submit(run, one) for one in wanted})
    report = {}
    for arm in given.arms:
        runs = [found[one] for one in wanted if one.arm == arm]
        report[arm] = {
            "scores": spread([one["scores"] for one in runs]),
            "losses": [one["losses"] for one in runs],
            "train_s": [one["train_s"] for one in runs],
        }
    config = {"steps": list(steps), "seeds": given.seeds, "arms": given.arms, "limit": given.limit}
    whole = steps >= STEPS and given.limit is None
    print(results.write("emu_findings", report, config) if whole else report)


if __name__ == "__main__":
    main()
