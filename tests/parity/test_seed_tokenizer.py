"""SEED's tokenizer against the original program's numbers: parts, codes, both stages of training, unCLIP, files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import GRADIENTS, LOSSES, PIXELS, Golden, Goldens, assert_near
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn

from plait.checkpoints import directory
from plait.checkpoints.minigpt4 import ASSEMBLED
from plait.checkpoints.parts import CLIP
from plait.checkpoints.published import check_manifest, export, import_files
from plait.checkpoints.seed import published
from plait.checkpoints.seed_tokenizer import QUANTIZER_FILE, STAGE1_FILE
from plait.config import to_plain
from plait.document import Image
from plait.nn.clip import CLIPImage, CLIPTextConfig
from plait.nn.diffusion import DiffusionConfig, PromptConfig, UnCLIPConfig
from plait.nn.qformer import QFormerConfig, TextConfig
from plait.nn.vit import VITConfig
from plait.objectives.contrastive import Captions
from plait.objectives.seed_tokenizer import CausalContrast, CodesAndEmbedding
from plait.systems.seed_tokenizer import READER, SeedTokenizer, SeedTokenizerConfig, SeedTokenizerFormat
from plait.text.templates import caption

GOLDENS = Goldens("seed")
FOLDER, CONFIG, CASES = GOLDENS.folder, GOLDENS.config, GOLDENS.cases
DIFFUSION = 1e-4
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "prediction_type": "v_prediction",
}


def weights(part: str) -> dict[str, Tensor]:
    """Those of a part of the golden, by their published names."""
    return {k.removeprefix(f"{part}/"): v for k, v in GOLDENS.weights().items() if k.startswith(f"{part}/")}


def unclip_config() -> UnCLIPConfig:
    """What config.json says, and what it leaves to the specification."""
    sizes, text = CONFIG["unclip"], weights("unclip/text_encoder")
    words, places = (text[f"text_model.embeddings.{name}_embedding.weight"] for name in ("token", "position"))
    width = CONFIG["codebook"]["image_features_dim"]
    levels, symbols = len(sizes["vae_channels"]), json.loads((FOLDER / "clip_vocab.json").read_text())
    return UnCLIPConfig(
        diffusion=DiffusionConfig(
            unet={
                "sample_size": sizes["sample_size"],
                "block_out_channels": tuple(sizes["unet_channels"]),
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "cross_attention_dim": sizes["cross_attention_dim"],
                "attention_head_dim": tuple(sizes["attention_head_dim"]),
                "use_linear_projection": True,
                "class_embed_type": "projection",
                "projection_class_embeddings_input_dim": 2 * width,
            },
            vae={
                "block_out_channels": tuple(sizes["vae_channels"]),
                "down_block_types": ("DownEncoderBlock2D",) * levels,
                "up_block_types": ("UpDecoderBlock2D",) * levels,
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "scaling_factor": 0.18215,
            },
            scheduler=SCHEDULER,
        ),
        embedding=width,
        noising={"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"},
        prompt=PromptConfig(
            text=CLIPTextConfig(
                vocabulary=len(words),
                positions=len(places),
                width=words.shape[1],
                depth=1,
                heads=2,
                hidden=text["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            ),
            begin=symbols["<|startoftext|>"],
            end=symbols["<|endoftext|>"],
            pad=symbols["!"],
        ),
    )


def config(**changed: Any) -> SeedTokenizerConfig:
    vit, qformer, codes = CONFIG["vit"], CONFIG["qformer"], CONFIG["codebook"]
    assert vit["qkv_bias"] and qformer["hidden_act"] == "gelu"
    sizes = SeedTokenizerConfig(
        vision=VITConfig(
            image_size=vit["image_size"],
            patch=vit["patch_size"],
            width=vit["embed_dim"],
            depth=vit["depth"],
            heads=vit["num_heads"],
            hidden=int(vit["embed_dim"] * vit["mlp_ratio"]),
            eps=vit["norm_eps"],
        ),
        qformer=QFormerConfig(
            width=qformer["hidden_size"],
            depth=qformer["num_hidden_layers"],
            heads=qformer["num_attention_heads"],
            hidden=qformer["intermediate_size"],
            queries=qformer["num_query_token"],
            image_width=vit["embed_dim"],
            cross_every=qformer["cross_attention_freq"],
            eps=qformer["layer_norm_eps"],
            causal=True,
        ),
        codes=codes["n_embed"],
        code_width=codes["codebook_embed_dim"],
        embedding=codes["image_features_dim"],
        branch_depth=codes["decode_depth"],
        branch_heads=codes["decode_heads"],
        narrowing=tuple(codes["image_down"]),
        shared=CONFIG["stage1"]["embed_dim"],
        decoder=unclip_config(),
    )
    return replace(sizes, **changed)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_unclip(folder: Path, wanted: UnCLIPConfig) -> Path:
    """The folder as diffusers writes it."""
    assert wanted.prompt is not None
    text = wanted.prompt.text
    write_json(folder / "model_index.json", {})
    for part in ("unet", "vae", "image_normalizer", "text_encoder"):
        (folder / part).mkdir()
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(weights(f"unclip/{part}"), folder / part / f"{name}.safetensors")
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **wanted.diffusion.unet})
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **wanted.diffusion.vae})
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, "clip_sample": False})
    write_json(folder / "image_noising_scheduler" / "scheduler_config.json", wanted.noising)
    names = {
        "vocab_size": text.vocabulary,
        "max_position_embeddings": text.positions,
        "hidden_size": text.width,
        "num_hidden_layers": text.depth,
        "num_attention_heads": text.heads,
        "intermediate_size": text.hidden,
        "hidden_act": "gelu",
    }
    write_json(folder / "text_encoder" / "config.json", names)
    write_json(folder / "tokenizer" / "vocab.json", json.loads((FOLDER / "clip_vocab.json").read_text()))
    tokens = {"bos_token": {"content": "<|startoftext|>"}, "eos_token": "<|endoftext|>", "pad_token": "!"}
    write_json(folder / "tokenizer" / "special_tokens_map.json", tokens)
    return folder


def build(folder: Path, **changed: Any) -> tuple[SeedTokenizer, Path]:
    """The golden's tokenizer, imported."""
    sizes, whole = config(**changed), weights("quantizer")
    if sizes.reverse:
        lost = ("image_down.", "distill_image_proj.")
        whole = {key: value for key, value in whole.items() if not key.startswith(lost)} | weights("rqf")
        beyond = [f"Reverse_Qformer.bert.encoder.layer.{i}." for i in range(sizes.reverse_depth, 100)]
        whole = {key: value for key, value in whole.items() if not key.startswith(tuple(beyond))}
    tower = "visual_encoder."
    torch.save({k: v for k, v in whole.items() if not k.startswith(tower)}, folder / "seed_quantizer.pt")
    torch.save({k.removeprefix(tower): v for k, v in whole.items() if k.startswith(tower)}, folder / "eva_vit_g.pth")
    files = [folder / "seed_quantizer.pt", folder / "eva_vit_g.pth"]
    if sizes.decoder:
        (folder / "unclip").mkdir()
        files.append(write_unclip(folder / "unclip", sizes.decoder))
    heads = {
        "vision": {"heads": sizes.vision.heads, "eps": sizes.vision.eps},
        "qformer": {"heads": sizes.qformer.heads, "eps": sizes.qformer.eps},
        "branch_heads": sizes.branch_heads,
        "shared": sizes.shared,
        **({"decoder": {"prompt": {"text": {"heads": 2}}}} if sizes.decoder else {}),
    }
    write_json(folder / "sizes.json", heads)
    made, notes = import_files(published(), files, folder / "imported", folder / "sizes.json")
    assert any("clip_sample left out" in note for note in notes) == (sizes.decoder is not None)
    system = directory.load(made)
    assert isinstance(system, SeedTokenizer) and to_plain(system.config) == to_plain(sizes)
    return system, folder


