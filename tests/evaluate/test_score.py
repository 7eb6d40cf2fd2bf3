from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.errors import InputError
from plait.evaluate import score as module
from plait.evaluate.score import METRICS, score

GOLDENS = Path(os.environ.get("PLAIT_SHARED", Path(__file__).parents[3] / "shared")) / "goldens/metrics"
golden = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the goldens of metrics are not here")

Put = Callable[[str, Any], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """name, content -> a file that holds it: JSON, text, or arrays."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, content)
        elif path.suffix == ".npz":
            np.savez(path, **content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


# --------------------------------------------------------------------------------------------- every metric


def test_captions(put: Put) -> None:
    said = put("said.json", {"1": "red fish", "2": "blue birds"})
    known = put("known.json", {"2": ["blue birds"], "1": ["red fish"]})
    assert score("cider", said, known) == {"metric": "cider", "n": 2, "cider": pytest.approx(5)}


def test_captions_as_coco_has_them(put: Put) -> None:
    said = put("said.json", [{"image_id": 7, "caption": "red fish"}, {"image_id": 9, "caption": "blue birds"}])
    rows = [(1, 9, "blue birds"), (2, 7, "red fish"), (3, 9, "grey cats")]
    annotations = [{"id": number, "image_id": image, "caption": text} for number, image, text in rows]
    known = put("known.json", {"images": [], "annotations": annotations})
    assert score("cider", said, known)["cider"] == pytest.approx((5 + 2.5) / 2)


def test_answers(put: Put) -> None:
    said = put("said.json", {"a": "Red.", "b": "two"})
    known = put("known.json", {"a": ["red"] * 10, "b": ["2"] * 3 + ["two"] * 7})
    wanted = {"official": 0.5, "lavis_emu_minigpt4": 0.95, "always_normalise_lmms_eval_head": 1.0}
    assert METRICS["vqa"].variants == tuple(wanted)
    for variant, accuracy in wanted.items():
        found = score("vqa", said, known, variant)
        assert found == {"metric": "vqa", "variant": variant, "n": 2, "accuracy": pytest.approx(accuracy)}
    assert score("vqa", said, known)["variant"] == "official"


def test_answers_as_vqa_has_them(put: Put) -> None:
    lines = [{"question_id": 30, "answer": "cat"}, {"question_id": 31, "answer": "dog"}]
    said = put("said.jsonl", "\n".join(map(json.dumps, lines)))
    people = [{"answer": "cat", "answer_id": i, "answer_confidence": "yes"} for i in range(10)]
    annotations = [{"question_id": number, "image_id": 3, "answers": people} for number in (31, 30)]
    known = put("known.json", {"annotations": annotations})
    assert score("vqa", said, known)["accuracy"] == 0.5


def test_features(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    made = put("made.npy", np.array([[0.0], [2.0]], dtype=np.float16))
    real = put("real.npz", {"real": np.array([[4.0], [8.0]])})
    wanted = {"metric": "fid", "n": 2, "n_references": 2, "fid": pytest.approx(27)}
    assert score("fid", made, real) == wanted
    monkeypatch.setattr(module, "ROWS", 1)  # row by row
    assert score("fid", made, real) == wanted


def test_ranks_from_arrays_of_any_depth(put: Put) -> None:
    scores = np.array([[[0.1, 0.7, 0.3], [0.1, 0.7, 0.3]]])
    said = put("said.npy", scores)
    wanted = {
        "metric": "retrieval",
        "n": 2,
        "r@1": 0.5,
        "r@5": 1.0,
        "r@10": 1.0,
        "median": 1.5,
        "mean": 1.5,
        "mrr": 0.75,
    }
    assert score("retrieval", said, put("known.npy", np.array([[2, 1]]))) == wanted
    mask = np.array([[[False, False, True], [True, True, False]]])
    assert score("retrieval", said, put("mask.npy", mask)) == wanted
    both = put("both.npz", {"scores": scores, "known": np.array([[2, 1]])})
    assert score("retrieval", Path(f"{both}:scores"), Path(f"{both}:known")) == wanted


def test_ranks_by_ids(put: Put) -> None:
    said = put("said.json", {"a": [0.1, 0.7, 0.3], "b": [0, 1, 0]})
    assert score("retrieval", said, put("known.json", {"b": 1, "a": 2}))["mean"] == 1.5
    assert score("retrieval", said, put("mask.json", {"b": [0, 1, 1], "a": [1, 0, 1]}))["mean"] == 1.5
    relevance = put("relevance.json", {"a": [0, 0, 1], "b": [0, 0.5, 0]})
    assert score("ndcg", said, relevance) == {"metric": "ndcg", "n": 2, "ndcg": 0.5}


def test_choices(put: Put) -> None:
    whole = put("whole.json", {"a": [-1, -2.5], "b": [-3, -2, -1]})
    tokens = put("tokens.json", {"a": [[-0.5, -0.5], [-2.5]], "b": [[-3], [-1, -1, -1], [-2, -2, -2]]})
    known = put("known.json", {"a": 0, "b": 1})
    wanted = {"metric": "choice", "n": 2, "chance": pytest.approx(5 / 12)}
    assert score("choice", whole, known) == wanted | {"variant": "sum", "accuracy": 0.5}
    assert score("choice", tokens, known) == wanted | {"variant": "sum", "accuracy": 0.5}
    assert score("choice", tokens, known, "mean") == wanted | {"variant": "mean", "accuracy": 1.0}


@golden
def test_goldens() -> None:
    good, references = GOLDENS / "caption/good_captions.json", GOLDENS / "caption/refs.json"
    assert score("cider", good, references)["cider"] == pytest.approx(0.5637412591757252)
    features = GOLDENS / "fid/features.npz"
    assert score("fid", Path(f"{features}:a"), Path(f"{features}:b"))["fid"] == pytest.approx(3.977078792695)
    case = GOLDENS / "visdial/case.npz"
    wanted = json.loads((GOLDENS / "visdial/expected.json").read_text())["sparse"]
    found = score("retrieval", Path(f"{case}:scores"), Path(f"{case}:gt_index"))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)


# -------------------------------------------------------------------------------------------- wrong inputs


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("cidre", None, "no metric 'cidre'; did you mean 'cider'"),
        ("xyz", None, "no metric 'xyz'; there are cider, vqa, fid, retrieval, ndcg, choice"),
        ("vqa", "mine", "no variant 'mine' of vqa; there are official, lavis_emu_minigpt4, always"),
        ("cider", "d", "no variant 'd' of cider; it has none: leave --variant out"),
    ],
)
def test_unknown_names(name: str, variant: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(name, Path("absent"), Path("absent"), variant)


@pytest.mark.parametrize(
    ("name", "said", "known", "message"),
    [
        (
            "vqa",
            {"a": "x", "b": "x"},
            {"a": ["x"]},
            "1 of 2 predictions without a reference, such as 'b': both files",
        ),
        (
            "vqa",
            {"a": "x"},
            {"a": ["x"], "c": ["x"]},
            "1 of 2 references without a prediction, such as 'c': both files",
        ),
        ("vqa", {"b": "x"}, {"c": ["x"]}, "such as 'b'; 1 of 1 references without a prediction, such as 'c'"),
        ("vqa", {}, {}, "0 predictions and 0 references"),
        ("vqa", {"a": 3}, {"a": ["x"]}, "said.json: 'a' is of type int, a text is needed"),
        ("vqa", {"a": "x"}, {"a": [3]}, "known.json: 'a' is of type int"),
        ("vqa", {"a": "x"}, {"a": [{"text": "x"}]}, "known.json: 'a' is of type dict"),
        ("vqa", {"a": "x"}, {"a": []}, "1 of 1 questions without a reference"),
        ("vqa", [{"id": 1, "answer": "x"}] * 2, {"1": ["x"]}, "said.json: 2 values of '1': give one of each id"),
        ("vqa", [{"answer": "x"}], {"1": ["x"]}, "item 0 of 1 needs one of question_id, image_id, id, and 'answer'"),
        ("vqa", [{"id": 1, "text": "x"}], {"1": ["x"]}, "item 0 of 1 needs .* and 'answer'"),
        ("vqa", ["x"], {"1": ["x"]}, "item 0 of 1 needs"),
        ("vqa", 3, {"1": ["x"]}, "said.json: JSON of type int; give an object from ids to values"),
        ("vqa", "{'a'", {"1": ["x"]}, "said.json: no readable JSON, line 1"),
        ("vqa", '{"id": 1,\n"x"', {"1": ["x"]}, "said.json: no readable JSON"),
        ("cider", {"a": "x"}, {"a": ["x"]}, "CIDEr of 1 image"),
        ("fid", {"a": 3}, {"a": 3}, r"said.json: features are read from .npy or .npz"),
        ("retrieval", {"a": [1, 2]}, {"a": 2}, "index 2 of 2 candidates"),
        ("retrieval", {"a": [1, 2]}, {"a": 0.5}, "known.json: 'a' needs a list"),
        ("retrieval", {"a": [1, "x"]}, {"a": 1}, "said.json: 'a' has 1 of 2 values that are no number, such as 'x'"),
        ("retrieval", {"a": [1, 2], "b": [1]}, {"a": 1, "b": 0}, "2 values of 'a' but 1 of 'b': give as many"),
        ("retrieval", {"a": [1, 2]}, {"a": [1, 0, 0]}, r"shape \(1, 2\) but references of shape \(1, 3\)"),
        ("retrieval", {"a": 1}, {"a": 1}, r"scores of shape \(1,\)"),
        ("retrieval", {"a": [1, 2]}, {"a": [0, 0]}, "1 of 1 queries without a positive"),
        ("choice", {"a": [1, 2]}, {"a": 2}, "known.json: 'a' has 2 for the index of one of 2"),
        ("choice", {"a": [1, 2]}, {"a": "B"}, "known.json: 'a' has 'B' for the index of one of 2"),
        ("choice", {"a": []}, {"a": 0}, "said.json: 'a' needs a list"),
        ("choice", {"a": [1, [2, "x"]]}, {"a": 0}, "1 of 2 values that are no number"),
    ],
)
def test_files_that_do_not_fit(put: Put, name: str, said: Any, known: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        score(name, put("said.json", said), put("known.json", known))
    assert "\n" not in str(error.value)


def test_means_need_tokens(put: Put) -> None:
    with pytest.raises(InputError, match="'a': variant mean needs a list of the tokens' scores for each choice"):
        score("choice", put("said.json", {"a": [-1, -2]}), put("known.json", {"a": 0}), "mean")


@pytest.mark.parametrize(
    ("name", "said", "known", "message"),
    [
        ("fid", "FILE.txt", "A.npy", "FILE.txt: features are read from"),
        ("fid", "TEXT.npy", "A.npy", "TEXT.npy: no array that can be read"),
        ("fid", "TEXT.npz", "A.npy", "TEXT.npz: no array that can be read"),
        ("fid", "ALONE.npz", "A.npy", "ALONE.npz: no array that can be read"),
        ("fid", "ALONE.npy", "A.npy", "ALONE.npy: no array that can be read"),
        ("fid", "MIXED.npz:x", "A.npy", "MIXED.npz: no array that can be read"),
        ("fid", "OBJECTS.npy", "A.npy", "OBJECTS.npy: no array that can be read: .* without objects"),
        ("fid", "WORDS.npy", "A.npy", "WORDS.npy: an array of <U1, numbers are needed"),
        ("fid", "TWO.npz", "A.npy", "TWO.npz: 2 arrays; give .*TWO.npz:NAME, of x, y"),
        ("fid", "TWO.npz:z", "A.npy", "TWO.npz: no array 'z'; give"),
        ("fid", "A.npy:z", "A.npy", "A.npy: holds one array, without a name: leave out :z"),
        ("fid", "TWO.npz:x", "A.npy", r"TWO.npz:x: float64 of shape \(3,\); give rows of features"),
        ("fid", "TWO.npz:y", "A.npy", "2 features a row, 3 in the other set"),
        ("retrieval", "A.npy", "FILE.txt", "give both as arrays, or both as JSON"),
        ("retrieval", "A.npy", "TWO.npz:x", "TWO.npz:x: indices of type float64: give whole numbers"),
        ("retrieval", "A.npy", "TWO.npz:y", r"shape \(3, 3\) but references of shape \(2, 2\)"),
    ],
)
def test_arrays_that_do_not_fit(put: Put, tmp_path: Path, name: str, said: str, known: str, message: str) -> None:
    put("FILE.txt", "{}")
    put("TEXT.npy", np.zeros(3)).write_text("text")
    put("OBJECTS.npy", np.array([None, {}], dtype=object))
    put("MIXED.npz", {"x": np.array([None], dtype=object)})
    (tmp_path / "TEXT.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "ALONE.npz").write_bytes((tmp_path / "OBJECTS.npy").read_bytes())  # neither is what it is called
    (tmp_path / "ALONE.npy").write_bytes((tmp_path / "MIXED.npz").read_bytes())
    put("WORDS.npy", np.array([["a"], ["b"]]))
    put("TWO.npz", {"x": np.zeros(3), "y": np.eye(2)})
    put("A.npy", np.eye(3))
    with pytest.raises(InputError, match=message):
        score(name, tmp_path / said, tmp_path / known)


def test_absent_files_are_named(tmp_path: Path) -> None:
    for name, file in (("vqa", "absent.json"), ("fid", "absent.npy")):
        with pytest.raises(FileNotFoundError, match=re.escape(file)):
            score(name, tmp_path / file, tmp_path / file)
