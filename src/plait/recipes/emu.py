"""Emu's stages (arXiv 2307.05222): everything learns from pictures among words, then the U-Net, then adapters.

    pretrain         all parts but the decoder: the next word, and the next vector
    visual_decoder   the U-Net alone, which looks at what the model itself writes of a caption
    instruct         adapters on the language model, on answers alone (Emu-I)

`paper` has them with the published numbers; what the paper does not say is marked as inferred. `tiny` does all three
on the shapes world, on two CPU cores, with parts that `foundations/drawers` has; before them it gives what is between
those parts a meaning, mostly on captions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from plait.checkpoints import directory
from plait.checkpoints.diffusion import stable_diffusion
from plait.data.packs import Alternating, Data, Source
from plait.data.prompted import Pages, Spoken
from plait.data.shapes import Shapes
from plait.data.shapes.contexts import Contexts
from plait.data.shapes.episodes import Episodes
from plait.data.shapes.looked import Looked
from plait.data.shapes.stories import Stories
from plait.data.shapes.styles import StyleDrawings, StyleNames
from plait.data.shapes.told import Told
from plait.data.shapes.videos import Videos
from plait.data.shards import training
from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, hint
from plait.evaluate import Task
from plait.evaluate.cases import ShapesCases
from plait.evaluate.examples import ShapesExamples
from plait.evaluate.shapes import Held, ShapesCaption, ShapesDraw, ShapesQuestions
from plait.generate.engine import Settings
from plait.nn.diffusion import VectorDiffusion
from plait.nn.llama import LLaMA
from plait.nn.lora import LoRAConfig
from plait.nn.vit import ViT, VITConfig
from plait.objectives.denoising import Denoise, ToDraw
from plait.objectives.tokens import NextToken
from plait.objectives.vectors import NextTokenAndVector
from plait.recipes.cm3leon import HARD, sources_of
from plait.recipes.foundations import ensure_drawers, matrices, of_tower
from plait.systems.emu import CANVAS, EMU_I, TINY, WORDS, Emu, vocabulary
from plait.systems.foundations import Foundations
from plait.train.adapters import Adapt
from plait.train.stage import Optimiser, Probe, Recipe, Schedule, Stage, StepSchedule, Update

SEED = 20230711
UNET = "decoder.diffusion.unet.*"
ADAPTERS = ("language.*.down", "language.*.up")
_NEW = (".attn2.to_k.weight", ".attn2.to_v.weight", ".canvas.look.kv.weight")
"""Of the U-Net, what looks at vectors: of another width than Stable Diffusion's texts, and new."""
LENGTH = 1024  # inputs of the longest document
CARDS = 24  # of the 128, on which a set is in one step; so five sets make the 82M samples of 10,000 steps
LOOKED = 5  # pictures of a page

TINY_STEPS = {"tower": 560, "pretrain": 2400, "visual_decoder": 2200, "instruct": 1400}
TINY_LORA = LoRAConfig(rank=16, alpha=16.0, dropout=0.0, layers=EMU_I.layers)
TINY_PAGES = {
    "pairs": 0.48,
    "styled": 0.08,
    "styles": 0.02,
    "looked": 0.15,
    "stories": 0.05,
    "contexts": 0.12,
    "episodes": 0.05,
    "videos": 0.05,
}
"""Documents of pretraining beside captions; the first four stand in for image-text pairs. Most are to be drawn: what a
caption tells of a picture takes the longest to learn. Styles are told in words too, as captions say nothing of them."""
ALONE = ("pairs", "styled", "styles", "looked")
TINY_ASKED = {"questions": 0.45, "both": 0.3, "describe": 0.25}
CROWD = (1, 1, 2, 2, 3)  # objects of a picture
DRAWING = 2.0  # guidance
SEEING = 0.1  # rate of what reads pictures, once it can: vectors that are to be predicted must not move away
TINY_MESSAGE = "look at the picture."
NEW = ("cformer.*", "projection.*", "regression.*")
"""Parts that nothing was trained of before."""


