"""MiniGPT-4's stages (arXiv 2304.10592): pictures are aligned with words, descriptions made whole, questions answered.

`paper` has the first two with the published numbers, `v2` the adapters of MiniGPT-v2 (arXiv 2310.09478). `tiny` does
all three on the shapes world, on two CPU cores, with parts that `foundations/tiny` trained.

Not as in the released code, where a batch takes one prompt, and one data set: here each document has its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch

from plait.checkpoints import directory
from plait.config import from_plain
from plait.data.crops import RandomCrop
from plait.data.packs import Data
from plait.data.prompted import Asked, Captioned
from plait.data.shapes import Shapes, language
from plait.data.shapes.web import WebCaptions
from plait.data.shards import training
from plait.document import Document, Image, Turn
from plait.errors import ConfigError
from plait.evaluate import Task
from plait.evaluate.shapes import Held, ShapesCaption, ShapesDescription, ShapesQuestions
from plait.generate.engine import Settings
from plait.nn.lora import LoRAConfig
from plait.objectives.tokens import NextToken
from plait.recipes.cm3leon import HARD, sources_of
from plait.recipes.foundations import ensure
from plait.systems.foundations import FoundationsConfig
from plait.systems.minigpt4 import TOKENIZER, MiniGPT4
from plait.text.pieces import SentencePiece
from plait.text.templates import ALIGNMENT
from plait.train.adapters import Adapt
from plait.train.stage import EpochSchedule, Optimiser, Probe, Recipe, Schedule, Stage, Update

SEED = 42  # of the released code
LENGTH = 2048  # inputs in a row, where each document has one: as many as LLaMA reads
SHARES = (115.0, 14.0)  # LAION-115M, and CC3M with CC12M and SBU

FROM_FOUNDATIONS = {"vision": "eva", "vision_norm": "vision_norm", "qformer": "bridge", "language": "language"}
TINY_STEPS = {"align": 500, "finetune": 200, "instruct": 1800}
TINY_LORA = LoRAConfig(rank=16, alpha=32.0)
TINY_DESCRIPTIONS = 3500  # as many as the paper has
TINY_QUESTIONS = {"questions": 0.4, "both": 0.5, "describe": 0.1}


# -------------------------------------------------------------------------------------------------- published


def paper(
    base: str,
    data: str | tuple[str, ...] = (),
    curated: str = "",
    crop: bool = True,
    released_schedule: bool = True,
) -> Recipe:
    """Both stages, or the one whose data is given. Sizes and template are the base's: 7B, 13B, LLaMA-2.

    Args:
        base: what it begins with: of `plait import minigpt4 --fresh projection`, or, for the second stage alone, the
            run of the first.
        data: pictures with captions for the first stage, of `plait data import`; two directories are mixed 115 : 14.
        curated: pictures with descriptions for the second stage.
        crop: random crops, as the released weights were trained with; later releases have none.
        released_schedule: the warm-up and the cosine of the released code (`EpochSchedule`), not the usual ones.

    Raises:
        ConfigError: no data for any stage.
    """
    given = sources_of(data)
    crops = (RandomCrop(),) if crop else ()
    stages: list[Stage] = []
    if given:
        captions = {name: Captioned(source=source) for name, source in given.items()}
        shares = dict(zip(given, SHARES, strict=True)) if len(given) == len(SHARES) else {}
        pairs = Data(
            sources=captions, shares=shares, rows=256, length=LENGTH, policy="alone", transforms=crops, seed=SEED
        )
        rate = _rate(released_schedule, epoch=5000, warmup=5000, start=1e-6 / 1e-4, final=8e-5 / 1e-4)
        stages.append(align_stage(pairs, steps=20_000, lr=1e-4, schedule=rate))
    if curated:
        asked = {"curated": Asked(source=training(curated), prompts=ALIGNMENT)}
        described = Data(sources=asked, rows=12, length=LENGTH, policy="alone", transforms=crops, seed=SEED)
        rate = _rate(released_schedule, epoch=200, warmup=200, start=1e-6 / 3e-5, final=1e-5 / 3e-5)
        stages.append(finetune_stage(described, steps=1000, lr=3e-5, schedule=rate))  # 400 in the paper
    if not stages:
        raise ConfigError("minigpt4/paper has no data: give --set data=DIR (first stage) or curated=DIR (second stage)")
    return Recipe(
        name="minigpt4/paper", build=functools.partial(directory.load_as, base, MiniGPT4), stages=tuple(stages)
    )


def v2(
    base: str, data: str | tuple[str, ...], shares: tuple[float, ...] = (), released_schedule: bool = True
) -> Recipe:
    """MiniGPT-v2's last stage: adapters and projection, on instructions.

    Args:
        base: what it begins with, with a trained projection.
        data: directories of conversations about pictures, of `plait data import`; what stands beside other pictures
            is the answer to a request for a description.
        shares: of each directory; none given: in proportion to their lengths.
    """
    given = {name: Asked(source=source, prompts=ALIGNMENT) for name, source in sources_of(data).items()}
    if shares and len(shares) != len(given):
        raise ConfigError(f"{len(shares)} shares for {len(given)} directories of data: give one for each, or none")
    asked = Data(
        sources=given,
        shares=dict(zip(given, shares, strict=True)) if shares else {},
        rows=24,  # 6 on each of 4 GPUs; the released configuration has 1 to 6, and does not say on how many
        length=LENGTH,
        policy="alone",
        seed=SEED,
    )
    rate = _rate(released_schedule, epoch=1000, warmup=1000, start=0.1, final=0.1)
    stage = instruct_stage(asked, LoRAConfig(), steps=50_000, lr=1e-5, schedule=rate)
    return Recipe(name="minigpt4/v2", build=functools.partial(directory.load_as, base, MiniGPT4), stages=(stage,))


# ----------------------------------------------------------------------------------------------------- stages


def align_stage(
    data: Data, *, steps: int, lr: float, schedule: Schedule | EpochSchedule, tasks: tuple[Task, ...] = ()
) -> Stage:
    """The first stage: the projection learns which words go with a picture, from captions without any prompt."""
    return _stage("align", data, ("projection.weight",), lr, steps=steps, schedule=schedule, tasks=tasks)


def finetune_stage(
    data: Data, *, steps: int, lr: float, schedule: Schedule | EpochSchedule, tasks: tuple[Task, ...] = ()
) -> Stage:
    """The second stage: the projection goes on with a few good descriptions, in the form of a conversation."""
    return _stage("finetune", data, ("projection.weight",), lr, steps=steps, schedule=schedule, tasks=tasks)


def instruct_stage(data: Data, lora: LoRAConfig, *, steps: int, lr: float, schedule: Schedule | EpochSchedule) -> Stage:
    """Adapters on the language model, whose weights stay, and the projection learn from instructions."""
    moved = ("projection.weight", "language.*.qkv.down", "language.*.qkv.up")
    return _stage("instruct", data, moved, lr, steps=steps, schedule=schedule, before=(Adapt(lora=lora),))


def _stage(name: str, data: Data, moved: tuple[str, ...], lr: float, **more: Any) -> Stage:
    """In bf16, `moved` and the projection's bias; `more` are further fields of the stage."""
    return Stage(name=name, data=data, updates=(_update(moved, lr),), precision="bf16", seed=data.seed, **more)


