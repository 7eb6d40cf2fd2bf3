"""Emu against the original program's numbers: modules, losses and gradients, replies, pictures, files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import GRADIENTS, LOSSES, MODULES, PIXELS, Golden, Goldens, assert_near
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from plait import images
from plait.checkpoints import directory
from plait.checkpoints.emu import INSTRUCTED, PRETRAINED, published
from plait.checkpoints.published import check_manifest, export, import_files
from plait.config import to_plain
from plait.document import Blank, Document, Image
from plait.errors import CheckpointError, ConfigError
from plait.generate.beams import Beams, BeamSearch, beam_search
from plait.generate.engine import Engine, Settings, following
from plait.generate.sampling import Sampling
from plait.generate.search import search
from plait.nn.attention import KVCache, Visibility
from plait.nn.cformer import CFormerConfig
from plait.nn.diffusion import DiffusionConfig, scheduler
from plait.nn.llama import LLaMAConfig
from plait.nn.lora import LoRA, LoRAConfig
from plait.nn.vit import VITConfig
from plait.objectives.tokens import NextToken
from plait.objectives.vectors import NextTokenAndVector, wanted
from plait.sequence import Batch, Collator, Prepare, Sequence, join, tokens
from plait.systems.emu import READER, Emu, EmuConfig, UnreadConfig

GOLDENS = Goldens("emu")
FOLDER, CONFIG, CASES = GOLDENS.folder, GOLDENS.config, GOLDENS.cases
DIFFUSION = 1e-4
VISION, T5, LLAMA = CONFIG["emu"]["vision_cfg"], CONFIG["t5"], CONFIG["llama"]
QUERIES = CONFIG["emu"]["vladapter_cfg"]["n_causal"]
SHOWN = "[IMG]" + "<image>" * QUERIES + "[/IMG]"
SCHEDULER = {"_class_name": "PNDMScheduler", **CONFIG["scheduler"]}


def config(tuned: bool = False) -> EmuConfig:
    assert CONFIG["emu"]["multimodal_cfg"]["n_causal"] == QUERIES and T5["feed_forward_proj"] == "relu"
    words = CONFIG["special_tokens"] | (CONFIG["special_tokens_instruct"] if tuned else {})
    adapters = CONFIG["lora"]
    layers = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
    return EmuConfig(
        vision=VITConfig(
            image_size=VISION["image_size"],
            patch=VISION["patch_size"],
            width=VISION["width"],
            depth=VISION["layers"],
            heads=VISION["width"] // VISION["head_width"],
            hidden=int(VISION["width"] * VISION["mlp_ratio"]),
        ),
        cformer=CFormerConfig(
            width=T5["d_model"],
            depth=T5["num_decoder_layers"],
            heads=T5["num_heads"],
            head_width=T5["d_kv"],
            hidden=T5["d_ff"],
            queries=QUERIES,
            image_width=VISION["width"],
            buckets=T5["relative_attention_num_buckets"],
            longest=T5["relative_attention_max_distance"],
            eps=T5["layer_norm_epsilon"],
            dropout=T5["dropout_rate"],
        ),
        language=LLaMAConfig(
            vocabulary=max(words.values()) + 1,
            width=LLAMA["hidden_size"],
            hidden=LLAMA["intermediate_size"],
            depth=LLAMA["num_hidden_layers"],
            heads=LLAMA["num_attention_heads"],
            positions=LLAMA["max_position_embeddings"],
            eps=LLAMA["rms_norm_eps"],
        ),
        decoder=None if tuned else drawer(),
        tuned=tuned,
        unread=UnreadConfig(embedding=CONFIG["emu"]["embed_dim"], words=T5["vocab_size"]),
        lora=LoRAConfig(
            rank=adapters["r"],
            alpha=float(adapters["lora_alpha"]),
            layers=tuple(layers[name] for name in adapters["target_modules"]),
        )
        if tuned
        else None,
    )


def drawer() -> DiffusionConfig:
    """As diffusers reads the settings today; what it does not know is asserted to be off."""
    from plait.nn.diffusion import settings_of

    known = {
        part: {
            key: tuple(v) if isinstance(v, list) else v for key, v in CONFIG[part].items() if key in settings_of(name)
        }
        for part, name in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"))
    }
    return DiffusionConfig(**known, scheduler=SCHEDULER, steps=5, guidance=7.5)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def instruct_weights() -> dict[str, Tensor]:
    """The file of Emu-I: the adapters and tables, and all else as it was, behind peft's prefix."""
    moved = {
        key.replace("decoder.lm.", "decoder.lm.base_model.model.", 1): tensor
        for key, tensor in GOLDENS.weights().items()
    }
    return moved | GOLDENS.weights("weights_instruct")


