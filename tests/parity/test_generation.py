"""Sampling, greedy replies and beam search from embeddings, against the numbers of transformers' generate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Goldens, assert_near
from torch import Tensor, nn

from plait.checkpoints.parts import LLAMA
from plait.document import Document, Image
from plait.generate.beams import Beams, BeamSearch, Hypothesis, beam_search, drawn_from
from plait.generate.engine import Engine, Reply, Settings
from plait.generate.sampling import Rules, Sampling, distribution, history
from plait.nn.attention import KVCache
from plait.nn.llama import LLaMA, LLaMAConfig
from plait.sequence import Batch, Prepare, Sequence, tokens
from plait.systems.base import Emitted, Format, Hidden, Next, Stop, System, sight

GOLDENS = Goldens("generation")
CONFIG, CASES = GOLDENS.config["llama"], GOLDENS.cases

Trie = Callable[[int, list[int]], list[int]]


def names(kind: str, searched: bool = False) -> list[str]:
    """The cases of a kind; of generated ones, those with beams or those without."""
    found = [case for case in CASES.values() if case["kind"] == kind]
    return [case["name"] for case in found if kind != "generate" or (case["settings"]["num_beams"] > 1) == searched]


# --------------------------------------------------------------------------------------------------- the model


class Llama(System):
    """The golden LLaMA. The vectors of prompts stand behind its table, as ids of their own."""

    def __init__(self, prompts: Items[Tensor], grammar: Callable[[Items[Emitted]], Next | Stop]) -> None:
        super().__init__()
        assert CONFIG["hidden_act"] == "silu"
        self.language = LLaMA(
            LLaMAConfig(
                vocabulary=CONFIG["vocab_size"],
                width=CONFIG["hidden_size"],
                hidden=CONFIG["intermediate_size"],
                depth=CONFIG["num_hidden_layers"],
                heads=CONFIG["num_attention_heads"],
                positions=CONFIG["max_position_embeddings"],
                eps=CONFIG["rms_norm_eps"],
            )
        )
        wanted = {name: tuple(tensor.shape) for name, tensor in self.language.state_dict().items()}
        self.language.load_state_dict(dict(LLAMA.read(GOLDENS.weights().items(), wanted)))
        table = self.language.embed.weight.detach()
        self.embed = nn.Embedding.from_pretrained(torch.cat([table, *prompts]))
        starts = np.cumsum([len(table), *map(len, prompts)])
        self.format = Vectors([range(a, b) for a, b in pairwise(starts.tolist())], grammar)
        self.eval()

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Hidden:
        return Hidden(states=self.language(self.embed(batch.ids), batch.position, sight(batch, cache)), own={})

    @property
    def heads(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        return {"token": self.language.head}

    def write(self, runs: Items[Emitted]) -> list[Image]:
        raise NotImplementedError

    @property
    def chance(self) -> Mapping[str, float]:
        return {}

    @classmethod
    def from_files(cls, config: Mapping[str, Any], directory: Path) -> Llama:
        raise NotImplementedError


class Vectors(Format):
    """A document is the number of a prompt."""

    def __init__(self, prompts: Items[range], grammar: Callable[[Items[Emitted]], Next | Stop]) -> None:
        self.begun = prompts
        self.next = grammar

    def layout(self, document: Document, *, open: bool = False, generator: Any = None) -> Sequence:
        return Sequence((tokens(self.begun[int(document.text)]),))

    def grammar(self, document: Document, max_images: int) -> Callable[[Items[Emitted]], Next | Stop]:
        return self.next

    def read_text(self, run: Emitted) -> str:
        return ""

    def preprocess(self, train: bool = False, fast: bool = False) -> Mapping[str, Prepare]:
        return {}

    @property
    def max_length(self) -> int:
        return CONFIG["max_position_embeddings"]


def real_rows(case: Mapping[str, Any]) -> list[Tensor]:
    """The vectors of each prompt, without the padding on the left."""
    embeds, mask = (GOLDENS.tensors[name] for name in case["inputs"][:2])
    return [row[real.bool()] for row, real in zip(embeds, mask, strict=True)]


def trie(settings: Mapping[str, Any]) -> Trie | None:
    """What may follow, by the sequences of a case; the ids begin with the dummy start."""
    if settings["trie"] is None:
        return None
    whole = [[*sequence, settings["eos_token_id"]] for sequence in settings["trie"]]

    def allowed(row: int, ids: list[int]) -> list[int]:
        said = ids[1:]
        following = sorted({one[len(said)] for one in whole if one[: len(said)] == said and len(one) > len(said)})
        return following or [settings["eos_token_id"]]

    return allowed


def sampling(settings: Mapping[str, Any], dummy: int) -> Sampling:
    """The settings of a case; its least length counts the dummy start."""
    return Sampling(
        temperature=settings["temperature"] if settings["do_sample"] else 0.0,
        top_k=settings["top_k"],
        top_p=settings["top_p"],
        repetition_penalty=settings["repetition_penalty"],
        no_repeat_ngram=settings["no_repeat_ngram_size"],
        min_new_tokens=max(settings["min_new_tokens"], settings["min_length"] - dummy),
    )


# ----------------------------------------------------------------------------------------------- distributions


def rules(settings: Mapping[str, Any], said: Tensor, vocabulary: int) -> Rules | None:
    n = len(said)
    until = max(settings["min_length"], settings["prompt_length"] + settings["min_new_tokens"])
    ends = [[settings["eos_token_id"]]] * n
    return Rules.of([sampling(settings, 1)] * n, [until] * n, ends, vocabulary, torch.device("cpu"))


@pytest.mark.parametrize("name", names("distribution"))
def test_distribution(name: str) -> None:
    case = CASES[name]
    settings = case["settings"]
    given = [GOLDENS.tensors[full] for full in case["inputs"]]
    logits, golden = given[0], GOLDENS.tensors[case["outputs"][0]]
    said = given[1] if len(given) > 1 else history([[settings["bos_token_id"]]], logits.device)
    if len(given) > 2:
        logits, said = logits[: settings["num_beams"]].log_softmax(-1), said[: settings["num_beams"]]
    allowed = torch.ones_like(logits, dtype=torch.bool)
    if (held := rules(settings, said, logits.shape[-1])) is not None:
        logits, allowed = held(logits, allowed, said)
    if len(given) > 2:
        joint = drawn_from((logits + given[2][:, None]).masked_fill(~allowed, -torch.inf)[None], sampling(settings, 1))
        assert_near(joint.flatten().softmax(-1).view_as(golden), golden)
        return
    drawn_with = sampling(settings, 1)
    n = len(logits)
    top_k = torch.full((n,), drawn_with.top_k) if drawn_with.top_k else None
    logits = logits.masked_fill(~allowed, -torch.inf)
    drawn = distribution(logits, torch.full((n,), drawn_with.temperature), torch.full((n,), drawn_with.top_p), top_k)
    assert torch.equal(drawn > 0, golden > 0)
    assert_near(drawn / drawn.sum(-1, keepdim=True), golden)


# ------------------------------------------------------------------------------------------------ one beam each


def greedy(case: Mapping[str, Any]) -> tuple[list[Reply], int]:
    """The replies to the rows of a case by the engine, and how many steps it took."""
    settings = case["settings"]
    end, bos = settings["eos_token_id"], settings["bos_token_id"]
    everything = torch.ones(CONFIG["vocab_size"], dtype=torch.bool)
    follows = trie(settings)

    def grammar(emitted: Items[Emitted]) -> Next | Stop:
        said = [id for run in emitted for id in run.ids]
        if end in said:
            return Stop("end")
        if follows is None:
            return Next(kind="text", head="token", allowed=everything, ends=frozenset([end]))
        allowed = torch.zeros_like(everything)
        allowed[follows(0, [bos, *said])] = True
        return Next(kind="text", head="token", allowed=allowed, length=1)

    prompts = real_rows(case)
    engine = Engine(Llama(prompts, grammar))
    for i in range(len(prompts)):
        one = Settings(
            max_new_tokens=settings["max_new_tokens"],
            text=sampling(settings, 1),
            said=(bos,),
            # The published criterion reads the first row alone, and ends all of them.
            stop=tuple(map(tuple, settings["stop_sequences"])) if i == 0 else (),
        )
        engine.submit(Document(str(i)), one)
    done: dict[int, Reply] = {}
    steps = 0
    while engine.busy and not (0 in done and done[0].stop == "stop_sequence"):
        done.update(engine.step())
        steps += 1
    for i in range(len(prompts)):
        if i not in done:
            done[i] = Reply(document=Document(), runs=tuple(engine.runs(i)), stop="stop_sequence")
    return [done[i] for i in range(len(prompts))], steps


@pytest.mark.parametrize("name", names("generate"))
def test_one_beam(name: str) -> None:
    case = CASES[name]
    settings = case["settings"]
    replies, steps = greedy(case)
    said = [[settings["bos_token_id"], *(id for run in reply.runs for id in run.ids)] for reply in replies]
    width = max(map(len, said))
    assert [ids + [settings["pad_token_id"]] * (width - len(ids)) for ids in said] == case["output_ids"]
    assert steps == case["steps"]
    stopped = any(said[0][1:][-len(one) :] == one for one in settings["stop_sequences"])
    assert (replies[0].stop == "stop_sequence") == stopped


# -------------------------------------------------------------------------------------------------- several beams


def searched(case: Mapping[str, Any]) -> tuple[list[list[Hypothesis]], int]:
    """The best replies to each row of a case, and how often the decoder was called."""
    settings = case["settings"]
    prompts = real_rows(case)
    llama = Llama(prompts, lambda emitted: Stop("unused"))
    n = settings["num_beams"]
    cache = KVCache(len(prompts) * n)
    calls = 0

    def step(x: Tensor, counts: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        states = llama.language(x, cache.advance(counts), cache.attend)
        return llama.language.head(states[torch.arange(len(x)), counts - 1]).log_softmax(-1)

    def stop(said: Tensor) -> bool:
        first = said[0].tolist()
        return any(first[-len(one) :] == one for one in settings["stop_sequences"])

    search = BeamSearch(
        Beams(
            beams=n,
            max_new_tokens=settings["max_new_tokens"],
            length_penalty=settings["length_penalty"],
            early_stopping=settings["early_stopping"],
            returned=settings["num_return_sequences"],
            sampling=sampling(settings, 1),
        ),
        [settings["eos_token_id"]],
        said=[settings["bos_token_id"]],
        allowed=trie(settings),
        stop=stop if settings["stop_sequences"] else None,
    )
    first = step(nn.utils.rnn.pad_sequence(prompts, batch_first=True), torch.tensor([len(row) for row in prompts]))
    found = beam_search(
        search,
        first,
        lambda ids: step(llama.embed(ids)[:, None], torch.ones(len(ids), dtype=torch.long)),
        cache.reorder,
    )
    return found, calls


@pytest.mark.parametrize("name", names("generate", searched=True))
@torch.no_grad()
def test_several_beams(name: str) -> None:
    case = CASES[name]
    settings = case["settings"]
    found, calls = searched(case)
    replies = [reply for row in found for reply in row]
    assert calls == case["steps"]
    said = [[settings["bos_token_id"], *(reply.ids[:-1] if reply.ended else reply.ids)] for reply in replies]
    width = min(max(map(len, said)) + 1, 1 + settings["max_new_tokens"])
    end, pad = settings["eos_token_id"], settings["pad_token_id"]
    padded = [[*ids, *([end] if len(ids) < width else []), *([pad] * (width - len(ids) - 1))] for ids in said]
    assert padded == case["output_ids"]
    assert_near(torch.tensor([reply.score for reply in replies]), GOLDENS.tensors[case["outputs"][1]])
