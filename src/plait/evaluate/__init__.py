"""Evaluation: tasks that a finished model is scored on.

A task has a name and gives nested scores: numbers under the names of measures, beside them `n`, and mappings of the
same form under the names of groups. `TASKS` holds those that are known by name; any other is `file.py:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from plait.checkpoints.outside import from_file, is_outside
from plait.errors import ConfigError, hint
from plait.evaluate import shapes
from plait.evaluate.asking import ShapesPrompted, Steps
from plait.evaluate.cases import SUBJECTS, ShapesCases
from plait.evaluate.choices import (
    ShapesCommonsense,
    ShapesDescriptions,
    ShapesMatrices,
    ShapesNames,
    ShapesOpinions,
)
from plait.evaluate.dialogues import ShapesDialogueRanking
from plait.evaluate.examples import ShapesExamples
from plait.evaluate.retrieval import ShapesRetrieval
from plait.evaluate.shots import ShapesEpisodes, ShapesPages, ShapesShots
from plait.generate.model import Model

Scores = Mapping[str, Any]


class Task(Protocol):
    """Something that a model is scored on."""

    @property
    def name(self) -> str:
        """The key of its scores."""
        ...

    def run(self, model: Model) -> Scores:
        """The scores, as plain data."""
        ...


Factory = Callable[[int | None], Sequence[Task]]
"""Makes tasks, with at most so many items in each group."""


def _cases(name: str, steps: bool, limit: int | None) -> list[Task]:
    return [ShapesCases.at_most(limit, name=name, steps=steps)]


_WAYS: tuple[tuple[Steps, bool], ...] = (("one", False), ("two", False), ("two", True))

TASKS: dict[str, Factory] = {
    "shapes": shapes.tasks,
    "shapes/caption": lambda limit: [shapes.ShapesCaption(held=shapes.Held.at_most(limit))],
    "shapes/description": lambda limit: [shapes.ShapesDescription(held=shapes.Held.at_most(limit))],
    "shapes/vqa": lambda limit: [shapes.ShapesQuestions(held=shapes.Held.at_most(limit))],
    "shapes/retrieval": lambda limit: [ShapesRetrieval.at_most(limit)],
    "shapes/told": lambda limit: [shapes.ShapesTextQuestions(held=shapes.Held.at_most(limit))],
    "shapes/drawings": lambda limit: [shapes.ShapesDrawings(held=shapes.Held.at_most(limit))],
    "shapes/draw": lambda limit: [shapes.ShapesDraw(held=shapes.Held.at_most(limit))],
    "shapes/examples": lambda limit: [ShapesExamples.at_most(limit)],
    "shapes/dialogue-ranking": lambda limit: [ShapesDialogueRanking.at_most(limit)],
    "shapes/asking": lambda limit: [
        ShapesPrompted(held=shapes.Held.at_most(limit), steps=steps, looks=looks) for steps, looks in _WAYS
    ],
    "shapes/few-shot": lambda limit: [ShapesShots.at_most(limit)],
    "shapes/episodes": lambda limit: [ShapesEpisodes.at_most(limit)],
    "shapes/pages": lambda limit: [ShapesPages.at_most(limit)],
    "shapes/episodes-steps": lambda limit: [ShapesEpisodes.at_most(limit, steps=True)],
    "shapes/matrices": lambda limit: [ShapesMatrices.at_most(limit)],
    "shapes/matrices-steps": lambda limit: [ShapesMatrices.at_most(limit, steps=True)],
    "shapes/opinions": lambda limit: [ShapesOpinions.at_most(limit)],
    "shapes/opinions-steps": lambda limit: [ShapesOpinions.at_most(limit, steps=True)],
    "shapes/descriptions": lambda limit: [ShapesDescriptions.at_most(limit)],
    "shapes/commonsense": lambda limit: [ShapesCommonsense.at_most(limit)],
    "shapes/names": lambda limit: [ShapesNames.at_most(limit)],
    **{f"shapes/{name}": partial(_cases, name, False) for name in SUBJECTS},
    **{f"shapes/{name}-steps": partial(_cases, name, True) for name, one in SUBJECTS.items() if one.may_tell},
}


def find(address: str, limit: int | None = None) -> Sequence[Task]:
    """The tasks of a name, or of a `file.py:function` that takes the limit and gives a task or several.

    Raises:
        ConfigError: no such task, a limit below 1, or a function that gives no tasks.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"a limit of {limit} items: give at least 1")
    if is_outside(address):
        return _from_outside(address, limit)
    if address not in TASKS:
        raise ConfigError(f"no task {address!r}; {hint(address, TASKS)}, or a file.py:function")
    return TASKS[address](limit)


def _from_outside(address: str, limit: int | None) -> Sequence[Task]:
    function = from_file(address)
    if not callable(function):
        raise ConfigError(f"{address} is a {type(function).__name__}: name a function of the limit that gives tasks")
    given = function(limit)
    tasks = list(given) if isinstance(given, Iterable) else [given]
    for task in tasks:
        if not (isinstance(getattr(task, "name", None), str) and callable(getattr(task, "run", None))):
            raise ConfigError(f"{address} gives a {type(task).__name__}: a task has a name and a method run(model)")
    return tasks


def evaluate(model: Model, tasks: Sequence[Task]) -> dict[str, Scores]:
    """The scores of each task by its name.

    Raises:
        ConfigError: two tasks have the same name.
    """
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{names.count(twice)} tasks have the name {twice!r}: score them one by one")
    return {task.name: task.run(model) for task in tasks}
