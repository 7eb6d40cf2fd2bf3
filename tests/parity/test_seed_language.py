"""SEED-LLaMA's words, layouts, replies, adapters and schedules against the numbers of its own code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from golden import GRADIENTS, LOSSES, MODULES, STEPS, Golden, Goldens, assert_near
from torch import Tensor

from plait.checkpoints.keymap import KeyMap
from plait.checkpoints.parts import LLAMA
from plait.checkpoints.seed import ADAPTERS
from plait.document import Blank, Document, Image, Piece, Turn, Video, middles
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import distribution
from plait.nn.llama import LLaMA, LLaMAConfig
from plait.nn.lora import LAYERS, LoRAConfig, adapt, merge
from plait.nn.qformer import QFormerConfig
from plait.nn.vit import VITConfig
from plait.objectives.tokens import NextToken
from plait.recipes.seed import ADAPTED, WHOLE
from plait.sequence import Batch, Collator, Sequence, Slot, Span, Target
from plait.systems.base import Grammar, Next, Stop
from plait.systems.seed import Seed, SeedConfig, SeedFormat, vocabulary
from plait.systems.seed_tokenizer import SeedTokenizerConfig
from plait.text import requests
from plait.text.dialogues import LLAMA2, VICUNA, Dialogue
from plait.text.pieces import SentencePiece
from plait.text.requests import Exchange
from plait.text.templates import PLACE, as_string
from plait.train.optim import assign, build
from plait.train.stage import EpochSchedule, Optimiser, Schedule

GOLDENS = Goldens("seed")
CONFIG, CASES = GOLDENS.config, GOLDENS.cases
RATES = 1e-12


def config(strips: bool = True) -> SeedConfig:
    """The golden's language model; of the tokenizer only the number of codes matters here."""
    vit, queries, llm = CONFIG["vit"], CONFIG["qformer"]["num_query_token"], CONFIG["llm"]
    return SeedConfig(
        tokenizer=SeedTokenizerConfig(
            vision=VITConfig(
                image_size=vit["image_size"], patch=vit["patch_size"], width=8, depth=1, heads=1, hidden=8
            ),
            qformer=QFormerConfig(width=12, depth=1, heads=1, hidden=8, queries=queries, image_width=8, causal=True),
            codes=CONFIG["codebook"]["n_embed"],
            code_width=4,
            embedding=4,
        ),
        language=LLaMAConfig(
            vocabulary=llm["vocab_size"],
            width=llm["hidden_size"],
            hidden=llm["intermediate_size"],
            depth=llm["num_hidden_layers"],
            heads=llm["num_attention_heads"],
            positions=llm["max_position_embeddings"],
            eps=llm["rms_norm_eps"],
            base=float(llm["rope_base"]),
        ),
        strips=strips,
    )


def words(strips: bool = True) -> SentencePiece:
    model = (GOLDENS.folder / "tokenizer.model").read_bytes()
    return vocabulary(model, CONFIG["codebook"]["n_embed"], strips)


FORMAT = SeedFormat(config(), words())
SPECIALS = ("<unk>", "<s>", "</s>")


def picture(codes: list[int]) -> Image:
    """A picture that stands for the codes of one."""
    return Image(json.dumps(codes).encode())


def pictures(codes: list[int]) -> list[Image]:
    """Several in a row."""
    n = FORMAT.count
    assert len(codes) % n == 0
    return [picture(codes[at : at + n]) for at in range(0, len(codes), n)]


def filled(span: Span) -> list[int]:
    if not isinstance(span.fill, Slot):
        return span.fill.tolist()
    codes = json.loads(span.fill.image.source)  # type: ignore[arg-type]
    return [FORMAT.first_code + code for code in codes[span.fill.start : span.fill.start + span.length]]


def ids(sequence: Sequence) -> list[int]:
    return [id for span in sequence.spans for id in filled(span)]


def labels(sequence: Sequence) -> list[int]:
    """What each element is predicted as, -100 for nothing."""
    found = []
    for span in sequence.spans:
        own, row = np.array(filled(span)), np.full(span.length, -100)
        for target in span.targets:
            row = np.where(target.weight > 0, own if target.value is None else target.value, row)
        found += row.tolist()
    return found