@pytest.fixture(scope="module")
def imported() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield build(Path(name))


@pytest.fixture(scope="module")
def system(imported: tuple[SeedTokenizer, Path]) -> SeedTokenizer:
    return imported[0]


def reverse(depth: int) -> SeedTokenizer:
    """With the other head."""
    with tempfile.TemporaryDirectory() as name:
        return build(Path(name), narrowing=(), reverse_depth=depth, decoder=None)[0]


def first_stage() -> SeedTokenizer:
    """With the text branch."""
    qformer = CONFIG["qformer"]
    branch = TextConfig(vocabulary=qformer["vocab_size"] + 1, positions=qformer["max_position_embeddings"])
    plain = config()
    system = SeedTokenizer(replace(plain, qformer=replace(plain.qformer, text=branch), decoder=None)).eval()
    wanted = {name: tuple(tensor.shape) for name, tensor in system.state_dict().items()}
    own = weights("causal") | {k: v for k, v in weights("quantizer").items() if k.startswith("ln_vision.")}
    state = dict(STAGE1_FILE.read(own.items(), {n: s for n, s in wanted.items() if STAGE1_FILE.published(n)}))
    tower = {k: v for k, v in weights("quantizer").items() if k.startswith("visual_encoder.")}
    state |= dict(ASSEMBLED.read(tower.items(), {n: s for n, s in wanted.items() if n.startswith("vision.")}))
    left = system.load_state_dict(state, strict=False)
    none = ("down.", "quantiser.", "up.", "reconstruct.", "generate.", "head.")
    assert not left.unexpected_keys and all(name.startswith(none) for name in left.missing_keys)
    for name, weight in system.named_parameters():
        weight.requires_grad_(not name.startswith("vision."))
    return system


