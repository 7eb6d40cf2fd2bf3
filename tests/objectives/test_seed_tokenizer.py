"""The two stages of SEED's tokenizer: what passes gradients, what is learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.qformer import TextConfig
from plait.nn.quantise import CodebookUpkeep
from plait.objectives.contrastive import Captions
from plait.objectives.seed_tokenizer import CausalContrast, CodesAndEmbedding
from plait.systems.seed_tokenizer import SeedTokenizer, SeedTokenizerConfig


class Pixels:
    """A batch of pictures alone."""

    def __init__(self, images: Tensor) -> None:
        self.images = images


class Flat(nn.Module):
    """A teacher that tells the means of colours."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3)).repeat(1, 4)


@pytest.fixture
def system(seed_tokenizer_config: SeedTokenizerConfig) -> SeedTokenizer:
    torch.manual_seed(0)
    qformer = replace(seed_tokenizer_config.qformer, text=TextConfig(vocabulary=9, positions=5))
    return SeedTokenizer(replace(seed_tokenizer_config, qformer=qformer, decoder=None))


def texts(count: int) -> Captions:
    ids = torch.arange(count * 4).view(count, 4) % 9
    return Captions(ids=ids, real=torch.ones_like(ids).bool(), told=torch.ones(count).bool())


def test_what_others_have_is_compared_with_and_not_moved(system: SeedTokenizer) -> None:
    pixels, said = torch.randn(4, 3, 8, 8), texts(4)
    CausalContrast().loss(system, pixels, said).backward()
    moved = system.heads_of_qformer.image.weight.grad
    system.zero_grad()
    image = system.image_features(pixels)
    text = system.text_features(said.ids, said.real).detach()
    logits = image @ text.T / system.temperature.detach()
    one = nn.functional.cross_entropy(logits, torch.arange(4), label_smoothing=0.1, reduction="sum") / 2
    one.backward()
    torch.testing.assert_close(moved, system.heads_of_qformer.image.weight.grad)


def test_a_text_that_is_missing_counts_for_nothing(system: SeedTokenizer) -> None:
    pixels, said = torch.randn(3, 3, 8, 8), texts(3)
    two = Captions(ids=said.ids[:2], real=said.real[:2], told=said.told[:2])
    untold = replace(said, told=torch.tensor([True, True, False]))
    objective = CausalContrast()
    torch.testing.assert_close(objective.loss(system, pixels, untold), objective.loss(system, pixels[:2], two))


def test_codes_and_embedding_are_learned(system: SeedTokenizer) -> None:
    objective, companions = CodesAndEmbedding(), {"teacher": Flat(), "upkeep": CodebookUpkeep(16, 4)}
    for name, weight in system.named_parameters():
        weight.requires_grad_(not name.startswith(("vision", "qformer", "heads")))
    trained = [weight for weight in system.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    batch: Any = Pixels(torch.randn(16, 3, 8, 8) + torch.randn(16, 3, 1, 1))
    before = system.qformer.queries.clone()
    losses = []
    for step in range(40):
        sums, counts = objective(system, companions, batch, generator), objective.counts(batch)
        weights = objective.weights(counts)
        loss = sum(weights[name] * sums[name] / counts[name] for name in sums)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_step(system, companions, step, generator)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(system.qformer.queries, before)
    assert len(system.encode(batch.images).unique()) > 6  # of six places


def test_terms_are_weighted_as_published() -> None:
    wanted = {"commitment": 5.0, "codebook": 1.25, "again": 2.0, "embedding": 0.5}
    assert CodesAndEmbedding().weights() == wanted


def test_without_a_teacher_nothing_is_learned(system: SeedTokenizer) -> None:
    batch: Any = Pixels(torch.randn(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="no companion 'teacher': add it to the stage"):
        CodesAndEmbedding()(system, {}, batch, torch.Generator())
    empty: Any = Pixels(torch.randn(0, 3, 8, 8))  # all were broken
    made = CodesAndEmbedding()(system, {"teacher": Flat()}, empty, torch.Generator())
    assert not any(bool(term) for term in made.values())
