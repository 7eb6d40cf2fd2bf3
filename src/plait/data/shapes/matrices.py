"""Visual matrices in the manner of Raven: which of six pictures completes the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, get_args

from plait.data.shapes.cases import Case, Cases
from plait.data.shapes.chance import Chance
from plait.data.shapes.draw import SIZES
from plait.data.shapes.looking import NO, YES
from plait.data.shapes.naming import NUMBERS
from plait.data.shapes.questions import behind, concludes
from plait.data.shapes.score import says
from plait.data.shapes.split import HELD_OUT_PAIRS, hashed, noisy
from plait.data.shapes.world import COLOURS, PLACES, SHAPES, Scene, SceneImage
from plait.document import Document, Image, Piece, Text, Turn
from plait.errors import ConfigError

Form = Literal["choose", "judge"]

CANDIDATES = 6
ATTRIBUTES = ("colour", "shape", "size", "number", "place")
ORDERED = ("size", "number", "place")
RADII = tuple(pixels / 32 for pixels in (1.6, 2.2, 2.8, 3.4, 4.0, 4.6))  # six: the world's two give no six candidates
_COUNTS = dict(zip(ATTRIBUTES, map(len, (COLOURS, SHAPES, RADII, PLACES, PLACES)), strict=True))
_FREE = tuple(i for i, colour in enumerate(COLOURS) if not any(colour == pair[0] for pair in HELD_OUT_PAIRS))


class Cell(NamedTuple):
    """A picture of a matrix: `number` objects alike, by indices of `COLOURS`, `SHAPES`, `RADII`.

    `place` is that of the only object, or -1 when there may be several, at any places.
    """

    colour: int
    shape: int
    size: int
    number: int
    place: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix: its cells row by row with the right last one, and the six candidates, one of which is that."""

    columns: int
    cells: tuple[Cell, ...]
    candidates: tuple[Cell, ...]
    asked: str
    """The attribute that the candidates differ in."""

    @property
    def right(self) -> int:
        """The index of the right candidate."""
        return self.candidates.index(self.cells[-1])

    def look(self, candidate: Cell) -> Iterator[str]:
        """ "colour red red, blue blue, pink no": of each attribute its values row by row, the last by the rules, then
        that of a candidate, and whether it is the same."""
        for attribute in ATTRIBUTES:
            if attribute == ("number" if self.cells[-1].place >= 0 else "place"):
                continue
            values = [_said(cell, attribute) for cell in self.cells]
            rows = (" ".join(values[at : at + self.columns]) for at in range(0, len(values), self.columns))
            shown = _said(candidate, attribute)
            yield f"{attribute} {', '.join(rows)}, {shown} {YES if shown == values[-1] else NO}"


@dataclass(frozen=True, slots=True)
class MatrixCase(Case):
    """A case with its candidates as prompts of their own, to be ranked by the likelihood of "Yes" after them."""

    candidates: tuple[Document, ...]
    right: int
    """The index of the right one."""


