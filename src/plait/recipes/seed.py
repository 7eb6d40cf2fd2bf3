"""SEED-LLaMA's stages (arXiv 2310.01218): pictures become words of a language model, which then answers with both.

    contrast   the causal Q-Former, by pictures and their captions
    codes      codebook and de-tokenizer; what is before them stays
    pretrain   adapters, tables and norms, on captions, pages, videos and text
    whole      the adapters merged, then all but the input table
    instruct   adapters anew, on instructions

`paper` has them with the published numbers. Those of `whole` are not published, nor how many documents a step of
`instruct` has: both are marked as inferred. In the released code a micro-batch is of one source; here documents are
mixed and share rows, in the same proportions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from plait.checkpoints import directory
from plait.checkpoints.teacher import clip_image
from plait.data.crops import RandomCrop
from plait.data.packs import Data, Source
from plait.data.prompted import BothOrders, Pages, Requested, Shown
from plait.data.shards import training
from plait.errors import ConfigError, hint
from plait.nn.lora import LAYERS, LoRAConfig
from plait.objectives.seed_tokenizer import CausalContrast, CodesAndEmbedding
from plait.objectives.tokens import NextToken
from plait.systems.seed import Seed
from plait.train.adapters import Adapt, merge
from plait.train.stage import EpochSchedule, Objective, Optimiser, Recipe, Schedule, Stage, Update

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


EPOCH = 5000  # steps, in the training of the tokenizer

_COMPARED = ("tokenizer.qformer.", "tokenizer.heads_of_qformer.")
_CODED = tuple(f"tokenizer.{part}." for part in ("down", "quantiser", "up", "reconstruct", "generate", "head"))
COMPARED = (
    (
        *(f"{part}*bias" for part in _COMPARED),
        "tokenizer.vision_norm.*",
        "tokenizer.qformer.*norm.weight",
        "*.temperature",
    ),
    tuple(f"{part}*" for part in _COMPARED),
)
"""What the first stage of the tokenizer trains: without decay, and with it."""
CODED = (
    (
        *(f"{part}*bias" for part in _CODED if "quantiser" not in part),
        "tokenizer.reconstruct.*norm.weight",
        "tokenizer.generate.*norm.weight",
    ),
    tuple(f"{part}*" for part in _CODED),
)
"""The same of its second stage."""


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
    pairs: str = "",
    teacher: str = "",
    contrast: bool = False,
    data: Mapping[str, str] | None = None,
    instructions: Mapping[str, str] | None = None,
    whole: bool = True,
) -> Recipe:
    """The stages whose data is given. Sizes and dialogue are the base's: 8B or 14B.

    `rows` are those of all ranks together, as on 64 cards: divide them with `accumulate`.

    Args:
        base: what it begins with: of `plait import seed`, or a run.
        pairs: pictures with captions for the tokenizer, of `plait data import`.
        teacher: the folder of CLIP, whose embeddings of pictures the codes are to give (laion/CLIP-ViT-H-14-laion2B).
        contrast: with the first stage of the tokenizer, for a base whose Q-Former has a text branch.
        data: name in `PRETRAINING` -> directory of `plait data import`.
        instructions: name in `INSTRUCTIONS` -> directory of records.
        whole: with the stage of all weights behind that of adapters.

    Raises:
        ConfigError: no such source, no data for any stage, or pairs without a teacher.
    """
    stages: list[Stage] = []
    if pairs:
        if not teacher:
            raise ConfigError(f"pairs {pairs} without a teacher: give --set teacher=DIR, the folder of a CLIP")
        source = training(pairs)
        stages += [contrast_stage(source, steps=10 * EPOCH)] if contrast else []
        stages.append(codes_stage(source, Teacher(folder=teacher), steps=500 * EPOCH))
    if data:
        _check(data, PRETRAINING)
        mixed = _pretraining(data)
        stages.append(pretrain_stage(mixed, steps=30_000))  # the released code merges at step 10,000
        stages += [whole_stage(mixed, steps=30_000)] if whole else []
    if instructions:
        stages.append(instruct_stage(_instructions(instructions), steps=50_000))
    if not stages:
        raise ConfigError("seed/paper has no data: give --set pairs=DIR, data={NAME: DIR} or instructions={NAME: DIR}")
    return Recipe(name="seed/paper", build=functools.partial(directory.load_as, base, Seed), stages=tuple(stages))


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


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What codes are to give: CLIP's embeddings of pictures, which are not trained."""

    folder: str

    def __call__(self, system: Seed) -> nn.Module:
        """The tower of the folder.

        Raises:
            CheckpointError: there is none.
        """
        return clip_image(self.folder)


