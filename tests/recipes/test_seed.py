"""SEED-LLaMA's stages: the published numbers, what trains, and two steps of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from plait.checkpoints.directory import load, load_as, save
from plait.checkpoints.parts import CLIP as CLIP_NAMES
from plait.data.prompted import BothOrders, Pages, Requested
from plait.data.shapes import Shapes
from plait.data.shards import ShardWriter, training
from plait.document import Document, Image, Turn, Video
from plait.errors import CheckpointError, ConfigError
from plait.evaluate import shapes
from plait.evaluate.shapes import Held
from plait.nn.clip import CLIP, CLIPConfig, CLIPImage, CLIPTextConfig
from plait.nn.lora import LAYERS, LoRAConfig
from plait.nn.qformer import TextConfig
from plait.nn.vit import VITConfig
from plait.recipes import find, foundations, seed
from plait.recipes.seed import (
    ADAPTED,
    INSTRUCTIONS,
    PRETRAINING,
    WHOLE,
    Drawn,
    Teacher,
    codes_stage,
    contrast_stage,
    forget_texts,
    founded,
    start_codes,
)
from plait.systems.foundations import DRAWERS, Foundations
from plait.systems.minigpt4 import build as build_minigpt4
from plait.systems.seed import SEED_8B, TINY, Seed, vocabulary
from plait.text.pieces import SentencePiece
from plait.text.requests import DRAW, TASKS
from plait.train.adapters import Adapt, merge
from plait.train.optim import assign
from plait.train.run import Run, shortened
from plait.train.stage import EpochSchedule, Optimiser, Recipe, Schedule, Stage

Picture = Callable[[int], Image]
MODEL = SentencePiece.train([way.asked for way in DRAW], 320).model
SMALL = replace(
    TINY,
    tokenizer=replace(
        TINY.tokenizer,
        vision=replace(TINY.tokenizer.vision, width=16, depth=1, heads=2, hidden=16),
        qformer=replace(TINY.tokenizer.qformer, width=16, depth=2, heads=2, hidden=16, queries=8, image_width=16),
        branch_depth=1,
        decoder=None,  # it draws no pictures
    ),
    language=replace(TINY.language, width=32, hidden=48, depth=2, heads=2),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of tiny sizes, as an import would leave them."""
    torch.manual_seed(0)
    made = Seed(SMALL, vocabulary(MODEL, SMALL.tokenizer.codes))
    return save(made, tmp_path_factory.mktemp("base") / "saved")


def shards(folder: Path, documents: list[Document]) -> str:
    with ShardWriter(folder) as writer:
        for i, document in enumerate(documents):
            writer.add(f"{i:04d}", document)
    return str(folder)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> dict[str, str]:
    """Name -> a directory of records."""
    root = tmp_path_factory.mktemp("data")
    shown = [picture(i) for i in range(6)]
    film = Video((shown[0], shown[1]))
    records = {
        "captions": [Document([one, f"picture {i}"]) for i, one in enumerate(shown)],
        "mmc4": [Document(["one", shown[0], "two", shown[1], "three"])],
        "webvid": [Document([film, "a film"])],
        "wikipedia": [Document("Words and words.")],
        "vqav2": [Document([one, "what?", f"a {i}"]) for i, one in enumerate(shown)],
        "edits": [Document([shown[0], "redder", shown[1]])],
        "llava": [Document([Turn("user", [shown[0], "what?"]), Turn("assistant", "A cat")])],
    }
    return {name: shards(root / name, documents) for name, documents in records.items()}


def small_teacher(system: Seed) -> CLIPImage:
    """One that has learned nothing."""
    return CLIPImage(SMALL.tokenizer.vision, SMALL.tokenizer.embedding).requires_grad_(False)


@pytest.fixture(scope="module")
def recipe(base: Path, given: dict[str, str]) -> Recipe:
    pretraining = {name: given[name] for name in ("captions", "mmc4", "webvid", "wikipedia")}
    instructions = {name: given[name] for name in ("vqav2", "edits", "llava")}
    return find(
        "seed/paper",
        [f"base={base}", f"data={json.dumps(pretraining)}", f"instructions={json.dumps(instructions)}"],
    )


def rates(stage: Stage, *steps: int) -> list[float]:
    (optimiser,) = stage.updates[0].optimisers
    return [optimiser.lr * stage.schedule.factor(step, stage.steps) for step in steps]


