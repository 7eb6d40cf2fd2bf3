"""The two objectives of a VQGAN (arXiv 2012.09841, section 3; taming-transformers): reconstruct, and tell apart.

    nll  = |x - x^| or (x - x^)^2, + perceptual distance
    loss = nll + commitment + 0.25 codebook - w D(x^),   w = 0.8 |grad nll| / (|grad D(x^)| + 1e-4), at most 0.8e4
    D's  = (relu(1 - D(x)) + relu(1 + D(x^))) / 2

with both gradients taken at the decoder's last convolution and summed over ranks. Every term is a mean over a picture,
summed over pictures, so that each count is a number of pictures. The factor 0.25 stands at the codebook term in the
released code ("legacy beta"; the paper has it at the commitment term).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.errors import ConfigError
from plait.nn.quantise import CodebookUpkeep, Observed, Quantised
from plait.nn.vqgan import VQGAN, Discriminator
from plait.objectives.gather import all_gather_rows, all_sum, gathered


class HasTokenizer(Protocol):
    """A system with an image tokenizer."""

    @property
    def image_tokenizer(self) -> VQGAN:
        """The tokenizer that is trained."""
        ...


class HasImages(Protocol):
    """A batch with pixels."""

    @property
    def images(self) -> Tensor:
        """Pixels in [-1, 1]. # (b, 3, h, w)"""
        ...


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """How the discriminator enters."""

    start: int = 250_001
    """Steps before it does."""
    ratio: float = 0.8
    """Its gradient at the decoder's last convolution, in units of the reconstruction's."""

    def joined(self, discriminator: Discriminator) -> bool:
        """Whether the discriminator is in use at this step."""
        return int(discriminator.age) >= self.start


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Trains `system.image_tokenizer` to give back its pictures.

    Companions: "upkeep" (a CodebookUpkeep) keeps the codebook in use, if given; "perceptual", a module that maps two
    pictures (b, 3, h, w) to distances (b, ...), must be given exactly when `perceptual` is not 0; "discriminator"
    exactly when `adversary` is set.
    """

    pixel: Literal["squared", "absolute"] = "absolute"
    """Squared error learns faster from scratch and alone; the published loss is absolute, with a perceptual term."""
    perceptual: float = 0.0
    """Weight of the perceptual term; 1 as published."""
    codebook: float = 0.25
    """Weight of the term that moves the codes; 0 where the upkeep's moving average does."""
    commitment: float = 1.0
    """Weight of the term that moves the encoder towards its codes."""
    adversary: Adversary | None = None

    def weights(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """The weight of each term. The adversarial term carries its adaptive weight itself."""
        weights = {"pixel": 1.0, "codebook": self.codebook, "commitment": self.commitment}
        if self.perceptual:
            weights["perceptual"] = self.perceptual
        if self.adversary is not None:
            weights["adversarial"] = 1.0
        return weights

    def counts(self, batch: HasImages) -> dict[str, float]:
        """The number of pictures, for each term."""
        return dict.fromkeys(self.weights(), float(len(batch.images)))

    def __call__(
        self,
        system: HasTokenizer,
        companions: Mapping[str, nn.Module],
        batch: HasImages,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Sums over pictures of each term's mean over a picture.

        Raises:
            ConfigError: a companion is missing, or given without use.
        """
        self._check(companions)
        pixels, worth = pictures(batch)
        made = system.image_tokenizer(pixels)
        difference = made.pixels.float() - pixels.float()
        error = difference.square() if self.pixel == "squared" else difference.abs()
        terms = {
            "pixel": per_picture(error).sum(),
            "codebook": made.quantised.codebook.sum(),
            "commitment": made.quantised.commitment.sum(),
        }
        if self.perceptual:
            terms["perceptual"] = per_picture(companions["perceptual"](pixels, made.pixels)).sum()
        if self.adversary is not None:
            nll = terms["pixel"] + self.perceptual * terms.get("perceptual", 0.0)
            last = system.image_tokenizer.decoder.conv_out.weight
            terms["adversarial"] = _adversarial(self.adversary, companions["discriminator"], made.pixels, nll, last)
        observe(companions, made.quantised, generator, worth)
        return {name: worth * term for name, term in terms.items()}

    def after_step(
        self, system: HasTokenizer, companions: Mapping[str, nn.Module], step: int, generator: torch.Generator
    ) -> None:
        """Upkeep of the codebook after step `step` (from 0); `generator` must be the same on all ranks."""
        if self.adversary is not None:
            discriminator = companions["discriminator"]
            assert isinstance(discriminator, Discriminator)
            discriminator.age.fill_(step + 1)
        keep_up(system.image_tokenizer.quantiser.codebook.weight, companions, step, generator)

    def _check(self, companions: Mapping[str, nn.Module]) -> None:
        wanted = {"perceptual": bool(self.perceptual), "discriminator": self.adversary is not None}
        for name, is_wanted in wanted.items():
            if is_wanted:
                companion(companions, name)


@dataclass(frozen=True, kw_only=True)
class Discriminate:
    """Trains the companion "discriminator" to tell pictures from reconstructions, by the hinge loss."""

    adversary: Adversary = Adversary()

    def weights(self, counts: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """One term."""
        return {"hinge": 1.0}

    def counts(self, batch: HasImages) -> dict[str, float]:
        """The number of pictures."""
        return {"hinge": float(len(batch.images))}

    def __call__(
        self,
        system: HasTokenizer,
        companions: Mapping[str, nn.Module],
        batch: HasImages,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The sum over pictures of the hinge loss; 0 until the discriminator joins."""
        discriminator = companions["discriminator"]
        assert isinstance(discriminator, Discriminator)
        if not self.adversary.joined(discriminator):
            return {"hinge": _nothing(discriminator)}
        pixels, worth = pictures(batch)
        with torch.no_grad():
            made = system.image_tokenizer(pixels).pixels
        return {"hinge": worth * hinge(discriminator(pixels), discriminator(made)).sum()}


def pictures(batch: HasImages) -> tuple[Tensor, float]:
    """The pictures and 1; where all were broken, a blank and 0: every rank must take part in what follows."""
    if len(batch.images):
        return batch.images, 1.0
    return batch.images.new_zeros(1, *batch.images.shape[1:]), 0.0


def companion(companions: Mapping[str, nn.Module], name: str) -> nn.Module:
    """One that an objective cannot do without.

    Raises:
        ConfigError: there is none.
    """
    if name not in companions:
        raise ConfigError(f"reconstruction with a {name} term, but no companion {name!r}: add it to the stage")
    return companions[name]


def observe(
    companions: Mapping[str, nn.Module], quantised: Quantised, generator: torch.Generator, worth: float
) -> None:
    """Shows the companion "upkeep", if there is one, what a forward pass in training quantised."""
    upkeep = companions.get("upkeep")
    if isinstance(upkeep, CodebookUpkeep) and worth and torch.is_grad_enabled():
        upkeep.observe(quantised, generator)


def keep_up(codebook: Tensor, companions: Mapping[str, nn.Module], step: int, generator: torch.Generator) -> None:
    """Lets the companion "upkeep", if there is one, move the codes by what all ranks saw in a step."""
    upkeep = companions.get("upkeep")
    if isinstance(upkeep, CodebookUpkeep):
        seen = upkeep.take()
        everywhere = Observed(counts=all_sum(seen.counts), sums=all_sum(seen.sums), pool=all_gather_rows(seen.pool))
        with gathered(codebook) as table:
            upkeep.update(table, everywhere, step, generator)


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss for logits (b, 1, h, w) of real and made pictures. # (b,)"""
    return 0.5 * (per_picture(F.relu(1 - real)) + per_picture(F.relu(1 + made)))


def per_picture(values: Tensor) -> Tensor:
    """(b, ...) to the mean of each picture, in fp32. # (b,)"""
    return values.float().flatten(1).mean(1) if values.dim() > 1 else values.float()


def _adversarial(adversary: Adversary, discriminator: nn.Module, made: Tensor, nll: Tensor, last: Tensor) -> Tensor:
    """The sum over pictures of -w D(x^); nll is a sum over pictures too."""
    assert isinstance(discriminator, Discriminator)
    if not adversary.joined(discriminator):
        return made.new_zeros(())
    # Through detached weights: this backward must leave nothing in the discriminator's own gradients.
    weights = {name: value.detach() for name, value in discriminator.named_parameters()}
    fooled = -per_picture(torch.func.functional_call(discriminator, weights, (made,))).sum()
    if not torch.is_grad_enabled():
        return fooled
    pictures = all_sum(torch.tensor(float(len(made)), device=made.device))
    of_nll, of_fooled = (
        all_sum(torch.autograd.grad(loss, last, retain_graph=True)[0]).norm() / pictures for loss in (nll, fooled)
    )
    return adversary.ratio * (of_nll / (of_fooled + 1e-4)).clamp(0, 1e4) * fooled


def _nothing(module: nn.Module) -> Tensor:
    """Zero that reaches every parameter, so that a step before the start is a step without effect."""
    return torch.stack([parameter.sum() for parameter in module.parameters()]).sum() * 0.0
