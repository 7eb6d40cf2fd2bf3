"""Tasks on the shapes world: to caption, to answer and to draw scenes that training never showed.

All three score the same held-out scenes. The figures at the top of a task's scores are over scenes of the test with one
and two objects whose pairs of colour and shape occur in training, though the scene itself does not. Scenes with a pair
that never occurs, and scenes of three objects, stand beside as groups of their own and do not count at the top.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch

from plait.data.shapes import language, oracle
from plait.data.shapes.chance import Chance
from plait.data.shapes.questions import KINDS, Question, correct
from plait.data.shapes.score import Counts, object_accuracy, object_counts
from plait.data.shapes.source import Example, Shapes
from plait.data.shapes.split import Pairs
from plait.data.shapes.told import asked, tell
from plait.data.shapes.world import Scene, SceneImage
from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError
from plait.generate.candidates import candidates, reader_of
from plait.generate.engine import Reply, Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.text.requests import DRAW

CAPTION_TOKENS = 96  # three objects take about 30 words, of one or two tokens in a vocabulary learned on captions
ANSWER_TOKENS = 64
MAJORITY_QUESTIONS = 5000
EMPTY = Scene(())  # the picture of it is the background alone


@dataclass(frozen=True)
class Item:
    """A held-out scene with its caption and questions, and which group it is of."""

    number: int
    objects: int
    pairs: Pairs
    example: Example

    @property
    def counts(self) -> bool:
        """Whether it is one of those that the figures at the top are over."""
        return self.objects <= 2 and self.pairs == "seen"


@dataclass(frozen=True, kw_only=True)
class Held:
    """The held-out scenes, all of the test's part of the world.

    Args:
        scenes: with one object, and as many with two; pairs of colour and shape known from training.
        never_seen: with one object, and as many with two; at least one pair that never occurs in training.
        three: with three objects; known pairs.
        resolution: pixels a side.
        questions: asked on each scene.
    """

    seed: int = 20240
    scenes: int = 250
    never_seen: int = 100
    three: int = 200
    resolution: int = 32
    questions: int = 2

    def __post_init__(self) -> None:
        if min(self.scenes, self.questions) < 1 or min(self.never_seen, self.three) < 0:
            raise ConfigError(
                f"{self.scenes} scenes, {self.never_seen} never seen, {self.three} of three objects, {self.questions} "
                "questions: scenes and questions must be at least 1, the others at least 0"
            )

    @classmethod
    def at_most(cls, limit: int | None) -> Held:
        """The default, with at most `limit` scenes in each group."""
        most = limit or cls.scenes
        return cls(scenes=min(cls.scenes, most), never_seen=min(cls.never_seen, most), three=min(cls.three, most))

    def items(self) -> list[Item]:
        """The scenes: one object, two, three; then one and two with never-seen pairs."""
        groups: tuple[tuple[int, Pairs, int], ...] = (
            (1, "seen", self.scenes),
            (2, "seen", self.scenes),
            (3, "seen", self.three),
            (1, "held-out", self.never_seen),
            (2, "held-out", self.never_seen),
        )
        drawn = [
            (objects, pairs, example)
            for objects, pairs, count in groups
            for example in self._source(count, objects, pairs).examples()
        ]
        return [Item(number, *one) for number, one in enumerate(drawn)]

    def picture(self, scene: Scene) -> Image:
        """A scene at the resolution."""
        return Image(SceneImage(scene, self.resolution))

    def _source(self, length: int, objects: int, pairs: Pairs) -> Shapes:
        return Shapes(
            seed=self.seed,
            length=length,
            split="test",
            objects=(objects,),
            resolution=self.resolution,
            questions_each=self.questions,
            pairs=pairs,
        )


@dataclass(frozen=True)
class _Mark:
    """What one item, or one question on it, was worth."""

    item: Item
    value: Any
    kind: str = ""
    seen: bool = True
    """Whether the wording that was read occurs in training."""


_Measure = Callable[[Sequence[_Mark]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ShapesCaption:
    """Describe the picture. Scores by objects named with colour, shape and place, over all captions together.

    A caption that the world's grammar cannot read names nothing; `unread` is the share of those.

    Args:
        asked: False for a model that is not spoken to: it is shown the picture, and its first line counts.
        prompt: for such a model, what stands behind the picture.
    """

    name: ClassVar[str] = "caption"
    held: Held = field(default_factory=Held)
    asked: bool = True
    prompt: str = ""

    def __post_init__(self) -> None:
        if self.asked and self.prompt:
            raise ConfigError(f"asked, and the prompt {self.prompt!r}: give one of them")

    def run(self, model: Model) -> dict[str, Any]:
        """{"object_f1", "unread", "n", "by_objects", "by_pairs"}."""
        return _scores(_described(self.held, model, self.asked, self.prompt), _object_f1)


@dataclass(frozen=True, kw_only=True)
class ShapesDescription:
    """Describe the picture. Scores by the share of descriptions that failed as language, whatever they say of it.

    Failures, as MiniGPT-4's paper has them (section 4.3): repetition, fragments, words that are none of the world's
    (`plait.data.shapes.language.fault`).
    """

    name: ClassVar[str] = "description"
    held: Held = field(default_factory=Held)

    def run(self, model: Model) -> dict[str, Any]:
        """{"failed", "n", "by_fault", "by_objects", "by_pairs"}."""
        marks = _described(self.held, model)
        return {**_scores(marks, _failed), "by_fault": _by_fault(marks)}


@dataclass(frozen=True, kw_only=True)
class ShapesQuestions:
    """Answer questions on the picture, in the right words and no others, but for steps that stand before them.

    Steps (`Shapes.steps`) are not judged.

    Two figures tell how far that goes without looking: `blind_accuracy`, the same model before the picture of an empty
    scene, which keeps the document's form; and `majority_accuracy`, the most frequent answer to the same text (or, if
    it is new, to its kind) among 5,000 training questions on one and two objects.
    """

    name: ClassVar[str] = "vqa"
    held: Held = field(default_factory=Held)

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "blind_accuracy", "majority_accuracy"}, and the groups "by_objects", "by_pairs",
        "by_wordings" and "by_kind"."""
        return _answered(self.held, model, self._prompt, self._blindly)

    def _prompt(self, item: Item, question: Question) -> Document:
        return self._shown(item.example.scene, question)

    def _blindly(self, question: Question) -> Document:
        return self._shown(EMPTY, question)

    def _shown(self, scene: Scene, question: Question) -> Document:
        return Document([Turn("user", [self.held.picture(scene), Text(question.text)])])


