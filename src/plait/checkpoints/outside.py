"""What joins from outside the package: `path/to/file.py:NAME`, a system, a task, a recipe of the user's own."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from plait.errors import ConfigError


def is_outside(address: str) -> bool:
    """Whether an address has the form `file.py:NAME`."""
    path, sign, name = address.rpartition(":")
    return bool(sign and name) and path.endswith(".py")


def from_file(address: str) -> Any:
    """What `file.py:NAME` names. The file is run: only what the user typed may be given, never what a file says.

    The module goes by the name of the file, so that a configuration can say `"file:NAME"` and be read again once the
    file is loaded. A file is run once.

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
    if path.stem in sys.stdlib_module_names or path.stem == "plait":
        raise ConfigError(f"{path}: {path.stem!r} is the name of another package; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # before it runs: its dataclasses look themselves up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ConfigError(f"{path}: cannot be run ({type(error).__name__}: {error}); correct the file") from error
    return module
