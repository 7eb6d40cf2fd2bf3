"""Imports of pages of the web: texts with pictures among them, chosen as for KOSMOS-1 (arXiv 2302.14045, section 3.1).

    pages ──English?──▶ texts and pictures ──gibberish, small and single-coloured pictures go──▶ at most five pictures,
    half of the pages with one ──texts around the pictures are cut──▶ documents

The paper names the filters, and sizes where it has some. The rest is inferred, or is that of the loader that
torchscale published for such pages; `Rules` says which. Nothing is fetched: what is not in the source is missing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import PIL.Image

from plait import images as pictures
from plait.data import html, warc
from plait.data.html import Reference
from plait.data.intake import MAX_BYTES, REPORT, existing_folder
from plait.data.shards import SHARD_SIZE, ShardWriter, fresh_directory, write_json
from plait.document import Document, Image, Piece, Text
from plait.errors import ImageError, InputError

DROPPED = "dropped.jsonl"
MAX_PAGE = 2**24  # bytes
_PAGES = (".html", ".htm", ".xhtml")
_HTML = ("text/html", "application/xhtml+xml")

_COMMON = """
the and of to that it with for you this are have from not by at his they which or be has had she he we their its but
were been would there what when who will can if my your our about into than them then some could other only how these
also after most more no an as is was on in
"""
ENGLISH = frozenset(_COMMON.split())
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+\.(?:com|org|net|html?)\b\S*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is kept of pages."""

    least_side: int = 64
    """Pixels of the short side of a picture (published)."""
    least_spread: int = 4
    """Levels, of 255, that a picture must go through in some channel, not to count as of a single colour: JPEG files
    of one colour are not quite of one (inferred)."""
    most_pictures: int = 5
    """Of a page, whose rest is left out (published)."""
    single: float = 0.5
    """Share of the pages with one picture that is kept, by the hash of what they hold (published)."""
    sentences: int = 3
    """Kept of the text before the first picture and of that behind the last (torchscale)."""
    english: float = 0.2
    """Share of the words of a page that must be among the commonest of English (inferred)."""
    least_words: int = 10
    """Of a page: of fewer no language can be told (inferred)."""
    gibberish: float = 0.2
    """Share of a text's words from which on emoji, hashtags and addresses make it gibberish (inferred)."""

    def is_english(self, texts: list[str]) -> bool:
        """Whether the words of a page are."""
        words = [word.lower() for text in texts for word in _WORD.findall(text)]
        return bool(words) and sum(word in ENGLISH for word in words) >= self.english * len(words)

    def is_gibberish(self, text: str) -> bool:
        """Whether a text has too many emoji, hashtags and addresses, or nothing that could be read."""
        words = text.split()
        odd = sum(word[0] == "#" or bool(_ADDRESS.fullmatch(word)) or any(map(_is_emoji, word)) for word in words)
        return odd >= max(1.0, self.gibberish * len(words)) or not _WORD.search(text)

    def wrong(self, picture: PIL.Image.Image) -> str:
        """Why a picture is left out; "" where it is not."""
        if min(picture.size) < self.least_side:
            return "small"
        spread = max(high - low for low, high in picture.getextrema())  # type: ignore[misc]
        return "single colour" if spread < self.least_spread else ""


@dataclass(frozen=True)
class Page:
    """A page as it was found."""

    address: str
    text: str


@dataclass(kw_only=True)
class PagesReport:
    """What an import of pages kept, and what it left out by reason: every page, picture and text is counted once."""

    kind: str
    source: str
    pages: int = 0
    pictures: int = 0
    documents: int = 0
    kept_pictures: int = 0
    dropped_pages: Counter[str] = field(default_factory=Counter)
    dropped_pictures: Counter[str] = field(default_factory=Counter)
    dropped_texts: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """The form in `report.json`."""
        return {
            "kind": self.kind,
            "source": self.source,
            "pages": self.pages,
            "documents": self.documents,
            "dropped_pages": dict(self.dropped_pages.most_common()),
            "pictures": self.pictures,
            "kept_pictures": self.kept_pictures,
            "dropped_pictures": dict(self.dropped_pictures.most_common()),
            "dropped_texts": dict(self.dropped_texts.most_common()),
        }


