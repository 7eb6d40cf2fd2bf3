"""EVA's tower, the Q-Former and replies to soft tokens against transformers, with the same weights in one process.

    pip install -e ".[bench]" && python benchmarks/reading.py

fp32. The forward pass of a tower (257 vectors a picture) and of BLIP-2's Q-Former (32 queries), for 1 and 8 pictures,
against `Blip2VisionModel` and `Blip2QFormerModel`: as built and as `plait.load` gives them (packed). Greedy replies of
64 ids to 32 vectors and 32 ids, for 1 and 8 requests, at 10M and 100M parameters, against `LlamaForCausalLM.generate`
from the same embeddings: as loaded and compiled. Both sides must agree. Figures go to benchmarks/results/reading.json.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pairs
import PIL.Image
import results
import torch
from decoding import NEW, PROMPT, compared, loaded, prompts
from llama import SIZES, peer
from torch import Tensor, nn

from plait.document import Document, Image, Text
from plait.generate.engine import GREEDY, Settings
from plait.generate.model import Model
from plait.nn.packed import pack
from plait.nn.qformer import BLIP2_QFORMER, QFormer
from plait.nn.vit import VITConfig, eva_vit

BATCHES = (1, 8)
VECTORS = 32
TOWER = VITConfig(image_size=224, patch=14, width=384, depth=12, heads=6, hidden=1536)


def tower() -> tuple[nn.Module, Any]:
    """EVA's tower with a norm behind it, and the peer with its weights."""
    ours = eva_vit(TOWER, nn.LayerNorm(TOWER.width, eps=TOWER.eps)).eval()
    return ours, tower_peer(ours, ours.norm)


def tower_peer(ours: Any, norm: nn.Module) -> Any:
    """The peer of a tower of the size `TOWER`, and of the norm behind it."""
    import transformers

    config = transformers.Blip2VisionConfig(
        hidden_size=TOWER.width,
        intermediate_size=TOWER.hidden,
        num_hidden_layers=TOWER.depth,
        num_attention_heads=TOWER.heads,
        image_size=TOWER.image_size,
        patch_size=TOWER.patch,
        layer_norm_eps=TOWER.eps,
    )
    theirs = transformers.Blip2VisionModel(config).eval()
    embeddings = theirs.embeddings
    embeddings.class_embedding = nn.Parameter(ours.class_token.detach())
    embeddings.position_embedding = nn.Parameter(ours.positions.detach())
    embeddings.patch_embedding.load_state_dict(ours.patch.state_dict())
    theirs.post_layernorm = norm
    for block, layer in zip(ours.blocks, theirs.encoder.layers, strict=True):
        give(
            block,
            {
                "attention_norm": layer.layer_norm1,
                "attention.qkv": layer.self_attn.qkv,
                "attention.out": layer.self_attn.projection,
                "mlp_norm": layer.layer_norm2,
                "mlp.hidden": layer.mlp.fc1,
                "mlp.out": layer.mlp.fc2,
            },
        )
    return theirs


def qformer() -> tuple[nn.Module, Any]:
    """BLIP-2's Q-Former without text, and the peer with its weights."""
    ours = QFormer(BLIP2_QFORMER).eval()
    return ours, qformer_peer(ours)


def qformer_peer(ours: Any) -> Any:
    """The peer of a Q-Former without text."""
    import transformers

    sizes = ours.config
    config = transformers.Blip2QFormerConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.hidden,
        cross_attention_frequency=sizes.cross_every,
        encoder_hidden_size=sizes.image_width,
        layer_norm_eps=sizes.eps,
    )
    theirs = transformers.Blip2QFormerModel(config).eval()
    theirs.register_buffer("queries", ours.queries.detach())  # it is handed them at every call
    theirs.layernorm.load_state_dict(ours.norm.state_dict())
    for block, layer in zip(ours.blocks, theirs.encoder.layer, strict=True):
        split(block.attention.part.qkv, [getattr(layer.attention.attention, n) for n in ("query", "key", "value")])
        give(
            block,
            {
                "attention.part.out": layer.attention.output.dense,
                "attention.norm": layer.attention.output.LayerNorm,
                "mlp.part.hidden": layer.intermediate_query.dense,
                "mlp.part.out": layer.output_query.dense,
                "mlp.norm": layer.output_query.LayerNorm,
            },
        )
        if block.cross is not None:
            cross = layer.crossattention
            split(block.cross.part.kv, [cross.attention.key, cross.attention.value])
            give(
                block,
                {
                    "cross.part.q": cross.attention.query,
                    "cross.part.out": cross.output.dense,
                    "cross.norm": cross.output.LayerNorm,
                },
            )
    return theirs