def kept(modules: list[nn.Module], run: Callable[[], Any]) -> tuple[list[Tensor], Any]:
    """What each of the modules gives in a run, and what the run gives."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda module, given, made: seen.append(made)) for module in modules]
    out = run()
    for hook in hooks:
        hook.remove()
    return seen, out


def gradients(system: nn.Module, table: Any) -> dict[str, Tensor]:
    """By their published names, of all that have some."""
    own = [(n, p.grad) for n, p in system.named_parameters() if p.grad is not None and table.published(n)]
    return dict(table.write(own))


# --------------------------------------------------------------------------------------------------- parts


def preprocess(golden: Golden, system: SeedTokenizer) -> None:
    pictures = [Image(FOLDER / name) for name in golden.case["files"]]
    ways = {
        "squash_bilinear": {},
        "keep_ratio_bilinear": {"keep_ratio": True},
        "squash_bicubic": {"bicubic": True},
    }
    assert ways.keys() == golden.wanted.keys()
    for name, way in ways.items():
        prepare = SeedTokenizerFormat(config(**way)).preprocess()[READER]
        made = torch.stack([torch.from_numpy(prepare(picture)) for picture in pictures])
        assert_near(made, golden.wanted[name], PIXELS)


def vit(golden: Golden, system: SeedTokenizer) -> None:
    pixels, blocks = golden.given["image"], list(system.vision.blocks)
    seen, out = kept(blocks, lambda: system.vision(pixels))
    assert_near(system.vision.patch(pixels).flatten(2).mT, golden.wanted["patch_embed"])
    for i, made in enumerate(seen):
        assert_near(made, golden.wanted[f"block{i}"])
    assert_near(out, golden.wanted["output"])
    assert_near(system.see(pixels), golden.wanted["ln_vision"])


def qformer(golden: Golden, system: SeedTokenizer) -> None:
    image, real = golden.given["encoder_hidden_states"], golden.given["encoder_mask_padded"].bool()
    modules = [system.qformer.norm, *system.qformer.blocks]
    seen, out = kept(modules, lambda: system.qformer(image))
    for i, made in enumerate(seen):
        assert_near(made.expand(len(image), -1, -1), golden.wanted[f"hidden{i}"])
    assert_near(out, golden.wanted["last_hidden_state"])
    assert_near(system.qformer(image, real), golden.wanted["last_hidden_state_padded"])


def encode(golden: Golden, system: SeedTokenizer) -> None:
    pixels, wanted = golden.given["image"], golden.wanted
    made = system.tokenise(pixels).quantised
    vectors = made.vectors[..., 0].mT
    assert_near(made.inputs[..., 0].mT, wanted["z"])
    assert_near(vectors, wanted["z_q"])
    assert CodesAndEmbedding().codebook == golden.settings["beta"]
    assert_near((made.commitment + golden.settings["beta"] * made.codebook).mean(), wanted["loss"], LOSSES)
    assert torch.equal(made.ids[..., 0], wanted["ids"]) and torch.equal(system.encode(pixels), wanted["ids"])
    assert_near(system.up(vectors), wanted["query_output_up"])


def decode(golden: Golden, system: SeedTokenizer) -> None:
    ids = golden.given["ids"]
    up = system.up(system.quantiser.lookup(ids))
    assert_near(system.generate(up), golden.wanted["blocks_image"])
    assert_near(system.reconstruct(up), golden.wanted["recon_s"])
    embedded(golden, system)


def embedded(golden: Golden, system: SeedTokenizer) -> None:
    assert_near(system.embed(golden.given["ids"]), golden.wanted["image_embeds"])
    assert_near(system.embed(golden.given["random_ids"]), golden.wanted["image_embeds_random"])


def decode_reverse_qformer(golden: Golden, system: SeedTokenizer) -> None:
    embedded(golden, reverse(CONFIG["qformer"]["num_hidden_layers"]))


def quantizer_grad(golden: Golden, system: SeedTokenizer) -> None:
    with torch.enable_grad():
        z = golden.given["z"].clone().requires_grad_()
        made = system.quantiser(z.mT[..., None])
        vectors, loss = made.vectors[..., 0].mT, (made.commitment + 0.25 * made.codebook).mean()
        (0.1 * (vectors * golden.given["w"]).sum() + 5 * loss).backward()
    table = system.quantiser.codebook.weight
    assert_near(vectors, golden.wanted["z_q"])
    assert_near(loss, golden.wanted["loss"], LOSSES)
    assert torch.equal(made.ids.flatten(), golden.wanted["ids"])
    assert_near(z.grad, golden.wanted["grad_z"], GRADIENTS)
    assert_near(table.grad, golden.wanted["grad_codebook"], GRADIENTS)
    table.grad = None


# ------------------------------------------------------------------------------------------------ training


def stage1_contrastive(golden: Golden, system: SeedTokenizer) -> None:
    tuned, objective = first_stage(), CausalContrast()
    assert objective.smoothing == golden.settings["label_smoothing"]
    ids, real = golden.given["input_ids"], golden.given["attention_mask"].bool()
    assert ids.tolist() == texts_ids(golden.case["captions"], golden.settings["max_txt_len"]).ids.tolist()
    texts = Captions(ids=ids, real=real, told=torch.ones(len(ids)).bool())
    assert_near(tuned.qformer(tuned.see(golden.given["image"])), golden.wanted["image_causal_embeds"])
    assert_near(tuned.qformer.read_text(ids, real)[:, 0], golden.wanted["text_cls"])
    with torch.enable_grad():
        loss = objective.loss(tuned, golden.given["image"], texts) / len(ids)
        loss.backward()
    assert_near(loss, golden.wanted["loss"], LOSSES)
    found = gradients(tuned, STAGE1_FILE)
    assert sorted(found) == sorted(golden.case["with_grad"])
    asked = {name: value for name, value in golden.wanted.items() if name.startswith("grad.")}
    assert asked
    for name, value in asked.items():
        assert_near(found[name.removeprefix("grad.")], value, GRADIENTS)


def texts_ids(texts: list[str], most: int) -> Captions:
    """As BERT's tokenizer pads and cuts them."""
    pieces = BertWordPieceTokenizer(str(FOLDER / "bert_vocab.txt"), lowercase=True)
    pieces.enable_truncation(most)
    pieces.enable_padding(length=most)
    made = pieces.encode_batch(texts)
    ids, real = torch.tensor([one.ids for one in made]), torch.tensor([one.attention_mask for one in made])
    return Captions(ids=ids, real=real.bool(), told=torch.ones(len(texts)).bool())


