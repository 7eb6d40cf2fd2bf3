from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from plait.data import warc
from plait.data.warc import Answer, answers, is_warc
from plait.errors import InputError


def record(kind: str, address: str, block: bytes, more: str = "") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {address}\r\n{more}Content-Length: {len(block)}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def response(address: str, body: bytes, kind: str = "text/html", status: int = 200, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\n{more}\r\n"
    return record("response", address, head.encode() + body)


def test_answers_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(
        record("warcinfo", "", b"software: test")
        + record("request", "https://a.org/", b"GET / HTTP/1.1\r\n\r\n")
        + response("https://a.org/", b"<p>one", "Text/HTML; charset='latin-1'; more")
        + record("revisit", "https://a.org/", b"HTTP/1.1 200 OK\r\n\r\n")
        + response("https://a.org/gone", b"", status=404)
        + record("resource", "<file:///b.png>", b"bytes", "Content-Type: image/png\r\n")
    )
    assert list(answers(path)) == [
        Answer("https://a.org/", 200, "text/html", "latin-1", b"<p>one"),
        Answer("https://a.org/gone", 404, "text/html", "", b""),
        Answer("file:///b.png", 200, "image/png", "", b"bytes"),
    ]


@pytest.mark.parametrize("each", [True, False])
def test_compressed_as_a_whole_or_by_record(tmp_path: Path, each: bool) -> None:
    path = tmp_path / "a.warc.gz"
    records = [response(f"https://a.org/{i}", b"<p>%d" % i) for i in range(3)]
    path.write_bytes(b"".join(map(gzip.compress, records)) if each else gzip.compress(b"".join(records)))
    assert [answer.body for answer in answers(path) if isinstance(answer, Answer)] == [b"<p>0", b"<p>1", b"<p>2"]


def test_what_came_in_chunks_or_compressed(tmp_path: Path) -> None:
    chunked = "Transfer-Encoding: chunked\r\n"
    bare = zlib.compressobj(wbits=-15)
    path = tmp_path / "a.warc"
    path.write_bytes(
        response("1", b"3\r\none\r\n4;x=y\r\n two\r\n0\r\n\r\n", more=chunked)
        + response("2", b"<p>joined already", more=chunked)
        + response("3", gzip.compress(b"packed"), more="Content-Encoding: gzip\r\n")
        + response("4", zlib.compress(b"packed"), more="Content-Encoding: deflate\r\n")
        + response("5", bare.compress(b"packed") + bare.flush(), more="Content-Encoding: deflate\r\n")
        + response("6", b"<p>unpacked already", more="Content-Encoding: gzip\r\n")
        + response("7", b"\0", more="Content-Encoding: br\r\n")
        + record("response", "8", b"no answer")
    )
    *found, seventh, eighth = answers(path)
    assert [answer.body for answer in found if isinstance(answer, Answer)] == [
        b"one two",
        b"<p>joined already",
        *[b"packed"] * 3,
        b"<p>unpacked already",
    ]
    assert seventh == "7: compressed as 'br', which is not read"
    assert eighth == "8: no answer of a web server"


def test_answers_that_are_too_large_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "MAX_BODY", 100)
    path = tmp_path / "a.warc"
    bomb = gzip.compress(b" " * 1000)
    path.write_bytes(
        response("1", b" " * 200) + response("2", bomb, more="Content-Encoding: gzip\r\n") + response("3", b"<p>")
    )
    first, second, third = answers(path)
    assert first == "1: above the limit of 100 bytes" and second == "2: above the limit of 100 bytes"
    assert isinstance(third, Answer)


def test_a_file_that_is_cut_is_read_up_to_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    content = response("1", b"<p>one") + response("2", b"<p>two")
    for size in (len(content) - 8, len(content) - 60):
        path.write_bytes(content[:size])
        first, fault = answers(path)
        assert isinstance(first, Answer) and "records before that place were read" in str(fault)
    packed = tmp_path / "a.warc.gz"
    packed.write_bytes(gzip.compress(response("1", b"<p>one")) + gzip.compress(response("2", b"<p>two"))[:-20])
    assert [isinstance(one, Answer) for one in answers(packed)] == [True, False]


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    with pytest.raises(InputError, match=r"a\.warc: cannot be read \(No such file"):
        list(answers(path))
    path.write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"no WARC file .*where a record should begin"):
        list(answers(path))
    packed = tmp_path / "a.warc.gz"
    packed.write_bytes(b"<html>")
    with pytest.raises(InputError, match="no WARC file"):
        list(answers(packed))
    assert is_warc(path) and is_warc(packed) and not is_warc(tmp_path / "a.gz")
