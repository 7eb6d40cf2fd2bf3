from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plait.data.packs import Data
from plait.document import Document, Image, Turn, Video
from plait.errors import TrainingError
from plait.nn.vqgan import Discriminator
from plait.objectives.reconstruction import Adversary, Discriminate, Reconstruct
from plait.objectives.tokens import NextToken
from plait.recipes.cm3leon import finetune_stage, pretrain_stage, tokenizer_stage
from plait.sequence import Batch
from plait.systems.cm3leon import CM3Leon, CM3LeonConfig
from plait.text.bpe import BPE
from plait.train.loop import Loop
from plait.train.parallel import Ranks
from plait.train.stage import Optimiser, Schedule, Stage, Update

Picture = Callable[[int], Image]
Make = Callable[[], CM3Leon]

TIMES = ("tokens_per_s", "wait_s", "step_s")
LAST = {"main.5.bias"}  # what real and made pictures want of it cancels at first
PINNED = {  # losses of two steps, in fp32
    "tokenizer": [0.4954102, 0.4342750],
    "pretrain": [10.0093720, 9.9475972],
    "finetune": [5.7425999, 5.7371434],
    "adversarial": [0.5843148, 0.5885367],
}


@pytest.fixture(scope="module")
def make(cm3leon_config: CM3LeonConfig, bpe: BPE) -> Make:
    """The same system again and again."""

    def system() -> CM3Leon:
        torch.manual_seed(0)
        return CM3Leon(replace(cm3leon_config, init_std=0.02, position_std=0.02), bpe)

    return system


@pytest.fixture(scope="module")
def stages(cm3leon_config: CM3LeonConfig, picture: Picture) -> dict[str, Stage]:
    """The stages of the tiny recipe, and one with a discriminator, on a few small pictures."""
    sources = {"squares": [Document([f"square number {i}", picture(i)]) for i in range(12)]}

    def small(stage: Stage, rows: int) -> Stage:
        return replace(stage, data=replace(stage.data, rows=rows, window=6), precision="fp32")

    tokenizer = small(tokenizer_stage(cm3leon_config, sources, steps=6), rows=4)
    pretrain = small(pretrain_stage(cm3leon_config, sources, steps=6), rows=2)
    tasks = {
        "edits": [Document([picture(i), f"make it number {i + 1}", picture(i + 1)]) for i in range(6)],
        "asked": [Document([Turn("user", [picture(i), "which?"]), Turn("assistant", f"number {i}")]) for i in range(6)],
    }
    finetune = small(finetune_stage(cm3leon_config, tasks, steps=6), rows=2)
    adversary = Adversary(start=1)
    adversarial = replace(
        tokenizer,
        name="adversarial",
        updates=(
            Update(
                objective=Reconstruct(adversary=adversary),
                optimisers=(Optimiser(train=("image_tokenizer.*",), lr=1e-3),),
            ),
            Update(
                objective=Discriminate(adversary=adversary),
                optimisers=(Optimiser(train=("discriminator:*",), lr=1e-3, betas=(0.5, 0.9)),),
            ),
        ),
        companions={"discriminator": discriminator},
    )
    return {stage.name: stage for stage in (tokenizer, pretrain, finetune, adversarial)}


def discriminator(system: Any) -> Discriminator:
    return Discriminator(channels=4, layers=1)


def advance(loop: Loop, steps: int) -> list[dict[str, Any]]:
    """Records of some steps, without times."""
    return [{k: v for k, v in loop.advance().items() if k not in TIMES} for _ in range(steps)]


def train(system: CM3Leon, stage: Stage, steps: int) -> list[dict[str, Any]]:
    """Records of the first steps of a stage."""
    loop = Loop(system, stage, Ranks())
    try:
        return advance(loop, steps)
    finally:
        loop.finish()


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in records]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors that are not bitwise what they were."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def gradients(loop: Loop) -> dict[str, Tensor]:
    """What the first step of a loop hands to its optimisers."""
    for updater in loop.updaters:
        for optimiser in updater.optimisers:
            optimiser.step = optimiser.zero_grad = lambda *args, **kwargs: None  # type: ignore[method-assign]
    loop.advance()
    found = {n: p.grad for n, p in loop.system.named_parameters() if p.grad is not None}
    loop.loader.close()
    return found


# ------------------------------------------------------------------------------------------------- stages