@dataclass(frozen=True, kw_only=True)
class Matrices(Cases):
    """Matrices of 2 by 2 or 3 by 3 pictures without the last, which is one of six candidates.

    A picture shows objects alike in colour, shape and size; either one at a place or several at any places. A rule
    governs each of colour, shape, size and number or place along the rows: constant, progression (by the same step in
    every row; of sizes, numbers, and places in reading order) or distribution (every row has the same two or three
    values). The pictures that are shown leave one value of each that a rule can give. Every wrong candidate breaks the
    rule of one attribute and keeps the others, and it is the same attribute for all: any two candidates are equally
    alike, so that none stands out, and which one is right cannot be seen on the candidates.

    Documents are of two forms. To choose is a turn of the user and one of the assistant; to judge is the form in which
    KOSMOS-1 is scored (arXiv 2302.14045), for one candidate, that is right half the time:

        choose  "Here are eight images:" 8 images "Which image follows? one:" image "two:" image ... | "three"
        judge   "Here are eight images:" 8 images "The following image is:" image "Is it correct?" | "Yes"

    Beside each case stand its six prompts to judge (`MatrixCase.candidates`): rank them by the likelihood of "Yes".
    Seen and unseen are split by the hash of all values of the matrix; no picture has a pair of colour and shape that
    training never shows.

    Chance: one in six, by the candidate most alike to the others, or the number of the right one that is most frequent;
    to judge, one half.

    Args:
        columns: 2 or 3, each as likely.
        form: "choose" or "judge".
        steps: whether the answer of a judge stands behind what he looks at, attribute by attribute (`Matrix.look`).
    """

    name: ClassVar[str] = "matrices"
    chance: ClassVar[float] = 1 / CANDIDATES

    columns: tuple[int, ...] = (2, 3)
    form: Form = "choose"
    steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.columns or not set(self.columns) <= {2, 3}:
            raise ConfigError(f"columns={self.columns}: give some of 2 and 3")
        if self.form not in get_args(Form):
            raise ConfigError(f"form {self.form!r} is not one of {', '.join(get_args(Form))}")
        if self.steps and self.form != "judge":
            raise ConfigError(f"form {self.form!r} with steps: only judges take steps")

    def matrix(self, i: int) -> Matrix:
        """The matrix of case i."""
        chance = self.stream(i)
        while True:
            matrix = _matrix(chance, chance.choice(self.columns))
            if hashed(repr([tuple(cell) for cell in matrix.cells])) == self.split:
                return matrix

    def case(self, i: int) -> MatrixCase:
        """Case i."""
        matrix, chance = self.matrix(i), self.stream(i, 1)
        shown = [self._image(cell, chance) for cell in matrix.cells[:-1]]
        options = [self._image(cell, chance) for cell in matrix.candidates]
        given: list[Piece] = [Text(f"Here are {NUMBERS[len(shown)]} images:"), *shown]
        judged = tuple(
            Document([*given, Text("The following image is:"), option, Text("Is it correct?")]) for option in options
        )
        right = matrix.right
        if self.form == "judge":
            wrong = (right + 1 + chance.below(CANDIDATES - 1)) % CANDIDATES
            yes = chance.unit() < 0.5
            number, answer = right if yes else wrong, "Yes" if yes else "No"
            steps = [behind(["; ".join(matrix.look(matrix.candidates[number]))])] if self.steps else []
            prompt, reply = judged[number], Document([*steps, answer])
            return MatrixCase(Document([*prompt, *reply]), prompt, partial(concludes, answer), reply, judged, right)
        for number, option in enumerate(options, 1):
            given += [Text(f"{'Which image follows? ' if number == 1 else ''}{NUMBERS[number]}:"), option]
        user, answer = Turn("user", given), NUMBERS[right + 1]
        document = Document([user, Turn("assistant", answer)])
        return MatrixCase(document, Document([user]), partial(says, answer), Document(answer), judged, right)

    def _image(self, cell: Cell, chance: Chance) -> Image:
        return Image(SceneImage(picture(cell, chance), self.resolution))


def _said(cell: Cell, attribute: str) -> str:
    """A value in a word, or that of a place: sizes are told by their number, from one."""
    match attribute:
        case "colour":
            return COLOURS[cell.colour]
        case "shape":
            return SHAPES[cell.shape]
        case "size":
            return NUMBERS[cell.size + 1]
        case "number":
            return NUMBERS[cell.number]
        case _:
            return PLACES[cell.place]


def picture(cell: Cell, chance: Chance) -> Scene:
    """The scene of a cell; objects without a place of their own stand at any."""
    places = chance.sample(PLACES, cell.number) if cell.place < 0 else [PLACES[cell.place]]
    scale = RADII[cell.size] / SIZES["large"]
    items = [noisy(chance, (COLOURS[cell.colour], SHAPES[cell.shape], "large", place)) for place in places]
    return Scene(tuple(replace(item, scale=scale) for item in items))


