from __future__ import annotations

import pytest

from plait.text.questions import PAGE, short_answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" Red circle.</s> and more", "red circle"),
        ("two. Question: how many", "two"),
        ("yesQuestion: is", "yes"),
        ("top  left\nmore", "top left"),
        ("", ""),
    ],
)
def test_the_answer_of_what_was_said(said: str, answer: str) -> None:
    assert short_answer(said) == answer


def test_the_prompt_of_pages_is_as_published() -> None:
    assert "Qusestion: Who is the publisher" in PAGE  # the paper's error
    assert PAGE.format(context="c", question="q?").endswith("Context: c Q: q? A:")
