"""The loader against bare decoding, the fast way to read pictures against the exact one, and how long a step waits.

    python benchmarks/loader.py FOLDER

Photos are imported as `plait data import captions FOLDER` does, and read at 256 px with no worker processes. `loader`:
batches made by the loader, one after the other without reading ahead, over the same pictures decoded alone. `fast`:
the loader's exact way over its fast way. `largest_difference`, `mean_difference`: of the fast way's values from the
exact one's, in units of 1/255. `waiting`: the share of a step that waits for data, in steps of both stages of
cm3leon/tiny. Figures go to benchmarks/results/loader.json.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pairs
import results
import torch

from plait import images
from plait.data.importers import captions
from plait.data.packs import Data, Elements
from plait.data.shards import ShardSource
from plait.recipes.cm3leon import tiny
from plait.systems.cm3leon import TINY, CM3LeonFormat
from plait.text.bpe import BPE
from plait.train.loop import Loop
from plait.train.memory import keep_memory
from plait.train.parallel import Ranks

SIDE, ROWS, PICTURES, STEPS = 256, 16, 320, 60
CONFIG = replace(TINY, image=replace(TINY.image, resolution=SIDE), positions=SIDE**2 // 16 + 64)


def main() -> None:
    """Imports, measures, writes the figures."""
    keep_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        captions(Path(sys.argv[1]), Path(folder) / "photos")
        source = ShardSource(str(Path(folder) / "photos"))
        files = [image.content() or b"" for i in range(len(source)) for image in source[i].images]
        files = files[:PICTURES]
        figures: dict[str, Any] = {"pictures": len(files)}
        data = Data(
            sources={"photos": source},
            rows=ROWS,
            length=CONFIG.image.codes_per_image - 1,
            reads="pictures",
            shuffle=False,
        )
        format = CM3LeonFormat(CONFIG, BPE.train([], 256))

        def loaded(elements: Elements) -> None:
            for k in range(len(files) // ROWS):
                elements[k]

        def bare() -> None:
            for content in files:
                images.to_array(images.resize_and_crop(images.decode(content), SIDE))

        exact, fast = (Elements(replace(data, images=images), format) for images in ("exact", "fast"))
        figures["loader"] = pairs.compare(lambda: loaded(exact), bare)
        print(figures["loader"], flush=True)
        figures["fast"] = pairs.compare(lambda: loaded(fast), lambda: loaded(exact))
        print(figures["fast"], flush=True)
        figures |= differences(files[:200])
    torch.set_num_threads(2)
    figures["waiting"] = {stage.name: waiting(stage) for stage in tiny().stages}
    print(results.write("loader", figures, {"side": SIDE, "rows": ROWS, "workers": 0, "seed": 0}))


def differences(files: list[bytes]) -> dict[str, float]:
    """How far the fast way's values are from the exact one's."""
    found = []
    for content in files:
        near = images.fast_square(content, SIDE)
        if near is not None:
            exact = images.to_array(images.resize_and_crop(images.decode(content), SIDE))
            found.append(np.abs(near - exact) * 127.5)
    return {
        "largest_difference": round(float(max(values.max() for values in found)), 2),
        "mean_difference": round(float(np.mean([values.mean() for values in found])), 3),
    }


def waiting(stage: Any) -> float:
    """The share of the time of some steps that went into waiting."""
    torch.manual_seed(0)
    loop = Loop(tiny().build(), stage, Ranks())
    for _ in range(5):
        loop.advance()
    records = [loop.advance() for _ in range(STEPS)]
    loop.loader.close()
    return round(sum(r["wait_s"] for r in records) / sum(r["step_s"] for r in records), 5)


if __name__ == "__main__":
    main()
