"""MiniGPT-4 as a whole against the original program's numbers: soft tokens, losses, training steps, replies."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from golden import GRADIENTS, LOSSES, MODULES, STEPS, Golden, Goldens, assert_near
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from plait.checkpoints import directory
from plait.checkpoints.minigpt4 import PROJECTION_FILE, published
from plait.checkpoints.published import import_files
from plait.config import to_plain
from plait.document import Document, Image, Turn
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling, distribution, penalise
from plait.nn.attention import Visibility
from plait.nn.llama import LLaMAConfig
from plait.nn.lora import LoRAConfig
from plait.nn.qformer import QFormerConfig
from plait.nn.vit import VITConfig
from plait.objectives.tokens import NextToken
from plait.sequence import Batch, Collator, Prepare, Sequence, tokens
from plait.systems.base import Grammar, Next, Stop
from plait.systems.minigpt4 import CAPTION_END, READER, MiniGPT4, MiniGPT4Config, MiniGPT4Format
from plait.text.templates import INSTRUCTIONS, caption, fill

GOLDENS = Goldens("minigpt4")
FOLDER, CONFIG, CASES = GOLDENS.folder, GOLDENS.config, GOLDENS.cases
BOS = 1


def config(**changed: Any) -> MiniGPT4Config:
    vit, qformer, llama = CONFIG["vit"], CONFIG["qformer"], CONFIG["llama"]
    assert vit["ln_vision_eps"] == 1e-5
    assert not llama["tie_word_embeddings"] and llama["hidden_act"] == "silu"
    sizes = MiniGPT4Config(
        vision=VITConfig(
            image_size=vit["img_size"],
            patch=vit["patch_size"],
            width=vit["embed_dim"],
            depth=vit["depth"],
            heads=vit["num_heads"],
            hidden=vit["mlp_hidden"],
            eps=vit["layer_norm_eps"],
        ),
        qformer=QFormerConfig(
            width=qformer["hidden_size"],
            depth=qformer["num_hidden_layers"],
            heads=qformer["num_attention_heads"],
            hidden=qformer["intermediate_size"],
            queries=CONFIG["num_query_token"],
            image_width=qformer["encoder_width"],
            cross_every=qformer["cross_attention_freq"],
            eps=qformer["layer_norm_eps"],
        ),
        language=LLaMAConfig(
            vocabulary=llama["vocab_size"],
            width=llama["hidden_size"],
            hidden=llama["intermediate_size"],
            depth=llama["num_hidden_layers"],
            heads=llama["num_attention_heads"],
            positions=llama["max_position_embeddings"],
            eps=llama["rms_norm_eps"],
            base=llama["rope_theta"],
        ),
    )
    return replace(sizes, **changed)


def build(extra: str = "", **changed: Any) -> MiniGPT4:
    """The golden's system, imported; `extra`: that of another projection, without a Q-Former, and of its adapters."""
    sizes = config(**({"qformer": None} if extra else {}), **changed)
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), FOLDER / "weights.safetensors"
        if extra:
            none = ("Qformer", "query_tokens")
            state = {key: value for key, value in GOLDENS.weights().items() if not key.startswith(none)}
            others, prefix = GOLDENS.weights("weights_extra"), f"{extra}."
            state |= {key.removeprefix(prefix): value for key, value in others.items() if key.startswith(prefix)}
            file = folder / "weights.safetensors"
            save_file(state, file)
            shutil.copy(FOLDER / "tokenizer.model", folder)
        (folder / "sizes.json").write_text(json.dumps(to_plain(sizes)))
        made, _ = import_files(published(), [file], folder / "imported", folder / "sizes.json")
        system = directory.load(made)
    assert isinstance(system, MiniGPT4) and system.config == sizes
    return system


def second(**changed: Any) -> MiniGPT4:
    """The second version, of which the projection and the adapters are trained."""
    adapters = LoRAConfig(rank=CONFIG["v2"]["lora_r"], alpha=float(CONFIG["v2"]["lora_alpha"]))
    system = build("v2", template="minigptv2", lora=adapters, **changed).requires_grad_(False)
    for name, weight in system.named_parameters():
        weight.requires_grad_(name.startswith("projection") or name.endswith((".down", ".up")))
    return system