def test_every_stage_of_the_recipe_is_here(stages: dict[str, Stage]) -> None:
    from plait.recipes.cm3leon import tiny

    assert {stage.name for stage in tiny().stages} <= set(stages) == set(PINNED)


@pytest.mark.parametrize("name", PINNED)
def test_the_losses_of_two_steps(make: Make, stages: dict[str, Stage], name: str) -> None:
    records = train(make(), stages[name], 2)
    assert losses(records) == pytest.approx(PINNED[name], rel=1e-4)
    assert train(make(), stages[name], 2) == records


@pytest.mark.parametrize("name", ["tokenizer", "pretrain"])
def test_a_record_says_what_a_step_did(make: Make, stages: dict[str, Stage], name: str) -> None:
    stage = replace(stages[name], schedule=Schedule(warmup=2))
    first, second = train(make(), stage, 2)
    assert [first["stage_step"], second["stage_step"]] == [0, 1]
    assert first["stage"] == name
    peak = stage.updates[0].optimisers[0].lr
    assert [first["lr"], second["lr"]] == [peak / 2, peak]
    assert first["tokens"] > 0 and first["sequences"] >= stage.data.rows
    assert (first["broken"], first["skipped"], first["cut"]) == (0, 0, 0)
    assert first["grad_norm"] > 0
    if name == "tokenizer":
        assert first["tokens"] == 4 * 15  # the inputs of four pictures of 16 codes
        parts = stage.updates[0].objective.weights({})
        assert first["loss"] == pytest.approx(sum(weight * first[f"loss/{part}"] for part, weight in parts.items()))


def test_a_joint_loss_is_the_mean_over_all_targets(make: Make, stages: dict[str, Stage]) -> None:
    loop = Loop(make(), stages["pretrain"], Ranks())
    arrays = next(loop.loader)
    objective = stages["pretrain"].updates[0].objective
    counts = objective.counts(loop.collator.batch(arrays))
    loop.loader.close()
    (record,) = train(make(), stages["pretrain"], 1)
    total = sum(count * objective.scale.get(kind, 1.0) * record[f"loss/{kind}"] for kind, count in counts.items())
    assert record["loss"] == pytest.approx(total / sum(counts.values()))


def test_losses_of_data_are_counted(make: Make, stages: dict[str, Stage], picture: Picture) -> None:
    documents = [Document([f"square {i}", picture(i)]) for i in range(4)]
    documents += [Document(["torn", Image(b"nonsense")]), Document([Video((picture(0),))])]
    documents += [Document(["many words " * 30, picture(7)])]
    stage = stages["pretrain"]
    stage = replace(stage, data=replace(stage.data, sources={"all": documents}, window=7, length=60, rows=3))
    records = train(make(), stage, 4)
    assert all(sum(record[name] for record in records) for name in ("broken", "skipped", "cut"))


def test_a_step_of_pictures_that_cannot_be_read_is_no_error(make: Make, stages: dict[str, Stage]) -> None:
    stage = stages["pretrain"]
    torn = [Document(["torn", Image(b"nonsense")])]
    stage = replace(stage, data=replace(stage.data, sources={"torn": torn}, window=2, rows=1))
    (record,) = train(make(), stage, 1)
    assert record["loss"] == record["grad_norm"] == 0
    assert record["broken"] == record["sequences"] > 0


