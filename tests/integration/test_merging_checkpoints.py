"""From checkpoints as Hugging Face and PEFT save them to a merge that Hugging Face loads again."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from fusion_eval.errors import CheckpointError
from fusion_eval.merging import Average, EmrMerging, Knots, TaskArithmetic, Ties
from fusion_eval.merging.memory import Memory
from fusion_eval.models import ModelPool

CONFIG = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2)
TOKENS = torch.arange(12).view(1, 12)


def network():
    return GPT2LMHeadModel(CONFIG)


def lora(base, path, seed):
    """Save an adapter with weights as if it had been trained, and, beside it, the base with the adapter merged in."""
    torch.manual_seed(seed)
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(base), LoraConfig(r=3, target_modules=["c_attn", "c_fc"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), path).merge_and_unload().save_pretrained(
        f"{path}.full"
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network().save_pretrained(directory / "base")
    for seed, name in enumerate(("one", "two")):
        lora(directory / "base", directory / name, seed)
    return directory


def pool(directory, suffix="", **settings):
    experts = {name: str(directory / f"{name}{suffix}") for name in ("one", "two")}
    return ModelPool(network, str(directory / "base"), experts, **settings)


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("method", [Average(), TaskArithmetic(0.7), Ties(), Knots(0.5)])
def test_adapters_merge_like_the_checkpoints_they_stand_for(directory, method):
    from_adapters = pool(directory).merge(method).backbone.state_dict()
    from_checkpoints = pool(directory, ".full").merge(method).backbone.state_dict()
    torch.testing.assert_close(from_adapters, from_checkpoints, atol=1e-5, rtol=1e-5)


def test_knots_stays_in_the_span_of_the_adapters(directory):
    base, experts = pool(directory).open()
    moved = Knots()(base, experts)["transformer.h.0.attn.c_attn.weight"] - base["transformer.h.0.attn.c_attn.weight"]
    assert torch.linalg.matrix_rank(moved.double(), atol=1e-5) <= 6  # two adapters of rank 3


def test_the_saved_merge_is_the_merged_model(directory, tmp_path):
    merged = pool(directory).merge(Ties(), str(tmp_path / "merged"))
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "merged")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    torch.testing.assert_close(logits(loaded), logits(merged.backbone), atol=0, rtol=0)


def test_the_saved_merge_has_the_dtype_that_was_asked_for(directory, tmp_path):
    merged = pool(directory, dtype="bfloat16").merge(Average(), str(tmp_path / "merged"))
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "merged", dtype="auto")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(loaded.float()), logits(merged.backbone), atol=0, rtol=0)


def test_a_backbone_inside_a_checkpoint_is_replaced_there(directory, tmp_path):
    backbone = ModelPool(
        lambda: network().transformer, str(directory / "base"), {"one": str(directory / "one.full")}
    ).merge(Average(), str(tmp_path / "merged"))
    whole = GPT2LMHeadModel.from_pretrained(tmp_path / "merged").transformer
    torch.testing.assert_close(dict(backbone.backbone.state_dict()), dict(whole.state_dict()), atol=0, rtol=0)


def test_a_merge_of_one_model_a_task_is_saved_task_by_task(directory, tmp_path):
    model = pool(directory).merge(EmrMerging(), str(tmp_path / "merged"))
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == ["one", "two"]
    for name in ("one", "two"):
        model.adapt(name)
        loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "merged" / name)
        torch.testing.assert_close(logits(loaded), logits(model.backbone), atol=0, rtol=0)


def test_nothing_is_overwritten(directory):
    before = (directory / "base" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="exists already and is not overwritten"):
        pool(directory).merge(Average(), str(directory / "base"))
    assert Path(directory / "base" / "model.safetensors").read_bytes() == before


def test_the_audit_knows_adapters(directory):
    found = pool(directory).audit(Average())
    assert not found.of("error")
    assert found.experts["one"].changed < found.base.tensors


@pytest.mark.parametrize("suffix", ["", ".full"])
def test_the_jobs_of_a_sweep_share_what_they_can_and_notice_a_changed_file(directory, tmp_path, monkeypatch, suffix):
    copied = tmp_path / "models"
    shutil.copytree(directory, copied)
    alone = {scaling: pool(copied, suffix).merge(Ties(scaling)).backbone.state_dict() for scaling in (0.3, 0.7)}
    memory = Memory(10**8)
    monkeypatch.setattr("fusion_eval.merging.task_vector.process_memory", memory)
    for scaling, expected in alone.items():
        shared = pool(copied, suffix).merge(Ties(scaling)).backbone.state_dict()
        torch.testing.assert_close(shared, expected, atol=0, rtol=0)
    kept = memory.size
    assert kept > 0
    weights = next(copied.glob(f"two{suffix}/*.safetensors"))
    changed = {name: 2 * tensor for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    merged = pool(copied, suffix).merge(Ties(0.3)).backbone.state_dict()
    assert memory.size == 2 * kept
    name = "transformer.h.0.attn.c_attn.weight"
    assert not torch.equal(merged[name], alone[0.3][name])