@dataclass(frozen=True, kw_only=True)
class ShapesTextQuestions:
    """Answer questions on scenes that are told in words, where a picture would stand (`plait.data.shapes.told`).

    `blind_accuracy` is that of the same model when nothing is told.
    """

    name: ClassVar[str] = "told"
    held: Held = field(default_factory=Held)

    def run(self, model: Model) -> dict[str, Any]:
        """As `ShapesQuestions.run`."""
        return _answered(self.held, model, self._prompt, lambda question: asked("", [(question.text, "")]))

    def _prompt(self, item: Item, question: Question) -> Document:
        told = tell(item.example.scene, Chance(self.held.seed, item.number))
        return asked(told, [(question.text, "")])


@dataclass(frozen=True, kw_only=True)
class ShapesDraw:
    """Draw the scene that a caption describes; an oracle reads the objects back from the pixels.

    A drawing is worth the objects that are right in colour, shape, size and place, over the larger of the numbers of
    objects asked for and found; no drawing is worth 0. Scores are means over drawings. `exact` is the share of those
    without any fault.

    Args:
        best_of: drawings of each caption, of which the model keeps the one that it would describe so.
        asked: in a conversation (`plait.text.requests.DRAW`), where the model is to draw of its own accord; else the
            caption is followed by the place of its picture.
    """

    name: ClassVar[str] = "draw"
    held: Held = field(default_factory=Held)
    guidance: float = 2.0
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8, top_p=0.9))
    seed: int = 0
    best_of: int = 1
    asked: bool = False

    def run(self, model: Model) -> dict[str, Any]:
        """{"object_accuracy", "exact", "n", "by_objects", "by_pairs", "by_wordings"}; "first", of several drawings."""
        items = self.held.items()
        most = ANSWER_TOKENS if self.asked else 0
        settings = Settings(max_new_tokens=most, guidance=self.guidance, image=self.sampling, seed=self.seed)
        prompts = [self._prompt(item) for item in items]
        if self.best_of == 1:
            return _scores(_drawings(items, _pictures(model.generate(prompts, settings))), _object_accuracy)
        judge = reader_of(model, language.REQUESTS[0])
        found = candidates(model, prompts, judge, [settings] * self.best_of)
        first = _drawings(items, _pictures([one.best_of(1) for one in found]))
        best = _drawings(items, _pictures([one.best for one in found]))
        counted = [mark for mark in first if mark.item.counts]
        return {**_scores(best, _object_accuracy), "first": _object_accuracy(counted)}

    def _prompt(self, item: Item) -> Document:
        caption = item.example.caption
        if not self.asked:
            return Document([Text(caption), Blank("image")])
        return Document([Turn("user", DRAW[item.number % len(DRAW)].request(caption))])


