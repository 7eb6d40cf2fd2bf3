"""What Emu is asked (arXiv 2307.05222 and its released code), as prompts in which `<ImageHere>` stands for a picture.

Tuned, it is told first what it will see. `[IMG]ImageContent[/IMG]` in those words is no picture, though the tokenizer
reads its marks as those of one.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

from plait.text.templates import PLACE

IMAGE_MESSAGE = (
    "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I provide "
    "it to you. Please answer my questions based on the given image."
)
VIDEO_MESSAGE = (
    "You are a helpful assistant and you will be presented with a video consisting of multiple chronological images: "
    "[IMG]ImageContent[/IMG]. You will be able to see the video after I provide it to you. Please answer my questions "
    "based on the given video."
)
LOOK = "describing the image in detail. the image shows"
"""Behind a picture: what the pretrained model goes on with is a description."""
WORD = (
    " based on the content of the image and common sense, please provide an accurate answer consisting of only one "
    "word or phrase. "
)
ANSWER = " [ASSISTANT]: the answer is:"


def _asked(question: str, opening: str = " [ASSISTANT]:") -> str:
    return f"{IMAGE_MESSAGE} [USER]: {PLACE}{question}{opening}"


PROMPTS = {
    "describe": _asked(
        "Please provide an accurate and concise description of the given image.",
        " [ASSISTANT]: The image depicts a photo of",
    ),
    "coco": _asked(
        " please provide an accurate and concise description of the given image.",
        " [ASSISTANT]: the image depicts a photo of",
    ),
    "continue": "[USER]: Continue [ASSISTANT]:",
    "look": f"{PLACE} {LOOK}",
}
"""Name -> prompt. `look` is the first step of the pretrained model's two; the second is `step_two`."""


def question(text: str) -> str:
    """A question about a picture."""
    return _asked(text)


def short_question(text: str) -> str:
    """One that is to be answered by a word or phrase (VQAv2, OK-VQA, VizWiz)."""
    return _asked(f"{WORD}{text}", ANSWER)


def whether_known(text: str) -> str:
    """Whether the picture answers a question: to be answered by "yes." or "no." (VizWiz)."""
    return _asked(f"{WORD}{text}, is the answer known?")


def asked_of(text: str) -> str:
    """What asks the pretrained model at once, behind a picture; the paper asks it in two steps alone."""
    return f"based on the picture, {text} short answer:"


def step_two(caption: str, text: str, looks: bool = False) -> str:
    """The pretrained model's question, once it has described the picture.

    Args:
        looks: the picture stands before it again. The paper does not say whether it does.
    """
    return f"{PLACE if looks else ''}a picture of {caption}. {asked_of(text)}"


def dialogue_about(said: Items[tuple[str, str]], text: str) -> str:
    """The next question of a dialogue about a picture, which stands in a turn of its own (VisDial).

    Args:
        said: questions and answers so far, without their last marks.
    """
    before = "".join(f" [USER]: {asked}? [ASSISTANT]: {answered}.</s>" for asked, answered in said)
    return f"{IMAGE_MESSAGE} [USER]: {PLACE}</s>{before} [USER]: {text}? [ASSISTANT]:"
