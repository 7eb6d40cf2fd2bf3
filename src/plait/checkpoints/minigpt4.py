"""The published names of MiniGPT-4's parts, and of what it took them from (LAVIS, transformers).

| file | table |
| --- | --- |
| MiniGPT-4's own, the trained projection | `PROJECTION_FILE` |
| `eva_vit_g.pth`, the tower | `vision_file(depth)` |
| `blip2_pretrained_flant5xxl.pth`, Q-Former and norm | `BLIP2_FILE` |
| `blip2_pretrained.pth`, with text branch and heads | `BLIP2_STAGE1_FILE` |
| Vicuna, as transformers stores a LLaMA | `LANGUAGE_FILE` |
| all together, as the released program holds them | `ASSEMBLED` |

The parts go by the names vision, vision_norm, qformer, heads (of the Q-Former), projection and language. `published`
tells `plait import` and `plait export` what the files are, how they go together, and what is often confused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.checkpoints.keymap import KeyMap, Stacked
from plait.checkpoints.parts import (
    FREQUENCIES,
    HEADS,
    LLAMA,
    NUMBERS,
    QFORMER,
    VISION_NORM,
    VIT,
    FilePart,
    hugging_face,
    language_of,
    language_sizes,
    qformer_sizes,
    shape_of,
    state_of,
    vision_sizes,
)
from plait.checkpoints.published import Export, Kind, Plan, Published, over
from plait.checkpoints.tensors import Shape, TensorFile, read_json
from plait.config import from_plain
from plait.errors import CheckpointError, ConfigError
from plait.nn import lora
from plait.nn.llama import LLAMA2_7B, LLAMA_7B, LLAMA_13B, LLaMA, LLaMAConfig
from plait.nn.lora import LoRAConfig
from plait.nn.qformer import BLIP2_QFORMER, QFormer, QFormerConfig, QFormerHeads, TextConfig
from plait.nn.vit import EVA_VIT_G, VITConfig, eva_vit, resize_positions
from plait.systems.minigpt4 import MINIGPTV2_7B, TOKENIZER, MiniGPT4, MiniGPT4Config
from plait.text.pieces import SentencePiece

_PROJECTION = KeyMap({"projection.{w}": "llama_proj.{w}"})

LANGUAGE_FILE = LLAMA.under(ours="language.")

PROJECTION_FILE = _PROJECTION | KeyMap(
    {},
    ignored={
        "Qformer.bert.embeddings.position_ids": NUMBERS,
        "llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq": FREQUENCIES,
        "llama_model.base_model.model.model.layers.{i}.self_attn.rotary_emb.inv_freq": FREQUENCIES,
    },
)
"""The released program saves what is trained, and all buffers."""

BLIP2_STAGE1_FILE = VISION_NORM | QFORMER.under(ours="qformer.") | HEADS.under(ours="heads.")

BLIP2_FILE = (
    VISION_NORM
    | QFORMER.under(ours="qformer.")
    | KeyMap({}, ignored={"t5_proj.{w}": "leads to the language model of BLIP-2, in whose place stands another"})
)

ASSEMBLED = (
    VIT.under("visual_encoder.", "vision.")
    | VISION_NORM
    | QFORMER.under(ours="qformer.")
    | _PROJECTION
    | LLAMA.under("llama_model.", "language.")
)


_ADAPTED = "llama_model.base_model.model.model.layers.{i}.self_attn."


def vision_file(depth: int) -> KeyMap:
    """EVA's tower, of which `depth` blocks are run. Its file may hold one more, and what classifies."""
    beyond = {
        f"blocks.{depth}.{{rest}}": "the last block, whose output BLIP-2 does not take",
        "norm.{w}": "comes after the last block",
        "head.{w}": "classifies",
        "mask_token": "stands for hidden patches in EVA's own training",
    }
    return VIT.under(ours="vision.") | KeyMap({}, ignored=beyond)


def adapter_file(layers: Items[str] = "qv", name: str = "") -> KeyMap:
    """The file of the second version: the projection, and adapters on some of queries, keys and values.

    Args:
        layers: some of q, k, v, in the order of `LoRAConfig`.
        name: of the adapters, in the keys of later versions of peft; that of the release (0.2.0) writes none.
    """
    middle = f".{name}" if name else ""
    adapters = {
        f"language.decoder.blocks.{{i}}.attention.qkv.{ours}": Stacked(
            tuple(f"{_ADAPTED}{layer}_proj.lora_{letter}{middle}.weight" for layer in layers)
        )
        for ours, letter in (("down", "A"), ("up", "B"))
    }
    return PROJECTION_FILE | KeyMap(adapters)


