"""Tokens, prompts, captions, pixels and learning rates of MiniGPT-4 against the numbers of its own code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from plait import images
from plait.document import Image, Text, Turn
from plait.text.pieces import SentencePiece
from plait.text.templates import (
    ALIGNMENT,
    CHATS,
    VICUNA0_INSTRUCTION,
    Segment,
    as_string,
    caption,
    written,
)
from plait.train.stage import EpochSchedule

FOLDER = Path(os.environ.get("PLAIT_GOLDENS", Path(__file__).parents[1] / "goldens")) / "minigpt4" / "tiny"
CONFIG = json.loads((FOLDER / "config.json").read_text())
ALL = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())["cases"]}
PREFIXES = ("tokenizer", "conversation", "caption_processor", "preprocess", "lr_")
LLAMA = os.environ.get("PLAIT_LLAMA_TOKENIZER")
EXEMPT = set(json.loads(Path(__file__).with_name("exempt.json").read_text())["minigpt4"])
EXEMPT -= {"tokenizer_real_llama"} if LLAMA else set()
CASES = [name for name in ALL if name.startswith(PREFIXES) and name not in EXEMPT]
PIXELS, RATES = 1e-6, 1e-12  # the tolerances of the goldens' README

PICTURE = Image(FOLDER / "image.png")
Settings = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def tensors() -> Arrays:
    return load_file(FOLDER / "cases.safetensors")


def assert_near(value: NDArray[Any], golden: NDArray[Any], tolerance: float) -> None:
    assert value.shape == golden.shape
    error = np.abs(value - golden).max() / np.abs(golden).max()
    assert error <= tolerance, f"error {error:.2e} above {tolerance:.0e}"


def texts(segments: list[Segment]) -> list[str]:
    """The texts of a prompt, between which pictures stand."""
    assert all(isinstance(segment, Image) == bool(at % 2) for at, segment in enumerate(segments))
    return [segment for segment in segments if isinstance(segment, str)]


def preprocess(settings: Settings, wanted: Arrays) -> None:
    picture = Image(FOLDER / settings["image"]).open()
    for size in settings["sizes"]:
        assert_near(images.to_clip(images.squash(picture, size)), wanted[f"pixels_{size}"], PIXELS)


def captions(settings: Settings, wanted: Arrays) -> None:
    assert [caption(text, settings["max_words"]) for text in settings["strings"]] == settings["expected"]


def tokenizer(settings: Settings, wanted: Arrays) -> None:
    text = SentencePiece.read(FOLDER / settings["tokenizer"], pad=settings["pad_token"])
    assert (text.bos, text.eos, text.pad) == (settings["bos"], settings["eos"], settings["pad_id"])
    assert len(text) == CONFIG["llama"]["vocab_size"]
    ids = [text.encode(string) for string in settings["strings"]]
    assert ids == settings["ids_no_special"]
    assert [[text.bos, *part] for part in ids] == settings["ids_special"]


def real_tokenizer(settings: Settings, wanted: Arrays) -> None:
    assert LLAMA
    text = SentencePiece.read(LLAMA, pad="$$")
    assert text.pad == settings["pad_id"]
    assert [text.encode(string) for string in settings["strings"]] == settings["ids_no_special"]
    prompts = [[text.encode(part) for part in prompt] for prompt in settings["stage2_prompt_segments"]]
    assert prompts == settings["stage2_prompt_segment_ids"]
    for name, golden in (("vicuna0", "chat_prompt"), ("llama2", "chat_prompt_llama2")):
        segments = CHATS[name].segments([Turn("user", [PICTURE, ALIGNMENT[0]])])
        assert as_string(segments) == settings[golden]
        first, *rest = (text.encode(part) for part in texts(segments))
        assert [[text.bos, *first], *rest] == settings[f"{golden}_segment_ids"]


def conversation(settings: Settings, wanted: Arrays) -> None:
    questions, answers = settings["questions"], settings["answers"]
    one = [Turn("user", [PICTURE, questions[0]])]
    two = [*one, Turn("assistant", answers[0]), Turn("user", questions[1])]
    turns = {
        "turn1": one,
        "turn2": two,
        "turn3_new_image": [*two, Turn("assistant", answers[1]), Turn("user", [PICTURE, questions[2]])],
        "two_images_then_question": [Turn("user", [PICTURE, PICTURE, questions[1]])],
    }
    for name, prompts in settings["prompts"].items():
        assert {key: as_string(CHATS[name].segments(turns[key])) for key in prompts} == prompts


def rates(settings: Settings, wanted: Arrays) -> None:
    peak, epoch = settings["init_lr"], settings["iters_per_epoch"]
    schedule = EpochSchedule(
        epoch=epoch,
        warmup=settings["warmup_steps"],
        start=settings["warmup_start_lr"] / peak,
        final=settings["min_lr"] / peak,
    )
    total = settings["max_epoch"] * epoch
    found = np.array([peak * schedule.factor(step, total) for step in settings["steps"]])
    assert_near(found, wanted["lr"], RATES)


CHECKS = {
    "preprocess": preprocess,
    "caption_processor": captions,
    "tokenizer_real_llama": real_tokenizer,
    "tokenizer": tokenizer,
    "conversation": conversation,
    "lr_": rates,
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tensors: Arrays) -> None:
    check = next(check for prefix, check in CHECKS.items() if name.startswith(prefix))
    check(ALL[name]["settings"], {short: tensors[full] for short, full in ALL[name]["outputs"].items()})


def test_what_is_exempt_is_a_case() -> None:
    assert set(ALL) >= EXEMPT


@pytest.mark.parametrize("name", [name for name, case in ALL.items() if "decoded" in case["settings"]])
def test_decoded(name: str, tensors: Arrays) -> None:
    text = SentencePiece.read(FOLDER / "tokenizer.model", pad="$$")
    assert text.decode(tensors[ALL[name]["outputs"]["ids"]].reshape(-1).tolist()) == ALL[name]["settings"]["decoded"]


def test_prompts_of_the_second_stage() -> None:
    prompts = [texts(VICUNA0_INSTRUCTION.segments(written([PICTURE, Text(line)]))) for line in ALIGNMENT]
    assert prompts == ALL["tokenizer_real_llama"]["settings"]["stage2_prompt_segments"]
