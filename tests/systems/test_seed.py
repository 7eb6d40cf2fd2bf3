"""SEED-LLaMA's layouts, grammar and pictures. That it computes what the original does: tests/parity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plait.checkpoints.directory import load, save
from plait.document import Blank, Document, Image, Text, Turn, Video
from plait.errors import CheckpointError, ConfigError, DocumentError, InputError
from plait.generate.model import Model
from plait.nn.lora import LoRAConfig
from plait.nn.qformer import TextConfig
from plait.objectives.contrastive import captions
from plait.sequence import Sequence, Slot, tokens
from plait.systems import seed_tokenizer
from plait.systems.base import Forced, Next, Stop
from plait.systems.seed import SIZES, TINY, Seed, SeedFormat, build, grown, vocabulary
from plait.text.pieces import SentencePiece
from plait.text.requests import DRAW

Picture = Callable[[int], Image]
MODEL = SentencePiece.train([way.asked for way in DRAW], 320).model
SMALL = replace(
    TINY,
    tokenizer=replace(
        TINY.tokenizer,
        vision=replace(TINY.tokenizer.vision, width=16, depth=1, heads=2, hidden=16),
        qformer=replace(TINY.tokenizer.qformer, width=16, depth=2, heads=2, hidden=16, queries=8, image_width=16),
        branch_depth=1,
        decoder=None,  # it draws no pictures
    ),
    language=replace(TINY.language, width=32, hidden=48, depth=2, heads=2),
)
WORDS = vocabulary(MODEL, SMALL.tokenizer.codes)
FORMAT = SeedFormat(SMALL, WORDS)
N = FORMAT.count


def shown(sequence: Sequence) -> str:
    """Texts as they are tokenised, a picture as <n>, what is predicted in capitals."""
    parts = []
    for span in sequence.spans:
        weights = span.targets[0].weight.tolist() if span.targets else [0.0] * span.length
        if isinstance(span.fill, Slot):
            parts.append(f"<{span.length}{'!' if weights[0] else ''}>")
            continue
        for id, weight in zip(span.fill.tolist(), weights, strict=True):
            word = WORDS.spell([id]) or " "
            parts.append(word.upper() if weight else word)
    return "".join(parts)


@pytest.fixture(scope="module")
def system() -> Seed:
    """Random weights, all of which matter."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = Seed(SMALL, WORDS).eval()
        for weight in made.language.parameters():
            weight.normal_(std=0.2)
    return made


def test_a_document_is_predicted_whole(picture: Picture) -> None:
    assert shown(FORMAT.layout(Document([picture(0), "a"]))) == f"<S><IMG><{N}!></IMG>A</S>"
    assert shown(FORMAT.layout(Document(["a", picture(0)]))) == f"<S>A<IMG><{N}!></IMG></S>"
    assert shown(FORMAT.layout(Document([picture(0), "a"]), open=True)) == f"<S><IMG><{N}!></IMG>A"


def test_a_video_is_read(picture: Picture) -> None:
    film = Video((picture(0), picture(1)))
    assert shown(FORMAT.layout(Document([film, "a"]))) == f"<s><img><{N}></img><img><{N}></img>A</S>"


def test_answers_are_predicted(picture: Picture) -> None:
    turns = [
        Turn("user", [picture(0), "a"]),
        Turn("assistant", ["b", picture(1)]),
        Turn("user", "c"),
        Turn("assistant", "d"),
    ]
    laid = shown(FORMAT.layout(Document(turns))).replace(" ", "")
    assert laid == f"<s>USER:<img><{N}></img>a\nASSISTANT:B<IMG><{N}!></IMG>\nUSER:c\nASSISTANT:D</S>"
    unanswered = shown(FORMAT.layout(Document(turns[:3]))).replace(" ", "")
    assert unanswered.endswith("\nUSER:c\nASSISTANT:")


def test_an_open_conversation_is_one_string(picture: Picture) -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    trained, asked = FORMAT.layout(Document(turns)).ids(), FORMAT.layout(Document(turns), open=True).ids()
    between = len(WORDS.encode("\nUSER: c\nASSISTANT:"))
    whole = WORDS.encode("USER: a\nASSISTANT: b\nUSER: c\nASSISTANT:")
    assert asked.tolist() == [WORDS.bos, *whole]
    assert trained[-between:].tolist() != asked[-between:].tolist()  # a space of its own before the line break


