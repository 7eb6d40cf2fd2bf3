"""What KOSMOS-1 is asked (arXiv 2302.14045): prompts that a language model which is not spoken to goes on with.

`{...}` stands for what a task fills in; the answer follows.
"""

from __future__ import annotations

CAPTION = "An image of"
QUESTION = "Question: {question} Answer:"
INTRODUCE = "Introduce this picture in detail:"
"""First step of the chain of thought; the second is a `QUESTION` behind what was said."""
NAME = "The photo of the"
DESCRIBED = "Question:what is the name of {category} in the picture? Answer:"
SENTIMENT = "Question: what is the sentiment of the opinion? Answer:"
HATE = "Question: does this picture contain real hate speech? Answer:"
MATRIX, CANDIDATE, CORRECT = "Here are {number} images:", "The following image is:", "Is it correct?"
PAGE = (
    "Given the context below from web page, extract the answer from the given text like this: Qusestion: Who is the "
    "publisher of this book? Answer: Penguin Books Ltd. Context: {context} Q: {question} A:"
)
"""With the error in it that the paper has."""
LARGER = "Is {first} larger than {second}?"
COLOUR = "The color of {thing} is?"
INSTRUCTION = "{instruction} {input} {output}"
"""Of language-only instructions; how the three are joined is not published."""


def short_answer(text: str) -> str:
    """What is said up to the first full stop, line break or further question, in small letters."""
    for mark in ("\n", "Question:", "."):
        text = text.split(mark)[0]
    return " ".join(text.lower().split())
