"""SEED's two claims at our scale: that causal codes can be written in order, and that LoRA comes before full training.

    python benchmarks/coding.py DRAWERS [--captions N] [--contrast N] [--codes N] [--steps N] [--seeds 0 1]

Every arm begins with the same run of foundations/drawers and goes through the stages of seed/tiny with so many steps,
the language model on captions alone, in both orders; the seeds are those of data, of what is new, and of drawing.

    causal      LoRA for a quarter of the steps, then all but the input table, by codes of the causal Q-Former
    bilateral   the same, by codes of a Q-Former whose queries see each other all
    lora        LoRA for all of the steps, by the causal codes

Each draws pictures of held-out captions of one to three objects twice. `whole` is the share that is a whole and valid
picture where nothing keeps order: from `<img>` on any word may come, drawn as the release does (the likeliest 50, of
these those that make half of the mass), and up to the first `</img>` there must be as many codes as a picture has, and
nothing else. `object_accuracy` is that of the task `draw`, in order; `redrawn` that of pictures that are drawn again
from their own codes, which drawings are not likely to pass. In processes of one thread; `seconds` are of training.

Figures go to benchmarks/results/coding.json; those of fewer than 2,000 captions are printed alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from drawing import ENOUGH, kept, processes, spread, told

from plait.checkpoints import directory
from plait.data.prompted import BothOrders
from plait.data.shapes import Shapes
from plait.data.shapes.score import draws
from plait.document import Blank, Document
from plait.evaluate.shapes import Held, ShapesDrawings
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.recipes import seed as recipe
from plait.recipes.cm3leon import DRAWING
from plait.systems.base import Emitted, Forced, Grammar, Next, Stop
from plait.systems.seed import Seed, SeedFormat
from plait.train.loop import Loop
from plait.train.parallel import Ranks
from plait.train.stage import Stage

SEED = 20244
OBJECTS = (1, 2, 3)
FIRST = 0.25  # of the steps are LoRA's
RELEASED = Sampling(temperature=1.0, top_p=0.5, top_k=50)
LONGER = 8  # words that a picture may be too long by before it is given up
ARMS = {"causal": (True, FIRST), "bilateral": (False, FIRST), "lora": (True, 1.0)}
"""Whether codes are causal, and the share of LoRA."""
SECONDS = "seconds.json"


@dataclass(frozen=True)
class Given:
    """Where everything lies, and how much is done."""

    drawers: str
    foundations: str
    work: Path
    captions: int
    contrast: int
    codes: int
    steps: int

    def coded(self, causal: bool, seed: int) -> Path:
        """Where a system with trained codes lies."""
        return self.work / f"codes-{'causal' if causal else 'bilateral'}-{seed}"

    def spoken(self, arm: str, seed: int) -> Path:
        """Where an arm lies."""
        return self.work / f"{arm}-{seed}"


class Unordered(SeedFormat):
    """SEED-LLaMA's format, but what follows a prompt is any words up to the end of a picture."""

    def grammar(self, document: Document, max_images: int) -> Grammar:
        """One run."""
        allowed = torch.ones(self.config.language.vocabulary, dtype=torch.bool)
        words = Next(kind="text", head="token", allowed=allowed, ends=frozenset([self.end]))

        def step(emitted: Any) -> Next | Forced | Stop:
            return Stop("end") if emitted else words

        return step

    def read_text(self, run: Emitted) -> str:
        """Of no interest."""
        return ""


# ------------------------------------------------------------------------------- jobs, each within one process


def coded(given: Given, causal: bool, seed: int) -> Path:
    """Trains the codes."""
    system = recipe.founded(given.drawers, given.foundations, seed, causal)
    number = 10 * seed
    stages = [
        recipe.tiny_contrast(SEED + number, given.contrast),
        recipe.tiny_codes(SEED + number + 1, given.codes, given.drawers),
    ]
    return trained(system, stages, given.coded(causal, seed))


def spoken(given: Given, arm: str, seed: int) -> Path:
    """Trains the language model."""
    causal, share = ARMS[arm]
    system = directory.load_as(given.coded(causal, seed), Seed)
    number, first = SEED + 10 * seed + 2, round(share * given.steps)
    stages = [recipe.tiny_pretrain(number, first)]
    if given.steps - first:
        stages.append(recipe.tiny_whole(number + 1, given.steps - first))
    return trained(system, map(on_captions, stages), given.spoken(arm, seed))


