"""Whether a language model knows its language: a published one that was put together wrongly does not."""

from __future__ import annotations

from plait.document import Document
from plait.errors import InputError
from plait.generate.model import Model

BEGIN = "The weather was fine this morning,"
ENGLISH = (
    "so we took the train to the sea and walked along the beach for an hour. The water was still too cold to swim, "
    "but the children did not mind. At noon we had bread and cheese, and in the evening we went home."
)
SHARE = 0.5
"""Of chance: a trained model stays well below, one with weights at the wrong places is at or above it."""


def english(model: Model) -> dict[str, float]:
    """Nats for each token of a plain English text, and those of a guess.

    Raises:
        InputError: the system predicts no text.
    """
    chance = model.system.chance.get("token")
    if chance is None:
        raise InputError(f"{model.system.name} predicts no tokens of text: there is nothing to verify")
    (total,) = model.score(Document([BEGIN]), [ENGLISH])
    read = len(model.format.layout(Document([BEGIN]), open=True))
    laid = model.format.layout(Document([BEGIN, ENGLISH]))
    targets = [target for span in laid.cut(read, len(laid)).spans for target in span.targets]
    count = sum(int((target.weight > 0).sum()) for target in targets)
    return {"nats": -total / count, "chance": chance}


def said(facts: dict[str, float]) -> str:
    """The verdict, in words."""
    good = facts["nats"] < SHARE * facts["chance"]
    verdict = "verified" if good else "NOT verified: these are not the weights of a model of English"
    return f"{verdict} ({facts['nats']:.2f} nats a token of plain English, a guess has {facts['chance']:.2f})"
