from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import PIL.Image
import pytest

from plait.data import intake
from plait.data import webdataset as module
from plait.data.shards import ShardSource, splits
from plait.data.webdataset import webdataset
from plait.errors import InputError

BLOCK = 512


def picture(value: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), (value % 256, value // 256, 90)).save(buffer, form)
    return buffer.getvalue()


def tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", errors="surrogateescape") as file:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def sample(number: int, shard: int = 0) -> dict[str, bytes | str]:
    """A sample as img2dataset writes it: picture, JSON, text."""
    key = f"{shard:05d}{number:04d}"
    said = {"caption": f"number {number}", "url": f"http://x/{number}", "key": key, "status": "success"}
    said |= {"error_message": None, "width": 8, "height": 6, "original_width": 99, "exif": "{}", "sha256": "0"}  # type: ignore[dict-item]
    return {f"{key}.jpg": picture(number), f"{key}.json": json.dumps(said), f"{key}.txt": f"number {number}"}


def downloaded(folder: Path, *counts: int) -> Path:
    """Tars of so many samples, with the other files that img2dataset writes."""
    for shard, count in enumerate(counts):
        members = {name: content for i in range(count) for name, content in sample(i, shard).items()}
        tar(folder / f"{shard:05d}.tar", members)
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


def contents(path: Path) -> list[tuple[str, bytes]]:
    source = ShardSource(path)
    return [(document.text, document.images[0].source.read()) for document in source]


def test_tars_as_img2dataset_writes_them(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "src", 3, 2)
    before = sorted(path.name for path in source.iterdir())
    report = webdataset(source, tmp_path / "out")
    assert contents(tmp_path / "out") == [(f"number {i}", picture(i)) for i in (0, 1, 2, 0, 1)]
    shards = ShardSource(tmp_path / "out")
    assert [type(piece).__name__ for piece in shards[0]] == ["Text", "Image"]
    meta = shards.meta(4)
    assert (meta["file"], meta["url"], meta["width"]) == ("00001.tar:000010001.jpg", "http://x/1", 8)
    assert "caption" not in meta and meta["status"] == "success" and meta["key"] == "000010001"
    assert (report.kind, report.samples, report.documents) == ("webdataset", {"": 5}, {"": 5})
    assert report.missing == report.duplicates == report.broken == ()
    assert sorted(path.name for path in source.iterdir()) == before  # no index beside the foreign tars


def test_one_tar_and_folders_of_tars(tmp_path: Path) -> None:
    downloaded(tmp_path / "src/train", 2)
    downloaded(tmp_path / "src/val", 1)
    (tmp_path / "src/_tmp").mkdir()
    assert webdataset(tmp_path / "src", tmp_path / "out").samples == {"train": 2, "val": 1}
    assert splits(tmp_path / "out") == ["train", "val"]
    assert ShardSource(tmp_path / "out", "val").meta(0)["file"] == "val/00000.tar:000000000.jpg"
    assert webdataset(tmp_path / "src/train/00000.tar", tmp_path / "out1").samples == {"": 2}
    assert ShardSource(tmp_path / "out1").meta(0)["file"] == "00000.tar:000000000.jpg"
    downloaded(tmp_path / "src", 1)
    with pytest.raises(InputError, match=r"src: 1 tars beside folders of tars \(train, val\); give one of them"):
        webdataset(tmp_path / "src", tmp_path / "out2")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_other_formats_and_orders(tmp_path: Path, form: str) -> None:
    extension = form.lower()
    members = {f"./a/{i}.{extension}": picture(i, form) for i in range(3)}  # all pictures, then all captions
    members |= {f"./a/{i}.txt": f"caption {i}\n".encode() for i in (2, 0, 1)}
    tar(tmp_path / "src/x.tar", members)
    assert webdataset(tmp_path / "src", tmp_path / "out").samples == {"": 3}
    assert contents(tmp_path / "out") == [(f"caption {i}", picture(i, form)) for i in range(3)]


def test_the_caption_is_the_text_else_the_json(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{i}.jpg": picture(i) for i in range(4)}
    members |= {"0.txt": "text", "0.json": '{"caption": "json"}', "1.json": '{"caption": " json ", "url": "u"}'}
    members |= {"2.txt": " \n", "2.json": '{"caption": "json"}', "3.txt": b"caf\xe9", "3.npy": b"other", "note": b""}
    tar(tmp_path / "src/x.tar", members)
    webdataset(tmp_path / "src", tmp_path / "out")
    assert [text for text, _ in contents(tmp_path / "out")] == ["text", "json", "json", "caf\ufffd"]
    assert ShardSource(tmp_path / "out").meta(1) == {"url": "u", "file": "x.tar:1.jpg"}


def test_what_is_left_out(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{key}.jpg": picture(i) for i, key in enumerate("abcdefghi")}
    members |= {"a.txt": "kept", "b.jpg": b"", "b.txt": "empty", "c.jpg": picture(3)[:-20], "c.txt": "cut"}
    members |= {"d.json": '{"caption": null, "status": "success"}', "e.txt": "", "f.json": "[]", "f.txt": "x"}
    members |= {"g.json": '{"meta": 1}', "g.txt": "x", "h.png": picture(1, "PNG"), "h.txt": "two pictures"}
    members |= {"i.json": "{", "j.txt": "no picture", "k.json": '{"status": "failed_to_download", "caption": "k"}'}
    source = tar(tmp_path / "src/x.tar", members)
    with tarfile.open(source, "a") as file:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        file.addfile(info, io.BytesIO(b"new"))
    report = webdataset(tmp_path / "src", tmp_path / "out")
    assert contents(tmp_path / "out") == [("kept", picture(0))]
    assert [(item.name, item.reason) for item in report.missing] == [
        ("x.tar:d", "no caption (status success)"),
        ("x.tar:e", "no caption"),
        ("x.tar:j", "no picture"),
        ("x.tar:k", "no picture (status failed_to_download)"),
    ]
    assert [(item.name, item.reason) for item in report.duplicates] == [("x.tar:a.jpg", "is in this tar already")]
    broken = {item.name: item.reason for item in report.broken}
    assert sorted(broken) == [f"x.tar:{key}" for key in "bcfghi"]
    assert broken["x.tar:b"].startswith("0 bytes") and broken["x.tar:c"].startswith("no ")
    assert "not list" in broken["x.tar:f"] and "'meta' is an object, not int" in broken["x.tar:g"]
    assert broken["x.tar:h"] == "2 pictures for 1 caption" and "no readable JSON" in broken["x.tar:i"]
    assert report.to_json()["totals"] == {"kept": 1, "missing": 4, "duplicates": 1, "broken": 6, "unlisted": 0}


def ends(path: Path) -> list[int]:
    """Where the content of each member ends, in bytes."""
    with tarfile.open(path) as file:
        return [member.offset_data + member.size for member in file]


def test_a_tar_that_is_cut_keeps_what_was_whole(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "src", 4, 2)
    path = source / "00000.tar"
    whole, edges = path.read_bytes(), ends(path)
    # picture, JSON and text of sample i end at edges[3 * i], [3 * i + 1], [3 * i + 2]
    cuts = {edges[8] - 1: 2, edges[8]: 3, edges[8] + BLOCK: 3, edges[9] - 5: 3, edges[6] + 20: 2, edges[7] + 300: 2}
    padded = [-(-edge // BLOCK) * BLOCK for edge in edges]
    cuts |= {padded[8]: 3, padded[7]: 2, padded[6] + 100: 2, padded[11]: 4, padded[2]: 1, 700: 0, 100: 0}
    for i, (size, kept) in enumerate(cuts.items()):
        path.write_bytes(whole[:size])
        report = webdataset(source, tmp_path / f"out{i}")
        assert contents(tmp_path / f"out{i}") == [(f"number {k}", picture(k)) for k in [*range(kept), 0, 1]], size
        assert report.broken[-1].name == "00000.tar", size
        fault = "no readable tar of 100 bytes" if size == 100 else f"{size} bytes, no end mark"
        assert report.broken[-1].reason.startswith(fault), size
        assert report.broken[-1].reason.endswith(f"; {kept} samples before that place were read"), size
        left = [item.name for item in report.broken[:-1]]
        assert left in ([], [f"00000.tar:{kept:09d}"]), size
    assert json.loads((tmp_path / "out0/report.json").read_text())["totals"]["broken"] == 2


def test_a_cut_tar_alone(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "src", 1)
    path = source / "00000.tar"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(
        InputError,
        match=r"nothing left to import \(0 missing, 0 duplicates, 2 broken; first: 0+.tar:0+: the cut",
    ):
        webdataset(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_what_is_no_tar_is_left_out(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "src", 1)
    (source / "00001.tar").write_bytes(b"<html>" * 200)
    (source / "00002.tar").write_bytes(b"")
    report = webdataset(source, tmp_path / "out")
    assert report.samples == {"": 1}
    assert [item.name for item in report.broken] == ["00001.tar", "00002.tar"]
    assert all(item.reason.startswith("no readable tar of ") for item in report.broken)


def test_a_name_is_only_a_name(tmp_path: Path) -> None:
    escape = "../" * 20 + str(tmp_path).lstrip("/") + "/escaped"
    names = [f"{tmp_path}/absolute", escape, "../above", "a/../../above", "caf\udce9"]
    members: dict[str, bytes | str] = {}
    for i, name in enumerate(names):
        members |= {f"{name}.jpg": picture(i), f"{name}.txt": f"{i}"}
    path = tar(tmp_path / "src/x.tar", members)
    with tarfile.open(path, "a") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("link.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    report = webdataset(tmp_path / "src", tmp_path / "out")
    assert contents(tmp_path / "out") == [(f"{i}", picture(i)) for i in range(len(names))]
    source = ShardSource(tmp_path / "out")
    assert [source.meta(i)["file"] for i in range(len(names))] == [f"x.tar:{name}.jpg" for name in names]
    assert report.broken == report.missing == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "src"]
    assert not (tmp_path.parent / "above.jpg").exists()


def test_a_size_that_leads_back_ends_the_tar(tmp_path: Path) -> None:
    path = downloaded(tmp_path / "src", 2) / "00000.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as file:
        at = [member.offset for member in file][3]  # the picture of the second sample
    content[at + 124 : at + 136] = b"\xff" + (-4096).to_bytes(11, "big", signed=True)
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + BLOCK])
    path.write_bytes(content)
    report = webdataset(tmp_path / "src", tmp_path / "out")
    assert report.samples == {"": 1}
    assert "-4096 bytes" in report.broken[-1].reason or "no readable tar" in report.broken[-1].reason


def test_a_member_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: dict[str, bytes | str] = {"a.jpg": picture(1), "a.txt": "x", "b.jpg": picture(2), "b.txt": "x" * 2000}
    tar(tmp_path / "src/x.tar", members | {"c.jpg": bytes(3000), "c.txt": "x"})
    monkeypatch.setattr(module, "MAX_TEXT", 1999)
    monkeypatch.setattr(intake, "MAX_BYTES", 2999)
    report = webdataset(tmp_path / "src", tmp_path / "out")
    assert [(item.name, item.reason) for item in report.broken] == [
        ("x.tar:b", "2000 bytes of txt, above the limit of 1999"),
        ("x.tar:c", "3000 bytes, above the limit of 2999"),
    ]


def test_pictures_pass_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WINDOW", 2)
    source = downloaded(tmp_path / "src", 3, 3, 3)
    opened = []

    def scanned(path: Path, place: str, skips: intake.Skips) -> object:
        opened.append(place)
        return read(path, place, skips)

    read = module._samples
    monkeypatch.setattr(module, "_samples", scanned)
    entries = module._entries(source, sorted(source.glob("*.tar")), intake.Skips())
    next(iter(entries))
    assert opened == ["00000.tar"]
    assert webdataset(source, tmp_path / "out", shard_size=5000).samples == {"": 9}
    assert len(list((tmp_path / "out").glob("*.tar"))) > 1


def test_a_source_without_tars(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: is no folder; check the path"):
        webdataset(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/00000.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"src: holds no \*.tar, nor do its folders; give the folder of the tars"):
        webdataset(tmp_path / "src", tmp_path / "out")
