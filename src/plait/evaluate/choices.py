"""Tasks that are scored by what a model holds for likeliest: matrices, opinions, descriptions, common sense, names.

Models are not spoken to here (`plait.evaluate.shots`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from plait.data.shapes.descriptions import Descriptions
from plait.data.shapes.matrices import CANDIDATES, Matrices
from plait.data.shapes.nouns import ASKED, NOUNS
from plait.data.shapes.source import Shapes
from plait.data.shapes.split import Pairs
from plait.data.shapes.words import LEAST, Opinions
from plait.data.shapes.world import COLOURS, SHAPES, SIZES, Scene, SceneImage
from plait.document import Document, Image, Text
from plait.errors import ConfigError
from plait.evaluate.counted import Counted
from plait.evaluate.prompting import answering, best, rank, two_steps
from plait.evaluate.shots import behind_steps, means
from plait.generate.model import Model
from plait.text.questions import INTRODUCE, NAME, QUESTION, SENTIMENT, short_answer

FEELINGS = ("positive", "negative")
RATIONALE_TOKENS = 32
MATRIX_TOKENS = 96  # of steps: nine values of four attributes


@dataclass(frozen=True, kw_only=True)
class ShapesMatrices(Counted):
    """Which of six pictures completes a matrix: that behind which "Yes" is likeliest as the answer whether it does.

    Args:
        steps: the model first tells of each candidate what it looks at (`Matrix.look`), and answers behind that.
    """

    name: ClassVar[str] = "matrices"
    count: int = 120
    steps: bool = False

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "chance", "by_attribute"}: by what the candidates differ in."""
        source = Matrices(seed=self.seed, length=self.count, split="test", resolution=self.resolution, form="judge")
        cases = [source.case(i) for i in range(self.count)]
        prompts = [candidate for case in cases for candidate in case.candidates]
        if self.steps:
            prompts = behind_steps(model, prompts, MATRIX_TOKENS)
        scores = [score for (score,) in rank(model, prompts, [["Yes"]] * len(prompts), ended=False)]
        right = [best(scores[i * CANDIDATES : (i + 1) * CANDIDATES]) == case.right for i, case in enumerate(cases)]
        by = defaultdict(list)
        for i, mark in enumerate(right):
            by[source.matrix(i).asked].append(mark)
        groups = {name: means(by[name]) for name in sorted(by)}
        return {**means(right), "chance": Matrices.chance, "by_attribute": groups}


@dataclass(frozen=True, kw_only=True)
class ShapesOpinions(Counted):
    """Whether an opinion that is written in a picture is positive: read by the model itself, from the pixels.

    Args:
        steps: the model first tells what it sees, and is asked behind that (the multimodal chain of thought).
    """

    resolution: int = LEAST
    steps: bool = False

    @property
    def name(self) -> str:
        """By whether there are steps."""
        return "opinions-steps" if self.steps else "opinions"

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "chance"}, and with steps "read": how often what was told holds the whole opinion."""
        source = Opinions(seed=self.seed, length=self.count, split="test", resolution=self.resolution)
        pictures = [case.prompt.images[0] for case in source.cases()]
        opinions = [source.opinion(i) for i in range(self.count)]
        prompts = [Document([picture, Text(SENTIMENT)]) for picture in pictures]
        told: list[str] = []
        if self.steps:
            said: dict[int, str] = {}

            def then(number: int, text: str) -> Document:
                said[number] = text.strip()
                return Document([pictures[number], *([Text(said[number])] if said[number] else []), Text(SENTIMENT)])

            first = [Document([picture, Text(INTRODUCE)]) for picture in pictures]
            prompts = two_steps(model, first, then, answering(model, RATIONALE_TOKENS))
            told = [said[i] for i in range(self.count)]
        scores = rank(model, prompts, [FEELINGS] * self.count, ended=False)
        right = [FEELINGS[best(one)] == FEELINGS[not good] for one, (_, good) in zip(scores, opinions, strict=True)]
        read = [text in " ".join(one.lower().split()) for one, (text, _) in zip(told, opinions, strict=False)]
        return {**means(right), "chance": Opinions.chance, **({"read": means(read)["accuracy"]} if read else {})}


@dataclass(frozen=True, kw_only=True)
class ShapesDescriptions(Counted):
    """Which of two invented names a picture has: when both are described before it, and when they are only named."""

    name: ClassVar[str] = "descriptions"

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "undescribed_accuracy", "chance"}."""
        found = {}
        for described in (True, False):
            source = Descriptions(
                seed=self.seed,
                length=self.count,
                split="test",
                resolution=self.resolution,
                described=described,
            )
            cases = [source.case(i) for i in range(self.count)]
            names = [[candidate.text for candidate in case.candidates] for case in cases]
            scores = rank(model, [case.prompt for case in cases], names, ended=False)
            found[described] = means(best(one) == case.right for one, case in zip(scores, cases, strict=True))
        return {**found[True], "undescribed_accuracy": found[False]["accuracy"], "chance": Descriptions.chance}