def give(block: nn.Module, places: dict[str, Any]) -> None:
    """Copies weights by name."""
    for name, module in places.items():
        module.load_state_dict(block.get_submodule(name).state_dict())


def split(joined: Any, layers: list[Any]) -> None:
    """Copies weights of several layers that are one of ours."""
    for layer, weight, bias in zip(
        layers, joined.weight.chunk(len(layers)), joined.bias.chunk(len(layers)), strict=True
    ):
        layer.load_state_dict({"weight": weight, "bias": bias})


@torch.inference_mode()
def forward(make: Callable[[], tuple[nn.Module, Any]], shape: tuple[int, ...], call: Callable[..., Any]) -> Any:
    """A part as built and packed against its peer, for each batch; `call` runs the peer with inputs."""
    torch.manual_seed(0)
    built, theirs = make()
    packed = copy.deepcopy(built)
    pack(packed)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in theirs.parameters())}
    for batch in BATCHES:
        inputs = torch.randn(batch, *shape)
        runs: dict[str, Callable[[], Any]] = {
            "built": partial(built, inputs),
            "packed": partial(packed, inputs),
            "peer": lambda inputs=inputs: call(theirs, inputs).last_hidden_state,
        }
        right = runs["peer"]()
        apart = {way: float((runs[way]() - right).abs().max()) for way in ("built", "packed")}
        assert max(apart.values()) < 1e-3, f"outputs differ from the peer's by {apart}"
        times = pairs.rounds(runs)
        found[f"batch {batch}"] = {
            way: pairs.ratio(times, way, "peer") | {"largest_difference": apart[way]} for way in apart
        }
    return found


@torch.inference_mode()
def replies(size: str) -> dict[str, Any]:
    """Replies to vectors and ids."""
    reference = peer(size)
    vectors = torch.randn(VECTORS, reference.config.hidden_size) * 0.02
    models = loaded(reference, vectors)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in reference.parameters())}
    for batch in BATCHES:
        texts = prompts(batch)
        runs: dict[str, Callable[[], Any]] = {way: partial(ours, model, texts) for way, model in models.items()}
        runs["peer"] = partial(theirs, reference, vectors, texts)
        found[f"batch {batch}"] = compared(runs, ("peer",))
    return found


def ours(model: Model, texts: list[str]) -> list[list[int]]:
    """The ids of the engine."""
    blank = Image(PIL.Image.new("RGB", (1, 1)))
    asked = [Document([blank, Text(text)]) for text in texts]
    return [reply.runs[0].ids for reply in model.generate(asked, Settings(image=GREEDY))]


def theirs(model: Any, vectors: Tensor, texts: list[str]) -> list[list[int]]:
    """The ids of the peer, which says those behind embeddings alone."""
    words = model.get_input_embeddings()(torch.tensor([list(text.encode()) for text in texts]))
    embedded = torch.cat((vectors.expand(len(texts), -1, -1), words), dim=1)
    mask = torch.ones(embedded.shape[:2], dtype=torch.long)
    made = model.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    found: list[list[int]] = made.tolist()
    return found


def main() -> None:
    """Measures all, writes the figures."""
    figures: dict[str, Any] = {
        "tower": forward(tower, (3, 224, 224), lambda peer, x: peer(pixel_values=x)),
        "qformer": forward(
            qformer,
            (257, BLIP2_QFORMER.image_width),
            lambda peer, x: peer(query_embeds=peer.queries.expand(len(x), -1, -1), encoder_hidden_states=x),
        ),
    }
    figures |= {f"replies, {size}": replies(size) for size in SIZES}
    config = {"vectors": VECTORS, "prompt": PROMPT, "new": NEW, "threads": torch.get_num_threads(), "seed": 0}
    print(results.write("reading", figures, config))


if __name__ == "__main__":
    main()
