"""Emu's tokenizer, prompts, pictures, frames, storyboards and answers against the original program's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from golden import PIXELS, Golden, Goldens, assert_near

from plait import images
from plait.data.storyboard import Subtitle, frames_of, interleaved
from plait.document import Document, Image, Text, Turn, Video
from plait.evaluate.metrics.vqa import normalise
from plait.sequence import Slot
from plait.systems.base import squashed
from plait.systems.emu import EMU_14B, EMU_I_14B, TINY, EmuFormat, frame_numbers, vocabulary
from plait.text import instructions
from plait.text.answers import first_sentence, short_answer
from plait.text.pieces import SentencePiece
from plait.text.templates import PLACE

GOLDENS = Goldens("emu")
FOLDER, CONFIG, CASES = GOLDENS.folder, GOLDENS.config, GOLDENS.cases
LLAMA = os.environ.get("PLAIT_LLAMA_TOKENIZER")
PICTURE = Image(FOLDER / "image.png")


def words(tuned: bool) -> SentencePiece:
    return vocabulary((FOLDER / "tokenizer.model").read_bytes(), tuned)


def check_words(golden: Golden, made: dict[str, SentencePiece]) -> None:
    """Strings to ids, with and without the words of Emu-I."""
    for one in golden.case["values"]:
        for name, text in made.items():
            if one[name] is not None:
                assert [text.bos, *text.encode(one["text"])] == one[name]


def tokenizer(golden: Golden) -> None:
    made = {"ids": words(False), "ids_instruct": words(True)}
    for text, names in (
        (made["ids"], ["special_tokens"]),
        (made["ids_instruct"], ["special_tokens", "special_tokens_instruct"]),
    ):
        assert all(text.id(word) == id for name in names for word, id in CONFIG[name].items())
    check_words(golden, made)


def process_img(golden: Golden) -> None:
    made = torch.from_numpy(squashed(224)(PICTURE))[None]  # whatever size the tower has
    assert_near(made, golden.wanted["process_img.pixels"], PIXELS)
    assert images.CLIP_MEAN[0] == 0.48145466 and EMU_14B.vision.image_size == 224


def pipeline_transform(golden: Golden) -> None:
    made = torch.from_numpy(squashed(golden.settings["size"])(PICTURE))
    assert_near(made, golden.wanted["pipeline.transform"], PIXELS)


def video_frame_index(golden: Golden) -> None:
    for name, wanted in golden.case["values"].items():
        frames, count = map(int, name.split("/"))
        assert frame_numbers(frames, count) == wanted


def storyboard_interleave(golden: Golden) -> None:
    given = golden.settings
    sheets = [PIL.Image.fromarray(golden.given[f"storyboard.sheet{i}"].numpy()) for i in range(len(given["sb"]))]
    meta = [given["sb"][str(i)] for i in range(len(sheets))]
    frames = frames_of(sheets, [(cols, rows) for _, _, cols, rows, *_ in meta], [count for *_, count, _ in meta])
    for number, frame in enumerate(frames):
        assert np.array_equal(np.asarray(frame.open()), golden.wanted[f"storyboard.frame{number}"].numpy())
    subtitles = [Subtitle(text=one["text"], start=one["start"]) for one in given["subtitles"]]
    document = interleaved(frames, given["duration"], subtitles)
    told = [["text", piece.text] if isinstance(piece, Text) else ["frame", frames.index(piece)] for piece in document]
    assert told == [part for part in golden.case["sequence"] if part != ["text", ""]]
    assert golden.case["frame_interval"] == round(given["duration"] / len(frames))


def shown(prompt: str) -> str:
    """With the golden's mark for a picture."""
    return prompt.replace(PLACE, "{IMG}")