def _update(decayed: tuple[str, ...], lr: float) -> Update:
    """AdamW as published: decay on matrices alone, and no limit to the gradient."""
    betas = (0.9, 0.999)
    return Update(
        objective=NextToken(),
        optimisers=(
            Optimiser(train=decayed, lr=lr, betas=betas, weight_decay=0.05),
            Optimiser(train=("projection.bias",), lr=lr, betas=betas),
        ),
        clip=None,
    )


def _rate(released: bool, *, epoch: int, warmup: int, start: float, final: float) -> Schedule | EpochSchedule:
    if released:
        return EpochSchedule(epoch=epoch, warmup=warmup, start=start, final=final)
    return Schedule(warmup=warmup, shape="cosine", final=final)


# ------------------------------------------------------------------------------------------------------- tiny


def tiny(foundations: str = "runs/foundations-tiny", seed: int = 0) -> Recipe:
    """All stages on the shapes world; whether descriptions fail is told before and after the second.

    Args:
        foundations: a run of `foundations/tiny`, which is trained first where there is none.
        seed: another one draws other data and another projection.
    """
    held = Held()
    first, second, third = (SEED + 10 * seed + number for number in range(3))
    crowd = (1, 2, 2, 3)
    web = WebCaptions(shapes=Shapes(seed=first, length=1_000_000, objects=crowd))
    captioned = Shapes(seed=second, length=TINY_DESCRIPTIONS, objects=crowd, mix={"draw": 1.0})
    talks = Shapes(
        seed=third, length=1_000_000, objects=crowd, mix=TINY_QUESTIONS, asks=HARD, questions_each=8, steps=True
    )
    return Recipe(
        name="minigpt4/tiny",
        build=functools.partial(founded, foundations, seed),
        stages=(
            align_stage(
                Data(sources={"web": Captioned(source=web)}, rows=8, length=256, seed=first),
                steps=TINY_STEPS["align"],
                lr=3e-3,
                schedule=Schedule(warmup=30, shape="cosine", final=0.1),
                tasks=(ShapesDescription(held=held),),
            ),
            finetune_stage(
                Data(
                    sources={"shapes": Asked(source=captioned, prompts=language.REQUESTS)},
                    rows=4,
                    length=256,
                    seed=second,
                ),
                steps=TINY_STEPS["finetune"],
                lr=1e-3,
                schedule=Schedule(warmup=20, shape="cosine", final=0.3),
                tasks=(ShapesDescription(held=held), ShapesCaption(held=held), ShapesQuestions(held=held)),
            ),
            instruct_stage(
                Data(sources={"shapes": talks}, rows=16, length=256, seed=third),
                TINY_LORA,
                steps=TINY_STEPS["instruct"],
                lr=2e-3,
                schedule=Schedule(warmup=50, shape="cosine", final=0.05),
            ),
        ),
        probes=tuple(_probes()),
        tasks=(ShapesCaption(held=held), ShapesQuestions(held=held)),
    )


def founded(foundations: str, seed: int) -> MiniGPT4:
    """Parts and pieces of a run of `foundations/tiny`, and a new projection."""
    folder = directory.find(ensure(foundations))
    config = from_plain(FoundationsConfig, directory.read_description(folder)["config"]).blip2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        system = MiniGPT4(config, SentencePiece.read(folder / TOKENIZER, pad=config.pad))
    directory.take(system, folder, FROM_FOUNDATIONS)
    return system


def _probes() -> Iterable[Probe]:
    """Requests for descriptions, and questions, on scenes that training does not show."""
    held = Shapes(seed=SEED, length=4, split="validation", objects=(1, 2, 3))
    for number, example in enumerate(held.examples()):
        picture = Image(example.scene.draw(held.resolution))
        question = example.questions[0]
        request = language.REQUESTS[number % len(language.REQUESTS)]
        for asked, told in ((request, example.caption), (question.text, question.said(steps=True))):
            yield Probe(
                prompt=Document([Turn("user", [picture, asked])]), settings=Settings(max_new_tokens=64), reference=told
            )


RECIPES = {"tiny": tiny, "paper": paper, "v2": v2}