def implied(grid: Sequence[Sequence[int]], ordered: bool) -> set[int]:
    """The values that a rule can give the last cell.

    Args:
        grid: rows of an attribute's values, the last row one short.
        ordered: whether there are progressions.
    """
    *full, last = grid
    found = {last[0]} if all(len(set(row)) == 1 for row in grid) else set[int]()
    steps = {b - a for row in grid for a, b in pairwise(row)}
    if ordered and len(steps) == 1 and steps != {0}:
        found.add(last[-1] + steps.pop())
    values = set(full[0])
    if len(values) == len(full[0]) and all(set(row) == values for row in full):
        missing = values - set(last)
        found |= missing if len(missing) == 1 else set()
    return found


def _matrix(chance: Chance, columns: int) -> Matrix:
    several = chance.unit() < 0.5
    asked = chance.choice(("colour", "shape", "size", "number" if several else "place"))
    values = {attribute: list(range(count)) for attribute, count in _COUNTS.items()}
    values["colour"], values["shape"] = _kinds(chance, asked)
    last = {attribute: chance.choice(values[attribute]) for attribute in ATTRIBUTES}
    grids = {
        attribute: _grid(chance, values[attribute], attribute in ORDERED, columns, last[attribute])
        for attribute in ATTRIBUTES
    }
    if several:
        grids["place"] = [-1] * columns**2
    else:
        grids["number"] = [0] * columns**2
    rows = zip(*(grids[attribute] for attribute in ATTRIBUTES), strict=True)
    cells = tuple(Cell(colour, shape, size, number + 1, place) for colour, shape, size, number, place in rows)
    wrong = chance.sample([value for value in values[asked] if value != last[asked]], CANDIDATES - 1)
    options = chance.sample([last[asked], *wrong], CANDIDATES)
    more = 1 if asked == "number" else 0
    return Matrix(columns, cells, tuple(cells[-1]._replace(**{asked: value + more}) for value in options), asked)


def _kinds(chance: Chance, asked: str) -> tuple[list[int], list[int]]:
    """Colours and shapes any two of which training shows together, at least six of what is asked for.

    Right and wrong candidates are drawn from the same of them: which is right must not show.
    """
    if asked == "shape":
        return list(_FREE), list(range(len(SHAPES)))
    while True:
        shapes = chance.sample(range(len(SHAPES)), 3)
        held_out = {colour for colour, shape in HELD_OUT_PAIRS if SHAPES.index(shape) in shapes}
        colours = [i for i, colour in enumerate(COLOURS) if colour not in held_out]
        if asked != "colour" or len(colours) >= CANDIDATES:
            return colours, shapes


def _grid(chance: Chance, values: list[int], ordered: bool, columns: int, last: int) -> list[int]:
    """An attribute's values by one rule, row by row; those before the last leave one value for it: `last`."""
    rules = ("constant", "distribution", "progression") if ordered else ("constant", "distribution")
    while True:
        match chance.choice(rules):
            case "constant":
                rows = [[value] * columns for value in (*(chance.choice(values) for _ in range(columns - 1)), last)]
            case "distribution":
                others = chance.sample([value for value in values if value != last], columns - 1)
                rows = [chance.sample([*others, last], columns) for _ in range(columns - 1)] + [[*others, last]]
            case _:
                reach = columns - 1
                step = chance.choice([d for d in range(-4, 5) if d and last - reach * d in values])
                starts = [value for value in values if value + reach * step in values]
                firsts = [*(chance.choice(starts) for _ in range(columns - 1)), last - reach * step]
                rows = [[first + step * column for column in range(columns)] for first in firsts]
        if implied([*rows[:-1], rows[-1][:-1]], ordered) == {last}:
            return [value for row in rows for value in row]