def check(golden: Golden, document: Document, format: SeedFormat = FORMAT) -> None:
    """The padded ids and labels of a document, cut where the original cuts."""
    length = golden.settings["max_length"]
    sequence = format.layout(document).cut(0, length)
    pads = length - len(sequence)
    assert ids(sequence) + [FORMAT.text.pad] * pads == golden.wanted["input_ids"].tolist()
    assert labels(sequence) + [-100] * pads == golden.wanted["labels"].tolist()
    assert golden.wanted["attention_mask"].tolist() == [1] * len(sequence) + [0] * pads
    assert len(sequence) == golden.case["length"]


# ------------------------------------------------------------------------------------------------------ words


def check_vocabulary(golden: Golden) -> None:
    wanted = golden.case["ids"]
    assert (FORMAT.text.unk, FORMAT.text.pad) == (wanted["unk/pad"],) * 2
    assert (FORMAT.text.bos, FORMAT.text.eos) == (wanted["bos"], wanted["eos"])
    assert (FORMAT.begin, FORMAT.end, len(FORMAT.text)) == (wanted["<img>"], wanted["</img>"], wanted["len"])
    assert FORMAT.first_code == wanted["<img_00000>"] == golden.settings["image_id_shift"]
    assert FORMAT.first_code + FORMAT.codes - 1 == wanted["last_code"]
    assert len(FORMAT.text) == CONFIG["llm"]["vocab_size"]


def tokenize(golden: Golden) -> None:
    text = words(strips=golden.case["name"] == "tokenize_plain")
    for string in golden.case["strings"]:
        assert text.encode(string["in"]) == string["ids"], string["name"]


def detokenize(golden: Golden) -> None:
    for one in golden.case["strings"]:
        silent = SPECIALS if one["skip_special_tokens"] else ()
        if silent and one["kind"] == "special_str":
            silent = (*silent, *FORMAT.text.added)
        assert FORMAT.text.spell(golden.case["ids"], silent) == one["out"]


def test_decoded_samples() -> None:
    decoded = [case for case in CASES.values() if "decoded" in case]
    assert decoded
    for case in decoded:
        found = GOLDENS.tensors[case["outputs"]["input_ids"]][: case["length"]].tolist()
        assert FORMAT.text.spell(found) == case["decoded"]


# --------------------------------------------------------------------------------------------------- pretraining


def pretrain_caption(golden: Golden) -> None:
    sample, settings = golden.case["sample"], golden.settings
    seen, said = picture(sample["image_ids"]), sample["text"]
    if settings.get("mask_left_label"):  # what is only read is a video, here of one frame
        check(golden, Document([Video((seen,)), said]))
    else:
        check(golden, Document([seen, said] if settings["reverse_ratio"] else [said, seen]))


def pretrain_interleaved(golden: Golden) -> None:
    from plait.data.prompted import Pages

    sample, settings = golden.case["sample"], golden.settings
    both = zip(sample["image_ids"], sample["texts"], strict=True)
    record = Document([text if text is not None else picture(codes) for codes, text in both])
    pages = Pages(source=[record], images=settings["max_images"], swap=settings["reverse_ratio"])
    check(golden, pages[0])


def pretrain_video(golden: Golden) -> None:
    sample = golden.case["sample"]
    check(golden, Document([Video(tuple(pictures(sample["image_ids"]))), sample["answer"]]))


def pretrain_text(golden: Golden) -> None:
    check(golden, Document(golden.case["sample"]["text"]))


def pretrain_text_conversation(golden: Golden) -> None:
    check(golden, exchanged(golden), spoken_as(replace(VICUNA, after="\nASSISTANT: ")))


def spoken_as(dialogue: Dialogue) -> SeedFormat:
    format = SeedFormat(config(), words())
    format.dialogue = dialogue
    return format


