"""Writes docs/results.md from benchmarks/results: what was found at our scale, beside what the papers say of theirs.

python tools/docs_results.py

A section whose result file is missing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs_benchmarks import ROOT, result

OUT = ROOT / "docs" / "results.md"

HEAD = """# Findings at our scale

Made from [benchmarks/results](../benchmarks/results) by `make docs`; each file there tells the commit, the hardware and
the versions. The models are the `tiny` recipes', trained on the procedural world ([shapes.md](shapes.md)) on two cores:
what a paper found at a thousand times the size need not hold here, and the tables say where it does not.

A figure is the mean over seeds, with that of each seed in brackets. Object accuracy is that of the task `draw`
([evaluation.md](evaluation.md)): higher is better. The Fréchet distance is taken between drawings and the scenes' own
pictures, as FID is, but on the features of a small CLIP tower that was trained on this world: lower is better, and it
can be compared within this page alone.
"""
DRAWING = """
## Decoding

`python benchmarks/drawing.py`: {setting}
The sampling temperature is 1 but for guidance, which is measured at the recipe's.
"""
RETRIEVING = """
## Retrieval

`python benchmarks/retrieving.py`: {setting}
Training goes on from the end of `pretrain` for {steps} steps in rows of the same length, with nothing or with 0 to 2 of
{memory:,} remembered documents in front of each ({without:,.0f} and {with_:,.0f} captions in all, {seconds:.0f} seconds
an arm); drawings have 0, 1 or 2 in front. The memory holds {shared} of the held-out scenes.
"""
KOSMOS = """
## KOSMOS-1

`python benchmarks/kosmos1_findings.py`: seeds {seeds}; {steps} steps of `pretrain` from the end of the stage `lists`,
and {follow} more where arms follow one; at most {limit} items of a task; the longest arm took {longest:.0f} seconds;
commit {commit}, {date}.
"""
EMU = """
## Emu

`python benchmarks/emu_findings.py`: seeds {seeds}; {pretrain:,} steps of `pretrain` and {decoder:,} of `visual_decoder`
for each arm, from the same start for a seed; the longest took {longest:.0f} seconds to train; commit {commit}, {date}.
`draw` is the accuracy of drawings; `one`, `two` and `looks` that of answers at once, in two steps, and in two with the
picture before both; the others that of names behind so many examples, by chance and the most alike.
"""
SETTING = (
    "{scenes:,} held-out scenes of {objects} objects, seeds {seeds}, guidance {guidance:g} unless it says otherwise; "
    "distances on the features of the tower {features}; commit {commit}, {date}."
)
CODING = """
## Codes

`python benchmarks/coding.py`: {scenes:,} held-out captions of {objects} objects, seeds {seeds}; every arm begins with
the same foundations: {contrast} steps of contrast, {codes} of codes, and {steps} of the language model on captions,
{lora:.0%} of them by adapters where both ways are trained ({seconds:.0f} seconds an arm at most). `Whole` is the share
of drawings that are a whole and valid picture where nothing keeps order, `again` the accuracy of pictures drawn again
from their own codes. Commit {commit}, {date}.

The paper: of 5,000 captions 4,997 come out as a whole picture by causal codes, and 2,134 by bilateral ones; it trains
adapters first and then all weights, where others have adapters alone (SEED-LLaMA).

