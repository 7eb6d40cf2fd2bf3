"""How conversations with pictures are written for SEED-LLaMA (arXiv 2310.01218) and Emu (2307.05222), as data.

Both follow the released code.

A conversation is read as one string when it is to be answered, but was written part by part in training: there every
turn is tokenised by itself, which gives other tokens at its borders (`Dialogue.parts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from plait.document import Image, Piece, Role, Text, Turn, Video
from plait.errors import DocumentError
from plait.text.templates import Segment, merge


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """What stands around the words of both sides."""

    system: str
    """The words of the system, if there are any, in place of `{}`."""
    before: str
    """Before a question."""
    after: str
    """Behind it: the answer follows."""
    gap: str
    """Before an answer that was given, where all is one string."""
    between: str
    """Between an answer and the next question."""

    def prompt(self, turns: Items[Turn]) -> list[Segment]:
        """The conversation as one string, for the next answer.

        Raises:
            DocumentError: the user does not have the last word, or a turn or piece has no place.
        """
        if not turns or turns[-1].role != "user":
            raise DocumentError("the conversation does not end with the user's turn: end it with what is asked")
        told: list[Segment] = []
        for role, part in self.parts(turns):
            told += [self.gap, *part] if role == "assistant" else part
        return merge(told)

    def parts(self, turns: Items[Turn]) -> Iterator[tuple[Role, list[Segment]]]:
        """The turns, each with what stands around it, as they are tokenised one by one in training.

        Raises:
            DocumentError: a turn or piece has no place.
        """
        expected: Role = "user"
        for number, turn in enumerate(turns):
            said = spoken(turn.pieces)
            if turn.role == "system" and not number:
                yield "system", merge(self.system.format("\0").replace("\0", turn.text)) if said else []
                continue
            if turn.role != expected:
                raise DocumentError(f"turn {number} is the {turn.role}'s, not the {expected}'s: they speak in turn")
            if turn.role == "user":
                first = number == 0 or turns[number - 1].role == "system"
                said = [*([] if first else [self.between]), self.before, *said, self.after]
            yield turn.role, merge(said)
            expected = "assistant" if expected == "user" else "user"


VICUNA = Dialogue(system="{}\n", before="USER: ", after="\nASSISTANT:", gap=" ", between="\n")
"""Of the 8B, whose system text is empty."""
LLAMA2 = Dialogue(
    system="<<SYS>>\n{}\n<</SYS>>\n\n", before="[INST] ", after=" [/INST]\n", gap="", between="\n"
)  # the system text stands before "[INST]", unlike LLaMA-2's own
"""Of the 14B."""

DIALOGUES = {"vicuna": VICUNA, "llama2": LLAMA2}

EMU = Dialogue(system="{} ", before="[USER]: ", after=" [ASSISTANT]:", gap=" ", between=" ")
"""Of Emu, tuned; every answer ends with the end symbol."""


def spoken(pieces: Items[Piece]) -> list[Segment]:
    """Texts as they are, pictures where they stand, videos frame by frame.

    Raises:
        DocumentError: a piece has no place.
    """
    told: list[Segment] = []
    for piece in pieces:
        match piece:
            case Text(text):
                told.append(text)
            case Image():
                told.append(piece)
            case Video(frames):
                told += frames
            case _:
                raise DocumentError(f"a blank for {piece.kind}: only a prompt may end with one, which is for an image")
    return merge(told)