def fewshot_caption_prompt(golden: Golden) -> None:
    sample = golden.case["sample"]
    for prompt in golden.case["prompts"]:
        shots = [
            piece
            for shot in sample["context"][: prompt["num_context"]]
            for piece in (picture(shot["image_ids"]), shot["text"])
        ]
        asked = [prompt["caption_prompt"]] if prompt["caption_prompt"] else []
        document = Document([*shots, picture(sample["image_ids"]), *asked])
        assert ids(FORMAT.layout(document, open=True)) == prompt["input_ids"]


def video_frame_indices(golden: Golden) -> None:
    for one in golden.case["frames"]:
        assert middles(one["vlen"], one["num_frames"]) == one["indices"]


# ------------------------------------------------------------------------------------------------- instructions


def exchanged(golden: Golden, seen: tuple[Piece, ...] = (), told: Callable[[str], str] = str) -> Document:
    """The turns of a sample whose sides speak in turn."""
    said = golden.case["sample"]["data"]
    turns = [Turn("assistant", told(one)) if at % 2 else Turn("user", one) for at, one in enumerate(said)]
    turns[0] = Turn("user", [*seen, *turns[0].pieces])
    if system := golden.settings.get("system_message"):
        turns.insert(0, Turn("system", system))
    return Document(turns)


def drawn(golden: Golden, before: str) -> str:
    """What a case has drawn to say between `before` and a picture or the end of a line."""
    found = re.search(re.escape(before) + r" ?(.*?)(?: <img>|\n)", golden.case["decoded"])
    assert found
    return found[1]


def sft_vqa(golden: Golden) -> None:
    sample = golden.case["sample"]
    check(golden, requests.answer([picture(sample["image_ids"])], sample["question"], sample["answer"]))


def sft_text_to_image(golden: Golden) -> None:
    sample = golden.case["sample"]
    asked = drawn(golden, "USER: ").replace(sample["text"].removesuffix("."), "{}")
    way = Exchange(asked, drawn(golden, "ASSISTANT:"))
    assert way.asked.count("{}") == 1
    check(golden, requests.draw(picture(sample["image_ids"]), sample["text"], way))


def sft_conversation(golden: Golden) -> None:
    sample = golden.case["sample"]
    check(golden, requests.talk([picture(sample["image_ids"])], sample["question"], sample["answer"]))


def sft_edit(golden: Golden) -> None:
    sample = golden.case["sample"]
    asked, said = sample.get("instruction_gpt", sample["instruction"]), drawn(golden, "ASSISTANT:")
    assert said == sample.get("response", said)
    before, after = picture(sample["source_image_ids"]), picture(sample["target_image_ids"])
    check(golden, requests.edit(before, [(asked, after)], said))


def sft_edit_multi(golden: Golden) -> None:
    sample = golden.case["sample"]
    first, *changed = pictures(sample["image_ids"])
    steps = [(sample[f"instruction{i}"], one) for i, one in enumerate(changed)]
    check(golden, requests.edit(first, steps, drawn(golden, "ASSISTANT:")))


def sft_visual_question_data(golden: Golden) -> None:
    seen = tuple(map(picture, golden.case["sample"]["image_ids"]))
    check(golden, exchanged(golden, seen, requests.finished))


def sft_visual_question_instruction(golden: Golden) -> None:
    sample = golden.case["sample"]
    asked = Turn("user", [*map(picture, sample["image_ids"]), sample["instruction"] + sample["inputs"].strip()])
    check(golden, Document([asked, Turn("assistant", sample["outputs"])]))


def sft_text_conversation(golden: Golden) -> None:
    check(golden, exchanged(golden))


def sft_difference(golden: Golden) -> None:
    sample = golden.case["sample"]
    named = golden.case["decoded"].startswith("<s>USER: This")
    assert named == golden.case["name"].endswith("text_first")
    first, second = pictures(sample["image_ids"])
    check(golden, requests.difference(first, second, sample["question"], sample["answer"], named))