def on_captions(stage: Stage) -> Stage:
    """The same, on captions in both orders and nothing else."""
    source = Shapes(seed=stage.seed, length=1_000_000, objects=recipe.CROWD, mix={"caption": 1.0})
    data = replace(stage.data, sources={"captions": BothOrders(source=source)}, shares={})
    return replace(stage, data=data)


def trained(system: Seed, stages: Iterable[Stage], folder: Path) -> Path:
    """The system after stages, saved with the time that they took."""
    began = time.perf_counter()
    for stage in stages:
        loop = Loop(system, stage, Ranks())
        for _ in range(stage.steps):
            loop.advance()
        loop.finish()
    seconds = json.dumps(round(time.perf_counter() - began, 1))
    return directory.save(system.eval(), folder, lambda inside: _noted(inside, seconds))


def _noted(folder: Path, seconds: str) -> None:
    (folder / SECONDS).write_text(seconds)


def took(folder: Path) -> float:
    """Seconds of training."""
    return float(json.loads((folder / SECONDS).read_text()))


def judged(given: Given, arm: str, seed: int) -> dict[str, float]:
    """Drawings without order, and in order."""
    causal, _ = ARMS[arm]
    folder = given.spoken(arm, seed)
    system = directory.load_as(folder, Seed).eval()
    examples = list(Shapes(seed=SEED, length=given.captions, split="test", objects=OBJECTS).examples())
    prompts = [Document([example.caption, Blank("image")]) for example in examples]
    model = Model(system)
    drawn = model.generate(prompts, Settings(max_new_tokens=0, image=DRAWING, seed=seed))
    right = [draws(one.scene.content, reply.document) for one, reply in zip(examples, drawn, strict=True)]
    held = Held(scenes=min(Held.scenes, given.captions), never_seen=0, three=0)
    again = ShapesDrawings(held=held).run(model)["codes"]["object_accuracy"]
    ordered = system.format
    system.format = Unordered(ordered.config, ordered.text)
    most = system.format.count + LONGER
    replies = model.generate(prompts, Settings(max_new_tokens=most, text=RELEASED, seed=seed))
    whole = [is_whole(ordered, reply.runs) for reply in replies]
    return {
        "whole": round(sum(whole) / len(whole), 4),
        "object_accuracy": round(sum(right) / len(right), 4),
        "redrawn": round(again, 4),
        "seconds": round(took(given.coded(causal, seed)) + took(folder), 1),
    }


def is_whole(format: SeedFormat, runs: Iterable[Emitted]) -> bool:
    """Whether what was said behind `<img>` is one picture, and nothing else."""
    read = format.read([id for run in runs for id in run.ids], forced=True)
    return read.unpaired is None and read.problems == (None,)


# -------------------------------------------------------------------------------------------------- all of them


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("drawers", help="a run of foundations/drawers")
    parser.add_argument("--foundations", default="runs/foundations-tiny", help="the run that it began with")
    parser.add_argument("--captions", type=int, default=ENOUGH)
    parser.add_argument("--contrast", type=int, default=100, help="steps")
    parser.add_argument("--codes", type=int, default=500, help="steps")
    parser.add_argument("--steps", type=int, default=900, help="of the language model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keeps what is made, and goes on with what is there")
    return parser.parse_args()


def main() -> None:
    """Trains, draws, writes the figures."""
    args, began = parsed(), time.perf_counter()
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        given = Given(args.drawers, args.foundations, work, args.captions, args.contrast, args.codes, args.steps)
        pool = stack.enter_context(processes(args.processes))
        coding = [(causal, seed) for seed in args.seeds for causal in (True, False)]
        arms = [(arm, seed) for seed in args.seeds for arm in ARMS]
        told({one: pool.submit(coded, given, *one) for one in coding if not given.coded(*one).exists()})
        told({one: pool.submit(spoken, given, *one) for one in arms if not given.spoken(*one).exists()})
        jobs: dict[Any, Future[Any]] = {one: pool.submit(judged, given, *one) for one in arms}
        found = told(jobs)
    figures = spread([{arm: found[arm, seed] for arm in ARMS} for seed in args.seeds])
    figures["seconds"] = round(time.perf_counter() - began, 1)
    names = ("contrast", "codes", "steps", "seeds", "processes")
    config = {
        "drawers": Path(args.drawers).name,
        **{name: getattr(args, name) for name in names},
        "scenes": args.captions,
        "objects": OBJECTS,
        "lora": FIRST,
    }
    kept("coding", figures, config)


if __name__ == "__main__":
    main()
