"""The public names."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import plait


def test_importing_plait_is_quick():
    code = (
        "import sys, plait\n"
        "heavy = {'torch', 'numpy', 'PIL', 'tokenizers', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "plait.Document('a'), plait.__version__\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "False"]


def test_every_public_name_is_there():
    for name in plait.__all__:
        assert getattr(plait, name) is not None
    assert set(plait.__all__) <= set(dir(plait))
    assert plait.Document is __import__("plait.document").document.Document
    with pytest.raises(AttributeError, match="module 'plait' has no attribute 'Documnt'"):
        plait.Documnt  # noqa: B018


def test_the_version():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert plait.__version__ == project["version"]


def test_submodules_are_not_hidden():
    from plait import config, images

    assert config.__name__ == "plait.config"
    assert images.__name__ == "plait.images"