def test_pictures_that_cannot_be_read_are_not_reconstructed(
    make: Make, stages: dict[str, Stage], picture: Picture
) -> None:
    def step(*images: Image) -> dict[str, Any]:
        documents = [Document([image]) for image in images]
        stage = stages["tokenizer"]
        data = replace(stage.data, sources={"all": documents}, window=len(images), rows=len(images), shuffle=False)
        (record,) = train(make(), replace(stage, data=data), 1)
        return record

    whole, mixed = step(picture(0)), step(picture(0), Image(b"torn"))
    assert mixed["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert (mixed["sequences"], mixed["broken"]) == (2, 1)
    torn = step(Image(b"torn"))
    assert torn["loss"] == torn["grad_norm"] == 0 and torn["broken"] == 1


def test_a_stage_prepares_the_system_once(make: Make, stages: dict[str, Stage]) -> None:
    calls: list[Any] = []
    stage = replace(stages["pretrain"], before=(calls.append,))
    system = make()
    loop = Loop(system, stage, Ranks())
    state = loop.save()
    loop.loader.close()
    assert calls == [system]
    Loop(system, stage, Ranks(), state).loader.close()
    assert calls == [system]


# ------------------------------------------------------------------------------------------------ updates


@pytest.mark.parametrize("name", ["tokenizer", "pretrain"])
def test_two_small_elements_weigh_as_one_large(make: Make, stages: dict[str, Stage], name: str) -> None:
    stage = stages[name]
    rows = stage.data.rows
    whole = replace(
        stage, companions={}, updates=(replace(stage.updates[0], clip=None),), data=replace(stage.data, rows=2 * rows)
    )
    halves = replace(whole, accumulate=2, data=stage.data)
    assert halves.data.rows == rows
    one, two = train(make(), whole, 1)[0], train(make(), halves, 1)[0]
    numbers = [key for key, value in one.items() if isinstance(value, float | int)]
    assert [two[key] for key in numbers] == pytest.approx([one[key] for key in numbers], rel=1e-5)
    expected, found = (gradients(Loop(make(), stage, Ranks())) for stage in (whole, halves))
    assert expected.keys() == found.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6 * scale, msg=key)


@pytest.mark.parametrize("name", ["tokenizer", "pretrain", "adversarial"])
def test_only_what_an_optimiser_matches_changes(make: Make, stages: dict[str, Stage], name: str) -> None:
    system = make()
    loop = Loop(system, stages[name], Ranks())
    before = weights(system)
    advance(loop, 2)
    loop.finish()
    matched = {key for updater in loop.updaters for key in updater.names if ":" not in key}
    assert changed(system, before) == matched
    assert matched != set(before)
    assert not any(parameter.requires_grad for parameter in system.parameters())


def test_one_optimiser_may_move_a_single_weight(make: Make, stages: dict[str, Stage]) -> None:
    update = replace(stages["pretrain"].updates[0], optimisers=(Optimiser(train=("positions.weight",), lr=0.1),))
    system = make()
    loop = Loop(system, replace(stages["pretrain"], updates=(update,)), Ranks())
    before = weights(system)
    advance(loop, 2)
    loop.finish()
    assert changed(system, before) == {"positions.weight"}


def test_bf16_keeps_weights_and_states_in_fp32(make: Make, stages: dict[str, Stage]) -> None:
    for name in ("tokenizer", "pretrain"):
        loop = Loop(make(), replace(stages[name], precision="bf16"), Ranks())
        found = losses(advance(loop, 2))
        loop.finish()
        assert found == pytest.approx(PINNED[name], rel=3e-2)
        assert found != pytest.approx(PINNED[name], rel=1e-6)
        kept = [value for o in loop.updaters[0].optimisers for s in o.state.values() for value in s.values()]
        assert {value.dtype for value in [*kept, *loop.system.parameters()]} == {torch.float32}


def test_a_running_mean_replaces_the_weights_at_the_end(make: Make, stages: dict[str, Stage]) -> None:
    system = make()
    loop = Loop(system, replace(stages["pretrain"], ema=0.75), Ranks())
    before = mean = weights(system)
    for _ in range(3):
        advance(loop, 1)
        mean = {name: 0.75 * value + 0.25 * system.state_dict()[name] for name, value in mean.items()}
    last = weights(system)
    loop.finish()
    moved = set(loop.updaters[0].names)
    assert set(loop.ema) == moved == changed(system, last)
    for name, value in system.state_dict().items():
        if name in moved:
            torch.testing.assert_close(value, mean[name])
        else:
            assert torch.equal(value, before[name])


def test_a_companion_has_no_running_mean(make: Make, stages: dict[str, Stage]) -> None:
    loop = Loop(make(), replace(stages["adversarial"], ema=0.5), Ranks())
    assert set(loop.ema) == set(loop.updaters[0].names)
    loop.finish()


