"""What decoding does to the drawings of a trained CM3Leon: their distance to the world's pictures, and their accuracy.

    python benchmarks/drawing.py RUN --judge FOUNDATIONS [--scenes N] [--candidates N] [--scan N] [--seeds 0 1]

Each arm draws the same held-out scenes of one to three objects from their captions. `object_accuracy` is that of the
task `draw`. `frechet` is the Fréchet distance between the drawings and the scenes' own pictures at equal numbers, on
the features of FOUNDATIONS' CLIP tower for pictures, of length 1: not comparable with FID on Inception's. Every arm
runs once a seed, in processes of one thread.

    guidance    the recipe's way of drawing, but for the scale
    sampling    at temperature 1: top-p at the recipe's scale; CD; CD-K; and every other scene by one of these
    best of     the best of the first n by FOUNDATIONS' CLIP, all by top-p, or the second half by CD-K

The p of top-p, alpha of CD, and alpha and k of CD-K are those of the least distance in a scan of as many drawings for
each, on scenes of the validation part; the scan stands in the results. 8 candidates, as in the paper, make all of it
take half as long again. Figures go to benchmarks/results/drawing.json; those of fewer than 2,000 scenes are printed
alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import results
import torch

from plait.checkpoints import directory
from plait.data.shapes import Shapes, oracle
from plait.data.shapes.score import object_accuracy
from plait.data.shapes.split import Part
from plait.document import Blank, Document, Image, Text
from plait.evaluate.metrics.frechet import Moments, frechet_distance
from plait.generate.candidates import candidates, halves, judge_of
from plait.generate.engine import Settings
from plait.generate.model import Model, load
from plait.generate.sampling import Sampling
from plait.recipes.cm3leon import DRAWING, GUIDANCE
from plait.systems.base import Contrast, Emitted
from plait.systems.cm3leon import READER

USUAL = Settings(max_new_tokens=0, guidance=GUIDANCE, image=DRAWING)
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
TOP_P = (0.7, 0.8, 0.9)
CD = tuple(Contrast(alpha=alpha) for alpha in (0.1, 0.3, 0.6))
CD_K = tuple(Contrast(alpha=alpha, k=k) for k in (2, 4) for alpha in (0.1, 0.3, 1.0))
SEED = 20241
BATCH = 256
ENOUGH = 2000

Pictures = Sequence[Image]
Worth = dict[str, float]


class Wanted:
    """Held-out scenes that are to be drawn, and what pictures of them are worth.

    Args:
        judge: with towers, whose features the distance is taken on.
    """

    def __init__(self, judge: Model, count: int, part: Part = "test") -> None:
        source = Shapes(seed=SEED, length=count, split=part, objects=(1, 2, 3))
        self.judge = judge
        self.examples = list(source.examples())
        self.prompts = [Document([Text(example.caption), Blank("image")]) for example in self.examples]
        self.pictures = [Image(example.scene.draw(source.resolution)) for example in self.examples]
        self._real = self._moments(self.pictures)

    def worth(self, pictures: Pictures) -> Worth:
        """Of one for each scene."""
        right = [
            object_accuracy(example.scene.content, oracle.read(picture.open()).content)
            for example, picture in zip(self.examples, pictures, strict=True)
        ]
        distance = frechet_distance(self._moments(pictures), self._real)
        return {"object_accuracy": round(sum(right) / len(right), 4), "frechet": round(distance, 5)}

    @torch.inference_mode()
    def _moments(self, pictures: Pictures) -> Moments:
        towers = self.judge.system.towers
        return Moments.of(torch.cat([towers.pictures(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]))


@dataclass(frozen=True)
class Given:
    """Where the models lie, and how much is drawn."""

    run: str
    judge: str
    scenes: int
    candidates: int
    scan: int


@cache
def model(run: str) -> Model:
    """Loaded once a process."""
    return load(run)


@cache
def wanted(judge: str, count: int, part: Part = "test") -> Wanted:
    """Made once a process."""
    return Wanted(model(judge), count, part)


def drawn(model: Model, settings: Settings, prompts: Sequence[Document], seed: int) -> Pictures:
    """One picture for each prompt."""
    replies = model.generate(list(prompts), replace(settings, seed=seed * len(prompts)))
    return [reply.document.images[0] for reply in replies]


def top_p(p: float) -> Settings:
    """Plain draws of the likeliest codes."""
    return replace(USUAL, image=Sampling(temperature=1.0, top_p=p))


def contrasted(by: Contrast) -> Settings:
    """As the second half of mixed candidates is drawn."""
    return halves(replace(top_p(1.0), contrast=by), 2)[1]


# ------------------------------------------------------------------------------- jobs, each within one process


def scanned(given: Given, settings: Settings) -> Worth:
    """On scenes of the validation part."""
    scenes = wanted(given.judge, given.scan, "validation")
    return scenes.worth(drawn(model(given.run), settings, scenes.prompts, 0))


def guided(given: Given, scale: float, seed: int) -> dict[str, Worth]:
    """At one scale."""
    scenes = wanted(given.judge, given.scenes)
    pictures = drawn(model(given.run), replace(USUAL, guidance=scale), scenes.prompts, seed)
    return {f"{scale:g}": scenes.worth(pictures)}


def sampled(given: Given, ways: Mapping[str, Settings], seed: int) -> dict[str, dict[str, Worth]]:
    """All candidates of every scene, and what is made of them: an arm's drawing is the first of its candidates."""
    scenes, n = wanted(given.judge, given.scenes), given.candidates
    drawn_by = [ways["top-p"]] * n + [ways["cd-k"]] * (n // 2) + [ways["cd"]]
    each = [replace(one, seed=seed * given.scenes * len(drawn_by)) for one in drawn_by]
    found = candidates(model(given.run), scenes.prompts, judge_of(model(given.judge)), each)

    def best(*places: int) -> Worth:
        kept = [max(places, key=one.scores.__getitem__) for one in found]
        return worth(kept)

    def worth(places: Iterable[int]) -> Worth:
        return scenes.worth([one.replies[i].document.images[0] for one, i in zip(found, places, strict=True)])

    cd, cd_k = len(each) - 1, n
    counts = [2**i for i in range(1, n.bit_length()) if 2**i <= n]
    return {
        "sampling": {
            "top-p": best(0),
            "cd": best(cd),
            "cd-k": best(cd_k),
            "half by top-p, half by cd": worth([cd if i % 2 else 0 for i in range(given.scenes)]),
            "half by top-p, half by cd-k": worth([cd_k if i % 2 else 0 for i in range(given.scenes)]),
        },
        "best of": {
            **{f"{count}": best(*range(count)) for count in counts},
            f"{n}, half by cd-k": best(*range(n // 2), *range(cd_k, cd)),
        },
    }


def reference(given: Given) -> Worth:
    """The scenes' own pictures as the image tokenizer gives them back: what no drawing is likely to pass."""
    scenes, system = wanted(given.judge, given.scenes), model(given.run).system
    prepare = system.format.preprocess()[READER]
    kept: list[Image] = []
    for i in range(0, given.scenes, BATCH):
        pixels = torch.stack([torch.from_numpy(prepare(picture)) for picture in scenes.pictures[i : i + BATCH]])
        kept += system.write([Emitted("image", ids.tolist()) for ids in system.codes(pixels)])
    return scenes.worth(kept)


# -------------------------------------------------------------------------------------------------- all of them


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Of one thread each."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def spread(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of each seed, in groups alike: the mean over seeds, and each."""
    return {
        name: spread([one[name] for one in each])
        if isinstance(value, Mapping)
        else {"mean": round(sum(one[name] for one in each) / len(each), 5), "seeds": [one[name] for one in each]}
        for name, value in each[0].items()
    }


def told(jobs: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
    """What jobs gave, in the order that they were given in; printed as it comes."""
    names = {job: name for name, job in jobs.items()}
    began = time.perf_counter()
    for job in as_completed(names):
        print(f"{time.perf_counter() - began:.0f} s", names[job], job.result(), flush=True)
    return {name: job.result() for name, job in jobs.items()}


def chosen(pool: ProcessPoolExecutor, given: Given) -> tuple[dict[str, Any], dict[str, Settings]]:
    """The scan, and of each way to draw the settings with the least distance."""
    ways = {
        "top-p": {f"top-p {p:g}": top_p(p) for p in TOP_P},
        "cd": {f"cd, alpha {by.alpha:g}": contrasted(by) for by in CD},
        "cd-k": {f"cd-k, alpha {by.alpha:g}, k {by.k}": contrasted(by) for by in CD_K},
    }
    every = {name: one for some in ways.values() for name, one in some.items()}
    found = told({name: pool.submit(scanned, given, one) for name, one in every.items()})
    names = {way: min(some, key=lambda name: found[name]["frechet"]) for way, some in ways.items()}
    return {"scan": found, "chosen": names}, {way: every[name] for way, name in names.items()}


def parsed() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--judge", required=True, help="a run of foundations/tiny")
    parser.add_argument("--scenes", type=int, default=ENOUGH)
    parser.add_argument("--candidates", type=int, default=4, help="of a scene, an even number")
    parser.add_argument("--scan", type=int, default=250, help="drawings for each setting of the scan")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Draws, writes the figures."""
    args = parsed()
    given = Given(args.run, args.judge, args.scenes, args.candidates, args.scan)
    began = time.perf_counter()
    with processes(args.processes) as pool:
        figures, ways = chosen(pool, given)
        jobs: dict[Any, Future[Any]] = {
            **{("sampled", seed): pool.submit(sampled, given, ways, seed) for seed in args.seeds},
            **{(scale, seed): pool.submit(guided, given, scale, seed) for seed in args.seeds for scale in SCALES},
            "reference": pool.submit(reference, given),
        }
        found = told(jobs)
    scales = [dict(chain(*(found[scale, seed].items() for scale in SCALES))) for seed in args.seeds]
    figures |= {"reference": found["reference"], "guidance": spread(scales)}
    figures |= spread([found["sampled", seed] for seed in args.seeds])
    figures["seconds"] = round(time.perf_counter() - began, 1)
    config = {
        **described(args.run, args.judge),
        **{name: getattr(args, name) for name in ("scenes", "candidates", "scan", "seeds", "processes")},
        "objects": [1, 2, 3],
        "guidance": GUIDANCE,
    }
    kept("drawing", figures, config)


def described(run: str, judge: str) -> dict[str, Any]:
    """Which models they were, and what distances are taken on."""
    system = model(judge).system
    towers = system.towers
    parts = directory.read_description(directory.find(judge))["parts"]
    return {
        "run": Path(run).name,
        "judge": Path(judge).name,
        "features": f"{' and '.join(towers.parts)} of {system.name}, {towers.width} wide and of length 1",
        "fingerprint": {name: parts[name]["fingerprint"] for name in towers.parts},
    }


def kept(name: str, figures: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes figures of enough scenes, and prints others."""
    if config["scenes"] < ENOUGH:
        print(f"{config['scenes']} scenes, below {ENOUGH}: not written", figures)
    else:
        print(results.write(name, figures, config))


if __name__ == "__main__":
    main()