| codes and training | whole | object accuracy | again |
| --- | --- | --- | --- |
"""
ARMS = {
    "causal": "causal; adapters, then all weights",
    "bilateral": "bilateral; adapters, then all weights",
    "lora": "causal; adapters alone",
}
CLAIMS = {
    "guidance": "The distance is least at a scale of about 3, at all sizes of model (CM3Leon, figure 4)",
    "sampling": "Drawings by top-p and by CD-K complement each other: half of each comes nearer than either alone "
    "(CM3Leon, section 3)",
    "best of": "Of 8 drawings of a caption the one that CLIP likes best is kept (CM3Leon, section 3)",
    "instruction tuning": "Tuning on instructions in text alone carries over to pictures: VQAv2 46.7 without it, 51.0 "
    "with it (KOSMOS-1)",
    "chain of thought": "Rendered opinions are judged better behind what the model told of them: 67.1 at once, 72.9 in "
    "steps (KOSMOS-1)",
    "interleaved data": "Pages of texts and pictures are what few-shot prompts are learned from (KOSMOS-1)",
    "transfer": "Colours and sizes of things are known better after seeing pictures: 76.1 and 94.2, against 61.4 and "
    "92.7 of a language model (KOSMOS-1)",
    "two steps": "The pretrained model is asked about its own description of a picture (Emu, section 4.1); no figures "
    "without that are given",
    "pages": "Few-shot ability comes of pages and storyboards (Emu's authors); no figures are given",
    "retrieval": "Documents in front bring drawings nearer: FID 10.82 with none, 5.78 with one, 4.88 with two (CM3Leon "
    "7B)",
}


def main() -> None:
    """Writes the page."""
    OUT.write_text(page(), encoding="utf-8")
    print(OUT)


def page() -> str:
    """All of it."""
    sections = (
        ("drawing", drawing),
        ("retrieving", retrieving),
        ("coding", coding),
        ("kosmos1_findings", kosmos1),
        ("emu_findings", emu),
    )
    found = ((result(name), section) for name, section in sections)
    return HEAD + "".join(section(one) for one, section in found if one is not None)


def drawing(found: Mapping[str, Any]) -> str:
    """Of benchmarks/drawing.py."""
    figures = found["figures"]
    text = DRAWING.format(setting=setting(found))
    text += "\n### Guidance\n" + claimed("guidance", "scale", figures["guidance"])
    arms = {f"{name}{told(figures['chosen'], name)}": value for name, value in figures["sampling"].items()}
    text += "\n### Top-p and contrastive decoding\n" + claimed("sampling", "drawn by", arms)
    best = {"1": figures["sampling"]["top-p"], **figures["best of"]}
    text += "\n### The best of several\n" + claimed("best of", "the best of", best)
    own = figures["reference"]
    text += (
        "\nThe scenes' own pictures, through the image tokenizer and back, have an accuracy of "
        f"{own['object_accuracy']:.3f} and a distance of {own['frechet']:.4f}: no drawing is likely to pass them.\n"
    )
    text += (
        "\n### The scan\n\nThe settings of top-p, CD and CD-K are those of the least distance of "
        f"{found['config']['scan']} drawings each of validation scenes (few drawings raise a distance, and all have as "
        "many).\n"
    )
    return text + table("drawn by", {name: once(value) for name, value in figures["scan"].items()})


def retrieving(found: Mapping[str, Any]) -> str:
    """Of benchmarks/retrieving.py."""
    figures, config = found["figures"], found["config"]
    without, with_ = (figures["training"][way] for way in ("without", "with"))
    text = RETRIEVING.format(
        setting=setting(found),
        shared=figures["held_out_scenes_in_the_memory"],
        without=without["captions"]["mean"],
        with_=with_["captions"]["mean"],
        seconds=max(way["seconds"]["mean"] for way in (without, with_)),
        **config,
    )
    arms = {f"{way} | {count}": value for way, drawn in figures["drawn"].items() for count, value in drawn.items()}
    return text + claimed("retrieval", "trained with documents in front, or without | drawn with", arms)


def kosmos1(found: Mapping[str, Any]) -> str:
    """Of benchmarks/kosmos1_findings.py: one table for each finding, an arm a row."""
    figures, config = found["figures"], found["config"]
    text = KOSMOS.format(
        **{**config, "seeds": ", ".join(map(str, config["seeds"]))},
        longest=figures["longest_arm_s"],
        commit=found["commit"][:7],
        date=found["date"],
    )
    for finding in ("instruction tuning", "chain of thought", "interleaved data", "transfer"):
        arms = {arm: flat(value) for arm, value in figures[finding].items()}
        text += f"\n### {finding.capitalize()}\n\nThe paper: {CLAIMS[finding]}.\n"
        text += grid(arms, list(next(iter(arms.values()))))
    return text


def emu(found: Mapping[str, Any]) -> str:
    """Of benchmarks/emu_findings.py: an arm a row."""
    figures, config = found["figures"], found["config"]
    text = EMU.format(
        seeds=", ".join(map(str, config["seeds"])),
        pretrain=config["steps"][0],
        decoder=config["steps"][1],
        longest=max(seconds for arm in figures.values() for seconds in arm["train_s"]),
        commit=found["commit"][:7],
        date=found["date"],
    )
    text += f"\nThe paper: {CLAIMS['two steps']}. {CLAIMS['pages']}.\n"
    arms = {arm: value["scores"] for arm, value in figures.items()}
    columns = list(next(iter(arms.values())))
    shots = [column for column in columns if " " in column]
    return text + grid(arms, [column for column in columns if column not in shots]) + grid(arms, shots)


def grid(arms: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """An arm a row."""
    text = f"\n| | {' | '.join(columns)} |\n| --- {'| --- ' * len(columns)}|\n"
    for arm, value in arms.items():
        text += f"| {arm} | {' | '.join(spread(value[column], 3) for column in columns)} |\n"
    return text


def flat(figures: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Groups of figures as one, their names one behind the other."""
    if "mean" in figures:
        return {before: figures}
    return {
        name: value for key, group in figures.items() for name, value in flat(group, f"{before} {key}".strip()).items()
    }


