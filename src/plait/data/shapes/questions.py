"""Questions on a scene, with one right answer each, of one or two words.

They are balanced: who does not see the picture gains little. Objects are named by whatever tells them apart, never by
what is asked; yes and no are drawn first, and the question is made to fit. About a tenth of the wordings never occur in
training, nor does a question that names a held-out pair of colour and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS, bare
from plait.data.shapes.looking import ANY, NO, YES, either, like, look, valued
from plait.data.shapes.naming import NUMBERS, Named, named_by, phrase, plural, value_of
from plait.data.shapes.score import says
from plait.data.shapes.split import another
from plait.data.shapes.world import OPPOSITE, VALUES, Object, Scene
from plait.document import Document

TRIES = 256  # draws of a kind that the scene may turn down

# Shares of the kinds. What is answered by yes or no (the last three, less a part of comparison, and a third of
# relation) is kept under a third: there, a blind guess is right half the time.
KINDS: dict[str, float] = {
    "colour": 0.16,
    "shape": 0.16,
    "place": 0.15,
    "count": 0.12,
    "relation": 0.12,
    "comparison": 0.12,
    "yes-no": 0.09,
    "existence": 0.08,
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its answer; `seen` is false for a wording that never occurs in training."""

    kind: str
    text: str
    answer: str
    seen: bool = True
    steps: tuple[str, ...] = ()
    """What is looked at, one after the other, and whether it is what is asked about."""

    def said(self, steps: bool) -> str:
        """The answer, alone or behind the steps that lead to it."""
        return behind(self.steps, self.answer) if steps else self.answer


SO = ": "

WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": (
        "what colour is {a}?",
        "which colour does {a} have?",
        "what is the colour of {a}?",
        "{a} has which colour?",
    ),
    "shape": ("what shape is {a}?", "which shape does {a} have?", "what is the shape of {a}?", "{a} has which shape?"),
    "place": ("where is {a}?", "in which place is {a}?", "what is the place of {a}?", "{a} is where?"),
    "count": (
        "how many {b} are there?",
        "how many {b} do you see?",
        "what is the number of {b}?",
        "you see how many {b}?",
    ),
    "beside": ("what is {r} {a}?", "which object is {r} {a}?", "what do you see {r} {a}?"),
    "is beside": ("is {a} {r} {b}?", "do you see {a} {r} {b}?"),
    "more": ("are there more {a} than {b}?", "do you see more {a} than {b}?"),
    "larger": ("which is larger, {a} or {b}?", "which object is larger, {a} or {b}?"),
    "same": ("do {a} and {b} have the same {r}?", "are {a} and {b} of the same {r}?"),
    "yes-no": ("is {a} {b}?", "do you see that {a} is {b}?"),
    "existence": ("is there {a}?", "do you see {a}?", "does the picture show {a}?", "there is {a}, yes or no?"),
}
HELD_OUT_WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": ("{a} is of which colour?",),
    "shape": ("{a} is of which shape?",),
    "count": ("there are how many {b}?",),
    "existence": ("the picture shows {a}, yes or no?",),
}

_SHORT: tuple[Named, ...] = (frozenset({"shape"}), frozenset({"colour"}), frozenset({"colour", "shape"}))
_EXISTING = (("shape",), ("colour",), ("colour", "shape"), ("colour", "shape"), ("size", "colour", "shape"))


def questions(
    scene: Scene, chance: Chance, n: int, train: bool = True, kinds: Mapping[str, float] = KINDS
) -> list[Question]:
    """`n` questions on the scene, none the same as another in other words unless 8 tries find no new one.

    Args:
        train: keep to the wordings and the pairs of colour and shape that occur in training.
        kinds: share of each kind. A scene that has none of them is asked whether something exists.
    """
    asked: set[tuple[str, ...]] = set()
    made: list[Question] = []
    while len(made) < n:
        for _ in range(8):
            question, sense = _question(scene, chance, train, kinds)
            if sense not in asked:
                break
        asked.add(sense)
        made.append(question)
    return made


def correct(question: Question, answer: str) -> bool:
    """Whether the answer is the right one, up to case, outer white space and a final dot; steps are not judged."""
    return bare(concluded(answer)) == question.answer


