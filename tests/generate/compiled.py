"""Prints, as JSON, the ids that a saved CM3Leon emits when its step is compiled, and when it is not.

A program of its own: PyTorch compiles the code that users run, not code in which shapes are checked.
"""

from __future__ import annotations

import json
import sys

import plait
from plait.document import Blank, Document
from plait.generate.engine import Settings
from plait.generate.sampling import Sampling

PROMPTS = [Document("a small"), Document("the big green"), Document(["a red", Blank("image")])]


def ids(run: str, compile: bool) -> list[list[int]]:
    """Rows of several lengths that end at several times, two of them guided; then a row alone."""
    model = plait.load(run, compile=compile)
    settings = Settings(max_new_tokens=5, guidance=2.0, text=Sampling(), seed=1)
    replies = [*model.generate(PROMPTS, settings), model.generate(PROMPTS[0], max_new_tokens=3)]
    return [run.ids for reply in replies for run in reply.runs]


if __name__ == "__main__":
    print(json.dumps([ids(sys.argv[1], compile=True), ids(sys.argv[1], compile=False)]))
