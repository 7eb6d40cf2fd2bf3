"""The published names of Emu (huggingface.co/BAAI/Emu).

| file | table |
| --- | --- |
| `pretrain/multimodal_encoder/pytorch_model.bin`, all but the decoder | `PRETRAINED` |
| `Emu-instruct.pt`, the same with adapters, by the names of peft 0.4 | `INSTRUCTED` |
| `pretrain/unet` and `pretrain/vae`, as diffusers stores them | `plait.checkpoints.diffusion.latent_table` |

The folder `pretrain` is read as a whole, and so are its parts where they are given one by one. Both models hold tensors
that nothing reads; they are kept (`plait.systems.emu.Unread`), so that an export is what was imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.checkpoints.diffusion import (
    SIGN,
    Pipeline,
    latent_exports,
    latent_papers,
    latent_table,
    unet_sizes,
    vae_sizes,
    vae_table,
)
from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.parts import (
    LISTED,
    LLAMA,
    VIT,
    adapters,
    count,
    hugging_face,
    language_sizes,
    shape_of,
    state_of,
    vision_sizes,
)
from plait.checkpoints.published import Export, Kind, Plan, Published, over
from plait.checkpoints.tensors import Shape, TensorFile
from plait.config import from_plain
from plait.errors import CheckpointError, ConfigError
from plait.nn.diffusion import make
from plait.systems.emu import EMU_I, ROLES, TOKENIZER, WORDS, Emu, EmuConfig, vocabulary
from plait.text.pieces import SentencePiece

_BLOCK = "cformer.cformer.block.{i}."
_SELF, _CROSS = _BLOCK + "layer.0.SelfAttention.", _BLOCK + "layer.1.EncDecAttention."

READING = VIT.under("visual.", "vision.") | KeyMap(
    {
        "vision_norm.{w}": "ln_visual.{w}",
        "cformer.queries": "cformer.causal_tokens",
        "cformer.bias.weight": _SELF.format(i=0) + "relative_attention_bias.weight",
        "cformer.blocks.{i}.attention_norm.weight": _BLOCK + "layer.0.layer_norm.weight",
        "cformer.blocks.{i}.attention.qkv.weight": (_SELF + "q.weight", _SELF + "k.weight", _SELF + "v.weight"),
        "cformer.blocks.{i}.attention.out.weight": _SELF + "o.weight",
        "cformer.blocks.{i}.cross_norm.weight": _BLOCK + "layer.1.layer_norm.weight",
        "cformer.blocks.{i}.cross.q.weight": _CROSS + "q.weight",
        "cformer.blocks.{i}.cross.kv.weight": (_CROSS + "k.weight", _CROSS + "v.weight"),
        "cformer.blocks.{i}.cross.out.weight": _CROSS + "o.weight",
        "cformer.blocks.{i}.mlp_norm.weight": _BLOCK + "layer.2.layer_norm.weight",
        "cformer.blocks.{i}.mlp.hidden.weight": _BLOCK + "layer.2.DenseReluDense.wi.weight",
        "cformer.blocks.{i}.mlp.out.weight": _BLOCK + "layer.2.DenseReluDense.wo.weight",
        "cformer.norm.weight": "cformer.cformer.final_layer_norm.weight",
        "projection.{w}": "cformer.projection.{w}",
        "unread.vision_norm.{w}": "visual.norm.{w}",
        "unread.vision_head.{w}": "visual.head.{w}",
        "unread.words.weight": "cformer.cformer.embed_tokens.weight",
    }
)
"""All before the language model."""

_LM, _PEFT = "decoder.lm.", "decoder.lm.base_model.model."
_REGRESSION = KeyMap({"regression.weight": "stu_regress_head.weight"})

PRETRAINED = READING | LLAMA.under(_LM, "language.") | _REGRESSION.under(_LM)
INSTRUCTED = (
    READING | adapters("default").under(_PEFT, "language.") | LLAMA.under(_PEFT, "language.") | _REGRESSION.under(_PEFT)
)

ENCODER, TUNED, FOLDER, DRAWER = "pretrained", "instruct", "folder", "decoder"
WITHIN = "multimodal_encoder."
_ADAPTER = re.compile(re.escape(_PEFT) + r"model\.layers\.\d+\.self_attn\.([qkvo])_proj\.lora_A\.default\.weight")
_HUB = "https://huggingface.co/BAAI/Emu"

LICENCES = {
    "vision": "MIT (EVA)",
    **dict.fromkeys(("vision_norm", "cformer", "projection", "regression", "unread"), "Emu's own (BAAI)"),
    "language": "LLaMA licence, non-commercial (LLaMA, tuned as Emu)",
    "decoder": "CreativeML Open RAIL-M (Stable Diffusion 1.5, tuned as Emu)",
}


def emu_sizes(shapes: Mapping[str, Shape], where: str = LISTED) -> dict[str, Any]:
    """A plain `EmuConfig` of a model without its decoder, tuned or not."""
    shape = shape_of(shapes, where=where)
    tuned = f"{_PEFT}lm_head.weight" in shapes
    vision = vision_sizes(shape_of(shapes, "visual.", where), depth=1000)
    buckets, heads = shape(_SELF.format(i=0) + "relative_attention_bias.weight")
    _, queries, width = shape("cformer.causal_tokens")
    sizes: dict[str, Any] = {
        "vision": vision,
        "cformer": {
            "width": width,
            "depth": count(shape, _BLOCK + "layer.0.layer_norm.weight"),
            "heads": heads,
            "head_width": shape(_SELF.format(i=0) + "q.weight")[0] // heads,
            "hidden": shape(_BLOCK.format(i=0) + "layer.2.DenseReluDense.wi.weight")[0],
            "queries": queries,
            "image_width": vision["width"],
            "buckets": buckets,
        },
        "language": language_sizes(shape_of(shapes, _PEFT if tuned else _LM, where), {}, where),
        "tuned": tuned,
    }
    if "visual.head.weight" in shapes:
        words = shape("cformer.cformer.embed_tokens.weight")[0]
        sizes["unread"] = {"embedding": shape("visual.head.weight")[0], "words": words}
    found = {match[1]: shapes[key][0] for key in shapes if (match := _ADAPTER.fullmatch(key))}
    if found:
        layers = tuple(layer for layer in EMU_I.layers if layer in found)
        sizes["lora"] = {"rank": next(iter(found.values())), "alpha": EMU_I.alpha, "layers": layers}
    return sizes


def _hollow(shapes: Mapping[str, Shape]) -> tuple[Mapping[str, Tensor], KeyMap]:
    config = from_plain(EmuConfig, emu_sizes(shapes))
    with torch.device("meta"):
        state = Emu(config, vocabulary(SentencePiece.train(["a"], 320).model, config.tuned)).state_dict()
    return state, INSTRUCTED if config.tuned else PRETRAINED


def _unet(shapes: Mapping[str, Shape]) -> tuple[Mapping[str, Tensor], KeyMap]:
    with torch.device("meta"):
        return state_of(unet=make("UNet2DConditionModel", unet_sizes(shape_of(shapes)))), KeyMap(
            {"unet.{rest}": "{rest}"}
        )


def _vae(shapes: Mapping[str, Shape]) -> tuple[Mapping[str, Tensor], KeyMap]:
    with torch.device("meta"):
        return state_of(vae=make("AutoencoderKL", vae_sizes(shape_of(shapes)))), vae_table(shapes)


def _safety(shapes: Mapping[str, Shape]) -> tuple[Mapping[str, Tensor], KeyMap]:
    return {}, KeyMap({}, ignored={"{rest}": "judges pictures that are drawn"})


def _nothing(shapes: Mapping[str, Shape]) -> tuple[Mapping[str, Tensor], KeyMap]:
    raise CheckpointError("a list of keys does not tell the sizes of a decoder: give its folder")


def published() -> Published:
    """For `plait import emu` and `plait export`."""
    return EmuFiles()


class EmuFiles(Published):
    """A pretrained model with its decoder or without, or a tuned one; a decoder beside either."""

    kinds = (
        Kind(
            name=FOLDER,
            sign=f"{WITHIN}visual.cls_token",
            what="Emu with its decoder",
            where=f"the folder pretrain of {_HUB}",
            hollow=_nothing,
        ),
        Kind(
            name=TUNED,
            sign=f"{_PEFT}lm_head.weight",
            what="Emu-I",
            where=f"Emu-instruct.pt of {_HUB}",
            hollow=_hollow,
        ),
        Kind(
            name=ENCODER,
            sign=f"{_LM}lm_head.weight",
            what="Emu without its decoder",
            where=f"pretrain/multimodal_encoder/pytorch_model.bin of {_HUB}",
            hollow=_hollow,
        ),
        Kind(
            name=DRAWER,
            sign=SIGN,
            what="Emu's decoder",
            where=f"a folder with unet, vae and scheduler of the folder pretrain of {_HUB}",
            hollow=_nothing,
        ),
        Kind(name="unet", sign="time_embedding.linear_1.weight", what="a U-Net", where="its folder", hollow=_unet),
        Kind(name="vae", sign="quant_conv.weight", what="a VAE", where="its folder", hollow=_vae),
        Kind(
            name="safety",
            sign="concept_embeds",
            what="what judges pictures",
            where="nothing: it is not used",
            hollow=_safety,
        ),
    )

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """The sizes are those of the files; the decoder's are in its JSON files."""
        models = [kind for kind in (FOLDER, TUNED, ENCODER) if kind in given]
        for part in ("unet", "vae", "safety"):
            if part in given:
                raise CheckpointError(f"{given[part].path}: is a part of a decoder: give the folder that holds it")
        if len(models) != 1:
            raise CheckpointError(
                f"{len(models)} models of Emu: give one of {'; '.join(kind.where for kind in self.kinds[:3])}"
            )
        model = given[models[0]]
        prefix = WITHIN if models[0] == FOLDER else ""
        own = {key.removeprefix(prefix): shape for key, shape in model.shapes.items() if key.startswith(prefix)}
        plain, notes = emu_sizes(own, str(model.path)), []
        drawer = given.get(DRAWER) or (model if SIGN in model.shapes else None)
        if drawer is None:
            notes.append(f"no decoder, so no pictures are drawn: give {self.kinds[3].where} to have them")
        else:
            sizes, more = Pipeline(drawer).diffusion()
            plain["decoder"] = {**sizes, "steps": 50, "guidance": 7.5}
            notes += more
            notes.append("pictures that are drawn are judged by nothing: the safety checker is left out")
        config = from_plain(EmuConfig, over(plain, changes))
        text = _tokenizer(model.folder)
        words = len(SentencePiece(text.read_bytes())) + len(WORDS + ROLES if config.tuned else WORDS)
        if words != config.language.vocabulary:
            raise CheckpointError(
                f"{text}: makes {words} words, and {model.path} has {config.language.vocabulary}: give LLaMA's own"
            )
        licences = {part: name for part, name in LICENCES.items() if part not in ("decoder", "unread")}
        licences |= {part: LICENCES[part] for part in ("decoder", "unread") if getattr(config, part)}
        return Plan(
            system=Emu,
            config=config,
            tables={kind: self._table(kind, file.shapes) for kind, file in given.items()},
            files=text.parent,
            licences=licences,
            notes=tuple(notes),
            also=(text,),
        )

    def _table(self, kind: str, shapes: Mapping[str, Shape]) -> KeyMap:
        decoder = latent_table(shapes).under(ours="decoder.")
        return {
            FOLDER: PRETRAINED.under(WITHIN) | decoder,
            TUNED: INSTRUCTED,
            ENCODER: PRETRAINED,
            DRAWER: decoder,
        }[kind]

    def exports(self, config: EmuConfig, format: str) -> Items[Export]:
        """The files of the folder `pretrain`, or Emu-instruct.pt; or the language model alone."""
        if format == "hf":
            settings = hugging_face(config.language)
            return [Export(name=".", table=LLAMA.under(ours="language."), settings=settings, merged=True)]
        if config.tuned:
            own = Export(name="Emu-instruct.pt", table=INSTRUCTED)
        else:
            if config.lora:
                raise ConfigError(
                    "adapters on a model that is not tuned have no place in the published files: merge them"
                )
            own = Export(name="pretrain/multimodal_encoder/pytorch_model.bin", table=PRETRAINED)
        if config.lora and replace(config.lora, rank=EMU_I.rank, dropout=EMU_I.dropout) != EMU_I:
            raise ConfigError(
                f"adapters of alpha {config.lora.alpha:g} on {', '.join(config.lora.layers)}, which no published file "
                f"tells: an import takes {EMU_I.alpha:g} on {', '.join(EMU_I.layers)}; export the language model (hf)"
            )
        return [own, *(latent_exports("pretrain", "decoder.") if config.decoder else [])]

    def papers(self, config: EmuConfig, format: str) -> Mapping[str, Any]:
        """The JSON files of the decoder."""
        return latent_papers("pretrain", config.decoder) if config.decoder and format == "published" else {}


def _tokenizer(folder: Path) -> Path:
    """LLaMA's tokenizer beside a model."""
    for place in (folder, folder / WITHIN.removesuffix("."), folder.parent):
        if (place / TOKENIZER).is_file():
            return place / TOKENIZER
    raise CheckpointError(
        f"{folder / TOKENIZER}: no such file: put LLaMA's tokenizer.model there, which Emu's code has in "
        "models/llama_config; a tokenizer.json does not do, other ids come of it"
    )