def test_a_gradient_is_cut_to_the_limit(make: Make, stages: dict[str, Stage]) -> None:
    stage = stages["pretrain"]
    free = replace(stage, updates=(replace(stage.updates[0], clip=None),))
    cut = replace(stage, updates=(replace(stage.updates[0], clip=0.01),))
    raw, clipped = (gradients(Loop(make(), one, Ranks())) for one in (free, cut))
    norm = torch.cat([value.flatten() for value in raw.values()]).norm()
    assert norm > 0.02
    assert torch.cat([value.flatten() for value in clipped.values()]).norm() == pytest.approx(0.01, rel=1e-3)
    for name, value in raw.items():
        torch.testing.assert_close(clipped[name], value * (0.01 / norm), rtol=1e-3, atol=1e-9)
    records = [train(make(), one, 1)[0] for one in (free, cut)]
    assert [record["grad_norm"] for record in records] == pytest.approx([float(norm)] * 2)  # before the cut


# ------------------------------------------------------------------------------------------- two updates


def test_the_adversaries_have_their_own_optimisers(make: Make, stages: dict[str, Stage]) -> None:
    loop = Loop(make(), stages["adversarial"], Ranks())
    first, second = (set(updater.names) for updater in loop.updaters)
    judge = loop.companions["discriminator"]
    assert first == {name for name in weights(loop.system) if name.startswith("image_tokenizer.")}
    assert second == {f"discriminator:{name}" for name, _ in judge.named_parameters()}
    assert [updater.optimisers[0].param_groups[0]["betas"] for updater in loop.updaters] == [(0.9, 0.95), (0.5, 0.9)]
    loop.finish()


def test_both_adversaries_train(make: Make, stages: dict[str, Stage]) -> None:
    loop = Loop(make(), stages["adversarial"], Ranks())
    judge, maker = loop.companions["discriminator"], loop.system.image_tokenizer
    before = weights(judge)
    (early,) = advance(loop, 1)
    assert changed(judge, before) == {"age"}  # it joins after one step
    assert early["loss/hinge"] == early["loss/adversarial"] == early["grad_norm/Discriminate"] == 0
    drawn = weights(maker)
    (late,) = advance(loop, 1)
    loop.finish()
    assert changed(judge, before) >= set(before) - LAST
    assert changed(maker, drawn) == set(drawn)
    assert late["loss/hinge"] > 0 and late["loss/adversarial"] != 0
    assert late["grad_norm"] > 0 and late["grad_norm/Discriminate"] > 0
    parts = [late[f"loss/{part}"] for part in ("pixel", "codebook", "commitment", "adversarial")]
    assert late["loss"] == pytest.approx(parts[0] + 0.25 * parts[1] + parts[2] + parts[3])


def test_the_discriminator_is_not_moved_by_the_reconstruction(make: Make, stages: dict[str, Stage]) -> None:
    stage = replace(stages["adversarial"], updates=stages["adversarial"].updates[:1])
    loop = Loop(make(), stage, Ranks())
    judge = loop.companions["discriminator"]
    before = weights(judge)
    records = advance(loop, 3)
    loop.finish()
    assert records[-1]["loss/adversarial"] != 0
    assert changed(judge, before) == {"age"}
    assert all(parameter.grad is None for parameter in judge.parameters())


def test_the_reconstruction_is_not_moved_by_the_discriminator(make: Make, stages: dict[str, Stage]) -> None:
    update = replace(stages["adversarial"].updates[1], objective=Discriminate(adversary=Adversary(start=0)))
    system = make()
    before = weights(system)
    loop = Loop(system, replace(stages["adversarial"], updates=(update,)), Ranks())
    judge = weights(loop.companions["discriminator"])
    advance(loop, 2)
    loop.finish()
    assert not changed(system, before)
    assert changed(loop.companions["discriminator"], judge) >= set(judge) - {"age"} - LAST
    assert int(loop.companions["discriminator"].age) == 0


def test_an_update_may_be_taken_every_other_step(make: Make, stages: dict[str, Stage]) -> None:
    maker, judge = stages["adversarial"].updates
    records = train(make(), replace(stages["adversarial"], updates=(maker, replace(judge, period=2))), 4)
    assert ["loss/hinge" in record for record in records] == [True, False, True, False]
    assert all("loss/pixel" in record for record in records)


# ------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("name", ["tokenizer", "pretrain", "adversarial"])
def test_a_resumed_stage_goes_on_to_the_bit(make: Make, stages: dict[str, Stage], name: str) -> None:
    stage = replace(stages[name], ema=0.9)
    whole = Loop(make(), stage, Ranks())
    records = advance(whole, 5)
    whole.finish()

    first = Loop(make(), stage, Ranks())
    begun = advance(first, 2)
    buffer = io.BytesIO()
    torch.save({"loop": first.save(), "system": first.system.state_dict()}, buffer)
    first.loader.close()
    torch.rand(100)  # another process has another global generator
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    system = make()
    system.load_state_dict(saved["system"])
    second = Loop(system, stage, Ranks(), saved["loop"])
    assert second.step == 2
    assert begun + advance(second, 3) == records
    second.finish()
    assert not changed(second.system, weights(whole.system))
    for key, companion in whole.companions.items():
        assert not changed(second.companions[key], weights(companion))


