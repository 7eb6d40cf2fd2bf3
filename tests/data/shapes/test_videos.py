"""Videos: one frame does not tell, the answers are true of the scenes, and are spread."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest

from plait.data.shapes.questions import NUMBERS
from plait.data.shapes.videos import ANSWERS, HELD_OUT_WORDINGS, WORDINGS, Videos
from plait.document import Document
from plait.errors import ConfigError

SOURCE = Videos(seed=2, length=4000)
CLIPS = [SOURCE.clip(i) for i in range(len(SOURCE))]


def named(item):
    return f"{item.colour} {item.shape}"


def happened(clip):
    """What happens between frames, found from the scenes alone: (gap, kind, object before, object after)."""
    for gap, (old, new) in enumerate(pairwise(clip.scenes)):
        gone = [item for item in old.objects if item.facts not in new.content]
        come = [item for item in new.objects if item.facts not in old.content]
        for before in list(gone):
            after = next((i for i in come if i.place == before.place or named(i) == named(before)), None)
            kind = "vanishes" if after is None else "moves" if named(after) == named(before) else "turns"
            if after is not None:
                come.remove(after)
            yield gap, kind, before, after
        yield from ((gap, "appears", None, after) for after in come)


def answer(clip):
    """The answer to the clip's question by what happened."""
    told = list(happened(clip))
    kinds = [kind for _, kind, _, _ in told]
    if clip.asked.startswith("many"):
        return NUMBERS[kinds.count(clip.asked.removeprefix("many ") + "s" if "appear" in clip.asked else "vanishes")]
    if clip.asked in ("first", "last"):
        return ANSWERS[kinds[0] if clip.asked == "first" else kinds[-1]]
    kind = {"to": "moves", "from": "moves"}.get(clip.asked, clip.asked.split()[0])
    (found,) = [(before, after) for _, happens, before, after in told if happens == kind]
    item = found[0] if clip.asked in ("vanishes", "from", "turns from") else found[1]
    if clip.asked in ("to", "from"):
        return item.place
    return item.colour if "turns" in clip.asked else named(item)


def test_answers_are_true():
    for clip in CLIPS:
        assert clip.answer == answer(clip)


def test_between_two_frames_happens_at_most_one_thing_unless_it_is_counted():
    for clip in CLIPS:
        gaps = Counter(gap for gap, *_ in happened(clip))
        assert clip.asked.startswith("many") or not gaps or max(gaps.values()) == 1
        assert 4 <= len(clip.scenes) <= 8


@pytest.mark.parametrize("at", [0, 0.5, 1], ids=["first", "middle", "last"])
def test_one_frame_alone_does_not_suffice(at):
    """Who sees one frame guesses among its objects, or goes by how many there are, as learned from other videos."""

    def frame(clip):
        return clip.scenes[round(at * (len(clip.scenes) - 1))]

    frequent = defaultdict(Counter)
    for clip in CLIPS[::2]:
        frequent[clip.asked, len(frame(clip))][clip.answer] += 1
    right = defaultdict(list)
    for clip in CLIPS[1::2]:
        scene = frame(clip)
        if clip.asked in ("first", "last", "many appear", "many vanish"):
            right[clip.asked].append(frequent[clip.asked, len(scene)].most_common(1)[0][0] == clip.answer)
        else:
            attribute = {"to": "place", "from": "place", "turns to": "colour", "turns from": "colour"}.get(clip.asked)
            seen = [getattr(item, attribute) if attribute else named(item) for item in scene.objects]
            right[clip.asked].append(seen.count(clip.answer) / len(seen))
    shares = {asked: sum(values) / len(values) for asked, values in right.items()}
    print(at, {asked: round(share, 3) for asked, share in shares.items()})
    assert max(shares.values()) < 0.5


def test_answers_are_spread():
    shares = defaultdict(Counter)
    for clip in CLIPS:
        shares[clip.asked][clip.answer] += 1
    assert set(shares) == set(WORDINGS)
    for asked, counts in shares.items():
        most = max(counts.values()) / counts.total()
        assert most < (0.5 if "many" in asked else 0.4 if asked in ("first", "last") else 0.25), asked


def test_a_document_is_a_video_with_times_and_two_turns():
    document = SOURCE[0]
    video, question = document.turns[0].pieces
    assert video.times == tuple(0.5 * at for at in range(len(video.frames)))
    assert [frame.source.scene for frame in video.frames] == list(CLIPS[0].scenes)
    assert question.text in WORDINGS[CLIPS[0].asked]


def test_held_out_wordings_come_in_the_test_alone():
    held_out = {text for texts in HELD_OUT_WORDINGS.values() for text in texts}
    assert not held_out & {document.turns[0].text for document in replace(SOURCE, length=500)}
    assert {document.turns[0].text for document in Videos(seed=2, length=500, split="test")} > held_out


@pytest.mark.parametrize("changes", [{"frames": (3,)}, {"frames": ()}, {"objects": (1,)}, {"objects": ()}])
def test_wrong_fields_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Videos(seed=0, length=1, **changes)


def test_steps_tell_each_frame_and_what_has_happened_before_it():
    verbs = {"appears": "appears", "vanishes": "vanishes", "moves": "moves from", "turns": "turns from"}
    for clip in CLIPS[:400]:
        told = list(happened(clip))
        steps = list(clip.steps)
        assert len(steps) == len(clip.scenes)
        for at, (step, scene) in enumerate(zip(steps, clip.scenes, strict=True)):
            assert all(f"{item.place} {named(item)}" in step for item in scene.objects)
            here = [(kind, before, after) for gap, kind, before, after in told if gap + 1 == at]
            assert step.endswith("same") == (at > 0 and not here)
            for kind, before, after in here:
                assert f"{named(before or after)} {verbs[kind]}" in step
                if kind == "moves":
                    assert f"from {before.place} to {after.place}" in step
                if kind == "turns":
                    assert f"from {before.colour} to {after.colour}" in step


def test_answers_behind_steps_are_judged_alone():
    for case in replace(SOURCE, steps=True, length=20).cases():
        plain, _, answer = case.reply.text.rpartition(": ")
        assert plain and case.check(case.reply) == case.check(Document(answer)) == 1
        assert case.check(Document(plain)) == 0
