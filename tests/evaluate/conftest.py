"""Models to be scored."""

from __future__ import annotations

import pytest
import torch

from plait.generate.model import Model
from plait.systems.emu import build


@pytest.fixture(scope="package")
def model() -> Model:
    """A tiny Emu of random weights."""
    torch.manual_seed(0)
    return Model(build("tiny"))
