"""KOSMOS-1 against the numbers of its successor's program, without xPos as it was released, and with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import GRADIENTS, LOSSES, MODULES, PIXELS, STEPS, Golden, assert_near
from kosmos1_model import CASES, CONFIG, FOLDER, GOLDENS, pieces, prompt, system
from torch import Tensor

from plait.checkpoints.kosmos1 import FAIRSEQ_FILE
from plait.document import Document, Image
from plait.generate.model import Model
from plait.nn.attention import Visibility
from plait.nn.magneto import SharpenedQueries, SubNormAttention
from plait.nn.positions import NoRotation, SinusoidalPositions, XPos
from plait.objectives.tokens import NextToken
from plait.sequence import Sequence, Slot
from plait.systems.kosmos1 import KOSMOS1, READER, KOSMOS1Format
from plait.train.optim import build
from plait.train.stage import Optimiser, Schedule

PAD = 1
RATES = 1e-12

# ------------------------------------------------------------------------------------------ pictures and modules


def preprocess(name: str, golden: Golden) -> None:
    config = system().config
    sized = replace(config, vision=replace(config.vision, image_size=golden.settings["resolution"], patch=1))
    prepare = KOSMOS1Format(sized, system().format.text).preprocess(train=".train." in name)[READER]
    pixels = torch.from_numpy(prepare(Image(FOLDER / golden.settings["file"])))
    assert_near(pixels, golden.wanted["pixels"], PIXELS)


def clip(name: str, golden: Golden) -> None:
    model = system()
    look = model.vision if name == "clip.visual" else model.look
    assert_near(look(golden.given["pixels"]).transpose(0, 1), golden.wanted["tokens_TBC"], MODULES)


def connector(name: str, golden: Golden) -> None:
    seen = golden.given["features_flat"].unflatten(0, (-1, golden.settings["src_len"]))
    assert_near(system().resampler(seen).flatten(0, 1), golden.wanted["out_flat"], MODULES)


def image_representation(name: str, golden: Golden) -> None:
    assert_near(system().read(golden.given["pixels"]).flatten(0, 1), golden.wanted["out_flat"], MODULES)


def ffn(name: str, golden: Golden) -> None:
    assert_near(system().language.decoder.blocks[0].mlp(golden.given["x"]), golden.wanted["y"], MODULES)


def rotation(name: str, golden: Golden) -> None:
    qk = torch.stack((golden.given["q"], golden.given["k"]), dim=1)  # (h, 2, t, d)
    position = torch.arange(qk.shape[2])[None]
    xpos = XPos(golden.settings["head_dim"], qk.shape[2], scale_base=float(golden.settings["scale_base"]))
    q, k = xpos(qk.permute(2, 1, 0, 3)[None], position)[0].unbind(1)  # (t, h, d): where the centre is does not matter
    assert_near(torch.einsum("qhd,khd->hqk", q, k), golden.wanted["scores"], MODULES)


def attention(name: str, golden: Golden) -> None:
    x = golden.given["x_TBC"].transpose(0, 1)
    xpos = XPos(CONFIG["decoder_embed_dim"] // CONFIG["decoder_attention_heads"], x.shape[1])
    if "scale_length" in golden.settings:
        rotations = {"y_TBC": SharpenedQueries(xpos, golden.settings["scale_length"])}
    else:
        rotations = {"y_TBC": xpos, "y_no_xpos_TBC": NoRotation()}
    attend = Visibility(torch.zeros(x.shape[:2]).long(), torch.full(x.shape[:2], -1)).attend
    position = torch.arange(x.shape[1]).expand(x.shape[:2])
    assert rotations.keys() == golden.wanted.keys()
    for key, turned in rotations.items():
        part = SubNormAttention(x.shape[2], CONFIG["decoder_attention_heads"], turned)
        part.load_state_dict(system().language.decoder.blocks[0].attention.state_dict())
        assert_near(part(x, position, attend).transpose(0, 1), golden.wanted[key], MODULES)


def positions(name: str, golden: Golden) -> None:
    real = golden.given["tokens"] != golden.settings["padding_idx"]
    position = torch.where(real, real.cumsum(1) - 1, -1)
    wanted = golden.wanted["emb"]
    assert_near(SinusoidalPositions(wanted.shape[-1])(position), wanted, MODULES)


def language(name: str, golden: Golden) -> None:
    model = system(golden.settings["variant"])
    ids = golden.given["tokens"]
    real = ids != golden.settings["pad"]
    states: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, given, out: states.append(out))
        for block in model.language.decoder.blocks
    ]
    first = model.language.decoder.blocks[0].register_forward_pre_hook(lambda module, given: states.append(given[0]))
    position = torch.arange(ids.shape[1]).expand(ids.shape)
    sight = Visibility(torch.where(real, 0, -1), torch.full_like(ids, -1))
    hidden = model.language(model.language.embed(ids), position, lambda layer: sight.attend)
    for hook in (first, *hooks):
        hook.remove()
    assert_near(model.heads["token"](hidden)[real], golden.wanted["logits"][real], MODULES)
    assert_near(torch.stack(states)[:, real], golden.wanted["hidden"][:, real], MODULES)


# ------------------------------------------------------------------------------------------------- batches


def laid(name: str) -> list[Sequence]:
    """The sequences of a batch."""
    settings, format = CASES[name]["settings"], system().format
    if name == "batch.text":
        lines = (FOLDER / settings["file"]).read_text().splitlines()
        texts = [format.layout(Document(json.loads(line)["text"])) for line in lines]
        return list(format.blocks(texts, settings["tokens_per_sample"]))
    if name == "batch.caption":
        pairs = zip(settings["images"], settings["captions"], strict=True)
        documents = [Document([Image(FOLDER / image), caption]) for image, caption in pairs]
    else:
        documents = [pieces(segments) for segments in settings["documents"]]
    return [format.layout(document) for document in documents]


def filled(sequence: Sequence) -> np.ndarray:
    """Ids, those of slots as the released loaders have them."""
    return sequence.ids(system().format.image)


def weights(sequence: Sequence) -> np.ndarray:
    """How much each element counts as a target."""
    parts = [span.targets[0].weight if span.targets else np.zeros(span.length) for span in sequence.spans]
    return np.concatenate(parts)


def slots(sequence: Sequence) -> np.ndarray:
    """Which elements pictures fill."""
    return np.concatenate([np.full(span.length, isinstance(span.fill, Slot)) for span in sequence.spans])


def batches(name: str, golden: Golden) -> None:
    sequences, wanted = laid(name), golden.wanted
    for i, sequence in enumerate(sequences):
        count = len(sequence) - 1
        ids = filled(sequence)
        assert wanted["src_tokens"][i, :count].tolist() == ids[:-1].tolist()
        assert wanted["target"][i, :count].tolist() == ids[1:].tolist()
        assert (wanted["target"][i, count:] == PAD).all()
        assert wanted["gpt_loss_mask"][i, :count].tolist() == (weights(sequence)[1:] > 0).tolist()
        if "img_gpt_input_mask" in wanted:
            assert wanted["img_gpt_input_mask"][i, :count].tolist() == slots(sequence)[:-1].tolist()
    if "ntokens" in golden.settings:
        assert sum(map(len, sequences)) == golden.settings["ntokens"]
    if "packed" in golden.settings:
        assert [one.ids().tolist() for one in sequences] == golden.settings["packed"]
    if "img_src_tokens" in wanted:
        batch = system().format.collator(train=True)([[one] for one in sequences])
        assert_near(batch.images, wanted["img_src_tokens"], PIXELS)


def backward(model: KOSMOS1, name: str) -> tuple[Tensor, float]:
    """The summed loss of a batch, and how many targets it has; gradients are left behind."""
    objective, batch = NextToken(), model.format.collator(train=True)([[one] for one in laid(name)])
    loss = objective(model, {}, batch, torch.Generator())["token"]
    loss.backward()
    return loss.detach(), objective.counts(batch)["token"]


def gradients(model: KOSMOS1) -> dict[str, Tensor]:
    """By published names."""
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return dict(FAIRSEQ_FILE.write(named.items()))


def logits(model: KOSMOS1, name: str) -> list[Tensor]:
    """Those of each sequence of a batch, at its inputs."""
    batch = model.format.collator(train=True)([[one] for one in laid(name)])
    rows = model.heads["token"](model(batch).states)
    return [row[: len(one) - 1] for row, one in zip(rows, laid(name), strict=True)]


def losses(name: str, golden: Golden) -> None:
    model = copy.deepcopy(system(golden.settings["variant"]))
    batch = golden.settings["batch"]
    for i, row in enumerate(logits(model, batch) if "logits" in golden.wanted else []):
        assert_near(row, golden.wanted["logits"][i, : len(row)], MODULES)
    loss, count = backward(model, batch)
    assert_near(loss[None], golden.wanted["loss_sum"], LOSSES)
    assert count == golden.wanted["sample_size"].item()
    found = gradients(model)
    named = {key.removeprefix("grad:"): value for key, value in golden.wanted.items() if key.startswith("grad:")}
    assert named
    for key, value in named.items():
        assert_near(found[key], value, GRADIENTS)


def train_step(name: str, golden: Golden) -> None:
    settings = golden.settings
    model = copy.deepcopy(system())
    published = {ours: FAIRSEQ_FILE.published(ours) or () for ours, _ in model.named_parameters()}
    trained = [ours for ours, keys in published.items() if set(keys) & set(settings["trainable"])]
    assert all(set(published[ours]) <= set(settings["trainable"]) for ours in trained)
    parameters = {ours: p for ours, p in model.named_parameters() if ours in trained}
    for ours, p in model.named_parameters():
        p.requires_grad_(ours in trained)
    _, count = backward(model, "batch.caption")
    for p in parameters.values():
        assert p.grad is not None
        p.grad /= count
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings["clip_norm"])
    assert_near(norm[None], golden.wanted["grad_norm"], GRADIENTS)
    optimiser = Optimiser(
        train=("*",),
        kind="adamw_fairseq",
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    build(optimiser, parameters).step()
    after = dict(FAIRSEQ_FILE.write(model.state_dict().items()))
    for key, value in golden.wanted.items():
        if key.startswith("after:"):
            assert_near(after[key.removeprefix("after:")], value, STEPS)


def rates(name: str, golden: Golden) -> None:
    settings = golden.settings
    schedule = Schedule(warmup=settings["warmup_updates"], first=0)
    total, steps = settings["total_num_update"], golden.given["steps"].tolist()
    found = torch.tensor([settings["lr"] * schedule.factor(step, total) for step in steps], dtype=torch.float64)
    assert_near(found, golden.wanted["lr"], RATES)


# --------------------------------------------------------------------------------------- prompts and scores


def check_prompt(document: Document, golden: Golden) -> None:
    sequence = system().format.layout(document, open=True)
    assert [list(system().format.counted_ids(sequence))] == golden.wanted["src_tokens"].tolist()
    assert [slots(sequence).tolist()] == golden.wanted["img_gpt_input_mask"].bool().tolist()


def prompts(name: str, golden: Golden) -> None:
    document = prompt(name)
    check_prompt(document, golden)
    *shots, i = [i for i, piece in enumerate(document.pieces) if isinstance(piece, Image)]
    if shots:  # the same where demonstrations stand before it
        check_prompt(Document(document.pieces[i:], before=[Document(document.pieces[:i])]), golden)
    batch = system().format.collator()([[system().format.layout(document, open=True)]], shift=False)
    assert_near(batch.images[None], golden.wanted["pixels"], PIXELS)


def score_tokens(name: str, golden: Golden) -> None:
    batch = golden.settings["batch"]
    for i, (row, sequence) in enumerate(
        zip(logits(system(golden.settings["variant"]), batch), laid(batch), strict=True)
    ):
        targets = torch.from_numpy(filled(sequence)[1:])[:, None]
        found = row.log_softmax(-1).gather(-1, targets)[:, 0]
        assert_near(found, golden.wanted["logprob"][i, : len(found)], MODULES)


def raven(name: str, golden: Golden) -> None:
    document = prompt(name)
    check_prompt(document, golden)
    assert list(system().format.text_ids("Yes")) == golden.settings["yes_ids"]
    for variant in ("released", "xpos"):
        model = system(variant)
        batch = model.format.collator()([[model.format.layout(document, open=True)]], shift=False)
        last = model.heads["token"](model(batch).states)[0, -1].log_softmax(-1)
        assert_near(last, golden.wanted[f"last_logprobs_{variant}"], MODULES)
        (yes,) = Model(model).score(document, ["Yes"], ended=False)
        assert_near(torch.tensor([yes]), golden.wanted[f"yes_logprob_{variant}"], MODULES)


REPLAYS: dict[str, Callable[[str, Golden], None]] = {
    "preprocess.": preprocess,
    "clip.": clip,
    "connector": connector,
    "image_representation": image_representation,
    "ffn": ffn,
    "xpos.rotation": rotation,
    "attention.": attention,
    "positions.": positions,
    "lm.text.": language,
    "batch.": batches,
    "loss.": losses,
    "train.step": train_step,
    "lr.schedule": rates,
    "prompt.": prompts,
    "score.tokens.": score_tokens,
    "raven.": raven,
}
NAMES = [name for name in CASES if name.startswith(tuple(REPLAYS))]


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str) -> None:
    replay = next(replay for prefix, replay in REPLAYS.items() if name.startswith(prefix))
    learns = replay in (losses, train_step)
    with torch.set_grad_enabled(learns):
        replay(name, GOLDENS[name])
