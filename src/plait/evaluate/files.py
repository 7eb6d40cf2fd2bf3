"""Predictions and references in files: JSON by ids, and arrays.

JSON is an object from ids to values; or a list of objects that carry their ids, or one such object a line; or what COCO
and VQAv2 publish, an object with such a list under `annotations`. An id is a question's, else an image's, else its own.
Arrays are .npy, or .npz, with the name of an array behind a colon where there are several (`case.npz:scores`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from plait.errors import InputError

IDS = ("question_id", "image_id", "id")  # VQAv2's objects carry the first two, COCO's captions the last two
ARRAYS = (".npy", ".npz")

Array = NDArray[Any]


def is_array(path: Path) -> bool:
    """Whether it names an array, by its ending."""
    return path.suffix.partition(":")[0] in ARRAYS


def read_array(path: Path) -> Array:
    """An array; one in a .npy is mapped, not read at once.

    Raises:
        InputError: no array that can be read without running code, or several and no name.
    """
    file, _, name = str(path).rpartition(":") if ":" in path.suffix else (str(path), "", "")
    try:
        if file.endswith(".npz"):
            with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as held:
                array = held[_named(file, name, list(held))]
        else:
            array = np.lib.format.open_memmap(file, mode="r")
    except (FileNotFoundError, InputError):
        raise
    except (OSError, ValueError, EOFError, BadZipFile, TypeError) as error:  # TypeError: an .npz that is an .npy
        raise InputError(f"{file}: no array that can be read: save it as .npy or .npz, without objects") from error
    if name and not file.endswith(".npz"):
        raise InputError(f"{file}: holds one array, without a name: leave out :{name}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: an array of {array.dtype}, numbers are needed")
    return array


def _named(file: str, name: str, names: Sequence[str]) -> str:
    """The name, or the only one there is."""
    if not name and len(names) == 1:
        return names[0]
    if name not in names:
        found = f"no array {name!r}" if name else f"{len(names)} arrays"
        raise InputError(f"{file}: {found}; give {file}:NAME, of {', '.join(names) or 'none'}")
    return name


def read_values(path: Path, field: str) -> dict[str, list[Any]]:
    """All values of each id, in the order of the file; `field` is where an object that carries its id has its value.

    Raises:
        InputError: no such JSON, or an object without id or value.
    """
    content = _json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if isinstance(content, dict):
        return {key: [value] for key, value in content.items()}
    if not isinstance(content, list):
        raise InputError(
            f"{path}: JSON of type {type(content).__name__}; give an object from ids to values, or a list of objects"
        )
    values = defaultdict(list)
    for number, item in enumerate(content):
        key = next((item[name] for name in IDS if name in item), None) if isinstance(item, dict) else None
        if key is None or field not in item:
            raise InputError(f"{path}: item {number} of {len(content)} needs one of {', '.join(IDS)}, and {field!r}")
        values[str(key)].append(item[field])
    return dict(values)


def read_one(path: Path, field: str) -> dict[str, Any]:
    """The one value of each id.

    Raises:
        InputError: as `read_values`; or an id with several values.
    """
    values = read_values(path, field)
    for key, several in values.items():
        if len(several) > 1:
            raise InputError(f"{path}: {len(several)} values of {key!r}: give one of each id")
    return {key: value for key, (value,) in values.items()}


def read_texts(path: Path, field: str) -> dict[str, list[str]]:
    """The texts of each id: of several values, of a list, or of a list of objects that have them under `answer`.

    Raises:
        InputError: as `read_values`; or a value that is no text.
    """
    texts = {}
    for key, values in read_values(path, field).items():
        flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
        bare = [one.get("answer", one) if isinstance(one, dict) else one for one in flat]
        texts[key] = [as_text(path, key, one) for one in bare]
    return texts


def as_text(path: Path, key: str, value: Any) -> str:
    """The value, if it is a text.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, str):
        raise InputError(f"{path}: {key!r} is of type {type(value).__name__}, a text is needed: write it in quotes")
    return value


def as_list(path: Path, key: str, value: Any) -> list[Any]:
    """The value, if it is a list of at least one.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f"{path}: {key!r} needs a list with something for each candidate")
    return value


def as_numbers(path: Path, key: str, value: Any) -> list[float]:
    """The value, if it is a list of at least one number.

    Raises:
        InputError: it is not.
    """
    wrong = [one for one in as_list(path, key, value) if type(one) not in (int, float)]
    if wrong:
        raise InputError(
            f"{path}: {key!r} has {len(wrong)} of {len(value)} values that are no number, such as {wrong[0]!r}"
        )
    return value


def as_index(path: Path, key: str, value: Any, candidates: int) -> int:
    """The value, if it is the index of one of the candidates.

    Raises:
        InputError: it is not.
    """
    if type(value) is not int or not 0 <= value < candidates:
        raise InputError(f"{path}: {key!r} has {value!r} for the index of one of {candidates}: count from 0")
    return value


def as_matrix(path: Path, values: Mapping[str, Any]) -> Array:
    """Lists of one length as rows, or whole numbers alone as a vector; in the order of the mapping.

    Raises:
        InputError: values that are neither, or lists of several lengths.
    """
    if all(type(value) is int for value in values.values()):
        return np.array(list(values.values()))
    rows = {key: as_numbers(path, key, value) for key, value in values.items()}
    first, *others = rows
    odd = next((key for key in others if len(rows[key]) != len(rows[first])), None)
    if odd is not None:
        raise InputError(
            f"{path}: {len(rows[first])} values of {first!r} but {len(rows[odd])} of {odd!r}: give as many"
        )
    return np.array(list(rows.values()))


def same_ids(predictions: Collection[str], references: Collection[str]) -> list[str]:
    """The ids, in the order of the predictions.

    Raises:
        InputError: one without the other, or none at all.
    """
    lone, missing = set(predictions) - set(references), set(references) - set(predictions)
    if lone or missing:
        sides = [
            f"{len(ids)} of {len(all_ids)} {what}, such as {min(ids)!r}"
            for ids, all_ids, what in (
                (lone, predictions, "predictions without a reference"),
                (missing, references, "references without a prediction"),
            )
            if ids
        ]
        raise InputError(f"{'; '.join(sides)}: both files must have the same ids")
    if not predictions:
        raise InputError("0 predictions and 0 references: give at least 1 of each")
    return list(predictions)


def _json(path: Path) -> Any:
    """A JSON document, or a list of one a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8; give JSON") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fault = error
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        if len(lines) > 1:
            return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        pass
    raise InputError(f"{path}: no readable JSON, line {fault.lineno}: {fault.msg}") from fault
