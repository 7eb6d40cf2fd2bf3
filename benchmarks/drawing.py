"""What decoding and retrieval do to drawings of a trained CM3Leon: distance to the world's pictures, and accuracy.

    python benchmarks/drawing.py RUN --judge FOUNDATIONS [--scenes N] [--ranked N] [--memory DIR] [--seeds 0 1]

Each arm draws N held-out scenes of one to three objects from their captions. `object_accuracy`: as in the task `draw`.
`frechet`: the Fréchet distance between the drawings and the scenes' own pictures, on the features of FOUNDATIONS' CLIP
tower (`plait evaluate`'s towers, unit length), at equal numbers; not comparable with FID on Inception's. Arms differ
from the recipe's way of drawing in what they are called by; `best_of` draws the first `ranked` scenes 8 times and keeps
the first n's best by FOUNDATIONS' CLIP. With a memory, `retrieved` puts 0, 1 or 2 of its documents in front. Every arm
runs once a seed. Figures go to benchmarks/results/drawing.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import results
import torch

from plait.data.shapes import Shapes, oracle
from plait.data.shapes.score import object_accuracy
from plait.data.shapes.source import Example
from plait.document import Blank, Document, Image, Text
from plait.evaluate.metrics.frechet import Moments, frechet_distance
from plait.generate.candidates import Candidates, candidates, halves, judge_of
from plait.generate.engine import Settings
from plait.generate.model import Model, load
from plait.generate.sampling import Sampling
from plait.recipes.cm3leon import DRAWING, GUIDANCE
from plait.systems.base import Contrast

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
TOP_P = Sampling(temperature=1.0, top_p=0.9)
CONTRAST = Contrast(alpha=0.3, k=4)
CANDIDATES = 8
BATCH = 256

Pictures = list[Image]
Arm = Callable[[Sequence[Document], int], Pictures]


def drawn(model: Model, settings: Sequence[Settings], prompts: Sequence[Document], seed: int) -> Pictures:
    """One picture for each prompt, by the settings in turn."""
    each = [replace(settings[i % len(settings)], seed=seed * len(prompts) + i) for i in range(len(prompts))]
    return [reply.document.images[0] for reply in model.generate(list(prompts), each)]


def arms(model: Model) -> dict[str, Arm]:
    """By name; each takes prompts and a seed."""
    usual = Settings(max_new_tokens=0, guidance=GUIDANCE, image=DRAWING)
    plain, contrasted = halves(replace(usual, image=TOP_P, contrast=CONTRAST), 2)
    settings = {f"guidance {scale:g}": [replace(usual, guidance=scale)] for scale in SCALES}
    settings |= {"top-p": [plain], "cd-k": [contrasted], "top-p and cd-k": [plain, contrasted]}
    return {name: partial(drawn, model, each) for name, each in settings.items()}


def worth(examples: Sequence[Example], pictures: Pictures, features: Callable[[Pictures], Moments]) -> dict[str, float]:
    """What the pictures of scenes are worth."""
    right = [
        object_accuracy(example.scene.content, oracle.read(picture.open()).content)
        for example, picture in zip(examples, pictures, strict=True)
    ]
    real = features([Image(example.scene.draw(pictures[0].open().shape[0])) for example in examples])
    return {
        "object_accuracy": round(sum(right) / len(right), 4),
        "frechet": round(frechet_distance(features(pictures), real), 5),
    }


def described(judge: Model, pictures: Pictures) -> Moments:
    """The moments of what a tower makes of pictures."""
    with torch.inference_mode():
        rows = [judge.system.towers.pictures(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
    return Moments.of(torch.cat(rows))


def spread(each: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The mean over seeds, and each."""
    return {
        name: {"mean": round(sum(one[name] for one in each) / len(each), 5), "seeds": [one[name] for one in each]}
        for name in each[0]
    }


def main() -> None:
    """Draws, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--ranked", type=int, default=2000)
    parser.add_argument("--memory", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    model, judge = load(args.run), load(args.judge)
    examples = list(Shapes(seed=20241, length=args.scenes, split="test", objects=(1, 2, 3), pairs="seen").examples())
    prompts = [Document([Text(example.caption), Blank("image")]) for example in examples]
    features = partial(described, judge)
    figures: dict[str, Any] = {}
    for name, arm in arms(model).items():
        figures[name] = spread([worth(examples, arm(prompts, seed), features) for seed in args.seeds])
        print(name, figures[name], flush=True)
    figures |= _ranked(model, judge, examples[: args.ranked], args.seeds, features)
    if args.memory is not None:
        figures |= _retrieved(model, judge, args.memory, examples, args.seeds, features)
    config = {"run": Path(args.run).name, "scenes": args.scenes, "ranked": args.ranked, "seeds": args.seeds}
    print(results.write("drawing", figures, config))


def _ranked(
    model: Model,
    judge: Model,
    examples: Sequence[Example],
    seeds: Sequence[int],
    features: Callable[[Pictures], Moments],
) -> dict[str, Any]:
    settings = Settings(max_new_tokens=0, guidance=GUIDANCE, image=TOP_P)
    prompts = [Document([Text(example.caption), Blank("image")]) for example in examples]
    found: list[list[Candidates]] = []
    for seed in seeds:
        each = [replace(settings, seed=seed * len(prompts) * CANDIDATES)] * CANDIDATES
        found.append(candidates(model, prompts, judge_of(judge), each))
    figures = {}
    for n in (1, 2, 4, CANDIDATES):
        best = [[one.best_of(n).document.images[0] for one in each] for each in found]
        figures[f"best of {n}"] = spread([worth(examples, pictures, features) for pictures in best])
        print(n, figures[f"best of {n}"], flush=True)
    return figures


def _retrieved(
    model: Model,
    judge: Model,
    folder: Path,
    examples: Sequence[Example],
    seeds: Sequence[int],
    features: Callable[[Pictures], Moments],
) -> dict[str, Any]:
    raise NotImplementedError


if __name__ == "__main__":
    main()