def test_white_space_beside_a_picture_goes_where_the_tokenizer_takes_it(picture: Picture) -> None:
    document = Document([" a \n", picture(0), "\nb "])
    kept = SeedFormat(replace(SMALL, strips=False), vocabulary(MODEL, SMALL.tokenizer.codes, strips=False))
    wanted = [*WORDS.encode(" a"), *WORDS.encode("b ")]
    assert [id for id in FORMAT.layout(document).ids() if 2 < id < FORMAT.first_code] == wanted
    wanted = [*WORDS.encode(" a \n"), *WORDS.encode("\nb ")]
    assert [id for id in kept.layout(document).ids() if 2 < id < FORMAT.first_code] == wanted


def test_a_prompt_may_ask_for_a_picture_first(picture: Picture) -> None:
    answered = Document([Turn("user", "a"), Turn("assistant", Blank("image"))])
    wished = Document([Turn("user", ["a", Blank("image")])])
    assert FORMAT.layout(answered, open=True).ids().tolist() == FORMAT.layout(wished, open=True).ids().tolist()
    with pytest.raises(DocumentError, match="does not end with the user's turn"):
        FORMAT.layout(Document([Turn("user", "a"), Turn("assistant", ["here:", Blank("image")])]), open=True)
    free = (Document([Turn("user", "a")]), Document([Turn("user", "a"), Turn("assistant", [])]))  # words or pictures
    assert FORMAT.layout(free[0], open=True).ids().tolist() == FORMAT.layout(free[1], open=True).ids().tolist()
    for asked in (Document(["a", Blank("image")]), wished, answered):
        laid = FORMAT.layout(asked, open=True).ids().tolist()
        assert laid[-1] == FORMAT.begin and laid.count(FORMAT.begin) == 1
        first = FORMAT.grammar(asked, 1)([])
        assert isinstance(first, Next) and (first.kind, first.length) == ("image", N)
        assert int(first.allowed.sum()) == FORMAT.codes
    with pytest.raises(DocumentError, match="only a prompt may end with one"):
        FORMAT.layout(Document(["a", Blank("image")]))


def test_what_may_be_said(picture: Picture) -> None:
    step = FORMAT.grammar(Document(["a"]), 1)([])
    assert isinstance(step, Next) and step.ends == {FORMAT.begin, WORDS.eos}
    assert not step.allowed[[WORDS.unk, WORDS.bos, FORMAT.end, FORMAT.first_code]].any()
    assert step.allowed[[FORMAT.begin, WORDS.eos, 3]].all()


