"""The stages of foundations/tiny: what each trains, what it leaves alone, two steps of each."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from plait.checkpoints import directory
from plait.data.shapes import Shapes
from plait.document import Document, Turn
from plait.nn.llama import LLaMAConfig
from plait.recipes import foundations
from plait.recipes.foundations import (
    begin_eva,
    begin_painter,
    begin_qformer,
    begin_unclip,
    bridge_stage,
    build,
    clip_stage,
    drawers,
    ensure_drawers,
    eva_stage,
    language_stage,
    painter_stage,
    qformer_stage,
    tiny,
    unclip_stage,
    vae_stage,
)
from plait.systems.foundations import DRAWERS, TINY, Foundations
from plait.text.pieces import SentencePiece
from plait.train.loop import Loop
from plait.train.optim import assign
from plait.train.parallel import Ranks
from plait.train.run import Run, shortened
from plait.train.stage import Stage

PAIRS = Shapes(seed=1, length=1000, objects=(1, 2, 3), mix={"caption": 1.0})
DRAWING = {"vae": vae_stage, "unclip": unclip_stage, "painter": painter_stage}
TRAINED = {
    "clip": ("clip.",),
    "eva": ("blip2.vision.",),
    "bridge": tuple(f"blip2.{part}." for part in ("vision", "vision_norm", "qformer", "projection", "language")),
    "qformer": ("qformer.", "heads_of_qformer."),
    "vae": ("unclip.diffusion.vae.",),
    "unclip": ("unclip.diffusion.unet.", "unclip.diffusion.canvas.", "embedder."),
    "painter": ("painter.diffusion.unet.", "painter.diffusion.canvas.", "prompter."),
}
LANGUAGE = LLaMAConfig(vocabulary=512, width=32, hidden=64, depth=1, heads=2)
SMALL = replace(TINY, blip2=replace(TINY.blip2, language=LANGUAGE))
WITH_DRAWERS = replace(SMALL, drawers=DRAWERS.drawers)
STAGES: dict[str, Callable[[dict[str, Source], int], Stage]] = {
    "clip": functools.partial(clip_stage, SMALL),
    "eva": functools.partial(eva_stage, SMALL),
    "bridge": bridge_stage,
    "qformer": qformer_stage,
}


@pytest.fixture(scope="module")
def text() -> SentencePiece:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foundations, "TOKENIZER_TEXTS", 300)
        return build(SMALL, PAIRS).format.text


@pytest.fixture
def system(text: SentencePiece) -> Foundations:
    torch.manual_seed(0)
    return Foundations(SMALL, text)


def stage(name: str) -> Stage:
    made = STAGES[name]({"shapes": PAIRS}, 2)
    return replace(made, data=replace(made.data, rows=2, window=64))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_its_part_and_nothing_else(name: str, system: Foundations) -> None:
    before = {key: tensor.clone() for key, tensor in system.state_dict().items()}
    loop = Loop(system, stage(name), Ranks())
    records = [loop.advance() for _ in range(2)]
    loop.finish()
    assert all(record["broken"] == record["skipped"] == 0 and record["sequences"] > 1 for record in records)
    changed = {key for key, tensor in system.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed
    for prefix in TRAINED[name]:
        assert any(key.startswith(prefix) for key in changed), prefix
    assert not [key for key in changed if not key.startswith(TRAINED[name])]


def test_every_matrix_of_the_blocks_goes_to_muon(system: Foundations) -> None:
    names = [name for name, _ in system.named_parameters()]
    for name in STAGES:
        others = names if name != "eva" else [*names, "predictor:head.weight"]
        muon, adamw = assign(stage(name).updates[0].optimisers, others)
        shapes = dict(system.named_parameters())
        assert muon and all(".blocks." in one and shapes[one].ndim == 2 for one in muon)
        assert not [one for one in adamw if ".blocks." in one and shapes[one].ndim == 2]


def test_towers_begin_with_what_was_learned_before(system: Foundations) -> None:
    begin_eva(system)
    assert torch.equal(system.eva.blocks[0].mlp.out.weight, system.clip.image.blocks[0].mlp.out.weight)
    assert torch.equal(system.eva.positions, system.clip.image.positions)
    begin_qformer(system)
    bridge, qformer = system.blip2.qformer, system.qformer
    assert bridge is not None and qformer.text is not None
    seen = torch.randn(2, 5, SMALL.blip2.vision.width)
    torch.testing.assert_close(bridge(seen), qformer(seen))


def test_the_recipe_trains_all_of_it() -> None:
    stages = [stage.name for stage in tiny().stages]
    assert stages == ["clip", "eva", "language", "bridge", "qformer"]
    assert [task.name for task in tiny().tasks][:2] == ["retrieval", "told"]


@pytest.fixture
def drawing(text: SentencePiece) -> Foundations:
    torch.manual_seed(0)
    return Foundations(WITH_DRAWERS, text)


@pytest.mark.parametrize("name", DRAWING)
def test_a_stage_of_what_draws_trains_its_part_and_nothing_else(name: str, drawing: Foundations) -> None:
    made = DRAWING[name]({"shapes": PAIRS}, 2)
    made = replace(made, data=replace(made.data, rows=2, window=64))
    loop = Loop(drawing, made, Ranks())
    before = {key: tensor.clone() for key, tensor in drawing.state_dict().items()}
    records = [loop.advance() for _ in range(2)]
    loop.finish()
    assert all(record["broken"] == record["skipped"] == 0 and record["sequences"] > 1 for record in records)
    changed = {key for key, tensor in drawing.state_dict().items() if not torch.equal(tensor, before[key])}
    for prefix in TRAINED[name]:
        assert any(key.startswith(prefix) for key in changed), prefix
    assert not [key for key in changed if not key.startswith(TRAINED[name])]


def test_what_draws_begins_with_what_was_learned_before(drawing: Foundations) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    begin_unclip(drawing)
    with torch.no_grad():
        torch.testing.assert_close(drawing.embedder.image(pixels), drawing.clip.image(pixels))
    begin_painter(drawing)
    assert torch.equal(drawing.prompter.words.weight, drawing.clip.text.words.weight)
    for name, tensor in drawing.vae.state_dict().items():
        assert torch.equal(drawing.painter.diffusion.vae.state_dict()[name], tensor), name


def test_drawers_begin_with_foundations_and_leave_their_recipe_alone(
    text: SentencePiece, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    found = Foundations(SMALL, text)
    saved = directory.save(found, tmp_path / "tiny")
    monkeypatch.setattr(foundations, "ensure", lambda where: saved)
    recipe = drawers(str(saved))
    system = recipe.build()
    assert isinstance(system, Foundations) and set(system.parts) > set(found.parts)
    for name, tensor in found.state_dict().items():
        assert torch.equal(system.state_dict()[name], tensor), name
    assert [stage.name for stage in recipe.stages] == ["vae", "unclip", "painter"]
    assert not {"vae", "unclip", "painter"} & {stage.name for stage in tiny().stages}

    short = replace(shortened(recipe, 1), tasks=())
    short = replace(short, stages=tuple(replace(s, data=replace(s.data, rows=1, window=64)) for s in short.stages))
    monkeypatch.setattr(foundations, "drawers", lambda where: short)
    folder = ensure_drawers(tmp_path / "drawers", str(saved))
    assert directory.load(folder).config.drawers == DRAWERS.drawers
    monkeypatch.setattr(
        foundations, "drawers", lambda where: recipe
    )  # of more steps, which a finished run does not need
    assert ensure_drawers(tmp_path / "drawers", str(saved)) == folder


@pytest.fixture(scope="module")
def whole() -> Foundations:
    torch.manual_seed(0)
    return build(TINY, tiny().build.args[1])  # type: ignore[attr-defined]


def test_the_language_stage_trains_the_language_model_alone(whole: Foundations) -> None:
    names = [name for name, _ in whole.named_parameters()]
    muon, adamw = assign(language_stage(steps=2).updates[0].optimisers, names)
    assert set(muon) | set(adamw) == {name for name in names if name.startswith("blip2.language.")}
    assert all(whole.get_parameter(name).ndim == 2 for name in muon)


def test_every_word_of_the_world_is_few_pieces(whole: Foundations) -> None:
    text = whole.format.text
    for words in ("large red circle top left", "what colour is the small diamond?", "yes"):
        assert len(text.encode(words)) <= len(words.replace("?", " ?").split()), words


def test_documents_fit_a_row_and_predict_answers(whole: Foundations) -> None:
    data = language_stage(steps=2).data
    for i in range(100):
        sequence = whole.format.layout(data.sources["told"][i])
        assert 1 < len(sequence) <= data.length + 1
        assert any(target.weight.any() for span in sequence.spans for target in span.targets)


def test_the_end_of_an_answer_is_predicted(whole: Foundations) -> None:
    laid = whole.format.layout(Document([Turn("user", "red?"), Turn("assistant", "yes")]))
    assert laid.ids()[-1] == whole.format.text.eos
    assert laid.spans[-1].targets[0].weight[-1] == 1


def test_two_steps_of_the_language_stage(tmp_path) -> None:
    recipe = shortened(replace(tiny(), stages=(language_stage(steps=2),), tasks=()), 2)
    torch.manual_seed(0)
    Run(recipe, tmp_path).train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["language"] * 2
    assert not any(record["skipped"] or record["cut"] for record in records)