# -------------------------------------------------------------------------------------------------- published


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A set of pretraining (section 3.1): documents of a micro-batch on one card, and their elements at most."""

    rows: int
    length: int
    written: Callable[[Source], Source] | None = None
    """What is made of its documents; None: they are laid out as they are."""


def _page(source: Source) -> Source:
    return Pages(source=source, images=LOOKED)


PRETRAINING = {
    "laion": Pretraining(rows=128, length=LENGTH),  # LAION-2B
    "laion-coco": Pretraining(rows=128, length=LENGTH),
    "mmc4": Pretraining(rows=64, length=LENGTH, written=_page),
    "webvid": Pretraining(rows=16, length=LENGTH),
    "storyboard": Pretraining(rows=16, length=LENGTH, written=_page),  # YT-Storyboard-1B; its windows are inferred
}
"""Sets by name: pictures with captions, pages, videos with captions, storyboards with subtitles."""


def paper(
    base: str,
    data: Mapping[str, str] | None = None,
    captions: str | tuple[str, ...] = (),
    decoder: str = "",
    instructions: str | tuple[str, ...] = (),
    mixed: bool = False,
) -> Recipe:
    """The stages whose data is given.

    `rows` are those of all ranks together: divide them with `accumulate`.

    Args:
        base: what it begins with: an Emu, of `plait import emu` or a run.
        data: name in `PRETRAINING` -> directory of `plait data import`.
        captions: pictures with captions for the decoder; two directories are mixed 7 : 2 (LAION-COCO,
            LAION-Aesthetics).
        decoder: the folder of a Stable Diffusion 1.5, which the decoder begins as; none: it goes on as it is.
        instructions: directories of conversations.
        mixed: documents of all sets share micro-batches; by default each is of one set.

    Raises:
        ConfigError: no such set, or no data for any stage.
    """
    stages: list[Stage] = []
    if data:
        stages.append(pretrain_stage(_mixed(data) if mixed else _apart(data), steps=10_000))
    if captions:
        stages.append(_paper_decoder(captions, decoder))
    if instructions:
        stages.append(_paper_instruct(instructions))
    if not stages:
        raise ConfigError(
            "emu/paper has no data: give --set data={NAME: DIR} (pretraining), captions=DIR (decoder) or "
            "instructions=DIR (adapters)"
        )
    return Recipe(name="emu/paper", build=functools.partial(directory.load_as, base, Emu), stages=tuple(stages))


def _sources(given: Mapping[str, str]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for name, folder in given.items():
        if name not in PRETRAINING:
            raise ConfigError(f"no set {name!r}; {hint(name, PRETRAINING)}")
        source, written = training(folder), PRETRAINING[name].written
        sources[name] = written(source) if written else source
    return sources


def _apart(given: Mapping[str, str]) -> Alternating:
    """Micro-batches of one set each, in turn."""
    return Alternating(
        sets={
            name: Data(
                sources={name: source},
                rows=PRETRAINING[name].rows * CARDS,
                length=PRETRAINING[name].length,
                policy="alone",
                seed=SEED,
            )
            for name, source in _sources(given).items()
        }
    )


def _mixed(given: Mapping[str, str]) -> Data:
    """Documents of all sets in packs, in the proportions of their micro-batches."""
    shares = {name: float(PRETRAINING[name].rows) for name in given}
    return Data(sources=_sources(given), shares=shares, rows=64 * CARDS, length=LENGTH, seed=SEED)


def _paper_decoder(captions: str | tuple[str, ...], decoder: str) -> Stage:
    given = sources_of(captions)
    data = Data(
        sources=given,
        shares=dict(zip(given, (7.0, 2.0), strict=True)) if len(given) == 2 else {},  # as published
        rows=50 * 4 * 8,
        length=LENGTH,
        policy="alone",
        transforms=(ToDraw(canvas=CANVAS, drop=0.1, longest=150),),  # of what the 150 are is not told: elements
        seed=SEED,
    )
    update = Update(
        objective=Denoise(canvas=CANVAS),
        optimisers=(Optimiser(train=(UNET,), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2),),
    )
    return Stage(
        name="visual_decoder",
        data=data,
        updates=(update,),
        before=(Stable(folder=decoder),) if decoder else (),
        steps=15_000,
        schedule=StepSchedule(warmup=5000, falls={10_000: 0.5, 14_000: 0.1}),
        precision="bf16",
        seed=SEED,
    )


def _paper_instruct(instructions: str | tuple[str, ...]) -> Stage:
    data = Data(sources=sources_of(instructions), rows=128, length=2047, policy="alone", seed=SEED)
    optimiser = Optimiser(train=ADAPTERS, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05)  # inferred
    return Stage(
        name="instruct",
        data=data,
        updates=(Update(objective=NextToken(), optimisers=(optimiser,)),),
        before=(converse, Adapt(lora=EMU_I)),
        steps=10_000,
        schedule=Schedule(warmup=300, shape="cosine"),  # inferred
        precision="bf16",
        seed=SEED,
    )


def converse(system: Emu) -> None:
    """Gives it the words for both sides of a conversation, if it has none yet."""
    system.converse()


def pretrain_stage(data: Data | Alternating, *, steps: int) -> Stage:
    """Everything but the decoder, each part at its own rate; that of the projection and the head is inferred.

    Inferred too: the decay is on all that moves, the gradient is clipped at 1, both losses weigh the same.
    """
    rates = {
        ("vision.*", "vision_norm.*"): 4e-5,
        ("language.*",): 3e-5,
        NEW: 1e-4,
    }
    optimisers = tuple(
        Optimiser(train=train, lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05) for train, lr in rates.items()
    )
    return Stage(
        name="pretrain",
        data=data,
        updates=(Update(objective=NextTokenAndVector(), optimisers=optimisers),),
        accumulate=len(data.sets) if isinstance(data, Alternating) else 5,  # so a step has elements of all sets
        steps=steps,
        schedule=Schedule(warmup=steps // 5, shape="cosine"),
        precision="bf16",
        seed=SEED,
    )


@dataclass(frozen=True, kw_only=True)
class Stable:
    """Gives an Emu the U-Net and the VAE of a Stable Diffusion, to be trained to look at Emu's vectors."""

    folder: str

    def __call__(self, system: Emu) -> None:
        """Exchanges the decoder.

        Raises:
            CheckpointError: no such folder.
        """
        widen(system, stable_diffusion(self.folder))
        assert system.decoder is not None
        system.decoder.diffusion.reschedule("PNDMScheduler", steps=50)


