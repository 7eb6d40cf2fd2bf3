"""Makes docs/images/demo.png: what the model of runs/demo reads and draws, on held-out scenes, not chosen by hand.

python tools/docs_demo.py [RUN]
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

import plait
from plait.data.shapes import Shapes, language
from plait.recipes.cm3leon import DRAWING, GUIDANCE

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo.png"
SIDE, GAP, WORDS = 128, 12, 78
COLUMNS = 4


def main(run: str) -> None:
    """Two rows: pictures with what the model says of them, captions with what it draws."""
    model = plait.load(run)
    examples = list(Shapes(seed=7, length=COLUMNS, split="validation", objects=(1, 2)).examples())
    pictures = [plait.Image(example.scene.draw(32)) for example in examples]
    asked = [plait.Document([plait.Turn("user", [picture, language.REQUESTS[0]])]) for picture in pictures]
    said = [reply.text for reply in model.generate(asked, max_new_tokens=64)]
    wanted = [plait.Document([example.caption, plait.Blank("image")]) for example in examples]
    settings = plait.Settings(guidance=GUIDANCE, image=DRAWING)
    drawn = [next(p for p in reply if isinstance(p, plait.Image)) for reply in model.generate(wanted, settings)]
    cells = [
        *((picture, "reads: " + text) for picture, text in zip(pictures, said, strict=True)),
        *((picture, "draws: " + e.caption) for picture, e in zip(drawn, examples, strict=True)),
    ]
    width, height = COLUMNS * (SIDE + GAP) + GAP, 2 * (SIDE + WORDS + GAP) + GAP
    sheet = PIL.Image.new("RGB", (width, height), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(cells):
        x, y = GAP + i % COLUMNS * (SIDE + GAP), GAP + i // COLUMNS * (SIDE + WORDS + GAP)
        sheet.paste(picture.open().resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST), (x, y))
        pen.multiline_text((x, y + SIDE + 4), "\n".join(textwrap.wrap(text, 23)), fill="black")
    OUT.parent.mkdir(exist_ok=True)
    sheet.save(OUT)
    print(OUT)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
