from __future__ import annotations

import pytest

from plait.data.html import Reference, decoded, read

PAGE = """<!doctype html><html><head><title>unread</title><style>p {}</style></head><body>
<nav><a href=x>Menu</a><img src=menu.png></nav>
<h1>A   <b>bold</b> title</h1>
<p>One &amp; two<br>three <img src="a.png" alt="unread"> four</p>
<script>document.write("<p>unread</p>")</script>
<p>five<span>six</span><svg><text>unread</text></svg></p><form><p>unread <input></form>
<img data-src=" /b.png "><img><img src="http://[bad">
"""


def test_texts_and_pictures_in_order() -> None:
    assert read(PAGE, "https://example.org/deep/page.html") == [
        "A bold title",
        "One & two",
        "three",
        Reference("https://example.org/deep/a.png"),
        "four",
        "fivesix",
        Reference("https://example.org/b.png"),
        Reference(""),
        Reference("http://[bad"),
    ]


def test_the_base_of_a_page_wins_over_its_address() -> None:
    text = "<head><base href='/other/'></head><img src='a.png'>"
    assert read(text, "https://example.org/deep/page.html") == [Reference("https://example.org/other/a.png")]
    assert read("<img src='../a.png'>", "deep/page.html") == [Reference("a.png")]


def test_elements_that_are_never_closed() -> None:
    assert read("<p>one<p>two<b>three") == ["one", "twothree"]
    assert read("<nav><ul><li>unread</nav>read<style>unread") == ["read"]
    assert read("</nav>read<input>again" * 2) == ["read", "again", "read", "again"]


def test_deep_nesting_is_no_harm() -> None:
    assert read("<div>" * 100_000 + "deep") == ["deep"]


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("grün".encode(), "", "grün"),
        ("\ufeffgrün".encode(), "latin-1", "grün"),
        ("grün".encode("utf-16"), "", "grün"),
        ("grün".encode("latin-1"), "iso-8859-1", "grün"),
        (b'<meta charset="latin-1">' + "grün".encode("latin-1"), "", '<meta charset="latin-1">grün'),
        ("grün".encode("cp1252"), "no-such-thing", "grün"),
        (b"\xfcber \x93", "hex", "über “"),
    ],
)
def test_how_a_page_is_encoded(content: bytes, charset: str, text: str) -> None:
    assert decoded(content, charset) == text
