from __future__ import annotations

import pytest
import torch

import plait
from plait.document import Document, Text
from plait.errors import ConfigError, InputError
from plait.generate.trie import Trie

NAMES = ("red fox", "red", "small animal", "sleeps")
ASKED = Document([Text("The photo of the")])


def test_what_may_come_next() -> None:
    trie = Trie([[5, 6], [5, 7, 8], [5]], ends=(2, 1))
    assert trie.allowed([]) == [5]
    assert trie.allowed([5]) == [6, 7, 1, 2]
    assert trie.allowed([5, 7]) == [8]
    assert trie.allowed([5, 7, 8]) == [1, 2]
    assert trie.allowed([9]) == trie.allowed([5, 6, 6]) == [1, 2]  # no way to go
    assert trie.longest == 3


def test_there_must_be_something_to_say() -> None:
    with pytest.raises(ConfigError, match="0 texts to choose from"):
        Trie([], ends=(2,))
    with pytest.raises(ConfigError, match="an empty text"):
        Trie([[5], []], ends=(2,))


@pytest.mark.parametrize("search", ["transformers", "fairseq"])
def test_many_beams_find_the_best_of_the_texts(search) -> None:
    torch.manual_seed(0)
    model = plait.build("kosmos1", "tiny")

    def reply(names, beams):
        return model.generate(ASKED, beams=beams, among=names, search=search, max_new_tokens=20)

    alone = {name: reply((name,), 1).runs[0].logprobs for name in NAMES}
    scores = {name: sum(logprobs) / len(logprobs) for name, logprobs in alone.items()}
    found = [reply(NAMES, beams) for beams in (1, 2, 8)]
    assert all(one.text in NAMES and one.stop == "end" for one in found)
    assert found[2].runs[0].logprobs == pytest.approx(alone[found[2].text], abs=1e-4)
    if search == "transformers":  # fairseq's scores count the prompt, too
        assert found[2].text == max(NAMES, key=scores.__getitem__)


def test_texts_must_fit() -> None:
    model = plait.build("kosmos1", "tiny")
    longest = max(len(model.format.text_ids(name)) for name in NAMES)
    with pytest.raises(InputError, match="the longest of 4 texts has 2 ids more than fit"):
        model.generate(ASKED, among=NAMES, max_new_tokens=longest - 1)


def test_a_picture_is_no_text() -> None:
    model = plait.build("cm3leon", "tiny")
    with pytest.raises(ConfigError, match="a picture that is one of 4 texts"):
        model.generate(Document(["a", plait.Blank("image")]), among=NAMES)
