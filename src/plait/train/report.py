"""The report of a run: one page that needs nothing else, and the same facts as JSON.

It reads the run directory alone:

    config.yaml      the configuration; its `recipe` is the title
    facts.json       `parameters`, `hardware`, `versions` (`plait.train.log.write_facts`)
    metrics.jsonl    the curves, the stages, their steps and seconds
    samples/*.json   what the model read and drew while it trained: {"step", "stage", "items": [{"exchange": a name,
                     "prompt": a document, "answer", "image", "reference", "reference_image"}]}; pictures are paths
                     relative to the file; of a conversation each exchange is an item, whose prompt is what is new
    scores.json      the final scores by task; nested mappings are groups

What is absent is said to be absent.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from plait import config
from plait.errors import InputError
from plait.train.log import FACTS, METRICS, duration

MAX_POINTS = 400  # of a curve; more than a page of this width can show
MAX_COLUMNS = 6  # of samples over time

_PANELS = {"loss": "Loss", "lr": "Learning rate", "tokens_per_s": "Tokens per second", "grad_norm": "Gradient norm"}
_COLOURS = ("#1f5fa8", "#c8561b", "#2c8058", "#8a4fa3", "#a88400", "#5b6770")


@dataclass
class Curves:
    """The records of one stage: its steps, its seconds, and the numbers of each measure with their steps."""

    steps: int = 0
    seconds: float = 0.0
    points: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)


def write_report(directory: str | Path) -> Path:
    """Write `report.html` and `report.json` into a run directory, from what lies in it; gives the page's path.

    Raises:
        InputError: the directory is missing, or a file in it is broken.
    """
    run = Path(directory)
    if not run.is_dir():
        raise InputError(f"{run}: no such directory; give the directory of a run")
    settings = config.read_yaml(run / "config.yaml") if (run / "config.yaml").exists() else None
    facts, scores = _json(run / FACTS) or {}, _json(run / "scores.json")
    stages = _curves(run / METRICS)
    summary = _summary(settings, facts, stages, scores)
    title = str(summary["run"]["recipe"] or run.resolve().name)
    sections = [
        _section("Scores", _scores(scores)),
        _section("What the model read and drew", _samples(run)),
        _section("Curves", "".join(_stage_curves(name, stage) for name, stage in stages.items())),
        _section("Configuration", _configuration(run / "config.yaml")),
    ]
    _write(run / "report.json", json.dumps(summary, indent=2) + "\n")
    page = run / "report.html"
    _write(page, _page(title, _facts(summary["run"]) + "".join(sections)))
    return page


# ---- reading


def _json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no readable JSON ({error}); remove the file or write it again") from error


def _curves(path: Path) -> dict[str, Curves]:
    """The numbers of every stage; a last line cut short (the run may still be going on) is left out."""
    stages: dict[str, Curves] = {}
    before = 0.0
    with path.open("rb") if path.exists() else io.BytesIO() as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "stage" not in record or "step" not in record:
                continue
            stage = stages.setdefault(record["stage"], Curves())
            stage.steps = max(stage.steps, record.get("stage_step", -1) + 1)
            if "elapsed_s" in record:  # begins again at zero where a resumed run counts its own process only
                stage.seconds += record["elapsed_s"] - (before if record["elapsed_s"] >= before else 0.0)
                before = record["elapsed_s"]
            for key, value in record.items():
                if key.partition("/")[0] in _PANELS and isinstance(value, int | float):
                    steps, values = stage.points.setdefault(key, ([], []))
                    steps.append(record.get("stage_step", record["step"]))
                    values.append(value)
    return stages


def _summary(settings: Any, facts: Mapping[str, Any], stages: Mapping[str, Curves], scores: Any) -> dict[str, Any]:
    recipe = settings.get("recipe") if isinstance(settings, Mapping) else None
    rows = [
        {
            "name": name,
            "steps": stage.steps,
            "seconds": round(stage.seconds, 3),
            "first": {key: values[0] for key, (_, values) in stage.points.items()},
            "last": {key: values[-1] for key, (_, values) in stage.points.items()},
        }
        for name, stage in stages.items()
    ]
    known = {key: facts.get(key) for key in ("parameters", "hardware", "versions")}
    run = {
        "recipe": recipe or facts.get("recipe"),
        "stages": rows,
        "steps": sum(stage.steps for stage in stages.values()),
        "seconds": round(sum(stage.seconds for stage in stages.values()), 3),
        **known,
    }
    return {"scores": scores, "run": run}


# ---- facts and scores


def _facts(run: Mapping[str, Any]) -> str:
    parameters, versions = run["parameters"], run["versions"]
    if isinstance(parameters, Mapping):
        parts = ", ".join(f"{name} {_shown(count)}" for name, count in parameters.items())
        parameters = f"{_shown(sum(parameters.values()))} ({parts})" if len(parameters) > 1 else parts
    stages = ", ".join(f"{stage['name']} {_shown(stage['steps'])}" for stage in run["stages"])
    rows = {
        "Steps": f"{_shown(run['steps'])} ({stages})" if stages else None,
        "Time": duration(run["seconds"]) if run["seconds"] else None,
        "Parameters": _shown(parameters) if parameters else None,
        "Hardware": run["hardware"],
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()) if versions else None,
    }
    absent = '<span class="absent">not recorded</span>'
    cells = (f"<dt>{name}</dt><dd>{html.escape(text) if text else absent}</dd>" for name, text in rows.items())
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _scores(scores: Any) -> str:
    if scores is None:
        return _absent("The run has no scores.json: it was not evaluated.")
    return "".join(f"<h3>{_words(task)}</h3>{_score_group(value)}" for task, value in scores.items())


def _score_group(value: Any) -> str:
    """Single scores as tiles, groups of scores as tables, deeper groups under headings of their own."""
    if not isinstance(value, Mapping):
        return _tiles({"score": value})
    tables, deeper = [], []
    for name, group in value.items():
        if not isinstance(group, Mapping):
            continue
        nested = [item for item in group.values() if isinstance(item, Mapping)]
        flat = not any(isinstance(cell, Mapping) for item in nested for cell in item.values())
        if flat and len(nested) in (0, len(group)):
            tables.append(_score_table(name, group))
        else:
            deeper.append(f"<h4>{_words(name)}</h4>{_score_group(group)}")
    tiles = _tiles({key: item for key, item in value.items() if not isinstance(item, Mapping)})
    return f'{tiles}<div class="tables">{"".join(tables)}</div>{"".join(deeper)}'


def _tiles(scores: Mapping[str, Any]) -> str:
    tiles = (f"<div><dd>{_escaped(value)}</dd><dt>{_words(name)}</dt></div>" for name, value in scores.items())
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if scores else ""


def _score_table(name: str, group: Mapping[str, Any]) -> str:
    rows = {key: value if isinstance(value, Mapping) else {"score": value} for key, value in group.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = "".join(f'<th scope="col">{_words(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{_words(key)}</th>{"".join(f"<td>{_escaped(row.get(c))}</td>" for c in columns)}</tr>'
        for key, row in rows.items()
    )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">{_words(name)}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# ---- samples


def _samples(run: Path) -> str:
    files = sorted((run / "samples").glob("*.json"))
    if not files:
        return _absent("The run has no samples/: it wrote none while it trained.")
    prompts: dict[str, dict[str, dict[int, tuple[Mapping[str, Any], Path]]]] = {}
    for file in files:
        sample = _json(file)
        try:
            stage = prompts.setdefault(str(sample["stage"]), {})
            for item in sample["items"]:
                row = json.dumps([item.get("exchange"), item["prompt"]])
                stage.setdefault(row, {})[int(sample["step"])] = (item, file.parent)
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: no samples as plait.train.report describes them ({error}); remove it") from error
    show = _Pictures(run)
    return "".join(_sample_table(stage, rows, show) for stage, rows in prompts.items())


def _sample_table(stage: str, rows: Mapping[str, Mapping[int, tuple[Mapping[str, Any], Path]]], show: _Pictures) -> str:
    every = sorted({step for row in rows.values() for step in row})
    steps = _spread(every, MAX_COLUMNS)
    head = "".join(f'<th scope="col">step {step:,}</th>' for step in steps)
    body = []
    for row in rows.values():
        item, root = next(iter(row.values()))
        cells = "".join(
            f'<td data-step="step {step:,}">{_answer(row.get(step), "answer", "image", show)}</td>' for step in steps
        )
        reference = _answer((item, root), "reference", "reference_image", show)
        body.append(
            f'<tr><th scope="row">{_prompt(item["prompt"], root, show)}</th>'
            f'<td class="reference" data-step="reference">{reference}</td>{cells}</tr>'
        )
    note = f"<p class='note'>{len(steps)} of {len(every)} steps are shown.</p>" if len(steps) < len(every) else ""
    return (
        f'<h3>{_words(stage)}</h3>{note}<div class="scroll"><table class="samples"><thead><tr>'
        f'<th scope="col">prompt</th><th scope="col">reference</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _answer(found: tuple[Mapping[str, Any], Path] | None, text: str, image: str, show: _Pictures) -> str:
    if found is None:
        return "–"
    item, root = found
    parts = [show(item[image], root)] if item.get(image) is not None else []
    if item.get(text) is not None:
        parts.append(f'<span class="text">{html.escape(item[text]) or "<em>empty</em>"}</span>')
    return "".join(parts) or "–"


def _prompt(document: Mapping[str, Any], root: Path, show: _Pictures) -> str:
    if "turns" in document:
        return "".join(f"<em>{_escaped(t['role'])}</em> {_prompt(t, root, show)}<br>" for t in document["turns"])
    parts = []
    for piece in document.get("pieces", ()):
        match piece:
            case {"text": text}:
                parts.append(f'<span class="text">{_escaped(text)}</span>')
            case {"image": address}:
                parts.append(show(address, root))
            case {"video": frames}:
                parts += [show(frame, root) for frame in frames]
            case _:
                parts.append(f'<span class="blank">{_escaped(piece.get("blank", "?"))}</span>')
    return " ".join(parts)


@dataclass(frozen=True)
class _Pictures:
    """Puts pictures of the run directory into the page."""

    run: Path

    def __call__(self, address: str, root: Path) -> str:
        name = html.escape(address if not address.startswith("data:") else "picture")
        try:
            content = self._content(address, root)
            with PIL.Image.open(io.BytesIO(content)) as picture:
                kind, (width, height) = PIL.Image.MIME[str(picture.format)], picture.size
                picture.verify()
        except Exception as error:  # a broken file makes Pillow's plugins raise almost anything
            return f'<span class="absent">{name}: {html.escape(str(error) or type(error).__name__)}</span>'
        shown = min(max(width, 96), 192)
        return (
            f'<img class="picture" src="data:{kind};base64,{base64.b64encode(content).decode()}" alt="{name}" '
            f'width="{shown}" height="{round(height * shown / width)}">'
        )

    def _content(self, address: str, root: Path) -> bytes:
        if address.startswith("data:"):
            return base64.b64decode(address.partition(",")[2], validate=True)
        path = (root / address).resolve()
        if not path.is_relative_to(self.run.resolve()):
            raise InputError("lies outside the run directory")
        if not path.exists():
            raise InputError("is absent")
        return path.read_bytes()


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


# ---- curves


def _stage_curves(name: str, stage: Curves) -> str:
    figures = []
    for key, title in _PANELS.items():
        lines = {k: points for k, points in stage.points.items() if k.partition("/")[0] == key}
        if lines:
            image = base64.b64encode(_draw(title, lines)).decode()
            figures.append(
                f'<img src="data:image/svg+xml;base64,{image}" alt="{title} over steps, stage {_words(name)}">'
            )
    return f'<h3>{_words(name)}</h3><div class="curves">{"".join(figures)}</div>'


def _draw(title: str, lines: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> bytes:
    """One small panel as SVG; curves of more than `MAX_POINTS` are means of equal runs of steps."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=(4.4, 2.5))
        axes = figure.add_axes((0.15, 0.19, 0.83, 0.69))
        for i, (key, points) in enumerate(lines.items()):
            steps, values = (_thin(np.asarray(side, dtype=np.float64)) for side in points)
            colour, whole = _COLOURS[i % len(_COLOURS)], "/" not in key
            axes.plot(
                steps, values, color=colour, linewidth=1.6 if whole else 1.0, label=key.partition("/")[2] or "all"
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e0", linewidth=0.6)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _thin(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    if len(values) <= MAX_POINTS:
        return values
    edges = np.linspace(0, len(values), MAX_POINTS + 1).astype(int)[:-1]
    return np.add.reduceat(values, edges) / np.diff([*edges, len(values)])


# ---- the page


def _configuration(path: Path) -> str:
    if not path.exists():
        return _absent("The run has no config.yaml.")
    return (
        f"<details><summary>config.yaml</summary><pre>{html.escape(path.read_text(encoding='utf-8'))}</pre></details>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body or _absent('The run has no metrics.jsonl, or no record in it.')}</section>"


def _absent(text: str) -> str:
    return f'<p class="absent">{text}</p>'


def _words(name: Any) -> str:
    return html.escape(str(name).replace("_", " "))


def _escaped(value: Any) -> str:
    return html.escape(_shown(value))


def _shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
        case list():
            return " – ".join(_shown(item) for item in value)
    return str(value)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _page(title: str, body: str) -> str:
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><p>Plait run</p><h1>{name}</h1></header>\n{body}</body></html>\n"
    )


_STYLE = """
:root { --ink: #1d2327; --soft: #5b6770; --line: #dcdcd6; --tint: #f5f4ef; --blue: #1f5fa8; color-scheme: light }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif }
header p { margin: 0; color: var(--soft) }
h1 { margin: 0 0 1rem; font-size: 2rem; line-height: 1.2 }
h2 { margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 2px solid var(--ink); font-size: 1.25rem }
h3 { margin: 1.5rem 0 .5rem; font-size: 1.05rem }
h4 { margin: 1rem 0 .25rem; font-size: 1rem; color: var(--soft) }
dl, dd { margin: 0 }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem }
.facts dt, .tiles dt, .note, .absent { color: var(--soft) }
.absent { font-style: italic }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem; margin-bottom: .75rem }
.tiles div { min-width: 7rem; padding: .5rem .9rem; background: var(--tint); border-radius: .4rem }
.tiles dd { font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums }
.tiles dt { font-size: .85rem }
.tables { display: flex; flex-wrap: wrap; column-gap: 3rem }
.scroll { overflow-x: auto; margin-bottom: .75rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem }
tbody th { font-weight: 500 }
.samples th, .samples td { min-width: 7.5rem; max-width: 15rem; font-size: .9rem; overflow-wrap: anywhere }
.samples .reference { color: var(--soft) }
.text { white-space: pre-wrap }
.blank { padding: 0 .4rem; border: 1px dashed var(--soft); color: var(--soft) }
.picture { display: block; margin-bottom: .25rem; max-width: 100%; border: 1px solid var(--line);
  image-rendering: pixelated }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .75rem }
.curves img { width: 100%; max-width: 32rem }
pre { padding: 1rem; overflow-x: auto; background: var(--tint); font-size: .85rem }
summary { cursor: pointer; color: var(--blue) }
@media (max-width: 40rem) {
  body { padding-top: 1rem }
  .facts { grid-template-columns: 1fr; gap: 0 }
  .facts dd { margin-bottom: .4rem }
  .samples thead { display: none }
  .samples tr { display: block; padding: .75rem 0; border-bottom: 2px solid var(--line) }
  .samples th, .samples td { display: inline-block; border: 0 }
  .samples tbody th { display: block; max-width: none }
  .samples td::before { content: attr(data-step); display: block; color: var(--soft); font-size: .8rem }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt }
  .scroll { overflow: visible }
  .samples th, .samples td { min-width: 0; padding-right: .4rem; font-size: 8pt }
  .picture { max-width: 4.5rem; height: auto }
  .curves { grid-template-columns: 1fr 1fr }
  h2, h3 { break-after: avoid }
  tr, .curves img { break-inside: avoid }
}
"""
