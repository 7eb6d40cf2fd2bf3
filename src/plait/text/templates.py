"""Prompt templates as data: how conversations and instructions with pictures are written.

Source: MiniGPT-4 (arXiv 2304.10592) and its code, from the first release to the second version of the model.

A prompt is a list of segments, texts with pictures between them. Every text is tokenised by itself, a picture stands
where it is. As one string, a picture is written as `<ImageHere>`; that string in a user's words is no picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plait.document import Image, Piece, Role, Text, Turn
from plait.errors import DocumentError

Segment = str | Image

PLACE = "<ImageHere>"
"""What stands for a picture in a prompt that is one string."""

OPEN, CLOSE = "<Img>", "</Img>"
"""What is written around a picture: plain text."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """How the conversation before an answer is written: system text, then each message behind its role."""

    system: str
    user: str
    assistant: str
    opening: str
    """What stands in place of `assistant` where the answer is to follow."""
    separator: str
    """Behind the system text and behind each message."""

    def segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """The prompt for the next answer.

        A picture is a message of its own, to which the words right behind it belong, even those of the next turn. A
        first turn of the system replaces the system text.

        Raises:
            DocumentError: the user does not have the last word, or a piece has no place.
        """
        system, spoken = self.system, list(turns)
        if spoken and spoken[0].role == "system":
            system = _words(spoken.pop(0))
        if not spoken or spoken[-1].role != "user":
            raise DocumentError("the conversation does not end with the user's turn: end it with what is asked")
        roles = {"user": self.user, "assistant": self.assistant}
        parts: list[Segment] = [system + self.separator]
        for role, message in _messages(spoken):
            parts += [roles[role], *message, self.separator]
        return merge([*parts, self.opening])


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """How one instruction is written in training: `before`, the instruction, `after`; then the answer and `end`."""

    before: str
    after: str
    end: str
    """The end symbol of an answer."""

    def segments(self, instruction: Sequence[Segment]) -> list[Segment]:
        """The prompt for an answer, from `written` or `fill`."""
        return merge([self.before, *instruction, self.after])


VICUNA0 = Chat(
    system="Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to "
    "you. Please answer my questions.",  # its <Img>ImageContent</Img> is plain text: no picture stands there
    user="Human: ",
    assistant="Assistant: ",
    opening="Assistant: ",
    separator="###",
)
VICUNA0_FIRST = replace(VICUNA0, opening="Assistant:")
"""As the first release wrote it."""
LLAMA2 = replace(VICUNA0, user="<s>[INST] ", assistant=" [/INST] ", opening=" [/INST] ", separator="")
V2 = replace(LLAMA2, system="", assistant=" [/INST]", opening=" [/INST]")

PLAIN = replace(V2, user="[INST] ")
"""For models trained from scratch: the first question is written as in training."""

CHATS = {"vicuna0": VICUNA0, "vicuna0_first": VICUNA0_FIRST, "llama2": LLAMA2, "minigptv2": V2, "plain": PLAIN}

# Differs from the chat template: a space before "###", which changes its tokens, and no system text.
VICUNA0_INSTRUCTION = Instruction(before="###Human: ", after=" ###Assistant: ", end="###")
LLAMA2_INSTRUCTION = Instruction(before="[INST] ", after=" [/INST] ", end="</s>")
V2_INSTRUCTION = replace(LLAMA2_INSTRUCTION, after=" [/INST]")

INSTRUCTIONS = {
    "vicuna0": VICUNA0_INSTRUCTION,
    "vicuna0_first": VICUNA0_INSTRUCTION,
    "llama2": LLAMA2_INSTRUCTION,
    "minigptv2": V2_INSTRUCTION,
    "plain": V2_INSTRUCTION,
}

ALIGNMENT = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
"""What is asked of a picture in the second stage; one for each batch."""

DETAILED = "Describe this image in detail. Give as many details as possible. Say everything you see."
"""What a model of the first stage is asked, to write data for the second (section 3.2); then, if it says little:"""
MORE = "Continue"


def written(pieces: Sequence[Piece]) -> list[Segment]:
    """Pieces of text and pictures as one message, with a space between a picture and the words behind it.

    Raises:
        DocumentError: a piece has no place.
    """
    return merge([part for _, message in _messages([Turn("user", pieces)]) for part in message])


def fill(prompt: str, images: Sequence[Image]) -> list[Segment]:
    """The segments of a prompt in which `<ImageHere>` stands for pictures, in order.

    Raises:
        DocumentError: more or fewer places than pictures.
    """
    first, *texts = prompt.split(PLACE)
    if len(texts) != len(images):
        raise DocumentError(f"{len(texts)} places {PLACE} but {len(images)} images in {prompt[:80]!r}")
    return merge([first, *(part for pair in zip(images, texts, strict=True) for part in pair)])


def merge(parts: Sequence[Segment]) -> list[Segment]:
    """The same segments with neighbouring texts joined and empty ones left out."""
    merged: list[Segment] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return merged


def as_string(segments: Sequence[Segment]) -> str:
    """The prompt as one string, `<ImageHere>` where pictures stand."""
    return "".join(PLACE if isinstance(segment, Image) else segment for segment in segments)


def caption(text: str, words: int = 50) -> str:
    """A web caption as the first stage reads it: small letters, little punctuation, the first `words` words.

    Source: BLIP's caption processor.
    """
    text = re.sub(r"""[.!"()*#:;~]""", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:words])


def _messages(turns: Sequence[Turn]) -> list[tuple[Role, list[Segment]]]:
    messages: list[tuple[Role, list[Segment]]] = []
    before: type[Piece] | None = None  # the last piece, where the next one may belong to its message
    for turn in turns:
        if turn.role == "system":
            raise DocumentError("a turn of the system behind another: put it first")
        before = before if before is Image and turn.role == "user" else None
        for piece in turn.pieces:
            if isinstance(piece, Image) and turn.role == "user":
                messages.append((turn.role, [OPEN, piece, CLOSE]))
            elif not isinstance(piece, Text):
                raise DocumentError(f"{type(piece).__name__} has no place in a turn of the {turn.role}: leave it out")
            elif before is None:
                messages.append((turn.role, [piece.text]))
            else:
                messages[-1][1].extend([" ", piece.text] if before is Image else [piece.text])
            before = type(piece)
    return messages


def _words(turn: Turn) -> str:
    for piece in turn.pieces:
        if not isinstance(piece, Text):
            raise DocumentError(f"{type(piece).__name__} has no place in a turn of the {turn.role}: leave it out")
    return turn.text