def qformer_multimodal(golden: Golden, system: SeedTokenizer) -> None:
    tuned = first_stage()
    ids, real = golden.given["input_ids"], golden.given["attention_mask"].bool()
    both = tuned.qformer.read_both(tuned.see(golden.given["image"]), ids, real)
    there = nn.functional.pad(real, (tuned.config.codes_per_image, 0), value=True)
    assert_near(both[there], golden.wanted["last_hidden_state"][there])


def retrieval(golden: Golden, system: SeedTokenizer) -> None:
    tuned = first_stage()
    texts = texts_ids(golden.case["texts"], golden.settings["text_max_length"])
    likeness = tuned.image_features(golden.given["image"]) @ tuned.text_features(texts.ids, texts.real).T
    for rows, name in ((likeness, "score_i2t"), (likeness.T, "score_t2i")):
        near = rows.topk(golden.settings["k_test"], dim=1).indices
        chosen = torch.zeros_like(rows).bool().scatter(1, near, True)
        wanted = golden.wanted[name]
        assert torch.equal(chosen, wanted != -100)
        assert_near(rows[chosen], wanted[chosen])


def caption_processor(golden: Golden, system: SeedTokenizer) -> None:
    assert golden.case["strings"]
    for text in golden.case["strings"]:
        assert caption(text["in"]) == text["out"]