def write_pretrained(folder: Path, inside: str | None) -> Path:
    """The folder pretrain; `inside`: the key under which the weights stand in their file."""
    (folder / "multimodal_encoder").mkdir(parents=True)
    state = GOLDENS.weights()
    torch.save({inside: state} if inside else state, folder / "multimodal_encoder" / "pytorch_model.bin")
    for part, name in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        (folder / part).mkdir()
        own = {
            k.removeprefix(f"{part}."): v for k, v in GOLDENS.weights("weights_decoder").items() if k.startswith(part)
        }
        save_file(own, folder / part / "diffusion_pytorch_model.safetensors")
        write_json(folder / part / "config.json", {"_class_name": name, **CONFIG[part]})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    shutil.copy(FOLDER / "tokenizer.model", folder)
    return folder


def sizes_file(folder: Path, tuned: bool) -> Path:
    """What the files do not tell."""
    plain = to_plain(config(tuned))
    told: dict[str, Any] = {
        "vision": {"heads": plain["vision"]["heads"]},
        "cformer": {"longest": plain["cformer"]["longest"]},
        "language": {key: plain["language"][key] for key in ("heads", "positions", "eps")},
    }
    told |= {"lora": {"alpha": plain["lora"]["alpha"]}} if tuned else {"decoder": {"steps": 5}}
    write_json(folder / "sizes.json", told)
    return folder / "sizes.json"


def build(folder: Path, tuned: bool = False) -> Emu:
    """The golden's system, imported."""
    if tuned:
        given = folder / "Emu-instruct.pt"
        torch.save({"module": instruct_weights()}, given)
        shutil.copy(FOLDER / "tokenizer.model", folder)
    else:
        given = write_pretrained(folder / "pretrain", None)
    made, _ = import_files(published(), [given], folder / "imported", sizes_file(folder, tuned))
    system = directory.load(made)
    assert isinstance(system, Emu) and to_plain(system.config) == to_plain(config(tuned))
    return system


@pytest.fixture(scope="module")
def folders() -> Iterator[dict[bool, Path]]:
    with tempfile.TemporaryDirectory() as name:
        found = {tuned: Path(name) / str(tuned) for tuned in (False, True)}
        for folder in found.values():
            folder.mkdir()
        yield found


@pytest.fixture(scope="module")
def systems(folders: dict[bool, Path]) -> dict[bool, Emu]:
    """The pretrained model and the tuned one."""
    return {tuned: build(folder, tuned) for tuned, folder in folders.items()}


Systems = dict[bool, Emu]


def numbered(count: int) -> list[Image]:
    """Pictures that stand for the golden's pixels."""
    return [Image(str(i).encode()) for i in range(count)]


def collator(pixels: Tensor | None) -> Collator:
    """Pictures by number."""

    def write(image: Image, out: NDArray[np.float32]) -> None:
        assert pixels is not None
        out[...] = pixels[int(image.source)].numpy()  # type: ignore[arg-type]

    side = VISION["image_size"]
    return Collator({READER: Prepare((3, side, side), write)})


def batch(sequences: list[Sequence], pixels: Tensor | None, shift: bool) -> Batch:
    """One sequence a row."""
    return collator(pixels)([[one] for one in sequences], shift=shift)


def seen_by(system: Emu, pixels: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reads the golden's pixels in place of pictures."""
    monkeypatch.setattr(system.format, "collator", lambda train=False, fast=False: collator(pixels))


def pieces(text: str, pictures: Iterator[Image], shown: str = SHOWN) -> list[Any]:
    """A string with pictures in it as a document's pieces."""
    first, *texts = text.split(shown)
    return [part for part in [first, *(x for one in texts for x in (next(pictures), one))] if part != ""]


def documents(prompts: Items[str], count: int) -> list[Document]:
    """Prompts, whose pictures are numbered through."""
    pictures = iter(numbered(count))
    return [Document(pieces(prompt, pictures)) for prompt in prompts]


def ids(sequence: Sequence) -> list[int]:
    """With what stands for a picture's vectors."""
    return sequence.ids(missing=CONFIG["special_tokens"]["<image>"]).tolist()


def kept(modules: Mapping[str, nn.Module], run: Callable[[], Any]) -> dict[str, Tensor]:
    """What each of the modules gives first in a run; names that end in "<" : what it is given."""
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, out: Tensor) -> None:
            states.setdefault(name, given[0] if name.endswith("<") else out)

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return states


