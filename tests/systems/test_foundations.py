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
from plait.objectives.contrastive import captions
from plait.recipes.foundations import build
from plait.systems import foundations
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
    assert set(system.parts) >= {"clip", "eva", "vision_norm", "qformer", "heads", "bridge", "language"}


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
        FoundationsConfig(blip2=replace(MINIGPT4_TINY, qformer=None), clip=TINY.clip, text=TINY.text, shared=8)


PICTURES = [Image(from_array(torch.full((3, 32, 32), shade).numpy())) for shade in (-0.5, 0.1, 0.8)]
TEXTS = ["A red circle.", "What colour is it? Describe the picture."]


def test_every_way_compares_all_pictures_with_all_texts(system: Foundations) -> None:
    with torch.no_grad():
        for name, compare in system.similarities.items():
            texts, pictures = compare(PICTURES, TEXTS)
            assert texts.shape == (3, 2) and pictures.shape == (2, 3), name
            alone, _ = compare(PICTURES[1:2], TEXTS[1:])
            torch.testing.assert_close(alone[0, 0], texts[1, 1], rtol=1e-4, atol=1e-4)


def test_texts_are_read_as_in_training(system: Foundations) -> None:
    documents = [Document([picture, text]) for picture, text in zip(PICTURES, TEXTS, strict=False)]
    batch = system.format.collator()([[system.layout(document) for document in documents]])
    with torch.no_grad():
        texts = captions(batch)
        clip = system.clip
        image, text = clip.image_features(batch.images), clip.text_features(texts.ids, texts.real)
        by_clip = clip.similarity(image, text)
        torch.testing.assert_close(by_clip, system.similarities["clip"](PICTURES[:2], TEXTS)[0])


def test_texts_that_are_too_long_keep_their_beginning(system: Foundations) -> None:
    towers = system.towers
    long = " ".join(TEXTS * 20)
    with torch.no_grad():
        cut, whole = towers.texts([long, TEXTS[0]]), towers.texts([long + " A red circle.", TEXTS[0]])
    assert cut.shape == (2, towers.width)
    torch.testing.assert_close(cut, whole)
    torch.testing.assert_close(cut.norm(dim=1), torch.ones(2))
    assert set(towers.parts) <= set(system.parts)


def test_matching_looks_again_at_the_nearest(system: Foundations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foundations, "LOOKED_AT", 1)
    with torch.no_grad():
        near, _ = system.similarities["qformer"](PICTURES, TEXTS)
        again, _ = system.similarities["qformer_matched"](PICTURES, TEXTS)
    best = near.argmax(1, keepdim=True)
    others = torch.ones_like(near).bool().scatter(1, best, False)
    torch.testing.assert_close(again[others], near[others] - 1e4)
    assert (again.argmax(1, keepdim=True) == best).all()
