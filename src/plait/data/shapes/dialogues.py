"""Dialogues: questions on one picture that refer back to what was said."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from plait.data.shapes import questions
from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.language import PLACE_WORDS
from plait.data.shapes.naming import names_of, phrase, value_of
from plait.data.shapes.score import says
from plait.data.shapes.split import Part, another, draw_scene
from plait.data.shapes.world import OPPOSITE, Object, Scene, SceneImage
from plait.document import Image, Piece

OBJECTS = (2, 3)
FOLLOWING = (1, 2, 3)  # questions after the first
ASKED = ("colour", "shape", "place")
MOVES = {"it": 0.3, "other": 0.3, "also": 0.2, "beside": 0.12, "whether": 0.08}  # whether: a blind guess has half

WORDINGS = {
    name: Wordings(seen, questions.HELD_OUT_WORDINGS.get(name, ())) for name, seen in questions.WORDINGS.items()
}
ALSO = Wordings(("and {a}?", "what about {a}?", "and what about {a}?", "now {a}?", "the same for {a}?"), ("also {a}?",))


@dataclass(frozen=True, kw_only=True)
class Dialogues(Cases):
    """Two to four questions and answers about one picture; every question but the first refers back.

    "it" is the object spoken of last, "the other one" the other of two, "and the blue object?" asks again what was
    asked last. What has been said of an object is not asked. The last answer is checked, word for word.

    Chance: the most frequent answer to the same form of last question after the same answer to the same attribute.
    """

    name: ClassVar[str] = "dialogues"
    chance: ClassVar[float] = 0.17

    def case(self, i: int) -> Case:
        """Case i."""
        scene = draw_scene(self.stream(i), OBJECTS, self.split)
        said = _talk(scene, self.stream(i, 1), self.split)
        turns: list[tuple[list[Piece | str], str]] = [([text], answer) for text, answer in said]
        turns[0][0].insert(0, Image(SceneImage(scene, self.resolution)))
        *before, (question, answer) = turns
        return Case.asked(question, answer, partial(says, answer), before)


def _talk(scene: Scene, chance: Chance, part: Part) -> list[tuple[str, str]]:
    wanted = 1 + chance.choice(FOLLOWING)
    while True:
        talk = _Talk(scene, chance, part)
        if talk.opened() and talk.went_on(wanted):
            return talk.said


@dataclass
class _Talk:
    """A dialogue as it goes: what was said, what is thereby known of each object, and what was spoken of last."""

    scene: Scene
    chance: Chance
    part: Part
    said: list[tuple[str, str]] = field(default_factory=list)
    told: dict[str, set[str]] = field(default_factory=dict)
    focus: Object | None = None
    asked: str = ""  # the attribute that was asked last; none after other questions

    def opened(self) -> bool:
        """Asks the first question, if it can."""
        item, attribute = self.chance.choice(self.scene.objects), self.chance.choice(ASKED)
        return self._ask(item, attribute, WORDINGS[attribute])

    def went_on(self, wanted: int) -> bool:
        """Asks until there are as many questions, if it can."""
        for _ in range(16 * wanted):
            if len(self.said) == wanted:
                break
            assert self.focus is not None
            _MOVES[self.chance.weighted(MOVES)](self, self.focus)
        return len(self.said) == wanted

    def it(self, focus: Object) -> None:
        """Another attribute of the same object."""
        attribute = self.chance.choice(ASKED)
        if attribute not in self._known(focus):
            self._say(focus, attribute, WORDINGS[attribute].pick(self.chance, self.part).format(a="it"))

    def other(self, focus: Object) -> None:
        """The same or another attribute of the other one of two."""
        if len(self.scene) != 2:
            return
        other = next(item for item in self.scene.objects if item is not focus)
        again = self.asked and self.chance.unit() < 0.6
        attribute = self.asked if again else self.chance.choice(ASKED)
        if attribute not in self._known(other):
            wordings = ALSO if again else WORDINGS[attribute]
            self._say(other, attribute, wordings.pick(self.chance, self.part).format(a="the other one"))

    def also(self, focus: Object) -> None:
        """What was asked last, of an object that is named."""
        item = self.chance.choice(self.scene.objects)
        if item is not focus and self.asked and self.asked not in self._known(item):
            self._ask(item, self.asked, ALSO)

    def beside(self, focus: Object) -> None:
        """Which object is beside it."""
        relation = self.chance.choice(tuple(OPPOSITE))
        found = [item for item in self.scene.objects if item.lies(relation, focus)]
        if len(found) != 1 or self._known(found[0]) & {"colour", "shape"}:
            return
        text = WORDINGS["beside"].pick(self.chance, self.part).format(a="it", r=relation)
        self.said.append((text, f"{found[0].colour} {found[0].shape}"))
        self._known(found[0]).update(("colour", "shape"))
        self.focus, self.asked = found[0], ""

    def whether(self, focus: Object) -> None:
        """Whether it has a value of an attribute; yes and no as often."""
        attribute = self.chance.choice((*ASKED, "size"))
        if attribute in self._known(focus):
            return
        yes = self.chance.unit() < 0.5
        value = value_of(focus, attribute) if yes else another(focus, attribute, self.chance, train=True)
        asked = {"shape": f"a {value}", "place": PLACE_WORDS.get(value, ("",))[0]}.get(attribute, value)
        text = WORDINGS["yes-no"].pick(self.chance, self.part).format(a="it", b=asked)
        self.said.append((text, "yes" if yes else "no"))
        self._known(focus).add(attribute)
        self.asked = ""

    def _known(self, item: Object) -> set[str]:
        return self.told.setdefault(item.place, set())

    def _ask(self, item: Object, attribute: str, wordings: Wordings) -> bool:
        """Asks for an attribute of an object by a name that tells it from all others, if it has one."""
        names = names_of(self.scene, item, attribute)
        if not names:
            return False
        named = self.chance.choice(names)
        self._known(item).update(named)
        text = wordings.pick(self.chance, self.part).format(a="the " + phrase(item, named))
        self._say(item, attribute, text)
        return True

    def _say(self, item: Object, attribute: str, text: str) -> None:
        self.said.append((text, value_of(item, attribute)))
        self._known(item).add(attribute)
        self.focus, self.asked = item, attribute


_MOVES = {"it": _Talk.it, "other": _Talk.other, "also": _Talk.also, "beside": _Talk.beside, "whether": _Talk.whether}