# ------------------------------------------------------------------------------------------------- modules


def visual(golden: Golden, systems: Systems) -> None:
    system, want = systems[False], golden.wanted
    first = system.vision.blocks[0]
    modules = {
        "patch_embed": system.vision.patch,
        "tokens_in<": first,
        "block0_attn_in": first.attention_norm,  # type: ignore[dict-item]
        "block0_attn_out": first.attention,
        "block0_out": first,
        "features": system.vision,
    }
    states = kept(modules, lambda: system.vision(golden.given["pixels"]))  # type: ignore[arg-type]
    states["patch_embed"] = states["patch_embed"].flatten(2).mT
    for name, value in states.items():
        assert_near(value, want["visual." + name.rstrip("<")], MODULES)
    assert_near(system.vision_norm(states["features"]), want["visual.ln_visual"], MODULES)
    assert system.unread is not None
    normed = system.unread.vision_norm(states["features"])
    assert_near(normed, want["visual.norm_features"], MODULES)
    assert_near(system.unread.vision_head(normed[:, 0]), want["visual.pooled_head"], MODULES)


def cformer(golden: Golden, systems: Systems) -> None:
    system, want = systems[False], golden.wanted
    order = torch.arange(QUERIES)
    bias = system.cformer.bias(order[:, None] - order).movedim(-1, 0)[None]
    assert_near(bias, want["cformer.self_bias"], MODULES)
    first = system.cformer.blocks[0]
    modules = {"self<": first.cross_norm, "cross<": first.mlp_norm, "ffn": first, "last": system.cformer}
    states = kept(modules, lambda: system.cformer(golden.given["cformer.encoder_in"]))  # type: ignore[arg-type]
    for ours, theirs in {
        "self<": "block0_self",
        "cross<": "block0_cross",
        "ffn": "block0_ffn",
        "last": "last_hidden",
    }.items():
        assert_near(states[ours], want[f"cformer.{theirs}"], MODULES)
    assert_near(system.projection(states["last"]), want["cformer.out"], MODULES)


def encode_image(golden: Golden, systems: Systems) -> None:
    assert_near(systems[False].read(golden.given["pixels"]), golden.wanted["encode_image.out"], MODULES)


