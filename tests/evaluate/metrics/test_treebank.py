from __future__ import annotations

import pytest

from plait.evaluate.metrics.treebank import words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man, a plan.", "a man a plan"),
        ("the dogs' bowl isn't the man's; it's the kids'", "the dogs bowl is n't the man 's it 's the kids"),
        ("can't won't couldn't've cannot o'clock", "ca n't wo n't could n't 've can not o'clock"),
        (
            "a t-shirt in black-and-white -- and/or a half - eaten one...",
            "a t-shirt in black-and-white and/or a half eaten one",
        ),
        ('sign reads "don\u2019t walk" (twice)', "sign reads do n't walk -lrb- twice -rrb-"),
        (
            "At 2:30 p.m. Mr. Smith of the U.S. eats 1,000 pies, 3.5 feet high.",
            "at 2:30 p.m. mr. smith of the u.s. eats 1,000 pies 3.5 feet high",
        ),
        ("plan b. on main st.", "plan b. on main st."),
        ("6'2\" tall, 5% off #3 for $5 at no. 10", "6 2 tall 5 % off # 3 for $ 5 at no. 10"),
        ("what?! no!", "what ?! no"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_words(caption: str, expected: str) -> None:
    assert " ".join(words(caption)) == expected
