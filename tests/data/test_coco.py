from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from plait.data.coco import coco
from plait.data.shards import ShardSource, splits
from plait.errors import InputError


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), (value, value, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listing(path: Path, images: list[Any], annotations: list[Any]) -> Path:
    return put(path, json.dumps({"info": {}, "images": images, "annotations": annotations}).encode())


def image(number: int | str, name: str = "") -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number}.jpg", "width": 8, "height": 6}


def said(number: int | str, caption: str) -> dict[str, Any]:
    return {"image_id": number, "id": 1000, "caption": caption}


def published(root: Path) -> Path:
    """The layout as it is published: two splits, their pictures in folders of their own, and other JSON files."""
    for split, numbers in {"train2017": (3, 1), "val2017": (2,)}.items():
        for number in numbers:
            put(root / split / f"{number}.jpg", picture(number * 60))
        annotations = [said(number, f" {text} {number}.\n") for text in ("one", "two") for number in numbers]
        listing(root / f"annotations/captions_{split}.json", [image(number) for number in numbers], annotations)
    listing(root / "annotations/instances_train2017.json", [], [])
    return root


def test_the_published_layout(tmp_path: Path) -> None:
    report = coco(published(tmp_path / "src"), tmp_path / "out")
    assert splits(tmp_path / "out") == ["train", "val"]
    train = ShardSource(tmp_path / "out", "train")
    assert [document.text for document in train] == ["one 3.", "two 3.", "one 1.", "two 1."]
    assert [type(piece).__name__ for piece in train[0]] == ["Text", "Image"]
    assert train[0].images == train[1].images  # stored once
    assert train[0].images[0].source.read() == picture(180)
    assert [train.meta(i) for i in (0, 3)] == [{"file": "3.jpg", "image_id": 3}, {"file": "1.jpg", "image_id": 1}]
    assert [document.text for document in ShardSource(tmp_path / "out/val")] == ["one 2.", "two 2."]
    assert (report.kind, report.samples, report.documents) == (
        "coco",
        {"train": 2, "val": 1},
        {"train": 4, "val": 2},
    )
    totals = {"kept": 3, "missing": 0, "duplicates": 0, "broken": 0, "unlisted": 0}
    assert json.loads((tmp_path / "out/report.json").read_text())["totals"] == totals


def test_one_file_of_the_published_layout(tmp_path: Path) -> None:
    source = published(tmp_path / "src") / "annotations/captions_val2017.json"
    assert coco(source, tmp_path / "out").samples == {"val": 1}
    assert splits(tmp_path / "out") == ["val"]


def test_a_split_that_is_named(tmp_path: Path) -> None:
    source = published(tmp_path / "src")
    report = coco(source, tmp_path / "out", splits={"validation": str(source / "annotations/captions_val2017.json")})
    assert report.samples == {"validation": 1}
    assert ShardSource(tmp_path / "out", "validation")[0].images[0].source.read() == picture(120)


def test_a_single_file_of_any_name_is_no_split(tmp_path: Path) -> None:
    put(tmp_path / "src/pictures/1.jpg", picture(1))
    listing(tmp_path / "src/mine.json", [image(1)], [said(1, "x")])
    assert coco(tmp_path / "src", tmp_path / "out").samples == {"": 1}
    assert len(ShardSource(tmp_path / "out")) == 1


