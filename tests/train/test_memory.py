"""The allocator keeps what it has."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_stays_with_the_process() -> None:
    code = """
import resource
from plait.train.memory import keep_memory
kept = keep_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): block = bytearray(64 << 20); del block
before = faults()
for _ in range(10): block = bytearray(64 << 20); del block
print(kept, faults() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out[0] in ("True", "False")
    if out[0] == "True":  # bytearray touches all 16,384 pages of a block; a fresh block would fault on each
        assert int(out[1]) < 16_384