def hidden(system: Emu, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Last states of ids with padding on the right."""
    real = torch.ones_like(ids) if mask is None else mask
    visible = Visibility(torch.where(real.bool(), 0, -1), torch.full_like(ids, -1))
    position = torch.arange(ids.shape[1]).expand_as(ids)
    return system.language(system.language.embed(ids), position, lambda layer: visible.attend)


def lm(golden: Golden, systems: Systems) -> None:
    system, want, mask = systems[False], golden.wanted, golden.given["lm.mask"]
    states = kept(
        {"hidden1": system.language.decoder.blocks[0], "last_hidden": system.language.decoder.norm},
        lambda: hidden(system, golden.given["lm.ids"], mask),
    )
    states["logits"] = system.heads["token"](states["last_hidden"])
    states["regress"] = system.heads["vector"](states["last_hidden"])
    for name, value in states.items():
        assert_near(value[mask.bool()], want[f"lm.{name}"][mask.bool()], MODULES)


def lora(golden: Golden, systems: Systems) -> None:
    system = systems[True]
    logits = system.heads["token"](hidden(system, golden.given["lora.ids"]))
    assert_near(logits, golden.wanted["lora.logits"], MODULES)
    adapters = [module for module in system.modules() if isinstance(module, LoRA)]
    scale = CONFIG["lora"]["lora_alpha"] / CONFIG["lora"]["r"]
    assert len(adapters) == 2 * LLAMA["num_hidden_layers"] and {one.scale for one in adapters} == {scale}
    try:
        for one in adapters:
            one.scale = 0.0
        logits = system.heads["token"](hidden(system, golden.given["lora.ids"]))
    finally:
        for one in adapters:
            one.scale = scale
    assert_near(logits, golden.wanted["lora.logits_disabled"], MODULES)


# -------------------------------------------------------------------------------------------------- losses


def labels(sequence: Sequence, kind: str = "token") -> list[int]:
    """What each element is predicted as, -100 for nothing."""
    found = []
    for span in sequence.spans:
        row = np.full(span.length, -100)
        for target in span.targets:
            if target.kind == kind:
                row = np.where(target.weight > 0, -1 if target.value is None else target.value, row)
        found += row.tolist()
    return found


def gradients(system: Emu, table: Any, wanted: Mapping[str, Tensor], prefix: str) -> None:
    """Those of the golden, by the published names."""
    found = {name: weight.grad for name, weight in system.named_parameters() if weight.grad is not None}
    theirs = dict(table.write((name, tensor) for name, tensor in found.items() if table.published(name)))
    names = [key for key in wanted if key.startswith(prefix)]
    assert names
    for key in names:
        assert_near(theirs[key.removeprefix(prefix)], wanted[key], GRADIENTS)


def train(golden: Golden, systems: Systems) -> None:
    system, want, pixels = systems[False], golden.wanted, golden.given["pixels"]
    pictures = iter(numbered(3))
    sequences = []
    for text in golden.case["texts"]:
        assert text.endswith("</s>")
        sequences.append(system.layout(Document(pieces(text.removesuffix("</s>"), pictures))))
    mask = want["train.attention_mask"].bool()
    assert [ids(one) for one in sequences] == [
        row[m].tolist() for row, m in zip(want["train.input_ids"], mask, strict=True)
    ]
    ours = torch.tensor([one for row in sequences for one in labels(row)])
    theirs = want["train.labels"][mask]
    after = torch.tensor([bool(at) for row in sequences for at in range(len(row))])  # what stands first has no label
    assert torch.equal(ours[after], theirs[after])
    whole = batch(sequences, pixels, shift=False)
    inputs = batch(sequences, pixels, shift=True)
    objective = NextTokenAndVector()
    system.zero_grad()
    with torch.enable_grad():
        own = {READER: system.read(whole.slots[READER].pictures)}
        assert_near(whole.embedded(system.language.embed, own)[mask], want["train.inputs_embeds"][mask], MODULES)
        assert_near(system.heads["token"](system(whole).states)[mask], want["train.logits"][mask], MODULES)
        targets = inputs.targets["vector"]
        order = targets.at.argsort()
        longest = inputs.ids.shape[1]
        regressed = torch.zeros_like(inputs.ids).flatten().index_fill(0, targets.at, 1).view(-1, longest)
        assert torch.equal(regressed, want["train.regress_mask"][:, :longest].to(regressed))
        assert not want["train.regress_mask"][:, longest:].any()
        read = system(inputs)
        predicted = system.heads["vector"](read.states.flatten(0, 1)[targets.at[order]])
        assert_near(predicted, want["train.regress_pred"], MODULES)
        assert_near(wanted(system, inputs, read, targets)[order], want["train.regress_target"], MODULES)
        sums, counts = objective(system, {}, inputs, torch.Generator()), objective.counts(inputs)
        means = {kind: value / counts[kind] for kind, value in sums.items()}
        assert_near(means["token"], want["train.ce"], LOSSES)
        assert_near(means["vector"], want["train.regress_mse"], LOSSES)
        weights = objective.weights(counts)
        sum(weights[kind] * value for kind, value in means.items()).backward()  # type: ignore[union-attr]
        summed = replace(objective, reduction="sum")(system, {}, inputs, torch.Generator())["vector"]
        assert_near(summed / counts["vector"], want["train.regress_sq_l2"], LOSSES)
    gradients(system, PRETRAINED, want, "train.grad.")
    none = [
        name for name, weight in system.named_parameters() if weight.grad is None and not name.startswith("decoder.")
    ]
    assert sorted(none) == sorted(name for name in system.state_dict() if name.startswith("unread."))
    assert sorted(dict(PRETRAINED.write((n, system.state_dict()[n]) for n in none))) == golden.case["no_grad_params"]
    system.zero_grad()


def instruct_train(golden: Golden, systems: Systems) -> None:
    system, want, pixels = systems[True], golden.wanted, golden.given["pixels_1"]
    pictures = iter(numbered(1))
    sequences = []
    for prompt, answer, (asked, said) in zip(
        *(golden.case[name] for name in ("prompts", "answers", "rows")), strict=True
    ):
        read = system.layout(Document(pieces(prompt, pictures)), open=True).without_targets()
        spoken = system.format.text_ids(answer)
        assert ids(read) == asked and list(spoken) == said
        sequences.append(join([read, Sequence((tokens(spoken),))]))
    mask = want["instruct_train.mask"].bool()
    assert [labels(one) for one in sequences] == [
        row[m].tolist() for row, m in zip(want["instruct_train.labels"], mask, strict=True)
    ]
    inputs, objective = batch(sequences, pixels, shift=True), NextToken()
    for name, weight in system.named_parameters():
        weight.requires_grad_(name.endswith((".down", ".up")))
    with torch.enable_grad():
        logits = system.heads["token"](system(batch(sequences, pixels, shift=False)).states)
        assert_near(logits[mask], want["instruct_train.logits"][mask], MODULES)
        loss = objective(system, {}, inputs, torch.Generator())["token"] / objective.counts(inputs)["token"]
        assert_near(loss, want["instruct_train.loss"], LOSSES)
        loss.backward()
    gradients(system, INSTRUCTED, want, "instruct_train.grad.")
    system.zero_grad()


# -------------------------------------------------------------------------------------------------- replies


def check_prompts(golden: Golden, system: Emu, name: str) -> tuple[list[Document], Tensor | None]:
    """Ids and embedded inputs of prompts, which the original pads on the left; the documents and pixels."""
    want = golden.wanted
    pixels = next((golden.given[key] for key in ("pixels", "pixels_1") if key in golden.given), None)
    asked = documents(golden.case["prompts"], 0 if pixels is None else len(pixels))
    laid = [system.layout(one, open=True) for one in asked]
    real = want[f"{name}.attention_mask"].bool()
    given = want[f"{name}.prompt_ids"]
    assert [ids(one) for one in laid] == [row[m].tolist() for row, m in zip(given, real, strict=True)]
    inputs = batch(laid, pixels, shift=False)
    own = {reader: system.read(slots.pictures) for reader, slots in inputs.slots.items()}
    embedded, here = inputs.embedded(system.language.embed, own), inputs.document >= 0
    assert_near(embedded[here], want[f"{name}.inputs_embeds"][real], MODULES)
    last = system(inputs).states[torch.arange(len(laid)), here.sum(1) - 1]
    assert_near(system.heads["token"](last), want[f"{name}.first_logits"], MODULES)
    return asked, pixels


def settings(golden: Golden, bos: int) -> Settings:
    """Those of a case; its least length counts the start symbol that the original begins with."""
    given = golden.settings
    return Settings(
        max_new_tokens=given["max_new_tokens"],
        beams=given["num_beams"],
        length_penalty=given.get("length_penalty", 1.0),
        said=(bos,),
        text=Sampling(
            temperature=0.0,
            repetition_penalty=given.get("repetition_penalty", 1.0),
            min_new_tokens=max(0, given.get("min_length", 0) - 1),
        ),
    )


def generate(golden: Golden, systems: Systems) -> None:
    name = golden.case["name"]
    system = systems[golden.case["weights"] == "weights_instruct"]
    with pytest.MonkeyPatch.context() as patch:
        asked, pixels = check_prompts(golden, system, name)
        seen_by(system, pixels, patch)
        text = system.format.text
        how = settings(golden, text.bos)
        if how.beams > 1:
            replies = [search(system, one, how) for one in asked]
        else:
            replies = Engine(system).run(asked, [how] * len(asked))
    said = [[text.bos, *(id for run in reply.runs for id in run.ids)] for reply in replies]
    for ours, theirs in zip(said, golden.wanted[f"{name}.output_ids"].tolist(), strict=True):
        assert ours == theirs[: len(ours)]
        assert all(id == text.pad for id in theirs[len(ours) :])
    assert [system.format.read_text(reply.runs[0]) for reply in replies] == golden.case["texts"]


def instruct_vizwiz(golden: Golden, systems: Systems) -> None:
    system, text = systems[True], systems[True].format.text
    (asked,), pixels = check_prompts(golden, system, "instruct_vizwiz")
    whole = golden.case["trie_sequences"]

    def allowed(row: int, said: list[int]) -> list[int]:
        found = {one[len(said) - 1] for one in whole if one[: len(said) - 1] == said[1:] and len(one) >= len(said)}
        return sorted(found) or [text.eos]

    beams = Beams(beams=5, max_new_tokens=50, length_penalty=0.0)
    found = BeamSearch(beams, [text.eos], said=[text.bos], allowed=allowed)
    inputs = batch([system.layout(asked, open=True)], pixels, shift=False)
    cache = KVCache(5)
    cache.advance(torch.tensor([inputs.ids.shape[1]]), inputs.block)

    def logprobs(states: Tensor) -> Tensor:
        return system.heads["token"](states[:, -1]).log_softmax(-1)

    def step(ids: Tensor) -> Tensor:
        position = cache.advance(torch.ones(len(ids), dtype=torch.long))
        return logprobs(system(following(ids[:, None], position, torch.full_like(position, -1)), cache).states)

    ((best,),) = beam_search(found, logprobs(system(inputs, cache).states), step, cache.reorder)
    assert [text.bos, *best.ids] == golden.wanted["instruct_vizwiz.output_ids"][0].tolist()
    assert [text.decode(best.ids)] == golden.case["texts"]


def visdial_predict(golden: Golden, systems: Systems) -> None:
    """Sums over the candidates' own elements, divided by the padded length of their segment but one."""
    system, want, pixels = systems[True], golden.wanted, golden.given["pixels_1"]
    (asked,) = documents([golden.case["prompt"]], 1)
    prompt = system.layout(asked, open=True).without_targets()
    assert ids(prompt) == want["visdial.prompt_ids"][0].tolist()
    said = [Sequence((tokens(system.format.text_ids(one)),)) for one in golden.case["candidates"]]
    rows = [join([prompt, one]) for one in said]
    losses = []
    for row in rows:
        sums = NextToken()(system, {}, batch([row], pixels, shift=True), torch.Generator())
        losses.append(float(sums["token"]))
    for name in ("seg5", "seg2"):
        count = int(name.removeprefix("seg"))
        size = len(rows) // count
        segments = [range(i * size, (i + 1) * size if i < count - 1 else len(rows)) for i in range(count)]
        found = torch.zeros(1, len(rows))
        for segment in segments:
            longest = max(len(rows[i]) for i in segment)
            for i in segment:
                found[0, i] = losses[i] / (longest - 1)
        assert_near(found, want[f"visdial.loss_{name}"], LOSSES)
        assert torch.equal(found.argsort(), want[f"visdial.rank_{name}"])


# -------------------------------------------------------------------------------------------------- pictures


def drawn(system: Emu, document: Document, guidance: float, pixels: Tensor | None) -> tuple[Tensor, Items[Sequence]]:
    """The vectors that the engine writes, (rows, n, c), and its prompts."""
    with pytest.MonkeyPatch.context() as patch:
        seen_by(system, pixels, patch)
        patch.setattr(system, "write", lambda runs: numbered(len(runs)))
        how = Settings(guidance=guidance)
        (reply,) = Engine(system).run([document], [how])
        rows = system.format.streams(document, how.guided).rows
    assert reply.stop == "max_images" and [run.kind for run in reply.runs] == ["image", "forced"]
    return torch.stack(reply.runs[0].vectors, 1), rows


def generate_image(golden: Golden, systems: Systems) -> None:
    name, system = golden.case["name"], systems[False]
    pixels = golden.given.get("pixels2")
    pictures = iter(numbered(0 if pixels is None else len(pixels)))
    document = Document([*pieces(golden.case["text"][0], pictures, "[<IMG_PLH>]"), Blank("image")])
    guided = golden.case["text"][1:] == [""]
    found, rows = drawn(system, document, 7.5 if guided else 1.0, pixels)
    assert_near(found, golden.wanted[f"{name}.embeds"], MODULES)
    last = [CONFIG["special_tokens"]["<image>"]] * (QUERIES - 1)
    real = golden.wanted[f"{name}.final_mask"].bool()
    theirs = golden.wanted[f"{name}.final_ids"]
    assert [ids(row) + last for row in rows] == [row[m].tolist() for row, m in zip(theirs, real, strict=True)]
    assert golden.case["lm_lengths"][0] == len(rows[0])


def pipeline(golden: Golden, systems: Systems) -> None:
    name, system, given = golden.case["name"], systems[False], golden.settings
    prompt = [Image(FOLDER / part) if part.endswith(".png") else part for part in golden.case["prompt"]]
    document, guidance = Document([*prompt, Blank("image")]), given["guidance_scale"]
    assert system.decoder is not None
    diffusion = system.decoder.diffusion
    pixels = [system.format.preprocess()[READER](one) for one in prompt if isinstance(one, Image)]
    numbers = iter(numbered(len(pixels)))
    document = Document([next(numbers) if isinstance(one, Image) else one for one in prompt] + [Blank("image")])
    stacked = torch.from_numpy(np.stack(pixels)) if pixels else None
    found, _ = drawn(system, document, guidance, stacked)
    assert_near(found, golden.wanted[f"{name}.prompt_embeds"], MODULES)
    steps = scheduler(SCHEDULER)
    steps.set_timesteps(given["num_inference_steps"])
    assert torch.equal(steps.timesteps.long(), golden.wanted[f"{name}.timesteps"])
    assert len(steps.timesteps) == given["unet_calls"]
    noise = golden.given["pipeline.latents0"]
    first = diffusion.unet(noise.repeat(len(found), 1, 1, 1), steps.timesteps[0], encoder_hidden_states=found).sample
    assert_near(first, golden.wanted[f"{name}.unet_first"], DIFFUSION)
    assert diffusion.config.steps == given["num_inference_steps"]
    away = found[1:] if guidance != 1 else None
    latents = diffusion.denoise(noise, found[:1], away=away, guidance=guidance)
    assert_near(latents, golden.wanted[f"{name}.latents"], DIFFUSION)
    picture = diffusion.pixels(latents)
    shown = (picture / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert_near(shown, golden.wanted[f"{name}.image_float"], DIFFUSION)
    levels = np.asarray(images.from_array(picture[0].numpy(), rounded=True)).astype(int)
    assert np.abs(levels - golden.wanted[f"{name}.image_uint8"].numpy().astype(int)).max() <= 1


def vae(golden: Golden, systems: Systems) -> None:
    decoder = systems[False].decoder
    assert decoder is not None
    found = decoder.diffusion.vae.encode(golden.given["vae.image"]).latent_dist
    assert_near(found.mean, golden.wanted["vae.mean"], DIFFUSION)
    assert_near(found.logvar, golden.wanted["vae.logvar"], DIFFUSION)
    assert_near(decoder.diffusion.vae.decode(found.mean).sample, golden.wanted["vae.decode"], DIFFUSION)


def decoder_train(golden: Golden, systems: Systems) -> None:
    given, decoder = {key.rpartition(".")[2]: value for key, value in golden.given.items()}, systems[False].decoder
    assert decoder is not None
    noisy = scheduler(SCHEDULER).add_noise(given["latents"], given["noise"], given["t"])
    assert_near(noisy, golden.wanted["decoder_train.noisy"], PIXELS)
    predicted = decoder.diffusion.unet(noisy, given["t"], encoder_hidden_states=given["embeds"]).sample
    assert_near(predicted, golden.wanted["decoder_train.pred"], DIFFUSION)
    loss = nn.functional.mse_loss(predicted, given["noise"])
    assert_near(loss, golden.wanted["decoder_train.loss"], DIFFUSION)


def pndm_schedule(golden: Golden, systems: Systems) -> None:
    given = {key: value for key, value in golden.settings.items() if key != "steps"}
    steps = scheduler({"_class_name": "PNDMScheduler", "skip_prk_steps": True, **given})
    steps.set_timesteps(golden.settings["steps"])
    assert torch.equal(steps.timesteps.long(), golden.wanted["pndm.timesteps"])
    x = golden.given["pndm.x0"]
    for time, noise, after in zip(steps.timesteps, golden.given["pndm.eps"], golden.wanted["pndm.x"], strict=True):
        x = steps.step(noise, time, x).prev_sample
        assert_near(x, after, MODULES)


REPLAYS: Mapping[str, Callable[[Golden, Systems], None]] = {
    "visual": visual,
    "cformer": cformer,
    "encode_image": encode_image,
    "lm": lm,
    "train": train,
    **dict.fromkeys(("generate_greedy", "generate_beam5", "generate_batch_beam", "generate_text_only"), generate),
    **dict.fromkeys(
        ("generate_image_text", "generate_image_cfg", "generate_image_interleaved", "generate_image_blend"),
        generate_image,
    ),
    "lora": lora,
    **dict.fromkeys(("instruct_vqa", "instruct_caption", "instruct_okvqa"), generate),
    "instruct_vizwiz": instruct_vizwiz,
    "visdial_predict": visdial_predict,
    "instruct_train": instruct_train,
    **dict.fromkeys(("pipeline_t2i", "pipeline_noguidance", "pipeline_image"), pipeline),
    "vae": vae,
    "decoder_train": decoder_train,
    "pndm_schedule": pndm_schedule,
}


@pytest.mark.parametrize("name", REPLAYS)
def test_case(name: str, systems: Systems) -> None:
    with torch.no_grad():
        REPLAYS[name](GOLDENS[name], systems)


# --------------------------------------------------------------------------------------------------- files


def test_the_published_files_are_known() -> None:
    report = {one["file"].split(" ")[0]: one for one in check_manifest(published(), FOLDER.parent / "published.json")}
    assert all(not one["missing"] and not one["unexpected"] for one in report.values())
    counts = {name: (one["mapped"], one["ignored"]) for name, one in report.items()}
    frequencies = 40
    assert counts == {
        "pretrain/multimodal_encoder/pytorch_model.bin": (1096 - frequencies, frequencies),
        "Emu-instruct.pt": (1416 - frequencies, frequencies),
        "pretrain/unet/": (686, 0),
        "pretrain/vae/": (248, 0),
        "pretrain/safety_checker/": (0, 396),
    }


@pytest.mark.parametrize("tuned", [False, True])
def test_an_export_is_what_was_imported(
    tuned: bool, systems: Systems, folders: dict[bool, Path], tmp_path: Path
) -> None:
    folder, out = folders[tuned], tmp_path / "out"
    if tuned:  # the golden's alpha is another than the published one, which no file tells
        system = directory.load(folder / "imported")
        assert isinstance(system, Emu) and system.config.lora is not None
        with pytest.raises(ConfigError, match="alpha 8"):
            export(folder / "imported", "published", out)
        system.config = replace(system.config, lora=replace(system.config.lora, alpha=16.0))
        directory.save(system, tmp_path / "saved")
    source = tmp_path / "saved" if tuned else folder / "imported"
    export(source, "published", out)
    name = "Emu-instruct.pt" if tuned else "pretrain/multimodal_encoder/pytorch_model.bin"
    before = instruct_weights() if tuned else GOLDENS.weights()
    after = torch.load(out / name, weights_only=True)
    assert {key for key in before if not key.endswith("inv_freq")} == after.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
    given = out / "Emu-instruct.pt" if tuned else out / "pretrain"
    again, _ = import_files(published(), [given], tmp_path / "again", folder / "sizes.json")
    state = directory.load(again).state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in systems[tuned].state_dict().items())


def test_parts_of_the_folder_are_read_one_by_one(systems: Systems, folders: dict[bool, Path], tmp_path: Path) -> None:
    whole = write_pretrained(tmp_path / "pretrain", inside="module")
    (whole / "multimodal_encoder").rename(tmp_path / "encoder")
    shutil.copy(FOLDER / "tokenizer.model", tmp_path / "encoder")
    sizes = folders[False] / "sizes.json"
    given = [tmp_path / "encoder" / "pytorch_model.bin", whole]
    made, notes = import_files(published(), given, tmp_path / "both", sizes)
    assert any("safety checker" in note for note in notes)
    state = directory.load(made).state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in systems[False].state_dict().items())
    write_json(tmp_path / "alone.json", {k: v for k, v in json.loads(sizes.read_text()).items() if k != "decoder"})
    alone, notes = import_files(published(), given[:1], tmp_path / "alone", tmp_path / "alone.json")
    assert any("no pictures are drawn" in note for note in notes)
    system = directory.load(alone)
    assert isinstance(system, Emu) and system.decoder is None


def test_adapters_are_not_lost(folders: dict[bool, Path], tmp_path: Path) -> None:
    shutil.copy(FOLDER / "tokenizer.model", tmp_path)
    layer = "model.layers.1.self_attn.v_proj.lora_B.default.weight"
    state = instruct_weights()
    later = {key.replace("q_proj.weight", "q_proj.base_layer.weight"): tensor for key, tensor in state.items()}
    renamed = {key.replace(".default.", ".other."): tensor for key, tensor in state.items()}
    cut = {key: tensor for key, tensor in state.items() if not key.endswith(layer)}
    for name, changed in {"later": later, "renamed": renamed, "cut": cut}.items():
        torch.save(changed, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=r"missing|not expected|lacks"):
            import_files(published(), [tmp_path / f"{name}.pt"], tmp_path / name, folders[True] / "sizes.json")
        assert not (tmp_path / name).exists()