def templates(golden: Golden) -> None:
    values, asked = golden.case["values"], "{q}"
    assert golden.case["image_system_message"] == instructions.IMAGE_MESSAGE
    assert golden.case["video_system_message"] == instructions.VIDEO_MESSAGE
    made = {
        "instruct_vqa": instructions.question(asked),
        "instruct_caption": instructions.PROMPTS["describe"],
        "eval_coco": instructions.PROMPTS["coco"],
        "eval_vqa": instructions.short_question(asked),
        "eval_vizwiz_answerable": instructions.whether_known(asked),
        "eval_mmvet": instructions.question(asked),
        "eval_visdial": instructions.dialogue_about([("is it sunny", "yes")], "any people"),
        "cot_step1": instructions.PROMPTS["look"],
        "cot_step2": instructions.step_two("a dog on the grass", asked),
    }
    assert {name: shown(prompt) for name, prompt in made.items()} == {name: values[name] for name in made}
    check_layouts(values)


def check_layouts(values: Mapping[str, str]) -> None:
    """What documents become, against the ids of the strings."""
    picture = PICTURE
    plain = {
        "incontext": (Document([picture, "There are two dogs.", picture, "There are three pandas.", picture]), True),
        "train_i2t": (Document([picture, "a cat"]), False),
        "train_t2i": (Document(["a cat", picture]), False),
        "spaces": (Document(["a  b [IMG]  c"]), True),
        "empty": (Document([]), True),
    }
    film = Video(tuple(Image(str(i).encode()) for i in range(8)))
    several = [picture, "This is the first image.", picture, "This is the second image.", "Describe all images."]
    tuned = {
        "instruct_vqa": Document([Turn("user", [picture, "{q}"])]),
        "instruct_nosystem": Document([Turn("user", several)]),
        "instruct_video": Document([Turn("user", [film, "{q}"])]),
    }
    text = {False: words(False), True: words(True)}
    formats = {name: EmuFormat(TINY, text[name]) for name in text}
    laid = {name: (formats[False].layout(document, open=open), text[False]) for name, (document, open) in plain.items()}
    laid |= {name: (formats[True].layout(document, open=True), text[True]) for name, document in tuned.items()}
    image = "[IMG]" + "<image>" * TINY.cformer.queries + "[/IMG]"
    for name, (sequence, pieces) in laid.items():
        wanted = [pieces.bos, *pieces.encode(values[name].replace("{IMG}", image))]
        assert sequence.ids(missing=pieces.id("<image>")).tolist() == wanted, name
        assert sum(isinstance(span.fill, Slot) for span in sequence.spans) == values[name].count("{IMG}")


def short_answers(golden: Golden) -> None:
    for text, wanted in golden.case["values"]:
        assert short_answer(text) == wanted


def coco_postprocess(golden: Golden) -> None:
    for text, wanted in golden.case["values"]:
        assert first_sentence(text) == wanted


def vqa_normalise(golden: Golden) -> None:
    for text, wanted in golden.case["values"]:
        assert normalise(text) == wanted


REPLAYS: Mapping[str, Callable[[Golden], None]] = {
    "tokenizer": tokenizer,
    "templates": templates,
    "process_img": process_img,
    "pipeline_transform": pipeline_transform,
    "video_frame_index": video_frame_index,
    "storyboard_interleave": storyboard_interleave,
    "coco_postprocess": coco_postprocess,
    "vqa_normalise": vqa_normalise,
    "short_answer": short_answers,
}


@pytest.mark.parametrize("name", REPLAYS)
def test_case(name: str) -> None:
    REPLAYS[name](GOLDENS[name])


@pytest.mark.skipif(LLAMA is None, reason="LLaMA's tokenizer.model is gated: PLAIT_LLAMA_TOKENIZER names the file")
@pytest.mark.parametrize("name", ["published_tokenizer"])
def test_llamas_own_tokenizer(name: str) -> None:
    golden = GOLDENS[name]
    model = Path(LLAMA or "").read_bytes()
    assert hashlib.sha256(model).hexdigest() == golden.case["tokenizer_sha256"]
    made = {"ids": vocabulary(model), "ids_instruct": vocabulary(model, tuned=True)}
    assert (len(made["ids"]), len(made["ids_instruct"])) == (golden.case["vocab"], golden.case["vocab_instruct"])
    assert EMU_14B.language.vocabulary == len(made["ids"]) and EMU_I_14B.language.vocabulary == len(
        made["ids_instruct"]
    )
    check_words(golden, made)
