"""Every golden case is replayed by its name, or stands in exempt.json with the reason why not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden import cases

HERE = Path(__file__).parent
EXEMPT = json.loads((HERE / "exempt.json").read_text())


@pytest.fixture(scope="module")
def replayed() -> dict[str, set[str]]:
    """The ids of the cases of each file of tests."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(HERE)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    for file, case in re.findall(r"/test_(\w+)\.py::\w+\[(.+)\]$", listed, re.MULTILINE):
        found.setdefault(file, set()).add(case)
    return found


@pytest.mark.parametrize("system", ["cm3leon", "emu", "generation", "kosmos1", "minigpt4", "seed"])
def test_every_case_is_replayed(system: str, replayed: dict[str, set[str]]) -> None:
    names = set(cases(system))
    exempt = EXEMPT.get(system, {})
    assert set(exempt) <= names and all(exempt.values())
    ids = set().union(*(cases for file, cases in replayed.items() if file.startswith(system)))
    assert names - ids - set(exempt) == set()
