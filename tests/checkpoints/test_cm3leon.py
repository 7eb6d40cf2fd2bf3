"""CM3Leon from the files of its relatives: what goes together, what is refused, and that all of it comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor

from plait.checkpoints import directory
from plait.checkpoints.cm3leon import (
    CHAMELEON_APART_FILE,
    CHAMELEON_FILE,
    CLIP_FILE,
    DECODER_FILE,
    GUMBEL_FILE,
    OPENAI_FILE,
    VQGAN_FILE,
    _chameleon_sizes,
    _decoder_sizes,
    _image_sizes,
    _with_vocabulary,
    published,
)
from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.parts import diffusers_vqgan, shape_of
from plait.checkpoints.published import check_manifest, export, import_files
from plait.config import from_plain, to_plain
from plait.document import Blank, Document, Image
from plait.errors import CheckpointError, ConfigError
from plait.generate.model import Model
from plait.nn.chameleon import ChameleonConfig
from plait.nn.clip import CLIPConfig, CLIPTextConfig
from plait.nn.vit import VITConfig
from plait.nn.vqgan import VQGAN, VQGANConfig
from plait.systems.cm3leon import CHAMELEON_7B, CM3LEON_7B, CM3LEON_350M, CM3LEON_760M, CM3Leon, CM3LeonConfig
from plait.text.bpe import BPE

SYSTEM = published()
MANIFEST = Path(__file__).parents[1] / "goldens" / "cm3leon" / "published.json"
IMAGE = VQGANConfig(
    resolution=16,
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention_resolutions=(8,),
    latent_channels=8,
    code_width=4,
    codes=16,
)
CONFIG = CM3LeonConfig(image=IMAGE, width=32, depth=2, heads=2, positions=96, text_tokens=300, sentinels=4)
CHAMELEON = ChameleonConfig(hidden=48)
DIFFUSERS_FILE = diffusers_vqgan(len(IMAGE.multipliers)).under(ours="image_tokenizer.")
CLIP = CLIPConfig(
    image=VITConfig(image_size=16, patch=8, width=64, depth=1, heads=1, hidden=80, eps=1e-5),
    text=CLIPTextConfig(vocabulary=272, positions=10, width=64, depth=1, heads=1, hidden=80),
    shared=16,
)
TOLD = {"heads": 2, "sentinels": 4, "positions": 96, "image": {"resolution": 16}}
Make = Callable[..., "Files"]


@dataclass(frozen=True)
class Files:
    """Published files in a folder of their own, and the system whose weights they are."""

    folder: Path
    system: CM3Leon
    paths: list[Path]
    config: Path

    def imported(self, name: str = "imported", **kept: Any) -> tuple[CM3Leon, list[str]]:
        """What an import makes of them."""
        made, notes = import_files(SYSTEM, self.paths, self.folder / name, self.config, **kept)
        system = directory.load(made)
        assert isinstance(system, CM3Leon)
        return system, notes


def clip_text(bpe: BPE) -> BPE:
    """With CLIP's two symbols at its end."""
    content = json.loads(bpe._tokenizer.to_str())
    content["model"]["vocab"] |= {f"<|{name}oftext|>": len(bpe) + i for i, name in enumerate(("start", "end"))}
    return BPE(tokenizers.Tokenizer.from_str(json.dumps(content)))


def part(table: KeyMap, system: CM3Leon) -> dict[str, Tensor]:
    """What a file holds of a system."""
    state = system.state_dict().items()
    return dict(table.write((name, tensor) for name, tensor in state if table.published(name)))