@pytest.fixture(scope="module")
def plain() -> MiniGPT4:
    return build()


def numbered(count: int) -> list[Image]:
    """Pictures that stand for the golden's pixels."""
    return [Image(str(i).encode()) for i in range(count)]


def batch(sequences: list[Sequence], pixels: Tensor | None, shift: bool) -> Batch:
    """One sequence a row, pictures by number."""

    def write(image: Image, out: NDArray[np.float32]) -> None:
        assert pixels is not None
        out[...] = pixels[int(image.source)].numpy()  # type: ignore[arg-type]

    side = CONFIG["vit"]["img_size"]
    return Collator({READER: Prepare((3, side, side), write)})([[one] for one in sequences], shift=shift)


def labels(sequence: Sequence) -> list[int]:
    """What each element is predicted as, -100 for nothing."""
    found = []
    for span in sequence.spans:
        row = np.full(span.length, -100)
        for target in span.targets:
            assert target.value is not None
            row = np.where(target.weight > 0, target.value, row)
        found += row.tolist()
    return found


def check_loss(
    system: MiniGPT4, sequences: list[Sequence], pixels: Tensor | None, wanted: Mapping[str, Tensor]
) -> None:
    """Embedded inputs, labels, logits, the loss and its gradients."""
    longest = max(map(len, sequences))
    assert not wanted["attention_mask"][:, longest:].any()  # the original pads prompts and answers one after the other
    rows = {key: value[:, :longest] for key, value in wanted.items() if value.ndim > 1 and not key.startswith("grad")}
    mask = rows["attention_mask"].bool()
    assert [len(one) for one in sequences] == mask.sum(1).tolist()
    assert all(bool(mask[i, : len(one)].all()) for i, one in enumerate(sequences))
    assert [labels(one) for one in sequences] == [row[m].tolist() for row, m in zip(rows["labels"], mask, strict=True)]
    inputs = batch(sequences, pixels, shift=False)
    with torch.no_grad():
        own = {reader: system.read(slots.pictures) for reader, slots in inputs.slots.items()}
        embedded = inputs.embedded(system.language.embed, own)
        logits = system.heads["token"](system(inputs).states)
    assert_near(embedded[mask], rows["inputs_embeds"][mask], MODULES)
    if "logits" in rows:
        assert_near(logits[mask], rows["logits"][mask], MODULES)
    objective, inputs = NextToken(), batch(sequences, pixels, shift=True)
    system.zero_grad()
    loss = objective(system, {}, inputs, torch.Generator())["token"] / objective.counts(inputs)["token"]
    assert_near(loss, wanted["loss"], LOSSES)
    names = {key: "projection." + key.split(".")[-1] for key in wanted if key.startswith("grad.llama_proj")}
    if names:
        loss.backward()
    for key, name in names.items():
        gradient = system.get_parameter(name).grad
        assert gradient is not None
        assert_near(gradient, wanted[key], GRADIENTS)


# ------------------------------------------------------------------------------------------------- modules


def encode_img(golden: Golden, plain: MiniGPT4) -> None:
    with torch.no_grad():
        assert_near(plain.read(golden.given["pixels"]), golden.wanted["embeds"], MODULES)
    assert golden.wanted["atts"].shape[1] == plain.config.vectors


def encode_img_llama2(golden: Golden, plain: MiniGPT4) -> None:
    with torch.no_grad():
        assert_near(build("llama2").read(golden.given["pixels"]), golden.wanted["embeds"], MODULES)


def llama(golden: Golden, plain: MiniGPT4) -> None:
    ids, wanted = golden.given["ids"], golden.wanted
    language = plain.language
    states: dict[str, Tensor] = {"hidden_0": language.embed(ids)}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, given, out: states.__setitem__(name, out.detach())

    last = len(language.decoder.blocks)
    hooks = [
        *(block.register_forward_hook(keep(f"hidden_{i + 1}")) for i, block in enumerate(language.decoder.blocks[:-1])),
        language.decoder.norm.register_forward_hook(keep(f"hidden_{last}")),
    ]
    with torch.no_grad():
        full = torch.ones_like(ids)
        for name, mask in (
            ("right", golden.given["mask_right"]),
            ("left", golden.given["mask_left"]),
            ("nomask", full),
        ):
            real = mask.bool()
            sight = Visibility(torch.where(real, 0, -1), torch.full_like(ids, -1))
            position = (mask.cumsum(1) - 1).clamp(min=0)
            hidden = language(language.embed(ids), position, lambda layer, sight=sight: sight.attend)
            logits = language.head(hidden)
            assert_near(logits[real], wanted[f"logits_{name}"][real], MODULES)
            if name == "left":
                assert torch.equal(position[real], wanted["position_ids_left"][real])
    for hook in hooks:
        hook.remove()
    for name, value in states.items():
        assert_near(value, wanted[name], MODULES)


