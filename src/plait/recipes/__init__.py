"""Recipes: functions that return a system and its stages."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from plait.checkpoints.outside import from_file, is_outside
from plait.config import override
from plait.errors import ConfigError, hint
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
    assignments = list(assignments)
    own = [assignment for assignment in assignments if assignment.partition("=")[0].strip() in names]
    recipe = function(**_arguments(function, own, address))
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{address} gives a {type(recipe).__name__}, a Recipe is needed: name another function")
    recipe = override(recipe, [assignment for assignment in assignments if assignment not in own])
    return recipe if stage is None else _only(recipe, stage)


def _arguments(function: Callable[..., Any], assignments: list[str], address: str) -> dict[str, Any]:
    """The arguments that assignments give to a function, by the types that it declares.

    Raises:
        ConfigError: a value of another type, or an argument without a value.
    """
    given = dict.fromkeys(assignment.partition("=")[0].strip() for assignment in assignments)
    if given:
        try:
            types = typing.get_type_hints(function)
        except NameError as error:
            raise ConfigError(f"{address}: a type of its arguments cannot be found ({error}); import it") from error
        kinds = [(name, types.get(name, Any), None) for name in given]
        given = vars(override(dataclasses.make_dataclass(function.__name__, kinds)(), assignments))
    missing = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        raise ConfigError(f"{address} needs a value for {', '.join(missing)}: give --set {missing[0]}=VALUE")
    return given


def _function(address: str) -> tuple[Callable[..., Recipe], str | None]:
    if is_outside(address):
        found = from_file(address)
        if not callable(found):
            raise ConfigError(f"{address} is a {type(found).__name__}: name a function that returns a Recipe")
        return found, None
    system, _, rest = address.partition("/")
    size, _, stage = rest.partition("/")
    modules = [found.name for found in pkgutil.iter_modules(__path__)]
    if system not in modules:
        raise ConfigError(f"no recipes for {system!r}; {hint(system, modules)}, or a file.py:function")
    module = importlib.import_module(f"{__name__}.{system}")
    sizes = module.RECIPES
    if size not in sizes:
        raise ConfigError(f"no recipe {address!r}; {hint(f'{system}/{size}', [f'{system}/{name}' for name in sizes])}")
    return sizes[size], stage or None


def _only(recipe: Recipe, stage: str) -> Recipe:
    """The recipe up to a stage."""
    names = [one.name for one in recipe.stages]
    if stage not in names:
        raise ConfigError(f"{recipe.name} has no stage {stage!r}; {hint(stage, names)}")
    last = names.index(stage) == len(names) - 1
    return replace(recipe, stages=recipe.stages[: names.index(stage) + 1], tasks=recipe.tasks if last else ())
