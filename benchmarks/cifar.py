"""How well a model trained on CIFAR-10 draws what it is asked for.

A small convolutional network learns the ten classes from the real training pictures. It then judges drawings made from
the captions of training, and, as yardsticks, real test pictures and what the model's image tokenizer makes of them.
That drawings are no copies is told by their distance to the nearest training picture, beside that of test pictures.

    plait data import classes CIFAR --out shards          # CIFAR/{train,test}/<class>/*
    plait train cm3leon/tiny --set data=shards --out run
    python benchmarks/cifar.py shards run --sheet sheet.png

Figures go to benchmarks/results/cifar.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import results
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import plait
from plait import images
from plait.data.shards import ShardSource
from plait.document import Blank, Document, Text
from plait.errors import InputError, PlaitError
from plait.generate.model import Model

BATCH = 50
RATE = 2e-3
SIDE = 32
SCALE = 2  # of the pictures on the sheet


@dataclass(frozen=True)
class Split:
    """The pictures of a split: (n, 3, 32, 32) in [-1, 1], class numbers (n,), and a caption for each class."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    captions: tuple[str, ...]


class Judge(nn.Module):
    """Three convolutions of 3 x 3 with norm and pooling, then a layer of 256: 0.6 million parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, width in pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        side = SIDE // 8
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * side**2, 256), nn.ReLU())
        self.head = nn.Linear(256, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, 32, 32) -> logits (b, classes)."""
        return self.head(self.body(pixels))

    @torch.inference_mode()
    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The penultimate features (n, 256) and the class (n,) of pictures."""
        self.eval()
        features = torch.cat([self.body(part) for part in pixels.split(500)])
        return features, self.head(features).argmax(-1)


def read(directory: str, split: str) -> Split:
    """A split of an import of class folders, in memory."""
    source = ShardSource(directory, split)
    facts = [source.meta(i) for i in range(len(source))]
    if any("class" not in fact for fact in facts):
        raise InputError(f"{directory}: no classes; import with: plait data import classes SRC --out {directory}")
    pictures, labels, captions = [], [], {}
    for i, fact in enumerate(facts):
        document = source[i]
        picture = images.resize_and_crop(document.images[0].open(), SIDE)
        pictures.append(images.to_array(picture))
        labels.append(fact["label"])
        captions.setdefault(fact["label"], (fact["class"], document.text))
    names, texts = zip(*(captions[label] for label in sorted(captions)), strict=True)
    return Split(torch.from_numpy(np.stack(pictures)), torch.tensor(labels), names, texts)


def train_judge(train: Split, epochs: int, seed: int) -> Judge:
    """The network after `epochs` passes over the pictures, mirrored and shifted by up to two pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # weights, order, augmentation and dropout
        judge = Judge(len(train.classes))
        steps = epochs * -(-len(train.labels) // BATCH)
        optimiser = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        for epoch in range(epochs):
            judge.train()
            for rows in torch.randperm(len(train.labels)).split(BATCH):
                loss = F.cross_entropy(judge(_moved(train.pixels[rows])), train.labels[rows], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            print(f"judge: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}", file=sys.stderr)
    return judge


def _moved(pixels: Tensor) -> Tensor:
    """Each picture mirrored or not, the batch shifted together."""
    mirrored = torch.where(torch.rand(len(pixels), 1, 1, 1) < 0.5, pixels.flip(-1), pixels)
    down, right = torch.randint(0, 5, (2,)).tolist()
    return F.pad(mirrored, (2, 2, 2, 2), mode="reflect")[..., down : down + SIDE, right : right + SIDE]


def draw(model: Model, captions: Sequence[str], each: int, settings: plait.Settings) -> Tensor:
    """`each` drawings of every caption, class by class: (classes * each, 3, 32, 32) in [-1, 1]."""
    prompts = [Document([Text(caption), Blank("image")]) for caption in captions for _ in range(each)]
    replies = model.generate(prompts, settings)
    pictures = [images.resize_and_crop(reply.document.images[0].open(), SIDE) for reply in replies]
    return torch.from_numpy(np.stack([images.to_array(picture) for picture in pictures]))


@torch.inference_mode()
def reconstruct(model: Model, pixels: Tensor) -> Tensor:
    """What the image tokenizer makes of pictures: (n, 3, 32, 32), rounded to 8 bits as drawings are."""
    if "image_tokenizer" not in model.system.parts:
        raise InputError(
            f"{model.system.name} has no part 'image_tokenizer': give a checkpoint of a system that has one"
        )
    tokenizer: Any = model.system.parts["image_tokenizer"].module
    made = []
    for part in pixels.split(200):
        wide = F.interpolate(part, (tokenizer.config.resolution,) * 2, mode="bicubic", antialias=True).clamp(-1, 1)
        pictures = [images.from_array(one) for one in tokenizer.decode(tokenizer.encode(wide)).numpy()]
        made += [images.to_array(images.resize_and_crop(picture, SIDE)) for picture in pictures]
    return torch.from_numpy(np.stack(made))


def nearest(queries: Tensor, known: Tensor) -> float:
    """The median over queries (n, ...) of the L2 distance to the nearest of `known` (m, ...); pixels are in [-1, 1]."""
    queries, known = queries.flatten(1), known.flatten(1)
    found = [torch.cdist(part, known).min(1).values for part in queries.split(200)]
    return round(torch.cat(found).median().item(), 3)


def share(right: Tensor) -> float:
    """The mean of booleans."""
    return round(right.double().mean().item(), 4)


def measure(model: Model, data: str, options: argparse.Namespace) -> tuple[dict[str, Any], Tensor]:
    """All figures, and the drawings."""
    train, test = read(data, "train"), read(data, "test")
    judge = train_judge(train, options.epochs, options.seed)
    settings = plait.Settings(
        max_new_tokens=0,
        guidance=options.guidance,
        image=plait.Sampling(temperature=options.temperature, top_p=options.top_p),
        seed=options.seed,
    )
    drawings = draw(model, train.captions, options.each, settings)
    asked = torch.arange(len(train.classes)).repeat_interleave(options.each)
    known, _ = judge.look(train.pixels)
    seen, of_test = judge.look(test.pixels)
    features, of_drawings = judge.look(drawings)
    _, of_made = judge.look(reconstruct(model, test.pixels))
    right = of_drawings == asked
    figures = {
        "drawings_as_asked": share(right),
        "by_class": {name: share(right[asked == i]) for i, name in enumerate(train.classes)},
        "real_test_pictures": share(of_test == test.labels),
        "reconstructed_test_pictures": share(of_made == test.labels),
        "chance": 1 / len(train.classes),
        "n": {"drawings": len(drawings), "train": len(train.labels), "test": len(test.labels)},
        "nearest_training_picture": {
            "pixels": {"drawings": nearest(drawings, train.pixels), "test": nearest(test.pixels, train.pixels)},
            "features": {"drawings": nearest(features, known), "test": nearest(seen, known)},
        },
    }
    return figures, drawings


def sheet(drawings: Tensor, rows: int, path: Path, columns: int = 20) -> None:
    """Drawings as a PNG, a row for each class."""
    grid = drawings.unflatten(0, (rows, -1))[:, :columns]  # (rows, columns, 3, side, side)
    wide = grid.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2).numpy()
    picture = images.from_array(wide)
    picture = picture.resize((picture.width * SCALE, picture.height * SCALE), PIL.Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="directory of `plait data import classes`, with the splits train and test")
    parser.add_argument("checkpoint", help="run or checkpoint that was trained on it")
    parser.add_argument("--each", type=int, default=50, help="drawings of each class")
    parser.add_argument("--epochs", type=int, default=15, help="of the judge")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="PNG for the drawings")
    parser.add_argument("--name", default="cifar", help="of the file in benchmarks/results")
    options = parser.parse_args(words)
    if options.each < 1 or options.epochs < 1:
        parser.error(f"--each {options.each}, --epochs {options.epochs}: give at least 1")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measures, writes and prints the figures."""
    options = parse(words)
    try:
        model = plait.load(options.checkpoint)
        figures, drawings = measure(model, options.data, options)
    except PlaitError as error:
        print(f"cifar: {error}", file=sys.stderr)
        return 2
    if options.sheet is not None:
        sheet(drawings, len(figures["by_class"]), options.sheet)
    kept = {name: getattr(options, name) for name in ("each", "epochs", "guidance", "temperature", "top_p", "seed")}
    parameters = {name: part.parameters for name, part in model.system.parts.items()}
    path = results.write(options.name, figures, {**kept, "system": model.system.name, "parameters": parameters})
    print(path.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