def widen(system: Emu, given: VectorDiffusion) -> None:
    """The decoder becomes a given one that looks at vectors as wide as the language model; what looks is new.

    Raises:
        CheckpointError: tensors that do not fit otherwise.
    """
    sizes = given.diffusion.config
    system.redraw(replace(sizes, unet={**sizes.unet, "cross_attention_dim": system.config.language.width}))
    assert system.decoder is not None
    fitting = {name: tensor for name, tensor in given.state_dict().items() if not name.endswith(_NEW)}
    new, unknown = system.decoder.load_state_dict(fitting, strict=False)
    assert not unknown and all(name.endswith(_NEW) for name in new)


# ------------------------------------------------------------------------------------------------------- tiny


def tiny(
    drawers: str = "runs/foundations-drawers",
    foundations: str = "runs/foundations-tiny",
    seed: int = 0,
    regression: bool = True,
    interleaved: bool = True,
) -> Recipe:
    """All stages on the shapes world.

    Args:
        drawers: a run of `foundations/drawers`, which is trained first where there is none.
        foundations: the run of `foundations/tiny` that it begins with, likewise.
        seed: another one draws other data and other new parts.
        regression: False leaves the loss on vectors out.
        interleaved: False leaves stories, episodes, videos and the like out of pretraining: pictures with texts alone.
    """
    held = Held()
    first, second, third, before = (SEED + 10 * seed + number for number in range(4))
    shown: tuple[Task, ...] = (
        ShapesDraw(held=held, guidance=DRAWING),
        ShapesCases(name="in_context", count=300, guidance=DRAWING),
    )
    return Recipe(
        name="emu/tiny",
        build=functools.partial(founded, drawers, foundations, seed),
        stages=(
            tiny_tower(before, TINY_STEPS["tower"], interleaved),
            tiny_pretrain(first, TINY_STEPS["pretrain"], regression, interleaved, tasks=(ShapesExamples(),)),
            tiny_decoder(second, TINY_STEPS["visual_decoder"], tasks=shown),
            tiny_instruct(third, TINY_STEPS["instruct"]),
        ),
        probes=tuple(_probes()),
        tasks=(ShapesCaption(held=held), ShapesQuestions(held=held), ShapesCases(name="video", count=300)),
    )


def tiny_tower(seed: int, steps: int, interleaved: bool = True) -> Stage:
    """All but the decoder, without the loss on vectors: what tower and words have to be given first in this world.

    Most of it are captions, from which seeing is learned, and names of styles, of which captions say nothing. The pages
    are there so that their words are not new later: while words are learned, what vectors tell would be lost again.
    """
    shares = {"captions": 0.65, **_pages(interleaved, 0.2), "styles": 0.15}
    return _tiny_read("tower", seed, steps, shares, seeing=1.0, regression=False)


