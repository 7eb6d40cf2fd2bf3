"""The instruction tasks of SEED-LLaMA (arXiv 2310.01218, its code): conversations made of records.

A function makes the conversation of one task from pictures and texts; `TASKS` has them by name, for records that are
documents (`Requested`). Prompts and replies are Plait's own words: those of the original say the same otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from plait.document import Document, Image, Piece, Text, Turn, Video
from plait.errors import DocumentError

ONE_WORD = " Please provide an accurate answer consisting of only one word or phrase."
"""Behind a question whose answer is short; the three sentences are as published, since the models know them."""
DESCRIBE = "Please provide an accurate and concise description of the given image."
DESCRIBE_VIDEO = "Please provide an accurate and concise description of the given video."
REMEMBER = "Based on the image caption and dialog history, answer the following question.\n"
"""Before a question on a picture that was talked about (VisDial)."""


@dataclass(frozen=True)
class Exchange:
    """What is asked for, and how a picture is handed over."""

    asked: str
    """With the words of the user in place of `{}`, where it has that."""
    answered: str

    def request(self, words: str) -> str:
        """What is asked for, with the words in it, which end as the request does."""
        return self.asked.format("\0").replace("\0", words.strip().removesuffix("."))


DRAW = (
    *(
        Exchange(asked, answered)
        for asked, answered in (
            ("Draw {}.", "Here is the drawing."),
            ("Paint {}.", "Here is the painting."),
            ("Create an image of {}.", "I made this image for you."),
            ("Make a picture of {}.", "This is the picture."),
            ("I need a picture of {}.", "This picture should do."),
            ("Show me {}.", "Here it is."),
            ("Please draw {}.", "I have drawn it."),
            ("Please generate an image that shows {}.", "This image shows it."),
            ("I want to see {}.", "Have a look at this."),
            ("Give me an image of {}.", "Here you are."),
            ("Illustrate {}.", "Here is an illustration."),
            ("Let me see what you make of {}.", "This is what I make of it."),
            ("Turn these words into a picture: {}.", "These words look like this."),
            ("Picture {}.", "I picture it like this."),
        )
    ),
    *(
        Exchange(asked, answered)
        for asked, answered in (
            ("Can you draw {}?", "Yes, I can. Here it is."),
            ("Could you make an image of {}?", "Certainly. This is the image."),
            ("Would you paint {}?", "Gladly. This is how I paint it."),
            ("What would a picture of {} look like?", "It would look like this."),
            ("Can I have a picture of {}?", "Of course. This one is yours."),
            ("Will you show me {}?", "I will. Have a look."),
        )
    ),
)
"""Twenty, of which the last six are questions, as published."""

EDITED = (
    "Here is the changed image.",
    "I have made the change.",
    "This is how it looks now.",
    "Done.",
    "The image now looks like this.",
    "I have changed it as you asked.",
)
"""What is said before an edited picture."""

STORY = (
    Exchange(" How does it go on? Tell it with texts and images.", "It goes on like this."),
    Exchange(" Please continue with texts and images.", "I continue with texts and images."),
    Exchange(" What happens next? Show it and tell it.", "This is what happens next."),
)
NEXT = Exchange(" Please generate an image.", "Here is an image.")
"""Of one turn of a story."""


def finished(answer: str) -> str:
    """An answer without white space around it, with a full stop."""
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."


def answer(seen: Items[Piece], question: str, answered: str) -> Document:
    """A question on pictures."""
    return Document([Turn("user", [*seen, Text(question)]), Turn("assistant", finished(answered))])


def video(seen: Video, question: str, answered: str, frames: int) -> Document:
    """A question on a video of `frames` frames, the middles of equal parts; of the answer its first line."""
    return answer([seen.middles(frames)], question, answered.strip().split("\n")[0])


def talk(seen: Items[Piece], questions: str, answers: str) -> Document:
    """A conversation on pictures, which is given as "Question: ... Question: ..." and "Answer: ... Answer: ...".

    Raises:
        DocumentError: it has not as many answers as questions, or is no conversation but descriptions of the picture.
    """
    if "Image Descriptions" in questions + answers:
        raise DocumentError("a conversation that holds 'Image Descriptions', which are none of its words: leave it out")
    asked, told = (
        [part.strip() for part in text.split(f"{word}:")[1:]]
        for text, word in ((questions, "Question"), (answers, "Answer"))
    )
    if not asked or len(asked) != len(told):
        raise DocumentError(f"{len(asked)} questions and {len(told)} answers: give one answer for each question")
    turns = [turn for pair in zip(asked, told, strict=True) for turn in _pair(*pair)]
    return Document([Turn("user", [*seen, *turns[0].pieces]), *turns[1:]])


def _pair(question: str, answered: str) -> tuple[Turn, Turn]:
    return Turn("user", question), Turn("assistant", finished(answered))


def draw(picture: Image, caption: str, way: Exchange = DRAW[0]) -> Document:
    """A picture that is asked for by its caption."""
    return Document([Turn("user", way.request(caption)), Turn("assistant", [Text(way.answered), picture])])


def edit(first: Image, steps: Items[tuple[str, Image]], answered: str = EDITED[0]) -> Document:
    """Changes to a picture, one after the other, each as what was said and what came of it.

    Raises:
        DocumentError: there is none.
    """
    if not steps:
        raise DocumentError("an edit of 0 steps: give at least one instruction and its picture")
    turns: list[Turn] = []
    for number, (instruction, changed) in enumerate(steps):
        turns += [
            Turn("user", [*([] if number else [first]), Text(instruction)]),
            Turn("assistant", [Text(answered), changed]),
        ]
    return Document(turns)


def difference(first: Image, second: Image, question: str, answered: str, named: bool = True) -> Document:
    """A question on two pictures.

    Args:
        named: each is named before it stands; else behind.
    """
    names = Text("This is the first image. "), Text("This is the second image. ")
    pair = zip(names, (first, second), strict=True)
    seen = [piece for name, picture in pair for piece in ((name, picture) if named else (picture, name))]
    return answer(seen, _ordinal(question), _ordinal(answered))


def _ordinal(text: str) -> str:
    """ "image A" and "image b" as the first and the second image."""
    return re.sub(r"\bimage [bB]\b", "the second image", re.sub(r"\bimage [aA]\b", "the first image", text))


def story(pictures: Items[Image], captions: Items[str], way: Exchange = NEXT) -> Document:
    """A story whose first picture is shown; each further one is asked for by its text.

    Raises:
        DocumentError: fewer than two pictures, or other than one text for each.
    """
    _check(pictures, captions)
    turns: list[Turn] = []
    for number in range(1, len(pictures)):
        before: list[Piece] = [Text(captions[0]), pictures[0]] if number == 1 else []
        turns += [
            Turn("user", [*before, Text(captions[number] + way.asked)]),
            Turn("assistant", [Text(way.answered), pictures[number]]),
        ]
    return Document(turns)


def story_at_once(pictures: Items[Image], captions: Items[str], way: Exchange = STORY[0]) -> Document:
    """A story whose first picture is shown, and which is told to its end in one answer.

    Raises:
        DocumentError: as `story`.
    """
    _check(pictures, captions)
    rest: list[Piece] = [
        piece
        for text, picture in zip(captions[1:], pictures[1:], strict=True)
        for piece in (Text(f"\n{text}"), picture)
    ]
    asked = Turn("user", [Text(captions[0]), pictures[0], Text(way.asked.lstrip())])
    return Document([asked, Turn("assistant", [Text(way.answered), *rest])])


def _check(pictures: Items[Image], captions: Items[str]) -> None:
    if len(pictures) < 2 or len(pictures) != len(captions):
        raise DocumentError(
            f"a story of {len(pictures)} pictures and {len(captions)} texts: give two or more, and a text for each"
        )


# ---------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class Task:
    """How records become conversations: what makes one in a given way, and how many ways there are."""

    make: Callable[[Document, int], Document]
    ways: int = 1


def _texts(record: Document, count: int | None = None) -> list[str]:
    texts = [piece.text for piece in record.pieces if isinstance(piece, Text)]
    if count is not None and len(texts) != count:
        raise DocumentError(f"a record of {len(texts)} texts where {count} are needed: question and answer, or alike")
    return texts


def _seen(record: Document) -> list[Piece]:
    return [piece for piece in record.pieces if not isinstance(piece, Text)]


def _images(record: Document, count: int) -> list[Image]:
    if len(record.images) != count:
        raise DocumentError(f"a record of {len(record.images)} pictures where {count} are needed: leave it out")
    return record.images


def _answered(suffix: str) -> Callable[[Document, int], Document]:
    def make(record: Document, way: int) -> Document:
        question, told = _texts(record, 2)
        return answer(_seen(record), question + suffix, told)

    return make


def _watched(frames: int, suffix: str = "") -> Callable[[Document, int], Document]:
    def make(record: Document, way: int) -> Document:
        films = [piece for piece in record.pieces if isinstance(piece, Video)]
        if len(films) != 1:
            raise DocumentError(f"a record of {len(films)} videos where 1 is needed: leave it out")
        *asked, told = _texts(record)
        question = asked[0].removesuffix("?") + "?" + suffix if asked else DESCRIBE_VIDEO
        return video(films[0], question, told, frames)

    return make


def _captioned(record: Document, way: int) -> Document:
    (caption,) = _texts(record, 1)
    return draw(_images(record, 1)[0], caption, DRAW[way // 2]) if way % 2 else answer(_seen(record), DESCRIBE, caption)


def _drawn(record: Document, way: int) -> Document:
    return draw(_images(record, 1)[0], _texts(record, 1)[0], DRAW[way])


def _edited(record: Document, way: int) -> Document:
    instructions = _texts(record)
    first, *changed = _images(record, 1 + len(instructions))
    return edit(first, list(zip(instructions, changed, strict=True)), EDITED[way])


def _differing(record: Document, way: int) -> Document:
    first, second = _images(record, 2)
    question, told = _texts(record, 2)
    return difference(first, second, question, told, named=not way)


def _told(record: Document, way: int) -> Document:
    texts = _texts(record)
    pictures = _images(record, len(texts))
    return story_at_once(pictures, texts, STORY[way // 2]) if way % 2 else story(pictures, texts)


def _talked(record: Document, way: int) -> Document:
    """A conversation, whose answers end with a full stop where they are text alone."""
    if not record.turns:
        raise DocumentError("a record of pieces where a conversation is needed: write it as turns")
    if "Image Descriptions" in record.text:
        raise DocumentError("a conversation that holds 'Image Descriptions', which are none of its words: leave it out")
    return Document(
        [
            Turn(turn.role, finished(turn.text))
            if turn.role == "assistant" and all(isinstance(piece, Text) for piece in turn.pieces)
            else turn
            for turn in record.turns
        ]
    )


TASKS: dict[str, Task] = {
    "vqa": Task(_answered(ONE_WORD)),
    "question": Task(_answered("")),
    "caption": Task(_captioned, 2 * len(DRAW)),
    "draw": Task(_drawn, len(DRAW)),
    "edit": Task(_edited, len(EDITED)),
    "difference": Task(_differing, 2),
    "story": Task(_told, 2 * len(STORY)),
    "talk": Task(_talked),
    "video": Task(_watched(4, ONE_WORD)),
    "long-video": Task(_watched(8)),
}
"""Task -> how its records are written.

A record has its pictures and texts in order: `vqa` and `question` a question and an answer, `caption` and `draw` a
caption, `edit` a picture and then an instruction and a picture for each step, `difference` two pictures, a question and
an answer, `story` a text for each picture, the videos a question, or none, and an answer; `talk` is a conversation in
turns. Half of `caption` are drawn, half of `story` told at once.
"""