TOWER, BLIP2, LANGUAGE = "tower", "blip2", "language"
PROJECTION, STAGE1, WHOLE = "projection", "blip2-stage1", "assembled"

_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
_QFORMER_FILE = f"blip2_pretrained_flant5xxl.pth from {_LAVIS}"
_T5_XXL = 4096
_WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
_PLACES = "Qformer.bert.embeddings.position_embeddings.weight"

_OTHER_QFORMERS = {  # a key -> the file that has it
    "opt_proj.weight": "that of a BLIP-2 for OPT",
    "llm_proj.weight": "that of an InstructBLIP",
}

LICENCES = {
    "vision": "MIT (EVA)",
    "vision_norm": "BSD-3-Clause (BLIP-2)",
    "qformer": "BSD-3-Clause (BLIP-2)",
    "projection": "BSD-3-Clause (MiniGPT-4)",
}
LLAMA_LICENCE = "LLaMA licence, non-commercial (Vicuna and LLaMA)"
LLAMA2_LICENCE = "LLaMA 2 Community License"


@dataclass(frozen=True)
class _Files:
    """Parts, each from a file of its own or from one that holds all."""

    given: Mapping[str, TensorFile]

    def require(self, kinds: Items[Kind]) -> None:
        """Whether the parts that every variant has are there."""
        if STAGE1 in self.given:
            raise CheckpointError(
                f"{self.given[STAGE1].path}: is of BLIP-2's first stage, whose Q-Former MiniGPT-4 did not take: give "
                f"{_QFORMER_FILE}"
            )
        if WHOLE in self.given:
            return
        wheres = [kind for kind in kinds if kind.name in (PROJECTION, TOWER, LANGUAGE) and kind.name not in self.given]
        projection = self.given.get(PROJECTION)
        columns = projection.shapes["llama_proj.weight"][1] if projection else 0
        if columns == BLIP2_QFORMER.width and BLIP2 not in self.given:
            wheres += [kind for kind in kinds if kind.name == BLIP2]
        _check_there(wheres)

    def part(self, kind: str) -> FilePart:
        """The keys and shapes of a kind."""
        if kind in self.given:
            return FilePart(self.given[kind], self.given[kind].shapes)
        if WHOLE not in self.given:
            raise CheckpointError(f"no file of BLIP-2's Q-Former: give {_QFORMER_FILE}")
        whole, prefix = self.given[WHOLE], _WITHIN.get(kind, "")
        own = {key.removeprefix(prefix): shape for key, shape in whole.shapes.items() if key.startswith(prefix)}
        return FilePart(whole, own)


def _check_there(missing: Items[Kind]) -> None:
    if missing:
        raise CheckpointError("no file " + "; ".join(f"of {kind.what}: give {kind.where}" for kind in missing))


_WITHIN = {TOWER: "visual_encoder.", LANGUAGE: "llama_model."}  # prefixes where all parts stand in one file


@dataclass(frozen=True)
class _Adapters:
    """Those in a file: all but their scale."""

    rank: int
    layers: tuple[str, ...]
    name: str
    """In their keys; "" where they have none."""
    depth: int
    """Layers of the language model."""

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> _Adapters | None:
        """None: the file has none."""
        pattern = re.compile(
            re.escape(_ADAPTED).replace(r"\{i\}", r"(\d+)") + r"([qkv])_proj\.lora_A\.(?:(\w+)\.)?weight"
        )
        found = [(match, shape) for key, shape in shapes.items() if (match := pattern.fullmatch(key))]
        if not found:
            return None
        (first, shape), letters = found[0], {match[2] for match, _ in found}
        layers = tuple(letter for letter in "qkv" if letter in letters)
        return cls(shape[0], layers, first[3] or "", 1 + max(int(match[1]) for match, _ in found))


def _projection_table(shapes: Mapping[str, Shape]) -> KeyMap:
    adapters = _Adapters.of(shapes)
    return adapter_file(adapters.layers, adapters.name) if adapters else PROJECTION_FILE


def _resized(positions: Tensor, grid: int) -> Tensor:
    return resize_positions(positions.float(), grid, grid).to(positions.dtype)