def pages(
    source: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    rules: Rules = Rules(),
    shard_size: int = SHARD_SIZE,
) -> PagesReport:
    """Import pages with the pictures in them: a document for each page that the rules keep.

    `ShardSource.meta` gives {"address": that of the page}. `report.json` counts what was left out by reason,
    `dropped.jsonl` names each page and picture with the reason.

    Args:
        source: WARC files (`*.warc`, `*.warc.gz`) that hold pages and pictures, in a folder or one of them; or a folder
            of saved pages (`*.html`), in which their pictures lie where the pages say.
        images: a folder that pictures are looked for in as well, by the path of their address or its last name.

    Raises:
        InputError: no pages found; nothing left to import; `out` is not empty.
    """
    source = Path(source)
    archives, saved = _find(source)
    report = PagesReport(kind="pages", source=str(source))
    folder = existing_folder(Path(images)) if images is not None else None
    with fresh_directory(out) as made, tempfile.TemporaryFile() as spool, tempfile.TemporaryFile() as log:
        found: _Pictures = _Spooled(archives, spool) if archives else _Saved(source)
        if folder is not None:
            found = _Beside(found, folder)
        intake = _Intake(rules, report, found, log)
        with ShardWriter(made, shard_size) as writer:
            for page in _archived(archives, intake) if archives else _read_saved(source, saved, intake):
                if document := intake.document(page):
                    writer.add(f"{report.documents:08d}", document, {"address": page.address})
                    report.documents += 1
        if not report.documents:
            reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped_pages.most_common())
            raise InputError(f"{source}: nothing left to import of {report.pages} pages ({reasons}); see `Rules`")
        log.seek(0)
        with (made / DROPPED).open("wb") as file:
            shutil.copyfileobj(log, file)
        write_json(made / REPORT, report.to_json())
    return report


def _find(source: Path) -> tuple[list[Path], list[Path]]:
    """Archives, or else saved pages, in a folder and those below.

    Raises:
        InputError: neither.
    """
    files = [source] if source.is_file() else sorted(p for p in existing_folder(source).rglob("*") if p.is_file())
    archives = [path for path in files if warc.is_warc(path)]
    saved = [path for path in files if path.suffix.lower() in _PAGES and source.is_dir()]
    if not archives and not saved:
        raise InputError(f"{source}: 0 pages; give *.warc or *.warc.gz, or a folder with *.html")
    if archives and saved:
        raise InputError(
            f"{source}: {len(archives)} archives beside {len(saved)} saved pages: import one, then the other"
        )
    return archives, saved


# ------------------------------------------------------------------------------------------------------- pages


def _archived(archives: list[Path], intake: _Intake) -> Iterator[Page]:
    """The pages of archives."""
    for path in archives:
        for answer in warc.answers(path):
            if isinstance(answer, str):
                intake.lose(answer, "unreadable")
                continue
            found = answer.kind in _HTML and answer.status == 200
            if found and (page := intake.opened(answer.address, answer.body, answer.charset)):
                yield page


def _read_saved(source: Path, saved: list[Path], intake: _Intake) -> Iterator[Page]:
    """The pages in a folder, whose addresses are their paths in it."""
    for path in saved:
        name = path.relative_to(source).as_posix()
        try:
            content = path.read_bytes() if path.stat().st_size <= MAX_PAGE else bytes(MAX_PAGE + 1)
        except OSError:
            intake.lose(name, "unreadable")
            continue
        if page := intake.opened(name, content, ""):
            yield page