def teacher() -> CLIPImage:
    sizes, own = CONFIG["clip_teacher"], weights("clip_teacher")
    patch = own["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    clip = VITConfig(
        image_size=CONFIG["vit"]["image_size"],
        patch=patch,
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        eps=1e-5,
    )
    model = CLIPImage(clip, CONFIG["codebook"]["image_features_dim"], {"gelu": "gelu"}[sizes["hidden_act"]])
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(CLIP.read(own.items(), shapes)))
    return model.eval()


class Pixels:
    """A batch of pictures alone."""

    def __init__(self, images: Tensor) -> None:
        self.images = images


def stage2(golden: Golden, tuned: SeedTokenizer) -> None:
    pixels, judge, objective = golden.given["image"], teacher(), CodesAndEmbedding()
    assert_near(judge(pixels), golden.wanted["clip_target"])
    made = tuned.tokenise(pixels)
    assert torch.equal(made.quantised.ids[..., 0], golden.wanted["ids"])
    assert_near(made.again, golden.wanted["recon_s"])
    assert_near(made.embedding, golden.wanted["image_embeds"])
    for name, weight in tuned.named_parameters():
        weight.requires_grad_(not name.startswith(("vision", "qformer", "decoder")))
    batch: Any = Pixels(pixels)
    with torch.enable_grad():
        sums = objective(tuned, {"teacher": judge}, batch, torch.Generator())
        counts = objective.counts(batch)
        factors = objective.weights(counts)
        terms = {name: factors[name] * sums[name] / counts[name] for name in sums}
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
    assert_near(loss, golden.wanted["loss"], LOSSES)
    assert_near(terms["commitment"] + terms["codebook"], golden.wanted["loss_embed_x5"], LOSSES)
    assert_near(terms["again"], golden.wanted["loss_recon_s_x2"], LOSSES)
    assert_near(terms["embedding"], golden.wanted["loss_distil_image_x0.5"], LOSSES)
    found = gradients(tuned, QUANTIZER_FILE)
    asked = {name.removeprefix("grad."): value for name, value in golden.wanted.items() if name.startswith("grad.")}
    assert asked
    for name, value in asked.items():
        key, cut, _ = name.partition("[:")
        rows = found[key][: len(value)] if cut else found[key]
        assert_near(rows, value, GRADIENTS)
    tuned.zero_grad()


def stage2_mlp(golden: Golden, system: SeedTokenizer) -> None:
    stage2(golden, system)


def stage2_rqf(golden: Golden, system: SeedTokenizer) -> None:
    layers = [key.split(".")[4] for key in weights("rqf") if key.endswith("attention.self.query.weight")]
    stage2(golden, reverse(1 + max(map(int, layers))))


# -------------------------------------------------------------------------------------------------- unCLIP


