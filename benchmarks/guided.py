"""Guided drawing of a batch against a transformers-style loop of two passes with the same weights, in one process.

    pip install -e ".[bench]" && python benchmarks/guided.py [--pairs N] [SIZE-CODES ...]

The model is a CM3Leon of 10M or 100M parameters with random weights; the peer is transformers' OPTForCausalLM, which
computes the same function (no biases, norms without parameters, tied output, positions from row 2 on). 8 prompts of
32 bytes, guidance 3, fp32, pictures of 256 or 1,024 codes, which neither side decodes to pixels. The peer runs the
conditional and the unconditional batch one after the other for each code, with a cache each, joins their logits, and
leaves codes alone to be drawn; the engine runs all rows at once, as `plait.load` gives a model (packed) and with
compile=True. Greedy, so that the ids can be compared. `products`: the time of the matrix products of the
engine's rows by PyTorch's linear layers, all of the output table included, and nothing else, over the engine's;
`packed products`: by packed ones, of codes alone. Figures go to benchmarks/results/guided.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import pairs
import PIL.Image
import results
import torch
from decoding import agree
from llama import products
from torch import nn

from plait.document import Blank, Document, Image
from plait.generate.engine import GREEDY, Settings
from plait.generate.model import Model
from plait.nn.packed import PackedLinear, pack
from plait.nn.vqgan import VQGANConfig
from plait.systems.cm3leon import CM3Leon, CM3LeonConfig
from plait.text.bpe import BPE

BATCH, PROMPT, GUIDANCE, CODES = 8, 32, 3.0, 8192
SIZES = {"10m": (256, 8, 8), "100m": (768, 12, 12)}  # width, depth, heads
CASES = ("10m-256", "100m-256", "10m-1024")
WAYS = ("packed", "compiled")


def system(size: str, codes: int) -> CM3Leon:
    """With random weights, and pictures of so many codes."""
    width, depth, heads = SIZES[size]
    side = int(codes**0.5)
    image = VQGANConfig(
        resolution=side,
        channels=8,
        groups=2,
        multipliers=(1,),
        blocks=1,
        attention_resolutions=(),
        latent_channels=8,
        code_width=4,
        codes=CODES,
    )
    config = CM3LeonConfig(
        image=image, width=width, depth=depth, heads=heads, positions=codes + 2 * PROMPT, text_tokens=7676
    )  # 16,384 ids
    torch.manual_seed(0)
    built = CM3Leon(config, BPE.train([], 256)).eval()
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if not name.startswith("image_tokenizer."):
                weight.normal_(std=0.02 if "decoder" in name else 0.5)
    built.write = lambda runs: [Image(PIL.Image.new("RGB", (1, 1))) for _ in runs]  # type: ignore[method-assign]
    return built


def peer(ours: CM3Leon) -> Any:
    """The transformers model with the weights of ours."""
    import transformers

    config = transformers.OPTConfig(
        vocab_size=len(ours.vocabulary),
        hidden_size=ours.config.width,
        word_embed_proj_dim=ours.config.width,
        ffn_dim=4 * ours.config.width,
        num_hidden_layers=ours.config.depth,
        num_attention_heads=ours.config.heads,
        max_position_embeddings=ours.config.positions,
        dropout=0.0,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        tie_word_embeddings=True,
    )
    model = transformers.OPTForCausalLM(config).eval()
    theirs = model.model.decoder
    theirs.embed_tokens.weight.data.copy_(ours.embed.weight)
    theirs.embed_positions.weight.data.copy_(ours.positions.weight)
    for block, layer in zip(ours.decoder.blocks, theirs.layers, strict=True):
        attention = layer.self_attn
        for part, weight in zip("qkv", block.attention.qkv.weight.data.chunk(3), strict=True):
            getattr(attention, f"{part}_proj").weight.data.copy_(weight)
        attention.out_proj.weight.data.copy_(block.attention.out.weight)
        layer.fc1.weight.data.copy_(block.mlp.hidden.weight)
        layer.fc2.weight.data.copy_(block.mlp.out.weight)
    return model


def prompts() -> list[Document]:
    """Different captions of PROMPT bytes, each of a picture that is to be drawn."""
    return [Document([chr(97 + i) * PROMPT, Blank("image")]) for i in range(BATCH)]


def engine(model: Model) -> list[list[int]]:
    """The codes of the engine."""
    replies = model.generate(prompts(), Settings(guidance=GUIDANCE, image=GREEDY))
    return [reply.runs[0].ids for reply in replies]


@torch.inference_mode()
def two_passes(model: Any, ours: CM3Leon) -> list[list[int]]:
    """Guidance as it is often written: the conditional and the unconditional pass, one after the other."""
    voc = ours.vocabulary
    rows = [ours.format.layout(document, open=True).ids().tolist() for document in prompts()]
    feeds = [torch.tensor(rows), torch.tensor([[voc.eos, voc.first_sentinel, voc.brk]] * BATCH)]
    caches: list[Any] = [None, None]
    barred = ~voc.allow(codes=True)
    found = []
    for _ in range(ours.config.image.codes_per_image):
        logits = []
        for i in range(2):
            out = model(input_ids=feeds[i], past_key_values=caches[i], use_cache=True, logits_to_keep=1)
            caches[i] = out.past_key_values
            logits.append(out.logits[:, -1])
        joined = logits[1] + GUIDANCE * (logits[0] - logits[1])
        ids = joined.masked_fill(barred, -torch.inf).argmax(-1)
        found.append(ids)
        feeds = [ids[:, None], ids[:, None]]
    drawn: list[list[int]] = torch.stack(found, 1).tolist()
    return drawn


def table(ours: CM3Leon, packed: bool) -> nn.Module:
    """The output: all of it, or the packed rows of codes."""
    voc, weight = ours.vocabulary, ours.embed.weight
    if packed:
        return PackedLinear(weight[voc.first_code : voc.eoss])
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


@torch.inference_mode()
def measure(size: str, codes: int, count: int, ways: tuple[str, ...]) -> dict[str, Any]:
    """All figures of a size and a length."""
    plain = system(size, codes)
    reference = peer(plain)
    models = {way: Model(system(size, codes)) for way in ways}
    for way, model in models.items():
        pack(model.system)
        if way == "compiled":
            model.system.decoder.compile_step()
    bare = {"products": (plain, False), "packed products": (models[ways[0]].system, True)}
    runs: dict[str, Callable[[], Any]] = {way: partial(engine, model) for way, model in models.items()}
    runs["peer"] = partial(two_passes, reference, plain)
    for name, (built, packed) in bare.items():
        once = products(built.decoder.modules(), table(built, packed), 2 * BATCH, PROMPT + 2)
        runs[name] = partial(once, codes)
    times = pairs.rounds(runs, count, warm=1)
    wanted = runs["peer"]()
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in reference.parameters())}
    for way in ways:
        others = {other: pairs.ratio(times, way, other) for other in ("peer", *bare)}
        found[way] = others | {"same_ids": agree(runs[way](), wanted)}
        print(size, codes, way, found[way], flush=True)
    return found


def main() -> None:
    """Measures all, writes the figures."""
    asked = argparse.ArgumentParser(description="Guided drawing against two passes of transformers.")
    asked.add_argument("cases", nargs="*", default=CASES, help="SIZE-CODES of 10m, 100m and a square number")
    asked.add_argument("--pairs", type=int, default=pairs.PAIRS, help="of 256 codes; of more, a third of them")
    asked.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    given = asked.parse_args()
    figures = {}
    for case in given.cases:
        size, codes = case.split("-")
        count = given.pairs if int(codes) <= 256 else max(2, given.pairs // 3)
        figures[case] = measure(size, int(codes), count, tuple(given.ways))
    config = {"batch": BATCH, "prompt": PROMPT, "guidance": GUIDANCE, "threads": torch.get_num_threads(), "seed": 0}
    print(results.write("guided", figures, config))


if __name__ == "__main__":
    main()
