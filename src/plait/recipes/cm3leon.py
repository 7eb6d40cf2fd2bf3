"""CM3Leon's stages (arXiv 2309.02591): the image tokenizer, CM3 pretraining, fine-tuning on tasks.

`tiny` does all from scratch on two CPU cores: by default on the shapes world, or on imported data (`--set data=DIR`).
`paper` has the second and the third with the published numbers; what the paper does not say is marked as inferred.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plait.checkpoints import directory
from plait.data.packs import Data, Source
from plait.data.prompted import Templated
from plait.data.shapes import Shapes, language
from plait.data.shapes.kinds import CASES, cases
from plait.data.shapes.questions import KINDS
from plait.data.shards import training
from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, hint
from plait.evaluate import Task
from plait.evaluate.cases import ShapesCases
from plait.evaluate.shapes import Held, ShapesCaption, ShapesDraw, ShapesQuestions
from plait.generate.engine import Settings
from plait.generate.sampling import Sampling
from plait.nn.quantise import CodebookUpkeep
from plait.objectives.cm3 import CM3Mask
from plait.objectives.reconstruction import Reconstruct
from plait.objectives.tokens import NextToken
from plait.systems.cm3leon import SIZES, TINY, CM3Leon, CM3LeonConfig
from plait.text.bpe import BPE
from plait.text.tasks import TASKS
from plait.train.stage import Optimiser, Probe, Recipe, Schedule, Stage, Update

SEED = 20230905
TOKENIZER_TEXTS = 3000  # documents that the BPE is learned from
DRAWING = Sampling(temperature=0.3, top_p=0.9)
MIX = {"draw": 0.59, "describe": 0.11, "questions": 0.3}
"""Kinds of document. The steps before an answer name what there is, so that few have to be descriptions."""
QUESTIONS = 4  # on each picture that is asked about
TOLD = 2.5
"""Weight of words as targets in pretraining; codes have 1. Much of what these tell is shade and noise that none can
know."""
BEST_OF = 4  # drawings of a caption, ranked by the model itself
HARD = {kind: share if kind in ("colour", "shape", "place") else 2 * share for kind, share in KINDS.items()}
"""What is asked in training: captions teach colours, shapes and places already."""
GUIDANCE = 2.0
PICTURED = {"shapes": 0.7, "maps": 0.1, "edges": 0.1, "writings": 0.1}
"""What the image tokenizer sees: it must keep what fine-tuning draws."""
TUNED = {
    "edits": 0.2,
    "maps": 0.13,
    "edges": 0.06,
    "placements": 0.09,
    "writings": 0.18,
    "dialogues": 0.04,
    "steps": 0.04,
    "shapes": 0.26,
}
"""Kinds of cases that fine-tuning is about, and how much of pretraining goes on."""
DRAWN = ("edit", "segmentation", "edges", "boxes", "writing")
"""What is scored by pictures, each of which is told before it is drawn."""
SCORED = (*DRAWN, "dialogue", "steps")
STEPS = {"tokenizer": 1000, "pretrain": 1600, "finetune": 3400}


def tiny(data: str | None = None, instructions: Mapping[str, str] | None = None) -> Recipe:
    """The embedded default, or the same on an imported directory with a split "train", or without splits.

    Args:
        data: of `plait data import`; none: the shapes world.
        instructions: with data: task of `plait.text.tasks.TASKS` -> a directory of its records, for fine-tuning.

    Raises:
        ConfigError: instructions without data, or for a task that there is not.
    """
    if data is None and instructions:
        raise ConfigError(f"instructions for {len(instructions)} tasks but no data: give --set data=DIR too")
    return _shapes() if data is None else _imported(data, instructions or {})


def _shapes() -> Recipe:
    config = TINY
    pictures = Shapes(
        seed=SEED, length=1_000_000, objects=(4, 5, 6, 7, 8, 9), mix={"draw": 1.0}
    )  # crowded: more to learn
    documents = Shapes(
        seed=SEED + 1,
        length=1_000_000,
        objects=(1, 2, 2, 2, 2, 3),
        mix=MIX,
        questions_each=QUESTIONS,
        asks=HARD,
        steps=True,
    )
    seen, tuned = _cases(SEED, PICTURED), _cases(SEED + 4, TUNED)
    held = Held(seed=SEED + 2)
    tasks: tuple[Task, ...] = (
        ShapesCaption(held=held),
        ShapesQuestions(held=held),
        ShapesDraw(held=held, guidance=GUIDANCE, sampling=DRAWING, best_of=BEST_OF),
    )
    return Recipe(
        name="cm3leon/tiny",
        build=functools.partial(build, config, documents),
        stages=(
            tokenizer_stage(config, {"shapes": pictures, **seen}, STEPS["tokenizer"], shares=PICTURED),
            pretrain_stage(config, {"shapes": documents}, STEPS["pretrain"], tasks=tasks),
            finetune_stage(config, {"shapes": documents, **tuned}, STEPS["finetune"], shares=TUNED),
        ),
        probes=_shapes_probes(),
        tasks=(*tasks, *(ShapesCases(name=name, sampling=DRAWING, steps=name in DRAWN) for name in SCORED)),
    )


def _cases(seed: int, kinds: Iterable[str]) -> dict[str, Source]:
    fields = {"seed": seed, "length": 1_000_000, "resolution": TINY.image.resolution}
    return {kind: cases(kind, steps=True, **fields) for kind in kinds if kind in CASES}


def _imported(data: str, instructions: Mapping[str, str]) -> Recipe:
    source = training(data)
    config = replace(TINY, image=replace(TINY.image, codes=512))
    stages = [
        tokenizer_stage(config, {"data": source}, steps=2000),
        pretrain_stage(config, {"data": source}, steps=2500),
    ]
    tuned = _instructed(instructions, apart=True)
    if tuned:
        stages.append(finetune_stage(config, {"data": source, **tuned}, STEPS["finetune"]))
    return Recipe(
        name="cm3leon/tiny",
        build=functools.partial(build, config, source),
        stages=tuple(stages),
        probes=_probes_of(source),
    )


def tokenizer_stage(
    config: CM3LeonConfig, sources: dict[str, Source], steps: int, shares: Mapping[str, float] | None = None
) -> Stage:
    """The VQGAN on squared error, its codebook kept in use.

    The published losses (absolute error, perceptual, adversarial) ask for a pretrained network and far more steps; at
    this size squared error learns codes that keep colours and outlines within a minute.
    """
    image = config.image
    return Stage(
        name="tokenizer",
        data=Data(
            sources=sources,
            shares=shares or {},
            rows=32,
            length=image.codes_per_image - 1,
            reads="pictures",
            seed=SEED,
        ),
        updates=(
            Update(
                objective=Reconstruct(pixel="squared", codebook=1.0, commitment=1.0),
                optimisers=(Optimiser(train=("image_tokenizer.*",), lr=3e-3, betas=(0.9, 0.99)),),
            ),
        ),
        companions={"upkeep": upkeep},
        steps=steps,
        schedule=Schedule(warmup=30, shape="cosine", final=0.03),
        precision="bf16",
    )


def pretrain_stage(
    config: CM3LeonConfig, sources: dict[str, Source], steps: int, tasks: tuple[Task, ...] = ()
) -> Stage:
    """CM3 on whole documents in packs; the tokenizer stays as it is."""
    data = Data(sources=sources, rows=8, length=config.positions, transforms=(_tiny_mask(config),), seed=SEED + 1)
    return _tiny_stage(config, "pretrain", data, steps, told=TOLD, before=(start_codes,), tasks=tasks)


def finetune_stage(
    config: CM3LeonConfig, sources: dict[str, Source], steps: int, shares: Mapping[str, float] | None = None
) -> Stage:
    """The same objective on tasks: as in the paper nothing that pretraining moves is frozen."""
    data = Data(
        sources=sources,
        shares=shares or {},
        rows=8,
        length=config.positions,
        transforms=(_tiny_mask(config),),
        seed=SEED + 5,
    )
    return _tiny_stage(config, "finetune", data, steps, told=1.0)


def _tiny_stage(config: CM3LeonConfig, name: str, data: Data, steps: int, told: float, **more: Any) -> Stage:
    """Words as targets have the weight `told`, codes 1; `more` are further fields of the stage."""
    tables = ("embed.*", "positions.*", "places.*") if config.raster else ("embed.*", "positions.*")
    return Stage(
        name=name,
        data=data,
        updates=(
            Update(
                objective=NextToken(kinds=("token", "code"), scale={"token": told}),
                optimisers=(
                    Optimiser(train=("decoder.*",), kind="muon", lr=0.01, betas=(0.95, 0.0), weight_decay=0.01),
                    Optimiser(train=tables, lr=3e-3),
                ),
            ),
        ),
        steps=steps,
        schedule=Schedule(warmup=30),
        precision="bf16",
        **more,
    )


def _tiny_mask(config: CM3LeonConfig) -> CM3Mask:
    return _mask(config, expectation=0.1, whole=0.1)


def _mask(config: CM3LeonConfig, expectation: float, whole: float) -> CM3Mask:
    vocabulary = config.vocabulary
    first = vocabulary.first_sentinel
    return CM3Mask(
        sentinels=tuple(range(first, first + config.sentinels)),
        end=vocabulary.eoss,
        boundaries=(vocabulary.brk, vocabulary.eos),
        expectation=expectation,
        whole=whole,
    )


def build(config: CM3LeonConfig, source: Source) -> CM3Leon:
    """Random weights, and a BPE of the source's first texts. The caller seeds torch."""
    return CM3Leon(config, BPE.train(texts(source, TOKENIZER_TEXTS), config.text_tokens))


