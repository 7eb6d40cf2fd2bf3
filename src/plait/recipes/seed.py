"""SEED-LLaMA's stages (arXiv 2310.01218): pictures become words of a language model, which then answers with both.

    contrast   the causal Q-Former, by pictures and their captions
    codes      codebook and de-tokenizer; what is before them stays
    pretrain   adapters, tables and norms, on captions, pages, videos and text
    whole      the adapters merged, then all but the input table
    instruct   adapters anew, on instructions

`paper` has them with the published numbers. Those of `whole` are not published, nor how many documents a step of
`instruct` has: both are marked as inferred. In the released code a micro-batch is of one source; here documents are
mixed and share rows, in the same proportions.

`tiny` does all of them on the shapes world, on two CPU cores, with parts that `foundations/tiny` trained and, for what
draws, `foundations/drawers`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import nn

from plait.checkpoints import directory
from plait.checkpoints.teacher import clip_image
from plait.data.crops import RandomCrop
from plait.data.packs import Data, Source
from plait.data.prompted import BothOrders, Pages, Requested, Shown
from plait.data.shapes import Shapes, language
from plait.data.shapes.kinds import cases
from plait.data.shards import training
from plait.document import Blank, Document, Image, Turn
from plait.errors import ConfigError, hint
from plait.evaluate import Task
from plait.evaluate.cases import ShapesCases
from plait.evaluate.retrieval import ShapesRetrieval
from plait.evaluate.shapes import Held, ShapesCaption, ShapesDraw, ShapesDrawings, ShapesQuestions
from plait.generate.engine import Settings
from plait.nn.lora import LAYERS, LoRAConfig
from plait.nn.quantise import CodebookUpkeep, alike
from plait.objectives.seed_tokenizer import CausalContrast, CodesAndEmbedding
from plait.objectives.tokens import NextToken
from plait.recipes.cm3leon import DRAWING, HARD
from plait.recipes.foundations import ensure_drawers, matrices, of_qformer
from plait.systems.foundations import Foundations
from plait.systems.seed import TINY, TOKENIZER, Seed, SeedConfig, grown, vocabulary, with_codes
from plait.train.adapters import Adapt, merge
from plait.train.stage import EpochSchedule, Objective, Optimiser, Probe, Recipe, Schedule, Stage, Update

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


# ------------------------------------------------------------------------------------------------------- tiny


FROM_FOUNDATIONS = {"vision": "eva", "vision_norm": "vision_norm", "decoder": "unclip"}
TINY_STEPS = {"contrast": 200, "codes": 2400, "pretrain": 300, "whole": 2600, "instruct": 1700}
TINY_LORA = replace(LORA, dropout=0.0)
_OF_QFORMER = of_qformer("tokenizer.qformer")
PAIRED = {"captions": 0.55, "styles": 0.45}
"""What pictures are compared with texts by; they also make the codebook, which must keep what is drawn later."""
WOVEN = {"captions": 0.4, "styles": 0.18, "stories": 0.1, "questions": 0.32}
"""What pretraining is on: captions in both orders, of plain pictures and of styles; pages; questions on pictures."""
TUNED = {
    "captions": 0.1,
    "questions": 0.2,
    "draw": 0.19,
    "edits": 0.18,
    "edit": 0.02,
    "story": 0.05,
    "compositions": 0.15,
    "dialogues": 0.06,
    "sketches": 0.05,
}
"""What instructions are on. `draw`, `edit` and `story` say a sentence before a picture (`plait.text.requests`)."""
CROWD = (1, 2, 2, 3)
TINY_ROWS: Mapping[str, Any] = {"rows": 8, "length": 480}


def tiny(
    drawers: str = "runs/foundations-drawers",
    foundations: str = "runs/foundations-tiny",
    seed: int = 0,
    causal: bool = True,
) -> Recipe:
    """All stages on the shapes world.

    Args:
        drawers: a run of `foundations/drawers`, which is trained first where there is none.
        foundations: the run of `foundations/tiny` that it begins with then, which is trained before it likewise.
        seed: another one draws other data, and other first values of what is new.
        causal: a query of the Q-Former sees those before it; else all, as BLIP-2's.
    """
    held = Held()
    each = [SEED + 10 * seed + number for number in range(5)]
    contrast, codes, pretrain, whole, instruct = each
    return Recipe(
        name="seed/tiny",
        build=functools.partial(founded, drawers, foundations, seed, causal),
        stages=(
            tiny_contrast(contrast, TINY_STEPS["contrast"]),
            tiny_codes(codes, TINY_STEPS["codes"], drawers, tasks=(ShapesDrawings(held=held),)),
            tiny_pretrain(pretrain, TINY_STEPS["pretrain"]),
            tiny_whole(whole, TINY_STEPS["whole"]),
            tiny_instruct(instruct, TINY_STEPS["instruct"]),
        ),
        probes=tuple(_probes()),
        tasks=(
            ShapesCaption(held=held),
            ShapesQuestions(held=held),
            ShapesDraw(held=held, guidance=1.0, sampling=DRAWING, asked=True),
            *(ShapesCases(name=name, sampling=DRAWING, steps=True) for name in ("edit", "composition")),
            *(ShapesCases(name=name) for name in ("dialogue", "sketches")),
        ),
    )


def founded(drawers: str, foundations: str, seed: int, causal: bool) -> Seed:
    """A run of `foundations/drawers` as a SEED-LLaMA: its parts and pieces, and what is new.

    The Q-Former begins as BLIP-2's after its first stage; where it has fewer queries, they come several times, each
    a little changed. The tables of the language model get rows for codes.
    """
    folder = directory.find(ensure_drawers(drawers, foundations))
    given = directory.load_as(folder, Foundations)
    sizes, size = given.config, TINY.tokenizer
    assert sizes.drawers is not None, "the run has been trained to draw"
    qformer = replace(sizes.qformer, queries=size.qformer.queries, causal=causal)
    tokenizer = replace(
        size,
        vision=sizes.blip2.vision,
        qformer=qformer,
        shared=sizes.shared,
        embedding=sizes.drawers.unclip.embedding,
        decoder=sizes.drawers.unclip,
    )
    config = SeedConfig(tokenizer=tokenizer, language=with_codes(sizes.blip2.language, size.codes))
    pieces = vocabulary((folder / TOKENIZER).read_bytes(), size.codes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        system = Seed(config, pieces)
        directory.take(system.tokenizer, folder, FROM_FOUNDATIONS)
        learned = given.qformer.state_dict()
        times = -(-qformer.queries // learned["queries"].shape[1])
        queries = learned["queries"].repeat(1, times, 1)[:, : qformer.queries]
        learned["queries"] = queries + 0.02 * torch.randn(queries.shape)
        system.tokenizer.qformer.load_state_dict(learned)
    heads = system.tokenizer.heads_of_qformer
    assert heads is not None, "BLIP-2's first stage has a text branch"
    heads.load_state_dict({name: given.heads_of_qformer.state_dict()[name] for name in heads.state_dict()})
    language = given.blip2.language.state_dict()
    for table in ("embed.weight", "head.weight"):
        language[table] = grown(language[table], config.language.vocabulary, seed)
    system.language.load_state_dict(language)
    return system


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What codes are to give: the image embeddings from which unCLIP of a run of `foundations/drawers` draws."""

    drawers: str

    def __call__(self, system: Seed) -> nn.Module:
        """The tower that makes them, which is not trained."""
        return directory.load_as(directory.find(self.drawers), Foundations).embedder.requires_grad_(False).eval()


