from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from plait.data import tarindex
from plait.data.shards import ShardSource, ShardWriter, splits
from plait.data.tarindex import ShardIndex
from plait.document import Blank, Document, Image, Turn, Video
from plait.errors import DocumentError, ImageError, InputError


def picture(value: int, form: str = "PNG", size: tuple[int, int] = (9, 7)) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (value, 255 - value, 10)).save(buffer, form)
    return buffer.getvalue()


def write(out: Path, count: int, shard_size: int = 10**9) -> Path:
    with ShardWriter(out, shard_size) as writer:
        for i in range(count):
            writer.add(f"{i:08d}", Document([f"number {i}", Image(picture(i))]), {"number": i})
    return out


def foreign(path: Path, members: dict[str, bytes], *, end: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        size = tar.offset
    if not end:
        with path.open("r+b") as file:
            file.truncate(size)
    return path


def colour(image: Image) -> int:
    return int(np.asarray(image.open())[0, 0, 0])


def test_round_trip_keeps_order_bytes_and_meta(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 5)
    source = ShardSource(out)
    assert [document.text for document in source] == [f"number {i}" for i in range(5)]
    assert [source.meta(i) for i in range(5)] == [{"number": i} for i in range(5)]
    assert [source[i].images[0].source.read() for i in range(5)] == [picture(i) for i in range(5)]
    assert [colour(source[i].images[0]) for i in (4, 0, 2)] == [4, 0, 2]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "shard-000000.idx.npz", "shard-000000.tar"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_members_lie_where_the_layout_says(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 2)
    with tarfile.open(out / "shard-000000.tar") as tar:
        assert tar.getnames() == ["00000000.json", "00000000.0.png", "00000001.json", "00000001.0.png"]
        form = json.load(tar.extractfile("00000001.json"))
    assert form == {"pieces": [{"text": "number 1"}, {"image": "0.png"}], "meta": {"number": 1}}


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", 4), write(tmp_path / "b", 4)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_every_kind_of_piece(tmp_path: Path) -> None:
    (tmp_path / "file.jpg").write_bytes(picture(3, "JPEG"))
    jpeg = Image(str(tmp_path / "file.jpg"))
    drawn = Image(PIL.Image.new("RGB", (4, 4), (77, 0, 0)))
    video = Video((Image(picture(1)), Image(picture(2)), Image(picture(1))), (0.0, 0.5, 1.0))
    talk = Document([Turn("user", [jpeg, "What?"]), Turn("assistant", "A square.")])
    with ShardWriter(tmp_path / "out") as writer:
        writer.add("pieces", Document(["a", jpeg, "b", drawn, video, Blank("text")]))
        writer.add("turns", talk, {"topic": "é"})
    source = ShardSource(tmp_path / "out")
    document = source[0]
    assert [type(piece).__name__ for piece in document] == ["Text", "Image", "Text", "Image", "Video", "Blank"]
    assert document.images[0].source.read() == (tmp_path / "file.jpg").read_bytes()
    assert document.images[0].source.name == "pieces.0.jpg"
    assert colour(document.images[1]) == 77
    assert [colour(frame) for frame in document.pieces[4].frames] == [1, 2, 1]
    assert document.pieces[4].times == (0.0, 0.5, 1.0)
    assert [turn.role for turn in source[1].turns] == ["user", "assistant"]
    assert source[1].turns[0].pieces[0].open().size == (9, 7)
    assert source.meta(0) == {} and source.meta(1) == {"topic": "é"}


def test_documents_before_another(tmp_path: Path) -> None:
    document = Document(["c", Image(picture(1))]).behind([Document(["a", Image(picture(2))]), Document("b")])
    with ShardWriter(tmp_path / "out") as writer:
        writer.add("0", document, {"more": 1})
    source = ShardSource(tmp_path / "out")
    assert [one.text for one in source[0].before] == ["a", "b"] and source.meta(0) == {"more": 1}
    assert colour(source[0].images[0]) == 1 and colour(source[0].before[0].images[0]) == 2


def test_documents_of_a_sample_share_its_members(tmp_path: Path) -> None:
    image = Image(picture(8))
    with ShardWriter(tmp_path / "out") as writer:
        writer.add("a", [Document([text, image]) for text in ("x", "y", "z")], {"file": "a.png"})
        writer.add("b", [])
        writer.add("c", Document("w"))
    source = ShardSource(tmp_path / "out")
    assert [document.text for document in source] == ["x", "y", "z", "w"]
    assert len({source[i].images[0].source for i in range(3)}) == 1
    assert source.meta(2) == {"file": "a.png"}
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["samples"], manifest["documents"]) == (3, 4)