def sft_story(golden: Golden) -> None:
    sample = golden.case["sample"]
    seen = pictures(sample["image_ids"])
    captions = [sample[f"caption{i}"] for i in range(len(seen))]
    if golden.settings["reverse_ratio"] < 0:
        found = re.search(r"</img>\s+(.*?)\nASSISTANT: (.*?)\n", golden.case["decoded"])
        assert found
        check(golden, requests.story_at_once(seen, captions, Exchange(found[1], found[2])))
    else:
        check(golden, requests.story(seen, captions))


def sft_video(golden: Golden) -> None:
    sample = golden.case["sample"]
    frames = pictures(sample["image_ids"])
    check(golden, requests.video(Video(tuple(frames)), sample["question"], sample["answer"], len(frames)))


def split(text: str) -> list[Piece | str]:
    """Pieces of a string in which the codes of pictures are written out."""
    parts = re.split(r"<img>((?:<img_\d+>)+)</img>", text)
    return [
        picture([int(code) for code in re.findall(r"\d+", part)]) if at % 2 else part
        for at, part in enumerate(parts)
        if part
    ]


def sft_interleaved(golden: Golden) -> None:
    sample = golden.case["sample"]
    turns = [Turn("user", split(sample["instruction"])), Turn("assistant", split(sample["response"]))]
    check(golden, Document(turns))


# ------------------------------------------------------------------------------------------------ conversations


def conversation(golden: Golden) -> None:
    written = golden.case["conversations"]
    found = re.fullmatch(
        r"USER: <image>(.*?)\nASSISTANT: (.*?)<image>\nUSER: (.*?)\nASSISTANT:", written["conv_seed_vicuna"]["text"]
    )
    assert found
    first, second = map(picture, written["conv_seed_vicuna"]["images"])
    turns = [
        Turn("user", [first, found[1]]),
        Turn("assistant", [found[2], second]),
        Turn("user", found[3]),
    ]
    for name, one in written.items():
        system = one["text"].partition("\nUSER:")[0] if name.endswith("system") else ""
        asked = [*([Turn("system", system)] if system else []), *turns]
        segments = (LLAMA2 if name.endswith("llama2") else VICUNA).prompt(asked)
        assert as_string(segments).replace(PLACE, "<image>") == one["text"], name
        shown = [json.loads(part.source) for part in segments if isinstance(part, Image)]  # type: ignore[arg-type]
        assert shown == one["images"]


def server_generate(golden: Golden) -> None:
    for one in golden.case["requests"]:
        request, wanted = one["request"], one["response"]
        forced = bool(request.get("force_boi"))
        texts = request["text"].split("<image>")
        pieces: list[Piece | str] = [texts[0]]
        for codes, text in zip(request["images"], texts[1:], strict=True):
            pieces += [picture(codes), text]
        document = Document([*pieces, *([Blank("image")] if forced else [])])
        assert ids(FORMAT.layout(document, open=True)) == one["prompt_ids"], one["name"]
        told = FORMAT.read(one["model_output_ids"], forced)
        assert told.text == wanted["text"]
        assert [*request["images"], *map(list, told.pictures)] == wanted["images_ids"]
        assert [problem is None for problem in told.problems] == [bool(png) for png in wanted["images"]]
        problems = [problem for problem in (*told.problems, told.unpaired) if problem]
        assert len(problems) == len(wanted["error_msg"])


# ----------------------------------------------------------------------------------------------- language model


def llm() -> dict[str, Tensor]:
    return {key.removeprefix("llm/"): one for key, one in GOLDENS.weights().items() if key.startswith("llm/")}


def language(extra: Mapping[str, Tensor] | None = None, adapted: bool = False) -> LLaMA:
    """The golden's, imported."""
    made, table = LLaMA(config().language), LLAMA
    if adapted:
        adapt(made, lora())
        table = LLAMA | ADAPTERS
    wanted = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    made.load_state_dict(dict(table.read((llm() | dict(extra or {})).items(), wanted)))
    return made.eval()


def lora() -> LoRAConfig:
    sizes = CONFIG["lora"]
    return LoRAConfig(rank=sizes["r"], alpha=float(sizes["alpha"]), dropout=sizes["dropout"], layers=LAYERS)


