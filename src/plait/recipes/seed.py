"""SEED-LLaMA's stages (arXiv 2310.01218): pictures become words of a language model, which then answers with both.

    pretrain   adapters, tables and norms, on captions, pages, videos and text
    whole      the adapters merged, then all but the input table
    instruct   adapters anew, on instructions

`paper` has them with the published numbers. Those of the second are not published, nor how many documents a step of the
third has: both are marked as inferred. In the released code a micro-batch is of one source; here documents are mixed
and share rows, in the same proportions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from plait.checkpoints import directory
from plait.data.packs import Data, Source
from plait.data.prompted import BothOrders, Pages, Requested
from plait.data.shards import training
from plait.errors import CheckpointError, ConfigError, hint
from plait.nn.lora import LAYERS, LoRAConfig
from plait.objectives.tokens import NextToken
from plait.systems.seed import Seed
from plait.train.adapters import Adapt, merge
from plait.train.stage import Optimiser, Recipe, Schedule, Stage, Update

SEED = 42
LENGTH = 1024  # elements of the longest document
CARDS = 64  # whose micro-batches are one of ours

LORA = LoRAConfig(rank=16, alpha=32.0, dropout=0.05, layers=LAYERS)
ADAPTED = (
    "language.*.down",
    "language.*.up",
    "language.embed.weight",
    "language.head.weight",
    "language.*norm.weight",
)
"""What trains beside adapters: both tables and all norms."""
WHOLE = ("language.decoder.*", "language.head.weight")
"""All but the input table."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A source of pretraining: how often a micro-batch is of it, and how many documents of how many elements it has.

    Longer documents are cut in the released code; here they are cut at 1,024 elements, whatever the source.
    """

    weight: float
    rows: int
    """Documents in a micro-batch of one card."""
    length: int
    written: Callable[[Source], Source] | None = None
    """What is made of its documents; None: they are laid out as they are."""

    @property
    def share(self) -> float:
        """Of all documents."""
        return self.weight * self.rows


def _both(source: Source) -> Source:
    return BothOrders(source=source)


def _swapped(source: Source) -> Source:
    return Pages(source=source, swap=0.5, seed=SEED)


def _paged(source: Source) -> Source:
    return Pages(source=source)


PRETRAINING = {
    "captions": Pretraining(weight=0.5, rows=116, length=200, written=_both),  # CC3M, Unsplash, COCO
    "laion-coco": Pretraining(weight=5.0, rows=164, length=140, written=_both),
    "mmc4": Pretraining(weight=2.0, rows=26, length=LENGTH, written=_swapped),
    "obelics": Pretraining(weight=1.0, rows=26, length=LENGTH, written=_paged),
    "webvid": Pretraining(weight=0.5, rows=116, length=200),
    "wikipedia": Pretraining(weight=1.0, rows=26, length=LENGTH),
}
"""Sources by name: pictures with captions, pages of texts and pictures, videos with captions, texts."""

INSTRUCTIONS = {  # name -> weight, and a task of plait.text.requests.TASKS
    "mimic-it": (0.15, "difference"),
    "vist": (0.08, "story"),
    "edits": (0.5, "edit"),  # MagicBrush, InstructPix2Pix
    "llava": (0.15, "talk"),
    "svit": (0.2, "talk"),
    "vqav2": (0.2, "vqa"),
    "okvqa": (0.1, "vqa"),  # with VizWiz and A-OKVQA
    "visdial": (0.15, "talk"),
    "coco": (0.2, "caption"),
    "msrvtt": (0.1, "video"),  # with MSVD
    "nextqa": (0.15, "video"),  # with ActivityNet-QA
    "video-chatgpt": (0.2, "long-video"),
    "cc3m-595k": (0.4, "talk"),  # LLaVA's, with LRV
    "journeydb": (0.5, "draw"),
    "laion-aesthetics": (0.5, "draw"),
    "written": (0.1, "vqa"),  # TextCaps, TextVQA, OCR-VQA
    "llavar": (0.08, "talk"),
    "vsr": (0.05, "vqa"),
}
"""Sources of instructions by name, in the released order."""


def paper(
    base: str,
    data: Mapping[str, str] | None = None,
    instructions: Mapping[str, str] | None = None,
    whole: bool = True,
) -> Recipe:
    """The stages whose data is given. Sizes and dialogue are the base's: 8B or 14B.

    `rows` are those of all ranks together, as on 64 cards: divide them with `accumulate`.

    Args:
        base: what it begins with: of `plait import seed`, or a run.
        data: name in `PRETRAINING` -> directory of `plait data import`.
        instructions: name in `INSTRUCTIONS` -> directory of records.
        whole: with the stage of all weights behind that of adapters.

    Raises:
        ConfigError: no such source, or no data for any stage.
    """
    stages: list[Stage] = []
    if data:
        _check(data, PRETRAINING)
        pairs = _pretraining(data)
        stages.append(pretrain_stage(pairs, steps=30_000))  # the paper goes on from step 10,000 of the 8B
        stages += [whole_stage(pairs, steps=30_000)] if whole else []
    if instructions:
        stages.append(instruct_stage(_instructions(instructions), steps=50_000))
    if not stages:
        raise ConfigError("seed/paper has no data: give --set data.NAME=DIR (pretraining) or instructions.NAME=DIR")
    return Recipe(name="seed/paper", build=functools.partial(started, base), stages=tuple(stages))


def started(base: str) -> Seed:
    """The system that a directory holds, in fp32.

    Raises:
        CheckpointError: it holds none, or another system.
    """
    system = directory.load(base, dtype=torch.float32)
    if not isinstance(system, Seed):
        raise CheckpointError(f"{base} holds {system.name}: give a directory of `plait import seed`, or a run")
    return system


def _check(given: Mapping[str, str], known: Mapping[str, object]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"no source {name!r}; {hint(name, known)}")


def _pretraining(given: Mapping[str, str]) -> Data:
    sources: dict[str, Source] = {}
    for name, folder in given.items():
        source, written = training(folder), PRETRAINING[name].written
        sources[name] = written(source) if written else source
    return Data(
        sources=sources,
        shares={name: PRETRAINING[name].share for name in sources},
        rows=PRETRAINING["mmc4"].rows * CARDS,  # as many elements as a micro-batch of captions, or nearly
        length=LENGTH - 1,
        seed=SEED,
    )


def _instructions(given: Mapping[str, str]) -> Data:
    _check(given, INSTRUCTIONS)
    sources: dict[str, Source] = {}
    for name, folder in given.items():
        sources[name] = Requested(source=training(folder), task=INSTRUCTIONS[name][1])
    return Data(
        sources=sources,
        shares={name: INSTRUCTIONS[name][0] for name in sources},
        rows=PRETRAINING["mmc4"].rows * CARDS // 2,  # inferred: 32 cards, with as many elements on each
        length=LENGTH - 1,
        seed=SEED,
    )


def pretrain_stage(data: Data, *, steps: int) -> Stage:
    """Adapters, tables and norms of the language model."""
    return Stage(
        name="pretrain",
        data=data,
        updates=(_update(ADAPTED, 1.5e-4),),
        steps=steps,
        schedule=Schedule(warmup=_warmup(0.03, steps), shape="cosine", final=0.05, idle=True),
        before=(Adapt(lora=LORA),),
        precision="bf16",
        accumulate=4,
        seed=data.seed,
    )


def whole_stage(data: Data, *, steps: int) -> Stage:
    """All of the language model but its input table; inferred: with the numbers of the stage before."""
    return Stage(
        name="whole",
        data=data,
        updates=(_update(WHOLE, 1.5e-4),),
        steps=steps,
        schedule=Schedule(warmup=_warmup(0.03, steps), shape="cosine", final=0.05, idle=True),
        before=(merge,),
        precision="bf16",
        accumulate=4,
        seed=data.seed,
    )


def instruct_stage(data: Data, *, steps: int) -> Stage:
    """Adapters anew, tables and norms, on answers; betas, eps and decay are inferred, those of pretraining."""
    return Stage(
        name="instruct",
        data=data,
        updates=(_update(ADAPTED, 1e-4),),
        steps=steps,
        schedule=Schedule(warmup=_warmup(0.07, steps), shape="cosine", final=0.1, idle=True),
        before=(merge, Adapt(lora=LORA)),
        precision="bf16",
        seed=data.seed,
    )


def _update(trained: tuple[str, ...], lr: float) -> Update:
    """transformers' Adam, whose decay is on all that moves: norms and tables too (released code)."""
    adam = Optimiser(train=trained, kind="adamw_hf", lr=lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.05)
    return Update(objective=NextToken(kinds=("token", "code")), optimisers=(adam,), clip=1.0)


def _warmup(ratio: float, steps: int) -> int:
    return math.ceil(ratio * steps)  # in floats, as published: 0.07 of 50,000 are 3,501


RECIPES = {"paper": paper}
