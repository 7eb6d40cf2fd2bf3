"""Cached decoding and guided drawing against transformers' LlamaForCausalLM with the same weights, in one process.

    pip install -e ".[bench]" && python benchmarks/decoding.py

Greedy, fp32, 10M and 100M parameters. A batch of 1 and of 8 prompts of 32 ids, 64 new ids each, by the engine as
`plait.load` gives a model (packed) and with compile=True, and by the peer's `generate`; the ids must agree.
`products`: the time of the matrix products of this work by PyTorch's linear layers, and nothing else, over the
engine's; `packed products`: by packed ones. `guided`: one request of 32 ids under guidance 3, by the engine (both
streams in one batch), and by two passes of the peer for each id, with its own caches, joined by hand. Figures go to
benchmarks/results/decoding.json.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pairs
import results
import torch
from llama import SIZES, Llama, peer
from torch import Tensor

from plait.document import Document, Text
from plait.generate.engine import GREEDY, Settings
from plait.generate.model import Model
from plait.nn.packed import pack

PROMPT, NEW, BATCHES, GUIDANCE = 32, 64, (1, 8), 3.0
WAYS = ("packed", "compiled")


def prompts(count: int) -> list[str]:
    """Different prompts of PROMPT bytes."""
    return [chr(97 + i) * PROMPT for i in range(count)]


def ours(model: Model, texts: list[str], guidance: float = 1.0) -> list[list[int]]:
    """The ids of the engine."""
    settings = Settings(guidance=guidance, image=GREEDY)
    return [reply.runs[0].ids for reply in model.generate([Document([Text(text)]) for text in texts], settings)]


@torch.inference_mode()
def theirs(model: Any, texts: list[str]) -> list[list[int]]:
    """The ids of the peer."""
    ids = torch.tensor([list(text.encode()) for text in texts])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    found: list[list[int]] = made[:, PROMPT:].tolist()
    return found


@torch.inference_mode()
def two_passes(model: Any, text: str) -> list[int]:
    """Guidance as it is often written: the conditional and the unconditional pass, one after the other."""
    feeds = [torch.tensor([list(text.encode())]), torch.tensor([list(text.encode()[:1])])]
    caches: list[Any] = [None, None]
    found = []
    for _ in range(NEW):
        logits = []
        for i in range(2):
            out = model(input_ids=feeds[i], past_key_values=caches[i], use_cache=True, logits_to_keep=1)
            caches[i] = out.past_key_values
            logits.append(out.logits[:, -1])
        id = (logits[1] + GUIDANCE * (logits[0] - logits[1])).argmax(-1)
        found.append(int(id))
        feeds = [id[:, None], id[:, None]]
    return found


def agree(one: list[list[int]], other: list[list[int]]) -> float:
    """The share of ids that are equal; random weights make near ties, after which runs part."""
    same = [a == b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return round(sum(same) / len(same), 3)


def loaded(reference: Any, vectors: Tensor | None = None) -> dict[str, Model]:
    """The models of both ways; `vectors` are what every picture is read as."""
    models = {}
    for way in WAYS:
        system = Llama(reference, NEW, vectors)
        pack(system)
        if way == "compiled":
            system.language.decoder.compile_step()
        models[way] = Model(system)
    return models


@torch.inference_mode()
def measure(size: str) -> dict[str, Any]:
    """All figures of a size."""
    reference = peer(size)
    models = loaded(reference)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in reference.parameters())}
    for batch in BATCHES:
        texts = prompts(batch)
        bare = {"products": Llama(reference, NEW), "packed products": models["packed"].system}
        runs: dict[str, Callable[[], Any]] = {way: partial(ours, model, texts) for way, model in models.items()}
        runs["peer"] = partial(theirs, reference, texts)
        runs |= {name: partial(system.products(batch, PROMPT), NEW) for name, system in bare.items()}
        found[f"batch {batch}"] = compared(runs, ("peer", *bare))
        print(size, batch, found[f"batch {batch}"], flush=True)
    text = prompts(1)[0]
    runs = {way: partial(ours, model, [text], GUIDANCE) for way, model in models.items()}
    found["guided"] = compared(runs | {"peer": lambda: [two_passes(reference, text)]}, ("peer",))
    print(size, "guided", found["guided"], flush=True)
    return found


def compared(runs: dict[str, Callable[[], Any]], others: tuple[str, ...]) -> dict[str, Any]:
    """Both ways against each of the others."""
    times = pairs.rounds(runs)
    return {
        way: {other: pairs.ratio(times, way, other) for other in others}
        | {"same_ids": agree(runs[way](), runs["peer"]())}
        for way in WAYS
    }


def main() -> None:
    """Measures all, writes the figures."""
    figures = {size: measure(size) for size in SIZES}
    config = {"prompt": PROMPT, "new": NEW, "guidance": GUIDANCE, "threads": torch.get_num_threads(), "seed": 0}
    print(results.write("decoding", figures, config))


if __name__ == "__main__":
    main()