def test_the_published_numbers(recipe: Recipe) -> None:
    pretrain, whole, instruct = recipe.stages
    assert [stage.name for stage in recipe.stages] == ["pretrain", "whole", "instruct"]
    assert (pretrain.steps, pretrain.accumulate, instruct.steps, instruct.accumulate) == (30_000, 4, 50_000, 1)
    assert rates(pretrain, 0, 900, 30_000) == pytest.approx([0, 1.5e-4, 7.5e-6])
    assert rates(instruct, 0, 3501, 50_000) == pytest.approx([0, 1e-4, 1e-5])
    lora = LoRAConfig(rank=16, alpha=32.0, dropout=0.05, layers=LAYERS)
    assert pretrain.before == (Adapt(lora=lora),)
    assert whole.before == (merge,)
    assert instruct.before == (merge, Adapt(lora=lora))
    for stage in recipe.stages:
        (update,) = stage.updates
        (optimiser,) = update.optimisers
        assert (optimiser.kind, optimiser.betas, optimiser.eps) == ("adamw_hf", (0.9, 0.95), 1e-5)
        assert (optimiser.weight_decay, update.clip, stage.precision) == (0.05, 1.0, "bf16")
        assert isinstance(stage.schedule, Schedule) and stage.schedule.first == 0 and stage.schedule.shape == "cosine"
        assert stage.data.length == 1023
    assert (pretrain.data.rows, instruct.data.rows) == (26 * 64, 26 * 32)


def test_sources_and_their_weights(recipe: Recipe) -> None:
    published = {name: (one.weight, one.length, one.rows) for name, one in PRETRAINING.items()}
    assert published == {
        "captions": (0.5, 200, 116),
        "laion-coco": (5.0, 140, 164),
        "mmc4": (2.0, 1024, 26),
        "obelics": (1.0, 1024, 26),
        "webvid": (0.5, 200, 116),
        "wikipedia": (1.0, 1024, 26),
    }
    weights = [0.15, 0.08, 0.5, 0.15, 0.2, 0.2, 0.1, 0.15, 0.2, 0.1, 0.15, 0.2, 0.4, 0.5, 0.5, 0.1, 0.08, 0.05]
    assert [weight for weight, _ in INSTRUCTIONS.values()] == weights
    assert {task for _, task in INSTRUCTIONS.values()} <= set(TASKS)
    pretrain, whole, instruct = recipe.stages
    assert whole.data == pretrain.data
    assert pretrain.data.shares == {"captions": 58.0, "mmc4": 52.0, "webvid": 58.0, "wikipedia": 26.0}
    captions, pages = pretrain.data.sources["captions"], pretrain.data.sources["mmc4"]
    assert isinstance(captions, BothOrders)
    assert isinstance(pages, Pages) and (pages.images, pages.swap) == (7, 0.5)
    assert instruct.data.shares == {"vqav2": 0.2, "edits": 0.5, "llava": 0.15}
    tasks = {name: source.task for name, source in instruct.data.sources.items() if isinstance(source, Requested)}
    assert tasks == {"vqav2": "vqa", "edits": "edit", "llava": "talk"}


def test_what_trains_at_full_size() -> None:
    """Names and numbers of parameters of the 8B, without its weights."""
    with torch.device("meta"):
        system = Seed(replace(SEED_8B, tokenizer=SMALL.tokenizer), _Eight())
    named = {name: weight.numel() for name, weight in system.named_parameters()}
    language = sum(number for name, number in named.items() if name.startswith("language."))
    update, (whole,) = named, assign((_optimiser(WHOLE),), list(named))
    assert language == 6_805_542_912 - 32 * 64  # of which the published count has the angles of each layer
    assert sum(update[name] for name in whole) == language - 40_194 * 4096
    with torch.device("meta"):
        system.adapt(LoRAConfig(rank=16, alpha=32.0, layers=LAYERS))
    named = {name: weight.numel() for name, weight in system.named_parameters()}
    (adapted,) = assign((_optimiser(ADAPTED),), list(named))
    adapters = 32 * 16 * (4 * 2 * 4096 + 3 * (4096 + 11_008))
    tables, norms = 2 * 40_194 * 4096, (2 * 32 + 1) * 4096
    assert sum(named[name] for name in adapted) == adapters + tables + norms