def forget_texts(system: Seed) -> None:
    """Takes away what compares pictures with texts, if it is there: for `before` of a stage behind that."""
    if system.config.tokenizer.qformer.text:
        system.tokenizer.forget_texts()
        system.config = replace(system.config, tokenizer=system.tokenizer.config)


def contrast_stage(source: Source, *, steps: int) -> Stage:
    """The causal Q-Former, by whole batches of pictures and captions of up to 32 words.

    Not as released: captions are read in the words of the language model, not in BERT's; pictures are not mirrored.
    """
    return Stage(
        name="contrast",
        data=Data(
            sources={"pairs": Shown(source=source)},
            rows=64 * CARDS,
            length=66,
            policy="alone",
            transforms=(RandomCrop(),),
            seed=SEED,
        ),
        updates=(_tokenizer_update(CausalContrast(), COMPARED, 3e-5),),
        steps=steps,
        schedule=_epochs(steps),
        precision="bf16",
        seed=SEED,
    )


def codes_stage(source: Source, teacher: Callable[[Seed], nn.Module], *, steps: int) -> Stage:
    """Codebook, both branches and head; what reads pictures stays. Not as released: pictures are not mirrored."""
    return Stage(
        name="codes",
        data=Data(
            sources={"pairs": source},
            rows=256 * CARDS,
            length=64,
            policy="alone",
            reads="pictures",
            transforms=(RandomCrop(),),
            seed=SEED,
        ),
        updates=(_tokenizer_update(CodesAndEmbedding(), CODED, 1e-4),),
        companions={"teacher": teacher},
        before=(forget_texts,),
        steps=steps,
        schedule=_epochs(steps),
        precision="bf16",
        seed=SEED,
    )


def _epochs(steps: int) -> EpochSchedule:
    """LAVIS' of both stages: from a hundredth of the rate in 2,000 steps, then by epochs to a tenth."""
    return EpochSchedule(epoch=EPOCH, warmup=2000, start=0.01, final=0.1, stepped=True)


def _tokenizer_update(objective: Objective, trained: tuple[tuple[str, ...], tuple[str, ...]], lr: float) -> Update:
    """AdamW as published: no decay of biases and norms, no limit to the gradient."""
    betas = (0.9, 0.999)
    plain, decayed = trained
    return Update(
        objective=objective,
        optimisers=(
            Optimiser(train=plain, lr=lr, betas=betas),
            Optimiser(train=decayed, lr=lr, betas=betas, weight_decay=0.05),
        ),
        clip=None,
    )


def pretrain_stage(data: Data, *, steps: int) -> Stage:
    """Adapters, tables and norms of the language model."""
    return _stage("pretrain", data, ADAPTED, steps, before=(Adapt(lora=LORA),), accumulate=4)


def whole_stage(data: Data, *, steps: int) -> Stage:
    """All of the language model but its input table; inferred: with the numbers of the stage before."""
    return _stage("whole", data, WHOLE, steps, before=(merge,), accumulate=4)


def instruct_stage(data: Data, *, steps: int) -> Stage:
    """Adapters anew, tables and norms, on answers; betas, eps and decay are inferred, those of pretraining."""
    before = (merge, Adapt(lora=LORA))
    return _stage("instruct", data, ADAPTED, steps, lr=1e-4, warmup=0.07, final=0.1, before=before)


def _stage(
    name: str,
    data: Data,
    trained: tuple[str, ...],
    steps: int,
    *,
    lr: float = 1.5e-4,
    warmup: float = 0.03,
    final: float = 0.05,
    **more: Any,
) -> Stage:
    """A stage of the language model, by default at the rates of pretraining; `more` are further fields of it.

    Args:
        warmup: share of the steps.
        final: factor on the rate at the end.
    """
    rising = math.ceil(warmup * steps)  # in floats, as published: 0.07 of 50,000 are 3,501
    return Stage(
        name=name,
        data=data,
        updates=(_update(trained, lr),),
        steps=steps,
        schedule=Schedule(warmup=rising, shape="cosine", final=final, first=0),
        precision="bf16",
        seed=data.seed,
        **more,
    )


def _update(trained: tuple[str, ...], lr: float) -> Update:
    """transformers' Adam, whose decay is on all that moves: norms and tables too (released code)."""
    adam = Optimiser(train=trained, kind="adamw_hf", lr=lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.05)
    return Update(objective=NextToken(kinds=("token", "code")), optimisers=(adam,), clip=1.0)


RECIPES = {"paper": paper}