def unclip(golden: Golden, system: SeedTokenizer) -> None:
    given, wanted, drawer = golden.given, golden.wanted, system.decoder
    assert drawer is not None
    settings = {"steps": golden.settings["steps"], "guidance": float(golden.settings["guidance_scale"])}
    drawer.diffusion.config = replace(drawer.diffusion.config, **settings)
    labels = drawer.labels(given["image_embeds"], given["noise_positive"])
    assert_near(labels, wanted["class_labels_positive"])
    against = torch.zeros_like(labels)
    if "negative_image_embeds" in given:
        against = drawer.labels(given["negative_image_embeds"], given["noise_negative"])
        assert_near(against, wanted["class_labels_negative"])
    prompt = drawer.prompt()
    assert_near(prompt.expand(2, -1, -1), wanted["prompt_embeds_neg_pos"])
    made = drawer.diffusion.denoise(given["latents"], prompt, labels, against)
    assert_near(made, wanted["latents_out"], DIFFUSION)
    pixels = (drawer.diffusion.pixels(made) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert_near(pixels, wanted["image"], DIFFUSION)


def unclip_unet(golden: Golden, system: SeedTokenizer) -> None:
    given, drawer = golden.given, system.decoder
    assert drawer is not None
    made = drawer.diffusion.unet(
        given["latents"],
        given["timestep"],
        encoder_hidden_states=given["encoder_hidden_states"],
        class_labels=given["class_labels"],
    )
    assert_near(made.sample, golden.wanted["out"], DIFFUSION)


REPLAYS: Mapping[str, Callable[[Golden, SeedTokenizer], None]] = {
    "preprocess": preprocess,
    "vit": vit,
    "qformer": qformer,
    "encode": encode,
    "decode": decode,
    "quantizer_grad": quantizer_grad,
    "decode_reverse_qformer": decode_reverse_qformer,
    "stage1_contrastive": stage1_contrastive,
    "qformer_multimodal": qformer_multimodal,
    "retrieval": retrieval,
    "caption_processor": caption_processor,
    "stage2_mlp": stage2_mlp,
    "stage2_rqf": stage2_rqf,
    "unclip_zero_negative": unclip,
    "unclip_negative_ids": unclip,
    "unclip_unet": unclip_unet,
}


@pytest.mark.parametrize("name", REPLAYS)
def test_case(name: str, system: SeedTokenizer) -> None:
    with torch.no_grad():
        REPLAYS[name](GOLDENS[name], system)


# --------------------------------------------------------------------------------------------------- files


def test_the_published_files_are_known() -> None:
    report = {one["file"]: one for one in check_manifest(published(), FOLDER.parent / "published.json")}
    assert all(not one["missing"] and not one["unexpected"] for one in report.values())
    quantizer = next(one for name, one in report.items() if name.endswith("seed_quantizer.pt"))
    assert (quantizer["mapped"], quantizer["ignored"]) == (
        369,
        147,
    )  # of 370 keys, one numbers positions; 146 are extra


def test_an_export_is_what_was_imported(imported: tuple[SeedTokenizer, Path], tmp_path: Path) -> None:
    system, folder = imported
    made = export(folder / "imported", "published", tmp_path / "out")
    assert {path.name for path in made} >= {"seed_quantizer.pt", "eva_vit_g.pth", "unet", "vae", "text_encoder"}
    for name in ("seed_quantizer.pt", "eva_vit_g.pth"):
        before, after = (torch.load(where / name, weights_only=True) for where in (folder, tmp_path / "out"))
        assert before.keys() - after.keys() <= {"Qformer.bert.embeddings.position_ids"}
        assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
    (tmp_path / "out" / "unclip" / "tokenizer").symlink_to(folder / "unclip" / "tokenizer")
    files = [tmp_path / "out" / name for name in ("seed_quantizer.pt", "eva_vit_g.pth", "unclip")]
    again, _ = import_files(published(), files, tmp_path / "again", folder / "sizes.json")
    back = directory.load(again)
    assert back.config == system.config
    state = back.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in system.state_dict().items())
