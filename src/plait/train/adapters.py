"""Low-rank adapters as stages use them: put on as one begins, added to the weights as another does."""

from __future__ import annotations

from dataclasses import dataclass

from plait.nn.lora import LoRAConfig
from plait.systems.base import Adaptable


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Puts adapters on the language model as a stage begins, unless it has such already: then these are trained on."""

    lora: LoRAConfig

    def __call__(self, system: Adaptable) -> None:
        """Changes the system.

        Raises:
            InputError: it has others.
        """
        if system.config.lora != self.lora:
            system.adapt(self.lora)


def merge(system: Adaptable) -> None:
    """Adds the adapters to the weights of the language model: for `before` of a stage behind that of adapters."""
    system.merge()