@pytest.fixture
def files(tmp_path: Path, bpe: BPE) -> Make:
    """Tables of the files, and what differs in the sizes -> the files."""

    def make(
        decoder: KeyMap = DECODER_FILE, image: KeyMap = VQGAN_FILE, clip: KeyMap | None = None, **sizes: Any
    ) -> Files:
        chameleon = decoder is not DECODER_FILE
        config = replace(
            CONFIG,
            image=replace(IMAGE, quantiser="gumbel" if image is GUMBEL_FILE else "nearest"),
            chameleon=CHAMELEON if chameleon else None,
            retriever=CLIP if clip else None,
            **sizes,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            system = CM3Leon(config, bpe).eval()
            system.load_state_dict(
                {name: torch.randn_like(tensor) * 0.2 for name, tensor in system.state_dict().items()}
            )
        loss = {
            "loss.discriminator.main.0.weight": torch.ones(3),
            "loss.perceptual_loss.lin0.model.1.weight": torch.ones(2),
        }
        lightning = {"state_dict": {**part(image, system), **loss}, "callbacks": {CM3LeonConfig: CONFIG}, "epoch": 3}
        torch.save(lightning, tmp_path / "last.ckpt")
        weights = part(decoder, system)
        if chameleon:
            torch.save({**weights, "rope.freqs": torch.ones(8)}, tmp_path / "consolidated.pth")
            (tmp_path / "params.json").write_text(json.dumps({"model": {"norm_eps": 1e-5, "swin_norm": False}}))
        else:
            torch.save(
                {"model": {**weights, "decoder.version": torch.ones(1)}, "args": CONFIG}, tmp_path / "restored.pt"
            )
        paths = [tmp_path / ("consolidated.pth" if chameleon else "restored.pt"), tmp_path / "last.ckpt"]
        if clip:
            save_file(
                {key: tensor.contiguous() for key, tensor in part(clip, system).items()}, tmp_path / "clip.safetensors"
            )
            paths.append(tmp_path / "clip.safetensors")
            clip_text(bpe).write(tmp_path / "clip_tokenizer.json")
        bpe.write(tmp_path / "tokenizer.json")
        (tmp_path / "sizes.json").write_text(json.dumps(TOLD))
        return Files(tmp_path, system, paths, tmp_path / "sizes.json")

    return make


def same(a: CM3Leon, b: CM3Leon) -> None:
    assert to_plain(a.config) == to_plain(b.config)
    state = b.state_dict()
    assert a.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize(
    ("decoder", "image", "clip"),
    [
        (DECODER_FILE, VQGAN_FILE, None),
        (DECODER_FILE, GUMBEL_FILE, CLIP_FILE),
        (CHAMELEON_FILE, VQGAN_FILE, OPENAI_FILE),
        (CHAMELEON_APART_FILE, VQGAN_FILE, None),
        (DECODER_FILE, DIFFUSERS_FILE, None),
    ],
)
def test_what_is_imported_comes_back(files: Make, decoder: KeyMap, image: KeyMap, clip: KeyMap | None) -> None:
    given = files(decoder, image, clip)
    made, notes = given.imported()
    same(made, given.system)
    assert any("objects of other programs" in note for note in notes)  # nothing of them was run
    paths = export(given.folder / "imported", "published", given.folder / "published")
    again = Files(given.folder, given.system, paths, given.config)
    same(again.imported("again")[0], given.system)


def test_diffusers_reads_what_its_table_writes() -> None:
    diffusers = pytest.importorskip("diffusers")
    config = replace(IMAGE, channels=32, multipliers=(1, 2, 2), blocks=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, pixels = VQGAN(config).eval(), torch.rand(2, 3, 16, 16) * 2 - 1
        torch.nn.init.normal_(model.quantiser.codebook.weight)
    levels = range(len(config.multipliers))
    kinds = ["Attn" if config.attends(level) else "" for level in levels]
    peer = diffusers.VQModel(
        down_block_types=[f"{kind}DownEncoderBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
        block_out_channels=[config.width(level) for level in levels],
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        num_vq_embeddings=config.codes,
        vq_embed_dim=config.code_width,
        norm_num_groups=config.groups,
    ).eval()
    peer.load_state_dict(dict(diffusers_vqgan(len(levels)).write(model.state_dict().items())))
    with torch.no_grad():
        latents, ours = peer.encode(pixels).latents, model(pixels)
        ids = peer.quantize(latents)[2][2]
        drawn = peer.decode(latents).sample
    assert torch.equal(ids, ours.quantised.ids.flatten())
    assert (drawn - ours.pixels).abs().max() <= 5e-6 * drawn.abs().max()


def test_an_import_draws(files: Make) -> None:
    for decoder in (DECODER_FILE, CHAMELEON_FILE):
        system, _ = files(decoder).imported(f"imported-{decoder is DECODER_FILE}")
        reply = Model(system).generate(Document(["a dog", Blank("image")]))
        assert [len(run.ids) for run in reply.runs if run.kind == "image"] == [IMAGE.codes_per_image]


def test_documents_are_found_by_the_retriever(files: Make, picture: Callable[[int], Image]) -> None:
    given = files(clip=CLIP_FILE)
    towers = given.imported()[0].towers
    assert (towers.width, towers.parts) == (CLIP.shared, ("retriever",))
    with torch.no_grad():
        texts, alone = towers.texts(["a dog", "a dog, " * 30]), towers.texts(["a dog"])
        pictures = towers.pictures([picture(0), picture(1)])
    for vectors in (texts, pictures):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts[:1], alone)
    (given.folder / "clip_tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"clip_tokenizer.json: no such file: copy CLIP's tokenizer.json"):
        given.imported("none")
    given.system.format.text.write(given.folder / "clip_tokenizer.json")
    with pytest.raises(CheckpointError, match="has 270 tokens, but the retriever 272: give its own"):
        given.imported("other")
    with pytest.raises(ConfigError, match="cm3leon has no towers"):
        _ = files().system.towers


def test_licences_and_notes(files: Make) -> None:
    chameleon = files(CHAMELEON_FILE, VQGAN_FILE, OPENAI_FILE)
    system, notes = chameleon.imported()
    said = {name: one.licence for name, one in system.parts.items()}
    assert said["decoder"] == said["head"] == said["embed"] == "Chameleon Research License, non-commercial"
    assert (said["image_tokenizer"], said["retriever"]) == ("MIT (CompVis)", "MIT (CLIP)")
    assert any("another layout" in note for note in notes)
    assert not any("pixels wide" in note for note in notes)  # it was told


def test_a_decoder_that_is_to_be_trained(files: Make) -> None:
    given = files()
    given.config.write_text(json.dumps({**TOLD, "width": 32, "depth": 2, "text_tokens": 300, "reserved": 0}))
    fresh = Files(given.folder, given.system, [given.paths[1]], given.config)
    made, notes = fresh.imported(fresh=("decoder",))
    assert to_plain(made.config) == to_plain(given.system.config)
    assert torch.equal(made.image_tokenizer.encoder.conv_in.weight, given.system.image_tokenizer.encoder.conv_in.weight)
    assert not made.decoder.blocks[0].mlp.out.weight.any() and made.embed.weight.std() < 0.007  # as metaseq begins
    assert "decoder is new: it has learned nothing yet" in notes
    with pytest.raises(ConfigError, match="'decoder' cannot be made anew: only decoder can, where no file has one"):
        given.imported("other", fresh=("decoder",))


def names(codes: int, first_text: int, sentinels: int) -> dict[str, int]:
    """A vocabulary that holds codes, as Chameleon's does."""
    found = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for code in range(codes):
        found["IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"] = len(found)
    found |= {"<eoss>": len(found), "<racm3:break>": len(found) + 1}
    for i in range(sentinels):
        found[f"<sentinel:{i}>"] = len(found)
    while len(found) < first_text:
        found[f"<reserved{len(found):05d}>"] = len(found)
    return found


@pytest.mark.parametrize("codes", [16, 17])
def test_a_vocabulary_with_codes(files: Make, bpe: BPE, codes: int) -> None:
    """Sentinels and reserved ids are those of its names, and its codes must be the VQGAN's."""
    given = files(CHAMELEON_FILE, reserved=6, text_tokens=300)
    first = given.system.vocabulary.first_text
    content = json.loads(bpe._tokenizer.to_str())
    text = {name: id + first for name, id in content["model"]["vocab"].items()}
    text |= {f"more{i}": first + len(text) + i for i in range(300 - len(text))}
    content["model"]["vocab"] = names(codes, first, 4) | text
    (given.folder / "tokenizer.json").write_text(json.dumps(content))
    given.config.write_text(json.dumps({"positions": 96, "image": {"resolution": 16}}))
    if codes == 17:
        with pytest.raises(CheckpointError, match=r"has 17 codes from id 4 on, but .*last.ckpt has 16, which stand"):
            given.imported()
        return
    made, _ = given.imported()
    same(made, given.system)
    assert made.format.text_ids("a dog") == given.system.format.text_ids("a dog")


WRONG: dict[str, tuple[str, Callable[[Files], list[Path]]]] = {
    "no tokenizer": (
        r"no file of an image tokenizer: give taming-transformers' last.ckpt .* or Chameleon's tokenizer/vqgan.ckpt",
        lambda files: files.paths[:1],
    ),
    "no decoder": (
        "no file of a decoder: give .* or Chameleon's models/7b/consolidated.pth, .*; --fresh decoder stands for one",
        lambda files: files.paths[1:],
    ),
    "no text": (
        r"tokenizer.json: no such file: put the text vocabulary beside the decoder, .* its text_tokenizer.json",
        lambda files: (files.folder / "tokenizer.json").unlink() or files.paths,  # type: ignore[func-returns-value]
    ),
    "another name": (
        r"text_tokenizer.json: goes by the name tokenizer.json here; copy it to that name",
        lambda files: (files.folder / "tokenizer.json").rename(files.folder / "text_tokenizer.json") and files.paths,
    ),
    "two decoders": (
        r"restored.pt and .*more.pth: a model has one decoder; give one of the two",
        lambda files: [*files.paths, written(files, {"tok_embeddings.weight": torch.ones(340, 32)})],
    ),
    "transformers": (
        r"more.pth: is Chameleon as transformers stores it, .*: give models/7b/consolidated.pth",
        lambda files: [written(files, {"model.vqmodel.encoder.conv_in.weight": torch.ones(1)})],
    ),
    "LLaMA": (
        r"more.pth: has no q_normalization, as LLaMA's files have none: give models/7b/consolidated.pth",
        lambda files: [files.paths[1], written(files, {"tok_embeddings.weight": torch.ones(340, 32)})],
    ),
    "unknown": (
        r"more.pth: its keys \(x\) are of no file that is known",
        lambda files: [written(files, {"x": torch.ones(1)})],
    ),
}


def written(files: Files, state: dict[str, Tensor]) -> Path:
    torch.save(state, files.folder / "more.pth")
    return files.folder / "more.pth"


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(files: Make, case: str) -> None:
    given = files()
    message, paths = WRONG[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        import_files(SYSTEM, paths(given), given.folder / "out", given.config)
    assert "\n" not in str(caught.value)
    assert not (given.folder / "out").exists()


def test_what_the_files_do_not_tell_is_asked_for(files: Make) -> None:
    given = files()
    for told, message in (
        ({"sentinels": 4, "image": {"resolution": 16}}, "heads.*--config FILE says what the files do not tell"),
        ({"heads": 2, "sentinels": 500}, "326 ids leave none for text behind 16 codes, 500 sentinels and 0 reserved"),
    ):
        given.config.write_text(json.dumps(told))
        with pytest.raises(ConfigError, match=message):
            given.imported()


def test_without_a_resolution_that_of_the_releases_is_taken(files: Make) -> None:
    given = files()
    given.config.write_text(json.dumps({key: value for key, value in TOLD.items() if key != "image"}))
    made, notes = given.imported()
    assert (made.config.image.resolution, made.config.image.attention_resolutions) == (256, (128,))
    assert any("taken to be 256 pixels wide, 16384 codes" in note for note in notes)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"rotary": 100.0}, "rotary"), ({"raster": True}, "raster"), ({"activation": "squared_relu"}, "activation")],
)
def test_a_variant_of_our_own_has_no_published_form(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named} of this model have no place in the published files"):
        SYSTEM.exports(replace(CONFIG, **changed), "published")
    with pytest.raises(ConfigError, match="CM3Leon has no form in transformers"):
        SYSTEM.exports(CONFIG, "hf")


