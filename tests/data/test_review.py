"""The page on which descriptions are chosen, in a browser where there is one."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import PIL.Image
import pytest

from plait.data.review import SIDE, Choice, Shown, read_choices, write_page

CLICKS = """<script>
addEventListener("load", () => {
  const [first, second, third] = document.querySelectorAll("article");
  first.querySelector(".reject").click();
  const area = second.querySelector("textarea");
  area.value = "Changed.";
  area.onchange();
  third.dispatchEvent(new KeyboardEvent("keydown", { key: "k" }));
  document.getElementById("show").value = "kept";
  document.getElementById("show").onchange();
  const hidden = [...document.querySelectorAll("article")].map((item) => getComputedStyle(item).display === "none");
  document.title = JSON.stringify({ saved: saved(), hidden, count: document.getElementById("count").textContent });
});
</script>"""


def shown(key: str, reason: str = "") -> Shown:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (600, 300), "red").save(buffer, format="PNG")
    text = f"Text </script> of {key}"
    return Shown(key=key, name=f"{key}.png", picture=buffer.getvalue(), text=text, original="before", reason=reason)


def write(path: Path) -> None:
    items = [shown("a"), shown("b"), shown("c", "short"), shown("d", "apology")]
    write_page(path, "Four <pictures>", items, "x", {"d": Choice(keep=True, text="</script>d")})


def test_what_is_on_the_page(tmp_path: Path) -> None:
    write(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article") == 4 and page.count("</script>") == 1
    assert "<title>Four &lt;pictures&gt;</title>" in page
    assert page.count("before repair") == 4 and page.count('class="rule"') == 2
    assert r'let choices = {"d": {"keep": true, "text": "\u003c/script>d"}}' in page
    assert len(page) < 4 * (SIDE * SIDE // 4) + 12_000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_choices_that_a_browser_saves_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write(page)
    page.write_text(page.read_text().replace("</body>", CLICKS + "</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title
    told = json.loads(html.unescape(title[1]))
    assert told["hidden"] == [True, False, False, False]
    assert told["count"].strip() == "3 kept, 1 rejected, 4 chosen by hand"
    (tmp_path / "choices.json").write_text(told["saved"])
    assert read_choices(tmp_path / "choices.json", "abcd") == {
        "a": Choice(keep=False),
        "b": Choice(keep=True, text="Changed."),
        "c": Choice(keep=True),
        "d": Choice(keep=True, text="</script>d"),
    }
