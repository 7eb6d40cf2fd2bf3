"""Plait: published multimodal language models from one small set of parts.

    import plait

    model = plait.load("runs/cm3leon")
    reply = model.generate(plait.Document(["A photo of ", plait.Image("cat.jpg")]), max_new_tokens=64)

Names are imported when they are first used: `import plait` does not wait for torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.document import Blank, Document, Image, Text, Turn, Video
    from plait.generate.engine import Reply, Settings
    from plait.generate.model import Model, build, load
    from plait.generate.sampling import Sampling

    __version__: str

__all__ = [
    "Blank",
    "Document",
    "Image",
    "Model",
    "Reply",
    "Sampling",
    "Settings",
    "Text",
    "Turn",
    "Video",
    "__version__",
    "build",
    "load",
]

_HOMES = {
    **dict.fromkeys(("Blank", "Document", "Image", "Text", "Turn", "Video"), "plait.document"),
    **dict.fromkeys(("Reply", "Settings"), "plait.generate.engine"),
    **dict.fromkeys(("Model", "build", "load"), "plait.generate.model"),
    "Sampling": "plait.generate.sampling",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("plait")
    if name not in _HOMES:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
