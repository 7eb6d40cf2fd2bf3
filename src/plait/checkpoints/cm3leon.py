"""The published names of CM3Leon's parts, and of the nearest relatives that were released: CM3Leon itself never was.

| file | table |
| --- | --- |
| a decoder, as metaseq saves it | `DECODER_FILE` |
| Chameleon's `consolidated.pth`, the successor's decoder | `CHAMELEON_FILE`, `CHAMELEON_APART_FILE` |
| a VQGAN: taming's f16, Chameleon's `vqgan.ckpt`, latent-diffusion's f8 | `VQGAN_FILE` |
| the same VQGANs as diffusers stores them (`VQModel`) | `diffusers_vqgan(levels)` |
| taming's gumbel_f8, which chooses codes by logits | `GUMBEL_FILE` |
| CLIP, the retriever, as transformers or as OpenAI stores it | `CLIP_FILE`, `OPENAI_FILE` |

The parts go by the names image_tokenizer, embed, positions, decoder, head (Chameleon alone) and retriever. `published`
tells `plait import` and `plait export` what the files are and how they go together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.checkpoints.keymap import KeyMap, reordered
from plait.checkpoints.parts import (
    CLIP,
    FREQUENCIES,
    GUMBEL_VQGAN,
    OPENAI_CLIP,
    VQGAN,
    FilePart,
    ShapeOf,
    clip_sizes,
    count,
    diffusers_sizes,
    diffusers_vqgan,
    shape_of,
    state_of,
    vqgan_sizes,
)
from plait.checkpoints.published import Export, Kind, Plan, Published, over
from plait.checkpoints.tensors import Shape, TensorFile, read_json
from plait.config import from_plain, to_plain
from plait.errors import CheckpointError, ConfigError
from plait.nn.clip import CLIP as CLIPTowers
from plait.nn.clip import CLIPConfig
from plait.nn.vqgan import VQGAN as VQGANModule
from plait.nn.vqgan import VQGANConfig
from plait.systems.cm3leon import CLIP_TOKENIZER, CM3LEON_350M, SIZES, TOKENIZER, CM3Leon, CM3LeonConfig, Vocabulary
from plait.text.bpe import BPE

DECODER_FILE = KeyMap(
    {
        "embed.weight": "decoder.embed_tokens.weight",
        "positions.weight": "decoder.embed_positions.weight",
        "decoder.blocks.{i}.attention.qkv.weight": reordered("decoder.layers.{i}.self_attn.qkv_proj.weight", 2, 0, 1),
        "decoder.blocks.{i}.attention.out.weight": "decoder.layers.{i}.self_attn.out_proj.weight",
        "decoder.blocks.{i}.mlp.hidden.weight": "decoder.layers.{i}.fc1.weight",
        "decoder.blocks.{i}.mlp.out.weight": "decoder.layers.{i}.fc2.weight",
    },
    ignored={"decoder.version": "numbers the form of the file"},
    tied={"decoder.output_projection.weight": "decoder.embed_tokens.weight"},
)
"""metaseq keeps keys, values, queries in this order; the output table is the embedding's."""

_NORMS = {
    "decoder.blocks.{i}.attention_norm.weight": "layers.{i}.attention_norm.weight",
    "decoder.blocks.{i}.mlp_norm.weight": "layers.{i}.ffn_norm.weight",
    "decoder.blocks.{i}.attention.rotation.query.{w}": "layers.{i}.attention.q_normalization.{w}",
    "decoder.blocks.{i}.attention.rotation.key.{w}": "layers.{i}.attention.k_normalization.{w}",
}

CHAMELEON_FILE = KeyMap(
    {
        **_NORMS,
        "embed.weight": "tok_embeddings.weight",
        "decoder.blocks.{i}.attention.qkv.weight": "layers.{i}.attention.wqkv.weight",
        "decoder.blocks.{i}.attention.out.weight": "layers.{i}.attention.wo.weight",
        "decoder.blocks.{i}.mlp.gate_hidden.weight": "layers.{i}.feed_forward.w13.weight",
        "decoder.blocks.{i}.mlp.out.weight": "layers.{i}.feed_forward.w2.weight",
        "decoder.norm.weight": "norm.weight",
        "head.weight": "output.weight",
    },
    ignored={"rope.freqs": FREQUENCIES},
)
"""Chameleon's own program fuses queries, keys and values, and the two halves of the gated layer."""

