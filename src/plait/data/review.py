"""The page on which a person keeps or rejects described pictures: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from plait import images
from plait.errors import ImageError, InputError

SIDE = 240  # pixels: the longer side of a picture on the page


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An item of the page."""

    key: str
    name: str
    picture: bytes
    """The bytes of its file."""
    text: str
    """What is kept, if it is kept and nobody changes it."""
    original: str
    reason: str
    """Why the rules reject it; "" if they do not."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a person decided: to keep an item, and, where it was changed, its text."""

    keep: bool
    text: str | None = None


def write_page(
    path: Path, title: str, items: Iterable[Shown], identity: str, choices: Mapping[str, Choice] | None = None
) -> None:
    """Writes the page.

    Args:
        identity: the browser remembers choices under it until they are saved.
        choices: those that are in force.
    """
    chosen = {
        key: {name: x for name, x in asdict(one).items() if x is not None} for key, one in (choices or {}).items()
    }
    filled = {"TITLE": html.escape(title), "IDENTITY": json.dumps(identity)}
    filled["CHOSEN"] = json.dumps(chosen).replace("<", "\\u003c")  # no text can end the script
    with path.open("w", encoding="utf-8", errors="replace") as out:
        out.write(re.sub("|".join(filled), lambda found: filled[found[0]], _HEAD))
        for item in items:
            out.write(_item(item))
        out.write("</main>\n</body>\n</html>\n")


def read_choices(path: Path, keys: Iterable[str]) -> dict[str, Choice]:
    """Choices as the page saves them, by item.

    Raises:
        InputError: no such file, another form, or items that are none of `keys`.
    """
    known = set(keys)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        choices = {key: _choice(one) for key, one in value["choices"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no choices as the page saves them ({error!r}); save them again") from error
    strangers = [key for key in choices if key not in known]
    if strangers:
        raise InputError(f"{path}: {len(strangers)} of {len(choices)} choices are of other pictures; check the file")
    return choices


def _choice(value: Mapping[str, Any]) -> Choice:
    keep, text = value["keep"], value.get("text")
    if not isinstance(keep, bool) or not isinstance(text, str | None):
        raise TypeError(f"keep {keep!r}, text {text!r}")
    return Choice(keep=keep, text=text)


def _item(item: Shown) -> str:
    said = html.escape
    before = f"<details><summary>before repair</summary><p>{said(item.original)}</p></details>"
    rule = f'<span class="rule">{said(item.reason)}</span>' if item.reason else ""
    return (
        f'<article data-key="{said(item.key)}" data-rule="{said(item.reason)}" tabindex="0">'
        f'<img loading="lazy" alt="" src="{_thumbnail(item.picture)}"><div><h2>{said(item.name)} {rule}</h2>'
        f"<textarea rows=5>\n{said(item.text)}</textarea>{before if item.original != item.text else ''}"
        '<p><button class="keep">Keep</button><button class="reject">Reject</button></p></div></article>\n'
    )


def _thumbnail(content: bytes) -> str:
    try:
        picture = images.decode(content)
    except ImageError:  # it was read before; whoever looks sees that it is gone
        return "data:,"
    picture.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>TITLE</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 0; color: #222; background: #f6f6f4 }
header { position: sticky; top: 0; background: #fff; padding: .6em 1em; border-bottom: 1px solid #ccc; z-index: 1 }
h1 { font-size: 1em; display: inline; margin-right: 1em } h2 { font-size: .9em; margin: 0; overflow-wrap: anywhere }
main { max-width: 60em; margin: 0 auto; padding: 1em }
article { display: flex; gap: 1em; background: #fff; border-left: 6px solid #2c8058; margin: 0 0 .8em; padding: .8em;
  content-visibility: auto; contain-intrinsic-size: auto 230px }
article[hidden] { display: none } article.rejected { border-color: #b03a2e; opacity: .65 }
article:focus { outline: 2px solid #1f5fa8 }
article > div { flex: 1; min-width: 0 } img { width: 240px; height: 200px; object-fit: contain; background: #eee }
textarea { width: 100%; box-sizing: border-box; font: inherit } .rule { font-weight: normal; color: #b03a2e }
.rule::before { content: "rule: " } button { font: inherit; margin-right: .5em }
.by-hand h2::after { content: " · chosen"; color: #1f5fa8 }
</style>
</head>
<body>
<header><h1>TITLE</h1><span id="count"></span>
<select id="show"><option value="">all</option><option value="kept">kept</option>
<option value="rejected">rejected</option>
<option value="open">not chosen yet</option></select>
<button id="save">Save choices</button> <small>keys: k keeps, r rejects, arrows move</small></header>
<script>
const place = "plait-curate-" + IDENTITY;
let choices = CHOSEN;
try { Object.assign(choices, JSON.parse(localStorage.getItem(place) || "{}")) } catch (error) { /* none stored */ }
const all = () => [...document.querySelectorAll("article")];
const area = (item) => item.querySelector("textarea");
const kept = (item) => (choices[item.dataset.key] || { keep: !item.dataset.rule }).keep;
function show(item) {
  item.classList.toggle("rejected", !kept(item));
  item.classList.toggle("by-hand", item.dataset.key in choices);
}
function count() {
  const items = all(), good = items.filter(kept).length;
  document.getElementById("count").textContent =
    `${good} kept, ${items.length - good} rejected, ${Object.keys(choices).length} chosen by hand `;
}
function filter() {
  const wanted = document.getElementById("show").value;
  for (const item of all())
    item.hidden = { kept: !kept(item), rejected: kept(item), open: item.dataset.key in choices }[wanted] || false;
}
function choose(item, keep) {
  const text = area(item).value.trim();
  choices[item.dataset.key] = text === area(item).defaultValue.trim() ? { keep } : { keep, text };
  try { localStorage.setItem(place, JSON.stringify(choices)) } catch (error) { /* then only saving keeps them */ }
  show(item);
  count();
}
function move(item, step) {
  const shown = all().filter((one) => !one.hidden), next = shown[shown.indexOf(item) + step];
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }) }
}
function saved() { return JSON.stringify({ format: 1, choices }, null, 1) }
addEventListener("DOMContentLoaded", () => {
  for (const item of all()) {
    const choice = choices[item.dataset.key];
    if (choice && "text" in choice) area(item).value = choice.text;
    item.querySelector(".keep").onclick = () => choose(item, true);
    item.querySelector(".reject").onclick = () => choose(item, false);
    area(item).onchange = () => choose(item, kept(item));
    item.onkeydown = (event) => {
      if (event.target !== item) return;
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "k" || event.key === "r") { choose(item, event.key === "k"); move(item, 1) }
      if (step) { event.preventDefault(); move(item, step) }
    };
    show(item);
  }
  document.getElementById("show").onchange = filter;
  document.getElementById("save").onclick = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([saved()], { type: "application/json" }));
    link.download = "choices.json";
    link.click();
  };
  count();
});
</script>
<main>
"""