def tiny_pretrain(
    seed: int, steps: int, regression: bool = True, interleaved: bool = True, tasks: tuple[Task, ...] = ()
) -> Stage:
    """The published stage; all but the decoder learns."""
    shares = {"captions": 0.15, **_pages(interleaved, 0.85)}
    return _tiny_read("pretrain", seed, steps, shares, seeing=SEEING, regression=regression, tasks=tasks)


def _pages(interleaved: bool, share: float) -> dict[str, float]:
    """What is not captions, by shares of `share` in all."""
    pages = {name: part for name, part in TINY_PAGES.items() if interleaved or name in ALONE}
    return {name: share * part / sum(pages.values()) for name, part in pages.items()}


def _tiny_read(
    name: str,
    seed: int,
    steps: int,
    shares: Mapping[str, float],
    *,
    seeing: float,
    regression: bool,
    tasks: tuple[Task, ...] = (),
) -> Stage:
    """Matrices of blocks by Muon.

    Args:
        seeing: factor on the rate of what reads pictures. In the first stage 1: slower, tower and words leave the new
            part between them nothing to tell.
    """
    reads = (*of_tower("vision"), *of_tower("cformer"), "cformer.blocks.*.cross.*.weight")
    return Stage(
        name=name,
        data=Data(sources=tiny_pages(seed, shares), shares=shares, rows=12, length=320, seed=seed),
        updates=(
            Update(
                objective=NextTokenAndVector(weight=1.0 if regression else 0.0),
                optimisers=(
                    matrices(*of_tower("language.decoder")),
                    matrices(*reads, lr=0.01 * seeing),
                    Optimiser(train=("language.*", "regression.*"), lr=2e-3),
                    Optimiser(train=("vision.*", "vision_norm.*", "cformer.*", "projection.*"), lr=2e-3 * seeing),
                ),
            ),
        ),
        steps=steps,
        schedule=Schedule(warmup=30, final=0.1),
        precision="bf16",
        seed=seed,
        tasks=tasks,
    )


def tiny_pages(seed: int, wanted: Iterable[str]) -> dict[str, Source]:
    """Sources by name: `captions`, and those of `TINY_PAGES`."""
    many, side = 1_000_000, TINY.vision.image_size
    of = functools.partial(Shapes, length=many, objects=CROWD, resolution=side)
    found: dict[str, Source] = {
        "captions": of(seed=seed, mix={"caption": 1.0}),
        "pairs": of(seed=seed + 2, mix={"draw": 1.0}),
        "styled": Spoken(source=StyleDrawings(seed=seed, length=many, resolution=side), template="{question} "),
        "styles": Spoken(source=StyleNames(seed=seed, length=many, resolution=side), template="{question} "),
        "looked": Looked(
            shapes=of(seed=seed + 1, asks=HARD, questions_each=8, steps=True),
            mix={"look": 0.2, "direct": 0.5, "told": 0.15, "both": 0.15},
        ),
        "stories": Stories(seed=seed, length=many, resolution=side),
        "contexts": Contexts(seed=seed, length=many, resolution=side),
        "episodes": Episodes(seed=seed, length=many, shots=4, resolution=side),
        "videos": Spoken(source=Videos(seed=seed, length=many, resolution=side, steps=True), template="{question} "),
    }
    return {name: found[name] for name in wanted}


def tiny_decoder(seed: int, steps: int, tasks: tuple[Task, ...] = ()) -> Stage:
    """The U-Net, on captions and on pages whose pictures tell what is to be drawn."""
    side = TINY.vision.image_size
    sources: dict[str, Source] = {
        "pairs": Shapes(seed=seed, length=1_000_000, objects=(1, 2, 2, 3), mix={"draw": 1.0}, resolution=side),
        **tiny_pages(seed, ("styled", "contexts")),
    }
    return Stage(
        name="visual_decoder",
        data=Data(
            sources=sources,
            shares={"pairs": 0.55, "styled": 0.15, "contexts": 0.3},
            rows=48,
            length=320,
            policy="alone",
            transforms=(ToDraw(canvas=CANVAS),),
            seed=seed,
        ),
        updates=(
            Update(
                objective=Denoise(canvas=CANVAS),
                optimisers=(Optimiser(train=(UNET, "decoder.diffusion.canvas.*"), lr=2e-3, betas=(0.9, 0.999)),),
            ),
        ),
        steps=steps,
        schedule=Schedule(warmup=100, shape="cosine", final=0.03),
        precision="bf16",
        ema=0.995,
        seed=seed,
        tasks=tasks,
    )


