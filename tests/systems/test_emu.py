"""Emu's layouts, grammar and pictures. That it computes what the original does: tests/parity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.document import Blank, Document, Image, Text, Turn, Video
from plait.errors import ConfigError, DocumentError, InputError
from plait.generate.engine import Engine, Settings
from plait.generate.model import Model
from plait.objectives.vectors import NextTokenAndVector
from plait.sequence import Sequence, Slot
from plait.systems.base import Contrast, Forced, Next, Stop
from plait.systems.emu import EMU_I, SIZES, TINY, Emu, EmuConfig, EmuFormat, build, either_order, vocabulary
from plait.text.instructions import PROMPTS
from plait.text.pieces import SentencePiece

Picture = Callable[[int], Image]
MODEL = SentencePiece.train(PROMPTS.values(), 320).model
WORDS, TUNED = vocabulary(MODEL), vocabulary(MODEL, tuned=True)
N = TINY.cformer.queries


def formatted(**changed: object) -> EmuFormat:
    config: EmuConfig = replace(TINY, **changed)  # type: ignore[arg-type]
    return EmuFormat(config, TUNED if config.tuned else WORDS)


def shown(sequence: Sequence) -> str:
    """Words as they are tokenised, a picture as <n>, what is predicted in capitals."""
    parts = []
    for span in sequence.spans:
        weights = [bool(span.targets and span.targets[0].weight[i]) for i in range(span.length)]
        if isinstance(span.fill, Slot):
            parts.append(f"<{span.length}{'!' if all(weights) else ''}>")
            continue
        for id, weight in zip(span.fill.tolist(), weights, strict=True):
            word = TUNED.spell([id]) or " "
            parts.append(word.upper() if weight else word.lower())
    return "".join(parts)


def system(**changed: object) -> Emu:
    """Random weights, all of which matter; pictures take three steps."""
    config: EmuConfig = replace(TINY, **changed)  # type: ignore[arg-type]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = Emu(config, TUNED if config.tuned else WORDS).eval()
        for weight in made.language.parameters():
            weight.normal_(std=0.2)
    if made.decoder is not None:
        made.decoder.diffusion.reschedule("DDIMScheduler", steps=3)
    return made


@pytest.fixture(scope="module")
def drawer() -> Emu:
    return system()


# ------------------------------------------------------------------------------------------------- layouts


def test_a_document_is_predicted_but_for_the_marks(picture: Picture) -> None:
    laid = formatted().layout(Document([picture(0), "a", picture(1)]))
    assert shown(laid) == f"<S>[img]<{N}!>[/IMG]A[img]<{N}!>[/IMG]</S>"  # [/IMG] as a vector
    vectors = [target for span in laid.spans for target in span.targets if target.kind == "vector"]
    assert [None if one.value is None else one.value.tolist() for one in vectors] == [None, [WORDS.id("[/IMG]")]] * 2
    begun = formatted(begins=True).layout(Document(["a", picture(1)]))
    assert shown(begun) == f"<S>A[IMG]<{N}!>[/IMG]</S>"


def test_pictures_stand_on_either_side_of_their_text(picture: Picture) -> None:
    document = Document([picture(0), "a", picture(1), "b"])
    generator = np.random.default_rng(0)
    laid = (shown(formatted().layout(document, generator=generator)) for _ in range(40))
    orders = {one.replace("!", "").replace(" ", "") for one in laid}
    image = f"[img]<{N}>[/IMG]"
    pairs = [(f"{image}{word}", f"{word}{image}") for word in "AB"]
    assert orders == {f"<S>{a}{b}</S>" for a in pairs[0] for b in pairs[1]}
    assert either_order([Text("a"), picture(0)], generator, behind=0.5) == [Text("a"), picture(0)]


def test_frames_are_taken_of_a_video(picture: Picture) -> None:
    frames = tuple(picture(i) for i in range(20))
    laid = formatted().layout(Document([Video(frames), "a"]))
    assert [frames.index(image) for _, image in laid.pictures] == [1, 3, 6, 8, 11, 13, 15, 18]
    drawn = formatted(frames=3).layout(Document([Video(frames), "a"]), generator=np.random.default_rng(1))
    kept = [frames.index(image) for _, image in drawn.pictures]
    assert kept == sorted(set(kept)) and len(kept) == 3


def test_answers_are_predicted(picture: Picture) -> None:
    turns = [Turn("user", [picture(0), "a"]), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    silent = [Turn("system", ""), *turns]
    laid = shown(formatted(tuned=True).layout(Document(silent))).replace(" ", "")
    assert laid == f"<s>[user]:[img]<{N}>[/img]a[assistant]:B</S>[user]:c[assistant]:D</S>"
    asked = formatted(tuned=True).layout(Document(silent[:-1]), open=True)
    assert shown(asked).lower().replace(" ", "").endswith("b</s>[user]:c[assistant]:")
    told = formatted(tuned=True).layout(Document(turns), open=False)
    assert TUNED.decode(told.ids(missing=0)).startswith("You will be presented with an image")
    with pytest.raises(DocumentError, match="end it with what is asked"):
        formatted(tuned=True).layout(Document(turns), open=True)


# ------------------------------------------------------------------------------------------------- grammar


def test_a_picture_is_drawn_where_one_is_asked_for() -> None:
    format = formatted()
    assert format.layout(Document(["a ", Blank("image")]), open=True).ids().tolist()[-1] == format.begin
    grammar = format.grammar(Document([Blank("image")]), 1)
    step = grammar([])
    assert isinstance(step, Next) and step.vectors and step.length == N
    plain = format.grammar(Document(["a"]), 1)([])
    assert isinstance(plain, Next) and plain.ends == {WORDS.eos}
    begun = formatted(begins=True).grammar(Document(["a"]), 1)([])
    assert isinstance(begun, Next) and begun.ends == {WORDS.eos, format.begin} and begun.allowed[format.begin]
    assert isinstance(formatted(begins=True).grammar(Document(["a"]), 0)([]), Next)
    with pytest.raises(ConfigError, match="no probabilities"):
        format.streams(Document([Blank("image")]), Settings(contrast=Contrast(alpha=0.1)).guided)


def test_pictures_do_not_depend_on_their_neighbours(drawer: Emu, picture: Picture) -> None:
    asked = [
        Document(["a red ball", Blank("image")]),
        Document([picture(0), "what is it?"]),
        Document([picture(0), picture(1), Blank("image")]),
    ]
    model = Model(drawer)
    together = model.generate(asked, guidance=3.0, max_new_tokens=4, seed=5)
    assert [[run.kind for run in reply.runs] for reply in together] == [
        ["image", "forced"],
        ["text"],
        ["image", "forced"],
    ]
    assert [len(reply.document.images) for reply in together] == [1, 0, 1]
    for number, document in enumerate(asked):
        alone = model.generate(document, guidance=3.0, max_new_tokens=4, seed=5 + number)
        assert alone.runs == together[number].runs
        for run, other in zip(alone.runs, together[number].runs, strict=True):
            if run.vectors:
                torch.testing.assert_close(torch.stack(run.vectors), torch.stack(other.vectors), rtol=0, atol=1e-4)


def test_the_empty_prompt_goes_on_by_itself(picture: Picture) -> None:
    """In a reply of several pictures with text between, every one is guided away from that of an empty prompt."""
    speaker = system(begins=True)
    document = Document([Turn("user", [picture(0), "a"]), Turn("assistant", "b"), Turn("user", ["c", Blank("image")])])
    empty = Document([Blank("image")])
    settings = Settings(guidance=2.0, max_new_tokens=40, max_images=2, seed=1)
    engine = Engine(speaker)
    speaker.write = lambda runs: [picture(0)] * len(runs)  # type: ignore[method-assign]
    grammar = speaker.format.grammar
    speaker.format.grammar = lambda doc, most: _saying(grammar(doc, most), speaker)  # type: ignore[method-assign]
    (reply,) = engine.run([document], [settings])
    pictures = [run for run in reply.runs if run.kind == "image"]
    assert len(pictures) == 2 and all(len(run.vectors) == N for run in pictures)
    speaker.format.grammar = grammar  # type: ignore[method-assign]
    (alone,) = Engine(speaker).run([empty], [Settings()])
    nothing = torch.stack(alone.runs[0].vectors)[:, 0]
    for run in pictures:
        assert run.weights == (2.0, -1.0)
        vectors = torch.stack(run.vectors)  # (n, rows, c)
        torch.testing.assert_close(vectors[:, 1], nothing, rtol=0, atol=1e-4)
        assert float((vectors[:, 0] - nothing).abs().max()) > 0.01
    first, second = (torch.stack(run.vectors)[:, 0] for run in pictures)
    assert float((first - second).abs().max()) > 0.01


def _saying(grammar: Callable, speaker: Emu) -> Callable:  # type: ignore[type-arg]
    """Behind the first picture comes a text that is given, and begins another."""

    def step(emitted: list) -> Next | Forced | Stop:  # type: ignore[type-arg]
        said = [run for run in emitted if run.kind == "forced" and len(run.ids) > 1]
        if len(emitted) == 2 and not said:
            return Forced((40, 41, speaker.format.begin))
        if emitted and emitted[-1].ids[-1] == speaker.format.begin:
            return grammar([])
        return Stop("end") if len(emitted) > 2 else grammar(emitted)

    return step


def test_cached_vectors_are_those_of_the_whole_sequence(drawer: Emu) -> None:
    document = Document(["a ball", Blank("image")])
    (reply,) = Engine(drawer).run([document], [Settings()])
    written = torch.stack(reply.runs[0].vectors)[:, 0]
    picture = Image(b"0")
    laid = drawer.layout(Document(["a ball", picture]))
    drawer_read = drawer.read
    try:
        drawer.read = lambda pixels: written[None]  # type: ignore[method-assign]
        collate = drawer.format.collator()
        collate.prepare = {"vision": replace(collate.prepare["vision"], write=lambda image, out: out.fill(0))}
        with torch.no_grad():
            states = drawer(collate([[laid]], shift=False)).states[0]
    finally:
        drawer.read = drawer_read  # type: ignore[method-assign]
    begin = laid.ids().tolist().index(drawer.format.begin)
    again = drawer.heads["vector"](states[begin : begin + N])
    torch.testing.assert_close(again, written, rtol=0, atol=1e-4)


def test_what_cannot_be_drawn_is_refused(picture: Picture) -> None:
    blind = system(decoder=None)
    with pytest.raises(ConfigError, match="no image decoder"):
        Model(blind).generate(Document([Blank("image")]))
    with pytest.raises(InputError, match="leave beams at 1"):
        Model(blind).generate(Document([Blank("image")]), beams=2)
    with pytest.raises(ConfigError, match="both must be the same"):
        replace(TINY, language=replace(TINY.language, width=64))


@pytest.mark.parametrize("behind", [-0.1, 1.5])
def test_an_order_is_a_probability(behind: float) -> None:
    with pytest.raises(ConfigError, match=f"probability {behind}: give one from 0 to 1"):
        replace(TINY, behind=behind)


def test_schedulers_go_by_name() -> None:
    made = Emu(TINY, WORDS).eval()
    assert made.decoder is not None
    diffusion = made.decoder.diffusion
    noise, seen = torch.randn(1, *diffusion.latent_shape), torch.randn(1, N, TINY.language.width)
    with torch.no_grad():
        diffusion.reschedule("PNDMScheduler", steps=4)
        before = diffusion.denoise(noise, seen, guidance=1.0)
        diffusion.reschedule("DDIMScheduler")
        after = diffusion.denoise(noise, seen, guidance=1.0)
    kept = diffusion.config.scheduler
    assert (kept["_class_name"], kept["beta_end"], diffusion.config.steps) == ("DDIMScheduler", 0.012, 4)
    assert "skip_prk_steps" not in kept
    assert after.isfinite().all() and not torch.equal(before, after)
    with pytest.raises(ConfigError, match="scheduler"):
        diffusion.reschedule("AutoencoderKL")


# -------------------------------------------------------------------------------------------------- training


def test_no_gradient_flows_through_what_is_predicted(picture: Picture) -> None:
    made = system(decoder=None)
    made.train().requires_grad_(False)
    made.projection.requires_grad_(True)
    objective = NextTokenAndVector(weight=0.5)
    last = made.format.collator()([[made.layout(Document(["a", picture(0)]))]])  # nothing sees its last vector but text
    counts = objective.counts(last)
    assert counts["vector"] == N + 1 and objective.weights(counts)["vector"] == 0.5
    sums = objective(made, {}, last, torch.Generator())
    (through,) = torch.autograd.grad(sums["vector"], made.projection.bias)
    shifted = made.read(last.slots["vision"].pictures)
    assert shifted.requires_grad and through.isfinite().all()
    text = made.format.collator()([[made.layout(Document(["a"]))]])
    none = objective(made, {}, text, torch.Generator())
    assert none["vector"].item() == 0.0 and none["vector"].requires_grad and objective.counts(text)["vector"] == 0


def test_adapters_go_on_and_off() -> None:
    made = system(decoder=None)
    made.adapt(EMU_I)
    assert made.config.lora == EMU_I and all(
        part in made.parts for part in ("vision", "cformer", "language", "regression")
    )
    with pytest.raises(InputError, match="merge them first"):
        made.adapt(EMU_I)
    made.merge()
    assert made.config.lora is None


def test_sizes_are_known_by_name() -> None:
    assert build("tiny").config == TINY
    with pytest.raises(ConfigError, match="tiny, 14b, instruct-14b"):
        build("7b")
    with torch.device("meta"):
        whole = Emu(replace(SIZES["14b"], decoder=None), vocabulary(MODEL))
    keys = 40 * 1408  # the bias of keys, which is not published
    assert sum(weight.numel() for weight in whole.parameters()) == 14_208_419_072 + keys