def _check_pair(
    files: _Files,
    projection: tuple[int, int],
    joined: bool,
    language: Mapping[str, Any],
    changes: Any,
) -> None:
    """Whether projection (rows, columns) and language model are of one variant; `changes` are of the latter."""
    changes = changes if isinstance(changes, Mapping) else {}
    language = {**language, **changes}
    rows, columns = projection
    path, other = files.part(PROJECTION).file.path, files.part(LANGUAGE).file.path
    if rows != language["width"]:
        raise CheckpointError(
            f"{path}: leads to {_size(rows)}, but {other} is {_size(language['width'])}: give the projection of that "
            "size, or the language model of this one"
        )
    eps = language.get("eps", LLAMA_7B.eps)
    if "eps" in changes or (eps == LLAMA2_7B.eps) == joined:  # who says what it is, is believed
        return
    own = "if it is your own, say language.eps by --config"
    if joined:
        raise CheckpointError(
            f"{path}: was trained on LLaMA-2 ({columns} columns, joined patches), but {other} is a Vicuna or LLaMA "
            f"(rms_norm_eps {eps:g}, not {LLAMA2_7B.eps:g}): give Llama-2-7b-chat-hf, or prerained_minigpt4_7b.pth; "
            f"{own}"
        )
    raise CheckpointError(
        f"{path}: was trained on Vicuna v0 ({columns} columns, a Q-Former), but {other} is a LLaMA-2 (rms_norm_eps "
        f"{eps:g}, not {LLAMA_7B.eps:g}): give Vicuna v0, or pretrained_minigpt4_llama2_7b.pth; {own}"
    )


def _size(width: int) -> str:
    names = {LLAMA_7B.width: " (7B)", LLAMA_13B.width: " (13B)"}
    return f"{width} wide{names.get(width, '')}"


def _notes(config: MiniGPT4Config, given: Mapping[str, TensorFile], language: TensorFile) -> Iterator[str]:
    """What cannot be told from the files, and is often wrong."""
    if BLIP2 in given and "t5_proj.weight" not in given[BLIP2].specs:
        yield f"{given[BLIP2].path.name} does not say which BLIP-2 it is of: it must be that for flan-t5-xxl"
    if config.template != "vicuna0":
        return
    settings_path = language.folder / "config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    name = f"{settings.get('_name_or_path', '')} {language.path.name}"
    if later := re.search(r"v1\.\d", name):
        yield f"{language.path.name} seems to be Vicuna {later[0]}: MiniGPT-4 needs v0, later ones do not stop"
    else:
        yield f"whether {language.path.name} is Vicuna v0, which it must be, cannot be told from its files"


