"""Episodes: names go by one attribute, are new each time, and none is known from training."""

from __future__ import annotations

from collections import Counter

import pytest

from plait.data.shapes.episodes import HELD_OUT_WORDINGS, Episodes, Lists, Names
from plait.document import Document, Image, Text
from plait.errors import ConfigError


def labels(case):
    """The names of an episode: what its candidates differ in."""
    words = [set(candidate.text.replace(".", "").split()) for candidate in case.candidates]
    return [next(iter(own - words[at - 1])) for at, own in enumerate(words)]


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (2, 2), (5, 1), (6, 3)])
def test_names_go_by_colour_or_shape(ways, shots):
    source = Episodes(seed=1, length=60, ways=ways, shots=shots)
    by = Counter()
    for case in source.cases():
        pieces = list(case.document)
        scenes = [piece.source.scene for piece in pieces[::2]]
        texts = [piece.text for piece in pieces[1::2]]
        assert isinstance(pieces[-2], Image) and isinstance(pieces[-1], Text)
        counts = Counter(texts[:-1])
        assert set(counts) == {candidate.text for candidate in case.candidates}
        assert set(counts.values()) == {shots}
        told = {
            attribute
            for attribute in ("colour", "shape")
            if len({(text, getattr(s.objects[0], attribute)) for text, s in zip(texts, scenes, strict=True)}) == ways
            and len({getattr(s.objects[0], attribute) for s in scenes}) == ways
        }
        assert told
        by.update(told)
        assert scenes[-1].content not in [scene.content for scene in scenes[:-1]]
        assert case.candidates[case.right] == case.reply
    assert set(by) == {"colour", "shape"}


def test_every_name_and_every_place_is_asked_alike():
    source = Episodes(seed=2, length=600, ways=3, shots=1)
    rights, last = Counter(), 0
    for case in source.cases():
        rights[case.right] += 1
        last += case.document.pieces[-3].text == case.reply.text
    assert max(rights.values()) / 600 < 0.4
    assert last / 600 == pytest.approx(1 / 3, abs=0.06)


def test_names_are_new_in_each_episode_and_none_is_in_two_parts():
    words = {
        split: [label for case in Episodes(seed=3, length=300, split=split).cases() for label in labels(case)]
        for split in ("train", "validation", "test")
    }
    for said in words.values():
        assert len(set(said)) > 0.9 * len(said)
    train, validation, test = (set(said) for said in words.values())
    assert not train & test and not train & validation and not validation & test


def test_a_reply_names_one_of_them():
    check = Names("dakub", ("dakub", "tivol"))
    for reply, worth in (
        ("dakub", 1),
        ("This is a Dakub.", 1),
        ("tivol", 0),
        ("dakub tivol", 0),
        ("dakubs", 0),
        ("", 0),
        ("a dakub and another dakub", 1),
    ):
        assert check(Document(reply)) == worth


def test_chance_goes_by_the_ways():
    source = Episodes(seed=4, length=300, ways=5, shots=1, split="test")
    worth = [case.check(case.candidates[0]) for case in source.cases()]
    assert sum(worth) / 300 == pytest.approx(1 / 5, abs=0.05)


def test_held_out_wordings_come_in_the_test_alone():
    start = HELD_OUT_WORDINGS[0].split("{")[0]
    assert not any(start in document.text for document in Episodes(seed=5, length=200))
    assert any(start in document.text for document in Episodes(seed=5, length=100, split="test"))


@pytest.mark.parametrize("changes", [{"ways": 1}, {"ways": 7}, {"shots": 0}])
def test_wrong_fields_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Episodes(seed=0, length=1, **changes)


def test_steps_tell_what_each_picture_shows_and_its_name():
    source, plain = (Episodes(seed=6, length=60, shots=3, steps=steps) for steps in (True, False))
    for case, short in zip(source.cases(), plain.cases(), strict=True):
        assert case.prompt == short.prompt and case.document.pieces == (*case.prompt, *case.reply)
        told, name = case.reply
        assert name == short.reply.pieces[0] and case.check(case.reply) == case.check(short.reply) == 1
        words = [one.split() for one in told.text.removesuffix(": ").split(", ")]
        scenes = [image.source.scene for image in case.prompt.images]
        assert [facts for *facts, _ in words] == [list(scene.content[0][:2]) for scene in scenes]
        named = [piece.text.removesuffix(".").split()[-1] for piece in case.prompt if isinstance(piece, Text)]
        assert [label for *_, label in words] == [*named, labels(case)[case.right]]


def test_a_list_calls_each_word_the_same_again():
    for split in ("train", "test"):
        for case in Lists(seed=7, length=60, split=split).cases():
            assert case.document.text == case.prompt.text + case.reply.text and case.check(case.reply) == 1
            entries = [entry.split() for entry in case.document.text.removesuffix(".").split(", ")]
            names = dict(entries)
            assert len(entries) == 20 and all(names[word] == name for word, name in entries)
            assert 1 <= len(names) <= 6 and len(set(names.values())) == len(names)
            assert entries[-1] in entries[:-1]
    for wrong in ({"words": (0, 2)}, {"words": (3, 2)}, {"entries": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Lists(seed=0, length=1, **wrong)
