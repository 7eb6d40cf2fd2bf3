from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import pytest
import torch

from plait.document import Blank, Document, Image, Turn
from plait.errors import ConfigError, InputError
from plait.generate.candidates import candidates, halves, judge_of, reader_of
from plait.generate.engine import Settings
from plait.generate.model import Model
from plait.generate.sampling import Sampling
from plait.recipes import foundations
from plait.systems.base import Contrast
from plait.systems.cm3leon import CM3Leon
from plait.systems.foundations import TINY

PROMPTS = [Document(["a small dog", Blank("image")]), Document(["a cat", Blank("image")])]
NUCLEUS = Settings(guidance=3.0, image=Sampling(top_p=0.9), seed=5, contrast=Contrast(alpha=0.3, k=4))


def brightness(document: Document, pictures: Items[Image]) -> list[float]:
    """Bright pictures of cats, dark ones of anything else."""
    sign = 1 if "cat" in document.text else -1
    return [sign * float(np.asarray(picture.open(), dtype=float).mean()) for picture in pictures]


def test_the_judge_decides_among_pictures_that_are_drawn_as_if_alone(cm3leon: CM3Leon) -> None:
    model = Model(cm3leon)
    found = candidates(model, PROMPTS, brightness, halves(NUCLEUS, 5))
    for i, (document, one) in enumerate(zip(PROMPTS, found, strict=True)):
        scores = [brightness(document, reply.document.images)[0] for reply in one.replies]
        assert list(one.scores) == scores and len(set(scores)) > 1
        assert one.best is one.replies[int(np.argmax(scores))]
        assert one.best_of(2) is one.replies[int(np.argmax(scores[:2]))]
        j = 4
        alone = model.generate(document, halves(NUCLEUS, 5)[j], seed=5 + i * 5 + j)
        assert [run.ids for run in alone.runs] == [run.ids for run in one.replies[j].runs]


def test_half_of_the_settings_are_contrasted() -> None:
    each = halves(NUCLEUS, 5)
    assert [one.contrast is not None for one in each] == [False, False, False, True, True]
    assert [one.guidance for one in each] == [3.0, 3.0, 3.0, 1.0, 1.0]
    assert [one.image.top_p for one in each] == [0.9, 0.9, 0.9, 1.0, 1.0]
    with pytest.raises(ConfigError, match="half of the candidates by a contrast, and none is set"):
        halves(Settings(), 4)


def test_a_reply_without_a_picture_comes_last(cm3leon: CM3Leon) -> None:
    none = Settings(max_images=0, max_new_tokens=2)
    drawn = Settings()
    (found,) = candidates(Model(cm3leon), PROMPTS[:1], brightness, [none, drawn, none])
    assert [score == -float("inf") for score in found.scores] == [True, False, True]
    assert found.best is found.replies[1]
    with pytest.raises(InputError, match="0 candidates"):
        candidates(Model(cm3leon), PROMPTS, brightness, [])
    with pytest.raises(InputError, match="the judge gave 1 scores for 2 pictures"):
        candidates(Model(cm3leon), PROMPTS[:1], lambda document, pictures: [0.0], [drawn] * 2)


def test_towers_are_a_judge(cm3leon: CM3Leon) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        foundation = Model(foundations.build(TINY, [PROMPTS[0]]))
    (found,) = candidates(Model(cm3leon), PROMPTS[:1], judge_of(foundation), [Settings()] * 3)
    pictures = [reply.document.images[0] for reply in found.replies]
    towers = foundation.system.towers
    with torch.inference_mode():
        likeness = torch.cosine_similarity(towers.pictures(pictures), towers.texts(["a small dog"]))
    assert found.scores == pytest.approx(likeness.tolist(), abs=1e-5)
    assert len(set(found.scores)) == 3
    with pytest.raises(ConfigError, match="cm3leon has no towers"):
        judge_of(Model(cm3leon))


@pytest.mark.parametrize("request_", ["", "what is it?"])
def test_a_reader_judges_by_the_likelihood_of_the_prompt(cm3leon: CM3Leon, request_: str) -> None:
    model = Model(cm3leon)
    (drawn,) = candidates(model, PROMPTS[:1], brightness, [Settings()] * 3)
    pictures = [reply.document.images[0] for reply in drawn.replies]
    scores = reader_of(model, request_)(PROMPTS[0], pictures)
    for picture, score in zip(pictures, scores, strict=True):
        seen = Document([Turn("user", [picture, request_])] if request_ else [picture])
        assert score == pytest.approx(model.score(seen, [PROMPTS[0].text])[0], rel=1e-5)
    assert len(set(scores)) == 3