def test_pictures_of_all_splits_in_one_folder_or_in_folders_of_one(tmp_path: Path) -> None:
    source = published(tmp_path / "src")
    for folder in ("train2017", "val2017"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (source / folder).rename(tmp_path / "deep" / folder)
    assert coco(source, tmp_path / "out1", images=tmp_path / "deep").samples == {"train": 2, "val": 1}
    for path in list((tmp_path / "deep").glob("*/*.jpg")):
        put(tmp_path / "flat" / path.name, path.read_bytes())
    assert coco(source, tmp_path / "out2", images=tmp_path / "flat").samples == {"train": 2, "val": 1}
    (tmp_path / "deep").rename(source / "images")
    assert coco(source, tmp_path / "out3").samples == {"train": 2, "val": 1}


def test_what_is_left_out(tmp_path: Path) -> None:
    for name, content in {
        "1.jpg": picture(10),
        "2.jpg": picture(20)[:-30],
        "3.jpg": picture(10),
        "4.jpg": picture(40),
        "5.jpg": b"",
        "9.jpg": picture(90),
    }.items():
        put(tmp_path / "src/images" / name, content)
    images = [
        image(1),
        image(2),
        image(3),
        image(4),
        image(5),
        image(6),
        image(1, "4.jpg"),
        image(8, "4.jpg"),
        image(9),
        image(10, "../1.jpg"),
        image(11, "/etc/passwd"),
        image(12, "\ud800.jpg"),
        {"id": 13},
        {"file_name": "1.jpg"},
        "nothing",
        {"id": [1], "file_name": "1.jpg"},
    ]
    annotations = [
        *(said(number, f"picture {number}") for number in (1, 2, 3, 4, 5, 6, 8, 10, 11, 12)),
        said(1, " picture 1 "),
        said(77, "whose?"),
        said("1", "an id of another type"),
        said(1, " \n"),
        {"image_id": 1},
        {"caption": "x"},
        {"image_id": {}, "caption": "x"},
        None,
        said(1, "half \ud800 a character"),
    ]
    listing(tmp_path / "src/captions.json", images, annotations)
    report = coco(tmp_path / "src", tmp_path / "out")
    source = ShardSource(tmp_path / "out")
    assert [document.text for document in source] == ["picture 1", "half ? a character", "picture 4"]
    assert [(item.name, item.reason) for item in report.missing] == [
        ("annotation 12 of captions.json", "no image has the id 77"),
        ("annotation 13 of captions.json", "no image has the id 1"),
        ("6.jpg", "no such file"),
        ("9.jpg", "no caption in captions.json"),
        ("\ud800.jpg", "no such file"),
    ]
    assert [(item.name, item.reason) for item in report.duplicates] == [
        ("image 7 of captions.json", "id 1 is there already"),
        ("image 8 of captions.json", "4.jpg is image id 4 already"),
        ("annotation 11 of captions.json", "image id 1 has this caption already"),
        ("3.jpg", "the same bytes as 1.jpg"),
    ]
    broken = [(item.name, item.reason) for item in report.broken]
    assert broken[:4] == [(f"image {i} of captions.json", "no 'id' or no 'file_name'") for i in (13, 14, 15, 16)]
    assert broken[4:9] == [
        ("annotation 14 of captions.json", "no 'caption'"),
        ("annotation 15 of captions.json", "no 'caption'"),
        ("annotation 16 of captions.json", "no 'image_id'"),
        ("annotation 17 of captions.json", "no 'image_id'"),
        ("annotation 18 of captions.json", "no 'image_id'"),
    ]
    assert [name for name, _ in broken[9:]] == ["../1.jpg", "/etc/passwd", "2.jpg", "5.jpg"]
    assert all("leaves the folder" in reason for _, reason in broken[9:11])
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written["totals"] == {"kept": 2, "missing": 5, "duplicates": 4, "broken": 13, "unlisted": 0}
    assert [item["name"] for item in written["missing"]][-1] == "\ud800.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable JSON"),
        (b"[" * 200_000, "no readable JSON"),
        (b"\xff{}", "byte 0 is not UTF-8"),
        (b"[]", "no lists 'images' and 'annotations'; give COCO's captions"),
        (b'{"images": [], "annotations": {}}', "no lists 'images' and 'annotations'"),
        (b'{"images": [], "annotations": []}', r"nothing left to import \(0 missing, 0 duplicates, 0 broken\)"),
    ],
)
def test_another_json(tmp_path: Path, content: bytes, message: str) -> None:
    put(tmp_path / "src/captions.json", content)
    put(tmp_path / "src/images/1.jpg", picture(1))
    with pytest.raises(InputError, match=message) as caught:
        coco(tmp_path / "src", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_files_that_are_not_found_or_tell_no_splits_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: is no folder; check the path"):
        coco(tmp_path / "nowhere", tmp_path / "out")
    put(tmp_path / "src/1.jpg", picture(1))
    with pytest.raises(InputError, match="src: 0 JSON files of captions for 0 splits; name each with --split"):
        coco(tmp_path / "src", tmp_path / "out")
    for year in (2014, 2017):
        listing(tmp_path / f"src/captions_train{year}.json", [image(1)], [said(1, "x")])
    message = r"2 JSON files of captions \(captions_train2014.json, captions_train2017.json\) for 1 splits; name each"
    with pytest.raises(InputError, match=message):
        coco(tmp_path / "src", tmp_path / "out")
    files = {"a": tmp_path / "src/captions_train2014.json", "b": tmp_path / "src/captions_train2017.json"}
    with pytest.raises(InputError, match=r"1.jpg is in the splits a and b; take it out of one"):
        coco(tmp_path / "src", tmp_path / "out", splits=files)
    with pytest.raises(InputError, match=r"split '../a': a name has letters"):
        coco(tmp_path / "src", tmp_path / "out", splits={"../a": files["a"]})
    with pytest.raises(InputError, match=r"gone.json: cannot be read"):
        coco(tmp_path / "src", tmp_path / "out", splits={"a": tmp_path / "gone.json"})
    with pytest.raises(InputError, match=r"gone: is no folder"):
        coco(tmp_path / "src", tmp_path / "out", splits={"a": files["a"]}, images=tmp_path / "gone")
    assert coco(tmp_path / "src", tmp_path / "out", splits={"a": files["a"]}).samples == {"a": 1}
