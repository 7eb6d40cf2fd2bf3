"""Tasks on kinds of cases of the shapes world: what a model is fine-tuned for, on cases that training never shows.

A case is scored by its kind's own judge (`plait.data.shapes.cases`), a picture also by the objects that it shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from plait.data.shapes import kinds, language
from plait.data.shapes.cases import Case, Drawings
from plait.data.shapes.draw import BACKGROUND
from plait.data.shapes.score import drawing, draws
from plait.data.shapes.world import VALUES, Scene, SceneImage
from plait.document import Document, Image, Piece, Text, Turn, Video
from plait.errors import ConfigError, hint
from plait.evaluate.counted import Counted
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling

ANSWER_TOKENS = 192
LENGTH = 1_000_000  # of a source, whose first cases are scored

Measure = Callable[[Case, Document], float]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Which cases are scored, what they are worth, and how they are grouped."""

    kind: str
    """A name of `plait.data.shapes.kinds.CASES`."""
    measures: Mapping[str, Measure]
    """The figures; the first is the one that matters."""
    groups: Mapping[str, Callable[[Case], str]] = field(default_factory=dict)
    only: Callable[[Case], bool] = lambda case: True
    """Which cases of the kind."""

    @property
    def may_tell(self) -> bool:
        """Whether a reply may tell first what it draws."""
        return issubclass(kinds.CASES[self.kind], Drawings)


@dataclass(frozen=True, kw_only=True)
class ShapesCases(Counted):
    """Held-out cases of one kind, each reply scored by what the case asks for.

    Beside the figures stands what the first of them is without skill: `blind_...`, the same model when the pictures
    that it is given are exchanged for that of an empty scene; `copied_...`, a copy of the first picture, where one is
    asked for; and else `chance`, the best guess of the kind.

    Args:
        name: one of `SUBJECTS`.
        count: cases.
        resolution: pixels a side.
        steps: whether replies tell what they draw before they do, as in `plait.data.shapes.cases.Drawings`.

    Raises:
        ConfigError: no such subject, no cases, or steps where nothing is drawn.
    """

    what: ClassVar[str] = "cases"
    name: str
    count: int = 250
    steps: bool = False
    guidance: float = 1.0
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.3, top_p=0.9))

    def __post_init__(self) -> None:
        if self.name not in SUBJECTS:
            raise ConfigError(f"no cases are scored as {self.name!r}; {hint(self.name, SUBJECTS)}")
        if self.steps and not SUBJECTS[self.name].may_tell:
            raise ConfigError(f"{self.name}: steps=True, but its replies are no pictures: leave steps out")
        super().__post_init__()

    def run(self, model: Model) -> dict[str, Any]:
        """The measures, what they are without skill, "n", and the groups."""
        subject, cases = SUBJECTS[self.name], list(self.cases())
        shown = [case for case in cases if any(isinstance(piece, Image | Video) for piece in case.prompt.pieces)]
        prompts = [*(case.prompt for case in cases), *(self._blind(case.prompt) for case in shown)]
        replies = [reply.document for reply in model.generate(prompts, self._settings(cases[0]))]
        seen = list(zip(cases, replies, strict=False))
        main, measure = next(iter(subject.measures.items()))
        without: dict[str, float] = {}
        if shown:
            blindly = zip(shown, replies[len(cases) :], strict=True)
            without[f"blind_{main}"] = _mean([measure(case, reply) for case, reply in blindly])
        if shown and cases[0].reply.images:
            without[f"copied_{main}"] = _mean([measure(case, Document(case.prompt.images[0])) for case in shown])
        else:
            without["chance"] = kinds.CASES[subject.kind].chance
        return {**_scores(subject, seen), **without, **_groups(subject, seen)}

    def cases(self) -> Iterator[Case]:
        """The cases, all of the test's part of the world."""
        subject = SUBJECTS[self.name]
        fields = {"seed": self.seed, "length": LENGTH, "split": "test", "resolution": self.resolution}
        source = kinds.cases(subject.kind, steps=self.steps, **fields)
        return islice(filter(subject.only, source.cases()), self.count)

    def _settings(self, case: Case) -> Settings:
        most = 0 if case.reply.images and not self.steps else ANSWER_TOKENS
        return Settings(max_new_tokens=most, guidance=self.guidance, image=self.sampling, seed=self.seed)

    def _blind(self, prompt: Document) -> Document:
        empty = Image(SceneImage(Scene(()), self.resolution))

        def unseen(pieces: Sequence[Piece]) -> list[Piece]:
            return [replaced(piece) for piece in pieces]

        def replaced(piece: Piece) -> Piece:
            if isinstance(piece, Video):
                return replace(piece, frames=(empty,) * len(piece.frames))
            return empty if isinstance(piece, Image) else piece

        return Document([Turn(turn.role, unseen(turn.pieces)) for turn in prompt.turns] or unseen(prompt.pieces))


