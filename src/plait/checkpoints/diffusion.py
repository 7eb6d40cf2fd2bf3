"""Pipelines of diffusers: folders with a model_index.json, and a folder with a JSON file for each of their parts.

| folder | what it is here |
| --- | --- |
| `unet`, `vae` | those of `LatentDiffusion`, in diffusers' own names |
| `scheduler`, `image_noising_scheduler` | settings |
| `text_encoder`, `tokenizer` | the tower of texts, and the symbols of an empty prompt |
| `image_normalizer` | mean and deviation of image embeddings |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plait.checkpoints.keymap import KeyMap, Source
from plait.checkpoints.parts import CLIP, ShapeOf, count, there
from plait.checkpoints.published import Export
from plait.checkpoints.tensors import DIFFUSION_WEIGHTS, PIPELINE, Shape, TensorFile, open_tensors, read_json
from plait.config import from_plain
from plait.errors import CheckpointError
from plait.nn.diffusion import PRIVATE, DiffusionConfig, PromptConfig, UnCLIPConfig, VectorDiffusion, settings_of

SIGN = "unet.conv_in.weight"
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick"}

LATENT = KeyMap({"diffusion.unet.{rest}": "unet.{rest}", "diffusion.vae.{rest}": "vae.{rest}"})
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def _old_attention(ours: str, theirs: str) -> dict[str, Source]:
    place = "{}.mid_block.attentions.0.{}.{{w}}"
    return {
        ours + place.format(side, new): theirs + place.format(side, old)
        for side in ("encoder", "decoder")
        for new, old in _OLD_ATTENTION.items()
    }


OLD_VAE = KeyMap(_old_attention("diffusion.vae.", "vae."))
"""Before version 0.17 the attention of the VAE had other names."""
_UNREAD = {
    "image_encoder.{rest}": "makes image embeddings of pictures, in whose place stand those of codes",
    "safety_checker.{rest}": "judges pictures that are drawn",
}
UNCLIP = (
    KeyMap({"mean": "image_normalizer.mean", "std": "image_normalizer.std"}, ignored=_UNREAD)
    | LATENT
    | CLIP.under("text_encoder.")
)


def unclip_table(shapes: Mapping[str, Shape]) -> KeyMap:
    """Of a pipeline, by the names that the attention of its VAE has."""
    return aged(UNCLIP, shapes)


def latent_table(shapes: Mapping[str, Shape]) -> KeyMap:
    """The same of U-Net and VAE alone."""
    return aged(LATENT | KeyMap({}, ignored=_UNREAD), shapes)


def vae_table(shapes: Mapping[str, Shape]) -> KeyMap:
    """Of a VAE alone, which is called vae here."""
    old = "decoder.mid_block.attentions.0.query.weight" in shapes
    return KeyMap({**(_old_attention("vae.", "") if old else {}), "vae.{rest}": "{rest}"})


def aged(table: KeyMap, shapes: Mapping[str, Shape]) -> KeyMap:
    """A table with the old names of the VAE's attention, where a pipeline has them."""
    return OLD_VAE | table if "vae.decoder.mid_block.attentions.0.query.weight" in shapes else table


