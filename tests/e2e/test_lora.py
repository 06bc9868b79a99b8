"""LoRA adapters as experts of a causal language model, from the command line, against PEFT's own merged weights."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(40)]
TEXTS = [" ".join(WORDS[(start * step) % 40] for step in range(1, 20)) for start in range(1, 7)]
ADAPTERS = {
    "first": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "second": LoraConfig(r=2, lora_alpha=2, target_modules=["down_proj", "up_proj"], use_rslora=True),
}
SCALING = 0.7


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """`base`, and two adapters of it, as `save_pretrained` writes them."""
    path = tmp_path_factory.mktemp("checkpoints")
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(["<s>", "<unk>", *WORDS])}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>").save_pretrained(path / "base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=42, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16, bos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path / "base")
    for name, adapter in ADAPTERS.items():
        tuned = get_peft_model(LlamaForCausalLM.from_pretrained(path / "base"), adapter)
        for key, factor in tuned.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(factor, std=0.3)
        tuned.save_pretrained(path / name)
    return path


@torch.no_grad()
def merged_by_peft(checkpoints):
    """base + scaling * sum of (adapted - base), each adapted model made by PEFT."""
    base = LlamaForCausalLM.from_pretrained(checkpoints / "base")
    sums = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for name in ADAPTERS:
        host = LlamaForCausalLM.from_pretrained(checkpoints / "base")
        adapted = PeftModel.from_pretrained(host, checkpoints / name).merge_and_unload().state_dict()
        for key, tensor in base.state_dict().items():
            sums[key] += SCALING * (adapted[key] - tensor)
    base.load_state_dict(sums)
    return base.eval()


@torch.no_grad()
def bits_per_byte(model, tokenizer):
    """Windows of 16 tokens after one before them, as a plain loop; a text begins with BOS."""
    nats = 0.0
    for text in TEXTS:
        tokens = torch.tensor([0, *tokenizer(text)["input_ids"]])
        for start in range(0, len(tokens) - 1, 16):
            end = min(start + 16, len(tokens) - 1)
            read = tokens[max(0, end - 16) : end]
            scores = model(read[None]).logits[0].log_softmax(dim=-1)
            scored = tokens[start + 1 : end + 1]
            nats -= float(scores[-len(scored) :].gather(1, scored[:, None]).sum())
    return nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)


def test_adapters_are_experts(checkpoints, tmp_path, fusion_eval):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "test.txt").write_text("\n".join(TEXTS) + "\n")
    experts = [f"~modelpool.experts.{name}" for name in ("instruction", "math", "coding", "multilingual", "safety")]
    experts += [f"+modelpool.experts.{name}={checkpoints / name}" for name in ADAPTERS]
    task = "taskpool.tasks.wikitext2"
    fusion_eval(
        "modelpool=causal_lm", f"modelpool.base={checkpoints / 'base'}", *experts, "taskpool=causal_lm_perplexity",
        f"{task}.data.path={tmp_path / 'texts'}", f"{task}.data.name=null", f"{task}.data.separator=null",
        f"{task}.data.expected_size=null", f"{task}.head=first", "model=task_arithmetic", f"model.scaling={SCALING}",
        "hydra.run.dir=run", "save_merged=merged", "bootstrap=0",
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoints / "base")
    expected = merged_by_peft(checkpoints)
    measured = report["report"]["wikitext2"]["bits_per_byte"]
    assert measured == pytest.approx(bits_per_byte(expected, tokenizer), abs=1e-5)

    host = LlamaForCausalLM.from_pretrained(checkpoints / "base")
    first = PeftModel.from_pretrained(host, checkpoints / "first").merge_and_unload().eval()
    of_expert = report["references"]["experts"]["wikitext2"]["bits_per_byte"]
    assert of_expert == pytest.approx(bits_per_byte(first, tokenizer), abs=1e-5)
    assert abs(of_expert - measured) > 1e-2

    saved = LlamaForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, atol=1e-5, rtol=1e-5)
