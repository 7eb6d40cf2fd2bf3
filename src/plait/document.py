"""Documents: what Plait reads and writes.

A document is an ordered list of pieces (text, image, video, or a blank that the model is to fill), or a list of
turns of a conversation, each with a role and pieces of its own. It says nothing about tokens: each system lays it
out in its own way (`plait.sequence`). The JSON form is

    {"pieces": [{"text": "A photo of "}, {"image": "cat.jpg"}]}
    {"turns": [{"role": "user", "pieces": [{"image": "cat.jpg"}, {"text": "What is it?"}]},
               {"role": "assistant", "pieces": [{"text": "A cat."}]}]}

where an image is a path relative to the JSON file, or a `data:` address when it came from memory. Documents that stand
in front of it, as those that were retrieved, are a list of such forms under "before".
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import PIL.Image

from plait import images
from plait.errors import DocumentError

Role = Literal["system", "user", "assistant"]
BlankKind = Literal["text", "image"]


@runtime_checkable
class Picture(Protocol):
    """Something that can be drawn or fetched when it is needed: a scene, a member of a shard."""

    def open(self) -> PIL.Image.Image:
        """The picture in RGB."""
        ...


@runtime_checkable
class StoredPicture(Picture, Protocol):
    """A picture whose file can be had as it is."""

    def read(self) -> bytes:
        """The bytes of the file."""
        ...


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture: a path, the bytes of a file, a PIL image, or anything with `open()`. Pixels are read on `open()`."""

    source: str | Path | bytes | PIL.Image.Image | Picture

    def content(self) -> bytes | None:
        """The bytes of its file as they are stored; None where it has no file, or it cannot be read (see `open`)."""
        source = self.source
        if isinstance(source, bytes):
            return source
        if isinstance(source, str | Path):
            try:
                return Path(source).read_bytes()
            except (OSError, ValueError):
                return None
        return source.read() if isinstance(source, StoredPicture) else None

    def open(self, over_white: bool = True) -> PIL.Image.Image:
        """The picture in RGB, upright, alpha laid over white.

        Args:
            over_white: False leaves alpha out instead (`images.to_rgb`); what has no file is opened as it wants.

        Raises:
            ImageError: the file is missing, broken, too large or no picture.
        """
        source = self.source
        if isinstance(source, PIL.Image.Image):
            return images.to_rgb(source, over_white)
        if isinstance(source, bytes | str | Path):
            return images.decode(source, over_white=over_white)
        if not over_white and isinstance(source, StoredPicture):
            return images.decode(source.read(), over_white=False)
        return source.open()


@dataclass(frozen=True)
class Video:
    """A video as its frames, with the time of each in seconds."""

    frames: tuple[Image, ...]
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.times and len(self.times) != len(self.frames):
            raise DocumentError(f"a video has {len(self.frames)} frames but {len(self.times)} times: give one for each")

    def middles(self, count: int) -> Video:
        """The frames in the middles of `count` equal parts, or of as many as there are frames."""
        kept = middles(len(self.frames), count)
        return Video(tuple(self.frames[i] for i in kept), tuple(self.times[i] for i in kept if self.times))


def middles(frames: int, count: int) -> list[int]:
    """The numbers of the frames in the middles of `count` equal parts of a video, the earlier of two.

    Raises:
        DocumentError: none is asked for.
    """
    if count < 1:
        raise DocumentError(f"{count} frames of {frames}: ask for at least 1")
    parts = min(count, frames)
    borders = [i * frames // parts for i in range(parts + 1)] if parts else []
    return [(first + last - 1) // 2 for first, last in pairwise(borders)]


@dataclass(frozen=True)
class Blank:
    """A place that the model is to fill with text (an infill) or, at the end of a document, with an image."""

    kind: BlankKind = "text"


Piece = Text | Image | Video | Blank


@dataclass(frozen=True)
class Turn:
    """What one side of a conversation says."""

    role: Role
    pieces: tuple[Piece, ...]

    def __init__(self, role: Role, pieces: Sequence[Piece | str] | Piece | str) -> None:
        if role not in get_args(Role):
            raise DocumentError(f"role {role!r} is not one of {', '.join(get_args(Role))}")
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "pieces", _pieces(pieces))

    @property
    def text(self) -> str:
        """The text pieces, joined."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Text))


@dataclass(frozen=True)
class Document:
    """An ordered list of pieces, or of turns; strings are taken as text.

    Args:
        before: documents that are read before it, such as retrieved ones. They are none of its pieces.

    Raises:
        DocumentError: pieces and turns are mixed; a document before it is incomplete, or has others before it.
    """

    pieces: tuple[Piece, ...]
    turns: tuple[Turn, ...]
    before: tuple[Document, ...]

    def __init__(
        self, content: Sequence[Piece | Turn | str] | Piece | Turn | str = (), *, before: Sequence[Document] = ()
    ) -> None:
        items = [content] if isinstance(content, str | Text | Image | Video | Blank | Turn) else list(content)
        turns = [item for item in items if isinstance(item, Turn)]
        if turns and len(turns) != len(items):
            raise DocumentError(
                f"{len(turns)} turns among {len(items)} items: a document holds either pieces or turns, "
                "put the rest into turns"
            )
        flat: list[Piece | str] = [piece for turn in turns for piece in turn.pieces] or [
            i for i in items if not isinstance(i, Turn)
        ]
        object.__setattr__(self, "pieces", _pieces(flat))
        object.__setattr__(self, "turns", tuple(turns))
        object.__setattr__(self, "before", tuple(before))
        for one in self.before:
            if one.before or any(isinstance(piece, Blank) for piece in one.pieces):
                raise DocumentError("a document that stands before another has neither blanks nor others before it")

    def behind(self, documents: Sequence[Document]) -> Document:
        """The same document, with others before it in place of those that it had."""
        return Document(self.turns or self.pieces, before=documents)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def text(self) -> str:
        """The text pieces, joined."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Text))

    @property
    def images(self) -> list[Image]:
        """The pictures in order, without those of videos."""
        return [piece for piece in self.pieces if isinstance(piece, Image)]

    def to_json(self, root: str | Path = ".") -> dict[str, Any]:
        """The JSON form (see the module), for a file in `root`: relative paths of images are written from there."""
        before = {"before": [document.to_json(root) for document in self.before]} if self.before else {}
        if self.turns:
            turns = [{"role": t.role, "pieces": [_to_json(p, root) for p in t.pieces]} for t in self.turns]
            return {"turns": turns, **before}
        return {"pieces": [_to_json(piece, root) for piece in self.pieces], **before}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], root: str | Path = ".") -> Document:
        """A document from its JSON form; relative paths of images are taken from `root`.

        Raises:
            DocumentError: the form is not as the module describes.
        """
        if not isinstance(value, Mapping) or set(value) - {"before"} not in ({"pieces"}, {"turns"}):
            raise DocumentError(f"a document is one of 'pieces' or 'turns', not {_shown(value)}")
        before = [cls.from_json(form, root) for form in _list(value, "before")] if "before" in value else []
        if "pieces" in value:
            return cls([_from_json(piece, Path(root)) for piece in _list(value, "pieces")], before=before)
        return cls([_turn(turn, Path(root)) for turn in _list(value, "turns")], before=before)

    @classmethod
    def read(cls, path: str | Path) -> Document:
        """A document from a JSON file."""
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DocumentError(f"{path}: no readable JSON document ({error})") from error
        if not isinstance(value, dict):
            raise DocumentError(f"{path}: a document is an object with 'pieces' or 'turns', not {type(value).__name__}")
        return cls.from_json(value, Path(path).parent)