@dataclass(frozen=True)
class Pipeline:
    """The settings in a pipeline's folder."""

    file: TensorFile

    def diffusion(self) -> tuple[dict[str, Any], list[str]]:
        """A plain `DiffusionConfig`, and what of the settings this version of diffusers does not know.

        Raises:
            CheckpointError: a file is missing, or says what cannot be.
        """
        notes: list[str] = []
        return self._diffusion(notes), notes

    def _diffusion(self, notes: list[str]) -> dict[str, Any]:
        return {
            "unet": self._settings("unet", "config.json", notes),
            "vae": self._settings("vae", "config.json", notes),
            "scheduler": self._settings("scheduler", "scheduler_config.json", notes),
        }

    def unclip(self) -> tuple[dict[str, Any], list[str]]:
        """A plain `UnCLIPConfig`, and what of the settings this version of diffusers does not know.

        Raises:
            CheckpointError: a file is missing, or says what cannot be.
        """
        notes: list[str] = []
        return {
            "diffusion": self._diffusion(notes),
            "embedding": self.file.shapes["image_normalizer.mean"][-1],
            "noising": self._settings("image_noising_scheduler", "scheduler_config.json", notes),
            "prompt": self._prompt(notes),
        }, notes

    def _settings(self, part: str, name: str, notes: list[str]) -> dict[str, Any]:
        said = self._read(part, name)
        kind = _CLASSES.get(part) or said.get("_class_name")
        if not isinstance(kind, str):
            raise CheckpointError(f"{self.file.path / part / name}: does not say its _class_name; fetch it again")
        known = settings_of(kind)
        unknown = [key for key in said if key not in known and not key.startswith(PRIVATE)]
        if unknown:
            notes.append(f"{part}: {', '.join(unknown)} left out, which {kind} does not know")
        settings = {key: value for key, value in said.items() if key in known}
        return settings if part in _CLASSES else {"_class_name": kind, **settings}

    def _prompt(self, notes: list[str]) -> dict[str, Any]:
        said = self._read("text_encoder", "config.json")
        said = said.get("text_config_dict") or said
        names = {
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
            "width": "hidden_size",
            "depth": "num_hidden_layers",
            "heads": "num_attention_heads",
            "hidden": "intermediate_size",
            "eps": "layer_norm_eps",
        }
        activation = said.get("hidden_act", "quick_gelu")
        missing = [theirs for theirs in list(names.values())[:-1] if theirs not in said]
        if missing or activation not in _ACTIVATIONS:
            raise CheckpointError(
                f"{self.file.path / 'text_encoder' / 'config.json'}: has hidden_act {activation!r} and lacks "
                f"{len(missing)} sizes: give that of a CLIPTextModel"
            )
        text = {ours: said[theirs] for ours, theirs in names.items() if theirs in said}
        return {"text": text, "activation": _ACTIVATIONS[activation], **self._symbols(notes)}

    def _symbols(self, notes: list[str]) -> dict[str, int]:
        """Ids of what an empty prompt holds; special_tokens_map.json wins, as in transformers 4."""
        folder = self.file.path / "tokenizer"
        if not (folder / "vocab.json").is_file():
            notes.append("no tokenizer/vocab.json: the symbols of an empty prompt are taken to be Stable Diffusion 2's")
            return {}
        said: dict[str, Any] = {}
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            said |= read_json(folder / name) if (folder / name).is_file() else {}
        ids = read_json(folder / "vocab.json")
        symbols = {}
        for ours, theirs in {"begin": "bos_token", "end": "eos_token", "pad": "pad_token"}.items():
            token = said.get(theirs)
            token = token.get("content") if isinstance(token, dict) else token
            if token not in ids:
                raise CheckpointError(f"{folder}: its {theirs} {token!r} is not in vocab.json; fetch the folder again")
            symbols[ours] = ids[token]
        return symbols

    def _read(self, part: str, name: str) -> dict[str, Any]:
        path = self.file.path / part / name
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file: give the whole folder of the decoder")
        return read_json(path)


def stable_diffusion(folder: str | Path) -> VectorDiffusion:
    """U-Net and VAE of a Stable Diffusion as diffusers stores it, in fp32; what reads its texts is left out.

    Raises:
        CheckpointError: no such folder, or none in it.
    """
    file = open_tensors(folder)
    if SIGN not in file.shapes:
        raise CheckpointError(f"{folder}: has no U-Net: give the folder with unet, vae and scheduler")
    sizes, _ = Pipeline(file).diffusion()
    with torch.device("meta"):
        diffusion = VectorDiffusion(from_plain(DiffusionConfig, sizes))
    table = latent_table(file.shapes) | KeyMap({}, ignored={"text_encoder.{rest}": "reads texts"})
    wanted = {name: tuple(tensor.shape) for name, tensor in diffusion.state_dict().items()}
    state = {name: tensor.float() for name, tensor in table.read(file.items(), wanted)}
    diffusion.load_state_dict(state, assign=True)
    return diffusion


