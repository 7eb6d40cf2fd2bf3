"""What holds for every kind of case: a pure function of (seed, index), a prompt, a judge, seen and unseen."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import PIL.Image
import pytest

from plait.data.shapes import language
from plait.data.shapes.cases import Cases, Drawings, Wordings
from plait.data.shapes.kinds import CASES
from plait.data.shapes.split import part
from plait.data.shapes.world import SceneImage
from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError

APART = ("videos", "stories", "matrices", "words", "opinions", "pages", "episodes", "contexts")  # see test_pictured.py
HERE = {name: kind for name, kind in CASES.items() if name not in APART}
TOLD = {name: kind for name, kind in CASES.items() if issubclass(kind, Drawings)}
every = pytest.mark.parametrize("kind", HERE.values(), ids=HERE)


def shown(document: Document) -> Iterator[SceneImage]:
    return (image.source for image in document.images if isinstance(image.source, SceneImage))


def patterns(kind: type[Cases]) -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
    """The wordings of the module of a kind, seen and held out."""
    found = [value for value in vars(sys.modules[kind.__module__]).values() if isinstance(value, Wordings | dict)]
    flat = [one for value in found for one in (value.values() if isinstance(value, dict) else [value])]
    wordings = [one for one in flat if isinstance(one, Wordings)]
    return tuple(
        [re.compile(re.sub(r"\\{\w*\\}", ".+", re.escape(text))) for one in wordings for text in one[which]]
        for which in (0, 1)
    )


@every
def test_a_case_depends_on_seed_and_index_alone(kind):
    source = kind(seed=3, length=20)
    longer = pickle.loads(pickle.dumps(kind(seed=3, length=1000)))
    assert [longer[i] for i in (19, 4)] == [source[i] for i in (19, 4)]
    assert [case.document for case in source.cases()] == [source[i] for i in range(len(source))]
    assert [kind(seed=4, length=20)[i] for i in range(20)] != [source[i] for i in range(20)]
    with pytest.raises(IndexError, match="20 of 20"):
        source[20]


@every
def test_the_document_is_the_prompt_and_the_reply(kind):
    for case in kind(seed=1, length=50).cases():
        begun = [piece for piece in case.prompt if piece != Blank("image")]
        assert (len(begun) < len(case.prompt)) == bool(case.reply.images)
        assert [turn.role for turn in case.document.turns] in (
            [],
            ["user", "assistant"] * (len(case.document.turns) // 2),
        )
        assert case.prompt.text + case.reply.text == case.document.text
        assert [*case.prompt.images, *case.reply.images] == case.document.images


@pytest.mark.parametrize("kind", TOLD.values(), ids=TOLD)
def test_steps_tell_what_is_drawn_then(kind):
    for case, told in zip(kind(seed=1, length=40).cases(), kind(seed=1, length=40, steps=True).cases(), strict=True):
        words, image = told.reply
        assert image == case.reply.images[0] and told.check(told.reply) == case.check(case.reply) == 1
        assert told.prompt.turns == (*case.prompt.turns[:-1], Turn("assistant", []))
        assert told.document.turns == (*case.document.turns[:-1], Turn("assistant", [words, image]))
        said = words.text.rpartition(": ")[2]
        if isinstance(image.source, SceneImage):
            assert language.parse(said) == image.source.scene.content
        else:
            assert said.replace(" ", "") == image.source.text


@every
def test_the_right_reply_is_worth_one_and_no_other_more(kind):
    for split in kind.parts:
        cases = list(kind(seed=2, length=40, split=split).cases())
        assert [case.check(case.reply) for case in cases] == [1.0] * len(cases)
        for other in (Document(), Document("nothing of the kind"), Document([Image(b"no picture")])):
            assert [case.check(other) for case in cases] == [0.0] * len(cases)
        swapped = [case.check(other.reply) for case, other in pairwise(cases)]
        assert min(swapped) >= 0 and max(swapped) <= 1 and sum(swapped) < 0.6 * len(swapped)


@every
def test_pictures_belong_to_the_part_and_have_the_resolution(kind):
    for split in kind.parts:
        for document in (kind(seed=5, length=60, split=split, resolution=32)[i] for i in range(60)):
            for source in shown(document):
                assert part(source.scene.content) == split
                assert source.resolution == 32
            assert all(image.open().size == (32, 32) for image in document.images)


@pytest.mark.parametrize(
    "kind", [kind for kind in CASES.values() if patterns(kind)[1] and "train" in kind.parts], ids=lambda kind: kind.name
)
def test_held_out_wordings_are_in_the_test_alone(kind):
    def share(split):
        source = kind(seed=6, length=300, split=split)
        asked = [
            text
            for document in map(source.__getitem__, range(300))
            for text in ([turn.text for turn in document.turns if turn.role == "user"] or [document.text])
        ]
        new = [any(p.match(text) for p in held_out) and not any(p.match(text) for p in seen) for text in asked]
        return sum(new) / len(new)

    seen, held_out = patterns(kind)
    assert share("train") == share("validation") == 0
    assert 0.03 < share("test") < 0.3


@every
def test_wrong_fields_are_refused(kind):
    with pytest.raises(ConfigError, match=r"'dev' is not one of .*test"):
        kind(seed=0, length=1, split="dev")
    with pytest.raises(ConfigError, match="length=-1"):
        kind(seed=0, length=-1)
    with pytest.raises(ConfigError, match="resolution=8"):
        kind(seed=0, length=1, resolution=8)


def test_a_picture_of_another_size_or_shape_is_judged_too():
    case = CASES["restylings"](seed=0, length=1).case(0)
    large = case.reply.images[0].open().resize((128, 128), PIL.Image.Resampling.NEAREST)
    assert case.check(Document([Text("here it is: "), Image(large)])) == 1
    assert case.check(Document([Image(large.resize((128, 64)))])) <= 1


def test_the_page_tells_of_every_kind():
    page = (Path(__file__).parents[3] / "docs" / "shapes.md").read_text()
    for name, kind in CASES.items():
        section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, f"{name} is not in docs/shapes.md: run tools/docs_shapes.py"
        assert f"{kind.chance:.2f}" in section[1]