def _pieces(content: Sequence[Piece | str] | Piece | str) -> tuple[Piece, ...]:
    items = [content] if isinstance(content, str | Text | Image | Video | Blank) else content
    pieces = tuple(Text(item) if isinstance(item, str) else item for item in items)
    for piece in pieces:
        if not isinstance(piece, Text | Image | Video | Blank):
            raise DocumentError(f"{type(piece).__name__} is no piece: use text, Image, Video or Blank")
    return pieces


def _shown(value: Any) -> str:
    return str(sorted(value)) if isinstance(value, Mapping) else type(value).__name__


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    items = value[name]
    if not isinstance(items, list):
        raise DocumentError(f"{name!r} is a list, not {type(items).__name__}")
    return items


def _turn(value: Mapping[str, Any], root: Path) -> Turn:
    if not isinstance(value, Mapping) or set(value) != {"role", "pieces"}:
        raise DocumentError(f"a turn has 'role' and 'pieces', not {_shown(value)}")
    return Turn(value["role"], [_from_json(piece, root) for piece in _list(value, "pieces")])


def _address(image: Image, root: str | Path) -> str:
    if isinstance(image.source, str | Path):
        return str(image.source) if Path(image.source).is_absolute() else os.path.relpath(image.source, root)
    buffer = io.BytesIO()
    image.open().save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def joined(documents: Sequence[Document]) -> Document:
    """Documents as one: their pieces one after the other, or their turns; those before them are left out.

    Raises:
        DocumentError: some are conversations, others are not.
    """
    spoken = sum(bool(document.turns) for document in documents)
    if spoken and spoken < len(documents):
        raise DocumentError(f"{spoken} conversations of {len(documents)} documents to be joined: give all as pieces")
    if spoken:
        return Document([turn for document in documents for turn in document.turns])
    return Document([piece for document in documents for piece in document.pieces])


def _to_json(piece: Piece, root: str | Path) -> dict[str, Any]:
    match piece:
        case Text(text):
            return {"text": text}
        case Image():
            return {"image": _address(piece, root)}
        case Video(frames, times):
            return {"video": [_address(frame, root) for frame in frames], "times": list(times)}
        case Blank(kind):
            return {"blank": kind}


def _image(address: Any, root: Path) -> Image:
    if not isinstance(address, str):
        raise DocumentError(f"an image is a path or a data: address, not {type(address).__name__}")
    if not address.startswith("data:"):
        return Image(root / address)
    _, marker, payload = address.partition(";base64,")
    try:
        content = base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise DocumentError("an image's data: address is no valid base64") from error
    if not marker or not content:
        raise DocumentError("an image's data: address has no ';base64,' part with content")
    return Image(content)


def _from_json(value: Mapping[str, Any], root: Path) -> Piece:
    match value:
        case {"text": str(text), **rest} if not rest:
            return Text(text)
        case {"image": address, **rest} if not rest:
            return _image(address, root)
        case {"video": list(frames), **rest} if not set(rest) - {"times"}:
            times = _list(rest, "times") if "times" in rest else []
            if not all(isinstance(time, int | float) for time in times):
                raise DocumentError(f"'times' of a video are seconds, not {times}")
            return Video(tuple(_image(frame, root) for frame in frames), tuple(float(time) for time in times))
        case {"blank": ("text" | "image") as kind, **rest} if not rest:
            return Blank(kind)
    raise DocumentError(f"a piece is one of text, image, video (with times) or blank, not {_shown(value)}")