CHAMELEON_APART_FILE = (
    KeyMap(
        {
            "decoder.blocks.{i}.attention.qkv.weight": (
                "layers.{i}.attention.wq.weight",
                "layers.{i}.attention.wk.weight",
                "layers.{i}.attention.wv.weight",
            ),
            "decoder.blocks.{i}.mlp.gate_hidden.weight": (
                "layers.{i}.feed_forward.w1.weight",
                "layers.{i}.feed_forward.w3.weight",
            ),
        }
    )
    | CHAMELEON_FILE
)
"""The same in files that hold them apart."""

VQGAN_FILE = VQGAN.under(ours="image_tokenizer.")
GUMBEL_FILE = GUMBEL_VQGAN.under(ours="image_tokenizer.")
CLIP_FILE = CLIP.under(ours="retriever.")
OPENAI_FILE = OPENAI_CLIP.under(ours="retriever.")

DECODER, CHAMELEON, WHOLE_CHAMELEON = "decoder", "chameleon", "chameleon-hf"
TOKENIZERS = ("vqgan", "gumbel", "vqgan-diffusers")
RETRIEVERS = ("clip", "clip-openai")

CHAMELEON_TEXT = "text_tokenizer.json"
_OF_DIFFUSERS = "encoder.down_blocks.0.resnets.0.conv1.weight"
_CODE, _SYMBOL = re.compile(r"IMGIMG([A-J]+)Z"), re.compile(r"<.+>")
_CHAMELEON_LICENCE = "Chameleon Research License, non-commercial"

_VQGAN_WHERE = (
    "taming-transformers' last.ckpt of vqgan_imagenet_f16 or vqgan_gumbel_f8 (github.com/CompVis/taming-transformers), "
    "latent-diffusion's vq-f8, or Chameleon's tokenizer/vqgan.ckpt"
)
_METASEQ_WHERE = "the weights of metaseq's transformer_lm_megatron"
_CHAMELEON_WHERE = "models/7b/consolidated.pth, with params.json (github.com/facebookresearch/chameleon)"


