"""KOSMOS-1's stages: what trains and how fast, in what proportions, and two steps of each."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import plait
from plait.checkpoints.directory import load, save
from plait.data.packs import Elements
from plait.data.shapes import Shapes
from plait.data.shapes.corpora import ToldInstructions
from plait.data.shapes.questions import KINDS
from plait.data.shards import ShardWriter
from plait.document import Document, Image, Text, Turn
from plait.errors import CheckpointError, ConfigError
from plait.evaluate.shots import TRAINED
from plait.recipes import find, foundations, kosmos1
from plait.recipes.kosmos1 import CORPORA, INSTRUCTED, LENGTH, MOST_WORDS, TINY_STEPS
from plait.systems.foundations import TINY as FOUNDATIONS
from plait.systems.kosmos1 import SIZES, TINY, build
from plait.train.optim import assign
from plait.train.run import Run, shortened
from plait.train.stage import Recipe, Stage


def picture(seed: int) -> Image:
    return Image(PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)))


def written(folder: Path, documents: list[Document]) -> str:
    with ShardWriter(folder) as writer:
        for i, document in enumerate(documents):
            writer.add(f"{i:04d}", document)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A directory of each corpus."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "text": written(folder / "text", [Document(f"line {i}\nand another\n\nthe end") for i in range(8)]),
        "captions": written(folder / "captions", [Document([picture(i), f"picture {i}"]) for i in range(8)]),
        "pages": written(
            folder / "pages", [Document([piece for j in range(7) for piece in (picture(j), f"text {j}")])] * 8
        ),
        "instructions": written(
            folder / "instructions", [Document([Turn("user", "1 + 1?"), Turn("assistant", "2")])] * 8
        ),
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(build("tiny"), tmp_path_factory.mktemp("base") / "saved")


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Foundations with random weights."""
    torch.manual_seed(2)
    system = foundations.build(FOUNDATIONS, Shapes(seed=0, length=20, mix={"describe": 1.0}))
    return str(save(system, tmp_path_factory.mktemp("foundations") / "saved"))


def given(data: dict[str, str], *names: str) -> str:
    return "data={" + ", ".join(f"{name}: {data[name]}" for name in names) + "}"


def small(recipe: Recipe, steps: int = 2) -> Recipe:
    """A few steps of two rows a stage, in fp32."""

    def of(stage: Stage) -> Stage:
        length = min(stage.data.length, 300 if stage.data.transforms else 200)  # what is cut has no picture whole
        data = replace(stage.data, rows=2, length=length, window=16)
        return replace(stage, precision="fp32", data=data, tasks=())

    return shortened(replace(recipe, stages=tuple(map(of, recipe.stages)), probes=(), tasks=()), steps)


def go(recipe: Recipe, folder: Path) -> Path:
    torch.manual_seed(0)
    Run(recipe, folder).train()
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


# ------------------------------------------------------------------------------------------------- published


def test_pretraining_has_the_published_numbers(data: dict[str, str]) -> None:
    (stage,) = find("kosmos1/paper", ["base=nowhere", given(data, "text", "captions", "pages")]).stages
    assert (stage.name, stage.steps, stage.accumulate) == ("pretrain", 300_000, 1)
    (update,) = stage.updates
    (adam,) = update.optimisers
    assert (adam.kind, adam.lr, adam.betas, adam.eps, adam.weight_decay) == (
        "adamw_fairseq",
        2e-4,
        (0.9, 0.98),
        1e-6,
        0.01,
    )
    assert adam.train == ("language.*", "resampler.*", "vision.blocks.23.*") and update.clip == 2.0
    factors = [stage.schedule.factor(step, 300_000) for step in (0, 375, 150_187, 300_000)]
    assert factors == pytest.approx([0, 1, 0.5, 0], abs=1e-4)
    assert (stage.data.rows, stage.data.length) == (640, LENGTH - 1) and stage.data.joined == ("text",)
    assert stage.data.rows * LENGTH == sum(CORPORA.values()) == 1_310_720


def test_instructions_have_the_published_numbers(data: dict[str, str]) -> None:
    words = ["base=nowhere", given(data, "text", "captions", "pages"), f"instructions={data['instructions']}"]
    _, stage = find("kosmos1/paper", words).stages
    assert (stage.name, stage.steps, stage.updates[0].optimisers[0].lr) == ("language_instruct", 10_000, 2e-5)
    assert stage.schedule.factor(375, 10_000) == 1 and stage.schedule.factor(10_000, 10_000) == 0
    assert stage.data.shares == {name: float(count) for name, count in INSTRUCTED.items()}
    (alone,) = find("kosmos1/paper", [words[0], words[2]]).stages
    assert list(alone.data.sources) == ["instructions"] and alone.data.joined == ()