class _Eight(SentencePiece):
    """As many pieces as LLaMA has."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        names = [*(f"<img_{i:05d}>" for i in range(128)), "<img>", "</img>"]
        self._special |= {name: 32_000 + i for i, name in enumerate(names)}


def _optimiser(patterns: tuple[str, ...]) -> Any:
    return Optimiser(train=patterns, lr=1.0)


def test_the_tokenizer_s_stages_have_the_published_numbers(given: dict[str, str]) -> None:
    pairs = f"pairs={given['captions']}"
    contrast, codes = find("seed/paper", ["base=nowhere", pairs, "teacher=nowhere", "contrast=true"]).stages
    assert (contrast.name, contrast.steps, contrast.data.rows) == ("contrast", 50_000, 64 * 64)
    assert (codes.name, codes.steps, codes.data.rows) == ("codes", 2_500_000, 256 * 64)
    assert codes.data.reads == "pictures" and contrast.accumulate == codes.accumulate == 1
    for stage, peak in ((contrast, 3e-5), (codes, 1e-4)):
        (update,) = stage.updates
        plain, decayed = update.optimisers
        assert (plain.lr, plain.weight_decay, decayed.lr, decayed.weight_decay) == (peak, 0.0, peak, 0.05)
        assert plain.betas == decayed.betas == (0.9, 0.999) and update.clip is None
        assert isinstance(stage.schedule, EpochSchedule) and stage.schedule.stepped
        found = [peak * stage.schedule.factor(step, stage.steps) for step in (0, 1000, 2000, 4999)]
        assert found == pytest.approx([0.01 * peak, 0.505 * peak, peak, peak])
    texts = TextConfig(vocabulary=600, positions=40)
    tokenizer = replace(SMALL.tokenizer, qformer=replace(SMALL.tokenizer.qformer, text=texts))
    with torch.device("meta"):
        system = Seed(replace(SMALL, tokenizer=tokenizer), vocabulary(MODEL, SMALL.tokenizer.codes))
    named = dict(system.named_parameters())
    plain, decayed = assign(contrast.updates[0].optimisers, list(named))
    parts = ("qformer", "vision_norm", "heads_of_qformer")
    assert set(plain + decayed) == {n for n in named if n.startswith(tuple(f"tokenizer.{part}." for part in parts))}
    assert all((named[name].ndim < 2) == (name in plain) for name in plain + decayed)
    forget_texts(system)
    named = dict(system.named_parameters())
    assert system.config == SMALL and not any("text" in name for name in named)
    plain, decayed = assign(codes.updates[0].optimisers, list(named))
    still = ("vision.", "vision_norm.", "qformer.")
    moved = {name for name in named if name.startswith("tokenizer.")}
    assert set(plain + decayed) == {n for n in moved if not n.startswith(tuple(f"tokenizer.{part}" for part in still))}
    assert all((named[name].ndim < 2) == (name in plain) for name in plain + decayed)


def test_a_step_of_the_tokenizer_s_stages(given: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    texts = TextConfig(vocabulary=SMALL.language.vocabulary, positions=80)
    tokenizer = replace(SMALL.tokenizer, qformer=replace(SMALL.tokenizer.qformer, text=texts))
    base = save(Seed(replace(SMALL, tokenizer=tokenizer), vocabulary(MODEL, SMALL.tokenizer.codes)), tmp_path / "base")
    source = training(given["captions"])
    stages = (contrast_stage(source, steps=10), codes_stage(source, small_teacher, steps=10))
    stages = tuple(
        replace(stage, precision="fp32", data=replace(stage.data, rows=3, window=6), schedule=Schedule())
        for stage in stages
    )
    recipe = Recipe(name="stages", build=partial(load_as, base, Seed), stages=stages)
    Run(shortened(recipe, 1), tmp_path / "run").train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["contrast", "codes"]
    trained, before = load(tmp_path / "run"), load(base).state_dict()
    assert isinstance(trained, Seed) and trained.config == SMALL
    moved = {name for name, one in trained.state_dict().items() if not torch.equal(one, before[name])}
    assert {name.split(".")[1] for name in moved} >= {"qformer", "down", "quantiser", "generate", "reconstruct", "head"}
    assert not any(name.startswith(("language.", "tokenizer.vision.")) for name in moved)


def test_a_teacher_is_the_tower_of_a_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPConfig(
        image=VITConfig(image_size=8, patch=4, width=12, depth=1, heads=3, hidden=8, eps=1e-5),
        text=CLIPTextConfig(vocabulary=9, positions=5, width=12, depth=1, heads=3, hidden=8),
        shared=6,
    )
    clip = CLIP(config).requires_grad_(False)
    for weight in clip.parameters():
        weight.normal_()
    with pytest.raises(CheckpointError):
        Teacher(folder=str(tmp_path))(None)  # type: ignore[arg-type]
    save_file(
        {k: v.contiguous() for k, v in CLIP_NAMES.write(clip.state_dict().items())}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match="tells no heads of a tower of pictures: give CLIP's folder"):
        Teacher(folder=str(tmp_path))(None)  # type: ignore[arg-type]
    told = {"vision_config": {"num_attention_heads": 3, "hidden_act": config.activation}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    teacher = Teacher(folder=str(tmp_path))(None)  # type: ignore[arg-type]
    pixels = torch.randn(2, 3, 8, 8)
    found, wanted = teacher(pixels), clip.image_projection(clip.image(pixels)[:, 0])
    assert torch.equal(found, wanted) and not any(weight.requires_grad for weight in teacher.parameters())


def test_two_steps_of_every_stage(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    stages = tuple(
        replace(stage, precision="fp32", accumulate=1, data=replace(stage.data, rows=2, length=256, window=8))
        for stage in recipe.stages
    )
    torch.manual_seed(0)
    Run(shortened(replace(recipe, stages=stages), 2), tmp_path / "run").train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["pretrain"] * 2 + ["whole"] * 2 + ["instruct"] * 2
    assert all(line["skipped"] == line["broken"] == line["cut"] == 0 for line in lines)
    assert all({"loss/token", "loss/code"} <= set(line) for line in lines)
    trained, before = load(tmp_path / "run"), load(base).state_dict()
    assert isinstance(trained, Seed) and trained.config.lora is not None
    trained.merge()
    after = trained.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert moved and all(name.startswith("language.") for name in moved)
    assert {"language.embed.weight", "language.head.weight", "language.decoder.norm.weight"} <= moved


def test_what_is_missing_is_said(given: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed/paper needs a value for base"):
        find("seed/paper")
    with pytest.raises(ConfigError, match=r"seed/paper has no data: give --set pairs=DIR"):
        find("seed/paper", ["base=nowhere"])
    with pytest.raises(ConfigError, match="without a teacher: give --set teacher=DIR"):
        find("seed/paper", ["base=nowhere", f"pairs={given['captions']}"])
    for argument in ("data", "instructions"):
        wrong = json.dumps({"mcm4": "nowhere"})
        with pytest.raises(ConfigError, match="no source 'mcm4'"):
            find("seed/paper", ["base=nowhere", f"{argument}={wrong}"])
    other = save(build_minigpt4("tiny"), tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds minigpt4: give a directory of `plait import seed`, or a run"):
        load_as(other, Seed)


# ------------------------------------------------------------------------------------------------------ tiny


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Foundations with random weights, which draw."""
    torch.manual_seed(2)
    system = foundations.build(DRAWERS, Shapes(seed=0, length=20, mix={"describe": 1.0}))
    return str(save(system, tmp_path_factory.mktemp("foundations") / "saved"))


