from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plait.document import Blank, Document, Image
from plait.errors import InputError
from plait.generate.model import Model
from plait.retrieval.embed import Embedder
from plait.retrieval.memory import Memory
from plait.retrieval.retriever import Retriever
from plait.systems.cm3leon import CM3Leon

TEXTS = ("aaab", "aacc", "ddee", "ffgg", "hhii")


@pytest.fixture
def memory(tmp_path: Path, embedder: Embedder, picture: Callable[[int], Image]) -> Memory:
    documents = [Document([text, picture(i)]) for i, text in enumerate(TEXTS)]
    memory = Memory.create(tmp_path, 16, embedder=embedder.identity, documents={"s": documents})
    with memory.appending():
        memory.append("s", range(len(documents)), embedder(documents))
    return memory


def before(document: Document) -> list[str]:
    return [one.text for one in document.before]


def test_what_is_relevant_stands_in_front(memory: Memory, embedder: Embedder, picture: Callable[[int], Image]) -> None:
    retriever = Retriever(memory=memory, embedder=embedder, count=2)
    asked = Document(["aabb", Blank("image")])
    assert before(retriever(asked)) == ["aaab", "aacc"]
    assert retriever(asked).pieces == asked.pieces
    seen = retriever([Document([picture(3), Blank("text")]), asked])
    assert "ffgg" not in before(seen[0]) and len(seen[0].before) == 2  # it shows that picture
    assert before(seen[1]) == ["aaab", "aacc"]
    assert len(replace(retriever, count=4)(asked).before) == 4
    assert replace(retriever, count=0)(asked) is asked


def test_a_model_retrieves_before_it_answers(memory: Memory, embedder: Embedder, cm3leon: CM3Leon) -> None:
    retriever = Retriever(memory=memory, embedder=embedder, count=2)
    asked = [Document(["aabb", Blank("image")]), Document(["ee", Blank("image")])]
    plain, model = Model(cm3leon), Model(cm3leon, retriever=retriever)
    wanted = plain.generate([retriever(one) for one in asked], guidance=2.0, seed=3)
    found = model.generate(asked, guidance=2.0, seed=3)
    assert [reply.runs for reply in found] == [reply.runs for reply in wanted]
    assert [reply.runs for reply in found] != [reply.runs for reply in plain.generate(asked, guidance=2.0, seed=3)]
    told = [*model.stream(asked[0], guidance=2.0, seed=3)]
    assert [np.asarray(piece.open()).tolist() for piece in told if isinstance(piece, Image)] == [
        np.asarray(piece.open()).tolist() for piece in wanted[0].document.images
    ]


def test_other_towers_are_refused(memory: Memory, embedder: Embedder) -> None:
    other = replace(embedder, identity={"checkpoint": "another", "fingerprints": {"clip": "1"}})
    with pytest.raises(InputError, match="was built with the towers of none, which another has not"):
        Retriever(memory=memory, embedder=other)
    with pytest.raises(InputError, match="-1 documents to retrieve"):
        Retriever(memory=memory, embedder=embedder, count=-1)