def test_the_last_block_of_the_tower_trains_and_the_others_stay() -> None:
    for size, config in SIZES.items():
        stage = kosmos1.pretrain_stage(config, find("kosmos1/tiny").stages[0].data, steps=1, lr=1.0)
        if size == "tiny":
            names = [name for name, _ in build("tiny").named_parameters()]
            (mine,) = assign(stage.updates[0].optimisers, names)
            left = {name for name in names if name not in mine}
            assert all(name.startswith("vision.") for name in left)
            assert {name.split(".")[2] for name in left if "blocks" in name} == {"0", "1", "2"}
            assert {"vision.positions", "vision.norm.weight", "vision.patch.weight"} <= left


def test_pages_end_behind_five_pictures(data: dict[str, str]) -> None:
    (stage,) = find("kosmos1/paper", ["base=nowhere", given(data, "pages")]).stages
    document = stage.data.sources["pages"][0]
    assert len(document.images) == 5 and document.pieces[-1] == Text("text 4")


def test_what_is_missing_is_said(data: dict[str, str], base: Path, grounds: str) -> None:
    for words, message in (
        ([], "needs a value for base"),
        (["base=x"], "has no data: give --set data={text: DIR"),
        (["base=x", "size=2b", given(data, "text")], "no size '2b'"),
        (["base=x", f"data={{texts: {data['text']}}}"], "no corpus 'texts'; did you mean 'text'"),
    ):
        with pytest.raises(ConfigError, match=message):
            find("kosmos1/paper", words)
    with pytest.raises(CheckpointError, match="no such directory"):
        find("kosmos1/paper", ["base=nowhere", given(data, "text")]).build()
    with pytest.raises(ConfigError, match=r"has a tower of .*, the size 1\.6b one of"):
        find("kosmos1/paper", [f"base={base}", given(data, "text")]).build()
    with pytest.raises(CheckpointError, match="holds foundations"):
        find("kosmos1/paper", [f"base={grounds}", "size=tiny", given(data, "text")]).build()


def test_a_new_model_has_the_tower_and_the_pieces_of_its_base(data: dict[str, str], base: Path) -> None:
    words = [f"base={base}", "size=tiny", given(data, "text")]
    torch.manual_seed(5)
    made, old = find("kosmos1/paper", words).build(), load(base)
    assert made.format.text == old.format.text and moved(made.vision.state_dict(), old.vision.state_dict()) == set()
    assert not torch.equal(made.resampler.queries, old.resampler.queries)
    same = find("kosmos1/paper", [*words, "fresh=false"]).build()
    assert moved(same.state_dict(), old.state_dict()) == set()


def test_two_steps_of_both_published_stages(data: dict[str, str], base: Path, tmp_path: Path) -> None:
    words = [f"base={base}", "size=tiny", given(data, "text", "captions", "pages")]
    recipe = find("kosmos1/paper", [*words, f"instructions={data['instructions']}", "fresh=false"])
    folder = go(small(recipe), tmp_path / "run")
    assert [record["stage"] for record in records(folder)] == ["pretrain"] * 2 + ["language_instruct"] * 2
    assert all(record["skipped"] == record["broken"] == 0 for record in records(folder))
    changed = moved(load(base).state_dict(), load(folder).state_dict())
    assert {name.split(".")[0] for name in changed} == {"language", "resampler", "vision"}
    assert {name.split(".")[2] for name in changed if name.startswith("vision")} == {"3"}
    reply = plait.load(folder).generate(Document([picture(0), "An image of"]), max_new_tokens=3)
    assert len(reply.runs[0].ids) <= 3


def test_corpora_share_a_batch_by_elements(data: dict[str, str]) -> None:
    torch.manual_seed(0)
    system = build("tiny")
    mix = find("kosmos1/paper", ["base=x", given(data, "text", "captions", "pages")]).stages[0].data
    elements = Elements(replace(mix, length=300, window=400, rows=8), system.format)
    rows = [sequence for row in elements._window(0).rows for sequence in row]
    begins = [sequence.ids()[0] for sequence in rows]
    assert set(begins) == {system.format.text.bos}  # blocks of text begin as documents do
    pictured = [sequence for sequence in rows if sequence.pictures]
    pages = sum(len(sequence) for sequence in pictured if len(sequence.pictures) == 5)
    captions = sum(len(sequence) for sequence in pictured if len(sequence.pictures) == 1)
    text = sum(len(sequence) for sequence in rows if not sequence.pictures)
    assert captions == pytest.approx(2 * pages, rel=0.25) and text == pytest.approx(captions, rel=0.25)