# -------------------------------------------------------------------------------------------------- watch


@dataclass
class Says:
    """An objective whose loss, for each step in turn, is given; it trains nothing."""

    values: Iterator[float]

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"token": 1.0}

    def weights(self, counts: Mapping[str, float]) -> Mapping[str, float]:
        return {"token": 1.0}

    def __call__(
        self, system: CM3Leon, companions: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        return {"token": system.positions.weight.sum() * 0 + next(self.values)}


def saying(values: Iterator[float], steps: int) -> Stage:
    """A stage with given losses."""
    optimiser = Optimiser(train=("positions.*",), lr=1e-3)
    return Stage(
        name="stage",
        data=Data(sources={"texts": [Document("a b")]}, rows=1, length=8, window=4),
        updates=(Update(objective=Says(values), optimisers=(optimiser,)),),
        steps=steps,
    )


def steps_taken(system: CM3Leon, stage: Stage, most: int) -> tuple[int, str]:
    """How many steps ended well, and why the next one did not."""
    loop = Loop(system, stage, Ranks())
    try:
        for _ in range(most):
            loop.advance()
    except TrainingError as error:
        return loop.step, str(error)
    finally:
        loop.finish()
    return most, ""


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(make: Make, value: float) -> None:
    taken, message = steps_taken(make(), saying(iter([1.0, 1.0, value]), steps=6), 6)
    assert taken == 2
    assert f"step 2 of stage: loss/token is {value}" in message


def test_weights_that_are_no_numbers_end_the_run(make: Make, stages: dict[str, Stage]) -> None:
    system = make()
    with torch.no_grad():
        system.image_tokenizer.decoder.conv_out.weight.fill_(math.nan)
    assert "step 0 of tokenizer: loss/pixel is nan" in steps_taken(system, stages["tokenizer"], 1)[1]
    with torch.no_grad():  # the upkeep of the codebook would fail on these, with another error
        system.image_tokenizer.encoder.conv_out.weight.fill_(math.nan)
    assert "step 0 of tokenizer: loss/pixel is nan" in steps_taken(system, stages["tokenizer"], 1)[1]


def test_a_step_without_targets_ends_the_run(make: Make, stages: dict[str, Stage]) -> None:
    update = replace(stages["pretrain"].updates[0], objective=NextToken(kinds=("vector",)))
    with pytest.raises(TrainingError, match=r"step 0 of pretrain: 0 targets for \['vector'\]; check layout and data"):
        train(make(), replace(stages["pretrain"], updates=(update,)), 1)


@pytest.mark.parametrize(("steps", "last"), [(1000, 99), (2000, 99), (2400, 119)])
def test_a_loss_at_chance_ends_the_run(make: Make, steps: int, last: int) -> None:
    system = make()
    chance = system.chance["token"]
    taken, message = steps_taken(system, saying(itertools.repeat(chance * 1.009), steps), 125)
    assert taken == last
    assert f"step {last} of stage: the mean loss/token of 50 steps is {chance * 1.009:.4f}" in message
    assert f"a uniform guess has {chance:.4f}" in message


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_loss_beside_chance_does_not(make: Make, factor: float) -> None:
    system = make()
    stage = saying(itertools.repeat(system.chance["token"] * factor), 1000)
    assert steps_taken(system, stage, 110) == (110, "")


def test_chance_is_judged_on_the_mean_of_fifty_steps(make: Make) -> None:
    system = make()
    chance = system.chance["token"]
    swinging = (chance * factor for factor in itertools.cycle([0.5, 1.5]))
    assert steps_taken(system, saying(swinging, 1000), 110)[0] == 99
    sunk = itertools.chain([chance * 0.4] * 60, itertools.repeat(chance))  # 1 of 50 at 0.4 makes 1.2 % of difference
    assert steps_taken(system, saying(sunk, 1000), 120)[0] == 109
