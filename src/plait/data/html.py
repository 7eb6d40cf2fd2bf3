"""What a page of the web shows, in order: its texts and the addresses of its pictures.

A reader for pages of unknown origin: nothing is run and nothing is fetched, and what a visitor does not read (scripts,
styles, menus, forms) is left out.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urljoin

UNREAD = frozenset(
    {"script", "style", "noscript", "template", "head", "svg", "math", "iframe", "object", "canvas", "audio", "video"}
    | {"nav", "footer", "form", "button", "select", "textarea", "dialog"}
)
"""Elements of which nothing is told."""
INLINE = frozenset(
    {"a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins"}
    | {"kbd", "label", "mark", "picture", "q", "s", "samp", "small", "source", "span", "strike", "strong", "sub", "sup"}
    | {"time", "tt", "u", "var", "wbr"}
)
"""Elements that do not break a text; all others do."""
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_HEAD = 2048  # bytes in which a page says how it is encoded


@dataclass(frozen=True)
class Reference:
    """A picture of a page: its whole address, "" where the page gives none."""

    address: str


def read(text: str, address: str = "") -> list[str | Reference]:
    """The texts and pictures of a page, in order; white space in texts is single, and none is empty.

    Args:
        address: of the page, which those of its pictures may be relative to.
    """
    reader = _Reader(address)
    reader.feed(text)
    reader.close()
    reader.end_text()
    return reader.shown


def decoded(content: bytes, charset: str = "") -> str:
    """The text of a page, by its byte order mark, by what was sent with it, by what it says itself, or as UTF-8.

    What is none of that is read as Windows-1252, as browsers do.

    Args:
        charset: that was sent with it.
    """
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(name, "replace")
    said = _DECLARED.search(content[:_HEAD])
    for name in (charset, said[1].decode("ascii") if said else "", "utf-8"):
        try:
            if name and codecs.lookup(name)._is_text_encoding:
                return content.decode(name)
        except (LookupError, UnicodeError):
            continue
    return content.decode("cp1252", "replace")


class _Reader(HTMLParser):
    def __init__(self, address: str) -> None:
        super().__init__(convert_charrefs=True)
        self.shown: list[str | Reference] = []
        self._address = address
        self._words: list[str] = []
        self._unread: list[str] = []  # elements that are open within the outermost one that is not read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "base" and (base := dict(attrs).get("href")):
            self._address = _joined(self._address, base)
        if self._unread or tag in UNREAD:
            self._unread += [] if tag in _VOID else [tag]
        elif tag == "body" or tag not in INLINE:
            self.end_text()
        if tag == "img" and not self._unread:
            given = dict(attrs)
            source = next((one for name in ("src", "data-src") if (one := (given.get(name) or "").strip())), "")
            self.shown.append(Reference(_joined(self._address, source) if source else ""))

    def handle_endtag(self, tag: str) -> None:
        if self._unread:
            if tag in self._unread:
                del self._unread[len(self._unread) - 1 - self._unread[::-1].index(tag) :]
        elif tag not in INLINE:
            self.end_text()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in UNREAD:
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self._words.append(data)

    def end_text(self) -> None:
        text = " ".join("".join(self._words).split())
        self._words = []
        if text:
            self.shown.append(text)


def _joined(base: str, address: str) -> str:
    """A whole address; one that is none stays as it is."""
    try:
        return urljoin(base, address)
    except ValueError:
        return address