@pytest.mark.parametrize("strictly", [False, True])
def test_every_picture_is_whole(system: Seed, strictly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []

    def decode(codes: torch.Tensor, generators: object, negative: object) -> list[Image]:
        drawn.extend(codes.tolist())
        return [Image(b"")] * len(codes)

    monkeypatch.setattr(system.tokenizer, "decode", decode)
    asked = [Document([Turn("user", ["a", *([Blank("image")] if strictly else [])])]) for _ in range(8)]
    most = {"max_new_tokens": 12, "max_images": 3, "temperature": 3.0}
    often = torch.zeros(SMALL.language.vocabulary)
    often[FORMAT.begin] = 25.0
    head = system.language.head.weight
    monkeypatch.setattr(system.language.head, "forward", lambda x: torch.nn.functional.linear(x, head) + often)
    for reply in Model(system).generate(asked, **most):  # type: ignore[arg-type]
        pictures = [run for run in reply.runs if run.kind == "image"]
        assert len(pictures) <= 3 and (pictures or not strictly)
        for at, run in enumerate(reply.runs):
            if run.kind == "image":
                assert len(run.ids) == N
                assert reply.runs[at + 1].ids == [FORMAT.end] and reply.runs[at + 1].kind == "forced"
        assert len(reply.document.images) == len(pictures)
    assert len(drawn) > 4 and {len(codes) for codes in drawn} == {N}
    assert all(0 <= code < FORMAT.codes for codes in drawn for code in codes)


def test_a_picture_is_drawn_from_codes_and_seed_away_from_others(system: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def decode(codes: torch.Tensor, generators: list[torch.Generator], negative: torch.Tensor | None) -> list[Image]:
        given.append(
            (
                codes.tolist(),
                [one.initial_seed() for one in generators],
                None if negative is None else negative.tolist(),
            )
        )
        return [Image(b"")] * len(codes)

    monkeypatch.setattr(system.tokenizer, "decode", decode)
    model, document = Model(system), Document(["a", Blank("image")])
    reply = model.generate(document, beams=2, image_temperature=0.0, seed=5)
    (run, end) = reply.runs
    assert (run.kind, end.ids, reply.stop) == ("image", [FORMAT.end], "max_images")
    nothing = model.generate(Document([Blank("image")]), beams=2, image_temperature=0.0).runs[0]
    monkeypatch.setattr(system, "negative", system.codes_of(nothing))
    assert system.negative is not None and len(system.negative) == N
    model.generate(document, beams=2, image_temperature=0.0, seed=5)
    (codes, seeds, none), _, (again, same, away) = given
    assert (codes, seeds) == (again, same) == ([list(system.codes_of(run))], [run.seed])
    assert none is None and away == [list(system.negative)]
    assert system.write([]) == []


def test_guidance_is_away_from_a_picture_of_nothing(system: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.tokenizer, "decode", lambda codes, *rest: [Image(b"")] * len(codes))
    model, document = Model(system), Document(["a", Blank("image")])
    plain, guided = (model.generate(document, guidance=scale, image_temperature=0.0) for scale in (1.0, 3.0))
    ids = guided.runs[0].ids
    assert ids != plain.runs[0].ids
    prompts = [FORMAT.layout(one, open=True).ids().tolist() for one in (document, Document([Blank("image")]))]
    assert prompts[1] == [WORDS.bos, FORMAT.begin]
    rows = [[Sequence((tokens([*prompt, *ids[:-1]]),))] for prompt in prompts]
    with torch.no_grad():
        states = system(FORMAT.collator()(rows, shift=False)).states
        said, nothing = (
            system.heads["code"](row[len(prompt) - 1 :][: len(ids)])
            for row, prompt in zip(states, prompts, strict=True)
        )
    logits = nothing + 3 * (said - nothing)
    codes = logits[:, FORMAT.first_code : FORMAT.first_code + FORMAT.codes]
    assert (codes.argmax(-1) + FORMAT.first_code).tolist() == ids
    with pytest.raises(ConfigError, match="this system has no row of pictures alone"):
        model.generate(document, image_guidance=2.0)


def test_a_reply_of_several_streams_as_it_is_generated(system: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.tokenizer, "decode", lambda codes, *rest: [Image(b"")] * len(codes))
    model, document = Model(system), Document([Turn("user", ["a", Blank("image")])])
    whole = model.generate(document, max_new_tokens=6, temperature=1.0, max_images=2, seed=1)
    told = list(model.stream(document, max_new_tokens=6, temperature=1.0, max_images=2, seed=1))
    assert "".join(piece.text for piece in told if isinstance(piece, Text)) == whole.text
    assert sum(isinstance(piece, Image) for piece in told) == len(whole.document.images) >= 1


def test_pictures_are_read_by_the_tokenizer(system: Seed, picture: Picture) -> None:
    batch = FORMAT.collator()([[FORMAT.layout(Document([picture(0), "a"]))]])
    with torch.no_grad():
        own = system(batch).own[seed_tokenizer.READER]
        codes = system.tokenizer.encode(batch.images)
        assert torch.equal(system.picture_codes(batch.images), codes)
    assert torch.equal(own, codes + FORMAT.first_code) and own.shape == (1, N)


def test_a_directory_keeps_words_and_adapters(system: Seed, tmp_path: Path) -> None:
    other = Seed(SMALL, WORDS)
    other.adapt(LoRAConfig(rank=2, layers=("q", "up")))
    with pytest.raises(InputError, match="has adapters already: merge them first"):
        other.adapt(LoRAConfig())
    again = load(save(other, tmp_path / "saved"))
    assert isinstance(again, Seed) and again.config == other.config and again.format.text == WORDS
    before, after = other.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    again.merge()
    assert again.config.lora is None and again.state_dict().keys() == system.state_dict().keys()


def test_words_of_pictures_may_have_any_ids_in_order(tmp_path: Path) -> None:
    first = len(SentencePiece(MODEL))
    codes = {f"<img_{i:05d}>": first + 2 + i for i in range(SMALL.tokenizer.codes)}
    listed = {"<img>": first, "</img>": first + 1, **codes}
    other = SeedFormat(SMALL, vocabulary(MODEL, SMALL.tokenizer.codes, added=listed))
    assert (other.begin, other.end, other.first_code) == (first, first + 1, first + 2)
    with pytest.raises(CheckpointError, match="1 of 130 words of pictures have no id, as </img>"):
        vocabulary(MODEL, SMALL.tokenizer.codes, added={k: v for k, v in listed.items() if k != "</img>"})
    codes["<img_00000>"], codes["<img_00127>"] = codes["<img_00127>"], codes["<img_00000>"]
    with pytest.raises(ConfigError, match="128 codes between 449 and 322: their ids must be in order"):
        SeedFormat(SMALL, vocabulary(MODEL, SMALL.tokenizer.codes, added={**listed, **codes}))


def test_units_are_the_blocks_and_the_tokenizer(system: Seed) -> None:
    modules = [module for module, _ in system.units]
    assert modules[-1] is system.tokenizer and set(system.language.decoder.blocks) <= set(modules)
    assert all(callable(getattr(system.tokenizer, method)) for method in system.units[-1][1])


def test_tables_grow_by_small_rows() -> None:
    table = torch.randn(10, 64)
    larger = grown(table, 2000)
    assert torch.equal(larger[:10], table) and larger.shape == (2000, 64)
    assert abs(float(larger[10:].std()) - 0.02) < 1e-3
    assert torch.equal(grown(table, 2000), larger) and not torch.equal(grown(table, 2000, seed=1), larger)
    assert grown(table.bfloat16(), 11).dtype == torch.bfloat16


def test_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        for name, parameters in (("8b", 6_805_542_912 - 32 * 64), ("14b", 13_099_773_440 - 40 * 64)):
            config = replace(SIZES[name], tokenizer=SMALL.tokenizer)
            from plait.nn.llama import LLaMA

            assert sum(weight.numel() for weight in LLaMA(config.language).parameters()) == parameters
    assert SIZES["8b"].language.vocabulary == 40_194
    with pytest.raises(ConfigError, match="SEED-LLaMA comes as tiny, 8b, 14b, not '7b'"):
        build("7b")
    with pytest.raises(ConfigError, match="no dialogue 'llama3'; there are vicuna, llama2"):
        replace(SMALL, dialogue="llama3")


def test_presets_are_settings(system: Seed) -> None:
    model = Model(system)
    chat = model.settings("chat")
    assert (chat.text.temperature, chat.text.top_p, chat.text.top_k) == (1.0, 0.5, 50)
    assert chat.image == chat.text and chat.max_images > 1
    assert model.settings("draw").beams == 4 and model.settings("vqa").beams == 5
    assert model.settings("scripts").max_new_tokens == FORMAT.max_length // 4  # 512, for a large model


def test_what_nothing_kept_in_order_is_told(system: Seed) -> None:
    inside = list(range(FORMAT.first_code, FORMAT.first_code + N))
    told = FORMAT.read([*WORDS.encode("a"), FORMAT.begin, *inside, FORMAT.end, FORMAT.begin, 5, FORMAT.end, WORDS.eos])
    assert told.text == "a <image><image>" and told.pictures[0] == tuple(range(N))
    assert told.problems == (None, f"a picture of 1 codes, not {N}")
    wrong = FORMAT.read([FORMAT.begin, *inside[:-1], 5, FORMAT.end])
    assert wrong.problems == (f"a picture with the code {5 - FORMAT.first_code}, there are {FORMAT.codes}",)
    assert FORMAT.read([FORMAT.end, FORMAT.begin]).unpaired == "1 <img> and 1 </img>"
    assert FORMAT.read([*inside, FORMAT.end], forced=True).problems == (None,)
    step = FORMAT.grammar(Document("a"), 0)
    assert not isinstance(step([]), Stop | Forced)


def test_texts_are_compared_as_they_are_learned(picture: Picture) -> None:
    collator, laid = FORMAT.collator(train=True), FORMAT.layout(Document([Video((picture(0),)), "a cat"]))
    learned = captions(collator.batch(collator.arrays([[laid]])))
    assert learned.real.all() and FORMAT.compared_ids("a cat") == tuple(learned.ids[0].tolist())
    config = replace(SMALL.tokenizer.qformer, text=TextConfig(vocabulary=len(WORDS), positions=40))
    comparing = Seed(replace(SMALL, tokenizer=replace(SMALL.tokenizer, qformer=config)), WORDS).eval()
    pictures, texts = [picture(i) for i in range(3)], ["a cat", "a longer text than that"]
    with torch.no_grad():
        of_pictures, of_texts = comparing.similarities["causal"](pictures, texts)
        alone, _ = comparing.similarities["causal"](pictures[:1], texts[:1])
    assert of_pictures.shape == (3, 2) and torch.equal(of_texts, of_pictures.T)
    torch.testing.assert_close(alone[0, 0], of_pictures[0, 0])
    comparing.tokenizer.forget_texts()
    comparing.config = replace(comparing.config, tokenizer=comparing.tokenizer.config)
    assert not comparing.similarities and not comparing.drawings
