from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plait.checkpoints.directory import save
from plait.document import Document, Image
from plait.errors import ConfigError, DocumentError
from plait.retrieval.embed import Embedder, load_embedder
from plait.systems.cm3leon import CM3Leon

Picture = Callable[[int], Image]


def test_parts_apart(embedder: Embedder, picture: Picture) -> None:
    made = embedder([Document(["ab", picture(0)]), Document([picture(1), picture(2)]), Document(" c ")])
    torch.testing.assert_close(made.text[0], embedder.towers.texts(["ab"])[0])
    torch.testing.assert_close(made.text[2], embedder.towers.texts(["c"])[0])
    assert not made.text[1].any() and not made.pictures[2].any()
    both = embedder.towers.pictures([picture(1), picture(2)]).sum(0)
    torch.testing.assert_close(made.pictures[1], torch.nn.functional.normalize(both, dim=0))


def test_content_is_known_again(embedder: Embedder, picture: Picture) -> None:
    asked = [Document(["a", picture(0)]), Document(["b", picture(0)]), Document(["a", picture(1)]), Document("a")]
    made, again = embedder(asked), embedder(asked[::-1])
    assert len(set(made.content.tolist())) == 4
    assert again.content.tolist() == made.content.tolist()[::-1]
    assert made.picture_content[0] == made.picture_content[1] != made.picture_content[2]
    assert made.picture_content[3] == 0


def test_another_text_may_be_embedded(embedder: Embedder, picture: Picture) -> None:
    documents = [Document(["a b", picture(0)]), Document("c")]
    made = embedder(documents, ["b", ""])
    torch.testing.assert_close(made.text[0], embedder.towers.texts(["b"])[0])
    assert not made.text[1].any()
    assert made.content.tolist() == embedder(documents).content.tolist()


def test_what_cannot_be_embedded_is_told(embedder: Embedder, picture: Picture) -> None:
    bad = [Document(Image(b"no picture")), Document(" ")]
    documents = [Document("a"), bad[0], Document(["b", picture(0)]), bad[1], Document("c")]
    made, places, wrong = embedder.readable(documents)
    assert places == [0, 2, 4] and len(made) == 3
    assert sorted(wrong) == [1, 3] and wrong[3] == "neither text nor pictures to be found by"
    torch.testing.assert_close(made.text, embedder([documents[i] for i in places]).text)
    texts = ["x", "", "y", "", "z"]
    torch.testing.assert_close(embedder.readable(documents, texts)[0].text, embedder.towers.texts(["x", "y", "z"]))
    none, places, wrong = embedder.readable(bad)
    assert none.text.shape == none.pictures.shape == (0, 16) and places == [] and len(wrong) == 2
    with pytest.raises(DocumentError, match="neither text nor pictures"):
        embedder(documents[3:])


def test_a_system_without_towers(cm3leon: CM3Leon, tmp_path: Path) -> None:
    save(cm3leon, tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match="cm3leon has no towers"):
        load_embedder(str(tmp_path / "checkpoint"))
