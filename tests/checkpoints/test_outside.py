"""What joins from outside the package."""

from __future__ import annotations

import hashlib
import pickle
import sys

import pytest

from plait.checkpoints.outside import Files, code_of, fingerprint, from_file, is_outside
from plait.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "outside_things.py"
    path.write_text("RUNS = []\nRUNS.append(1)\ndef make(): return 'made'\n")
    yield path
    sys.modules.pop("outside_things", None)


def test_addresses():
    assert is_outside("a/b.py:make")
    assert is_outside("C:/b.py:make")
    assert not any(map(is_outside, ("cm3leon", "plait.systems.emu:Emu", "a.py", "a.py:", "hf:ORG/NAME")))


def test_a_file_is_run_once(file):
    assert from_file(f"{file}:make")() == "made"
    assert from_file(f"{file}:RUNS") == [1]
    assert from_file(f"{file}:RUNS") is from_file(f"{file}:RUNS")


def test_what_was_run_is_known(file, monkeypatch):
    as_run = hashlib.sha256(file.read_bytes()).hexdigest()
    code = code_of(from_file(f"{file}:make"))
    file.write_text("changed while it is in use")
    assert (code.path, code.fingerprint) == (file, as_run)
    assert fingerprint(file) != as_run
    assert fingerprint(file.with_name("nowhere.py")) is None
    assert code.to_json() == {"file": str(file), "fingerprint": as_run}
    monkeypatch.chdir(file.parent)
    assert code.to_json()["file"] == "outside_things.py"
    assert code_of(from_file) is None


def test_files_are_run_where_they_are_unpickled(file):
    made = pickle.dumps((Files(), from_file(f"{file}:make")))
    del sys.modules["outside_things"]
    assert pickle.loads(made)[1]() == "made"
    del sys.modules["outside_things"]
    assert pickle.loads(pickle.dumps(Files())) is not None
    assert "outside_things" not in sys.modules  # it was no longer in use


def test_what_is_wrong_is_said(file, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'make'"):
        from_file(f"{file}:mak")
    with pytest.raises(ConfigError, match="no such file"):
        from_file(f"{tmp_path}/nowhere.py:make")
    with pytest.raises(ConfigError, match="is not of the form"):
        from_file("cm3leon")
    for name in ("json", "wave", "plait", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("make = 1")
        with pytest.raises(ConfigError, match="rename the file"):
            from_file(f"{tmp_path}/{name}.py:make")
    (tmp_path / "outside_broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"cannot be run \(ZeroDivisionError"):
        from_file(f"{tmp_path}/outside_broken.py:make")
    assert "outside_broken" not in sys.modules
