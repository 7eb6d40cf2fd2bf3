"""A conversation in the terminal: lines in, answers out as they come, pictures by their paths.

A line is a command (`/help`), or what is said; words of it that are paths of pictures are pictures, where they stand.
Nothing that is typed ends a chat but `/quit` and the end of the input: what cannot be done is one line, and what was
said before stays.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse

from plait.document import Document, Image, Piece, Text, Turn
from plait.errors import InputError, hint
from plait.generate.engine import Reply, Settings
from plait.generate.model import Model

HELP = """\
/image PATH ...  pictures for what is said next; a path in a line, or dropped on it, is a picture too
/undo            takes back the last picture that was not asked about yet, or else the last question and its answer
/reset           forgets everything
/seed N          draws the answers that follow with another seed
/save FILE       writes the conversation; plait chat --document FILE goes on with it, plait generate with --prompt too
/help            this list
/quit            ends (so does Ctrl-D); Ctrl-C ends an answer, of which what was said stays"""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2"})
_WORD = re.compile(r"""'[^']*'(?=\s|$)|"[^"]*"(?=\s|$)|(?:\\.|[^\s\\]|\\$)+""")  # as a shell would part them
_CUT = ("max_new_tokens", "max_length")  # why an answer ended that was not at its end
_CONTROL = {code: None for code in range(32) if chr(code) not in "\n\t"} | {127: None}  # a terminal obeys them


class Terminal(Protocol):
    """Where a chat takes place."""

    def lines(self) -> Iterator[str]:
        """What is typed, until the end of the input."""
        ...

    def say(self, text: str) -> None:
        """A part of an answer."""
        ...

    def note(self, text: str) -> None:
        """A line that is not the model's."""
        ...


