"""What joins from outside the package: `path/to/file.py:NAME`, a system, a task, a recipe of the user's own."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from plait.errors import ConfigError


@dataclass(frozen=True)
class Code:
    """A file that was run: where it lies, and the SHA-256 of what it said then."""

    path: Path
    fingerprint: str

    def to_json(self) -> dict[str, str]:
        """Plain data; a path below the present directory is relative."""
        here = Path.cwd()
        path = self.path.relative_to(here) if self.path.is_relative_to(here) else self.path
        return {"file": str(path), "fingerprint": self.fingerprint}


_run: dict[str, Code] = {}  # by the names of the modules


def code_of(thing: Any) -> Code | None:
    """The file that defined a class or function, if `from_file` ran it."""
    return _run.get(thing.__module__)


def fingerprint(path: Path) -> str | None:
    """The SHA-256 of a file as it is now; None: it is not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


class Files:
    """The files that were run so far. Unpickled in another process, it runs them there.

    What is pickled behind it can therefore hold objects of their classes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, ([code.path for name, code in _run.items() if name in sys.modules],)


def _again(paths: Iterable[Path]) -> Files:
    for path in paths:
        _module(path)
    return Files()


def is_outside(address: str) -> bool:
    """Whether an address has the form `file.py:NAME`."""
    path, sign, name = address.rpartition(":")
    return bool(sign and name) and path.endswith(".py")


def from_file(address: str) -> Any:
    """What `file.py:NAME` names. The file is run: only what the user typed may be given, never what a file says.

    The module goes by the name of the file, so that a configuration can say `"file:NAME"` and be read again once the
    file is loaded. A file is run once in a process.

    Raises:
        ConfigError: no such file or name, a file named like a module that is there already, or one that cannot be run.
    """
    if not is_outside(address):
        raise ConfigError(f"{address!r} is not of the form file.py:NAME")
    path, _, name = address.rpartition(":")
    module = _module(Path(path).resolve())
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), 1)
        hint = f"did you mean {near[0]!r}?" if near else "check the name"
        raise ConfigError(f"{path} has no {name!r}; {hint}")
    return getattr(module, name)


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise ConfigError(f"{path}: a module {path.stem!r} is loaded already; rename the file")
    if path.stem in sys.stdlib_module_names or path.stem == "plait" or _installed(path):
        raise ConfigError(f"{path}: {path.stem!r} is the name of another package; rename the file")
    code = Code(path, hashlib.sha256(path.read_bytes()).hexdigest())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # before it runs: its dataclasses look themselves up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ConfigError(f"{path}: cannot be run ({type(error).__name__}: {error}); correct the file") from error
    _run[path.stem] = code
    return module


def _installed(path: Path) -> bool:
    """Whether Python would find another module by the name of this file, which could then no longer be imported."""
    found = None if "." in path.stem else importlib.util.find_spec(path.stem)
    return found is not None and found.origin is not None and Path(found.origin).resolve() != path