def upkeep(system: Any) -> CodebookUpkeep:
    """Draws the codebook anew from the encoder's vectors while these move fastest, and keeps it in use after that."""
    return CodebookUpkeep(system.config.image.codes, system.config.image.code_width, settle=60)


def start_codes(system: Any) -> None:
    """Gives codes that look alike embeddings that are alike: random Fourier features of their vectors."""
    system.embed_codes(torch.Generator().manual_seed(SEED))


def texts(source: Source, count: int) -> Iterator[str]:
    """The text pieces of a source's first documents."""
    for i in range(min(count, len(source))):
        yield from (piece.text for piece in source[i] if isinstance(piece, Text))


def _shapes_probes() -> tuple[Probe, ...]:
    held = Shapes(seed=SEED + 3, length=4, split="validation", objects=(1, 2, 3))
    probes = []
    for example in held.examples():
        picture = Image(example.scene.draw(held.resolution))
        question = example.questions[0]
        probes += [
            Probe(
                prompt=Document([Text(example.caption), Blank("image")]),
                settings=Settings(guidance=GUIDANCE, image=DRAWING),
            ),
            Probe(
                prompt=Document([Turn("user", [picture, language.REQUESTS[0]])]),
                settings=Settings(max_new_tokens=64),
                reference=example.caption,
            ),
            Probe(
                prompt=Document([Turn("user", [picture, question.text])]),
                settings=Settings(max_new_tokens=64),
                reference=question.said(steps=True),
            ),
        ]
    return tuple(probes)


