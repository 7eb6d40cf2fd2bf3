"""Instructions: requests on a picture that also say what form the answer is to have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from plait.data.shapes import boxes, language, questions
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS, bare
from plait.data.shapes.naming import NUMBERS, name_of, value_of
from plait.data.shapes.score import object_accuracy, says
from plait.data.shapes.split import Part, draw_scene
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, VALUES, Scene, SceneImage
from plait.document import Document, Image

OBJECTS = (2, 3)

FORMATS = {
    "word": Wordings(
        ("answer in one word.", "use one word.", "say it in one word.", "one word is enough."), ("in one word:",)
    ),
    "sentence": Wordings(
        ("answer in a sentence.", "use a whole sentence.", "say it in a sentence."), ("in a sentence:",)
    ),
    "yes-no": Wordings(("answer yes or no.", "say yes or no.", "use yes or no."), ("is it yes or no:",)),
    "list": Wordings(("answer with a list.", "use a list.", "say it as a list."), ("as a list:",)),
    "numbers": Wordings(
        ("answer in four numbers.", "use four numbers.", "say it in four numbers."), ("in four numbers:",)
    ),
}
LISTING = Wordings(
    ("which {v}s do you see?", "name the {v}s of the objects.", "what {v}s do the objects have?"),
    ("the objects have which {v}s?",),
)
SENTENCES = {"colour": "it is {}.", "shape": "it is a {}.", "place": "it is {}.", "count": "there {} {}."}


class Request(NamedTuple):
    """What is asked, the right answer in the form asked for, and its judge."""

    text: str
    answer: str
    check: Callable[[Document], float]


@dataclass(frozen=True, kw_only=True)
class Instructions(Cases):
    """A question, and before or behind it the form of the answer: a word, a sentence, yes or no, a list, four numbers.

    An answer in another form is worth nothing. Words, yes and no are checked word for word; a sentence must have at
    least three words, a final dot and no value but the right one, or, where the picture is to be described, is worth
    `object_accuracy`; a list the values that are right over the larger of the two numbers of values; a box its IoU.

    Chance: of the most frequent answers of training to the same request, or else to one of the same form, the one that
    is worth most there.
    """

    name: ClassVar[str] = "instructions"
    chance: ClassVar[float] = 0.19

    def case(self, i: int) -> Case:
        """Case i."""
        chance = self.stream(i)
        scene = draw_scene(chance, OBJECTS, self.split)
        form, made = chance.choice(tuple(FORMATS)), None
        while made is None:
            made = _MAKERS[form](scene, chance, self.split)
            form = form if made else "word"  # which fits every scene
        wanted = FORMATS[form].pick(chance, self.split)
        first = wanted.endswith(":") or chance.unit() < 0.5
        text = f"{wanted} {made.text}" if first else f"{made.text} {wanted}"
        return Case.asked([Image(SceneImage(scene, self.resolution)), text], made.answer, made.check)


def mentioned(kind: str, text: str) -> list[str]:
    """The values of a kind of question that a text mentions: colours, shapes, places or numbers."""
    return [_VALUE_OF[kind][words] for words in _VALUE_PATTERNS[kind].findall(bare(text))]


def _question(scene: Scene, chance: Chance, part: Part, kinds: tuple[str, ...]) -> questions.Question:
    kind = chance.choice(kinds)
    return questions.questions(scene, chance, 1, part != "test", {kind: 1.0})[0]


def _word(scene: Scene, chance: Chance, part: Part) -> Request:
    question = _question(scene, chance, part, ("colour", "shape", "count"))
    return Request(question.text, question.answer, partial(says, question.answer))


def _yes_no(scene: Scene, chance: Chance, part: Part) -> Request:
    question = _question(scene, chance, part, ("yes-no", "existence"))
    return Request(question.text, question.answer, partial(says, question.answer))


def _sentence(scene: Scene, chance: Chance, part: Part) -> Request | None:
    if chance.unit() < 0.25:
        caption = language.caption(scene, chance, train=part != "test").text
        return Request(chance.choice(language.REQUESTS), caption, partial(_described, scene))
    question = _question(scene, chance, part, tuple(SENTENCES))
    if question.kind not in SENTENCES:  # the scene has none of the kind
        return None
    said = PLACE_WORDS[question.answer][0] if question.kind == "place" else question.answer
    number = ("is" if said == "one" else "are",) if question.kind == "count" else ()
    return Request(
        question.text, SENTENCES[question.kind].format(*number, said), partial(_stated, question.kind, question.answer)
    )


def _list(scene: Scene, chance: Chance, part: Part) -> Request:
    attribute = chance.choice(("colour", "shape"))
    objects = sorted(scene.objects, key=lambda item: PLACES.index(item.place))
    values = [value_of(item, attribute) for item in objects]
    return Request(
        LISTING.pick(chance, part).format(v=attribute), ", ".join(values), partial(_listed, attribute, values)
    )


def _numbers(scene: Scene, chance: Chance, part: Part) -> Request | None:
    item = chance.choice(scene.objects)
    name = name_of(scene, item, "place", chance)
    if name is None:
        return None
    box = boxes.box(item)
    text = boxes.GROUNDING.pick(chance, part).format(a="the " + name)
    return Request(text, boxes.written(box), partial(boxes.found, box))


def _described(scene: Scene, reply: Document) -> float:
    return object_accuracy(scene.content, language.parse(reply.text) or ()) if _is_sentence(reply.text) else 0.0


def _stated(kind: str, answer: str, reply: Document) -> float:
    return float(_is_sentence(reply.text) and mentioned(kind, reply.text) == [answer])


def _is_sentence(text: str) -> bool:
    return text.strip().endswith(".") and len(text.split()) > 2


def _listed(attribute: str, values: list[str], reply: Document) -> float:
    said = [entry.strip() for entry in bare(reply.text).split(",")]
    if not set(said) <= set(VALUES[attribute]):
        return 0.0
    return (Counter(said) & Counter(values)).total() / max(len(said), len(values))


_MAKERS: dict[str, Callable[[Scene, Chance, Part], Request | None]] = {
    "word": _word,
    "sentence": _sentence,
    "yes-no": _yes_no,
    "list": _list,
    "numbers": _numbers,
}
_VALUE_OF: dict[str, dict[str, str]] = {
    "colour": dict(zip(COLOURS, COLOURS, strict=True)),
    "shape": dict(zip(SHAPES, SHAPES, strict=True)),
    "place": {words: place for place in PLACES for words in PLACE_WORDS[place]},
    "count": dict(zip(NUMBERS, NUMBERS, strict=True)),
}
_VALUE_PATTERNS = {  # the longest first: "at the top left" is not "at the top"
    kind: re.compile(r"\b(?:" + "|".join(sorted(values, key=len, reverse=True)) + r")\b")
    for kind, values in _VALUE_OF.items()
}