def test_sizes_of_the_published_files() -> None:
    """What is read from shapes alone is what the sizes of the system say."""
    listed = {one["variant"]: one["keys"] for one in json.loads(MANIFEST.read_text())["files"]}
    shapes = {name: {key: tuple(shape) for key, (shape, _) in keys.items()} for name, keys in listed.items()}
    image = {"image": to_plain(CM3LEON_7B.image)}
    for size, config in (("350M", CM3LEON_350M), ("760M", CM3LEON_760M), ("7B", CM3LEON_7B)):
        found = shapes[f"cm3leon {size} (never published; metaseq layout)"]
        plain = {**_decoder_sizes(shape_of(found)), **image}
        assert from_plain(CM3LeonConfig, _with_vocabulary(plain, {})) == config
    found = shapes["chameleon_7b"]
    plain = {**_chameleon_sizes(shape_of(found), found, {}), "image": to_plain(CHAMELEON_7B.image)}
    assert from_plain(CM3LeonConfig, _with_vocabulary(plain, {})) == CHAMELEON_7B
    for name, image_config in (
        ("chameleon_vqgan", CHAMELEON_7B.image),
        ("cm3leon_image_tokenizer", CM3LEON_7B.image),
        ("taming_vqgan_gumbel_f8_8192", replace(CM3LEON_7B.image, quantiser="gumbel")),
    ):
        assert from_plain(VQGANConfig, _image_sizes(shapes[name], name, {})) == image_config
    grouped = {**found, "layers.0.attention.wqkv.weight": (4096 + 2 * 8 * 128, 4096)}
    more = _chameleon_sizes(shape_of(grouped), grouped, {"swin_norm": True})["chameleon"]
    assert from_plain(ChameleonConfig, more) == ChameleonConfig(hidden=11_008, key_heads=8, norms_behind=True)


def test_the_manifest_is_clean() -> None:
    reports = check_manifest(SYSTEM, MANIFEST)
    listed = json.loads(MANIFEST.read_text())["files"]
    assert len(reports) == len(listed)
    for report, file in zip(reports, listed, strict=True):
        assert (report["missing"], report["unexpected"]) == ([], [])
        assert report["mapped"] + report["ignored"] == len(file["keys"]) and report["mapped"] > 90
