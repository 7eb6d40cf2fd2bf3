"""What the replays share: where goldens lie, a case's tensors by their short names, and how values are compared."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

GOLDENS = Path(os.environ.get("PLAIT_GOLDENS", Path(__file__).parents[1] / "goldens"))
PIXELS, MODULES, LOSSES, GRADIENTS, STEPS = 1e-6, 5e-6, 2e-6, 1e-5, 2e-5  # the tolerances of the goldens' README


def assert_near(value: Tensor, golden: Tensor, tolerance: float = MODULES) -> None:
    """The largest difference over the golden's largest value is within the tolerance."""
    assert value.shape == golden.shape
    error = (value.detach() - golden).abs().max() / golden.abs().max()
    assert error <= tolerance, f"error {error:.2e} above {tolerance:.0e}"


class Goldens:
    """The goldens of a system: `config`, `cases` by name, `tensors`, `weights`."""

    def __init__(self, system: str) -> None:
        self.folder = GOLDENS / system / "tiny"
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        listed = json.loads((self.folder / "cases.json").read_text())["cases"]
        self.cases: dict[str, dict[str, Any]] = {case["name"]: case for case in listed}

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The inputs and outputs of all cases."""
        return load_file(self.folder / "cases.safetensors")

    @functools.cache  # noqa: B019  # goldens live as long as the tests
    def weights(self, file: str = "weights") -> dict[str, Tensor]:
        """The published names and weights of a file."""
        return load_file(self.folder / f"{file}.safetensors")

    def __getitem__(self, name: str) -> Golden:
        """A case."""
        return Golden(self.cases[name], self)


class Golden:
    """The settings of a case, and its tensors by their short names; "weights:KEY" is one of the weights."""

    def __init__(self, case: Mapping[str, Any], goldens: Goldens) -> None:
        self.settings: dict[str, Any] = case["settings"]
        self.given = {short: _find(full, goldens) for short, full in case["inputs"].items()}
        self.wanted = {short: _find(full, goldens) for short, full in case["outputs"].items()}


def _find(name: str, goldens: Goldens) -> Tensor:
    if name in goldens.tensors:
        return goldens.tensors[name]
    file, _, key = name.rpartition(":")
    return goldens.weights(file)[key]
