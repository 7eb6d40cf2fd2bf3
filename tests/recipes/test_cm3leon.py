from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from plait.checkpoints.directory import load
from plait.config import override, read_yaml
from plait.data.shards import ShardWriter
from plait.document import Blank, Document, Image, Turn
from plait.errors import InputError
from plait.nn.quantise import CodebookUpkeep
from plait.recipes import cm3leon, find
from plait.recipes.cm3leon import build, pretrain_stage, texts, tiny, tokenizer_stage
from plait.systems.cm3leon import TINY, CM3Leon, CM3LeonConfig
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


def test_the_stages_together_train_everything_once(system: CM3Leon) -> None:
    tokenizer, pretrain = trained(tiny(), system)
    assert tokenizer == {name for name, _ in system.named_parameters() if name.startswith("image_tokenizer.")}
    assert pretrain == {name for name, _ in system.named_parameters()} - tokenizer


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
    assert [task.name for task in recipe.tasks] == ["caption", "vqa", "draw"]
    drawn = [probe for probe in recipe.probes if probe.prompt.pieces[-1] == Blank("image")]
    said = [probe for probe in recipe.probes if probe not in drawn]
    assert drawn and said
    assert all(probe.reference for probe in said)
    assert recipe.stages == tiny().stages


# ----------------------------------------------------------------------------------------------- imported


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