@pytest.fixture(autouse=True)
def _as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Foundations that are there are not trained."""
    monkeypatch.setattr(seed, "ensure_drawers", lambda directory, foundations: Path(directory))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(weight, theirs[name]) for name, weight in mine.items())


def test_foundations_are_taken_and_what_is_new_is_drawn(grounds: str) -> None:
    given, system = load_as(grounds, Foundations), founded(grounds, "", 0, True)
    tokenizer, blip2 = system.tokenizer, given.blip2
    assert same(tokenizer.vision, blip2.vision) and same(tokenizer.vision_norm, blip2.vision_norm)
    assert same(tokenizer.decoder, given.parts["unclip"].module)
    assert same(tokenizer.qformer.blocks, given.qformer.blocks) and same(tokenizer.qformer.text, given.qformer.text)
    assert tokenizer.qformer.config.causal and not founded(grounds, "", 0, False).tokenizer.qformer.config.causal
    own, theirs = tokenizer.qformer.queries, given.qformer.queries
    first, again = own[:, : theirs.shape[1]], own[:, theirs.shape[1] : 2 * theirs.shape[1]]
    assert own.shape[1] == 32 and not torch.equal(first, again)
    torch.testing.assert_close(first, theirs, atol=0.1, rtol=0)
    torch.testing.assert_close(again, theirs, atol=0.1, rtol=0)
    assert torch.equal(tokenizer.temperature, given.heads_of_qformer.temperature)
    assert same(system.language.decoder, blip2.language.decoder)
    table, learned = system.language.embed.weight, blip2.language.embed.weight
    assert torch.equal(table[: len(learned)], learned) and len(table) == len(learned) + 128 + 2
    assert same(system, founded(grounds, "", 0, True))
    other = founded(grounds, "", 1, True)
    assert not torch.equal(tokenizer.down[0].weight, other.tokenizer.down[0].weight)


def test_the_teacher_is_the_tower_that_is_drawn_from(grounds: str, picture: Picture) -> None:
    system = load_as(grounds, Foundations)
    pixels = system.pixels([picture(0), picture(1)])
    teacher = Drawn(drawers=grounds)(None)  # type: ignore[arg-type]
    assert torch.equal(teacher(pixels), system.embedder(pixels))
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_codes_begin_as_words_that_are_alike_where_they_are(grounds: str) -> None:
    system = founded(grounds, "", 0, True)
    codebook, words = system.tokenizer.quantiser.codebook.weight, system.language.embed.weight
    with torch.no_grad():
        codebook.normal_()
        codebook[1] = codebook[0] + 0.01
    before = words.detach().clone()
    start_codes(system)
    first, count = system.format.first_code, system.format.codes
    begun = words[first : first + count].detach()
    likeness = torch.nn.functional.normalize(begun, dim=1) @ torch.nn.functional.normalize(begun, dim=1).T
    assert likeness[0, 1] > 0.95 > 0.7 > likeness[0, 2:].max()
    assert begun.std() == pytest.approx(before[:first].std().item(), rel=0.1)
    assert torch.equal(words[:first], before[:first]) and torch.equal(words[first + count :], before[first + count :])


def test_what_the_tiny_stages_train(grounds: str) -> None:
    system = founded(grounds, "", 0, True)
    contrast, codes, pretrain, whole, instruct = find("seed/tiny", [f"drawers={grounds}"]).stages
    assert [stage.name for stage in (contrast, codes, pretrain, whole, instruct)] == list(seed.TINY_STEPS)

    def moved(stage: Stage) -> set[str]:
        groups = assign(stage.updates[0].optimisers, [name for name, _ in system.named_parameters()])
        return {".".join(name.split(".")[:2]) for group in groups for name in group}

    qformer = {f"tokenizer.{part}" for part in ("qformer", "heads_of_qformer", "vision_norm")}
    assert moved(contrast) == qformer
    forget_texts(system)
    parts = ("down", "quantiser", "up", "reconstruct", "generate", "head")
    assert moved(codes) == {f"tokenizer.{part}" for part in (*parts, "qformer")}
    assert moved(whole) == {"language.decoder", "language.head"}
    system.adapt(seed.TINY_LORA)
    assert moved(pretrain) == moved(instruct) == {"language.decoder", "language.embed", "language.head"}
    for stage in (pretrain, whole, instruct):
        longest = max(len(system.layout(source[i])) for source in stage.data.sources.values() for i in range(40))
        assert longest <= stage.data.length + 1
    kinds = {name: source[0] for name, source in instruct.data.sources.items()}
    assert kinds.keys() == instruct.data.shares.keys()
    assert len(kinds["compositions"].images) == 3 and len(kinds["sketches"].images) == 2
    assert all(kinds[name].turns[1].text for name in ("draw", "edit", "edits", "compositions"))


def test_two_steps_of_every_tiny_stage(grounds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = find("seed/tiny", [f"drawers={grounds}"])
    monkeypatch.setattr(shapes, "CAPTION_TOKENS", 5)
    few = Held(scenes=1, never_seen=0, three=0)

    def fewer(task: Any) -> Any:
        counts = {"held": few, "count": 2, "pairs": 4}
        return replace(task, **{name: value for name, value in counts.items() if hasattr(task, name)})

    def small(stage: Stage) -> Stage:
        data = replace(stage.data, rows=4 if stage.data.length < 200 else 2, window=16)
        return replace(stage, data=data, precision="fp32", tasks=tuple(map(fewer, stage.tasks)))

    stages, tasks = tuple(map(small, recipe.stages)), tuple(map(fewer, recipe.tasks))
    torch.manual_seed(0)
    short = replace(recipe, stages=stages, tasks=tasks, probes=recipe.probes[-1:])
    Run(shortened(short, 2), tmp_path / "run").train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [name for name in seed.TINY_STEPS for _ in range(2)]
    assert all(line["skipped"] == line["broken"] == line["cut"] == 0 for line in lines)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["contrast"]["retrieval"]["causal"]["image_to_text"]["n"] == 4
    assert scores["codes"]["drawings"]["codes"]["n"] == 2
    done = ["caption", "vqa", "draw", "edit", "composition", "dialogue", "sketches"]
    assert list(scores) == ["contrast", "codes", *done]
    last = json.loads(sorted((tmp_path / "run" / "samples").glob("*.json"))[-1].read_text())
    assert [item["exchange"] for item in last["items"]] == ["0", "0-1", "0-2"]
    assert "what colour is the circle?" in (tmp_path / "run" / "report.html").read_text()
    trained = load(tmp_path / "run")
    assert isinstance(trained, Seed) and trained.config.lora and trained.tokenizer.qformer.text is None
