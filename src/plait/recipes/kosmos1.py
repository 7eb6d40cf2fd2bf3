"""KOSMOS-1's stages (arXiv 2302.14045): a language model learns from text, captions and pages at once, then to follow.

    pretrain              decoder, resampler and the last block of CLIP's tower; text, captions, pages in one batch
    language_instruct     the same on instructions in text alone, of which the outputs are learned, and the first data

`paper` has both with the published numbers. `tiny` does them on the shapes world, on two CPU cores, with the CLIP of
`foundations/tiny`; before them stand `reading` and `tower`, in which that learns what the real one has seen, written
words and larger pictures, and `lists`, in which the language model learns to look up what it was told.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from plait.checkpoints import directory
from plait.data.packs import Data, Source
from plait.data.prompted import Pages as Pieces
from plait.data.prompted import Several, Spoken
from plait.data.shapes import Shapes
from plait.data.shapes.corpora import Captions, NounCaptions, Photographs, Replies, ToldInstructions, Written
from plait.data.shapes.descriptions import Descriptions
from plait.data.shapes.episodes import Episodes, Lists
from plait.data.shapes.matrices import Matrices
from plait.data.shapes.pages import Pages
from plait.data.shapes.statements import Statements
from plait.data.shapes.told import Told
from plait.data.shapes.words import LEAST, LETTERS, Lettered, Opinions
from plait.data.shards import training
from plait.document import Document, Image, Text
from plait.errors import ConfigError, hint
from plait.evaluate import Task
from plait.evaluate.choices import (
    ShapesCommonsense,
    ShapesDescriptions,
    ShapesMatrices,
    ShapesNames,
    ShapesOpinions,
)
from plait.evaluate.shapes import Held, ShapesCaption
from plait.evaluate.shots import TRAINED, ShapesEpisodes, ShapesPages, ShapesShots
from plait.generate.engine import Settings
from plait.objectives.reading import Reading, Speller
from plait.objectives.tokens import NextToken
from plait.recipes.cm3leon import HARD, texts
from plait.recipes.foundations import ensure, matrices
from plait.systems.foundations import Foundations
from plait.systems.kosmos1 import KOSMOS1, SIZES, SYMBOLS, TINY, KOSMOS1Config
from plait.text.pieces import FairseqPieces
from plait.text.questions import CAPTION, QUESTION
from plait.train.stage import Objective, Optimiser, Probe, Recipe, Schedule, Stage, Update

SEED = 20230227
LENGTH = 2048
CORPORA = {"text": 256 * LENGTH, "captions": 256 * LENGTH, "pages": 128 * LENGTH}
"""Elements of a step of pretraining, 1.2M in the paper: blocks of text, as many elements of captions (6,144 pairs), and
128 documents of pages."""
INSTRUCTED = {"text": 32 * LENGTH, "captions": 32 * LENGTH, "pages": 16 * LENGTH, "instructions": 16 * LENGTH}
"""Of a step on instructions: 32 blocks, 768 pairs, 16 documents, and 256 instructions (of 128 elements: inferred)."""
PICTURES = 5  # of a page

# -------------------------------------------------------------------------------------------------- published


def paper(
    base: str,
    data: Mapping[str, str] | None = None,
    instructions: str = "",
    size: str = "1.6b",
    fresh: bool = True,
) -> Recipe:
    """Both stages, or the one whose data is given.

    As the paper does not say, or no copy of its tables could be read: the numbers of documents in a step and eps are
    from memory, the clipping is that of the program released with KOSMOS-2. Inferred: the last block of the tower is
    "the last layer"; how long an instruction is, and how its parts are joined (`Turn`s of a conversation, as they are).
    In fp16 there, in bf16 here. `rows` are those of all ranks together: divide them with `accumulate`.

    Args:
        base: a KOSMOS-1's directory, such as `plait import kosmos1 kosmos-2.pt`, whose tower CLIP's is. For
            pretraining that and its pieces are taken, and all else is new.
        data: text, captions, pages -> a directory of `plait data import`, or of documents; of pages the first five
            pictures count. All three for pretraining, and for instructions beside them.
        instructions: a directory of conversations: what is asked, and the output.
        size: of the new decoder, and where the tower ends: a name in `SIZES`.
        fresh: False goes on with all of the base.

    Raises:
        ConfigError: no such size or corpus, or no data for any stage.
    """
    if size not in SIZES:
        raise ConfigError(f"no size {size!r}; {hint(size, SIZES)}")
    config, sources = SIZES[size], _corpora(data or {})
    stages: list[Stage] = []
    if sources:
        stages.append(pretrain_stage(config, mixed(sources, CORPORA), steps=300_000, lr=2e-4))
    if instructions:
        mix = mixed({**sources, "instructions": training(instructions)}, INSTRUCTED)
        stages.append(instruct_stage(config, mix, steps=10_000, lr=2e-5))
    if not stages:
        raise ConfigError(
            "kosmos1/paper has no data: give --set data={text: DIR, captions: DIR, pages: DIR} or instructions=DIR"
        )
    new, old = functools.partial(begun, base, size), functools.partial(directory.load_as, base, KOSMOS1)
    return Recipe(name="kosmos1/paper", build=new if sources and fresh else old, stages=tuple(stages))


def _corpora(data: Mapping[str, str]) -> dict[str, Source]:
    for name in data:
        if name not in CORPORA:
            raise ConfigError(f"no corpus {name!r}; {hint(name, CORPORA)}")
    found: dict[str, Source] = {name: training(folder) for name, folder in data.items()}
    return {name: Pieces(source=one, images=PICTURES) if name == "pages" else one for name, one in found.items()}


def mixed(sources: Mapping[str, Source], elements: Mapping[str, int]) -> Data:
    """Corpora by numbers of elements in one batch; text in blocks of whole lines, the others document by document.

    Args:
        elements: of each in a step; those of corpora that are not there are left out.
    """
    shares = {name: float(elements[name]) for name in sources}
    return Data(
        sources=dict(sources),
        shares=shares,
        measure="elements",
        joined=("text",) if "text" in sources else (),
        rows=max(1, round(sum(shares.values()) / LENGTH)),
        length=LENGTH - 1,
        window=4096,
        seed=SEED,
    )


def begun(base: str, size: str) -> KOSMOS1:
    """A new resampler and decoder behind the tower, and with the pieces, of `base`. The caller seeds torch.

    Raises:
        CheckpointError: as `plait.checkpoints.directory.load_as`.
        ConfigError: a tower of other sizes.
    """
    given = directory.load_as(base, KOSMOS1)
    config = SIZES[size]
    if given.config.vision != config.vision:
        raise ConfigError(f"{base} has a tower of {given.config.vision}, the size {size} one of {config.vision}")
    text = FairseqPieces(given.format.text.model, SYMBOLS[config.symbols])
    system = KOSMOS1(config, text)
    system.vision.load_state_dict(given.vision.state_dict())
    system.licences = {**system.licences, "vision": given.parts["vision"].licence}
    return system


def pretrain_stage(config: KOSMOS1Config, data: Data, *, steps: int, lr: float) -> Stage:
    """Decoder, resampler, and the last block of the tower."""
    return _stage("pretrain", config, data, steps, lr)


def instruct_stage(config: KOSMOS1Config, data: Data, *, steps: int, lr: float) -> Stage:
    """The same parts, at a tenth of the rate."""
    return _stage("language_instruct", config, data, steps, lr)


def trained(config: KOSMOS1Config) -> tuple[str, ...]:
    """The names of what trains in both stages."""
    return ("language.*", "resampler.*", f"vision.blocks.{config.vision.depth - 1}.*")


def _stage(name: str, config: KOSMOS1Config, data: Data, steps: int, lr: float) -> Stage:
    """fairseq's Adam, whose decay is on all that moves, and a linear fall to 0."""
    adam = Optimiser(train=trained(config), kind="adamw_fairseq", lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    return Stage(
        name=name,
        data=data,
        updates=(Update(objective=NextToken(), optimisers=(adam,), clip=2.0),),
        steps=steps,
        schedule=Schedule(warmup=375, first=0),
        precision="bf16",
        seed=data.seed,
    )


# ------------------------------------------------------------------------------------------------------- tiny

TINY_STEPS = {"reading": 1350, "tower": 850, "lists": 500, "pretrain": 2600, "language_instruct": 300}
TINY_ROWS = 8
TINY_LENGTH = 511
TOKENIZER_TEXTS = 300  # documents of each source that the pieces are learned from
SYLLABLE = 2  # letters of other pieces, or one behind white space
WORDS = 224  # of most documents, which are a piece each
CROWD = (1, 2, 2, 3)
SPLIT = 2  # letters that a patch can hold, along its side
MOST_WORDS = 16  # pieces of an opinion, and what stands around picture and text
SHOTS = (1, 2, 4)  # pictures of each of two names in an episode
CORPUS = {"text": 0.25, "captions": 0.15, "pages": 0.6}
"""Shares of elements; most of what the tasks are about stands in pages."""
FIRST = {"text": 0.1, "captions": 0.4, "pages": 0.5}
"""Shares of the stage `tower`, whose pages are written pictures, and whose text is what conclusions are drawn in."""
LOOKED_UP = {"text": 0.6, "captions": 0.18, "pages": 0.22}
"""Shares of the stage `lists`, of which the text is; the rest keeps what was learned of pictures."""
JOINED = ("statements", "told")
"""Text that shares blocks; of the other, documents in front would call the same words by other names."""
WITHIN: Mapping[str, Mapping[str, float]] = {
    "text": {"statements": 0.1, "told": 0.12, "lists": 0.18, "episodes": 0.2, "matrices": 0.3, "opinions": 0.1},
    "captions": {"shapes": 0.7, "nouns": 0.15, "photographs": 0.15},
    "pages": {
        "questions": 0.325,
        "shots": 0.145,
        "web": 0.06,
        **{f"episodes of {shots}": 0.165 / len(SHOTS) for shots in SHOTS},
        "matrices": 0.165,
        "written": 0.1,
        "descriptions": 0.04,
    },
}
"""Of each corpus, the shares of its sources."""


def tiny(foundations: str = "runs/foundations-tiny", seed: int = 0) -> Recipe:
    """All stages on the shapes world; what instructions in text change is told before and after.

    Args:
        foundations: a run of `foundations/tiny`, which is trained first where there is none.
        seed: another one draws other data and other new parts.
    """
    config = replace(TINY, vision=replace(TINY.vision, image_size=LEAST))
    first = SEED + 10 * seed
    corpora = shapes_corpora(first)
    known = {name: one for name, one in corpora["captions"].items() if name != "nouns"}
    read = Written(opinions=_opinions(first), ways=("read",))
    concluded = {name: one for name, one in corpora["text"].items() if name not in JOINED}
    seen: dict[str, Mapping[str, Source]] = {"text": concluded, "captions": known, "pages": {"read": read}}
    lists = {**seen, "text": {"lists": concluded["lists"]}}
    told = {"told": ToldInstructions(shapes=_scenes(first + 4, questions_each=1, asks=HARD))}
    rest = _tiny_data(corpora, CORPUS, first + 1)
    followed = _tiny_data({**corpora, "instructions": told}, {**CORPUS, "instructions": 0.5}, first + 2)
    before: tuple[Task, ...] = (ShapesShots(), ShapesDescriptions())
    return Recipe(
        name="kosmos1/tiny",
        build=functools.partial(founded, foundations, config, seed),
        stages=(
            reading_stage(config, _opinions(first + 3), TINY_STEPS["reading"]),
            whole_stage("tower", _tiny_data(seen, FIRST, first), TINY_STEPS["tower"]),
            whole_stage("lists", _tiny_data(lists, LOOKED_UP, first + 4), TINY_STEPS["lists"]),
            _tiny_stage("pretrain", config, rest, TINY_STEPS["pretrain"], rate=1.0, final=0.1, tasks=before),
            _tiny_stage("language_instruct", config, followed, TINY_STEPS["language_instruct"], rate=0.1, final=0.0),
        ),
        probes=tuple(_probes()),
        tasks=(
            ShapesCaption(held=Held(), asked=False, prompt=CAPTION),
            ShapesShots(),
            ShapesEpisodes(steps=True),
            ShapesPages(),
            ShapesMatrices(steps=True),
            ShapesOpinions(),
            ShapesOpinions(steps=True),
            ShapesDescriptions(),
            ShapesCommonsense(),
            ShapesNames(),
        ),
    )


def _scenes(seed: int, **more: Any) -> Shapes:
    return Shapes(**{"seed": seed, "length": 1_000_000, "objects": CROWD, **more})


def _opinions(seed: int) -> Opinions:
    return Opinions(seed=seed, length=1_000_000, resolution=LEAST)


def shapes_corpora(seed: int) -> dict[str, dict[str, Source]]:
    """Corpus -> its sources by name."""
    many: dict[str, Any] = {"seed": seed, "length": 1_000_000, "resolution": 32}
    known = {kind: HARD[kind] for kind in TRAINED}
    asked = Spoken(source=_scenes(seed + 1, mix={"questions": 1.0}, asks=known))
    alone = Spoken(source=_scenes(seed + 2, mix={"questions": 1.0}, asks=known, questions_each=1))
    episodes = {n: Episodes(**{**many, "seed": seed + 6 + i}, shots=n, steps=True) for i, n in enumerate(SHOTS)}
    judged = Matrices(**many, form="judge", steps=True)
    return {
        "text": {
            "statements": Statements(**many),
            "told": Told(shapes=_scenes(seed + 3), mix={"caption": 1.0}),
            "lists": Lists(**many),
            "episodes": Replies(cases=replace(episodes[SHOTS[-1]], seed=seed + 9)),
            "matrices": Replies(cases=replace(judged, seed=seed + 9)),
            "opinions": Written(opinions=_opinions(seed + 9), ways=("both",), shown=False),
        },
        "captions": {
            "shapes": Captions(source=_scenes(seed, mix={"caption": 1.0})),
            "nouns": NounCaptions(**many),
            "photographs": Photographs(shapes=_scenes(seed + 5, objects=(1,))),
        },
        "pages": {
            "questions": asked,
            "shots": Several(source=alone, counts=(2, 3, 5)),
            "web": Spoken(source=Pages(**many)),
            **{f"episodes of {shots}": source for shots, source in episodes.items()},
            "matrices": judged,
            "written": Written(opinions=_opinions(seed)),
            "descriptions": Descriptions(**many),
        },
    }


def _tiny_data(corpora: Mapping[str, Mapping[str, Source]], shares: Mapping[str, float], seed: int) -> Data:
    """Corpora by shares of elements, and their sources by shares of those."""
    sources: dict[str, Source] = {}
    parts: dict[str, float] = {}
    for corpus, within in corpora.items():
        worth = {name: WITHIN.get(corpus, {}).get(name, 1.0) for name in within}
        for name, source in within.items():
            sources[f"{corpus}/{name}"] = source
            parts[f"{corpus}/{name}"] = shares[corpus] * worth[name] / sum(worth.values())
    return Data(
        sources=sources,
        shares=parts,
        measure="elements",
        joined=tuple(f"text/{name}" for name in JOINED if name in corpora["text"]),
        rows=TINY_ROWS,
        length=TINY_LENGTH,
        window=512,
        seed=seed,
    )


def reading_stage(config: KOSMOS1Config, opinions: Opinions, steps: int) -> Stage:
    """Tower and resampler alone, on written pictures: which letter stands where, and which words there are."""
    side = SPLIT * config.vision.image_size // config.vision.patch
    data = Data(
        sources={"bare": Written(opinions=opinions, ways=("bare",))},
        rows=16,
        length=4 * (side * side + MOST_WORDS),
        transforms=(Lettered(cells=side),),
        window=256,
        seed=opinions.seed,
    )
    return _tiny(
        "reading",
        data,
        steps,
        ("vision.*", "resampler.*", "speller:*", "words:*"),
        rate=1.0,
        final=0.3,
        objective=Reading(),
        companions={"speller": _speller, "words": _words},
    )


def _speller(system: KOSMOS1) -> Speller:
    return Speller(system.config.vision.width, SPLIT, len(LETTERS))


def _words(system: KOSMOS1) -> nn.Linear:
    language = system.config.language
    return nn.Linear(system.config.latents * language.width, language.vocabulary)


def whole_stage(name: str, data: Data, steps: int) -> Stage:
    """All of the system, also the tower: what both have to be given first in this world."""
    return _tiny(
        name, data, steps, ("language.*", "resampler.*", "vision.*"), rate=1.0, final=0.3, objective=NextToken()
    )


def _tiny_stage(
    name: str, config: KOSMOS1Config, data: Data, steps: int, *, rate: float, final: float, tasks: tuple[Task, ...] = ()
) -> Stage:
    """A published stage: of the tower the last block alone trains."""
    return _tiny(name, data, steps, trained(config), rate=rate, final=final, objective=NextToken(), tasks=tasks)


def _tiny(
    name: str,
    data: Data,
    steps: int,
    trains: tuple[str, ...],
    *,
    rate: float,
    final: float,
    objective: Objective,
    **more: Any,
) -> Stage:
    """Muon for the matrices of blocks, at `rate` times the usual rates."""
    blocks = {
        "language.*": "language.decoder.blocks.*.",
        "vision.*": "vision.blocks.*.",
        **{name: name.removesuffix("*") for name in trains if ".blocks." in name},
    }
    weights = tuple(
        f"{blocks[name]}{part}.weight"
        for name in trains
        if name in blocks
        for part in ("attention.qkv", "attention.out", "mlp.hidden", "mlp.out")
    )
    optimisers = matrices(*weights, lr=0.01 * rate), Optimiser(train=trains, lr=2e-3 * rate)
    return Stage(
        name=name,
        data=data,
        updates=(Update(objective=objective, optimisers=optimisers),),
        steps=steps,
        schedule=Schedule(warmup=30, final=final),
        precision="bf16",
        seed=data.seed,
        **more,
    )


def founded(foundations: str, config: KOSMOS1Config, seed: int) -> KOSMOS1:
    """CLIP's tower of a run of `foundations/tiny`, for larger pictures; all else is new, also the pieces."""
    given = directory.load_as(ensure(foundations), Foundations)
    sources = [source for corpus in shapes_corpora(SEED).values() for source in corpus.values()]
    said = [" ".join(texts((source[i],), 1)).split() for source in sources for i in range(TOKENIZER_TEXTS)]
    once = [" ".join(dict.fromkeys(words)) for words in said]  # so that syllables count, not names of one document
    symbols = SYMBOLS[config.symbols]
    room = config.language.vocabulary - len(symbols) - 1
    pieces = FairseqPieces.train(once, room, symbols, frequent(once, WORDS), longest=SYLLABLE)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        system = KOSMOS1(config, pieces)
    state = given.clip.image.state_dict()
    state["positions"] = widened(state["positions"], system.vision.positions.shape[1] - 1)
    system.vision.load_state_dict(state)
    return system


def frequent(said: Iterable[str], count: int) -> list[str]:
    """The words that occur in most documents: those that are invented for one of them do not."""
    words = Counter(word for text in said for word in sorted(set(re.findall(r"[A-Za-z]+", text))))
    return [word for word, _ in words.most_common(count)]


def widened(positions: torch.Tensor, patches: int) -> torch.Tensor:
    """The table of positions, (1, 1 + n, c), for more patches: those of the patches on a finer grid, bicubic."""
    first, grid = positions[:, :1], positions[:, 1:]
    old, new = math.isqrt(grid.shape[1]), math.isqrt(patches)
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, c, y, x)
    fine = torch.nn.functional.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((first, fine.flatten(2).transpose(1, 2)), dim=1)


def _probes() -> Iterable[Probe]:
    """A caption and a question, on scenes that training does not show."""
    held = Shapes(seed=SEED, length=4, split="validation", objects=(1, 2, 3))
    for example in held.examples():
        picture = Image(example.scene.draw(held.resolution))
        question = example.questions[0]
        asked = Document([picture, Text(QUESTION.format(question=question.text))])
        shown = Document([picture, Text(CAPTION)])
        yield Probe(prompt=shown, settings=Settings(max_new_tokens=64), reference=example.caption)
        yield Probe(prompt=asked, settings=Settings(max_new_tokens=16), reference=question.answer)


RECIPES = {"tiny": tiny, "paper": paper}