class _Intake:
    """Makes documents of pages, and counts what is left out."""

    def __init__(self, rules: Rules, report: PagesReport, found: _Pictures, log: IO[bytes]) -> None:
        self.rules = rules
        self.report = report
        self._found = found
        self._log = log
        self._seen: set[bytes] = set()

    def lose(self, address: str, reason: str) -> None:
        """Counts a page that is left out."""
        self.report.pages += 1
        self._drop("page", address, reason)

    def opened(self, address: str, content: bytes, charset: str) -> Page | None:
        """The page, unless it cannot be read or was there before."""
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if len(content) > MAX_PAGE:
            self.lose(address, "too large")
        elif digest in self._seen:
            self.lose(address, "the same again")
        else:
            self._seen.add(digest)
            return Page(address, html.decoded(content, charset))
        return None

    def document(self, page: Page) -> Document | None:
        """What is kept of a page; None where nothing is."""
        self.report.pages += 1
        shown = html.read(page.text, page.address)
        texts = [one for one in shown if isinstance(one, str)]
        self.report.pictures += len(shown) - len(texts)
        reason, pieces = "", list[Piece]()
        if sum(len(_WORD.findall(text)) for text in texts) < self.rules.least_words:
            reason = "few words"
        elif not self.rules.is_english(texts):
            reason = "language"
        elif not any(isinstance(one, Reference) for one in shown):
            reason = "no picture"
        if reason:
            self._drop_pictures(page, len(shown) - len(texts), "of a page left out")
        else:
            reason, pieces = self._pieces(page, shown)
        if reason:
            self._drop("page", page.address, reason)
            return None
        self.report.kept_pictures += sum(isinstance(piece, Image) for piece in pieces)
        return Document(pieces)

    def _pieces(self, page: Page, shown: list[str | Reference]) -> tuple[str, list[Piece]]:
        """Why nothing of it is kept, or "" and what is."""
        kept: list[Piece] = []
        for one in shown:
            if isinstance(one, Reference):
                kept += self._picture(page, one)
            elif self.rules.is_gibberish(one):
                self.report.dropped_texts["gibberish"] += 1
            else:
                kept.append(Text(one))
        kept = self._first_pictures(page, kept)
        count = sum(isinstance(piece, Image) for piece in kept)
        reason = ""
        if not count:
            reason = "no picture kept"
        elif count == len(kept):
            reason = "no text kept"
        elif count == 1 and _share(kept) >= self.rules.single:
            reason = "a single picture"
        if reason:
            self._drop_pictures(page, count, "of a page left out")
        return reason, cut(kept, self.rules.sentences)

    def _picture(self, page: Page, reference: Reference) -> list[Piece]:
        """A picture that is kept, or none."""
        if not reference.address:
            content, reason = None, "no address"
        else:
            content = self._found.get(reference.address)
            reason = "missing" if content is None else ""
        if content is not None:
            try:
                reason = self.rules.wrong(pictures.decode(content, "picture"))
            except ImageError:
                reason = "unreadable"
        if reason or content is None:
            self._drop_pictures(page, 1, reason, reference.address)
            return []
        return [Image(content)]

    def _first_pictures(self, page: Page, pieces: list[Piece]) -> list[Piece]:
        """Up to the picture that is one too many."""
        places = [at for at, piece in enumerate(pieces) if isinstance(piece, Image)]
        beyond = places[self.rules.most_pictures :]
        self._drop_pictures(page, len(beyond), f"beyond {self.rules.most_pictures}")
        return pieces[: beyond[0]] if beyond else pieces

    def _drop_pictures(self, page: Page, count: int, reason: str, address: str = "") -> None:
        for _ in range(count):
            self.report.dropped_pictures[reason] += 1
            self._write({"page": page.address, "picture": address[:200], "reason": reason})

    def _drop(self, what: str, address: str, reason: str) -> None:
        self.report.dropped_pages[reason] += 1
        self._write({what: address, "reason": reason})

    def _write(self, value: Mapping[str, str]) -> None:
        self._log.write(json.dumps(value).encode() + b"\n")


