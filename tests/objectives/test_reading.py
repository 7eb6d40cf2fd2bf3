from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.data.shapes.words import LEAST, LETTERS, Lettered, Opinions
from plait.document import Document
from plait.errors import ConfigError
from plait.objectives.reading import Reading, Speller
from plait.sequence import Batch
from plait.systems.kosmos1 import KOSMOS1, TINY, build


@pytest.fixture(scope="module")
def system() -> KOSMOS1:
    torch.manual_seed(0)
    return build("tiny")


@pytest.fixture(scope="module")
def batch(system: KOSMOS1) -> Batch:
    """Three documents of a picture of 4 x 4 patches and its text: two in a row, and one behind a text alone."""
    source, spelled = Opinions(seed=1, length=3, resolution=LEAST), Lettered(cells=8)
    documents = [Document([*source.case(i).prompt.images, source.opinion(i)[0]]) for i in range(3)]
    first, second, third = (spelled(system.format.layout(one), None) for one in documents)  # type: ignore[arg-type]
    return system.format.collator()([[first, second], [system.format.layout(Document("a text")), third]])


def test_cells_lie_in_their_patches() -> None:
    speller, seen = Speller(4, 2, 5), nn.functional.normalize(torch.randn(1, 9, 4), dim=-1)
    told = speller(seen)
    assert told.shape == (1, 36, 5)
    by_patch = speller.head(2 * seen[0]).view(9, 2, 2, 5)
    for y in range(6):
        for x in range(6):
            assert torch.equal(told[0, 6 * y + x], by_patch[3 * (y // 2) + x // 2, y % 2, x % 2])
    with pytest.raises(ConfigError, match="10 patches are no square"):
        speller(torch.randn(1, 10, 4))


def test_it_is_the_cross_entropy_of_cells_and_words(system: KOSMOS1, batch: Batch) -> None:
    speller, held = Speller(TINY.vision.width, 2, len(LETTERS)), nn.Linear(8 * 128, TINY.language.vocabulary)
    objective, letters, text = Reading(), batch.targets["letter"], system.format.text
    said = [[*text.encode(Opinions(seed=1, length=3, resolution=LEAST).opinion(i)[0]), text.eos] for i in range(3)]
    counts = objective.counts(batch)
    assert len(letters.value) == 3 * 64 and counts == {
        "letter": float((letters.value > 0).sum()),
        "word": float(sum(map(len, said))),  # not those of the text alone
    }
    assert objective.weights(counts) == {"letter": 1.0, "word": 1.0}
    told = objective(system, {"speller": speller, "words": held}, batch, torch.Generator())
    cells = speller(system.look(batch.images)[:, 1:]).log_softmax(-1)
    each = [cells[i, o, v] for i, o, v in zip(letters.image, letters.offset, letters.value, strict=True)]
    torch.testing.assert_close(told["letter"], -torch.stack(each).sum())
    bags = held(system.read(batch.images).flatten(1)).log_softmax(-1)
    each = [bags[i, word] for i, words in enumerate(said) for word in words]
    torch.testing.assert_close(told["word"], -torch.stack(each).sum())
    sum(told.values()).backward()  # type: ignore[union-attr]
    assert system.resampler.queries.grad is not None and system.language.embed.weight.grad is None
