from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from plait.data import intake
from plait.data.coco import coco
from plait.data.importers import KINDS, captions, class_caption, classes
from plait.data.pages import pages
from plait.data.shards import ShardSource, splits
from plait.data.storyboard import storyboard
from plait.data.webdataset import webdataset
from plait.errors import InputError


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), (value, value, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, **files: bytes | str) -> Path:
    """Files by name, `__` for a folder and `_` for the dot of the extension."""
    for name, content in files.items():
        path = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def captioned(folder: Path, rows: str, table: str = "captions_txt") -> Path:
    return fill(folder, images__a_png=picture(1), images__b_png=picture(2), **{table: "image,caption\n" + rows})


def texts(source: ShardSource) -> list[str]:
    return [document.text for document in source]


def test_kinds() -> None:
    assert sorted(KINDS) == ["captions", "classes", "coco", "pages", "storyboard", "webdataset"]
    assert list(KINDS.values()) == [captions, classes, coco, webdataset, storyboard, pages]


def test_captions_keep_the_order_and_share_a_picture(tmp_path: Path) -> None:
    rows = 'b.png,"A dog, running."\na.png,Ein Hündchen\nb.png,"It says ""hello""."\n\n'
    source = captioned(tmp_path / "src", rows)
    report = captions(source, tmp_path / "out")
    shards = ShardSource(tmp_path / "out")
    assert texts(shards) == ["A dog, running.", 'It says "hello".', "Ein Hündchen"]
    assert [shards.meta(i) for i in range(3)] == [{"file": "b.png"}, {"file": "b.png"}, {"file": "a.png"}]
    assert [type(piece).__name__ for piece in shards[0]] == ["Text", "Image"]
    assert shards[0].images == shards[1].images
    assert shards[0].images[0].source.read() == picture(2)
    assert (report.samples, report.documents) == ({"": 2}, {"": 3})
    assert report.missing == report.duplicates == report.broken == report.unlisted == ()
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert written["totals"] == {"kept": 2, "missing": 0, "duplicates": 0, "broken": 0, "unlisted": 0}


