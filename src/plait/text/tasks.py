"""What CM3Leon's tasks of fine-tuning are written as: the templates of its paper (arXiv 2309.02591, table 5), as data.

A template is the published text: parts with `<break>` between them, each a text in which `{words}` stand for texts, or
a picture `[name]`. A model is asked for its `answer`: the last picture, or what the text says from there on; that text
stands before its pictures, so that the answer is a blank to be filled in behind the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

from plait.document import Blank, Document, Image, Piece, Text, Turn
from plait.errors import ConfigError, DocumentError

BREAK = " <break> "

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels of the picture as it is read (256 a side)."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """One way to write the documents of a task.

    Raises:
        ConfigError: the answer is neither the last picture nor in the only text.
    """

    written: str
    answer: str

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self._parts]
        if self._parts[-1] != ("picture", self.answer) and (self.answer not in self.texts or kinds.count("text") > 1):
            raise ConfigError(
                f"the answer {self.answer!r} of {self.written!r}: it must be the last picture, or in the only text"
            )

    @cached_property
    def _parts(self) -> tuple[tuple[str, str], ...]:
        """Each part as ("picture", its name) or ("text", its format)."""
        found = ((re.fullmatch(r"\[(\w+)\]", part), part) for part in self.written.split(BREAK))
        return tuple(("picture", match[1]) if match else ("text", part) for match, part in found)

    @property
    def pictures(self) -> tuple[str, ...]:
        """The names of its pictures, in order."""
        return tuple(value for kind, value in self._parts if kind == "picture")

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of its texts, in order."""
        formats = [value for kind, value in self._parts if kind == "text"]
        return tuple(name for one in formats for _, name, *_ in Formatter().parse(one) if name)

    @property
    def draws(self) -> bool:
        """Whether the answer is a picture."""
        return self.answer in self.pictures

    def document(self, values: Mapping[str, str | Image]) -> Document:
        """The whole as it is published.

        Args:
            values: name -> text or picture.

        Raises:
            DocumentError: a value is missing, or of the other kind.
        """
        return Document([self._piece(kind, value, values) for kind, value in self._parts])

    def asked(self, values: Mapping[str, str | Image]) -> Document:
        """The whole with the answer apart: a text in the assistant's turn, behind the user's; a picture as it stands.

        Raises:
            DocumentError: as `document`.
        """
        if self.draws:
            return self.document(values)
        before, answer = self._divided
        given = self._given(values, before)
        return Document([*given, Turn("assistant", [Text(self._filled(answer, values))])])

    def prompt(self, values: Mapping[str, str | Image]) -> Document:
        """What a model is given to answer; the answer needs no value.

        Raises:
            DocumentError: as `document`.
        """
        if self.draws:
            return Document([*(self._piece(*part, values) for part in self._parts[:-1]), Blank("image")])
        return Document(self._given(values, self._divided[0]))

    def _given(self, values: Mapping[str, str | Image], before: str) -> list[Turn]:
        words = self._filled(before, values)
        pictures = [self._piece("picture", name, values) for name in self.pictures]
        return [Turn("user", [*pictures, *([Text(words)] if words else [])])]

    @cached_property
    def _divided(self) -> tuple[str, str]:
        """The text before the answer, and that from the answer on."""
        (text,) = (value for kind, value in self._parts if kind == "text")
        at = text.index(f"{{{self.answer}}}")
        return text[:at], text[at:]

    def _piece(self, kind: str, value: str, values: Mapping[str, str | Image]) -> Piece:
        if kind == "text":
            return Text(self._filled(value, values))
        picture = values.get(value)
        if not isinstance(picture, Image):
            raise DocumentError(f"[{value}] of {self.written!r} is a {type(picture).__name__}: give an Image")
        return picture

    def _filled(self, form: str, values: Mapping[str, str | Image]) -> str:
        words = {name: values.get(name) for _, name, *_ in Formatter().parse(form) if name}
        wrong = [name for name, value in words.items() if not isinstance(value, str)]
        if wrong:
            given = type(words[wrong[0]]).__name__
            raise DocumentError(f"{{{wrong[0]}}} of {self.written!r} is a {given}: give text")
        return form.format(**words)


