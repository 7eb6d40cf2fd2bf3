"""SEED's tokenizer: pictures to codes and back, alone and through the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import plait
from plait import cli
from plait.checkpoints import directory
from plait.config import from_plain, to_plain
from plait.document import Document, Image, Turn
from plait.errors import ConfigError, DocumentError, InputError
from plait.generate.model import Model
from plait.nn.qformer import TextConfig
from plait.systems.base import Stop
from plait.systems.seed_tokenizer import READER, SEED_2, TINY, SeedTokenizer, SeedTokenizerConfig


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels_of(system: SeedTokenizer, *pictures: Image) -> torch.Tensor:
    prepare = system.format.preprocess()[READER]
    return torch.stack([torch.from_numpy(prepare(picture)) for picture in pictures])


def same(one: Image, other: Image) -> bool:
    return bool(np.array_equal(np.asarray(one.open()), np.asarray(other.open())))


def test_pictures_to_codes_to_embeddings_to_pictures(
    seed_tokenizer: SeedTokenizer, picture: Callable[[int], Image]
) -> None:
    codes = seed_tokenizer.encode(pixels_of(seed_tokenizer, picture(0), picture(1), picture(2)))
    assert codes.shape == (3, 6) and codes.dtype == torch.int64 and len(codes.unique()) > 3
    embedding = seed_tokenizer.embed(codes)
    assert embedding.shape == (3, 12) and embedding.requires_grad
    made = seed_tokenizer.decode(codes, seeded(0))
    assert [image.open().size for image in made] == [(8, 8)] * 3
    again = seed_tokenizer.decode(codes, seeded(0))
    assert all(same(one, other) for one, other in zip(made, again, strict=True))
    assert not same(made[0], seed_tokenizer.decode(codes[:1], seeded(1))[0])
    away = seed_tokenizer.decode(codes[:1], seeded(0), negative=codes[1:2])
    assert not same(made[0], away[0])
    assert seed_tokenizer.decode(codes[:0], seeded(0)) == []
    with pytest.raises(InputError, match="2 generators for 3 pictures: give one of each, or one for all"):
        seed_tokenizer.decode(codes, [seeded(0)] * 2)
    with pytest.raises(InputError, match="3 generators and 2 negatives for 3 pictures"):
        seed_tokenizer.decode(codes, seeded(0), negative=codes[:2])


def test_pictures_are_drawn_again(seed_tokenizer: SeedTokenizer, picture: Callable[[int], Image]) -> None:
    pictures = [picture(0), picture(1)]
    again = seed_tokenizer.drawings["codes"](pictures, ["a", "b"], [seeded(3), seeded(4)])
    wanted = seed_tokenizer.decode(seed_tokenizer.encode(pixels_of(seed_tokenizer, *pictures)), [seeded(3), seeded(4)])
    assert all(same(one, other) for one, other in zip(again, wanted, strict=True))


def test_a_code_depends_on_those_before_it_alone(seed_tokenizer_config: SeedTokenizerConfig) -> None:
    torch.manual_seed(0)
    for causal in (True, False):
        qformer = replace(seed_tokenizer_config.qformer, causal=causal)
        system = SeedTokenizer(replace(seed_tokenizer_config, qformer=qformer, decoder=None))
        seen = torch.randn(1, 5, 16)
        before = system.qformer(seen)
        with torch.no_grad():
            system.qformer.queries[0, 4] += 1
        after = system.qformer(seen)
        assert torch.equal(before[:, :4], after[:, :4]) == causal
        assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_the_engine_writes_what_was_read(seed_tokenizer: SeedTokenizer, picture: Callable[[int], Image]) -> None:
    model = Model(seed_tokenizer)
    documents = [Document(picture(0)), Document([Turn("user", [picture(1)])]), Document(picture(0))]
    replies = model.generate(documents, seed=5)
    codes = seed_tokenizer.encode(pixels_of(seed_tokenizer, *(document.images[0] for document in documents)))
    assert [reply.runs[0].ids for reply in replies] == codes.tolist()
    assert all(len(reply.document.images) == 1 and reply.stop == "end" for reply in replies)
    drawn = [reply.document.images[0] for reply in replies]
    assert not same(drawn[0], drawn[2])  # another seed, other noise
    assert same(drawn[0], model.generate(documents[0], seed=5).document.images[0])
    hot = model.generate(documents[0], seed=5, image_temperature=2.0)
    assert hot.runs[0].ids == replies[0].runs[0].ids  # nothing is left to chance
    assert model.generate(documents[0], max_images=0).stop == "max_images"


def test_what_is_no_single_picture_is_refused(seed_tokenizer: SeedTokenizer, picture: Callable[[int], Image]) -> None:
    for pieces in ([], ["a cat"], [picture(0), picture(1)], ["a", picture(0)]):
        with pytest.raises(DocumentError, match="a document of one picture alone"):
            seed_tokenizer.layout(Document(pieces))
    with pytest.raises(InputError, match="5 codes for a picture of 6"):
        seed_tokenizer.embed(torch.zeros(1, 5, dtype=torch.long))
    for wrong in (-1, 16):
        with pytest.raises(InputError, match=f"codes from .*{wrong}.*: there are 0 to 15"):
            seed_tokenizer.embed(torch.tensor([[0, 1, 2, 3, 4, wrong]]))


def test_without_a_decoder_there_are_codes_alone(
    seed_tokenizer_config: SeedTokenizerConfig, picture: Callable[[int], Image]
) -> None:
    system = SeedTokenizer(replace(seed_tokenizer_config, decoder=None))
    codes = system.encode(pixels_of(system, picture(0)))
    assert system.embed(codes).shape == (1, 12)
    with pytest.raises(ConfigError, match="has no image decoder: import it with the folder of unCLIP"):
        system.decode(codes, seeded(0))


def test_what_was_saved_is_loaded(seed_tokenizer: SeedTokenizer, tmp_path: Path) -> None:
    back = directory.load(directory.save(seed_tokenizer, tmp_path / "tokenizer"))
    assert to_plain(back.config) == to_plain(seed_tokenizer.config)
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in seed_tokenizer.state_dict().items())
    assert set(back.parts) == {
        "vision", "vision_norm", "qformer", "down", "quantiser", "up", "reconstruct", "generate", "head", "decoder"
    }  # fmt: skip


def test_the_command_line(
    seed_tokenizer: SeedTokenizer, picture: Callable[[int], Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(directory.save(seed_tokenizer, tmp_path / "tokenizer"))
    picture(0).open().save(tmp_path / "cat.png")
    command = ["generate", checkpoint, "--image", str(tmp_path / "cat.png"), "--seed", "1", "--out"]
    assert cli.main([*command, str(tmp_path / "out")]) == 0
    assert Image(tmp_path / "out" / "image-0.png").open().size == (8, 8)
    capsys.readouterr()
    assert cli.main(["info", checkpoint]) == 0
    assert "decoder" in capsys.readouterr().out


def test_texts_are_compared_and_then_forgotten(seed_tokenizer_config: SeedTokenizerConfig) -> None:
    qformer = replace(seed_tokenizer_config.qformer, text=TextConfig(vocabulary=9, positions=5))
    system = SeedTokenizer(replace(seed_tokenizer_config, qformer=qformer, decoder=None))
    pixels, ids = torch.randn(2, 3, 8, 8), torch.randint(9, (3, 5))
    assert system.image_features(pixels).shape == (2, 8)
    assert system.text_features(ids, torch.ones_like(ids).bool()).shape == (3, 8)
    codes = system.encode(pixels)
    system.forget_texts()
    plain = SeedTokenizer(system.config)
    plain.load_state_dict(system.state_dict())
    assert torch.equal(plain.encode(pixels), codes)
    with pytest.raises(ConfigError, match="compares no texts"):
        system.image_features(pixels)


def test_sizes() -> None:
    assert (SEED_2.codes, SEED_2.codes_per_image, SEED_2.code_width, SEED_2.embedding) == (8192, 32, 32, 1024)
    assert SEED_2.qformer.causal and SEED_2.reverse is None
    head = replace(SEED_2, narrowing=()).reverse
    assert head is not None and (head.queries, head.depth, head.image_width, head.causal) == (1, 4, 768, False)
    for config in (SEED_2, TINY):
        assert from_plain(SeedTokenizerConfig, to_plain(config)) == config
    with torch.device("meta"):
        whole = SeedTokenizer(SEED_2)
    count = {name: part.parameters for name, part in whole.parts.items()}
    assert count["vision"] == 985_894_528 + 39 * 1408  # with the bias of keys, which is zero
    assert count["decoder"] == 870_173_124 + 83_653_863 + 340_387_840  # U-Net, VAE, tower of texts
    assert sum(count.values()) - count["vision"] - count["decoder"] == 164_104_000
    with pytest.raises(ConfigError, match="embeddings 1024 wide for 768"):
        replace(SEED_2, embedding=768)
    with pytest.raises(ConfigError, match="comes as tiny, published, not 'huge'"):
        plait.build("seed_tokenizer", "huge")


def test_the_grammar_ends_with_the_picture(seed_tokenizer: SeedTokenizer, picture: Callable[[int], Image]) -> None:
    grammar = seed_tokenizer.format.grammar(Document(picture(0)), 1)
    step = grammar([])
    assert not isinstance(step, Stop) and step.kind == "image" and step.length == 6