def _image_sizes(shapes: Mapping[str, Shape], where: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a VQGAN. Its resolution is no shape: 512 without attention in levels (Chameleon's), or 256."""
    resolution = changes.get("resolution")
    if not isinstance(resolution, int):
        resolution = 256 if _attends(shapes) else 512
    if _OF_DIFFUSERS in shapes:
        return diffusers_sizes(shapes, resolution)
    return vqgan_sizes(shape_of(shapes, where=where), resolution)


def _attends(shapes: Mapping[str, Shape]) -> bool:
    """Whether levels have attention, as all but Chameleon's."""
    return any(".attn.0." in key or ("down_blocks" in key and "attentions" in key) for key in shapes)


def _vqgan_table(shapes: Mapping[str, Shape]) -> KeyMap:
    if _OF_DIFFUSERS not in shapes:
        return GUMBEL_FILE if "quantize.embed.weight" in shapes else VQGAN_FILE
    levels = count(shape_of(shapes), "encoder.down_blocks.{i}.resnets.0.conv1.weight")
    return diffusers_vqgan(levels).under(ours="image_tokenizer.")


def _vqgan(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    config = from_plain(VQGANConfig, _image_sizes(shapes, "the list of keys", {}))
    with torch.device("meta"):
        return state_of(image_tokenizer=VQGANModule(config))


def _clip(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    config = from_plain(CLIPConfig, clip_sizes(shape_of(shapes)))
    with torch.device("meta"):
        return state_of(retriever=CLIPTowers(config))


def _decoder_sizes(shape: ShapeOf) -> dict[str, Any]:
    """Those of metaseq's decoder, with the heads where one of the paper's sizes has its width and depth."""
    vocabulary, width = shape("decoder.embed_tokens.weight")
    depth = count(shape, "decoder.layers.{i}.self_attn.qkv_proj.weight")
    known = [size.heads for size in SIZES.values() if (size.width, size.depth) == (width, depth)]
    more = {"heads": known[0]} if known else {}
    positions = shape("decoder.embed_positions.weight")[0] - 2
    hidden = shape("decoder.layers.0.fc1.weight")[0]
    more |= {"hidden": hidden} if hidden != 4 * width else {}
    return {"vocabulary": vocabulary, "width": width, "depth": depth, "positions": positions, **more}


def _chameleon_sizes(shape: ShapeOf, shapes: Mapping[str, Shape], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of Chameleon's decoder; `settings` are of its params.json."""
    vocabulary, width = shape("tok_embeddings.weight")
    normed = shapes.get("layers.0.attention.q_normalization.weight")
    head_width = normed[0] if normed else width // settings["n_heads"] if settings.get("n_heads") else 128
    fused = shapes.get("layers.0.attention.wqkv.weight")
    rows = fused[0] if fused else width + 2 * shape("layers.0.attention.wk.weight")[0]
    key_heads = (rows - width) // (2 * head_width)
    names = {"eps": "norm_eps", "base": "rope_theta", "norms_behind": "swin_norm"}
    return {
        "vocabulary": vocabulary,
        "width": width,
        "depth": count(shape, "layers.{i}.attention_norm.weight"),
        "heads": width // head_width,
        "chameleon": {
            "hidden": shape("layers.0.feed_forward.w2.weight")[1],
            "key_heads": key_heads if key_heads != width // head_width else None,
            "normed_heads": normed is not None,
            **{ours: settings[theirs] for ours, theirs in names.items() if settings.get(theirs) is not None},
        },
    }


def _chameleon_table(shapes: Mapping[str, Shape]) -> KeyMap:
    return CHAMELEON_FILE if "layers.0.attention.wqkv.weight" in shapes else CHAMELEON_APART_FILE


def _with_vocabulary(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration in which all ids behind codes, sentinels and reserved ones are text.

    Raises:
        ConfigError: there are none left.
    """
    merged = over(plain, changes)
    ids = merged.pop("vocabulary")
    paper = len(CM3LEON_350M.vocabulary)
    defaults = {"sentinels": CM3LEON_350M.sentinels, "reserved": CM3LEON_350M.reserved if ids == paper else 0}
    merged = {**defaults, **merged}
    sizes = {key: merged[key] for key in ("sentinels", "reserved")}
    voc = Vocabulary(codes=merged["image"]["codes"], text_tokens=0, **sizes)
    if ids <= len(voc):
        raise ConfigError(
            f"{ids} ids leave none for text behind {voc.codes} codes, {voc.sentinels} sentinels and {voc.reserved} "
            "reserved ones: give the VQGAN that the decoder was trained with, or its sentinels and reserved"
        )
    return {"text_tokens": ids - len(voc), **merged}


def _hollow(plain: Mapping[str, Any]) -> dict[str, Tensor]:
    """Everything but the image tokenizer, on the meta device."""
    image = to_plain(CM3LEON_350M.image)
    config = from_plain(CM3LeonConfig, _with_vocabulary({**plain, "image": image}, {}))
    with torch.device("meta"):
        state = CM3Leon(config, BPE.train([], 256)).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("image_tokenizer.")}


def _metaseq(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    return _hollow(_decoder_sizes(shape_of(shapes))), DECODER_FILE


def _chameleon(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    return _hollow(_chameleon_sizes(shape_of(shapes), shapes, {})), _chameleon_table(shapes)


def _of_transformers(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    raise CheckpointError(_REFUSED)


_REFUSED = (
    "is Chameleon as transformers stores it, with queries and keys in another order and without the half of its VQGAN "
    f"that draws: give {_CHAMELEON_WHERE}, and tokenizer/vqgan.ckpt"
)


def published() -> Published:
    """For `plait import cm3leon` and `plait export`."""
    return CM3LeonFiles()


class CM3LeonFiles(Published):
    """A decoder and an image tokenizer, with or without a retriever, and a tokenizer.json beside one of them."""

    kinds = (
        Kind(
            name=WHOLE_CHAMELEON,
            sign="model.vqmodel.encoder.conv_in.weight",
            what="a Chameleon of transformers",
            where=_CHAMELEON_WHERE,
            hollow=_of_transformers,
        ),
        Kind(
            name=DECODER,
            sign="decoder.embed_tokens.weight",
            what="a decoder of metaseq",
            where=_METASEQ_WHERE,
            hollow=_metaseq,
        ),
        Kind(
            name=CHAMELEON,
            sign="tok_embeddings.weight",
            what="Chameleon's decoder",
            where=_CHAMELEON_WHERE,
            hollow=_chameleon,
        ),
        Kind(
            name="vqgan-diffusers",
            sign=_OF_DIFFUSERS,
            what="a VQGAN of diffusers",
            where="the weights of a VQModel",
            hollow=lambda shapes: (_vqgan(shapes), _vqgan_table(shapes)),
        ),
        Kind(
            name="vqgan",
            sign="quantize.embedding.weight",
            what="a VQGAN",
            where=_VQGAN_WHERE,
            hollow=lambda shapes: (_vqgan(shapes), _vqgan_table(shapes)),
        ),
        Kind(
            name="gumbel",
            sign="quantize.embed.weight",
            what="a VQGAN with Gumbel's quantiser",
            where=_VQGAN_WHERE,
            hollow=lambda shapes: (_vqgan(shapes), _vqgan_table(shapes)),
        ),
        Kind(
            name="clip",
            sign="vision_model.embeddings.class_embedding",
            what="a CLIP of transformers",
            where="the folder openai/clip-vit-base-patch32",
            hollow=lambda shapes: (_clip(shapes), CLIP_FILE),
        ),
        Kind(
            name="clip-openai",
            sign="visual.class_embedding",
            what="a CLIP of OpenAI",
            where="the state dict of ViT-B-32.pt (github.com/openai/CLIP)",
            hollow=lambda shapes: (_clip(shapes), OPENAI_FILE),
        ),
    )

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """The decoder is metaseq's or Chameleon's, the image tokenizer any VQGAN of as many codes as it knows."""
        decoder, tokenizer, retriever = self._which(given)
        image = given[tokenizer]
        own = changes.get("image")
        plain: dict[str, Any] = {
            "image": _image_sizes(image.shapes, str(image.path), own if isinstance(own, Mapping) else {}),
            **self._decoder(given[decoder], decoder),
        }
        if retriever:
            plain["retriever"] = self._retriever(given[retriever])
        files = _text_file([given[decoder], image])
        named = _named(files)
        if named:
            plain |= named.sizes
        config = from_plain(CM3LeonConfig, _with_vocabulary(plain, changes))
        if config.retriever:
            _check_clip_text(files.parent / CLIP_TOKENIZER, config.retriever)
        if named:
            _check_codes(files, named, config.vocabulary, image.path)
        tables = {
            DECODER: DECODER_FILE,
            CHAMELEON: _chameleon_table(given[decoder].shapes),
            tokenizer: _vqgan_table(image.shapes),
            "clip": CLIP_FILE,
            "clip-openai": OPENAI_FILE,
        }
        return Plan(
            system=CM3Leon,
            config=config,
            tables={kind: tables[kind] for kind in given},
            files=files.parent,
            licences=_licences(decoder, image, retriever),
            notes=tuple(_notes(given[decoder], decoder, config, changes)),
            also=(files, *([files.parent / CLIP_TOKENIZER] if retriever else [])),
        )

    def _which(self, given: Mapping[str, TensorFile]) -> tuple[str, str, str | None]:
        """The kinds that are the decoder, the image tokenizer and the retriever."""
        if WHOLE_CHAMELEON in given:
            raise CheckpointError(f"{given[WHOLE_CHAMELEON].path}: {_REFUSED}")
        decoder, tokenizer = _only(given, (DECODER, CHAMELEON), "decoder"), _only(given, TOKENIZERS, "image tokenizer")
        missing = [] if tokenizer else [f"an image tokenizer: give {_VQGAN_WHERE}"]
        if not decoder:
            missing.append(
                f"a decoder: give {_METASEQ_WHERE}, or Chameleon's {_CHAMELEON_WHERE}; --fresh decoder stands for one "
                "that is to be trained"
            )
        if decoder is None or tokenizer is None:
            raise CheckpointError("no file of " + "; no file of ".join(missing))
        return decoder, tokenizer, _only(given, RETRIEVERS, "retriever")

    def _decoder(self, file: TensorFile, kind: str) -> dict[str, Any]:
        shape = shape_of(file.shapes, where=str(file.path))
        if kind == DECODER:
            return _decoder_sizes(shape)
        if "layers.0.attention.q_normalization.weight" not in file.shapes and not _settings(file):
            raise CheckpointError(
                f"{file.path}: has no q_normalization, as LLaMA's files have none: give {_CHAMELEON_WHERE}"
            )
        return _chameleon_sizes(shape, file.shapes, _settings(file))

    def _retriever(self, file: TensorFile) -> dict[str, Any]:
        part = FilePart(file, file.shapes)
        settings = file.folder / "config.json"
        said = read_json(settings) if file.path.is_dir() and settings.is_file() else {}
        text = said.get("text_config") or {}
        exact = {"activation": "gelu"} if text.get("hidden_act", "quick_gelu") == "gelu" else {}
        return {**clip_sizes(part.shape), **exact}

    def fresh(
        self, part: str, given: Mapping[str, TensorFile], changes: Mapping[str, Any]
    ) -> tuple[str, dict[str, Tensor]]:
        """A decoder of the paper's smallest size, or of that which the configuration says."""
        if part != "decoder" or DECODER in given or CHAMELEON in given:
            raise ConfigError(f"{part!r} cannot be made anew: only decoder can, where no file has one")
        there = [name for name in TOKENIZERS if name in given]
        if not there:
            raise CheckpointError(f"no file of an image tokenizer: give {_VQGAN_WHERE}")
        image = given[there[0]]
        own = changes.get("image")
        plain = to_plain(CM3LEON_350M)
        plain["image"] = _image_sizes(image.shapes, str(image.path), own if isinstance(own, Mapping) else {})
        config = from_plain(CM3LeonConfig, over(plain, {k: v for k, v in changes.items() if k != "retriever"}))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            state = CM3Leon(replace(config, raster=False), BPE.train([], 256)).state_dict()
        return DECODER, dict(
            DECODER_FILE.write((name, tensor) for name, tensor in state.items() if DECODER_FILE.published(name))
        )

    def exports(self, config: CM3LeonConfig, format: str) -> Items[Export]:
        """Decoder, image tokenizer and retriever, each in a file of the program that it is of."""
        if format == "hf":
            raise ConfigError("CM3Leon has no form in transformers: export the published files")
        added = [name for name in ("raster", "rotary") if getattr(config, name)]
        own = (("image.local", config.image.local), ("activation", config.activation == "squared_relu"))
        added += [name for name, is_own in own if is_own]
        added += ["image.groups"] if config.image.groups != CM3LEON_350M.image.groups else []
        if added:
            raise ConfigError(
                f"{', '.join(added)} of this model have no place in the published files: keep Plait's own"
            )
        decoder = Export(name="decoder.pt", table=DECODER_FILE, inside="model")
        if config.chameleon:
            decoder = Export(name="consolidated.pth", table=CHAMELEON_FILE)
        gumbel = config.image.quantiser == "gumbel"
        files = [decoder, Export(name="vqgan.ckpt", table=GUMBEL_FILE if gumbel else VQGAN_FILE, inside="state_dict")]
        return [*files, Export(name="clip.pt", table=OPENAI_FILE)] if config.retriever else files


def _only(given: Mapping[str, TensorFile], names: Items[str], what: str) -> str | None:
    """Which of some kinds is given.

    Raises:
        CheckpointError: several are.
    """
    there = [name for name in names if name in given]
    if len(there) > 1:
        paths = " and ".join(str(given[name].path) for name in there)
        raise CheckpointError(f"{paths}: a model has one {what}; give one of the two")
    return there[0] if there else None


def _settings(file: TensorFile) -> dict[str, Any]:
    """What Chameleon's params.json says, all on one level; nothing where there is none."""
    path = file.folder / "params.json"
    said = read_json(path) if path.is_file() else {}
    inner = said.get("model")
    return {**said, **inner} if isinstance(inner, dict) else said


def _text_file(files: Items[TensorFile]) -> Path:
    """The tokenizer beside one of the files."""
    for file in files:
        if (file.folder / TOKENIZER).is_file():
            return file.folder / TOKENIZER
    for file in files:
        if (file.folder / CHAMELEON_TEXT).is_file():
            raise CheckpointError(
                f"{file.folder / CHAMELEON_TEXT}: goes by the name {TOKENIZER} here; copy it to that name"
            )
    raise CheckpointError(
        f"{files[0].folder / TOKENIZER}: no such file: put the text vocabulary beside the decoder, in the form of the "
        "tokenizers library; Chameleon's is its text_tokenizer.json"
    )


@dataclass(frozen=True)
class NamedIds:
    """What the ids of Chameleon's vocabulary are, by the names of its tokens.

    A code is `IMGIMG`, its digits as letters (A is 0), `Z`; other symbols stand in angle brackets.
    """

    codes: Mapping[int, int]
    """Id -> code."""
    special: tuple[int, ...]
    text: tuple[int, ...]
    sentinels: int

    @classmethod
    def of(cls, names: Mapping[str, int]) -> NamedIds:
        """Of a vocabulary: names to ids."""
        codes: dict[int, int] = {}
        special: list[int] = []
        text: list[int] = []
        for name, id in sorted(names.items(), key=lambda pair: pair[1]):
            if match := _CODE.fullmatch(name):
                codes[id] = int("".join(str(ord(letter) - ord("A")) for letter in match[1]))
            else:
                (special if _SYMBOL.fullmatch(name) else text).append(id)
        return cls(codes, tuple(special), tuple(text), sum(name.startswith("<sentinel:") for name in names))

    @property
    def sizes(self) -> dict[str, int]:
        """Plain sizes of a `Vocabulary` that holds codes: text begins behind all others."""
        before = Vocabulary(codes=len(self.codes), sentinels=self.sentinels, text_tokens=0)
        return {"sentinels": self.sentinels, "reserved": min(self.text) - len(before)}


def _named(file: Path) -> NamedIds | None:
    """Those of a tokenizer that holds codes; None: it holds text alone."""
    said = read_json(file).get("model")
    names = said.get("vocab") if isinstance(said, dict) else None
    found = NamedIds.of(names) if isinstance(names, dict) else None
    return found if found and found.codes else None


def _check_codes(file: Path, named: NamedIds, vocabulary: Vocabulary, image: Path) -> None:
    """Whether a vocabulary with codes has those of the image tokenizer, in order."""
    if named.codes != {vocabulary.first_code + code: code for code in range(vocabulary.codes)}:
        raise CheckpointError(
            f"{file}: has {len(named.codes)} codes from id {min(named.codes)} on, but {image} has {vocabulary.codes}, "
            f"which stand in order from {vocabulary.first_code} on: give the VQGAN that the decoder was trained with"
        )


def _check_clip_text(path: Path, config: CLIPConfig) -> None:
    """Whether the retriever's tokenizer is there, and is of its size."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file: copy CLIP's tokenizer.json (openai/clip-vit-base-patch32) there, under this name"
        )
    found = len(BPE.read(path))
    if found != config.text.vocabulary:
        raise CheckpointError(f"{path}: has {found} tokens, but the retriever {config.text.vocabulary}: give its own")


def _licences(decoder: str, image: TensorFile, retriever: str | None) -> dict[str, str]:
    """Of the parts that files hold."""
    licences = {"image_tokenizer": "MIT (CompVis)" if _attends(image.shapes) else _CHAMELEON_LICENCE}
    own = _CHAMELEON_LICENCE if decoder == CHAMELEON else "that of whoever trained it"
    licences |= dict.fromkeys(("embed", "decoder", "head" if decoder == CHAMELEON else "positions"), own)
    return licences | ({"retriever": "MIT (CLIP)"} if retriever else {})


def _notes(file: TensorFile, kind: str, config: CM3LeonConfig, changes: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be told from the files."""
    image = changes.get("image")
    if not (isinstance(image, Mapping) and "resolution" in image):
        yield (
            f"pictures are taken to be {config.image.resolution} pixels wide, {config.image.codes_per_image} codes: a "
            "VQGAN's file does not tell; image.resolution by --config says another"
        )
    if kind == CHAMELEON:
        yield "Chameleon was trained on another layout of its documents: tune it before it is asked"
        if not _settings(file):
            yield f"no params.json beside {file.path.name}: norms and rotation are taken to be those of the 7B model"