def tiny_instruct(seed: int, steps: int) -> Stage:
    """Adapters, on questions on pictures, on videos, and on what is told in words alone."""
    many, side = 1_000_000, TINY.vision.image_size
    asked = Shapes(seed=seed, length=many, objects=CROWD, mix=TINY_ASKED, asks=HARD, resolution=side, steps=True)
    sources: dict[str, Source] = {
        "shapes": asked,
        "videos": Videos(seed=seed, length=many, resolution=side, steps=True),
        "told": Told(shapes=replace(asked, seed=seed + 1), mix={"questions": 1.0}),
    }
    return Stage(
        name="instruct",
        data=Data(
            sources=sources,
            shares={"shapes": 0.6, "videos": 0.35, "told": 0.05},
            rows=8,
            length=320,
            seed=seed,
        ),
        updates=(
            Update(
                objective=NextToken(),
                optimisers=(Optimiser(train=ADAPTERS, lr=3e-3, betas=(0.9, 0.98)),),
            ),
        ),
        before=(converse, Adapt(lora=TINY_LORA)),
        steps=steps,
        schedule=Schedule(warmup=50, shape="cosine", final=0.05),
        precision="bf16",
        seed=seed,
    )


class Grounds(NamedTuple):
    """What Emu begins with."""

    vision: ViT
    sizes: VITConfig
    """Of the tower."""
    language: LLaMA
    pieces: bytes
    """Of the language model."""
    painter: VectorDiffusion
    """Draws from texts."""


def grounds(drawers: str, foundations: str) -> Grounds:
    """Of a run of `foundations/drawers`, which is trained first where there is none, on one of `foundations/tiny`."""
    given = directory.load_as(directory.find(ensure_drawers(drawers, foundations)), Foundations)
    return Grounds(given.eva, given.config.blip2.vision, given.blip2.language, given.pieces.model, given.painter)


def founded(drawers: str, foundations: str, seed: int) -> Emu:
    """Tower, language model and painter of a run of `foundations/drawers`, and what is between them, new."""
    given = grounds(drawers, foundations)
    language = given.language
    language.extend([range(language.config.vocabulary)] * len(WORDS))  # the mean of all rows, as in the paper
    config = replace(
        TINY,
        vision=given.sizes,
        cformer=replace(TINY.cformer, image_width=given.sizes.width),
        language=language.config,
        decoder=None,
        behind=0.0,  # its documents come in either order by themselves
        image_message=TINY_MESSAGE,
        video_message=TINY_MESSAGE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        system = Emu(config, vocabulary(given.pieces))
        widen(system, given.painter)
        words = language.embed.weight.std().item()
        nn.init.normal_(system.projection.weight, std=words * system.config.cformer.width**-0.5)  # vectors as large
        nn.init.zeros_(system.projection.bias)
    system.vision.load_state_dict(given.vision.state_dict())
    system.language.load_state_dict(language.state_dict())
    return system


def _probes() -> Iterable[Probe]:
    """Pictures to describe, to draw, in a context and as a blend of two, on scenes that training does not show."""
    held = Shapes(seed=SEED, length=4, split="validation", objects=(1, 2, 2))
    drawn = Settings(guidance=DRAWING)
    examples = list(held.examples())
    pictures = [Image(example.scene.draw(held.resolution)) for example in examples]
    for picture, example in zip(pictures, examples, strict=True):
        question = example.questions[0]
        yield Probe(prompt=Document([Text(example.caption), Blank("image")]), settings=drawn)
        yield Probe(
            prompt=Document([Turn("user", [picture, question.text])]),
            settings=Settings(max_new_tokens=64),
            reference=question.said(steps=True),
        )
    for case in Contexts(seed=SEED, length=2, split="validation", resolution=held.resolution).cases():
        yield Probe(prompt=case.prompt, settings=drawn)
    for one, other in ((0, 1), (2, 3)):
        yield Probe(prompt=Document([pictures[one], pictures[other], Blank("image")]), settings=drawn)


RECIPES = {"tiny": tiny, "paper": paper}
