"""Short videos: objects appear, vanish, move and change colour between frames, and a question on what happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import ClassVar

from plait.data.shapes.cases import Case, Cases, Wordings
from plait.data.shapes.chance import Chance
from plait.data.shapes.changes import Change, Kind, draw_change
from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.questions import behind, concludes
from plait.data.shapes.split import belong, draw_distinct
from plait.data.shapes.world import Object, Scene, SceneImage
from plait.document import Document, Image, Text, Turn, Video
from plait.errors import ConfigError

SECONDS = 0.5  # from one frame to the next
SAME = "same"  # nothing happens before a frame
MOST_COUNTED = 2

WORDINGS: dict[str, tuple[str, ...]] = {
    "moves": ("what moves?", "which object moves?"),
    "appears": ("what appears?", "which object appears?"),
    "vanishes": ("what vanishes?", "which object vanishes?"),
    "to": ("where does the object that moves go?", "what is the new place of the object that moves?"),
    "from": ("where does the object that moves come from?", "what is the old place of the object that moves?"),
    "turns to": ("what is the new colour of the object that changes colour?", "to which colour does an object change?"),
    "turns from": (
        "what is the old colour of the object that changes colour?",
        "from which colour does an object change?",
    ),
    "first": ("what happens first?", "what does the video show first?"),
    "last": ("what happens last?", "what does the video show last?"),
    "many appear": ("how many objects appear?", "what is the number of objects that appear?"),
    "many vanish": ("how many objects vanish?", "what is the number of objects that vanish?"),
}
HELD_OUT_WORDINGS: dict[str, tuple[str, ...]] = {
    "moves": ("what is the object that moves?",),
    "from": ("from where does the object that moves come?",),
    "first": ("first, what happens?",),
}
ANSWERS: dict[Kind, str] = {
    "appears": "an object appears",
    "vanishes": "an object vanishes",
    "moves": "an object moves",
    "turns": "an object changes colour",
}

_KIND_OF: dict[str, Kind] = {
    "moves": "moves",
    "to": "moves",
    "from": "moves",
    "appears": "appears",
    "vanishes": "vanishes",
    "turns to": "turns",
    "turns from": "turns",
}
_KINDS: tuple[Kind, ...] = ("appears", "vanishes", "moves", "turns")
_COUNTED: tuple[Kind, ...] = ("appears", "vanishes")
_BESIDE: tuple[Kind, ...] = ("moves", "turns")


@dataclass(frozen=True, slots=True)
class Clip:
    """A video as the scenes of its frames, what happens before each of them, and a question on it."""

    scenes: tuple[Scene, ...]
    happens: tuple[tuple[Change, ...], ...]
    asked: str
    answer: str

    @property
    def steps(self) -> Iterator[str]:
        """ "left red circle right blue ring", then of each later frame also what is new: "left red circle same"."""
        for at, (scene, changes) in enumerate(zip(self.scenes, self.happens, strict=True)):
            seen = [f"{item.place} {item.colour} {item.shape}" for item in scene.in_order]
            news = [_told(change) for change in changes] or ([SAME] if at else [])
            yield " ".join([*seen, *news])


@dataclass(frozen=True, kw_only=True)
class Videos(Cases):
    """A video and a question: "what moves?", "where does it come from?", "what happens first?", "how many appear?".

    A document is two turns: the user's video of 4 to 8 frames, half a second apart, and question; the answer ("red
    circle", "top left", "green", "an object moves", "two"). Between two frames something happens to an object or
    nothing does; to one object at most one thing. Each frame alone is a scene of the world, so that none tells by
    itself what changes: who sees one frame and guesses among its objects is right less than half the time. What appears
    has a pair of colour and shape and a place that nothing had before.

    Chance: the most frequent answer of training to the question, the video unseen.

    Args:
        steps: answers stand behind what each frame shows, and what has happened before it: "left red circle, left red
            circle same, right red circle red circle moves from left to right: left". The answer alone is judged,
            whether steps stand before it or not.
        frames: numbers of frames, each as likely.
        objects: numbers of objects in the first frame, each as likely.
    """

    name: ClassVar[str] = "videos"
    chance: ClassVar[float] = 0.17

    steps: bool = False
    frames: tuple[int, ...] = (4, 5, 6, 7, 8)
    objects: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.frames or min(self.frames) < 4:
            raise ConfigError(f"frames={self.frames}: give numbers of at least 4, so that three things can happen")
        if not self.objects or not set(self.objects) <= {2, 3, 4}:
            raise ConfigError(f"objects={self.objects}: give numbers from 2 to 4, so that there is one to tell apart")

    def clip(self, i: int) -> Clip:
        """The scenes, the kind of question and the answer of case i."""
        chance = self.stream(i)
        asked, frames, objects = chance.choice(tuple(WORDINGS)), chance.choice(self.frames), chance.choice(self.objects)
        kinds = _kinds(chance, asked, objects)
        while True:
            clip = _clip(chance, asked, kinds, frames, objects)
            if clip and belong(clip.scenes, clip.scenes[-1], self.split):
                return clip

    def case(self, i: int) -> Case:
        """Case i."""
        clip = self.clip(i)
        wordings = Wordings(WORDINGS[clip.asked], HELD_OUT_WORDINGS.get(clip.asked, ()))
        question = wordings.pick(self.stream(i, 1), self.split)
        images = {scene: Image(SceneImage(scene, self.resolution)) for scene in clip.scenes}
        video = Video(
            tuple(images[scene] for scene in clip.scenes), tuple(SECONDS * at for at in range(len(clip.scenes)))
        )
        user = Turn("user", [video, Text(question)])
        said = behind(clip.steps, clip.answer) if self.steps else clip.answer
        return Case(
            document=Document([user, Turn("assistant", said)]),
            prompt=Document([user]),
            check=partial(concludes, clip.answer),
            reply=Document(said),
        )


def _told(change: Change) -> str:
    """ "red circle moves from left to right", "blue ring turns from blue to green", "blue ring vanishes"."""
    before, after = change.before, change.after
    if before is None or after is None:
        item, verb = (before, "vanishes") if after is None else (after, "appears")
        assert item is not None, "a change has something before or after it"
        return f"{item.colour} {item.shape} {verb}"
    name = f"{before.colour} {before.shape}"
    if before.place != after.place:
        return f"{name} moves from {before.place} to {after.place}"
    return f"{name} turns from {before.colour} to {after.colour}"


def _kinds(chance: Chance, asked: str, objects: int) -> list[Kind]:
    """What happens in a video with such a question, in order."""
    if asked.startswith("many"):  # as many come as go, by turns: the objects of no one frame tell how many
        count = chance.below(MOST_COUNTED + 1)
        steps = [chance.sample(_COUNTED, 2) for _ in range(count)]
        steps.append([chance.choice(_BESIDE)] if count < objects else [])
        return list(chain.from_iterable(chance.sample(steps, len(steps))))
    if asked in ("first", "last"):
        return chance.sample(_KINDS, min(objects, 2 + chance.below(2)))
    kinds = [_KIND_OF[asked]]
    if chance.unit() < 0.5:  # something else happens, too
        others = [kind for kind in _KINDS if kind not in kinds and (kind != "vanishes" or objects > 2)]
        kinds.append(chance.choice(others))  # without leaving the asked object alone
    return chance.sample(kinds, len(kinds))


def _clip(chance: Chance, asked: str, kinds: Sequence[Kind], frames: int, objects: int) -> Clip | None:
    """A video in which this happens; None when a draw left no room for it."""
    if asked.startswith("many"):
        gaps = sorted(1 + chance.below(frames - 1) for _ in kinds)
    else:
        gaps = sorted(chance.sample(range(1, frames), len(kinds)))
    scene = draw_distinct(chance, objects)
    told = _happen(chance, scene, kinds)
    if told is None:
        return None
    scenes = [scene]
    happens = [tuple(change for change, gap in zip(told, gaps, strict=True) if gap == at) for at in range(frames)]
    for changes in happens[1:]:  # all gaps are before a later frame
        for change in changes:
            scene = change.apply(scene)
        scenes.append(scene)
    return Clip(tuple(scenes), tuple(happens), asked, _answer(asked, kinds, told))


def _happen(chance: Chance, scene: Scene, kinds: Sequence[Kind]) -> list[Change] | None:
    """A change of each kind, one after another, each to an object of its own."""
    told: list[Change] = []
    touched: list[Object] = []
    past = list(scene.objects)
    for kind in kinds:
        change = draw_change(kind, scene, chance, spared=touched, past=past)
        if change is None:
            return None
        scene = change.apply(scene)
        told.append(change)
        if change.after is not None:
            touched.append(change.after)
            past.append(change.after)
    return told


def _answer(asked: str, kinds: Sequence[Kind], told: Sequence[Change]) -> str:
    if asked.startswith("many"):
        return NUMBERS[kinds.count("appears")]
    if asked in ("first", "last"):
        return ANSWERS[kinds[0 if asked == "first" else -1]]
    change = told[kinds.index(_KIND_OF[asked])]
    item = change.before if asked in ("vanishes", "from", "turns from") else change.after
    assert item is not None
    match asked:
        case "to" | "from":
            return item.place
        case "turns to" | "turns from":
            return item.colour
    return f"{item.colour} {item.shape}"
