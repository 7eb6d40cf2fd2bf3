"""Archives of the web (WARC, ISO 28500), as crawlers and Common Crawl write them: the answers of servers, one by one.

Files may be compressed as a whole or record by record. Only answers with what they hold are given; requests, metadata
and repetitions (`revisit`) are passed over. Files are often cut, and warcio 1.8 says nothing of a record that is, nor
of an archive that ends in the middle of its compressed data: hence this reader, which says how far it came.
"""

from __future__ import annotations

import gzip
import http.client
import io
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, cast

from plait.errors import InputError

MAX_BODY = 2**26  # bytes of an answer that is looked at
_MAX_LINE = 2**16  # bytes of a header
_CHUNK = 2**20


@dataclass(frozen=True)
class Answer:
    """What a server gave for an address."""

    address: str
    status: int
    kind: str
    """The media type in small letters, as "text/html"."""
    charset: str
    body: bytes


def is_warc(path: Path) -> bool:
    """Whether a file has the name of one."""
    return path.name.lower().endswith((".warc", ".warc.gz"))


def answers(path: Path) -> Iterator[Answer | str]:
    """The answers of a file, in order; in place of one that cannot be read, what is wrong with it.

    Raises:
        InputError: the file cannot be opened, or is no archive.
    """
    try:
        packed = path.name.lower().endswith(".gz")
        file = cast("IO[bytes]", gzip.open(path) if packed else path.open("rb"))  # noqa: SIM115  # closed below
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    with closing(file):
        number = 0
        try:
            while (fields := _fields(file)) is not None:
                number += 1
                yield from _answer(file, fields)
        except (EOFError, zlib.error, gzip.BadGzipFile, InputError) as error:
            if not number:
                raise InputError(f"{path}: no WARC file ({error}); check the path") from error
            yield f"record {number + 1} of {path.name}: {error}; {number} records before that place were read"


def _fields(file: IO[bytes]) -> Message | None:
    """The header of the next record; None at the end.

    Raises:
        InputError: something else stands there.
    """
    line = b"\n"
    while line.strip(b"\r\n") == b"" and line:
        line = file.readline(_MAX_LINE)
    if not line:
        return None
    if not line.startswith(b"WARC/"):
        raise InputError(f"{line[:20]!r} where a record should begin")
    return _headers(file)


def _headers(file: IO[bytes]) -> Message:
    """Lines up to an empty one.

    Raises:
        InputError: too many, or they are none.
    """
    try:
        return http.client.parse_headers(file)
    except http.client.HTTPException as error:
        raise InputError(f"a header that cannot be read ({error or type(error).__name__})") from error


def _answer(file: IO[bytes], fields: Message) -> Iterator[Answer | str]:
    """Of the record whose header was read, if it is one; the file stands behind it then."""
    try:
        left = int(fields.get("Content-Length", ""))
    except ValueError:
        raise InputError("a record without its length") from None
    address = fields.get("WARC-Target-URI", "").strip("<> ")
    wanted = fields.get("WARC-Type", "").lower() in ("response", "resource")
    if not wanted or left > MAX_BODY:
        while left > 0:
            read = len(file.read(min(left, _CHUNK)))
            if not read:
                raise InputError("the file ends within the record")
            left -= read
        if wanted:
            yield f"{address}: above the limit of {MAX_BODY} bytes"
        return
    block = file.read(left)
    if len(block) < left:
        raise InputError("the file ends within the record")
    try:
        if fields.get("WARC-Type", "").lower() == "resource":
            kind, charset = _media(fields.get("Content-Type", ""))
            yield Answer(address, 200, kind, charset, block)
        else:
            yield _parsed(address, block)
    except InputError as error:
        yield f"{address}: {error}"


def _parsed(address: str, block: bytes) -> Answer:
    """The answer of a server as it came over the wire.

    Raises:
        InputError: it is none.
    """
    file = io.BytesIO(block)
    words = file.readline(_MAX_LINE).split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise InputError("no answer of a web server")
    headers = _headers(file)
    body = file.read()
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        body = _unchunked(body)
    kind, charset = _media(headers.get("Content-Type", ""))
    return Answer(address, int(words[1]), kind, charset, _unpacked(body, headers.get("Content-Encoding", "").lower()))


def _media(value: str) -> tuple[str, str]:
    """ "text/html; charset=utf-8" as its two parts."""
    kind, _, rest = value.partition(";")
    name, _, charset = rest.strip().partition("=")
    return kind.strip().lower(), charset.split(";")[0].strip(" \"'") if name.strip().lower() == "charset" else ""


def _unchunked(body: bytes) -> bytes:
    """What was sent in chunks; archives that joined them already keep the header that says so."""
    parts: list[bytes] = []
    file = io.BytesIO(body)
    while True:
        try:
            size = int(file.readline(_MAX_LINE).split(b";")[0], 16)
        except ValueError:
            return body if not parts else b"".join(parts)
        part = file.read(size)
        parts.append(part)
        file.readline(_MAX_LINE)
        if not size or len(part) < size:
            return b"".join(parts)


def _unpacked(body: bytes, encoding: str) -> bytes:
    """What was sent compressed, or, where the archive has unpacked it, as it is.

    Raises:
        InputError: a way to compress that is not known, or more than `MAX_BODY` bytes.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise InputError(f"compressed as {encoding!r}, which is not read")
    for width in (47, -15):  # with a header of gzip or zlib, or bare
        try:
            reader = zlib.decompressobj(width)
            unpacked = reader.decompress(body, MAX_BODY)
        except zlib.error:
            continue
        if reader.unconsumed_tail:
            raise InputError(f"above the limit of {MAX_BODY} bytes")
        return unpacked
    return body
