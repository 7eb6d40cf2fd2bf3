from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from plait.checkpoints.directory import load, load_as, save
from plait.config import override, read_yaml
from plait.data.shards import ShardWriter
from plait.document import Blank, Document, Image, Turn
from plait.errors import CheckpointError, ConfigError, InputError
from plait.evaluate.cases import SUBJECTS, ShapesCases
from plait.evaluate.shapes import Held
from plait.nn.quantise import CodebookUpkeep
from plait.recipes import cm3leon, find
from plait.recipes.cm3leon import balanced, build, fresh, pretrain_stage, texts, tiny, tokenizer_stage
from plait.systems.cm3leon import SIZES, TINY, CM3Leon, CM3LeonConfig
from plait.text.bpe import BPE
from plait.text.tasks import TASKS
from plait.train.optim import assign
from plait.train.run import Run, shortened
from plait.train.stage import Recipe

SMALL = [
    "stages.tokenizer.data.rows=4",
    "stages.pretrain.data.rows=1",
    "stages.tokenizer.data.window=8",
    "stages.pretrain.data.window=8",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an import leaves: two splits of pictures with captions."""
    folder = tmp_path_factory.mktemp("import")
    for split, count in (("train", 20), ("test", 3)):
        with ShardWriter(folder / split) as writer:
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (24, 16, 3), dtype=np.uint8)
                document = Document([f"{split} picture {i % 12}", Image(PIL.Image.fromarray(pixels))])
                writer.add(f"{i:04d}", document)
    return folder


@pytest.fixture(scope="module")
def system(directory: Path) -> CM3Leon:
    """What the recipe on shapes begins with."""
    torch.manual_seed(0)
    return build(TINY, tiny(str(directory)).stages[0].data.sources["data"])


def trained(recipe: Recipe, system: CM3Leon) -> list[set[str]]:
    """What each stage trains."""
    names = [name for name, _ in system.named_parameters()]
    return [
        {name for update in stage.updates for group in assign(update.optimisers, names) for name in group}
        for stage in recipe.stages
    ]


def test_the_stages_train_the_tokenizer_and_then_all_else(system: CM3Leon) -> None:
    tokenizer, pretrain, finetune = trained(tiny(), system)
    assert tokenizer == {name for name, _ in system.named_parameters() if name.startswith("image_tokenizer.")}
    assert pretrain == finetune == {name for name, _ in system.named_parameters()} - tokenizer


def test_matrices_of_the_decoder_go_to_muon(system: CM3Leon) -> None:
    muon, adamw = tiny().stages[1].updates[0].optimisers
    assert (muon.kind, muon.train) == ("muon", ("decoder.*",))
    assert adamw.kind == "adamw"
    assert all(weight.ndim == 2 for weight in system.decoder.parameters())


def test_a_stage_fits_its_sizes(cm3leon_config: CM3LeonConfig) -> None:
    for raster in (False, True):
        config = replace(cm3leon_config, raster=raster)
        stage = pretrain_stage(config, {"a": [Document("a")]}, steps=3)
        assert stage.data.length == config.positions
        assert ("places.*" in stage.updates[0].optimisers[1].train) == raster
        (mask,) = stage.data.transforms
        voc = config.vocabulary
        assert mask.sentinels == tuple(range(voc.first_sentinel, voc.first_sentinel + 4))
        assert (mask.end, mask.boundaries) == (voc.eoss, (voc.brk, voc.eos))
    tokenizer = tokenizer_stage(cm3leon_config, {"a": [Document("a")]}, steps=3)
    assert (tokenizer.data.reads, tokenizer.data.length) == ("pictures", 15)


def test_the_codebook_is_kept_in_use(cm3leon: CM3Leon, cm3leon_config: CM3LeonConfig) -> None:
    stage = tokenizer_stage(cm3leon_config, {"a": [Document("a")]}, steps=3)
    upkeep = stage.companions["upkeep"](cm3leon)
    assert isinstance(upkeep, CodebookUpkeep)
    assert (len(upkeep.usage), upkeep.sums.shape) == (16, (16, 4))


def test_the_vocabulary_is_learned_from_the_first_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(["one two", Image(b"")]), Document([Turn("user", ["three"])]), Document("unread")]
    assert list(texts(documents, 2)) == ["one two", "three"]
    assert list(texts(documents[:1], 5)) == ["one two"]
    monkeypatch.setattr(cm3leon, "TOKENIZER_TEXTS", 1)
    again = [Document("xyzzy xyzzy"), Document("plugh plugh")]
    text = build(replace(TINY, width=12, depth=1, text_tokens=260), again).format.text  # type: ignore[attr-defined]
    assert len(text.encode("xyzzy")) < 5 == len(text.encode("plugh"))


def test_the_shapes_recipe_asks_for_drawings_and_words() -> None:
    recipe = tiny()
    pretraining = [task.name for task in recipe.stages[1].tasks]
    assert pretraining == ["caption", "vqa", "draw"]
    assert [task.name for task in recipe.tasks] == [*pretraining, *cm3leon.SCORED]
    assert set(cm3leon.SCORED) <= set(SUBJECTS)
    drawn = [probe for probe in recipe.probes if probe.prompt.pieces[-1] == Blank("image")]
    said = [probe for probe in recipe.probes if probe not in drawn]
    assert drawn and said
    assert all(probe.reference for probe in said)
    assert recipe.stages == tiny().stages


def test_two_steps_of_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cm3leon, "TOKENIZER_TEXTS", 50)
    monkeypatch.setattr(cm3leon, "TINY", replace(TINY, width=24, depth=1, heads=2))
    recipe = shortened(
        find("cm3leon/tiny", [*SMALL, "stages.finetune.data.rows=2", "stages.finetune.data.window=8"]), 2
    )
    held, few = Held(scenes=1, never_seen=0, three=0, questions=1), {"edit", "writing"}
    scored = tuple(replace(task, held=held) for task in recipe.stages[1].tasks[1:2])  # type: ignore[type-var, call-arg]
    tuned = tuple(replace(task, count=1) for task in recipe.tasks if isinstance(task, ShapesCases) and task.name in few)
    tokenizer, pretrain, finetune = recipe.stages
    stages = (tokenizer, replace(pretrain, tasks=scored), finetune)
    torch.manual_seed(0)
    Run(replace(recipe, stages=stages, tasks=tuned, probes=()), tmp_path / "run").train()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["tokenizer"] * 2 + ["pretrain"] * 2 + ["finetune"] * 2
    assert all(record["skipped"] == record["broken"] == record["cut"] == 0 for record in records)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert list(scores) == ["pretrain", "edit", "writing"] and list(scores["pretrain"]) == ["vqa"]
    assert scores["edit"]["n"] == 1


def test_fine_tuning_is_on_all_its_tasks_and_some_of_pretraining() -> None:
    recipe = tiny()
    tokenizer, _, finetune = recipe.stages
    assert set(finetune.data.sources) == set(finetune.data.shares) == set(cm3leon.TUNED)
    assert sum(cm3leon.TUNED.values()) == pytest.approx(1) == sum(cm3leon.PICTURED.values())
    assert {SUBJECTS[name].kind for name in cm3leon.SCORED} <= set(finetune.data.sources)
    assert set(tokenizer.data.sources) == set(cm3leon.PICTURED)
    texts = [piece.text for i in range(50) for piece in recipe.build.args[1][i] if hasattr(piece, "text")]  # type: ignore[attr-defined]
    system = CM3Leon(TINY, BPE.train(texts, 400))
    longest = 0
    for source in finetune.data.sources.values():
        for i in range(20):
            document = source[i]
            laid = system.layout(document)
            longest = max(longest, len(laid))
            targets = {target.kind for span in laid.spans for target in span.targets}
            answered = [turn.pieces for turn in document.turns if turn.role == "assistant"] or [document.pieces]
            drawn = any(isinstance(piece, Image) for pieces in answered for piece in pieces)
            assert "token" in targets and ("code" in targets) == drawn  # what is asked is not learned
    assert 2 * 64 < longest < TINY.positions


# ---------------------------------------------------------------------------------------------- published


@pytest.fixture(scope="module")
def instructions(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Records of two tasks."""
    folder = tmp_path_factory.mktemp("records")
    pictures = [Image(PIL.Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue")]
    with ShardWriter(folder / "edits") as writer:
        for i in range(8):
            writer.add(f"{i}", Document([pictures[0], f"make it blue, {i}", pictures[1]]))
    with ShardWriter(folder / "questions") as writer:
        for i in range(12):
            writer.add(f"{i}", Document([Turn("user", [pictures[i % 2], "which?"]), Turn("assistant", "red")]))
    return {"edit": str(folder / "edits"), "vqa": str(folder / "questions")}


def given(instructions: dict[str, str]) -> str:
    return f"instructions={json.dumps(instructions)}"


@pytest.mark.parametrize(
    ("size", "lr", "steps", "tokens"), [("350m", 6e-4, 167, 1.4), ("760m", 5e-4, 227, 1.9), ("7b", 1.2e-4, 286, 2.4)]
)
def test_pretraining_has_the_published_numbers(
    directory: Path, size: str, lr: float, steps: int, tokens: float, bpe: BPE
) -> None:
    recipe = find("cm3leon/paper", ["base=nowhere", f"size={size}", f"data={directory}"])
    (stage,) = recipe.stages
    (update,) = stage.updates
    (optimiser,) = update.optimisers
    assert (optimiser.lr, optimiser.betas, optimiser.weight_decay, update.clip) == (lr, (0.9, 0.95), 0.1, 1.0)
    assert (stage.name, stage.steps, stage.data.policy, stage.precision) == ("pretrain", 1000 * steps, "stream", "bf16")
    batch = stage.data.rows * stage.accumulate * stage.data.length
    assert stage.data.length == 4096 and round(batch / 1e6, 1) == 8.4
    assert batch * stage.steps / 1e12 == pytest.approx(tokens, rel=3e-3)
    rates = [stage.schedule.factor(step, stage.steps) for step in (0, 1499, stage.steps)]
    assert rates == pytest.approx([1 / 1500, 1.0, 0.1])
    (mask,) = stage.data.transforms
    voc = SIZES[size].vocabulary
    assert (mask.boundaries, len(mask.sentinels)) == ((voc.brk, voc.eos), 512)  # type: ignore[attr-defined]
    with torch.device("meta"):
        system = CM3Leon(SIZES[size], bpe)
    (moved,) = trained(recipe, system)
    assert moved == {name for name, _ in system.named_parameters() if not name.startswith("image_tokenizer.")}


def test_fine_tuning_has_the_published_numbers(instructions: dict[str, str]) -> None:
    (stage,) = find("cm3leon/paper", ["base=nowhere", given(instructions)]).stages
    assert (stage.name, stage.steps, stage.data.rows * stage.data.length) == ("finetune", 15_000, 2**21)
    assert stage.updates[0].optimisers[0].lr == 5e-5
    assert [stage.schedule.factor(step, 15_000) for step in (0, 149)] == pytest.approx([1 / 150, 1])
    assert {name: len(source) for name, source in stage.data.sources.items()} == {"edit": 8, "vqa": 36}
    assert stage.data.shares == {"edit": 22.0, "vqa": 22.0}
    whole = stage.data.sources["vqa"][0]
    assert not whole.turns and whole.text == "Question: which? Answer: red."


def test_small_and_large_data_sets_are_balanced_within_bounds() -> None:
    shares = balanced({"small": 10, "middle": 1000, "large": 20_000})
    mean = 21_010 / 3
    assert shares == pytest.approx({"small": 30, "middle": 3000, "large": mean})
    assert balanced({"a": 10_000_000, "b": 1, "c": 1, "d": 1})["a"] == pytest.approx(3_000_000)
    assert balanced({"a": 5}) == {"a": 5.0}


def test_both_stages_and_what_is_missing(directory: Path, instructions: dict[str, str]) -> None:
    both = find("cm3leon/paper", ["base=nowhere", f"data={directory}", given(instructions)])
    assert [stage.name for stage in both.stages] == ["pretrain", "finetune"]
    for settings, message in (
        (["base=nowhere"], "cm3leon/paper has no data: give --set data=DIR"),
        (["base=nowhere", "size=1b", f"data={directory}"], "no size '1b' was published"),
        (["base=nowhere", given({"edits": "somewhere"})], "no task 'edits'; did you mean 'edit'"),
        (["base=nowhere", f"data=[{directory}, {directory}]"], "2 directories of data with 1 names"),
        ([f"data={directory}"], "needs a value for base"),
    ):
        with pytest.raises(ConfigError, match=message):
            find("cm3leon/paper", settings)
    with pytest.raises(CheckpointError, match="no such directory"):
        both.build()


def test_what_it_begins_with(cm3leon: CM3Leon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(cm3leon, tmp_path / "base")
    again = load_as(tmp_path / "base", CM3Leon)
    assert torch.equal(again.embed.weight, cm3leon.embed.weight)
    monkeypatch.setitem(SIZES, "350m", replace(TINY, width=24, depth=1, heads=2))
    new = fresh(str(tmp_path / "base"), "350m")
    assert (new.config.width, new.config.image) == (24, cm3leon.config.image)
    state = new.image_tokenizer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in cm3leon.image_tokenizer.state_dict().items())
    assert new.format.text.encode("a cat") == cm3leon.format.text.encode("a cat")  # type: ignore[attr-defined]


def test_published_stages_train(
    cm3leon: CM3Leon, directory: Path, instructions: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(cm3leon, tmp_path / "base")
    small = replace(TINY, image=cm3leon.config.image, width=24, depth=1, heads=2, positions=64)
    monkeypatch.setitem(SIZES, "350m", small)
    address = [f"base={tmp_path / 'base'}", "size=350m", f"data={directory}", given(instructions)]
    settings = [f"stages.{name}.data.{key}" for name in ("pretrain", "finetune") for key in ("rows=2", "window=8")]
    recipe = shortened(find("cm3leon/paper", [*address, *settings]), 2)
    torch.manual_seed(0)
    Run(recipe, tmp_path / "run").train()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["pretrain"] * 2 + ["finetune"] * 2
    assert [record["tokens"] > 100 for record in records] == [True] * 4
    assert all(record["skipped"] == record["broken"] == 0 for record in records)


# ----------------------------------------------------------------------------------------------- imported


def test_imported_data_may_have_tasks_of_its_own(directory: Path, instructions: dict[str, str]) -> None:
    recipe = find("cm3leon/tiny", [f"data={directory}", given(instructions)])
    finetune = recipe.stages[2]
    assert set(finetune.data.sources) == {"data", "edit", "vqa"}
    assert finetune.data.sources["vqa"][0].turns[1].text == "red."
    assert finetune.data.sources["edit"].templates == TASKS["edit"]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="instructions for 2 tasks but no data"):
        find("cm3leon/tiny", [given(instructions)])


def test_an_imported_directory_trains(directory: Path, tmp_path: Path) -> None:
    recipe = shortened(find("cm3leon/tiny", [f"data={directory}", *SMALL]), 2)
    torch.manual_seed(0)
    Run(replace(recipe, probes=recipe.probes[:1]), tmp_path / "run").train()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["stage"], record["stage_step"]) for record in records] == [
        ("tokenizer", 0),
        ("tokenizer", 1),
        ("pretrain", 0),
        ("pretrain", 1),
    ]
    config = read_yaml(tmp_path / "run" / "config.yaml")
    assert config["stages"][0]["data"]["sources"]["data"]["root"] == str(directory / "train")
    assert load(tmp_path / "run").config == recipe.build.args[0]  # type: ignore[attr-defined]
    (sample,) = (tmp_path / "run" / "samples").glob("*4.json")
    assert json.loads(sample.read_text())["items"][0]["image"]
    assert not (tmp_path / "run" / "scores.json").exists()


def test_only_the_training_split_is_read(directory: Path) -> None:
    recipe = tiny(str(directory))
    sources = [stage.data.sources["data"] for stage in recipe.stages]
    assert [len(source) for source in sources] == [20, 20]
    assert sources[0][0].text.startswith("train")
    assert len(pickle.loads(pickle.dumps(sources[0]))) == 20


def test_probes_are_captions_of_the_data(directory: Path) -> None:
    recipe = tiny(str(directory))
    asked = [probe.prompt.text for probe in recipe.probes]
    assert asked == [f"train picture {i}" for i in range(10)]  # of 12 different ones
    assert all(probe.prompt.pieces[-1] == Blank("image") for probe in recipe.probes)
    assert recipe.tasks == ()


def test_a_directory_without_splits_is_read_whole(directory: Path) -> None:
    assert len(tiny(str(directory / "test")).stages[0].data.sources["data"]) == 3


def test_splits_without_a_training_one_are_refused(directory: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(directory / "test")
    with pytest.raises(InputError, match=r"2 splits \(one, two\) and none is chosen"):
        tiny(str(tmp_path))
    with pytest.raises(InputError, match="holds no shards"):
        tiny(str(tmp_path / "absent"))


def test_another_directory_is_another_run(directory: Path, tmp_path: Path) -> None:
    Run(tiny(str(directory)), tmp_path / "run")
    Run(tiny(str(directory)), tmp_path / "run")
    with pytest.raises(InputError, match=r"differs in \d settings, such as build\.arguments\.1\.root"):
        Run(tiny(str(directory / "test")), tmp_path / "run")
    with pytest.raises(InputError, match=r"differs in 1 settings, such as stages\.tokenizer\.data\.rows"):
        Run(override(tiny(str(directory)), SMALL[:1]), tmp_path / "run")