def behind(steps: Iterable[str], answer: str = "") -> str:
    """ "left red circle no, right blue circle yes: blue"."""
    return f"{', '.join(steps)}{SO}{answer}"


def concludes(answer: str, reply: Document) -> float:
    """1 for a reply of these words, up to case, white space and a final dot, whatever steps lead to them; else 0."""
    return says(answer, Document(concluded(reply.text)))


def concluded(answer: str) -> str:
    """What stands behind the last ": "; all of it without one."""
    return answer.rpartition(SO)[2]


def _question(
    scene: Scene, chance: Chance, train: bool, kinds: Mapping[str, float]
) -> tuple[Question, tuple[str, ...]]:
    """A question, and what it asks whatever the words."""
    kind, made, draws = "", None, 0
    while made is None:  # the scene has no question of that kind, or the draw was thinned out
        kind = chance.weighted(kinds) if draws < TRIES else "existence"  # which fits every scene
        made = _MAKERS[kind](scene, chance, train)
        draws += 1
    held_out = () if train else HELD_OUT_WORDINGS.get(made.form, ())
    wordings = WORDINGS[made.form] + held_out
    pick = chance.below(len(wordings))
    text, seen = wordings[pick].format(**made.words), pick < len(WORDINGS[made.form])
    question = Question(kind, text, made.answer, seen, made.steps)
    return question, made.sense or (made.form, *made.words.values())


@dataclass(frozen=True, slots=True)
class _Made:
    """A form of question, the answer, what fills the wording, and what it asks, where `words` may vary in that."""

    form: str
    answer: str
    words: dict[str, str]
    sense: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


def _attribute(attribute: str) -> Callable[[Scene, Chance, bool], _Made | None]:
    """The maker of questions for the value of an attribute."""

    def make(scene: Scene, chance: Chance, train: bool) -> _Made | None:
        item = chance.choice(scene.objects)
        named = named_by(scene, item, attribute, chance)
        if named is None:
            return None
        steps = look(scene, like(item, named), attribute)
        words = {"a": "the " + phrase(item, named)}
        return _Made(attribute, value_of(item, attribute), words, sense=(attribute, item.place), steps=steps)

    return make