def cut(pieces: list[Piece], sentences: int) -> list[Piece]:
    """Neighbouring texts joined, that before the first picture cut to its last sentences, that behind the last to its
    first."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(f"{joined[-1].text} {piece.text}")
        else:
            joined.append(piece)
    if joined and isinstance(joined[0], Text):
        joined[0] = Text(" ".join(_SENTENCE.split(joined[0].text)[-sentences:]))
    if len(joined) > 1 and isinstance(joined[-1], Text):
        joined[-1] = Text(" ".join(_SENTENCE.split(joined[-1].text)[:sentences]))
    return joined


def _share(pieces: list[Piece]) -> float:
    """A number from 0 to 1 that follows from what the pieces hold."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        content = piece.text.encode("utf-8", "replace") if isinstance(piece, Text) else piece.content()  # type: ignore[union-attr]
        digest.update(content or b"")
    return int.from_bytes(digest.digest(), "big") / 2**64


def _is_emoji(letter: str) -> bool:
    return ord(letter) > 0x2190 and unicodedata.category(letter) in ("So", "Sk", "Cs", "Co")


# ---------------------------------------------------------------------------------------------------- pictures


class _Pictures:
    """Where the bytes of pictures are found by their addresses: within these themselves (`data:`), or elsewhere."""

    def get(self, address: str) -> bytes | None:
        """The bytes, if they are there."""
        return _inline(address) if address.startswith("data:") else self.stored(address)

    def stored(self, address: str) -> bytes | None:
        """Those that do not stand in the address."""
        raise NotImplementedError


class _Spooled(_Pictures):
    """Of archives: in a file, for pages may stand before or behind their pictures."""

    def __init__(self, archives: list[Path], spool: IO[bytes]) -> None:
        self._spool = spool
        self._where: dict[bytes, tuple[int, int]] = {}
        for path in archives:
            for answer in warc.answers(path):
                if not isinstance(answer, str) and answer.kind.startswith("image/") and answer.status == 200:
                    begin = spool.tell()
                    self._where.setdefault(_key(answer.address), (begin, spool.write(answer.body)))

    def stored(self, address: str) -> bytes | None:
        begin, size = self._where.get(_key(address), (0, 0))
        self._spool.seek(begin)
        return self._spool.read(size) if size else None


class _Saved(_Pictures):
    """In a folder of saved pages, by paths from its root; what lies outside of it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def stored(self, address: str) -> bytes | None:
        return None if urlsplit(address).scheme else self.file(unquote(urlsplit(address).path))

    def file(self, name: str) -> bytes | None:
        """The file of that path from the root."""
        try:
            path = (self.root / name.lstrip("/")).resolve()
            if path.is_relative_to(self.root) and path.is_file() and path.stat().st_size <= MAX_BYTES:
                return path.read_bytes()
        except (OSError, ValueError):  # a name that is too long, or holds a NUL
            pass
        return None


class _Beside(_Pictures):
    """First where they should be, then in a folder: by the path of the address, or by its last name."""

    def __init__(self, first: _Pictures, folder: Path) -> None:
        self._first, self._folder = first, _Saved(folder)

    def stored(self, address: str) -> bytes | None:
        path = unquote(urlsplit(address).path) if "://" in address else address
        ways = (path, path.rsplit("/", 1)[-1])
        found = (self._folder.file(way) for way in ways if way)
        return self._first.stored(address) or next((one for one in found if one), None)


def _inline(address: str) -> bytes | None:
    """What an address of the form `data:image/png;base64,...` holds."""
    head, _, data = address.partition(",")
    try:
        return base64.b64decode(unquote_to_bytes(data)) if head.endswith(";base64") else unquote_to_bytes(data)
    except (binascii.Error, ValueError):
        return None


def _key(address: str) -> bytes:
    """Of an address without what stands behind `#`, on which servers do not depend."""
    return hashlib.blake2b(address.partition("#")[0].encode("utf-8", "replace"), digest_size=16).digest()
