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


def cases(system: str) -> dict[str, dict[str, Any]]:
    """The cases of a system by name; their file is a list, or has one."""
    listed = json.loads((GOLDENS / system / "tiny" / "cases.json").read_text())
    return {case["name"]: case for case in (listed["cases"] if isinstance(listed, dict) else listed)}


class Goldens:
    """The goldens of a system: `config`, `cases` by name, `tensors`, `weights`."""

    def __init__(self, system: str) -> None:
        self.folder = GOLDENS / system / "tiny"
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        self.cases = cases(system)

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
        self.case = case
        self.settings: dict[str, Any] = case.get("settings", {})
        self.given = {short: _find(full, goldens) for short, full in _named(case["inputs"], goldens).items()}
        self.wanted = {short: _find(full, goldens) for short, full in _named(case["outputs"], goldens).items()}


def _named(names: Mapping[str, str] | list[str], goldens: Goldens) -> Mapping[str, str]:
    """Short names to whole ones; a list has whole ones alone, and files among them, which are left out."""
    if isinstance(names, list):
        return {name: name for name in names if not (goldens.folder / name).is_file()}
    return names


def _find(name: str, goldens: Goldens) -> Tensor:
    """Of a case, of the weights ("weights:KEY"), or the first rows of one ("NAME[:2]")."""
    if name in goldens.tensors:
        return goldens.tensors[name]
    whole, cut, rows = name.removesuffix("]").rpartition("[:")
    if cut:
        return _find(whole, goldens)[: int(rows)]
    file, _, key = name.rpartition(":")
    return goldens.weights(file)[key]