def adapted() -> LLaMA:
    """With its adapters, and the tables and norms that were trained beside them."""
    prefix = "lora/base_model.model."
    saved = {key.removeprefix(prefix): one for key, one in GOLDENS.weights().items() if key.startswith(prefix)}
    return language(saved, adapted=True)


class System(Seed):
    """With the golden's language model."""

    def __init__(self, language: LLaMA) -> None:
        super().__init__(config(), words())
        self.language = language


def rows(golden: Golden) -> list[Sequence]:
    """What is real of each row, with the targets that its labels give."""
    found = []
    for row, mask, label in zip(*(golden.given[key] for key in ("input_ids", "attention_mask", "labels")), strict=True):
        real = mask.bool()
        assert real[: int(mask.sum())].all()
        fill, value = row[real].numpy(), label[real].numpy()
        target = Target("token", fill, (value != -100).astype(np.float32))
        found.append(Sequence((Span(fill, len(fill), (target,)),)))
    return found


def batch(sequences: list[Sequence], shift: bool) -> Batch:
    return Collator(FORMAT.preprocess())([[one] for one in sequences], shift=shift)


def gradients(model: LLaMA, table: KeyMap = LLAMA) -> dict[str, Tensor]:
    """By their published names."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return dict(table.write(found.items()))


def loss_of(system: Seed, sequences: list[Sequence]) -> Tensor:
    objective, inputs = NextToken(), batch(sequences, shift=True)
    return objective(system, {}, inputs, torch.Generator())["token"] / objective.counts(inputs)["token"]


def logits_of(system: Seed, sequences: list[Sequence]) -> Tensor:
    with torch.no_grad():
        return system.heads["token"](system(batch(sequences, shift=False)).states)


def check_every8(logits: Tensor, golden: Tensor, length: int) -> None:
    """At the real positions: at pads the original looks at other pads."""
    real = range(0, length, 8)
    assert_near(logits[0, real], golden[: len(real)], MODULES)


def losses(golden: Golden) -> None:
    model, sequences = language(), rows(golden)
    system = System(model)
    logits = logits_of(system, sequences)
    check_every8(logits, golden.wanted["logits_row0_every8"], len(sequences[0]))
    mask = golden.given["attention_mask"].bool()[:, : logits.shape[1]]
    assert_near(logits.sum(-1)[mask], golden.wanted["logits_sum"][:, : logits.shape[1]][mask], MODULES)
    whole = golden.given["attention_mask"].bool().all(1)
    if whole.any():
        assert_near(logits[whole, -1], golden.wanted["logits_last"][whole], MODULES)
    loss = loss_of(system, sequences)
    assert_near(loss, golden.wanted["loss"], LOSSES)
    loss.backward()
    found = gradients(model)
    for key, wanted in golden.wanted.items():
        if key.startswith("grad."):
            assert_near(found[key.removeprefix("grad.")], wanted, GRADIENTS)


class Prompts(SeedFormat):
    """Documents of numbers: prompts that are given as they are, behind which any word may come."""

    def __init__(self, given: list[list[int]]) -> None:
        super().__init__(config(), words())
        self.given = given

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        fill = np.array(self.given[int(document.text)])
        return Sequence((Span(fill, len(fill)),))

    def grammar(self, document: Document, max_images: int) -> Grammar:
        allowed = torch.ones(self.config.language.vocabulary, dtype=torch.bool)
        step = Next(kind="text", head="token", allowed=allowed, ends=frozenset([self.text.eos]))
        return lambda emitted: Stop("end") if emitted else step


def llm_generate(golden: Golden) -> None:
    settings, count = golden.settings, len(golden.given)
    prompts = [golden.given[f"prompt{i}"][0].tolist() for i in range(count)]
    system = System(language())
    system.format = Prompts(prompts)
    asked = Settings(max_new_tokens=settings["max_new_tokens"])
    beams = replace(
        asked, beams=4, length_penalty=settings["length_penalty"], early_stopping=settings["early_stopping"]
    )
    model = Model(system)
    for i, prompt in enumerate(prompts):
        for name, one in ((f"greedy{i}", asked), (f"beam4_{i}", replace(beams, said=tuple(prompt)))):
            reply = model.generate(Document(str(i)), one)
            assert prompt + reply.runs[0].ids == golden.wanted[name][0].tolist(), name


def llm_sampling(golden: Golden) -> None:
    for name, wanted in golden.wanted.items():
        temperature, top_p = (torch.tensor([float(one[1:])]) for one in name.split("_"))
        found = distribution(golden.given["logits"], temperature, top_p)
        assert torch.equal(found > 0, wanted > 0)
        assert_near(found / found.sum(-1, keepdim=True), wanted, MODULES)


def llm_left_pad_quirk(golden: Golden) -> None:
    """The original reads pads on the left as words. Ours never has any: that gives what a row alone gives."""
    system = System(language())
    given, mask = golden.given["input_ids"], golden.given["attention_mask"].bool()
    as_words = [Sequence((Span(row.numpy(), len(row)),)) for row in given]
    assert_near(logits_of(system, as_words)[:, -1], golden.wanted["logits_last"], MODULES)
    real = [Sequence((Span(row[one].numpy(), int(one.sum())),)) for row, one in zip(given, mask, strict=True)]
    together = logits_of(system, real)
    for row, one in zip(together, real, strict=True):
        alone = logits_of(system, [one])[0]
        assert_near(row[len(one) - 1], alone[-1], MODULES)
    padded = int((~mask).sum(1).argmax())
    right = together[padded, len(real[padded]) - 1]
    assert (right - golden.wanted["logits_last"][padded]).abs().max() > 1e-3


def peft_names(listed: list[str]) -> set[str]:
    """Those of the weights that count, without the marks of peft."""
    counted = [name for name in listed if "original_module" not in name]
    return {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".default", "")
        for name in counted
    }


def llm_lora(golden: Golden) -> None:
    model, sequences = adapted(), rows(golden)
    assert CONFIG["lora"] == golden.settings
    system = System(model)
    loss = loss_of(system, sequences)
    assert_near(loss, golden.wanted["loss"], LOSSES)
    check_every8(logits_of(system, sequences), golden.wanted["logits_row0_every8"], len(sequences[0]))
    loss.backward()
    found = gradients(model, LLAMA | ADAPTERS)
    for key, wanted in golden.wanted.items():
        if key.startswith("grad."):
            (name,) = peft_names([key.removeprefix("grad.")])
            assert_near(found[name], wanted, GRADIENTS)
    named = {f"language.{name}": weight for name, weight in model.named_parameters()}
    (trained,) = assign((Optimiser(train=ADAPTED, lr=1.0),), list(named))
    moved = {name.removeprefix("language."): named[name].detach() for name in trained}
    assert set(dict((LLAMA | ADAPTERS).write(moved.items()))) == peft_names(golden.case["trainable"])
    assert golden.case["decayed"] == golden.case["trainable"] and not golden.case["not_decayed"]
    merge(model)
    merged = dict(LLAMA.write(model.state_dict().items()))
    assert_near(merged["model.layers.0.self_attn.q_proj.weight"], golden.wanted["merged.q_proj0"], MODULES)
    assert_near(merged["model.norm.weight"], golden.wanted["merged.norm"], MODULES)
    check_every8(logits_of(system, sequences), golden.wanted["merged_logits_row0_every8"], len(sequences[0]))


def llm_lora_train(golden: Golden) -> None:
    settings, model = golden.settings, adapted()
    system, sequences = System(model), rows(GOLDENS["llm_lora"])
    optimiser = Optimiser(
        train=ADAPTED,
        kind="adamw_hf",
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    named = {name: weight for name, weight in system.named_parameters() if name.startswith("language.")}
    (moved,) = assign((optimiser,), list(named))
    weights = {name: named[name] for name in moved}
    adam = build(optimiser, weights)
    schedule = Schedule(warmup=settings["warmup"], shape="cosine", final=settings["min_lr_ratio"], first=0)
    rates = [settings["lr"] * schedule.factor(step, settings["total"]) for step in range(len(golden.wanted["lrs"]))]
    assert_near(torch.tensor(rates), golden.wanted["lrs"], 1e-7)  # they are told in fp32
    found, norms = [], []
    for rate in rates:
        adam.param_groups[0]["lr"] = rate
        loss = loss_of(system, sequences)
        adam.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), settings["max_grad_norm"]))
        adam.step()
        found.append(loss.detach())
    assert_near(torch.stack(found), golden.wanted["losses"], STEPS)
    assert_near(torch.stack(norms), golden.wanted["grad_norms"], GRADIENTS * 10)  # the losses' differences, amplified


def llm_full_finetune(golden: Golden) -> None:
    named = {f"language.{name}": weight for name, weight in language().named_parameters()}
    (trained,) = assign((Optimiser(train=WHOLE, lr=1.0),), list(named))
    for names, wanted in ((set(trained), "trainable"), (set(named) - set(trained), "frozen")):
        own = {name.removeprefix("language."): named[name].detach() for name in names}
        assert set(dict(LLAMA.write(own.items()))) == set(golden.case[wanted])


def lr_schedules(golden: Golden) -> None:
    found: list[float] = []
    wanted: list[float] = []
    for name, one in golden.case["schedules"].items():
        if name.startswith("lavis"):
            epoch = 1 + max(step for _, step, _ in one["points_epoch_step_lr"])
            peak = one["init_lr"]
            rate = EpochSchedule(
                epoch=epoch,
                warmup=one["warmup_steps"],
                start=one["warmup_start_lr"] / peak,
                final=one["min_lr"] / peak,
                stepped=True,
            )
            steps = one["max_epoch"] * epoch
            points = [(number * epoch + step, lr) for number, step, lr in one["points_epoch_step_lr"]]
            found += [peak * rate.factor(step, steps) for step, _ in points]
        else:
            peak, steps, points = one["lr"], one["total"], one["points"]
            plain = Schedule(warmup=one["warmup"], shape="cosine", final=one["min_lr_ratio"], first=0)
            found += [peak * plain.factor(step, steps) for step, _ in points]
        wanted += [lr for _, lr in points]
    assert found == pytest.approx(wanted, rel=RATES, abs=0)


REPLAYS: dict[str, Callable[[Golden], None]] = {
    "vocabulary": check_vocabulary,
    **dict.fromkeys(("tokenize_plain", "tokenize_special_nostrip"), tokenize),
    **{f.__name__: f for f in (detokenize, fewshot_caption_prompt, video_frame_indices, conversation, server_generate)},
    **dict.fromkeys((name for name in CASES if name.startswith("pretrain_caption")), pretrain_caption),
    **dict.fromkeys((name for name in CASES if name.startswith("pretrain_interleaved")), pretrain_interleaved),
    **{f.__name__: f for f in (pretrain_video, pretrain_text, pretrain_text_conversation)},
    **dict.fromkeys(("sft_text_to_image", "sft_text_to_image_q"), sft_text_to_image),
    **dict.fromkeys(("sft_edit", "sft_edit_gpt"), sft_edit),
    **dict.fromkeys(("sft_difference_text_first", "sft_difference_images_first"), sft_difference),
    **dict.fromkeys(("sft_story_turns", "sft_story_once"), sft_story),
    **{f.__name__: f for f in (sft_vqa, sft_conversation, sft_edit_multi, sft_video, sft_interleaved)},
    **{f.__name__: f for f in (sft_visual_question_data, sft_visual_question_instruction, sft_text_conversation)},
    **dict.fromkeys(("llm_pretrain", "llm_sft"), losses),
    **{f.__name__: f for f in (llm_generate, llm_sampling, llm_left_pad_quirk, llm_lora, llm_lora_train)},
    **{f.__name__: f for f in (llm_full_finetune, lr_schedules)},
}


@pytest.mark.parametrize("name", REPLAYS)
def test_case(name: str) -> None:
    REPLAYS[name](GOLDENS[name])