def _count(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    attribute = chance.choice(("colour", "shape", "size", "all"))
    if attribute == "all":
        steps = look(scene, ANY, "shape")
        return _Made("count", NUMBERS[len(scene)], {"b": "objects"}, steps=steps)
    present = [value_of(item, attribute) for item in scene.objects]
    counts = sorted({present.count(value) for value in VALUES[attribute]})
    # each count as likely, but for none: it fits every scene, and would be the answer half the time
    wanted = int(chance.weighted({str(count): 1.0 if count else 0.8 for count in counts}))
    value = chance.choice([value for value in VALUES[attribute] if present.count(value) == wanted])
    steps = look(scene, valued(attribute, value))
    return _Made("count", NUMBERS[wanted], {"b": plural(attribute, value)}, steps=steps)


def _relation(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    for _ in range(8 if len(scene) > 1 else 0):  # half the draws of direction and anchor have one object beside it
        relation = chance.choice(tuple(OPPOSITE))
        anchor = chance.choice(scene.objects)
        beside = [item for item in scene.objects if item.lies(relation, anchor)]
        named = named_by(scene, anchor, "place", chance) if len(beside) == 1 else None
        if named is not None:
            return _beside(scene, beside[0], relation, anchor, named, chance)
    return None


def _beside(scene: Scene, item: Object, relation: str, other: Object, two: Named, chance: Chance) -> _Made | None:
    anchor = "the " + phrase(other, two)
    if chance.unit() < 2 / 3:
        steps = look(scene, like(other, two), "colour", "shape")
        return _Made("beside", f"{item.colour} {item.shape}", {"a": anchor, "r": relation}, steps=steps)
    one = named_by(scene, item, "place", chance)
    if one is None:
        return None
    yes = chance.unit() < 0.5
    words = {"a": "the " + phrase(item, one), "b": anchor, "r": relation if yes else OPPOSITE[relation]}
    steps = look(scene, either(item, one, other, two))
    return _Made("is beside", YES if yes else NO, words, steps=steps)


def _comparison(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    form = chance.choice(("more", "larger", "same"))
    return {"more": _more, "larger": _larger, "same": _same}[form](scene, chance)


def _more(scene: Scene, chance: Chance) -> _Made | None:
    attribute = chance.choice(("colour", "shape"))
    present = [value_of(item, attribute) for item in scene.objects]
    many = chance.choice(present)
    few = chance.choice([value for value in VALUES[attribute] if value != many])
    difference = present.count(many) - present.count(few)
    if difference == 0:
        return None
    yes = chance.unit() < 0.5
    if yes != (difference > 0):
        many, few = few, many
    words = {"a": plural(attribute, many), "b": plural(attribute, few)}
    steps = look(scene, valued(attribute, many, few))
    return _Made("more", YES if yes else NO, words, steps=steps)


def _larger(scene: Scene, chance: Chance) -> _Made | None:
    if len(scene) < 2:
        return None
    first, second = chance.sample(scene.objects, 2)
    if first.size == second.size:
        return None
    one, two = named_by(scene, first, "size", chance, _SHORT), named_by(scene, second, "size", chance, _SHORT)
    if one is None or two is None:
        return None
    name, other = phrase(first, one), phrase(second, two)
    steps = look(scene, either(first, one, second, two), "size")
    words = {"a": "the " + name, "b": "the " + other}
    return _Made("larger", name if first.size == "large" else other, words, steps=steps)


def _same(scene: Scene, chance: Chance) -> _Made | None:
    if len(scene) < 2:
        return None
    first, second = chance.sample(scene.objects, 2)
    attribute = chance.choice(("colour", "shape", "size"))
    same = value_of(first, attribute) == value_of(second, attribute)
    one, two = named_by(scene, first, attribute, chance), named_by(scene, second, attribute, chance)
    if one is None or two is None or (not same and chance.unit() > _SAME_TO_DIFFERENT[attribute]):
        return None
    words = {"a": "the " + phrase(first, one), "b": "the " + phrase(second, two), "r": attribute}
    steps = look(scene, either(first, one, second, two), attribute)
    return _Made("same", YES if same else NO, words, steps=steps)


def _yes_no(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    item = chance.choice(scene.objects)
    attribute = chance.choice(tuple(VALUES))
    named = named_by(scene, item, attribute, chance)
    if named is None:
        return None
    yes = chance.unit() < 0.5
    value = value_of(item, attribute) if yes else another(item, attribute, chance, train)
    said = f"a {value}" if attribute == "shape" else PLACE_WORDS[value][0] if attribute == "place" else value
    steps = (
        *look(scene, like(item, named), attribute),
        f"{value} {value_of(item, attribute)}",
    )
    return _Made("yes-no", YES if yes else NO, {"a": "the " + phrase(item, named), "b": said}, steps=steps)


def _existence(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    listed = chance.choice(_EXISTING)
    named = frozenset(listed)
    if chance.unit() < 0.5:
        return _exists(scene, chance.choice(scene.objects), named, YES)
    for _ in range(8):  # a near miss may be there by chance
        item, changed = chance.choice(scene.objects), chance.choice(listed)
        missing = item.changed(changed, another(item, changed, chance, train))
        if all(phrase(other, named) != phrase(missing, named) for other in scene.objects):
            return _exists(scene, missing, named, NO)
    return None


def _exists(scene: Scene, wanted: Object, named: Named, answer: str) -> _Made:
    steps = look(scene, like(wanted, named))
    return _Made("existence", answer, {"a": "a " + phrase(wanted, named)}, steps=steps)


# How often two objects share the attribute, over how often they differ (and can be named without it), in scenes of two:
# "no" is thinned by it, so that yes and no come out even.
_SAME_TO_DIFFERENT = {"colour": 0.43, "shape": 0.43, "size": 1.0}

_MAKERS: dict[str, Callable[[Scene, Chance, bool], _Made | None]] = {
    "colour": _attribute("colour"),
    "shape": _attribute("shape"),
    "place": _attribute("place"),
    "count": _count,
    "relation": _relation,
    "comparison": _comparison,
    "yes-no": _yes_no,
    "existence": _existence,
}