class _Question(NamedTuple):
    kind: str
    text: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True, kw_only=True)
class ShapesCommonsense:
    """What colour and size things have that were only ever seen in pictures, asked in text alone.

    Everything is asked of all twelve invented nouns in all wordings; two are compared in both orders.
    """

    name: ClassVar[str] = "commonsense"
    limit: int = 1000
    """Questions of each kind."""
    template: str = QUESTION

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigError(f"{self.limit} questions of each kind: give at least 1")

    @classmethod
    def at_most(cls, limit: int | None) -> ShapesCommonsense:
        """The default, with at most `limit` questions of each kind."""
        return cls(limit=min(cls.limit, limit or cls.limit))

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "by_kind"}; of each kind its chance, too: of any of the answers, or the commonest one."""
        asked = self.asked()
        prompts = [Document(self.template.format(question=one.text)) for one in asked]
        scores = rank(model, prompts, [one.options for one in asked], ended=False)
        marks = [best(found) == one.right for found, one in zip(scores, asked, strict=True)]
        kinds = {}
        for kind in dict.fromkeys(one.kind for one in asked):
            there = [(one, mark) for one, mark in zip(asked, marks, strict=True) if one.kind == kind]
            commonest = max(sum(one.right == i for one, _ in there) for i in range(len(there[0][0].options)))
            kinds[kind] = {**means(mark for _, mark in there), "chance": commonest / len(there)}
        return {**means(marks), "by_kind": kinds}

    def asked(self) -> list[_Question]:
        """All questions, kind by kind."""
        found = [
            [
                _Question(kind, text.format(a=f"a {noun}"), options, options.index(facts[at]))
                for noun, facts in NOUNS.items()
                for text in ASKED[kind].seen
            ]
            for kind, at, options in (
                ("colour", 0, tuple(COLOURS)),
                ("shape", 1, tuple(SHAPES)),
                ("size", 2, tuple(SIZES)),
            )
        ]
        larger = [
            _Question("larger", text.format(a=f"a {first}", b=f"a {second}"), (first, second), int(sizes[0] == "small"))
            for first in NOUNS
            for second in NOUNS
            for text in ASKED["larger"].seen
            if (sizes := (NOUNS[first][2], NOUNS[second][2])) and sizes[0] != sizes[1]
        ]
        return [one for kind in (*found, larger) for one in kind[: self.limit]]


@dataclass(frozen=True, kw_only=True)
class ShapesNames(Counted):
    """The colour and shape of the only object as the name of its class, behind "The photo of the".

    Twice: what the model says up to the first full stop must be the name; and it says one of all names, which beams
    find along the tree of their ids.
    """

    name: ClassVar[str] = "names"
    count: int = 100
    beams: int = 2
    prompt: str = NAME

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "constrained_accuracy", "chance", "by_pairs"}: at the top pairs of colour and shape that
        training shows."""
        names = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
        groups = {"seen": self._scores(model, names, "seen"), "never seen": self._scores(model, names, "held-out")}
        return {**groups["seen"], "chance": 1 / len(names), "by_pairs": groups}

    def _scores(self, model: Model, names: tuple[str, ...], pairs: Pairs) -> dict[str, Any]:
        source = Shapes(seed=self.seed, length=self.count, split="test", objects=(1,), pairs=pairs)
        scenes = [source.scene(i) for i in range(self.count)]
        prompts = [self._prompt(scene) for scene in scenes]
        wanted = [f"{scene.objects[0].colour} {scene.objects[0].shape}" for scene in scenes]
        settings = answering(model)
        free = model.generate(prompts, settings)
        among = model.generate(prompts, max_new_tokens=settings.max_new_tokens, beams=self.beams, among=names)
        said, chosen = ([short_answer(reply.text) for reply in replies] for replies in (free, among))
        exact = means(one == name for one, name in zip(said, wanted, strict=True))
        held = means(one == name for one, name in zip(chosen, wanted, strict=True))
        return {**exact, "constrained_accuracy": held["accuracy"]}

    def _prompt(self, scene: Scene) -> Document:
        return Document([Image(SceneImage(scene, self.resolution)), Text(self.prompt)])