def norm_eps(golden: Golden, plain: MiniGPT4) -> None:
    modules = {
        "vit": plain.vision.blocks[0].attention_norm,
        "ln_vision": plain.vision_norm,
        "qformer": plain.qformer.norm if plain.qformer else None,
        "llama": plain.language.decoder.blocks[0].attention_norm,
    }
    assert modules.keys() == golden.given.keys()
    for grad in (True, False):  # a CPU has two ways to take the root of a mean square
        with torch.set_grad_enabled(grad):
            for name, module in modules.items():
                assert isinstance(module, torch.nn.Module)
                assert_near(module(golden.given[name]), golden.wanted[name], MODULES)


# -------------------------------------------------------------------------------------------------- losses


def written(golden: Golden, format: MiniGPT4Format, prompts: list[str], answers: list[str], end: str) -> list[Sequence]:
    """One picture for each prompt that has a place for one."""
    pictures = numbered(len(prompts))
    return [
        format.sequence(fill(prompt, [picture] if "<ImageHere>" in prompt else []), [answer], end)
        for prompt, picture, answer in zip(prompts, pictures, answers, strict=True)
    ]


def asked(golden: Golden) -> list[str]:
    settings = golden.settings
    return settings.get("instruction_input") or [settings["prompt"]] * len(settings["answers"])


