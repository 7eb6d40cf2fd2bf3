"""The system that holds all foundations."""

from dataclasses import replace

import pytest
import torch

from plait.checkpoints import directory
from plait.document import Document, Image, Text, Turn
from plait.errors import ConfigError
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.images import from_array
from plait.recipes.foundations import build
from plait.systems.foundations import TINY, Foundations, FoundationsConfig
from plait.systems.minigpt4 import TINY as MINIGPT4_TINY


class Lines:
    """A source of one line."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> Document:
        return Document([Text("A red circle. What colour is it? Describe the picture.")])


@pytest.fixture
def system() -> Foundations:
    torch.manual_seed(0)
    return build(TINY, Lines())


def test_parts_are_all_of_it_and_none_twice(system: Foundations) -> None:
    counted = sum(part.parameters for part in system.parts.values())
    assert counted == sum(parameter.numel() for parameter in system.parameters())
    assert set(system.parts) >= {"eva", "vision_norm", "qformer", "heads", "bridge", "language"}


def test_comes_back_from_its_directory(system: Foundations, tmp_path) -> None:
    loaded = directory.load(directory.save(system, tmp_path / "foundations"))
    assert isinstance(loaded, Foundations)
    for name, tensor in system.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_reads_pictures_and_text_as_its_second_stage_does(system: Foundations) -> None:
    picture = Image(from_array(torch.zeros(3, 32, 32).numpy()))
    asked = Document([Turn("user", [picture, Text("What colour is it?")])])
    settings = Settings(max_new_tokens=4)
    assert Model(system).generate(asked, settings).text == Model(system.blip2).generate(asked, settings).text


def test_the_q_former_is_needed() -> None:
    with pytest.raises(ConfigError, match="no qformer"):
        FoundationsConfig(blip2=replace(MINIGPT4_TINY, qformer=None), text=TINY.text, shared=8)