def _scores(subject: Subject, seen: Sequence[tuple[Case, Document]]) -> dict[str, Any]:
    means = {name: _mean([measure(*one) for one in seen]) for name, measure in subject.measures.items()}
    return {**means, "n": len(seen)}


def _groups(subject: Subject, seen: Sequence[tuple[Case, Document]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, group in subject.groups.items():
        parts: defaultdict[str, list[tuple[Case, Document]]] = defaultdict(list)
        for one in seen:
            parts[group(one[0])].append(one)
        found[name] = {part: _scores(subject, parts[part]) for part in sorted(parts)}
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _judged(case: Case, reply: Document) -> float:
    return case.check(reply)


def _pictured(case: Case, reply: Document) -> float:
    """`object_accuracy` of the picture against the scene that is asked for; 0 on a ground as dark as that of maps, on
    which the oracle would find objects as well."""
    picture = drawing(reply)
    light = picture is not None and np.median(np.asarray(picture)) > np.mean(BACKGROUND) / 2
    return draws(_scene(case.reply).content, reply) if light else 0.0


def _scene(shown: Document) -> Scene:
    source = shown.images[0].source
    assert isinstance(source, SceneImage)
    return source.scene


def _objects(case: Case) -> str:
    return str(len(_scene(case.reply)))


def _to_picture(case: Case) -> bool:
    source = case.reply.images[0].source
    return isinstance(source, SceneImage) and source.style == "plain"


def _change(case: Case) -> str:
    """What an edit does: add, remove, or the attribute that it changes."""
    before, after = set(_scene(case.prompt).content), set(_scene(case.reply).content)
    if len(before) != len(after):
        return "add" if len(after) > len(before) else "remove"
    (old,), (new,) = before - after, after - before
    return next(name for name, was, now in zip(VALUES, old, new, strict=True) if was != now)


def _length(case: Case) -> str:
    return str(len(getattr(case.reply.images[0].source, "text", "")))


def _rounds(case: Case) -> str:
    return str(sum(turn.role == "user" for turn in case.prompt.turns))


def _told_by(case: Case) -> str:
    """Of a context: what its pictures tell. Who does not know the noun cannot read its sentences."""
    first = case.prompt.pieces[0]
    assert isinstance(first, Text)
    return "style" if language.parse(first.text) else "object"


def _from_map(kind: str) -> Subject:
    measures = {"object_accuracy": _pictured, "overlap": _judged}
    return Subject(kind=kind, measures=measures, groups={"by_objects": _objects}, only=_to_picture)


SUBJECTS: dict[str, Subject] = {
    "edit": Subject(
        kind="edits",
        measures={"object_accuracy": _pictured, "done": _judged},
        groups={"by_change": _change, "by_objects": _objects},
    ),
    "segmentation": _from_map("maps"),
    "edges": _from_map("edges"),
    "boxes": Subject(
        kind="placements",
        measures={"in_box": _judged, "object_accuracy": _pictured},
        groups={"by_objects": _objects},
    ),
    "writing": Subject(kind="writings", measures={"read": _judged}, groups={"by_letters": _length}),
    "composition": Subject(kind="compositions", measures={"object_accuracy": _judged}, groups={"by_objects": _objects}),
    "dialogue": Subject(kind="dialogues", measures={"accuracy": _judged}, groups={"by_rounds": _rounds}),
    "sketches": Subject(kind="sketches", measures={"accuracy": _judged}),
    "steps": Subject(kind="steps", measures={"accuracy": _judged}),
    "video": Subject(kind="videos", measures={"accuracy": _judged}),
    "in_context": Subject(kind="contexts", measures={"worth": _judged}, groups={"by_form": _told_by}),
}
"""What is scored, by the name of the task.

edit: the picture after it; `done` is 0 unless the change is done. segmentation, edges: the picture of a map. boxes:
objects in the boxes that are told. writing: texts that are read back. composition: 0 in another style than that of
the second picture. dialogue, sketches, steps: the last answer. video: answers about what happens in it. in_context:
drawings in the style, or of the object, of the prompt's pictures.
"""