def test_a_source_is_written_again_without_loss(tmp_path: Path) -> None:
    source = ShardSource(write(tmp_path / "a", 3))
    with ShardWriter(tmp_path / "b") as writer:
        for i in range(len(source)):
            writer.add(f"{i:08d}", source[i], source.meta(i))
    assert (tmp_path / "b/shard-000000.tar").read_bytes() == (tmp_path / "a/shard-000000.tar").read_bytes()


def test_many_shards_and_numbers_out_of_range(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 7, shard_size=3000)
    assert len(list(out.glob("*.tar"))) == 4
    source = ShardSource(out)
    assert len(source) == 7
    assert [source[np.int64(i)].text for i in (6, 3, 0)] == ["number 6", "number 3", "number 0"]
    for i in (-1, 7):
        with pytest.raises(IndexError, match="of 7"):
            source[i]


def test_an_index_is_made_anew(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 7, shard_size=3000)
    before = {path: path.read_bytes() for path in out.glob("*.npz")}
    for path in before:
        path.unlink()
    assert [document.text for document in ShardSource(out)] == [f"number {i}" for i in range(7)]
    assert {path: path.read_bytes() for path in out.glob("*.npz")} == before


def test_pickle_threads_and_processes(tmp_path: Path) -> None:
    source = ShardSource(write(tmp_path / "out", 6, shard_size=3000))
    assert source[5].text == "number 5"
    content = pickle.dumps(source)
    assert len(content) < 2000  # no index and no file travels
    again = pickle.loads(content)
    assert again[5].images[0] == source[5].images[0]
    assert colour(pickle.loads(pickle.dumps(source[4].images[0]))) == 4
    order = [i % 6 for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: colour(again[i].images[0]), order)) == order
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[3].images[0].open().getpixel((0, 0)))"
    result = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert result.stdout.decode().strip() == "(3, 252, 10)"


def test_a_descriptor_that_no_cache_keeps_is_open_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ShardSource(write(tmp_path / "out", 1))
    monkeypatch.setattr(tarindex, "_descriptor", tarindex._descriptor.__wrapped__)  # as when two threads miss at once
    assert colour(source[0].images[0]) == 0


def test_a_shard_replaced_under_its_name_is_read_afresh(tmp_path: Path) -> None:
    write(tmp_path / "out", 1)
    assert colour(ShardSource(tmp_path / "out")[0].images[0]) == 0
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    with ShardWriter(tmp_path / "out") as writer:
        writer.add("00000000", Document(["number 0", Image(picture(99))]))
    assert colour(ShardSource(tmp_path / "out")[0].images[0]) == 99


def test_foreign_pairs_and_documents(tmp_path: Path) -> None:
    form = {"pieces": [{"image": "a.png"}, {"text": "then"}, {"image": "b.png"}], "url": "u"}
    members = {
        "one/x.jpg": picture(1, "JPEG"),
        "one/x.txt": b"a first\n",
        "y.PNG": picture(2),
        "y.json": json.dumps({"caption": "a second", "url": "v", "width": 9}).encode(),
        "z.webp": picture(3, "WEBP"),
        "z.txt": b"a third",
        "z.json": json.dumps({"caption": "not this", "key": "z"}).encode(),
        "alone.png": picture(4),
        "text.txt": "naïve".encode(),
        "doc.a.png": picture(5),
        "doc.b.png": picture(6),
        "doc.json": json.dumps(form).encode(),
        "._hidden.jpg": b"resource fork",
        "README": b"no extension",
    }
    tar = foreign(tmp_path / "data/set.tar", members)
    for source in (ShardSource(tmp_path / "data"), ShardSource(tmp_path / "data"), ShardSource(tar)):
        assert [document.text for document in source] == ["a first", "a second", "a third", "", "naïve", "then"]
        assert [len(document.images) for document in source] == [1, 1, 1, 1, 0, 2]
        assert [colour(image) for image in source[5].images] == [5, 6]
        assert type(source[1].pieces[0]).__name__ == "Text"
        assert source.meta(1) == {"url": "v", "width": 9}
        assert source.meta(2) == {"key": "z"} and source.meta(5) == {"url": "u"} and source.meta(0) == {}
    assert (tmp_path / "data/set.idx.npz").is_file()