def coding(found: Mapping[str, Any]) -> str:
    """Of benchmarks/coding.py."""
    figures, config = found["figures"], found["config"]
    listed = {name: ", ".join(map(str, config[name])) for name in ("objects", "seeds")}
    seconds = max(second for arm in ARMS for second in figures[arm]["seconds"]["seeds"])
    told = {**config, **listed, "seconds": seconds, "commit": found["commit"][:7], "date": found["date"]}
    text = CODING.format(**told)
    for arm, said in ARMS.items():
        cells = (spread(figures[arm][name], 4) for name in ("whole", "object_accuracy", "redrawn"))
        text += f"| {said} | {' | '.join(cells)} |\n"
    return text


def setting(found: Mapping[str, Any]) -> str:
    """What it was measured with, in one line."""
    config = found["config"]
    listed = {name: ", ".join(map(str, config[name])) for name in ("objects", "seeds")}
    return SETTING.format(**{**config, **listed, "commit": found["commit"][:7], "date": found["date"]})


def claimed(claim: str, head: str, arms: Mapping[str, Any]) -> str:
    """A claim, what is least and most here, and all figures."""
    near = min(arms, key=lambda name: arms[name]["frechet"]["mean"]).replace(" |", ",")
    right = max(arms, key=lambda name: arms[name]["object_accuracy"]["mean"]).replace(" |", ",")
    return (
        f"\nThe paper: {CLAIMS[claim]}. Here: the least distance is that of **{near}**, the highest accuracy that of "
        f"**{right}**.\n"
    ) + table(head, arms)


def table(head: str, arms: Mapping[str, Any]) -> str:
    """Two columns of figures."""
    rules = "| --- " * (head.count("|") + 3)
    text = f"\n| {head} | object accuracy | Fréchet distance |\n{rules}|\n"
    for name, value in arms.items():
        text += f"| {name} | {spread(value['object_accuracy'], 3)} | {spread(value['frechet'], 4)} |\n"
    return text


def spread(figure: Mapping[str, Any], digits: int) -> str:
    """The mean, and each seed where there are several."""
    each = ", ".join(f"{value:.{digits}f}" for value in figure["seeds"])
    return f"{figure['mean']:.{digits}f}" + (f" ({each})" if len(figure["seeds"]) > 1 else "")


def once(value: Mapping[str, float]) -> dict[str, Any]:
    """Figures of a single seed, in the form of several."""
    return {name: {"mean": one, "seeds": [one]} for name, one in value.items()}


def told(chosen: Mapping[str, str], name: str) -> str:
    """What a way of drawing was set to."""
    return chosen.get(name, name).removeprefix(name)


if __name__ == "__main__":
    main()