def loss_stage1(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    assert settings["end_sym"] == CAPTION_END
    format = MiniGPT4Format(replace(plain.config, max_caption=settings["max_txt_len"]), plain.format.text)
    pictures = numbered(len(settings["answers"]))
    rows = [
        format.layout(Document([picture, caption(answer)]))
        for picture, answer in zip(pictures, settings["answers"], strict=True)
    ]
    check_loss(plain, rows, golden.given["pixels"], golden.wanted)


def loss_prompted(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    changed = {"max_answer": settings.get("max_txt_len", 160), "max_context": settings.get("max_context_len", 3800)}
    format = MiniGPT4Format(replace(plain.config, **changed), plain.format.text)
    assert settings["end_sym"] == INSTRUCTIONS["vicuna0"].end
    rows = written(golden, format, asked(golden), settings["answers"], settings["end_sym"])
    check_loss(plain, rows, golden.given.get("pixels"), golden.wanted)


def loss_stage2(golden: Golden, plain: MiniGPT4) -> None:
    loss_prompted(golden, plain)
    question = golden.settings["prompt"].split("</Img> ")[1].removesuffix(" ###Assistant: ")
    rows = written(golden, plain.format, asked(golden), golden.settings["answers"], "###")
    for picture, row, answer in zip(numbered(3), rows, golden.settings["answers"], strict=True):
        laid = plain.format.layout(Document([Turn("user", [picture, question]), Turn("assistant", answer)]))
        assert laid.ids().tolist() == row.ids().tolist() and labels(laid) == labels(row)


def padded_means(system: MiniGPT4, rows: list[Sequence], pixels: Tensor) -> Tensor:
    """The sum of a row's losses over all positions of the padded row but one (released code: reduction none)."""
    inputs = batch(rows, pixels, shift=True)
    with torch.no_grad():
        states = system(inputs).states.flatten(0, 1)
    targets = inputs.targets["token"]
    width = inputs.ids.shape[1]
    logprobs = system.heads["token"](states[targets.at]).log_softmax(-1).gather(1, targets.value[:, None])[:, 0]
    return torch.zeros(len(rows)).index_add(0, targets.at // width, -logprobs * targets.weight) / width


def loss_per_sample(golden: Golden, plain: MiniGPT4) -> None:
    rows = written(golden, plain.format, asked(golden), golden.settings["answers"], golden.settings["end_sym"])
    assert_near(padded_means(plain, rows, golden.given["pixels"]), golden.wanted["loss"], LOSSES)


def multi_select(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    losses = torch.stack(
        [
            padded_means(plain, written(golden, plain.format, asked(golden), answers, "###"), golden.given["pixels"])
            for answers in settings["answers"]
        ],
        dim=1,
    )  # (rows, candidates)
    beyond = torch.arange(losses.shape[1]) >= torch.tensor(settings["num_cand"])[:, None]
    assert torch.equal(losses.masked_fill(beyond, 1e30).argsort(-1), golden.wanted["ranks"])


def loss_multi_image(golden: Golden, plain: MiniGPT4) -> None:
    settings, pixels = golden.settings, golden.given["pixels"]  # (b, most, 3, side, side)
    most = pixels.shape[1]
    pictures = numbered(pixels.shape[0] * most)
    format = MiniGPT4Format(replace(plain.config, max_answer=settings["max_txt_len"]), plain.format.text)
    rows = [
        format.sequence(fill(prompt, pictures[i * most : i * most + count]), [answer], settings["end_sym"])
        for i, (prompt, answer, count) in enumerate(
            zip(asked(golden), settings["answers"], settings["length"], strict=True)
        )
    ]
    check_loss(plain, rows, pixels.flatten(0, 1), golden.wanted)


def v2_loss(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    system = second(max_answer=1024)
    instruction = INSTRUCTIONS["minigptv2"]
    assert settings["prompt_template"].format("*") == f"{instruction.before}*{instruction.after}"
    prompts = [settings["prompt_template"].format(one) for one in settings["instruction_input"]]
    rows = written(golden, system.format, prompts, settings["answers"], settings["end_sym"])
    check_loss(system, rows, golden.given["pixels"], golden.wanted)
    gradient = system.get_parameter("language.decoder.blocks.0.attention.qkv.down").grad
    assert gradient is not None
    assert_near(gradient[0], golden.wanted["grad.lora_A.layer0.q"], GRADIENTS)


def v2_conv_loss(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    system = second(max_answer=settings["max_txt_len"])
    rows = []
    for picture, questions, answers in zip(numbered(2), settings["conv_q"], settings["conv_a"], strict=True):
        prompts = [settings["prompt_template"].format(one) for one in questions.split(settings["connect_sym"])]
        first, *later = [fill(one, [picture] if "<ImageHere>" in one else []) for one in prompts]
        said, *more = answers.split(settings["connect_sym"])
        spoken = [said, *(part for pair in zip(later, more, strict=True) for part in pair)]
        rows.append(system.format.sequence(first, spoken, settings["end_sym"]))
    check_loss(system, rows, golden.given["pixels"], golden.wanted)


def train_steps(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    assert settings["decay"] == ["llama_proj.weight"] and settings["no_decay"] == ["llama_proj.bias"]
    system = build().requires_grad_(False)
    weight, bias = system.projection.requires_grad_(True).parameters()
    groups = [{"params": [weight], "weight_decay": settings["weight_decay"]}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    rows = written(golden, system.format, asked(golden), settings["answers"], settings["end_sym"])
    inputs, objective, losses = batch(rows, golden.given["pixels"], shift=True), NextToken(), []
    for rate in golden.wanted["lrs"].tolist():  # that they are the schedule's is a case of its own
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = objective(system, {}, inputs, torch.Generator())["token"] / objective.counts(inputs)["token"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    assert_near(torch.stack(losses), golden.wanted["losses"], LOSSES)
    assert_near(weight, golden.wanted["llama_proj.weight"], STEPS)
    assert_near(bias, golden.wanted["llama_proj.bias"], STEPS)


# ------------------------------------------------------------------------------------------------- replies


class Prompts(MiniGPT4Format):
    """Documents of numbers: prompts that are given as they are."""

    def __init__(self, plain: MiniGPT4, rows: list[Sequence], pixels: Tensor, eos: int | None = None) -> None:
        super().__init__(plain.config, plain.format.text)
        self.rows, self.pixels, self.eos = rows, pixels, eos

    def grammar(self, document: Document, max_images: int) -> Grammar:
        allowed = torch.ones(self.config.language.vocabulary, dtype=torch.bool)
        ends = frozenset([self.text.eos if self.eos is None else self.eos])
        step = Next(kind="text", head="token", allowed=allowed, ends=ends)
        return lambda emitted: Stop("end") if emitted else step

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        return self.rows[int(document.text)]

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        def write(image: Image, out: NDArray[np.float32]) -> None:
            out[...] = self.pixels[int(image.source)].numpy()  # type: ignore[arg-type]

        return {READER: Prepare(super().preprocess()[READER].shape, write)}


def prompted(golden: Golden, plain: MiniGPT4) -> list[Sequence]:
    texts = CASES["generate_batch"]["settings"]["texts"]
    return [plain.format.sequence(fill(text, [image])) for text, image in zip(texts, numbered(3), strict=True)]


def check_replies(plain: MiniGPT4, format: MiniGPT4Format, settings: Settings, ids: Tensor) -> None:
    """The ids of a batch; the original begins with a start symbol that the model never saw, and pads with 0."""
    assert (ids[:, 0] == BOS).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "format", format)
        replies = Model(plain).generate([Document(str(i)) for i in range(len(ids))], settings)
    for reply, wanted in zip(replies, ids[:, 1:].tolist(), strict=True):
        said = reply.runs[0].ids
        assert said == wanted[: len(said)]
        assert not any(wanted[len(said) :])
        assert len(said) == settings.max_new_tokens or reply.stop == "end"


def generate_batch(golden: Golden, plain: MiniGPT4) -> None:
    rows = prompted(golden, plain)
    mask = golden.wanted["attention_mask"].bool()
    inputs = batch(rows, golden.given["pixels"], shift=False)
    with torch.no_grad():
        embedded = inputs.embedded(plain.language.embed, {READER: plain.read(inputs.images)})
    for i, row in enumerate(rows):
        assert_near(embedded[i, : len(row)], golden.wanted["inputs_embeds"][i][mask[i]], MODULES)
    format = Prompts(plain, rows, golden.given["pixels"])
    settings = Settings(max_new_tokens=golden.settings["max_new_tokens"])
    check_replies(plain, format, settings, golden.wanted["ids"])


def generate_eos(golden: Golden, plain: MiniGPT4) -> None:
    pixels = GOLDENS.tensors[CASES["generate_batch"]["inputs"]["pixels"]]  # the case holds what became of them
    format = Prompts(plain, prompted(golden, plain), pixels, golden.settings["eos_token_id"])
    settings = Settings(max_new_tokens=golden.settings["max_new_tokens"])
    check_replies(plain, format, settings, golden.wanted["ids"])


def generate_beam(golden: Golden, plain: MiniGPT4) -> None:
    format = Prompts(plain, prompted(golden, plain), golden.given["pixels"])
    settings = Settings(
        max_new_tokens=golden.settings["max_new_tokens"], beams=golden.settings["num_beams"], said=(BOS,)
    )
    check_replies(plain, format, settings, golden.wanted["ids"])


def mirrored(path: Path) -> Image:
    return Image(PIL.ImageOps.mirror(PIL.Image.open(path).convert("RGB")))


def chat(golden: Golden, plain: MiniGPT4, turns: list[Turn], stops: list[list[int]], kept: int | None = None) -> None:
    settings = golden.settings
    document = Document(turns)
    prompt = plain.format.layout(document, open=True)
    prompt = prompt.cut(len(prompt) - (kept or len(prompt)), len(prompt))
    inputs = plain.format.collator()([[prompt]], shift=False)
    with torch.no_grad():
        embedded = inputs.embedded(plain.language.embed, {READER: plain.read(inputs.images)})
    assert_near(embedded, golden.wanted["inputs_embeds"], MODULES)
    asked = Settings(
        max_new_tokens=settings["max_new_tokens"],
        text=Sampling(temperature=0.0, repetition_penalty=settings["repetition_penalty"]),
        stop=tuple(tuple(one) for one in stops),
        said=(BOS,),
        cut_prompt=kept is not None,
    )
    reply = Model(plain).generate(document, asked)
    assert [BOS, *reply.runs[0].ids] == golden.wanted["ids"].tolist()
    assert reply.text == settings["answer"]


def first_turns(count: int) -> list[Turn]:
    """The turns before turn `count` of the conversation of the golden chats."""
    turns = [
        Turn(
            "user",
            [Image(FOLDER / CASES["chat_turn1"]["settings"]["image"]), CASES["chat_turn1"]["settings"]["question"]],
        )
    ]
    for name in ("chat_turn1", "chat_turn2_stop")[: count - 1]:
        following = {"chat_turn1": "chat_turn2_stop", "chat_turn2_stop": "chat_two_images"}[name]
        turns.append(Turn("assistant", CASES[name]["settings"]["answer"]))
        question = CASES[following]["settings"]["question"]
        second = [mirrored(FOLDER / "image.png")] if following == "chat_two_images" else []
        turns.append(Turn("user", [*second, question]))
    return turns


def chat_turn1(golden: Golden, plain: MiniGPT4) -> None:
    chat(golden, plain, first_turns(1), golden.settings["stops"])


def chat_turn2_stop(golden: Golden, plain: MiniGPT4) -> None:
    chat(golden, plain, first_turns(2), golden.settings["stops"])


def chat_two_images(golden: Golden, plain: MiniGPT4) -> None:
    chat(golden, plain, first_turns(3), golden.settings.get("stops", []))


def chat_context_cut(golden: Golden, plain: MiniGPT4) -> None:
    settings = golden.settings
    short = build(language=replace(plain.config.language, positions=settings["max_length"]))
    chat(golden, short, first_turns(1), [], kept=settings["max_length"] - settings["max_new_tokens"])


def chat_sampling_distribution(golden: Golden, plain: MiniGPT4) -> None:
    settings, wanted = golden.settings, golden.wanted
    ids = golden.given["ids"]
    prompt = plain.format.layout(Document(first_turns(1)), open=True)
    for step in settings["steps"]:
        said = ids[None, : step + 1]  # with the start symbol, which the model never saw
        row = Sequence((*prompt.spans, tokens(ids[1 : step + 1].tolist())))
        inputs = plain.format.collator()([[row]], shift=False)
        with torch.no_grad():
            logits = plain.heads["token"](plain(inputs).states[:, -1])
        logits = penalise(logits, said, torch.tensor([settings["repetition_penalty"]]))
        for temperature in settings["temperature"]:
            top = torch.tensor([settings["top_p"]]), torch.tensor([settings["top_k"]])
            drawn = distribution(logits, torch.tensor([temperature]), *top) > 0
            warped = wanted[f"warped_step{step}_t{temperature}"]
            assert torch.equal(drawn, warped > -1e29)
            assert_near((logits / temperature)[drawn], warped[drawn], MODULES)


def checkpoint_keys(golden: Golden, plain: MiniGPT4) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in GOLDENS.weights().items()}
    saved = {key: shapes.get(key, (1,)) for key in golden.settings["saved"]}
    wanted = {f"projection.{name}": tuple(p.shape) for name, p in plain.projection.named_parameters()}
    report = PROJECTION_FILE.report(saved, wanted)
    assert set(report.mapped.values()) == set(wanted)
    assert not report.missing and not report.unexpected and not report.misshapen
    assert set(report.mapped) | set(report.ignored) == set(saved)


REPLAYS: dict[str, Callable[[Golden, MiniGPT4], None]] = {
    **{f.__name__: f for f in (encode_img, encode_img_llama2, llama, norm_eps)},
    **{f.__name__: f for f in (loss_stage1, loss_stage2, loss_per_sample, multi_select, loss_multi_image)},
    **dict.fromkeys(("loss_instruction", "loss_text_only", "loss_context_cut"), loss_prompted),
    **{f.__name__: f for f in (v2_loss, v2_conv_loss, train_steps)},
    **{f.__name__: f for f in (chat_sampling_distribution, checkpoint_keys)},
    **{f.__name__: f for f in (generate_batch, generate_beam, generate_eos)},
    **{f.__name__: f for f in (chat_turn1, chat_turn2_stop, chat_two_images, chat_context_cut)},
}


@pytest.mark.parametrize("name", REPLAYS)
def test_case(name: str, plain: MiniGPT4) -> None:
    REPLAYS[name](GOLDENS[name], plain)