@dataclass(frozen=True, kw_only=True)
class ShapesDrawings:
    """Give pictures again, from the pictures themselves or from their captions; scored as `ShapesDraw`.

    What draws is the system's: its `drawings` (name -> function of pictures, captions and generators of noise) are
    scored one by one.
    """

    name: ClassVar[str] = "drawings"
    held: Held = field(default_factory=Held)
    seed: int = 0

    def run(self, model: Model) -> dict[str, Any]:
        """By each way to draw: as `ShapesDraw.run`.

        Raises:
            ConfigError: the system draws nothing so.
        """
        drawings = getattr(model.system, "drawings", None)
        if not drawings:
            raise ConfigError(f"{model.system.name} gives no pictures again: score it by another task")
        items = self.held.items()
        pictures = [self.held.picture(item.example.scene) for item in items]
        captions = [item.example.caption for item in items]
        scores: dict[str, Any] = {}
        for name, draw in drawings.items():
            noise = [torch.Generator().manual_seed(self.seed + item.number) for item in items]
            with torch.inference_mode():
                made = draw(pictures, captions, noise)
            scores[name] = _scores(_drawings(items, [[picture] for picture in made]), _object_accuracy)
        return scores


def _pictures(replies: Sequence[Reply]) -> list[Sequence[Image]]:
    return [reply.document.images for reply in replies]


def _drawings(items: Sequence[Item], drawn: Sequence[Sequence[Image]]) -> list[_Mark]:
    """What one drawing of each caption is worth; nothing where there is none."""
    return [
        _Mark(item, _drawn(item.example.scene, pictures), seen=item.example.caption_seen)
        for item, pictures in zip(items, drawn, strict=True)
    ]


def _described(held: Held, model: Model, asked: bool = True, prompt: str = "") -> list[_Mark]:
    """Each scene with what the model says when it is asked to describe it, or in the first line after its picture.

    Args:
        prompt: behind the picture, where it is not asked.
    """
    items = held.items()
    pictures = [held.picture(item.example.scene) for item in items]
    prompts = [Document([picture, *([Text(prompt)] if prompt else [])]) for picture in pictures]
    if asked:
        requests = [Text(language.REQUESTS[item.number % len(language.REQUESTS)]) for item in items]
        prompts = [Document([Turn("user", [*pair])]) for pair in zip(pictures, requests, strict=True)]
    replies = model.generate(prompts, Settings(max_new_tokens=CAPTION_TOKENS))
    said = [reply.text if asked else reply.text.partition("\n")[0] for reply in replies]
    return [_Mark(item, text) for item, text in zip(items, said, strict=True)]


def tasks(limit: int | None = None) -> tuple[ShapesCaption, ShapesQuestions, ShapesDraw]:
    """All three, on the same scenes: at most `limit` of each group."""
    held = Held.at_most(limit)
    return ShapesCaption(held=held), ShapesQuestions(held=held), ShapesDraw(held=held)