def tiny_contrast(seed: int, steps: int) -> Stage:
    """The causal Q-Former, on pairs of plain pictures and of styles, scored among 500."""
    return _tiny(
        "contrast",
        {name: Shown(source=source) for name, source in _paired(seed).items()},
        CausalContrast(),
        matrices(*_OF_QFORMER),
        Optimiser(train=(*(f"{part}*" for part in _COMPARED), "tokenizer.vision_norm.*"), lr=2e-3),
        shares=PAIRED,
        data={"rows": 128, "length": 127, "policy": "alone", "window": 2048},
        steps=steps,
        seed=seed,
        tasks=(ShapesRetrieval(),),
    )


def tiny_codes(seed: int, steps: int, drawers: str, tasks: tuple[Task, ...] = ()) -> Stage:
    """Codebook, both branches and head; with upkeep, as so short a training would leave codes unused.

    Not as published, the Q-Former learns on: what captions make it keep may be less than what is to be drawn. And the
    embedding weighs ten times as much: it is what is learned last.
    """
    branches = product(("reconstruct", "generate"), ("attention", "mlp"))
    return _tiny(
        "codes",
        _paired(seed),
        CodesAndEmbedding(embedding=5.0),
        matrices(*_OF_QFORMER, *(f"tokenizer.{way}.blocks.*.{part}.*.weight" for way, part in branches)),
        Optimiser(train=("tokenizer.qformer.*", *(f"{part}*" for part in _CODED)), lr=2e-3, betas=(0.9, 0.99)),
        shares=PAIRED,
        data={"rows": 128, "length": TINY.tokenizer.codes_per_image - 1, "reads": "pictures", "window": 2048},
        companions={"teacher": Drawn(drawers=drawers), "upkeep": upkeep},
        before=(forget_texts,),
        steps=steps,
        seed=seed,
        tasks=tasks,
    )


def tiny_pretrain(seed: int, steps: int) -> Stage:
    """Adapters, tables and norms."""
    return _tiny(
        "pretrain",
        _woven(seed),
        NextToken(kinds=("token", "code")),
        Optimiser(train=ADAPTED, lr=3e-3),
        shares=WOVEN,
        before=(start_codes, Adapt(lora=TINY_LORA)),
        steps=steps,
        seed=seed,
    )