# ------------------------------------------------------------------------------------------------------ tiny


def test_the_tower_of_foundations_sees_larger_pictures(grounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kosmos1, "ensure", Path)
    monkeypatch.setattr(kosmos1, "TOKENIZER_TEXTS", 12)
    recipe = find("kosmos1/tiny", [f"foundations={grounds}"])
    system, given = recipe.build(), load(grounds).clip.image
    assert system.config.vision.image_size == 64 and TINY.vision.image_size == 32
    assert system.vision.positions.shape == (1, 65, 128)
    assert moved(system.vision.state_dict(), given.state_dict() | {"positions": system.vision.positions}) == set()
    assert torch.equal(system.vision.positions[:, 0], given.positions[:, 0])
    other = find("kosmos1/tiny", [f"foundations={grounds}", "seed=1"]).build()
    assert not torch.equal(system.resampler.queries, other.resampler.queries)
    assert len(system.format.text) <= system.config.language.vocabulary


def test_positions_on_a_finer_grid() -> None:
    ramp = torch.arange(4.0).expand(4, 4)
    positions = torch.cat((torch.full((1, 1, 2), 9.0), torch.stack((ramp, ramp.T), -1).reshape(1, 16, 2)), dim=1)
    fine = kosmos1.widened(positions, 64)
    assert fine.shape == (1, 65, 2) and torch.equal(fine[:, 0], positions[:, 0])
    across, down = fine[0, 1:].reshape(8, 8, 2).unbind(-1)
    assert torch.allclose(across, down.T) and torch.allclose(across, across[:1].expand(8, 8), atol=1e-5)
    assert torch.allclose(across[0, 2:6], torch.tensor([0.75, 1.25, 1.75, 2.25]), atol=0.1)
    assert torch.allclose(kosmos1.widened(positions, 16), positions, atol=1e-6)


def test_two_steps_of_every_stage(grounds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kosmos1, "ensure", Path)
    monkeypatch.setattr(kosmos1, "TOKENIZER_TEXTS", 12)
    recipe = small(find("kosmos1/tiny", [f"foundations={grounds}"]))
    folder = go(recipe, tmp_path / "run")
    assert [record["stage"] for record in records(folder)] == [name for name in TINY_STEPS for _ in range(2)]
    assert all(record["skipped"] == record["broken"] == 0 for record in records(folder))
    before, after = recipe.build().vision.state_dict(), load(folder).vision.state_dict()
    assert "patch.weight" in moved(before, after)  # the first stages move all of it


def test_half_of_the_questions_stand_in_pages() -> None:
    *_, pretrain, instruct = find("kosmos1/tiny").stages
    sources = pretrain.data.sources
    assert len(TRAINED) == len(KINDS) / 2
    for name in ("questions", "shots"):
        asked = sources[f"pages/{name}"]
        shapes = asked.source.source if name == "shots" else asked.source
        assert set(shapes.asks) == set(TRAINED)
        assert asked[0].text.startswith("Question: ")
    told = instruct.data.sources["instructions/told"]
    assert isinstance(told, ToldInstructions) and set(told.shapes.asks) == set(KINDS)


def test_stages_follow_each_other_with_the_same_data_and_seeds_differ() -> None:
    stages = find("kosmos1/tiny").stages
    reading, tower, lists, pretrain, instruct = stages
    assert set(pretrain.data.sources) < set(instruct.data.sources)
    assert set(tower.data.sources) - set(pretrain.data.sources) == {"pages/read"}
    assert not any(len(one.text.split()) > MOST_WORDS - 8 for one in islice(reading.data.sources["bare"], 200))
    assert tower.data.joined == () and set(pretrain.data.joined) == {"text/statements", "text/told"}
    concluded = {f"text/{name}" for name in ("lists", "episodes", "matrices", "opinions")}
    assert {name for name in tower.data.sources if name.startswith("text/")} == concluded
    assert "captions/nouns" in set(pretrain.data.sources) - set(tower.data.sources)
    assert set(tower.data.sources) - set(lists.data.sources) == concluded - {"text/lists"}
    other = find("kosmos1/tiny", ["seed=1"]).stages
    assert all(one.data.seed != two.data.seed for one, two in zip(stages, other, strict=True))


def test_what_is_invented_for_one_document_is_no_word_of_the_pieces() -> None:
    said = ["a dakub. a dakub and a dakub", "a circle", "one circle is a ring"]
    assert set(kosmos1.frequent(said, 2)) == {"a", "circle"}