def majority(seed: int, count: int = MAJORITY_QUESTIONS) -> Callable[[Question], str]:
    """Who answers without looking: the most frequent answer to a text among `count` training questions.

    To a text that does not occur there, the most frequent answer to questions of its kind.
    """
    each = 4
    source = Shapes(seed=seed, length=-(-count // each), questions_each=each)
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in [question for example in source.examples() for question in example.questions][:count]:
        by_text[question.text][question.answer] += 1
        by_kind[question.kind][question.answer] += 1

    def guess(question: Question) -> str:
        known = by_text.get(question.text) or by_kind[question.kind]
        return known.most_common(1)[0][0] if known else ""

    return guess


def _scores(marks: Sequence[_Mark], measure: _Measure) -> dict[str, Any]:
    """The figures at the top, and groups by the number of objects, by pairs, and of those at the top by wordings."""
    counted = [mark for mark in marks if mark.item.counts]
    known = [mark for mark in marks if mark.item.pairs == "seen"]
    numbers = sorted({mark.item.objects for mark in known})
    unknown = [mark for mark in marks if mark.item.pairs == "held-out"]
    worded = {name: [mark for mark in counted if mark.seen == (name == "seen")] for name in ("seen", "never seen")}
    return {
        **measure(counted),
        "by_objects": {str(number): measure([m for m in known if m.item.objects == number]) for number in numbers},
        "by_pairs": {"seen": measure(counted), **({"never seen": measure(unknown)} if unknown else {})},
        **(
            {"by_wordings": {name: measure(some) for name, some in worded.items() if some}}
            if worded["never seen"]
            else {}
        ),
    }


def _object_f1(marks: Sequence[_Mark]) -> dict[str, Any]:
    found = [object_counts(mark.item.example.scene, mark.value) for mark in marks]
    total = Counts(*(sum(column) for column in zip(*found, strict=True)))
    unread = sum(language.parse(mark.value) is None for mark in marks)
    return {"object_f1": total.f1, "unread": unread / len(marks), "n": len(marks)}


def _failed(marks: Sequence[_Mark]) -> dict[str, Any]:
    return {"failed": _mean(language.fault(mark.value) is not None for mark in marks), "n": len(marks)}


def _by_fault(marks: Sequence[_Mark]) -> dict[str, float]:
    """The share of each fault, of those that count at the top."""
    faults = [language.fault(mark.value) for mark in marks if mark.item.counts]
    return {name: faults.count(name) / len(faults) for name in get_args(language.Fault)}


def _answered(
    held: Held, model: Model, prompt: Callable[[Item, Question], Document], blindly: Callable[[Question], Document]
) -> dict[str, Any]:
    """The scores of answers to all questions, with what is said to them blindly, and by a guess."""
    put = [(item, question) for item in held.items() for question in item.example.questions]
    counted = [(item, question) for item, question in put if item.counts]
    seeing = [prompt(item, question) for item, question in put]
    blind = {question.text: blindly(question) for _, question in counted}  # the same text, once
    replies = model.generate([*seeing, *blind.values()], Settings(max_new_tokens=ANSWER_TOKENS))
    marks = [_mark(*one, reply) for one, reply in zip(put, replies[: len(put)], strict=True)]
    unseen = dict(zip(blind, replies[len(put) :], strict=True))
    unseeing = [_mark(item, question, unseen[question.text]) for item, question in counted]
    guess = majority(held.seed)
    guessed = [correct(question, guess(question)) for _, question in counted]
    return {
        **_scores(marks, _accuracy),
        "blind_accuracy": _accuracy(unseeing)["accuracy"],
        "majority_accuracy": sum(guessed) / len(guessed),
        "by_kind": {kind: _of_kind(kind, marks, unseeing) for kind in KINDS if any(m.kind == kind for m in unseeing)},
    }


def _mark(item: Item, question: Question, reply: Reply) -> _Mark:
    return _Mark(item, correct(question, reply.text), question.kind, question.seen)


def _accuracy(marks: Sequence[_Mark]) -> dict[str, Any]:
    return {"accuracy": _mean(mark.value for mark in marks), "n": len(marks)}


def _of_kind(kind: str, marks: Sequence[_Mark], blindly: Sequence[_Mark]) -> dict[str, Any]:
    seeing = [mark for mark in marks if mark.kind == kind and mark.item.counts]
    blind = [mark for mark in blindly if mark.kind == kind]
    return {**_accuracy(seeing), "blind_accuracy": _accuracy(blind)["accuracy"]}


def _drawn(scene: Scene, pictures: Sequence[Image]) -> float:
    """What the first picture is worth."""
    return object_accuracy(scene.content, oracle.read(pictures[0].open()).content) if pictures else 0.0


def _object_accuracy(marks: Sequence[_Mark]) -> dict[str, Any]:
    exact = _mean(mark.value == 1 for mark in marks)
    return {"object_accuracy": _mean(mark.value for mark in marks), "exact": exact, "n": len(marks)}


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)
