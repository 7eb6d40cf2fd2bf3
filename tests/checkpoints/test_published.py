from __future__ import annotations

import json

import pytest
import torch

from plait.checkpoints import directory, published


@pytest.mark.parametrize("variant", ["vicuna", "llama2", "v2"])
def test_try(published_files, tmp_path, variant):
    f = published_files(variant)
    p = published.find("minigpt4")
    out, notes = published.import_files(p, f.all, tmp_path / "out", f.config)
    print(notes, json.loads((out / "config.json").read_text()))
    loaded = directory.load(out)
    print({t.dtype for t in loaded.state_dict().values()})
    got = loaded.state_dict()
    for n, t in f.system.state_dict().items():
        if n != "vision.positions" or variant != "v2":
            assert torch.allclose(t, got[n].float(), atol=1e-3), n
    print(loaded.read(torch.randn(1, 3, 16, 16)).shape)
    paths = published.export(out, "published", tmp_path / "back")
    out2, _ = published.import_files(p, paths, tmp_path / "out2", f.config)
    a, b = (directory.read_description(x) for x in (out, out2))
    print(a["parts"])
    if variant != "v2":
        assert a["parts"] == b["parts"]
    print(published.export(out, "hf", tmp_path / "hf"))
    import transformers

    m = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf")
    print(m.dtype)