def _probes_of(source: Source) -> tuple[Probe, ...]:
    captions = list(dict.fromkeys(_captions(source)))[:10]
    drawn = Settings(guidance=GUIDANCE, image=DRAWING)
    return tuple(Probe(prompt=Document([Text(text), Blank("image")]), settings=drawn) for text in captions)


def _captions(source: Source) -> Iterable[str]:
    step = max(1, len(source) // 200)
    return (source[i].text for i in range(0, len(source), step))


# -------------------------------------------------------------------------------------------------- published


@dataclass(frozen=True, kw_only=True)
class Published:
    """How a size was pretrained (table 2); the number of steps is inferred from the tokens that were seen."""

    lr: float
    steps: int


PUBLISHED = {
    "350m": Published(lr=6e-4, steps=167_000),  # 1.4T tokens
    "760m": Published(lr=5e-4, steps=227_000),  # 1.9T; resumed after an epoch at a higher rate, which is not told
    "7b": Published(lr=1.2e-4, steps=286_000),  # 2.4T; likewise
}
ROWS, TUNED_ROWS = 2048, 512  # of 4,096 tokens: 8M and 2M
REPEATS = (0.3, 3.0)


def paper(
    base: str, size: str = "7b", data: str | tuple[str, ...] = (), instructions: Mapping[str, str] | None = None
) -> Recipe:
    """Pretraining, fine-tuning, or both: the stages whose data is given.

    Inferred, as the paper does not say: the numbers of steps; Adam's betas, the decay and the clipping, which are those
    of OPT in metaseq, as is the linear fall to a tenth of the rate; one span on the average, as in metaseq; no weight
    on sentinels, as in the paper of CM3. `rows` are those of all ranks together: divide them with `accumulate`.

    Args:
        base: a CM3Leon's directory. For pretraining its image tokenizer and its text vocabulary are taken, and the
            decoder is new; for fine-tuning alone it is what is trained.
        size: 350m, 760m or 7b; of the new decoder.
        data: pictures with captions, of `plait data import`.
        instructions: task of `plait.text.tasks.TASKS` -> a directory of its records.

    Raises:
        ConfigError: no such size or task, or no data for any stage.
    """
    if size not in PUBLISHED:
        raise ConfigError(f"no size {size!r} was published; {hint(size, PUBLISHED)}")
    config, numbers, stages = SIZES[size], PUBLISHED[size], []
    pairs = sources_of(data)
    if pairs:
        stages.append(_paper_stage(config, "pretrain", pairs, {}, ROWS, numbers.lr, 1500, numbers.steps))
    tuned = _instructed(instructions or {}, apart=False)
    if tuned:
        shares = balanced({name: len(source) for name, source in tuned.items()})
        stages.append(_paper_stage(config, "finetune", tuned, shares, TUNED_ROWS, 5e-5, 150, 15_000))
    if not stages:
        raise ConfigError("cm3leon/paper has no data: give --set data=DIR (pretraining) or instructions={TASK: DIR}")
    start = functools.partial(fresh, base, size) if pairs else functools.partial(directory.load_as, base, CM3Leon)
    return Recipe(name="cm3leon/paper", build=start, stages=tuple(stages))


def _paper_stage(
    config: CM3LeonConfig,
    name: str,
    sources: dict[str, Source],
    shares: Mapping[str, float],
    rows: int,
    lr: float,
    warmup: int,
    steps: int,
) -> Stage:
    """Documents one after the other, cut into blocks (metaseq's break mode "none"), and then masked."""
    mask = _mask(config, expectation=1.0, whole=0.0)
    return Stage(
        name=name,
        data=Data(
            sources=sources,
            shares=shares,
            rows=rows,
            length=config.positions,
            policy="stream",
            transforms=(mask,),
            seed=SEED,
        ),
        updates=(
            Update(
                objective=NextToken(kinds=("token", "code")),
                optimisers=(
                    Optimiser(
                        train=("decoder.*", "embed.*", "positions.*"), lr=lr, betas=(0.9, 0.95), weight_decay=0.1
                    ),
                ),
            ),
        ),
        steps=steps,
        schedule=Schedule(warmup=warmup, final=0.1),
        precision="bf16",
    )


def balanced(lengths: Mapping[str, int]) -> dict[str, float]:
    """Shares of data sets: the same for all, but none comes more than 3 or less than 0.3 times as often as it is long.

    That is how "up/down sampling with a threshold of 3/0.3" is understood here; the paper says no more.
    """
    mean = sum(lengths.values()) / len(lengths)
    least, most = REPEATS
    return {name: length * min(max(mean / length, least), most) for name, length in lengths.items()}


def fresh(base: str, size: str) -> CM3Leon:
    """A new decoder of a size behind the image tokenizer and with the text vocabulary of `base`.

    Raises:
        CheckpointError: as `plait.checkpoints.directory.load_as`.
    """
    given = directory.load_as(base, CM3Leon)
    system = CM3Leon(replace(SIZES[size], image=given.config.image), given.format.text)
    system.image_tokenizer.load_state_dict(given.image_tokenizer.state_dict())
    system.licences = {**system.licences, "image_tokenizer": given.parts["image_tokenizer"].licence}
    return system


def _instructed(instructions: Mapping[str, str], apart: bool) -> dict[str, Source]:
    """The records of tasks, written by the tasks' templates."""
    for task in instructions:
        if task not in TASKS:
            raise ConfigError(f"no task {task!r}; {hint(task, TASKS)}")
    return {
        task: Templated(source=training(folder), templates=TASKS[task], apart=apart)
        for task, folder in instructions.items()
    }


def sources_of(data: str | tuple[str, ...]) -> dict[str, Source]:
    """The training parts of directories, by the names of these.

    Raises:
        ConfigError: two directories of one name.
    """
    folders = [data] if isinstance(data, str) else data
    sources: dict[str, Source] = {Path(folder).name: training(folder) for folder in folders}
    if len(sources) < len(folders):
        raise ConfigError(f"{len(folders)} directories of data with {len(sources)} names: rename those of one name")
    return sources


RECIPES = {"tiny": tiny, "paper": paper}
