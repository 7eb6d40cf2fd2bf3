"""Few-shot tasks on the shapes world: questions, names that are told by examples, and pages of the web.

Models are not spoken to here: prompts are documents of pieces, which they go on with, as KOSMOS-1 and Emu are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from plait.data.prompted import spoken
from plait.data.shapes.cases import Case
from plait.data.shapes.episodes import Episode, Episodes
from plait.data.shapes.pages import Pages
from plait.data.shapes.questions import KINDS, SO, Question
from plait.data.shapes.source import Shapes
from plait.data.shapes.world import Scene, SceneImage
from plait.document import Document, Image, Text
from plait.errors import ConfigError
from plait.evaluate.counted import Counted
from plait.evaluate.prompting import SHOTS, AtRandom, Choice, FewShot, Nearest, answering, best, rank, two_steps
from plait.generate.model import Model
from plait.retrieval.embed import load_embedder
from plait.text.questions import QUESTION, short_answer

TRAINED = ("colour", "place", "count", "existence")
"""The kinds of questions that pages of training hold; the others are met in tests alone."""
EPISODE_TOKENS = 128  # of steps: eight examples and one more picture
LENGTH = 1_000_000  # of a source, whose first cases are scored


def means(values: Iterable[float], measure: str = "accuracy") -> dict[str, Any]:
    """{measure, "n"}."""
    kept = list(values)
    return {measure: sum(kept) / len(kept), "n": len(kept)}


def behind_steps(model: Model, prompts: Sequence[Document], tokens: int) -> list[Document]:
    """Prompts of pieces, each with what the model says to it up to the last ": ": what it looks at before it answers.

    Args:
        tokens: that it may say, also where a system's answers are shorter: of steps that are cut short none is left.
    """

    def then(number: int, said: str) -> Document:
        steps, so, _ = said.rpartition(SO)
        return Document([*prompts[number], steps + so]) if so else prompts[number]

    return two_steps(model, prompts, then, replace(answering(model), max_new_tokens=tokens))


@dataclass(frozen=True, kw_only=True)
class ShapesShots(Counted):
    """Questions on pictures, behind 0, 2, 4 and 8 answered questions of the same kind on other pictures.

    Args:
        count: questions; each kind is as likely.
        trained: the kinds that count as known from training, the others as new.
        pool: examples of each kind, all of training's part of the world.
        template: of a question.
        towers: a run or checkpoint whose towers choose the examples, the likest pictures; none: they are drawn.
    """

    name: ClassVar[str] = "few-shot"
    count: int = 240
    shots: tuple[int, ...] = SHOTS
    trained: tuple[str, ...] = TRAINED
    pool: int = 100
    template: str = QUESTION
    towers: str = ""

    def __post_init__(self) -> None:
        if self.count < 1 or not self.shots or not set(self.trained) <= set(KINDS):
            raise ConfigError(
                f"{self.count} questions, shots {self.shots}, trained {self.trained}: give at least 1 question, one "
                f"number of shots, and kinds of {', '.join(KINDS)}"
            )

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "blind_accuracy", "by_shots"}: at the top without examples; blind before an empty scene.

        Of each number of shots: {"accuracy", "n", "trained", "new", "by_kind"}.
        """
        asked = self.asked()
        shown = [self._prompt(scene, question) for scene, question in asked]
        pools = {kind: self._pool(kind) for kind in {question.kind for _, question in asked}}
        chosen: dict[str, Choice] = {kind: self._choice(pool) for kind, pool in pools.items()}
        by_shots: dict[str, Any] = {}
        for count in self.shots:
            ways = {kind: FewShot(pool, count, chosen[kind]) for kind, pool in pools.items()}
            prompts = [ways[question.kind](shown[i], i) for i, (_, question) in enumerate(asked)]
            by_shots[str(count)] = self._scores(asked, self._right(model, prompts, asked))
        blind = self._right(model, [self._prompt(Scene(()), question) for _, question in asked], asked)
        first = by_shots[str(self.shots[0])]
        return {
            "accuracy": first["accuracy"],
            "n": len(asked),
            "blind_accuracy": means(blind)["accuracy"],
            "by_shots": by_shots,
        }

    def asked(self) -> list[tuple[Scene, Question]]:
        """The scenes, of the test, and what is asked on them."""
        return [(example.scene, example.questions[0]) for example in self._source("test", self.count).examples()]

    def _source(self, split: Any, length: int, kinds: Sequence[str] = tuple(KINDS)) -> Shapes:
        asks = dict.fromkeys(kinds, 1.0)
        return Shapes(
            seed=self.seed,
            length=length,
            split=split,
            objects=(2,) if len(kinds) == 1 else (1, 2),
            asks=asks,
            questions_each=1,
            resolution=self.resolution,
        )

    def _pool(self, kind: str) -> list[Document]:
        """Answered questions of a kind."""
        found = []
        for example in self._source("train", self.pool, (kind,)).examples():
            question = example.questions[0]
            prompt = self._prompt(example.scene, question)
            found.append(Document([*prompt.pieces, Text(f"{question.answer}.")]))
        return found

    def _choice(self, pool: list[Document]) -> Choice:
        return Nearest.of(pool, load_embedder(self.towers)) if self.towers else AtRandom(self.seed)

    def _prompt(self, scene: Scene, question: Question) -> Document:
        picture = Image(SceneImage(scene, self.resolution))
        return Document([picture, Text(self.template.format(question=question.text))])

    def _right(self, model: Model, prompts: list[Document], asked: list[tuple[Scene, Question]]) -> list[bool]:
        replies = model.generate(prompts, answering(model))
        return [
            short_answer(reply.text) == question.answer for reply, (_, question) in zip(replies, asked, strict=True)
        ]

    def _scores(self, asked: list[tuple[Scene, Question]], right: list[bool]) -> dict[str, Any]:
        def those(wanted: Callable[[str], bool]) -> list[bool]:
            return [mark for mark, (_, question) in zip(right, asked, strict=True) if wanted(question.kind)]

        known = those(lambda kind: kind in self.trained)
        new = those(lambda kind: kind not in self.trained)
        kinds = {kind: those(lambda one, kind=kind: one == kind) for kind in KINDS}  # type: ignore[misc]
        return {
            **means(right),
            **({"trained": means(known)} if known else {}),
            **({"new": means(new)} if new else {}),
            "by_kind": {kind: means(marks) for kind, marks in kinds.items() if marks},
        }


