"""The system that holds all foundations."""

from dataclasses import replace

import numpy as np
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
from plait.systems.foundations import DRAWERS, TINY, Foundations, FoundationsConfig
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


@pytest.fixture
def drawing(system: Foundations) -> Foundations:
    made = Foundations(DRAWERS, system.pieces).eval()
    for drawer in (made.unclip, made.painter):
        drawer.diffusion.reschedule("DDIMScheduler", steps=2)
    return made


def test_what_draws_is_parts_too_and_comes_back(drawing: Foundations, tmp_path) -> None:
    assert set(drawing.parts) >= {"embedder", "unclip", "prompter", "painter"}
    counted = sum(part.parameters for part in drawing.parts.values())
    assert counted == sum(parameter.numel() for parameter in drawing.parameters())
    loaded = directory.load(directory.save(drawing, tmp_path / "foundations"))
    assert isinstance(loaded, Foundations)
    for name, tensor in drawing.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_pictures_are_given_again_in_every_way(drawing: Foundations) -> None:
    texts = [*TEXTS, "A red circle."]
    values = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures = [Image(from_array(value.numpy())) for value in values]

    def drawn(way: str, first: int = 0) -> list[torch.Tensor]:
        noise = [torch.Generator().manual_seed(i) for i in range(3)]
        with torch.no_grad():
            made = drawing.drawings[way](pictures[first:], texts[first:], noise[first:])
        return [torch.from_numpy(np.asarray(one.open()).astype("int32")) for one in made]

    assert list(drawing.drawings) == ["vae", "unclip", "painter"]
    for way in drawing.drawings:
        all_of_them, last = drawn(way), drawn(way, 2)
        assert [tuple(one.shape) for one in all_of_them] == [(32, 32, 3)] * 3
        assert (all_of_them[2] - last[0]).abs().max() <= 1, way  # its picture, text and noise alone decide
        assert not torch.equal(all_of_them[0], all_of_them[1]), way


def test_whitened_latents_give_the_same_pictures(drawing: Foundations) -> None:
    values = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures = [Image(from_array(value.numpy())) for value in values]
    diffusion = drawing.unclip.diffusion
    with torch.no_grad():
        diffusion.vae.quant_conv.bias += 3
        before = diffusion.vae.encode(values).latent_dist
        given_back = diffusion.pixels(diffusion.latents(values))
        drawing.whiten(pictures)
        latents, after = diffusion.latents(values), diffusion.vae.encode(values).latent_dist
        torch.testing.assert_close(diffusion.pixels(latents), given_back, atol=1e-4, rtol=1e-4)
    assert before.mean.mean() > 2
    assert latents.mean((0, 2, 3)).abs().max() < 0.02 and (latents.std((0, 2, 3)) - 1).abs().max() < 0.02
    torch.testing.assert_close(after.std / before.std, (after.std / before.std)[:1, :, :1, :1].expand(8, -1, 8, 8))


def test_the_painter_looks_at_as_many_symbols_of_every_text(drawing: Foundations) -> None:
    ids = torch.randint(1, 500, (2, 60))
    real = torch.arange(60) < torch.tensor([[5], [60]])
    with torch.no_grad():
        seen = drawing.look(ids, real)
        assert seen.shape == (2, 48, 96)
        torch.testing.assert_close(seen[:1], drawing.look(ids[:1, :5], real[:1, :5]))


def test_nothing_draws_unless_it_is_asked_for(system: Foundations) -> None:
    assert not system.drawings and not hasattr(system, "unclip")
    assert DRAWERS.drawers is not None
    painter = replace(DRAWERS.drawers.painter, unet={**DRAWERS.drawers.painter.unet, "cross_attention_dim": 8})
    with pytest.raises(ConfigError, match="vectors of width 8 for those of a tower of 96"):
        replace(DRAWERS, drawers=replace(DRAWERS.drawers, painter=painter))
    with pytest.raises(ConfigError, match="the VAEs of unclip and painter differ"):
        replace(DRAWERS.drawers, painter=replace(painter, vae={}))