def test_two_imports_are_the_same_bytes(tmp_path: Path) -> None:
    source = captioned(tmp_path / "src", "".join(f"{name}.png,caption {name}\n" for name in "ba"))
    for out in ("one", "two"):
        captions(source, tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_what_captions_leave_out(tmp_path: Path) -> None:
    rows = [
        "a.png,kept",
        "gone.png,no file",
        "a.png,kept",
        "bad.png,broken picture",
        "a.png,one, comma too many",
        "b.png,",
        ",no picture",
        "../a.png,outside",
        "/etc/passwd,outside",
        "empty.png,empty",
        'a.png,"quote" in the middle',
        "gone.png,no file again",
    ]
    source = captioned(tmp_path / "src", "\n".join(rows) + "\n")
    fill(source, images__bad_png=picture(3)[:-30], images__empty_png=b"")
    report = captions(source, tmp_path / "out")
    assert texts(ShardSource(tmp_path / "out")) == ["kept"]
    assert [(item.name, item.reason) for item in report.missing] == [("gone.png", "no such file")]
    assert [item.name for item in report.duplicates] == ["row 4 of captions.txt"]
    broken = {item.name: item.reason for item in report.broken}
    assert broken["row 6 of captions.txt"].startswith("3 cells for 2 columns")
    assert broken["row 7 of captions.txt"] == "no caption" and broken["row 8 of captions.txt"] == "no image"
    assert broken["row 12 of captions.txt"].startswith("',' expected after '\"'")
    assert "leaves the folder" in broken["../a.png"] and "leaves the folder" in broken["/etc/passwd"]
    assert broken["bad.png"].startswith("no readable picture") and broken["empty.png"].startswith("0 bytes")
    assert len(broken) == 8
    totals = json.loads((tmp_path / "out/report.json").read_text())["totals"]
    assert totals == {"kept": 1, "missing": 1, "duplicates": 1, "broken": 8, "unlisted": 0}


def test_official_split_lists(tmp_path: Path) -> None:
    source = fill(tmp_path / "src", **{f"images__{name}_png": picture(i) for i, name in enumerate("abcde")})
    table = "image,caption\n" + "".join(f"{name}.png,caption {name}\n" for name in "abcd")
    fill(source, captions_csv=table, train_lst="c.png\nb.png\n\nc.png\nx.png\n", test_lst="a.png \r\ne.png\r\n")
    lists = {"train": source / "train.lst", "test": str(source / "test.lst")}
    report = captions(source, tmp_path / "out", splits=lists)
    assert splits(tmp_path / "out") == ["test", "train"]
    assert texts(ShardSource(tmp_path / "out", "train")) == ["caption c", "caption b"]
    assert texts(ShardSource(tmp_path / "out/test")) == ["caption a"]
    assert report.samples == {"train": 2, "test": 1}
    assert [(item.name, item.reason) for item in report.missing] == [
        ("x.png", "no such file"),
        ("e.png", "no row in captions.csv"),
    ]
    assert report.unlisted == ("d.png",)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "test", "train"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "a.png", "test": "a.png"}, "a.png is in the splits train and test; take it out of one"),
        ({"train": "a.png", "test": "z.png"}, r"split 'test' of .*nothing left to import \(1 missing.*z.png: no such"),
        ({"../x": "a.png"}, r"split '../x': a name has letters"),
    ],
)
def test_wrong_split_lists(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    source = captioned(tmp_path / "src", "a.png,x\nb.png,y\n")
    files = {}
    for number, (split, names) in enumerate(lists.items()):
        files[split] = source / f"{number}.lst"
        files[split].write_text(names)
    with pytest.raises(InputError, match=message):
        captions(source, tmp_path / "out", splits=files)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    source = captioned(tmp_path / "src", "a.png,x\n")
    with pytest.raises(InputError, match=r"dev.txt: cannot be read"):
        captions(source, tmp_path / "out", splits={"dev": source / "dev.txt"})


def test_table_and_pictures_are_found_or_named(tmp_path: Path) -> None:
    source = captioned(tmp_path / "one", "a.png,x\n", table="anything_csv")
    assert captions(source, tmp_path / "out1").documents == {"": 1}
    (source / "images").rename(source / "Pictures")
    assert captions(source, tmp_path / "out2").documents == {"": 1}
    flat = fill(tmp_path / "flat", a_png=picture(1), captions_csv="Image, Caption ,extra\r\na.png,x,1\r\n")
    assert captions(flat, tmp_path / "out3").documents == {"": 1}
    fill(source, more_csv="image,caption\na.png,y\n", others__z_png=picture(3))
    with pytest.raises(InputError, match=r"2 tables of captions \(anything.csv, more.csv\); name the one with --table"):
        captions(source, tmp_path / "out4")
    with pytest.raises(InputError, match=r"2 folders of pictures \(Pictures, others\); name the one with --images"):
        captions(source, tmp_path / "out4", table=source / "more.csv")
    captions(source, tmp_path / "out4", table=source / "more.csv", images=source / "Pictures")
    assert texts(ShardSource(tmp_path / "out4")) == ["y"]


def test_a_source_without_table_or_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder; check the path"):
        captions(tmp_path / "nowhere", tmp_path / "out")
    fill(tmp_path / "src", readme_md="nothing")
    with pytest.raises(InputError, match="0 tables of captions; name the one with --table FILE"):
        captions(tmp_path / "src", tmp_path / "out")
    fill(tmp_path / "src", captions_txt="image,caption\n")
    with pytest.raises(InputError, match="0 folders of pictures; name the one with --images DIR"):
        captions(tmp_path / "src", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"file,text\na.png,x\n", b'"image,caption\n'])
def test_a_table_without_the_columns(tmp_path: Path, content: bytes) -> None:
    source = fill(tmp_path / "src", images__a_png=picture(1), captions_txt=content)
    with pytest.raises(InputError, match=r"captions.txt: its first line has no columns 'image' and 'caption'"):
        captions(source, tmp_path / "out")


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    source = fill(tmp_path / "src", images__a_png=picture(1), captions_txt=b"image,caption\na.png,caf\xe9\n")
    with pytest.raises(InputError, match=r"captions.txt: byte 23 is not UTF-8; save the file as UTF-8"):
        captions(source, tmp_path / "out")
    fill(source, captions_txt="\ufeffimage,caption\na.png,two\u2028lines\n")
    captions(source, tmp_path / "out")
    assert texts(ShardSource(tmp_path / "out")) == ["two\u2028lines"]


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    source = captioned(tmp_path / "src", 'a.png,x\nb.png,"lost\na.png,swallowed\n')
    report = captions(source, tmp_path / "out")
    assert [item.name for item in report.broken] == ["row 3 of captions.txt"]
    assert report.broken[0].reason == "unexpected end of data; up to line 4"


