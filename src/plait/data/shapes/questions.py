"""Questions on a scene, with one right answer each, of one or two words.

They are balanced: who does not see the picture gains little. Objects are named by whatever tells them apart, never by
what is asked; yes and no are drawn first, and the question is made to fit. About a tenth of the wordings never occur in
training, nor does a question that names a held-out pair of colour and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS
from plait.data.shapes.split import HELD_OUT_PAIRS
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Object, Scene

TRIES = 256  # draws of a kind that the scene may turn down
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

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

_Named = frozenset[str]  # the attributes that name an object

_NAMED: tuple[_Named, ...] = (
    frozenset(),
    frozenset({"shape"}),
    frozenset({"colour"}),
    frozenset({"size"}),
    frozenset({"colour", "shape"}),
    frozenset({"size", "shape"}),
    frozenset({"size", "colour", "shape"}),
    frozenset({"place"}),
)
_SHORT: tuple[_Named, ...] = (frozenset({"shape"}), frozenset({"colour"}), frozenset({"colour", "shape"}))
_EXISTING = (("shape",), ("colour",), ("colour", "shape"), ("colour", "shape"), ("size", "colour", "shape"))
_VALUES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


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
    """Whether the answer is the right one, up to case, outer white space and a final dot."""
    return plain(answer) == question.answer


def plain(answer: str) -> str:
    """An answer without what does not count: case, outer white space and a final dot."""
    return answer.strip().lower().removesuffix(".").rstrip()


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
    question = Question(kind, wordings[pick].format(**made.words), made.answer, pick < len(WORDINGS[made.form]))
    return question, made.sense or (made.form, *made.words.values())


@dataclass(frozen=True, slots=True)
class _Made:
    """A form of question, the answer, what fills the wording, and what it asks, where `words` may vary in that."""

    form: str
    answer: str
    words: dict[str, str]
    sense: tuple[str, ...] = ()


def _phrase(item: Object, named: _Named) -> str:
    """ "large red circle", "red object", "object at the top left": what names the object by these attributes."""
    words = [item.size] if "size" in named else []
    if "colour" in named:
        words.append(item.colour)
    words.append(item.shape if "shape" in named else "object")
    if "place" in named:
        words.append(PLACE_WORDS[item.place][0])
    return " ".join(words)


def _shared(item: Object, other: Object) -> _Named:
    return frozenset(
        name
        for name, same in (
            ("colour", item.colour == other.colour),
            ("shape", item.shape == other.shape),
            ("size", item.size == other.size),
        )
        if same
    )


def _name(scene: Scene, item: Object, without: str, chance: Chance, options: tuple[_Named, ...] = _NAMED) -> str | None:
    """A phrase that only this object of the scene answers to, and that does not tell the attribute `without`."""
    shared = [_shared(item, other) for other in scene.objects if other is not item]
    fit = [named for named in options if without not in named and not any(named <= same for same in shared)]
    return _phrase(item, chance.choice(fit)) if fit else None


def _value(item: Object, attribute: str) -> str:
    value: str = getattr(item, attribute)
    return value


def _attribute(attribute: str) -> Callable[[Scene, Chance, bool], _Made | None]:
    """The maker of questions for the value of an attribute."""

    def make(scene: Scene, chance: Chance, train: bool) -> _Made | None:
        item = chance.choice(scene.objects)
        name = _name(scene, item, attribute, chance)
        if name is None:
            return None
        return _Made(attribute, _value(item, attribute), {"a": "the " + name}, sense=(attribute, item.place))

    return make


def _count(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    attribute = chance.choice(("colour", "shape", "size", "all"))
    if attribute == "all":
        return _Made("count", NUMBERS[len(scene)], {"b": "objects"})
    present = [_value(item, attribute) for item in scene.objects]
    counts = sorted({present.count(value) for value in _VALUES[attribute]})
    # each count as likely, but for none: it fits every scene, and would be the answer half the time
    wanted = int(chance.weighted({str(count): 1.0 if count else 0.8 for count in counts}))
    value = chance.choice([value for value in _VALUES[attribute] if present.count(value) == wanted])
    return _Made("count", NUMBERS[wanted], {"b": _plural(attribute, value)})


def _plural(attribute: str, value: str) -> str:
    if attribute == "shape":
        return value + ("es" if value.endswith("s") else "s")
    return value + " objects"


def _is(item: Object, relation: str, other: Object) -> bool:
    """Whether the item is left of (right of, above, below) the other, by column or by row alone."""
    match relation:
        case "left of":
            return item.column < other.column
        case "right of":
            return item.column > other.column
        case "above":
            return item.row < other.row
    return item.row > other.row


def _relation(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    for _ in range(8 if len(scene) > 1 else 0):  # half the draws of direction and anchor have one object beside it
        relation = chance.choice(tuple(_OPPOSITE))
        anchor = chance.choice(scene.objects)
        beside = [item for item in scene.objects if _is(item, relation, anchor)]
        name = _name(scene, anchor, "place", chance) if len(beside) == 1 else None
        if name is not None:
            return _beside(scene, beside[0], relation, "the " + name, chance)
    return None


def _beside(scene: Scene, item: Object, relation: str, anchor: str, chance: Chance) -> _Made | None:
    if chance.unit() < 2 / 3:
        return _Made("beside", f"{item.colour} {item.shape}", {"a": anchor, "r": relation})
    name = _name(scene, item, "place", chance)
    if name is None:
        return None
    yes = chance.unit() < 0.5
    words = {"a": "the " + name, "b": anchor, "r": relation if yes else _OPPOSITE[relation]}
    return _Made("is beside", "yes" if yes else "no", words)


def _comparison(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    form = chance.choice(("more", "larger", "same"))
    return {"more": _more, "larger": _larger, "same": _same}[form](scene, chance)


def _more(scene: Scene, chance: Chance) -> _Made | None:
    attribute = chance.choice(("colour", "shape"))
    present = [_value(item, attribute) for item in scene.objects]
    many = chance.choice(present)
    few = chance.choice([value for value in _VALUES[attribute] if value != many])
    difference = present.count(many) - present.count(few)
    if difference == 0:
        return None
    yes = chance.unit() < 0.5
    if yes != (difference > 0):
        many, few = few, many
    return _Made("more", "yes" if yes else "no", {"a": _plural(attribute, many), "b": _plural(attribute, few)})


def _larger(scene: Scene, chance: Chance) -> _Made | None:
    if len(scene) < 2:
        return None
    first, second = chance.sample(scene.objects, 2)
    if first.size == second.size:
        return None
    name, other = _name(scene, first, "size", chance, _SHORT), _name(scene, second, "size", chance, _SHORT)
    if name is None or other is None:
        return None
    return _Made("larger", name if first.size == "large" else other, {"a": "the " + name, "b": "the " + other})


def _same(scene: Scene, chance: Chance) -> _Made | None:
    if len(scene) < 2:
        return None
    first, second = chance.sample(scene.objects, 2)
    attribute = chance.choice(("colour", "shape", "size"))
    same = _value(first, attribute) == _value(second, attribute)
    name, other = _name(scene, first, attribute, chance), _name(scene, second, attribute, chance)
    if name is None or other is None or (not same and chance.unit() > _SAME_TO_DIFFERENT[attribute]):
        return None
    words = {"a": "the " + name, "b": "the " + other, "r": attribute}
    return _Made("same", "yes" if same else "no", words)


def _yes_no(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    item = chance.choice(scene.objects)
    attribute = chance.choice(tuple(_VALUES))
    name = _name(scene, item, attribute, chance)
    if name is None:
        return None
    yes = chance.unit() < 0.5
    value = _value(item, attribute) if yes else _another(item, attribute, chance, train)
    said = f"a {value}" if attribute == "shape" else PLACE_WORDS[value][0] if attribute == "place" else value
    return _Made("yes-no", "yes" if yes else "no", {"a": "the " + name, "b": said})


def _existence(scene: Scene, chance: Chance, train: bool) -> _Made | None:
    named = chance.choice(_EXISTING)
    if chance.unit() < 0.5:
        return _Made("existence", "yes", {"a": "a " + _phrase(chance.choice(scene.objects), frozenset(named))})
    for _ in range(8):  # a near miss may be there by chance
        item, changed = chance.choice(scene.objects), chance.choice(named)
        missing = _phrase(_with(item, changed, _another(item, changed, chance, train)), frozenset(named))
        if all(_phrase(other, frozenset(named)) != missing for other in scene.objects):
            return _Made("existence", "no", {"a": "a " + missing})
    return None


def _with(item: Object, attribute: str, value: str) -> Object:
    facts = {"colour": item.colour, "shape": item.shape, "size": item.size, "place": item.place, attribute: value}
    return Object(facts["colour"], facts["shape"], facts["size"], facts["place"])


def _another(item: Object, attribute: str, chance: Chance, train: bool) -> str:
    """A value that the object does not have; in training, none that makes a held-out pair."""
    values = [value for value in _VALUES[attribute] if value != _value(item, attribute)]
    if train and attribute == "colour":
        values = [value for value in values if (value, item.shape) not in HELD_OUT_PAIRS]
    if train and attribute == "shape":
        values = [value for value in values if (item.colour, value) not in HELD_OUT_PAIRS]
    return chance.choice(values)


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
