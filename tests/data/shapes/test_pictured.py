"""What all kinds of case have in common: right replies, parts that do not meet, and what a blind guess is worth."""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from plait.data.shapes.cases import Case, Cases
from plait.data.shapes.kinds import CASES
from plait.data.shapes.split import HELD_OUT_PAIRS, part
from plait.data.shapes.world import SIZES, Object, Scene, SceneImage
from plait.document import Blank, Document, Image, Video
from plait.errors import ConfigError

NAMES = ("videos", "stories", "matrices", "words", "opinions", "pages", "episodes", "contexts")
PICTURED = {name: CASES[name] for name in NAMES}
kinds = pytest.mark.parametrize("kind", PICTURED.values(), ids=PICTURED)


def pictures(document):
    """The sources of all pictures, those of videos too."""
    for piece in document:
        frames = piece.frames if isinstance(piece, Video) else [piece] if isinstance(piece, Image) else []
        yield from (frame.source for frame in frames)


def shown(document):
    """What the pictures show, without noise."""
    return tuple(p.scene.content if isinstance(p, SceneImage) else p.lines for p in pictures(document))


@kinds
def test_a_case_is_a_document_its_prompt_and_the_right_reply(kind):
    for split in ("train", "validation", "test"):
        for case in kind(seed=1, length=20, split=split).cases():
            given = tuple(piece for piece in case.prompt.pieces if piece != Blank("image"))
            assert case.document.pieces == (*given, *case.reply.pieces)
            assert [turn.role for turn in case.document.turns] in ([], ["user", "assistant"])
            assert case.prompt.turns == case.document.turns[:1]
            assert case.check(case.reply) == 1
            assert case.check(Document()) == 0
            assert case.check(Document("nothing of the kind.")) == 0


@kinds
def test_an_element_does_not_depend_on_length_or_process(kind):
    source = kind(seed=1, length=10)
    assert source[7] == kind(seed=1, length=1000)[7] == pickle.loads(pickle.dumps(source))[7]
    assert source[7] != kind(seed=2, length=10)[7]
    case, again = source.case(7), pickle.loads(pickle.dumps(source.case(7)))
    assert (again.document, again.prompt, again.reply) == (case.document, case.prompt, case.reply)
    assert again.check(case.reply) == 1
    with pytest.raises(IndexError, match="10 of 10"):
        source[10]


@kinds
def test_pictures_have_the_resolution(kind):
    for source in pictures(kind(seed=3, length=1, resolution=80)[0]):
        assert source.open().size == (80, 80)


@kinds
def test_nothing_of_another_part_is_in_training(kind):
    sources = {split: kind(seed=4, length=120, split=split) for split in ("train", "validation", "test")}
    contents = {split: {shown(document) for document in source} for split, source in sources.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not contents[one] & contents[other]
    for split, source in sources.items():
        for document in source:
            said = document.text
            assert split == "test" or not any(f"{colour} {shape}" in said for colour, shape in HELD_OUT_PAIRS)
    scenes = [p.scene for document in sources["train"] for p in pictures(document) if isinstance(p, SceneImage)]
    assert not {item.facts[:2] for scene in scenes for item in scene.objects} & HELD_OUT_PAIRS
    if kind.name != "matrices":  # which have six sizes, and are split as a whole
        assert {part(scene.content) for scene in scenes} <= {"train"}


def answers(kind: type[Cases], key: Callable[[Cases, int], str]) -> Callable[[Cases, int, Case], Document]:
    """The guess that knows the most frequent reply of training for each key."""
    source = kind(seed=6, length=1000)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for i, case in enumerate(source.cases()):
        counts[key(source, i)][case.reply.text] += 1
    return lambda test, i, case: Document(counts[key(test, i)].most_common(1)[0][0])


def goes_or_grows(source, i, case):
    """Stories: the last picture again; or that an object vanishes, the only one that its size changes."""
    if source.form(i) == "draw":
        return Document(case.prompt.images[-1])
    scene = source.scenes(i)[-2]
    first = scene.objects[0]
    other = SIZES[1 - SIZES.index(first.size)]
    return Document(f"the {first.colour} {first.shape} " + ("vanishes" if len(scene) > 1 else f"becomes {other}"))


def plain_or_red(source, i, case):
    """Contexts: what is asked for in the plain style; or, where an object must be known, as a red circle."""
    scene = case.reply.images[0].source.scene
    if source.form(i) == "object":
        (item,) = scene.objects
        scene = Scene((Object("red", "circle", item.size, item.place),))
    return Document(Image(SceneImage(scene, 64)))


GUESSES = {
    "videos": lambda kind: answers(kind, lambda source, i: source.clip(i).asked),
    "stories": lambda kind: goes_or_grows,
    "matrices": lambda kind: answers(kind, lambda source, i: ""),
    "words": lambda kind: answers(kind, lambda source, i: ""),
    "opinions": lambda kind: answers(kind, lambda source, i: ""),
    "pages": lambda kind: answers(kind, lambda source, i: source.page(i).asked),
    "contexts": lambda kind: plain_or_red,
    "episodes": lambda kind: lambda source, i, case: case.candidates[0],
}


@kinds
def test_what_a_blind_guess_is_worth(kind):
    guess = GUESSES[kind.name](kind)
    source = kind(seed=7, length=300, split="test")
    worth = [case.check(guess(source, i, case)) for i, case in enumerate(source.cases())]
    deviation = (kind.chance * (1 - kind.chance) / len(worth)) ** 0.5
    print(f"{kind.name}: {sum(worth) / len(worth):.3f}, said {kind.chance:.3f} ± {deviation:.3f}")
    assert sum(worth) / len(worth) == pytest.approx(kind.chance, abs=2 * deviation)


@kinds
def test_small_pictures_are_refused(kind):
    with pytest.raises(ConfigError, match="resolution=15"):
        kind(seed=0, length=1, resolution=15)
