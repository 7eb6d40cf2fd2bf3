"""The model that users hold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import plait
from plait.checkpoints.directory import save
from plait.document import Blank, Document, Image, Text, Turn
from plait.errors import ConfigError, DocumentError, ImageError, InputError
from plait.generate.engine import Engine, Settings
from plait.generate.model import Model, build, load
from plait.generate.sampling import Sampling
from plait.nn.packed import PackedLinear
from plait.systems.base import Emitted
from plait.systems.cm3leon import TINY, CM3Leon
from plait.text.bpe import BPE

CONFIG = replace(TINY, image=replace(TINY.image, resolution=16, codes=32), width=24, depth=2, heads=2, positions=96)
TEXTS = ["a large red circle at the top.", "what colour is the circle?", "été: a ring"]


def picture(seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image(PIL.Image.fromarray(values))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    system = CM3Leon(CONFIG, BPE.train(TEXTS, 300))
    with torch.no_grad():
        for parameter in system.parameters():  # a new decoder says the same of everything
            parameter.add_(0.15 * torch.randn_like(parameter))
    return Model(system)


def question(seed=0):
    return Document([Turn("user", [picture(seed), Text("what colour is the circle?")])])


def drawn(reply):
    return [np.asarray(image.open()) for image in reply.document.images]


def test_several_documents_are_answered_as_each_alone(model):
    documents = [question(0), Document([Text("a ring"), Blank("image")]), Document([Text("a large")])]
    settings = Settings(max_new_tokens=6, guidance=2.0, text=Sampling(), seed=5)
    together = model.generate(documents, settings)
    for i, document in enumerate(documents):
        alone = model.generate(document, replace(settings, seed=5 + i))
        assert [run.ids for run in together[i].runs] == [run.ids for run in alone.runs]
        assert together[i].text == alone.text
    assert len(drawn(together[1])) == 1
    assert model.generate([]) == []


def test_overrides(model):
    document = Document([Text("a"), Blank("image")])
    by_name = model.generate(document, image_temperature=0.5, image_top_p=0.9, guidance=3.0, seed=2, max_new_tokens=0)
    settings = Settings(image=Sampling(temperature=0.5, top_p=0.9), guidance=3.0, seed=2, max_new_tokens=0)
    assert [run.ids for run in model.generate(document, settings).runs] == [run.ids for run in by_name.runs]
    both = model.generate(document, replace(settings, seed=9, image=Sampling(top_p=0.9)), seed=2, image_temperature=0.5)
    assert [run.ids for run in both.runs] == [run.ids for run in by_name.runs]
    words = {"top_k": 3, "repetition_penalty": 2.0, "no_repeat_ngram": 2, "min_new_tokens": 4, "temperature": 1.0}
    by_name = model.generate(question(), image_top_k=5, stop=("zz",), max_new_tokens=6, **words)
    settings = Settings(text=Sampling(**words), image=Sampling(top_k=5), stop=("zz",), max_new_tokens=6)
    assert [run.ids for run in model.generate(question(), settings).runs] == [run.ids for run in by_name.runs]
    with pytest.raises(ConfigError, match="no setting 'temprature'; did you mean 'temperature'"):
        model.generate(document, temprature=1)
    with pytest.raises(ConfigError, match="top_p 2"):
        model.generate(document, top_p=2)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("kind", ["answer", "text", "draw"])
def test_the_stream_is_what_generate_gives(model, kind, seed):
    document = {
        "answer": question(),
        "text": Document([picture(), Text("a")]),
        "draw": Document([Text("a"), Blank("image")]),
    }[kind]
    settings = Settings(max_new_tokens=24, max_images=2, text=Sampling(), seed=seed)
    reply = model.generate(document, settings)
    pieces = list(model.stream(document, settings))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == reply.text
    streamed = [np.asarray(piece.open()) for piece in pieces if isinstance(piece, Image)]
    assert len(streamed) == len(drawn(reply))
    assert all(np.array_equal(a, b) for a, b in zip(streamed, drawn(reply), strict=True))
    assert kind != "draw" or isinstance(pieces[0], Image)


def test_the_stream_does_not_wait_for_the_end(model, monkeypatch):
    steps = []
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda self: steps.append(1) or step(self))
    settings = Settings(max_new_tokens=30, text=Sampling(), seed=1)
    next(model.stream(question(), settings))
    first = len(steps)
    list(model.stream(question(), settings))
    assert 1 <= first <= 3 < len(steps) - first


def test_a_character_in_parts_is_held_back(model, monkeypatch):
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode(errors="replace")

    monkeypatch.setattr(model.format, "text", Bytes())

    def text(content, whole):
        run = Emitted("text", [byte + model.format.vocabulary.first_text for byte in content])
        return model._text(run, whole)

    assert text(b"x\xc3", whole=False) == "x"
    assert text(b"x\xc3\xa9", whole=False) == "xé"
    assert text(b"x\xc3", whole=True) == "x\ufffd"


def test_scores_are_sums_of_log_probabilities(model):
    document = question()
    candidates = ["red", "large red", "a ring at the top", ""]
    scores = model.score(document, candidates)
    system = model.system
    for candidate, score in zip(candidates, scores, strict=True):
        ids = [i + system.vocabulary.first_text for i in system.format.text.encode(candidate)] + [
            system.vocabulary.eoss
        ]
        prompt = system.format.layout(document, open=True)
        states = _states(system, document, candidate)
        logprobs = system.unembed(states).log_softmax(-1).detach()
        expected = sum(float(logprobs[len(prompt) - 1 + i, id]) for i, id in enumerate(ids))
        assert score == pytest.approx(expected, abs=1e-4)
    assert model.score(document, []) == []
    many = Model(system, rows=2).score(document, candidates)
    assert many == pytest.approx(scores, abs=1e-4)


def _states(system, document, answer):
    sequence = system.format.layout(Document([*document.turns, Turn("assistant", answer)]))
    with torch.no_grad():
        return system(system.format.collator()([[sequence]])).states[0]


def test_scores_of_plain_documents(model):
    scores = model.score(Document([Text("a large "), picture()]), ["red", "large red circle"])
    assert scores[0] > scores[1]  # a shorter text of an untrained model
    assert len(model.score(Document("a large "), ["red"])) == 1


def test_scores_of_several_documents(model):
    documents = [Document([Text("a large "), picture()]), Document("a ring"), question()]
    said = ["red", "blue one", "no"]
    alone = [model.score(document, [text])[0] for document, text in zip(documents, said, strict=True)]
    assert model.score(documents, said) == pytest.approx(alone, rel=1e-5)
    with pytest.raises(InputError, match="3 documents for 2 candidates"):
        model.score(documents, ["red", "no"])


def test_what_cannot_be_scored(model):
    with pytest.raises(DocumentError, match="end the conversation with what is asked"):
        model.score(Document([*question().turns, Turn("assistant", "red")]), ["red"])
    with pytest.raises(DocumentError):
        model.score(Document([Text("a"), Blank("text")]), ["red"])
    with pytest.raises(ImageError):
        model.score(Document([Image(b"no picture"), Text("a")]), ["red"])
    with pytest.raises(InputError, match="at most 96 fit"):
        model.score(question(), ["red " * 200])


def test_embeddings(model):
    documents = [Document([Text("a ring"), picture()]), Document("a large red circle"), question()]
    together = model.embed(documents)
    assert together.shape == (3, CONFIG.width)
    for row, document in zip(together, documents, strict=True):
        torch.testing.assert_close(model.embed(document), row, atol=1e-5, rtol=1e-5)
    sequence = model.format.layout(documents[1])
    with torch.no_grad():
        states = model.system(model.format.collator()([[sequence]], shift=False)).states[0]
    torch.testing.assert_close(together[1], states.mean(0), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="0 documents"):
        model.embed([])


def test_build():
    torch.manual_seed(1)
    model = build("cm3leon", "tiny")
    torch.manual_seed(1)
    again = plait.build("cm3leon")
    assert torch.equal(model.system.embed.weight, again.system.embed.weight)
    assert not model.system.training
    with pytest.raises(ConfigError, match="did you mean 'cm3leon'"):
        build("cm3lion", "tiny")
    with pytest.raises(ConfigError, match="tiny"):
        build("cm3leon", "enormous")


def test_build_from_outside(tmp_path):
    (tmp_path / "own_builder.py").write_text(
        "from plait.systems import cm3leon\ndef make(size):\n    return cm3leon.build('tiny')\n"
    )
    assert build(f"{tmp_path}/own_builder.py:make", "any").system.name == "cm3leon"


@pytest.fixture
def run(model, tmp_path):
    save(model.system, tmp_path / "run" / "checkpoints" / "step-00000010")
    return tmp_path / "run"


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("packed", [True, False])
def test_load(model, run, packed):
    loaded = load(run, dtype=torch.float32, packed=packed)
    assert any(isinstance(module, PackedLinear) for module in loaded.system.modules()) == packed
    settings = Settings(max_new_tokens=8, text=Sampling(), seed=3)
    assert loaded.generate(question(), settings).text == model.generate(question(), settings).text


@pytest.mark.usefixtures("small_packs")
def test_a_packed_model_is_saved_as_it_was(model, run, tmp_path):
    save(load(run).system, tmp_path / "again")
    again = load(tmp_path / "again", packed=False).system.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.system.state_dict().items())


def test_what_cannot_be_compiled_is_refused(run, monkeypatch):
    with pytest.raises(ConfigError, match="compile is for models on a CPU, this one is on meta"):
        build("cm3leon").system.to("meta").decoder.compile_step()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match="compile needs a C\\+\\+ compiler and found none: install g"):
        load(run, compile=True)


@pytest.mark.slow  # compiles
@pytest.mark.timeout(300)
def test_a_compiled_model_says_the_same(run):
    script = Path(__file__).with_name("compiled.py")
    done = subprocess.run([sys.executable, script, run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    compiled, plain = json.loads(done.stdout)
    assert compiled == plain and sum(map(len, plain)) > 20