def tiny_whole(seed: int, steps: int) -> Stage:
    """The adapters merged, then all but the input table."""
    return _tiny(
        "whole",
        _woven(seed),
        NextToken(kinds=("token", "code")),
        matrices("language.decoder.*.attention.*.weight", "language.decoder.*.mlp.*.weight"),
        Optimiser(train=WHOLE, lr=2e-3),
        shares=WOVEN,
        before=(merge,),
        steps=steps,
        seed=seed,
    )


def tiny_instruct(seed: int, steps: int) -> Stage:
    """Adapters anew, tables and norms, on answers."""
    return _tiny(
        "instruct",
        _tuned(seed),
        NextToken(kinds=("token", "code")),
        Optimiser(train=ADAPTED, lr=2e-3),
        shares=TUNED,
        before=(merge, Adapt(lora=TINY_LORA)),
        steps=steps,
        seed=seed,
    )


def _tiny(
    name: str,
    sources: dict[str, Source],
    objective: Objective,
    *optimisers: Optimiser,
    shares: Mapping[str, float],
    seed: int,
    data: Mapping[str, Any] | None = None,
    **more: Any,
) -> Stage:
    """A stage of one update in bf16; `data` are further fields of its data, `more` of the stage."""
    return Stage(
        name=name,
        data=Data(sources=sources, shares=shares, seed=seed, **(TINY_ROWS if data is None else data)),
        updates=(Update(objective=objective, optimisers=optimisers),),
        schedule=Schedule(warmup=20),
        precision="bf16",
        seed=seed,
        **more,
    )


def _paired(seed: int) -> dict[str, Source]:
    return {"captions": _shapes(seed, caption=1.0), "styles": _case("style-drawings", seed)}


def _woven(seed: int) -> dict[str, Source]:
    return {
        "captions": BothOrders(source=_shapes(seed, caption=1.0)),
        "styles": BothOrders(source=_case("style-drawings", seed)),
        "stories": Pages(source=_case("stories", seed)),
        "questions": _shapes(seed + 1, questions=0.4, both=0.6),
    }


def _tuned(seed: int) -> dict[str, Source]:
    kinds = ("edits", "compositions", "dialogues", "sketches")
    return {
        "captions": _shapes(seed, describe=1.0),
        "questions": _shapes(seed + 1, questions=0.6, both=0.4),
        "draw": Requested(source=_shapes(seed + 2, draw=1.0), task="draw"),
        "edit": Requested(source=_case("edits", seed + 1), task="edit"),
        "story": Requested(source=_case("stories", seed + 1, forms=("draw",)), task="story"),
        **{kind: _case(kind, seed, steps=True) for kind in kinds},
    }


def _shapes(seed: int, **mix: float) -> Source:
    return Shapes(seed=seed, length=1_000_000, objects=CROWD, mix=mix, asks=HARD, questions_each=6, steps=True)


def _case(kind: str, seed: int, **more: Any) -> Source:
    return cases(kind, seed=seed, length=1_000_000, resolution=TINY.tokenizer.vision.image_size, **more)


def upkeep(system: Seed) -> CodebookUpkeep:
    """Draws the codebook anew while what is before it moves fastest, and keeps it in use after that."""
    size = system.config.tokenizer
    return CodebookUpkeep(size.codes, size.code_width, settle=100)


@torch.no_grad()
def start_codes(system: Seed) -> None:
    """Makes codes that stand for nearly the same nearly the same words, as long as other words. Not as published."""
    table, vectors = system.language.embed.weight, system.tokenizer.quantiser.codebook.weight
    first, generator = system.format.first_code, torch.Generator().manual_seed(SEED)
    features = table[:first].std() * alike(vectors, table.shape[1], generator)
    table[first : first + len(vectors)] = features.to(table.dtype)


def _probes() -> Iterator[Probe]:
    """Descriptions, questions and drawings of scenes that training does not show; and a conversation that draws."""
    held = Shapes(seed=SEED, length=3, split="validation", objects=(1, 2, 3))
    said, drawn = Settings(max_new_tokens=64), Settings(max_new_tokens=32, image=DRAWING)
    for example in held.examples():
        picture, question = Image(example.scene.draw(held.resolution)), example.questions[0]
        for asked, told in ((language.REQUESTS[0], example.caption), (question.text, question.said(steps=True))):
            yield Probe(prompt=Document([Turn("user", [picture, asked])]), settings=said, reference=told)
        yield Probe(prompt=Document([example.caption, Blank("image")]), settings=drawn)
    yield Probe(
        prompt=Document([Turn("user", "draw this: a large red circle at the top left.")]),
        then=(("make the circle blue.",), ("what colour is the circle?",)),
        settings=drawn,
    )


RECIPES = {"tiny": tiny, "paper": paper}