def _tower(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    config = from_plain(VITConfig, vision_sizes(shape_of(shapes)))
    with torch.device("meta"):
        return state_of(vision=eva_vit(config, nn.Identity())), vision_file(config.depth)


def language_hollow(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    """The tensors of a LLaMA, and their table."""
    config = from_plain(LLaMAConfig, language_sizes(shape_of(shapes), {}))
    with torch.device("meta"):
        return state_of(language=LLaMA(config)), LANGUAGE_FILE


def _projection(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    """The linear layer, and the adapters of the second version without what they stand on."""
    (rows, columns), adapters = shapes["llama_proj.weight"], _Adapters.of(shapes)
    with torch.device("meta"):
        state = state_of(projection=nn.Linear(columns, rows))
        if adapters:
            language = LLaMA(LLaMAConfig(width=rows, depth=adapters.depth, heads=rows // 128))
            lora.adapt(language, from_plain(LoRAConfig, {"rank": adapters.rank, "layers": adapters.layers}))
            state |= {name: t for name, t in state_of(language=language).items() if name.endswith((".down", ".up"))}
    return state, _projection_table(shapes)


def _blip2(shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """What BLIP-2's files fill; the first stage has a text branch and heads."""
    shape = shape_of(shapes)
    config = from_plain(QFormerConfig, qformer_sizes(shape))
    if words := shapes.get(_WORDS):
        config = replace(config, text=TextConfig(vocabulary=words[0], positions=shape(_PLACES)[0]))
    with torch.device("meta"):
        heads = QFormerHeads(config, shape("vision_proj.weight")[0]) if config.text else None
        norm = nn.LayerNorm(shape("ln_vision.weight")[0])
        return state_of(vision_norm=norm, qformer=QFormer(config), heads=heads)


def _whole(shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], KeyMap]:
    plain = {
        "vision": vision_sizes(shape_of(shapes, _WITHIN[TOWER])),
        "qformer": qformer_sizes(shape_of(shapes)) if "query_tokens" in shapes else None,
        "language": language_sizes(shape_of(shapes, _WITHIN[LANGUAGE]), {}),
        "pad": "<unk>",
    }
    config = from_plain(MiniGPT4Config, plain)
    with torch.device("meta"):
        return MiniGPT4(config, SentencePiece.train(["a"], 320)).state_dict(), ASSEMBLED


def published() -> Published:
    """For `plait import minigpt4` and `plait export`."""
    return MiniGPT4Files()


class MiniGPT4Files(Published):
    """The trained projection, EVA's tower, BLIP-2's Q-Former and a language model; or all in one file."""

    kinds = (
        Kind(
            name=WHOLE,
            sign="visual_encoder.cls_token",
            what="a whole MiniGPT-4",
            where="the weights that the released program holds",
            hollow=_whole,
        ),
        Kind(
            name=TOWER,
            sign="cls_token",
            what="EVA's tower",
            where=f"eva_vit_g.pth from {_LAVIS}",
            hollow=_tower,
        ),
        Kind(
            name=STAGE1,
            sign="itm_head.weight",
            what="BLIP-2's first stage",
            where=f"blip2_pretrained.pth from {_LAVIS}",
            hollow=lambda shapes: (_blip2(shapes), BLIP2_STAGE1_FILE),
        ),
        Kind(
            name=BLIP2,
            sign="query_tokens",
            what="BLIP-2's Q-Former",
            where=_QFORMER_FILE,
            hollow=lambda shapes: (_blip2(shapes), BLIP2_FILE),
        ),
        Kind(
            name=LANGUAGE,
            sign="model.embed_tokens.weight",
            what="a LLaMA",
            where="the folder of Vicuna v0 (Vision-CAIR/vicuna-7b or vicuna) or Llama-2-7b-chat-hf, with config.json "
            "and tokenizer.model",
            hollow=language_hollow,
        ),
        Kind(
            name=PROJECTION,
            sign="llama_proj.weight",
            what="MiniGPT-4's projection",
            where="pretrained_minigpt4.pth (13B), prerained_minigpt4_7b.pth, pretrained_minigpt4_llama2_7b.pth or the "
            "file of MiniGPT-v2, which github.com/Vision-CAIR/MiniGPT-4 links to",
            hollow=_projection,
        ),
    )

    def plan(self, given: Mapping[str, TensorFile], changes: Mapping[str, Any]) -> Plan:
        """The variant follows from the projection: as many columns as four patches have, or as the Q-Former."""
        files = _Files(given)
        files.require(self.kinds)
        projection = files.part(PROJECTION)
        rows, columns = projection.shape("llama_proj.weight")
        adapters, tower = _Adapters.of(projection.shapes), vision_sizes(files.part(TOWER).shape)
        joined = columns == 4 * tower["width"]
        defaults = {"eps": LLAMA2_7B.eps, "positions": LLAMA2_7B.positions} if joined else {}
        language = defaults | language_of(files.part(LANGUAGE), LANGUAGE in given and "language" not in changes)
        _check_pair(files, (rows, columns), joined, language, changes.get("language"))
        qformer = None if joined else self._qformer(files, columns, tower)
        plain: dict[str, Any] = {
            "vision": tower,
            "qformer": qformer,
            "language": language,
            "template": "vicuna0" if qformer else "minigptv2" if adapters else "llama2",
        }
        if adapters:
            if tower["image_size"] == EVA_VIT_G.image_size:  # its positions are resized, as in the released program
                plain["vision"] = {**tower, "image_size": MINIGPTV2_7B.vision.image_size}
            plain["max_answer"] = MINIGPTV2_7B.max_answer
            plain["lora"] = {"rank": adapters.rank, "layers": adapters.layers}  # the scale is as released
        config = from_plain(MiniGPT4Config, over(plain, changes))
        return self._plan(config, files, tower["image_size"])

    def _plan(self, config: MiniGPT4Config, files: _Files, published_side: int) -> Plan:
        given = files.given
        if BLIP2 in given and config.qformer is None:
            raise CheckpointError(
                f"{given[BLIP2].path}: is of no use: a projection of joined patches has no Q-Former, and its "
                "ln_vision stays as it began, in the released program too; leave the file out"
            )
        language = files.part(LANGUAGE).file
        tokenizer = language.folder / TOKENIZER
        if not tokenizer.is_file():
            raise CheckpointError(
                f"{tokenizer}: no such file: put LLaMA's tokenizer.model beside the language model; a tokenizer.json "
                "does not do, other ids come of it"
            )
        filled = {} if any("ln_vision.weight" in file.specs for file in given.values()) else self.constants(config)
        turned = {}
        grid, old = config.vision.grid, published_side // config.vision.patch
        if grid != old:
            shape = (1, 1 + old**2, config.vision.width)
            turned["vision.positions"] = (shape, lambda tensor: _resized(tensor, grid))
        llama2 = config.language.eps == LLAMA2_7B.eps
        licences = {**LICENCES, "language": LLAMA2_LICENCE if llama2 else LLAMA_LICENCE}
        if filled:
            del licences["vision_norm"]
        return Plan(
            system=MiniGPT4,
            config=config,
            tables={kind: self._table(kind, file.shapes, config) for kind, file in given.items()},
            files=language.folder,
            licences=licences,
            filled=filled,
            turned=turned,
            notes=tuple(_notes(config, given, language)),
            also=(tokenizer,),
        )

    def _table(self, kind: str, shapes: Mapping[str, Shape], config: MiniGPT4Config) -> KeyMap:
        if kind == PROJECTION:
            return _projection_table(shapes)
        return {
            WHOLE: ASSEMBLED | _projection_table(shapes),
            TOWER: vision_file(config.vision.depth),
            BLIP2: BLIP2_FILE,
            LANGUAGE: LANGUAGE_FILE,
        }[kind]

    def _qformer(self, files: _Files, columns: int, tower: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes of the Q-Former, which must be the one that MiniGPT-4 was trained with."""
        part = files.part(BLIP2)
        path = part.file.path
        for key, whose in _OTHER_QFORMERS.items():
            if key in part.shapes:
                raise CheckpointError(f"{path}: is {whose}, another Q-Former: give {_QFORMER_FILE}")
        sizes = qformer_sizes(part.shape)
        bridge = part.shapes.get("t5_proj.weight")
        if bridge and sizes["width"] == BLIP2_QFORMER.width and bridge[0] != _T5_XXL:
            raise CheckpointError(
                f"{path}: leads to a T5 of width {bridge[0]}, not to flan-t5-xxl's {_T5_XXL}: another Q-Former; give "
                f"{_QFORMER_FILE}"
            )
        if "ln_vision.weight" not in part.shapes:
            raise CheckpointError(
                f"{path}: has no ln_vision, the norm between tower and Q-Former: give all of {_QFORMER_FILE}"
            )
        if columns != sizes["width"]:
            raise CheckpointError(
                f"{files.part(PROJECTION).file.path}: takes {columns} columns, but the Q-Former gives "
                f"{sizes['width']}, and four joined patches {4 * tower['width']}: give the files of one variant"
            )
        if sizes["image_width"] != tower["width"]:
            raise CheckpointError(
                f"{path}: looks at patches of width {sizes['image_width']}, and the tower's have "
                f"{tower['width']}: give {_QFORMER_FILE}"
            )
        return sizes

    def fresh(
        self, part: str, given: Mapping[str, TensorFile], changes: Mapping[str, Any]
    ) -> tuple[str, dict[str, Tensor]]:
        """The projection, from the Q-Former if there is a file of one, else from joined patches."""
        if part != "projection" or PROJECTION in given or WHOLE in given:
            raise ConfigError(f"{part!r} cannot be made anew: only projection can, where no file has one")
        _check_there([kind for kind in self.kinds if kind.name in (TOWER, LANGUAGE) and kind.name not in given])
        columns = (
            given[BLIP2].shapes["query_tokens"][-1] if BLIP2 in given else 4 * given[TOWER].shapes["cls_token"][-1]
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            new = nn.Linear(columns, given[LANGUAGE].shapes["model.embed_tokens.weight"][1])
        return PROJECTION, dict(PROJECTION_FILE.write(state_of(projection=new).items()))

    def constants(self, config: MiniGPT4Config) -> Mapping[str, float]:
        """Without a Q-Former the norm behind the tower is the identity."""
        return {} if config.qformer else {"vision_norm.weight": 1.0, "vision_norm.bias": 0.0}

    def exports(self, config: MiniGPT4Config, format: str) -> Items[Export]:
        """The four published files; or the language model alone."""
        language = Export(name="language", table=LANGUAGE_FILE, settings=hugging_face(config.language))
        if format == "hf":
            return [replace(language, name=".", merged=True)]
        if config.lora and config.lora.alpha != LoRAConfig.alpha:
            raise ConfigError(
                f"adapters of alpha {config.lora.alpha:g}, which no published file tells: an import takes it to be "
                f"{LoRAConfig.alpha:g}; export the language model (hf), into which they are merged"
            )
        projection = adapter_file(config.lora.layers) if config.lora else PROJECTION_FILE
        files = [
            Export(name="pretrained_minigpt4.pth", table=projection, inside="model"),
            Export(name="eva_vit_g.pth", table=vision_file(config.vision.depth)),
            language,
        ]
        if config.qformer is not None:
            files.append(Export(name="blip2_pretrained_flant5xxl.pth", table=BLIP2_FILE, inside="model"))
        return files