def located(objects: Iterable[tuple[str, Box]]) -> str:
    """Objects with their boxes, as the template with "segmentations" has them.

    >>> located([("bottle", (199, 130, 204, 150)), ("sink", (0, 9, 80, 99))])
    'bottle at (199, 130) -> (204, 150), sink at (0, 9) -> (80, 99)'
    """
    return ", ".join(f"{name} at {_corners(box)}" for name, box in objects)


def located_with(objects: Iterable[tuple[str, Box]]) -> str:
    """Objects with their boxes, as the paper's example has them.

    >>> located_with([("bottle", (199, 130, 204, 150)), ("sink", (0, 9, 80, 99))])
    'with bottle at location (199, 130) -> (204, 150) and with sink at location (0, 9) -> (80, 99)'
    """
    return " and ".join(f"with {name} at location {_corners(box)}" for name, box in objects)


def _corners(box: Box) -> str:
    left, top, right, bottom = box
    return f"({left}, {top}) -> ({right}, {bottom})"


FEATURES = {
    "edges": "canny edge features",
    "segmentation": "a segmentation map",
    "hed": "hed features",
    "openpose": "openpose features",
    "depth": "depth features",
    "normals": "3D norm features",
    "scribbles": "children's scribbles",
}
"""What a picture is made from, by the names of ControlNet's processors -> as the paper writes it."""


def _reads(*texts: str, answer: str) -> tuple[Template, ...]:
    return tuple(Template(written=f"{text}{BREAK}[image]", answer=answer) for text in texts)


def _from(feature: str) -> tuple[Template, ...]:
    form = f"Make high quality image from {feature}{BREAK}[features]{BREAK}{{caption}}{BREAK}[image]"
    return (Template(written=form, answer="image"),)


_SCIENCE = "Question: {question} \n Context: {context} \n Options: {choices} \n "

TASKS: dict[str, tuple[Template, ...]] = {
    "edit": (
        Template(
            written="Edit first image following the instruction <break> [before] <break> {instruction} <break> [after]",
            answer="after",
        ),
    ),
    "write": (Template(written='draw "{words}" <break> [image]', answer="image"),),
    "boxes": (
        Template(
            written="Generate high quality image of {caption} with segmentations {boxes} <break> [image]",
            answer="image",
        ),
    ),
    "boxes-with": (
        Template(written="Generate high quality image of {caption} {boxes} <break> [image]", answer="image"),
    ),
    **{f"from-{name}": _from(feature) for name, feature in FEATURES.items()},
    "caption": _reads("{caption}", "Describe the given picture. {caption}", answer="caption"),
    "describe": _reads(
        "Describe the given picture in very detail. {caption}",
        "Describe all the objects in the given image in very detail. {caption}",
        answer="caption",
    ),
    "narrate": _reads(
        "Generate a long narration of what is happening in the given image. {caption}",
        "Generate a long caption for the given image. {caption}",
        answer="caption",
    ),
    "vqa": _reads(
        "Question: {question} Answer: {answer}.",
        "Question: {question} \n {answer}",  # the paper writes "[newline]"
        "Question: {question} The answer is {answer}.",
        answer="answer",
    ),
    "science": _reads(f"{_SCIENCE}Answer: {{answer}}.", answer="answer"),
    "steps": _reads(
        f"{_SCIENCE}Answer: Let's think step-by-step: {{explanation}} So the answer is {{answer}}.",
        answer="explanation",
    ),
}
"""Task -> the ways to write its documents.

`boxes` takes `located(...)` as its `{boxes}`, as the table has it, and `boxes-with` `located_with(...)`, as the paper's
example. The table begins an edit as here; the paper's text has "Edit the image following the text instruction".
"""