def test_nothing_left(tmp_path: Path) -> None:
    source = captioned(tmp_path / "src", "x.png,one\ny.png,two\n")
    message = r"src: nothing left to import \(2 missing, 0 duplicates, 0 broken; first: x.png: no such file\); check"
    with pytest.raises(InputError, match=message):
        captions(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_an_import_does_not_write_over_another(tmp_path: Path) -> None:
    source = captioned(tmp_path / "src", "a.png,x\n")
    captions(source, tmp_path / "out")
    with pytest.raises(InputError, match="is not empty; choose another folder, or delete this one first"):
        captions(source, tmp_path / "out")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_BYTES", 1000)
    source = captioned(tmp_path / "src", "a.png,x\nb.png,y\n")
    fill(source, images__b_png=bytes(1001))
    report = captions(source, tmp_path / "out")
    assert [(item.name, item.reason) for item in report.broken] == [("b.png", "1001 bytes, above the limit of 1000")]


def test_more_pictures_than_are_read_ahead(tmp_path: Path) -> None:
    count = 2 * intake.WINDOW + 3
    files = {f"images__{i:04d}_png": picture(i) for i in range(count)}
    table = "image,caption\n" + "".join(f"{i:04d}.png,{i}\n" for i in range(count))
    report = captions(fill(tmp_path / "src", captions_txt=table, **files), tmp_path / "out", shard_size=50_000)
    source = ShardSource(tmp_path / "out")
    assert report.samples == {"": count} and len(list((tmp_path / "out").glob("*.tar"))) > 2
    assert [document.images[0].source.read() for document in source] == [picture(i) for i in range(count)]


def test_classes_with_splits(tmp_path: Path) -> None:
    files = {"train__tree_frog__1_jpg": picture(1), "train__owl__1_png": picture(2), "train__owl__2_png": picture(3)}
    source = fill(tmp_path / "src", test__cat__1_png=picture(4), **files)
    report = classes(source, tmp_path / "out")
    train = ShardSource(tmp_path / "out", "train")
    assert texts(train) == ["a photo of an owl.", "a photo of an owl.", "a photo of a tree frog."]
    assert train.meta(2) == {"class": "tree_frog", "label": 2, "file": "train/tree_frog/1.jpg"}
    test = ShardSource(tmp_path / "out", "test")
    assert texts(test) == ["a photo of a cat."]
    assert test.meta(0) == {"class": "cat", "label": 0, "file": "test/cat/1.png"}
    assert report.samples == {"test": 1, "train": 3}


def test_classes_without_splits_and_several_templates(tmp_path: Path) -> None:
    source = fill(tmp_path / "src", cat__1_png=picture(1), owl__1_png=picture(2), readme_md="not a class")
    report = classes(source, tmp_path / "out", templates=["A {name}.", "one {name}", "one {name}"])
    shards = ShardSource(tmp_path / "out")
    assert texts(shards) == ["A cat.", "one cat", "An owl.", "one owl"]
    assert [shards.meta(i)["label"] for i in range(4)] == [0, 0, 1, 1]
    assert report.samples == {"": 2} and report.documents == {"": 4}


def test_what_classes_leave_out(tmp_path: Path) -> None:
    files = {"train__a__1_png": picture(1), "train__a__2_png": picture(2), "train__b__1_png": picture(1)}
    files |= {"train__b__2_png": picture(3), "train__b__3_txt": b"no picture", "test__a__1_png": picture(1)}
    source = fill(tmp_path / "src", **files)
    (source / "train/empty").mkdir()
    (source / "train/a/.hidden").write_bytes(b"x")
    report = classes(source, tmp_path / "out")
    assert report.samples == {"test": 1, "train": 3}  # the same bytes in another split are no duplicate
    assert [(item.name, item.reason) for item in report.duplicates] == [
        ("train/b/1.png", "the same bytes as train/a/1.png")
    ]
    assert [item.name for item in report.broken] == ["train/b/3.txt"]
    assert [(item.name, item.reason) for item in report.missing] == [("train/empty", "no file in the class")]


def test_folders_that_are_no_classes(tmp_path: Path) -> None:
    source = fill(tmp_path / "src", a_png=picture(1))
    with pytest.raises(InputError, match="0 of 0 folders have folders in them"):
        classes(source, tmp_path / "out")
    fill(source, cat__1_png=picture(1), train__dog__1_png=picture(2))
    with pytest.raises(InputError, match="1 of 2 folders have folders in them; all or none must"):
        classes(source, tmp_path / "out")
    fill(tmp_path / "deep", train__dog__big__1_png=picture(2))
    with pytest.raises(InputError, match="dog/big: lies below a class"):
        classes(tmp_path / "deep", tmp_path / "out")
    (tmp_path / "hollow/cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"nothing left to import \(1 missing"):
        classes(tmp_path / "hollow", tmp_path / "out")


@pytest.mark.parametrize("templates", [(), ("a photo",), ("a {name}", "b"), "a {name}"])
def test_templates_need_the_name(tmp_path: Path, templates: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"give a list, each with \{name\} where the class belongs"):
        classes(tmp_path, tmp_path / "out", templates=templates)


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("a photo of a {name}.", "automobile", "a photo of an automobile."),
        ("a photo of an {name}.", "dog", "a photo of a dog."),
        ("A {name}", "Ice-cream", "An Ice cream"),
        ("{name}", "n01440764", "n01440764"),
        ("via {name} a {{name}}", "x", "via x a {x}"),
    ],
)
def test_class_caption(template: str, name: str, expected: str) -> None:
    assert class_caption(template, name) == expected


def test_names_that_are_no_utf8_stand_in_the_report(tmp_path: Path) -> None:
    folder = fill(tmp_path / "src", cat__1_png=picture(1)) / "cat"
    try:
        (folder / "caf\udce9.png").write_bytes(picture(2))
    except OSError:  # a file system that takes UTF-8 alone
        pytest.skip("file names must be UTF-8 here")
    (folder / "\udcff.png").write_bytes(b"")
    classes(tmp_path / "src", tmp_path / "out")
    assert ShardSource(tmp_path / "out").meta(1)["file"] == "cat/caf\udce9.png"
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [item["name"] for item in report["broken"]] == ["cat/\udcff.png"]


def test_a_name_that_is_too_long_is_missing(tmp_path: Path) -> None:
    source = captioned(tmp_path / "src", f"a.png,x\n{'long' * 100}.png,y\n")
    assert [item.reason for item in captions(source, tmp_path / "out").missing] == ["no such file"]


# ---------------------------------------------------------------------------------------------- real folders


def test_hard_images_pass_an_import(
    tmp_path: Path,
    realdata: Callable[[str], Path],
    as_expected: Callable[[PIL.Image.Image, Mapping[str, Any], float], None],
) -> None:
    hard = realdata("hard-images")
    expected = json.loads((hard / "expected.json").read_text())
    rows = {row["file"]: row for row in expected["files"]}
    loaded = [name for name, row in rows.items() if row["expect"] == "load"]
    table = tmp_path / "captions.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((name, f"it is {name}") for name in rows)])
    report = captions(hard, tmp_path / "out", table=table, images=hard)
    source = ShardSource(tmp_path / "out")
    assert [source.meta(i)["file"] for i in range(len(source))] == loaded
    for document, name in zip(source, loaded, strict=True):
        as_expected(document.images[0].open(), rows[name], expected["mean_tolerance"])
        assert hashlib.sha256(document.images[0].source.read()).hexdigest() == rows[name]["sha256"]
    refused = {item.name: item.reason for item in report.broken}
    assert list(refused) == [name for name, row in rows.items() if row["expect"] == "reject"]
    assert all(refused.values()) and len(refused) + len(loaded) == len(rows) == 19
    assert report.to_json()["totals"] == {
        "kept": len(loaded),
        "missing": 0,
        "duplicates": 0,
        "broken": len(refused),
        "unlisted": 0,
    }


def test_flickr8k_with_its_split_lists(tmp_path: Path, realdata: Callable[[str], Path]) -> None:
    flickr = realdata("flickr8k-1000")
    names = {"train": "train", "validation": "dev", "test": "test"}
    lists = {split: flickr / f"Flickr_8k.{name}Images.txt" for split, name in names.items()}
    report = captions(flickr, tmp_path / "out", splits=lists)
    assert report.samples == {"train": 753, "validation": 113, "test": 125}
    assert report.documents == {"train": 3765, "validation": 565, "test": 625}
    totals = {"kept": 991, "missing": 7109, "duplicates": 0, "broken": 0, "unlisted": 9}
    assert json.loads((tmp_path / "out/report.json").read_text())["totals"] == totals
    assert {item.reason for item in report.missing} == {"no such file"}
    absent = {item.name for item in report.missing}
    counts = {split: len(absent & set(path.read_text().split())) for split, path in lists.items()}
    assert counts == {"train": 6074 - 753, "validation": 1013 - 113, "test": 1013 - 125}