class Chat:
    """A conversation with a model.

    Args:
        model: of any system whose format lays out conversations.
        settings: how it answers; answer k of the conversation is drawn with `seed` + k.
        out: where pictures that it draws are written; None: they are not.
        turns: what was said before.
        terminal: this process's, unless another is given.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        out: Path | None = None,
        turns: Items[Turn] = (),
        terminal: Terminal | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.out = out
        self.terminal = terminal or Standard()
        self.turns = list(turns)
        self.pictures: list[str] = []
        """Paths of those that were not asked about yet."""
        if self.turns and self.turns[-1].role == "user":
            raise InputError("the conversation ends with a question: answer it with plait generate --document")

    def run(self) -> None:
        """Answers line by line until `/quit` or the end of the input."""
        self.terminal.note("/help tells what can be typed, /quit ends")
        for line in self.terminal.lines():
            if line.strip() == "/quit":
                return
            try:
                self._take(line.strip())
            except InputError as error:
                self.terminal.note(" ".join(str(error).split()))
            except OSError as error:
                if error.filename is None:  # no file that was asked for, but the terminal itself
                    raise
                self.terminal.note(f"{error.filename}: {error.strerror}; check the path")
            except KeyboardInterrupt:
                self.terminal.note("(stopped)")

    def _take(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self._commands().get(name)
        if command is not None:
            command(rest.strip())
        elif re.fullmatch(r"/\w*", name) and not Path(name).is_file():
            raise InputError(f"no command {name}; {hint(name, [*self._commands(), '/quit'])}")
        elif pieces := pictured(line):
            if any(isinstance(piece, Text) for piece in pieces):
                self.ask(pieces)
            else:
                self._hold([str(piece.source) for piece in pieces if isinstance(piece, Image)])

    def _commands(self) -> dict[str, Callable[[str], None]]:
        return {
            "/image": self._image,
            "/undo": self._undo,
            "/reset": self._reset,
            "/seed": self._seed,
            "/save": self._save,
            "/help": lambda rest: self.terminal.note(HELP),
        }

    # --------------------------------------------------------------------------------------------- answers

    def ask(self, pieces: Items[Piece]) -> None:
        """Says something, behind the pictures that wait, and tells the answer as it comes.

        Interrupted (KeyboardInterrupt), the answer is what was said by then; if that is nothing, it was not asked.

        Raises:
            InputError: it cannot be laid out, read, or answered; then it was not asked either.
        """
        asked = Turn("user", [*map(Image, self.pictures), *pieces])
        document = Document([*self.turns, asked])
        answers = sum(turn.role == "assistant" for turn in self.turns)
        settings = replace(self.settings, seed=self.settings.seed + answers)
        if lost := self._lost(document, settings):
            self.terminal.note(f"(the first {lost} elements of the conversation no longer fit; /reset begins anew)")
        said: list[Piece] = []
        try:
            reply = self._tell(document, settings, said)
            end = f"({reply.stop})" if reply.stop in _CUT else "" if said else "(no answer)"
        except KeyboardInterrupt:
            end = "(stopped)" if said else "(stopped before a word: the question is taken back)"
            if not said:
                self.terminal.note(end)
                return
        if said:
            self.terminal.say("\n")
        if end:
            self.terminal.note(end)
        self.turns += [asked, Turn("assistant", said)]
        self.pictures = []

    def _tell(self, document: Document, settings: Settings, said: list[Piece]) -> Reply:
        """Tells the pieces of the reply, and adds them to `said` as they come."""
        stream = self.model.stream(document, settings)
        while True:
            try:
                piece = next(stream)
            except StopIteration as end:
                reply: Reply = end.value
                if not reply.document.images:
                    said[:] = reply.document.pieces
                return reply
            if isinstance(piece, Text):
                before = said.pop() if said and isinstance(said[-1], Text) else None
                said.append(Text(before.text + piece.text) if isinstance(before, Text) else piece)
                self.terminal.say(piece.text.translate(_CONTROL))
            elif isinstance(piece, Image):
                said.append(self._drawn(piece, first=not said))

    def _drawn(self, picture: Image, first: bool) -> Image:
        line = "" if first else "\n"
        if self.out is None:
            self.terminal.say(f"{line}[a picture; --out DIR writes it]\n")
            return picture
        self.out.mkdir(parents=True, exist_ok=True)
        number = next(n for n in range(10**9) if not (self.out / f"image-{n}.png").exists())
        path = self.out / f"image-{number}.png"
        picture.open().save(path)
        self.terminal.say(f"{line}{path}\n")
        return Image(path)

    def _lost(self, document: Document, settings: Settings) -> int:
        """How many elements of the prompt are cut."""
        if not settings.cut_prompt:
            return 0
        longest = max(map(len, self.model.format.streams(document, settings.guided).rows))
        return max(0, longest + settings.max_new_tokens - self.model.format.max_length)

    # -------------------------------------------------------------------------------------------- commands

    def _image(self, rest: str) -> None:
        paths = [_bare(word) for word in _WORD.findall(rest)]
        if not paths:
            raise InputError("/image: give the path of a picture")
        whole = _bare(rest)  # a path with spaces, as it is
        self._hold([whole] if Path(whole).is_file() else paths)

    def _hold(self, paths: list[str]) -> None:
        for path in paths:
            width, height = Image(path).open().size
            self.pictures.append(path)
            self.terminal.note(f"({path}: {width} x {height}, picture {self._count()} of the conversation)")

    def _count(self) -> int:
        return len(Document(self.turns).images) + len(self.pictures)

    def _undo(self, rest: str) -> None:
        if self.pictures:
            self.terminal.note(f"({self.pictures.pop()} is taken back)")
        elif self.turns:
            last = self.turns.pop()
            if last.role == "assistant" and self.turns:
                last = self.turns.pop()
            self.terminal.note(f"(taken back: {_short(last)})")
        else:
            self.terminal.note("(nothing to take back)")

    def _reset(self, rest: str) -> None:
        self.turns, self.pictures = [], []
        self.terminal.note("(everything is forgotten)")

    def _seed(self, rest: str) -> None:
        if not rest.isdecimal():
            raise InputError(f"/seed {rest}: give a number; it is {self.settings.seed}")
        self.settings = replace(self.settings, seed=int(rest))
        self.terminal.note(f"(seed {self.settings.seed})")

    def _save(self, rest: str) -> None:
        if not rest:
            raise InputError("/save: give the name of a file")
        if not self.turns:
            raise InputError("/save: nothing was said yet")
        path = Path(_bare(rest))
        value = Document(self.turns).to_json(path.parent)
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        waiting = f", without {len(self.pictures)} pictures that were not asked about" if self.pictures else ""
        self.terminal.note(f"({path}{waiting})")


def pictured(line: str) -> list[Piece]:
    """What is said in a line: words that are paths of pictures become pictures.

    Paths may be quoted, have escaped spaces, begin with ~ or be file:// addresses, as terminals drop them.

    Raises:
        InputError: a word looks like the path of a picture, but there is no such file.
    """
    pieces: list[Piece] = []
    at = 0
    for match in _WORD.finditer(line):
        path = Path(_bare(match[0]))
        if path.suffix.lower() not in SUFFIXES or not path.stem:
            continue
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path, or leave {path.suffix} out to speak of it")
        pieces += [Text(line[at : match.start()]), Image(str(path))]
        at = match.end()
    pieces.append(Text(line[at:]))
    return _trimmed(pieces)


def _trimmed(pieces: list[Piece]) -> list[Piece]:
    """Without white space beside pictures, and texts that were nothing else."""
    kept = [Text(piece.text.strip()) if isinstance(piece, Text) else piece for piece in pieces]
    return [piece for piece in kept if piece != Text("")]


def _bare(word: str) -> str:
    """A path as the file system knows it."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"":
        word = word[1:-1]
    elif not Path(word).exists():
        word = re.sub(r"\\(.)", r"\1", word)
    if word.startswith("file://"):
        word = unquote(urlparse(word).path)
    return str(Path(word).expanduser()) if word.startswith("~") else word


def _short(turn: Turn) -> str:
    text = " ".join(turn.text.split())
    pictures = sum(isinstance(piece, Image) for piece in turn.pieces)
    shown = text if len(text) <= 60 else text[:59] + "…"
    return " and ".join([*([f"{pictures} picture{'s' * (pictures > 1)}"] if pictures else []), repr(shown)])


class Standard:
    """Lines from stdin, answers to stdout, notes to stderr; with a prompt and colours where a person sits there."""

    def __init__(self) -> None:
        from rich.console import Console

        self._typed = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        self._answers = Console(highlight=False, soft_wrap=True)
        self._notes = Console(highlight=False, soft_wrap=True, stderr=True, style="dim")
        if self._typed:
            import readline  # noqa: F401  # gives `input` its history and keys

    def lines(self) -> Iterator[str]:
        """Ctrl-C drops a line that is being typed."""
        while True:
            try:
                yield input("> ") if self._typed else next(sys.stdin)
            except (EOFError, StopIteration):
                return
            except KeyboardInterrupt:
                if not self._typed:
                    raise
                self.note("\n(/quit or Ctrl-D ends)")

    def say(self, text: str) -> None:
        """At once, without a line break of its own."""
        self._answers.out(text, end="", highlight=False)
        self._answers.file.flush()

    def note(self, text: str) -> None:
        """One line, dimmed."""
        self._notes.out(text, highlight=False)
