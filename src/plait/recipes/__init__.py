"""Recipes: functions that return a system and its stages."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import yaml

from plait.checkpoints.outside import from_file, is_outside
from plait.config import override
from plait.errors import ConfigError
from plait.train.stage import Recipe


def find(address: str, assignments: Iterable[str] = ()) -> Recipe:
    """The recipe `<system>/<size>`, `<system>/<size>/<stage>` or `file.py:function`, with settings changed.

    Args:
        assignments: `key=value`: an argument of the recipe's function, or a setting by its path, such as
            `stages.pretrain.steps=100`.

    Raises:
        ConfigError: no such recipe, stage or setting.
    """
    function, stage = _function(address)
    names = inspect.signature(function).parameters
    given, paths = {}, []
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise ConfigError(f"--set {assignment}: give KEY=VALUE")
        if key in names:
            given[key] = yaml.safe_load(value)
        else:
            paths.append(assignment)
    recipe: Recipe = override(function(**given), paths)
    return recipe if stage is None else _only(recipe, stage)


def _function(address: str) -> tuple[Callable[..., Recipe], str | None]:
    if is_outside(address):
        return from_file(address), None
    system, _, rest = address.partition("/")
    size, _, stage = rest.partition("/")
    modules = [found.name for found in pkgutil.iter_modules(__path__)]
    if system not in modules:
        raise ConfigError(f"no recipes for {system!r}; {_near(system, modules)}, or a file.py:function")
    module = importlib.import_module(f"{__name__}.{system}")
    sizes = module.RECIPES
    if size not in sizes:
        raise ConfigError(f"no recipe {address!r}; {_near(f'{system}/{size}', [f'{system}/{name}' for name in sizes])}")
    return sizes[size], stage or None


def _only(recipe: Recipe, stage: str) -> Recipe:
    """The recipe up to a stage."""
    names = [one.name for one in recipe.stages]
    if stage not in names:
        raise ConfigError(f"{recipe.name} has no stage {stage!r}; {_near(stage, names)}")
    last = names.index(stage) == len(names) - 1
    return replace(recipe, stages=recipe.stages[: names.index(stage) + 1], tasks=recipe.tasks if last else ())


def _near(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
