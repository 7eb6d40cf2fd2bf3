"""A training step on packed rows, against padded rows and against a plain loop, on documents of mixed lengths.

    python benchmarks/step.py

The same 48 text documents, of 16 to 512 tokens (log-uniform), in every step; a decoder of width 256 and depth 6 in
bf16, AdamW. `padded`: Plait's own step with one document a row. `plain, padded` and `plain, packed`: a loop as one
writes it by hand, with a model of the same form and the same weights, on rows of one document, or on Plait's packed
rows under a dense mask. Figures go to benchmarks/results/step.json: ratios are theirs over ours.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pairs
import results
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plait.data.packs import Data
from plait.document import Document, Text
from plait.nn.attention import Visibility
from plait.objectives.tokens import NextToken
from plait.sequence import Sequence, pack_isolated
from plait.systems.cm3leon import TINY, CM3Leon
from plait.text.bpe import BPE
from plait.train.loop import Loop
from plait.train.memory import keep_memory
from plait.train.parallel import Ranks
from plait.train.stage import Optimiser, Schedule, Stage, Update

DOCUMENTS, SHORTEST, LONGEST, SEED = 48, 16, 512, 0
CONFIG = replace(TINY, width=256, depth=6, heads=8, positions=LONGEST + 1, rotary=None, raster=False, asked_weight=1.0)
LR, BETAS, CLIP = 1e-3, (0.9, 0.95), 1.0


def documents() -> list[Document]:
    """Random letters; each letter is a token."""
    random = np.random.default_rng(SEED)
    lengths = np.exp(random.uniform(np.log(SHORTEST), np.log(LONGEST - 4), DOCUMENTS)).astype(int)
    return [Document([Text(bytes(random.integers(97, 123, n).astype(np.uint8)).decode())]) for n in lengths]


class Plain(nn.Module):
    """The decoder, written out."""

    def __init__(self, system: CM3Leon) -> None:
        super().__init__()
        state = {name: value.clone() for name, value in system.state_dict().items()}
        width = CONFIG.width
        self.embed = nn.Embedding.from_pretrained(state["embed.weight"], freeze=False)
        self.position = nn.Embedding.from_pretrained(state["positions.weight"][2:], freeze=False)
        self.qkv, self.out, self.up, self.down = (
            nn.ModuleList(nn.Linear(i, o, bias=False) for _ in range(CONFIG.depth))
            for i, o in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        )
        names = ("attention.qkv", "attention.out", "mlp.hidden", "mlp.out")
        for layers, name in zip((self.qkv, self.out, self.up, self.down), names, strict=True):
            for i, layer in enumerate(layers):
                layer.load_state_dict({"weight": state[f"decoder.blocks.{i}.{name}.weight"]})

    def forward(self, ids: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        x = self.embed(ids) + self.position(position)
        norm = (CONFIG.width,)
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down, strict=True):
            q, k, v = (
                y.unflatten(-1, (CONFIG.heads, -1)).transpose(1, 2) for y in qkv(F.layer_norm(x, norm)).chunk(3, -1)
            )
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
            x = x + out(y.transpose(1, 2).flatten(2))
            x = x + down(torch.relu(up(F.layer_norm(x, norm))).square())
        return F.linear(F.layer_norm(x, norm), self.embed.weight)


class PlainLoop:
    """Forward, backward, clip, step."""

    def __init__(self, system: CM3Leon, batch: Any, dense: bool) -> None:
        self.model = Plain(system)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=0.0)
        self.ids, self.position = batch.ids, batch.position
        self.mask = Visibility(batch.document, batch.block).dense()[:, None] if dense else None
        targets = batch.targets["token"]
        self.labels = torch.full((batch.ids.numel(),), -100).index_put((targets.at,), targets.value)

    def advance(self) -> float:
        """One step; its loss."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(self.ids, self.position, self.mask)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), self.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())


def loop(system: CM3Leon, rows: list[list[Sequence]]) -> Loop:
    """Plait's loop, fed the same rows in every step."""
    trained = ("decoder.*", "embed.*", "positions.*")
    stage = Stage(
        name="step",
        data=Data(sources={"texts": documents()}, rows=1, length=LONGEST),
        updates=(Update(objective=NextToken(), optimisers=(Optimiser(train=trained, lr=LR, betas=BETAS),), clip=CLIP),),
        steps=10**6,
        schedule=Schedule(decay=0.0),
        precision="bf16",
    )
    made = Loop(system, stage, Ranks())
    made.loader.close()
    arrays = {**system.format.collator().arrays(rows), "skipped": np.array(0), "cut": np.array(0)}
    made.loader = itertools.repeat(arrays)  # type: ignore[assignment]
    return made


def main() -> None:
    """Measures, writes the figures."""
    keep_memory()
    torch.manual_seed(SEED)
    text = BPE.train([], 256)

    def system() -> CM3Leon:
        torch.manual_seed(SEED)
        return CM3Leon(CONFIG, text)

    format = system().format
    sequences = [format.layout(document) for document in documents()]
    lengths = [len(sequence) for sequence in sequences]
    packed = [[sequences[i] for i in row] for row in pack_isolated(lengths, LONGEST)]
    padded = [[sequence] for sequence in sequences]
    collate = format.collator()
    ours = loop(system(), packed)
    others = {
        "padded": loop(system(), padded),
        "plain, padded": PlainLoop(system(), collate(padded), dense=False),
        "plain, packed": PlainLoop(system(), collate(packed), dense=True),
    }
    figures: dict[str, Any] = {"tokens": sum(lengths), "rows": {"packed": len(packed), "padded": len(padded)}}
    for name, other in others.items():
        figures[name] = pairs.compare(ours.advance, other.advance)
        print(name, figures[name], flush=True)
    fresh = [loop(system(), packed).advance()["loss"], *(PlainLoop(system(), collate(packed), True).advance(),)]
    figures["first_loss"] = {"ours": fresh[0], "plain, packed": fresh[1]}
    config = {"width": CONFIG.width, "depth": CONFIG.depth, "documents": DOCUMENTS, "seed": SEED}
    print(results.write("step", figures, config))


if __name__ == "__main__":
    main()
