"""The command line: which commands there are, and how it ends. Nothing heavy is imported for help."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import groupby

from plait.errors import DISK_FULL, InputError, Interrupted, PlaitError

COMMANDS = {  # name -> class in plait.commands, or of data in plait.commands_data, and what it does
    "train": ("Train", "Train a recipe, or go on with the run that a directory holds."),
    "generate": ("Generate", "Answer a prompt or a document with text and pictures."),
    "chat": ("Chat", "Talk with a model about pictures, in the terminal."),
    "evaluate": ("Evaluate", "Score a checkpoint on a task."),
    "score": ("Score", "Score predictions in a file against references in another."),
    "import": ("Import", "Make a checkpoint of published files."),
    "export": ("Export", "Write a checkpoint as published files, or its language model for transformers."),
    "info": ("Info", "Tell what a run, a checkpoint or a memory is."),
    "data import": ("DataImport", "Turn a folder of pictures and words into shards."),
    "data curate": ("DataCurate", "Let a model describe pictures, as data for a second stage."),
    "data memory": ("DataMemory", "Build a memory of documents that are found by what they show and say; search it."),
    "data tokenize": ("DataTokenize", "Write the pictures of shards as a model's codes."),
    "data inspect": ("DataInspect", "Count and measure a data directory, with a contact sheet."),
    "data shapes": ("DataShapes", "Write documents of the shapes world as shards."),
}
REPEATED = (
    "--set",
    "--image",
    "--split",
    "--template",
    "--stop",
)  # flags that may be given again, or with several values


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; exit codes: 0 done, 2 wrong input (one line on stderr), 1 a fault, 130 stopped by Ctrl-C."""
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        command()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes as it ends
        return 1
    except InputError as error:
        print(f"plait: {error}", file=sys.stderr)
        return 2
    except PlaitError as error:
        print(f"plait: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        print(f"plait: {error.filename}: {error.strerror}; check the path", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"plait: {place}{error.strerror}; make room and give the command again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("plait: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str]) -> Callable[[], None]:
    """The command that `argv` asks for.

    Raises:
        SystemExit: help was asked for (0), or the words make no command (2).
    """
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        import plait

        print(plait.__version__)
        raise SystemExit(0)
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        print(f"plait: no command {' '.join(words[:2])!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    import tyro

    rest = _gathered(words[len(name.split()) :])
    module = "plait.commands_data" if name.startswith("data ") else "plait.commands"
    kind = getattr(importlib.import_module(module), COMMANDS[name][0])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command: Callable[[], None] = tyro.cli(kind, prog=f"plait {name}", args=rest)
    except SystemExit as end:
        if end.code:
            print(f"plait: {_unboxed(said.getvalue())}; see plait {name} --help", file=sys.stderr)
        raise
    return command


def _unboxed(text: str) -> str:
    """The first paragraph of tyro's box, and the flag that may have been meant, in one line."""
    lines = [line.strip(" │╭╮╰╯") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    ruled = groupby(lines[1:], key=lambda line: set(line) <= {"─", "-"})  # - where the terminal has no UTF-8
    paragraphs = [list(group) for rule, group in ruled if not rule]  # the first line is the box's title
    near = [more[1].split()[0] for more in paragraphs if more[0] == "Perhaps you meant:"]
    return " ".join(paragraphs[0]) + "".join(f"; did you mean {flag}?" for flag in near)


def _gathered(words: list[str]) -> list[str]:
    """Brings the values of a repeated flag together behind its first place: tyro keeps only the last."""
    kept: list[str] = []
    values: dict[str, list[str]] = {}
    at = 0
    while at < len(words):
        flag, sign, value = words[at].partition("=")
        at += 1
        if flag not in REPEATED:
            kept.append(words[at - 1])
            continue
        into = values.setdefault(flag, [])
        if sign:
            into.append(value)
        while not sign and at < len(words) and not words[at].startswith("--"):
            into.append(words[at])
            at += 1
    return [*kept, *(word for flag, given in values.items() for word in (flag, *given))]


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  plait {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: plait COMMAND ...", "", *lines, "", "plait COMMAND --help tells more of each."])


if __name__ == "__main__":
    sys.exit(main())