def test_names_in_another_encoding(tmp_path: Path) -> None:
    foreign(tmp_path / "set.tar", {"caf\udce9.txt": b"old", "th\u00e9.txt": b"new"})
    assert [document.text for document in ShardSource(tmp_path)] == ["old", "new"]
    assert [document.text for document in ShardSource(tmp_path)] == ["old", "new"]


def test_an_index_stays_in_memory_where_the_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path / "set.tar", {"a.txt": b"first", "b.txt": b"second"})

    def refuse(index: ShardIndex, path: Path) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(ShardIndex, "save", refuse)
    source = ShardSource(tmp_path)
    monkeypatch.setattr(ShardIndex, "scan", None)  # not scanned twice, not after pickling either
    assert pickle.loads(pickle.dumps(source))[1].text == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": b"{"}, "no readable JSON"),
        ({"a.json": b"[1]"}, "is an object, not list"),
        ({"a.json": b'{"text": "x"}', "a.png": b"x"}, r"\['text'\] but no 'caption'"),
        ({"a.json": b'{"documents": 3}'}, "'documents' is no list with an item 0"),
        ({"a.json": b'{"documents": [3]}'}, "a document is an object, not int"),
        ({"a.json": b'{"pieces": [{"sound": "x"}]}'}, "a piece is one of"),
        ({"a.json": b'{"pieces": [{"image": "/etc/passwd"}]}'}, "names the picture /etc/passwd but has the members"),
        ({"a.json": b'{"pieces": [{"image": "../b.png"}]}', "b.png": b""}, r"names the picture \.\./b.png"),
        ({"a.png": b"x", "a.mask.png": b"y", "a.txt": b"z", "a.jpg": b"x"}, "2 pictures for 1 caption"),
        ({"a.cls": b"3"}, "neither text nor picture"),
    ],
)
def test_a_broken_sample_is_an_error_of_its_own(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    foreign(tmp_path / "set.tar", {**members, "last.txt": b"fine"})
    source = ShardSource(tmp_path)
    with pytest.raises(DocumentError, match=f"set.tar: sample a.*{message}"):
        source[0]
    assert source[len(source) - 1].text == "fine"


def test_a_broken_picture_is_an_error_when_it_is_opened(tmp_path: Path) -> None:
    foreign(tmp_path / "set.tar", {"a.jpg": b"nothing", "a.txt": b"x"})
    with pytest.raises(ImageError, match=r"set.tar:a.jpg: no picture"):
        ShardSource(tmp_path)[0].images[0].open()


def test_meta_must_be_an_object(tmp_path: Path) -> None:
    foreign(tmp_path / "set.tar", {"a.json": b'{"pieces": [], "meta": 3}'})
    with pytest.raises(DocumentError, match="'meta' is an object, not int"):
        ShardSource(tmp_path).meta(0)


@pytest.mark.parametrize("keep", [600, 1024, 1400, 3072])
def test_a_cut_foreign_tar(tmp_path: Path, keep: int) -> None:
    """Within content, within a header, between members, before the end mark."""
    tar = foreign(tmp_path / "set.tar", {f"{i}.txt": bytes(700) for i in range(2)}, end=False)
    assert tar.stat().st_size == 3072
    with tar.open("r+b") as file:
        file.truncate(keep)
    with pytest.raises(InputError, match=rf"set.tar: {keep} bytes.*cut, fetch it again"):
        ShardSource(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no tar at all" * 100, bytes(512) + b"x" * 512], ids=["empty", "text", "junk"]
)
def test_no_tar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.tar").write_bytes(content)
    if content.startswith(bytes(512)):
        assert len(ShardSource(tmp_path)) == 0
        return
    with pytest.raises(InputError, match=rf"set.tar: no readable tar of {len(content)} bytes"):
        ShardSource(tmp_path)


def test_a_tar_with_a_name_twice(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(InputError, match=r"a.txt is there twice"):
        ShardSource(tmp_path)


def test_a_tar_shorter_than_its_index(tmp_path: Path) -> None:
    tar = foreign(tmp_path / "set.tar", {"a.txt": b"x"})
    size = tar.stat().st_size
    source = ShardSource(tmp_path)
    with tar.open("r+b") as file:
        file.truncate(512)
    with pytest.raises(InputError, match=rf"512 bytes but {size} in its index set.idx.npz; the shard is cut"):
        ShardSource(tmp_path)
    with pytest.raises(InputError, match=r"0 of the 1 bytes of a.txt; the shard is cut, fetch it again"):
        source[0]
    tar.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        source[0]


def test_a_shard_that_differs_from_the_manifest(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 7, shard_size=3000)
    tar = out / "shard-000001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:-600])
    with pytest.raises(
        InputError, match=rf"000001.tar: {len(content) - 600} bytes but {len(content)} in manifest.json"
    ):
        ShardSource(out)
    tar.write_bytes(content + bytes(512))
    with pytest.raises(InputError, match="was changed"):
        ShardSource(out)
    tar.unlink()
    with pytest.raises(InputError, match=r"000001.tar: is missing; 4 shards in manifest.json but 3 in the folder"):
        ShardSource(out)
    tar.write_bytes(content)
    (out / "shard-000009.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"000009.tar: is not in the manifest; 4 shards .* but 5"):
        ShardSource(out)


def test_an_index_without_its_shard(tmp_path: Path) -> None:
    for name in ("a", "b"):
        foreign(tmp_path / f"{name}.tar", {f"{name}.txt": name.encode()})
    assert len(ShardSource(tmp_path)) == 2
    (tmp_path / "b.tar").unlink()
    with pytest.raises(InputError, match=r"b.idx.npz: its shard is missing; 2 indices but 1 shards in the folder"):
        ShardSource(tmp_path)
    (tmp_path / "b.idx.npz").unlink()
    assert len(ShardSource(tmp_path)) == 1


def test_a_manifest_or_index_that_cannot_be_read(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 2)
    index = out / "shard-000000.idx.npz"
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(InputError, match=r"idx.npz: no readable index .*; delete it"):
        ShardSource(out)[0]
    index.unlink()
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["shards"][0]["documents"] = 3
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"000000.tar: 2 documents but 3 in manifest.json"):
        ShardSource(out)[0]
    (out / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match=r"manifest.json: no readable manifest"):
        ShardSource(out)


def test_splits(tmp_path: Path) -> None:
    write(tmp_path / "set/train", 3)
    write(tmp_path / "set/test", 2)
    write(tmp_path / "only/train", 1)
    assert splits(tmp_path / "set") == ["test", "train"]
    assert len(ShardSource(tmp_path / "set", "train")) == len(ShardSource(tmp_path / "set/train")) == 3
    assert len(ShardSource(tmp_path / "only")) == 1
    with pytest.raises(InputError, match=r"2 splits \(test, train\) and none is chosen"):
        ShardSource(tmp_path / "set")
    with pytest.raises(InputError, match=r"'dev' is none of them"):
        ShardSource(tmp_path / "set", "dev")
    for empty in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="holds no shards; make some with: plait data import"):
            ShardSource(empty)


def interrupt(out: Path, error: type[BaseException]) -> None:
    with ShardWriter(out, 3000) as writer:
        for i in range(4):
            writer.add(f"{i}", Document([Image(picture(i))]))
        raise error


def test_nothing_is_left_of_an_interrupted_import(tmp_path: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupt(tmp_path / "out", error)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()  # of a process that was killed
    (tmp_path / ".out.partial/shard-000000.tar").write_bytes(b"half")
    with pytest.raises(InputError, match="holds no shards"):
        ShardSource(tmp_path / "out")
    write(tmp_path / "out", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", 1)
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        write(tmp_path / "out", 1)
    assert len(ShardSource(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["a.b"], "'a.b' holds more than letters"),
        ([""], "holds more than"),
        (["../a"], "holds more than"),
        (["a", "a"], "'a' is used twice"),
    ],
)
def test_keys(tmp_path: Path, keys: list[str], message: str) -> None:
    with ShardWriter(tmp_path / "out") as writer:
        for key in keys[:-1]:
            writer.add(key, Document("x"))
        with pytest.raises(InputError, match=message):
            writer.add(keys[-1], Document("y"))
    assert [document.text for document in ShardSource(tmp_path / "out")] == ["x"] * (len(keys) - 1)


def test_a_picture_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"), ShardWriter(tmp_path / "out") as writer:
        writer.add("a", Document([Image("nowhere.png")]))
    assert list(tmp_path.iterdir()) == []