def unclip_exports(name: str, ours: str) -> list[Export]:
    """The folders with weights of a pipeline.

    Args:
        name: of the pipeline's folder.
        ours: the prefix of our names, with its dot.
    """
    normalizer = KeyMap({"mean": "mean", "std": "std"}).under(ours=ours)
    own = Export(name=f"{name}/image_normalizer", table=normalizer, settings={}, weights=DIFFUSION_WEIGHTS)
    return [*latent_exports(name, ours), own]


def latent_exports(name: str, ours: str) -> list[Export]:
    """The folders of U-Net and VAE; arguments as of `unclip_exports`."""
    return [
        Export(
            name=f"{name}/{part}",
            table=KeyMap({f"diffusion.{part}.{{rest}}": "{rest}"}).under(ours=ours),
            settings={},
            weights=DIFFUSION_WEIGHTS,
        )
        for part in _CLASSES
    ]


def latent_papers(name: str, config: DiffusionConfig) -> dict[str, Any]:
    """The JSON files of U-Net, VAE and scheduler."""
    return {
        f"{name}/unet/config.json": {"_class_name": _CLASSES["unet"], **config.unet},
        f"{name}/vae/config.json": {"_class_name": _CLASSES["vae"], **config.vae},
        f"{name}/scheduler/scheduler_config.json": dict(config.scheduler),
    }


def unet_sizes(shape: ShapeOf) -> dict[str, Any]:
    """Settings of a UNet2DConditionModel with the blocks of Stable Diffusion; heads have no trace in shapes."""
    down = "down_blocks.{i}.resnets.0.norm1.weight"
    levels = count(shape, down)
    widths = [shape(f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    looks = "down_blocks.{i}.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    attends = [there(shape, looks.format(i=i)) for i in range(levels)]
    return {
        "in_channels": shape("conv_in.weight")[1],
        "block_out_channels": tuple(widths),
        "layers_per_block": count(shape, "down_blocks.0.resnets.{i}.norm1.weight"),
        "down_block_types": tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        "cross_attention_dim": shape(looks.format(i=attends.index(True)))[1],
    }


def vae_sizes(shape: ShapeOf) -> dict[str, Any]:
    """Settings of an AutoencoderKL."""
    levels = count(shape, "encoder.down_blocks.{i}.resnets.0.norm1.weight")
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)),
        "layers_per_block": count(shape, "encoder.down_blocks.0.resnets.{i}.norm1.weight"),
        "latent_channels": shape("post_quant_conv.weight")[0],
    }


def prompt_export(name: str, ours: str, config: PromptConfig) -> Export:
    """The folder of the tower of texts."""
    text = config.text
    settings = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": text.vocabulary,
        "max_position_embeddings": text.positions,
        "hidden_size": text.width,
        "num_hidden_layers": text.depth,
        "num_attention_heads": text.heads,
        "intermediate_size": text.hidden,
        "layer_norm_eps": text.eps,
        "hidden_act": next(theirs for theirs, own in _ACTIVATIONS.items() if own == config.activation),
        "bos_token_id": config.begin,
        "eos_token_id": config.end,
        "pad_token_id": config.pad,
    }
    return Export(name=f"{name}/text_encoder", table=CLIP.under(ours=ours), settings=settings)


def unclip_papers(name: str, config: UnCLIPConfig) -> dict[str, Any]:
    """The JSON files of a pipeline, without tokenizer and image encoder, which an import does not keep."""
    diffusion = config.diffusion
    noising, scheduler = config.noising["_class_name"], diffusion.scheduler["_class_name"]
    return {
        f"{name}/{PIPELINE}": {
            "_class_name": "StableUnCLIPPipeline",
            "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
            "image_noising_scheduler": ["diffusers", noising],
            "scheduler": ["diffusers", scheduler],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "unet": ["diffusers", _CLASSES["unet"]],
            "vae": ["diffusers", _CLASSES["vae"]],
        },
        **latent_papers(name, diffusion),
        f"{name}/image_normalizer/config.json": {
            "_class_name": "StableUnCLIPImageNormalizer",
            "embedding_dim": config.embedding,
        },
        f"{name}/image_noising_scheduler/scheduler_config.json": dict(config.noising),
    }
