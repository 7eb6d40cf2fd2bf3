from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plait.errors import InputError
from plait.retrieval.store import FACTS, Store

FILES = ("a.bin", "b.bin")
APPENDS = """
import sys
from plait.retrieval.store import Store
store = Store(sys.argv[1])
with store.appending():
    while True:
        n = store.facts["n"]
        store.append({"a.bin": bytes([n % 256]) * 70_000, "b.bin": n.to_bytes(8, "little")}, {"n": n + 1})
        print(n + 1, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", FILES, {"n": 0})


def add(store: Store, **parts: bytes) -> None:
    with store.appending():
        content = {f"{name}.bin": value for name, value in parts.items()}
        store.append(content, {"n": store.facts["n"] + 1})


def read(store: Store, name: str) -> bytes:
    return (store.folder / name).read_bytes()[: store.sizes[name]]


def test_what_is_appended_is_there(store: Store) -> None:
    add(store, a=b"one", b=b"1")
    with store.appending():
        store.append({"a.bin": b"\0\1"}, {"more": "yes"})
    again = Store(store.folder)
    assert read(again, "a.bin") == b"one\0\1" and read(again, "b.bin") == b"1"
    assert again.facts == {"n": 1, "more": "yes"}


def test_what_was_begun_is_written_over(store: Store) -> None:
    add(store, a=b"one", b=b"1")
    for name in FILES:
        with (store.folder / name).open("ab") as file:
            file.write(b"half of what came next")
    (store.folder / f".{FACTS}.partial").write_bytes(b'{"format"')
    again = Store(store.folder)
    assert read(again, "a.bin") == b"one"
    add(again, a=b"two")
    assert (store.folder / "a.bin").read_bytes() == b"onetwo"
    add(again, b=b"")
    assert (store.folder / "b.bin").read_bytes() == b"1"


def test_nothing_that_was_acknowledged_is_lost(store: Store) -> None:
    for kill in range(5):
        child = subprocess.Popen([sys.executable, "-c", APPENDS, str(store.folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(2)]
        time.sleep(0.003 * kill)
        os.kill(child.pid, signal.SIGKILL)
        said += [int(line) for line in child.communicate()[0].splitlines() if line.strip()]
        store = Store(store.folder)
        n = store.facts["n"]
        assert said[-1] <= n <= said[-1] + 1
        assert read(store, "a.bin") == b"".join(bytes([i % 256]) * 70_000 for i in range(n))
        assert read(store, "b.bin") == b"".join(i.to_bytes(8, "little") for i in range(n))


def test_one_process_appends_at_a_time(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", APPENDS, str(store.folder)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(InputError, match="another process appends"):
        add(store, a=b"one")
    child.kill()
    child.communicate()
    add(store, a=b"one")


def test_a_memory_that_was_hardly_begun_begins_again(tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    (tmp_path / ".lock").touch()
    add(Store.create(tmp_path, FILES, {"n": 0}), a=b"one")
    with pytest.raises(InputError, match="is not empty and holds no memory"):
        Store.create(tmp_path, FILES, {"n": 0})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no readable memory"),
        ("[]", "no readable memory"),
        ('{"format": 1}', "no readable memory"),
        ('{"format": 2, "sizes": {}}', "format 2, this Plait reads 1"),
        ('{"format": 1, "sizes": {"a.bin": 3}}', "0 bytes but 3 in memory.json; the file is cut"),
        ('{"format": 1, "sizes": {"c.bin": 3}}', "c.bin: 0 bytes but 3"),
    ],
)
def test_what_cannot_be_read_is_told(store: Store, content: str, said: str) -> None:
    (store.folder / FACTS).write_text(content)
    with pytest.raises(InputError, match=said):
        Store(store.folder)


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no memory; build one"):
        Store(tmp_path)


def test_the_facts_are_plain(store: Store) -> None:
    add(store, a=b"12")
    value = json.loads((store.folder / FACTS).read_text())
    assert value == {"format": 1, "sizes": {"a.bin": 2, "b.bin": 0}, "n": 1}