@dataclass(frozen=True, kw_only=True)
class ShapesEpisodes(Counted):
    """Invented names of two kinds of pictures, told by 0, 2, 4 and 8 examples; the likelier name for one more picture.

    The same pictures are named behind each number of examples, which are as many of either name.

    Args:
        steps: the model first tells what each picture shows (`Episodes`), and names the last one behind that.
    """

    name: ClassVar[str] = "episodes"
    steps: bool = False
    shots: tuple[int, ...] = SHOTS

    def __post_init__(self) -> None:
        if self.count < 1 or not self.shots or any(count % 2 or count < 0 for count in self.shots):
            raise ConfigError(f"{self.count} episodes, shots {self.shots}: at least 1, and even numbers of examples")

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "chance", "by_shots"}: at the top with the most examples."""
        cases = list(self.cases())
        names = [[candidate.text for candidate in case.candidates] for case in cases]
        by_shots = {}
        for count in self.shots:
            prompts = [self.prompt(case, count) for case in cases]
            if self.steps:
                prompts = behind_steps(model, prompts, EPISODE_TOKENS)
            scores = rank(model, prompts, names)
            right = [best(found) == case.right for found, case in zip(scores, cases, strict=True)]
            by_shots[str(count)] = means(right)
        return {**by_shots[str(max(self.shots))], "chance": Episodes.chance, "by_shots": by_shots}

    def cases(self) -> Iterable[Episode]:
        """All of the test's part of the world."""
        most = max(1, max(self.shots) // 2)
        source = Episodes(
            seed=self.seed, length=self.count, split="test", shots=most, ways=2, resolution=self.resolution
        )
        return (source.case(i) for i in range(self.count))

    @staticmethod
    def prompt(case: Episode, count: int) -> Document:
        """The picture that is to be named behind the first `count` examples, as many of each name."""
        left = dict.fromkeys((candidate.text for candidate in case.candidates), count // 2)
        *shown, last = case.prompt.pieces
        kept = []
        for picture, name in zip(shown[::2], shown[1::2], strict=True):
            assert isinstance(name, Text)
            if left[name.text]:
                left[name.text] -= 1
                kept += [picture, name]
        return Document([*kept, last])


@dataclass(frozen=True, kw_only=True)
class ShapesPages(Counted):
    """A question on one picture of a page of the web, with the page's pictures and by its text alone.

    Args:
        template: of the question.
    """

    name: ClassVar[str] = "pages"
    what: ClassVar[str] = "pages"
    template: str = QUESTION

    def run(self, model: Model) -> dict[str, Any]:
        """{"accuracy", "n", "text_accuracy", "chance"}."""
        source = Pages(seed=self.seed, length=self.count, split="test", resolution=self.resolution)
        cases = list(source.cases())
        seen = [spoken(case.prompt, self.template) for case in cases]
        unseen = [Document([piece for piece in prompt.pieces if isinstance(piece, Text)]) for prompt in seen]
        replies = model.generate([*seen, *unseen], answering(model))
        right = [_checked(case, reply.text) for case, reply in zip([*cases, *cases], replies, strict=True)]
        without = means(right[len(cases) :])["accuracy"]
        return {**means(right[: len(cases)]), "text_accuracy": without, "chance": Pages.chance}


def _checked(case: Case, reply: str) -> float:
    return case.check(Document(short_answer(reply)))
