"""What the repository says of itself is true: its tree, its commands, its links, its version, its size."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LEFT_OUT = {"__pycache__", "build", "dist"}  # beside all that begins with a dot
MAX_BYTES = 40_000_000


def files() -> Iterator[Path]:
    """The files of the repository, without what .gitignore names."""
    for folder, folders, names in os.walk(ROOT):
        at = Path(folder)
        top = at == ROOT
        folders[:] = [
            name
            for name in folders
            if name == ".ci"
            or not (
                name in LEFT_OUT or name[0] == "." or name.endswith(".egg-info") or (top and name in ("runs", "data"))
            )
        ]
        yield from (at / name for name in names)


def fenced(text: str) -> Iterator[str]:
    """The contents of the fenced blocks of a Markdown text."""
    return (match.group(1) for match in re.finditer(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def commands() -> list[tuple[str, str]]:
    """Every `plait ...` line in the fenced blocks of the documents: (document, command)."""
    found = []
    for document in DOCUMENTS:
        for block in fenced(document.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.match(r"\s*(?:\$ )?(?:\S*/)?plait (.*)", line)
                if command:
                    found.append((document.name, command[1]))
    return found


def anchors(document: Path) -> set[str]:
    """The addresses of the headings of a Markdown file, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def tree() -> list[Path]:
    """The folders that the README's tree names, by its indentation."""
    section = (ROOT / "README.md").read_text().split("## The tree", 1)[1]
    above: list[tuple[int, Path]] = []
    named = []
    for line in next(fenced(section)).splitlines():
        entry = re.match(r"( *)(\S+/) +\S", line)
        assert entry, f"the tree's line {line!r} is no folder with a description"
        above = [(indent, path) for indent, path in above if indent < len(entry[1])]
        path = (above[-1][1] if above else ROOT) / entry[2]
        above.append((len(entry[1]), path))
        named.append(path)
    return named


def test_the_tree_of_the_readme() -> None:
    named = tree()
    assert [str(path) for path in named if not path.is_dir()] == []
    packages = {path.parent for path in (ROOT / "src/plait").rglob("*.py")}
    tops = {path for path in packages if path.parent == ROOT / "src/plait"}
    assert {path.name for path in tops} <= {path.name for path in named}
    visible = {path.relative_to(ROOT).parts[0] for path in files() if path.parent != ROOT}
    assert {name for name in visible if name[0] != "."} <= {path.relative_to(ROOT).parts[0] for path in named}


@pytest.mark.parametrize(("document", "command"), commands())
def test_commands_parse(document: str, command: str) -> None:
    from plait import cli

    try:
        cli.parse(shlex.split(command, comments=True))
    except SystemExit as error:
        pytest.fail(f"{document}: `plait {command}` is no command (exit code {error.code})")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for address in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in address or address.startswith("mailto:"):
            continue
        path, _, anchor = address.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), f"{address} leaves the repository"
        assert target.exists(), f"{address} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{address}: no such heading"


@pytest.mark.parametrize("name", ["benchmarks", "results"])
def test_measured_figures_are_in_the_documents(name: str) -> None:
    page = importlib.import_module(f"docs_{name}").page()
    assert (ROOT / "docs" / f"{name}.md").read_text() == page, f"docs/{name}.md is not what `make docs` writes"


@pytest.mark.parametrize("name", ["benchmarks", "results"])
def test_what_is_not_measured_is_left_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = importlib.import_module(f"docs_{name}")
    monkeypatch.setattr("docs_benchmarks.RESULTS", tmp_path)
    assert tool.page().startswith(tool.HEAD)
    assert [line for line in tool.page().splitlines() if re.match(r"\|(?! \| | --- )", line)] == []


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert latest
    assert cited
    assert {latest[1], cited[1]} == {version}


def test_constraints_name_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + extras["dev"] + extras["bench"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert {re.split(r"[<>=]", name)[0].lower() for name in declared} == {line.split("==")[0].lower() for line in lines}


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    places = re.compile(rb"(?<![\w.~-])/(?:work|root|home|Users|opt)/\w")
    guilty = []
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content[:8192] and (found := places.search(content)):
            guilty.append(f"{path.relative_to(ROOT)}: {found[0].decode()}")
    assert guilty == []


def test_the_repository_is_small() -> None:
    assert sum(path.stat().st_size for path in files()) < MAX_BYTES


def test_help_does_not_wait_for_heavy_packages() -> None:
    code = (
        "import sys\n"
        "from plait import cli\n"
        "try:\n"
        "    cli.parse(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'matplotlib', 'grain', 'tokenizers', 'sentencepiece', 'tensorboard', 'transformers'}\n"
        "heavy |= {'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert "train" in done.stdout
