"""Saved merges: what Hugging Face loads, what is copied, and what remains when a merge fails."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from fusion_eval.errors import CheckpointError
from fusion_eval.models import load_state_dict
from fusion_eval.models.saving import saving


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, n_positions=8, n_embd=4, n_layer=2, n_head=1))


def vit():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, image_size=8)
    return ViTForImageClassification(config)


def doubled(tensors, dtype=None):
    return {name: (2 * tensor).to(dtype or tensor.dtype) for name, tensor in tensors.items()}


def save(path, base, merged=None, prefix="", **options):
    """Save a merge that is twice the base, given in reverse, of the architecture below a prefix."""
    stored = load_state_dict(base)
    names = {name.removeprefix(prefix): name for name in stored if name.startswith(prefix)}
    if merged is None:
        merged = doubled({name: stored[there] for name, there in names.items()}, options.get("dtype"))
    with saving(path, str(base), stored, names, **options) as writer:
        for name, tensor in reversed(merged.items()):
            writer.write(name, tensor)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in other)


@pytest.fixture
def base(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_one_file(base, tmp_path):
    save(tmp_path / "new" / "merge.safetensors", base, max_shard_bytes=100)
    assert_equal(load_file(tmp_path / "new" / "merge.safetensors"), doubled(load_state_dict(base)))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["merge.safetensors"]


def test_tied_weights_are_stored_as_in_the_base(base, tmp_path):
    merged = doubled(GPT2LMHeadModel.from_pretrained(base).state_dict())
    assert "lm_head.weight" in merged
    assert "lm_head.weight" not in load_state_dict(base)
    save(tmp_path / "merge", base, merged)
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "merge")
    assert_equal(model.state_dict(), merged)
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("max_shard_bytes", [1, 500, 1000])
def test_shards(base, tmp_path, max_shard_bytes):
    save(tmp_path / "merge", base, max_shard_bytes=max_shard_bytes)
    files = sorted((tmp_path / "merge").glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        tensors = load_file(file).values()
        assert sum(tensor.nbytes for tensor in tensors) <= max_shard_bytes or len(tensors) == 1
    index = json.loads((tmp_path / "merge" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in load_state_dict(base).values())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    expected = doubled(GPT2LMHeadModel.from_pretrained(base).state_dict())
    assert_equal(GPT2LMHeadModel.from_pretrained(tmp_path / "merge").state_dict(), expected)
    assert_equal(load_state_dict(tmp_path / "merge"), doubled(load_state_dict(base)))


def test_image_model_with_its_processor_from_a_pickled_sharded_base(tmp_path):
    model, base = vit(), tmp_path / "base"
    model.config.save_pretrained(base)
    torch.save(model.state_dict(), base / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": dict.fromkeys(model.state_dict(), "pytorch_model-00001-of-00001.bin")}
    (base / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(base)
    save(tmp_path / "merge", base)
    assert_equal(
        ViTForImageClassification.from_pretrained(tmp_path / "merge").state_dict(), doubled(model.state_dict())
    )
    assert ViTImageProcessor.from_pretrained(tmp_path / "merge").size["height"] == 8
    assert {file.name for file in (tmp_path / "merge").iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }


def test_tokenizer_and_nothing_of_training(base, tmp_path):
    from tokenizers import Tokenizer, models

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))).save_pretrained(base)
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", ".gitattributes", "tf_model.h5"):
        (base / name).write_bytes(b"x")
    (base / "checkpoint-1").mkdir()
    (base / "checkpoint-1" / "config.json").write_text("{}")
    save(tmp_path / "merge", base)
    kept = {file.name for file in base.iterdir()} - {"checkpoint-1", ".gitattributes"}
    kept -= {"optimizer.pt", "training_args.bin", "rng_state.pth", "tf_model.h5"}
    assert {file.name for file in (tmp_path / "merge").iterdir()} == kept
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "merge").convert_tokens_to_ids("a") == 0


def test_other_towers_are_copied(tmp_path):
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 12},
        vision_config=small | {"image_size": 8, "patch_size": 4},
        projection_dim=4,
    )
    model = CLIPModel(config)
    model.save_pretrained(tmp_path / "base")
    save(tmp_path / "merge", tmp_path / "base", prefix="vision_model.")
    expected = {
        name: 2 * tensor if name.startswith("vision_model.") else tensor for name, tensor in model.state_dict().items()
    }
    assert_equal(CLIPModel.from_pretrained(tmp_path / "merge").state_dict(), expected)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype", None])
def test_another_dtype(base, tmp_path, key):
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    nested = {"inner": {"dtype": "float32", "dtype_of_cache": "float32"}}
    (base / "config.json").write_text(json.dumps(config | nested | ({key: "float32"} if key else {})))
    save(tmp_path / "merge", base, dtype=torch.bfloat16)
    written = json.loads((tmp_path / "merge" / "config.json").read_text())
    assert written[key or "torch_dtype"] == "bfloat16"
    assert written["inner"] == {"dtype": "bfloat16", "dtype_of_cache": "float32"}
    assert_equal(load_state_dict(tmp_path / "merge"), doubled(load_state_dict(base), torch.bfloat16))
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "merge").dtype == torch.bfloat16


def test_integers_and_other_towers_keep_their_dtype(tmp_path):
    save_file(
        {"a.weight": torch.ones(2), "a.steps": torch.tensor(3), "b.weight": torch.ones(1)}, tmp_path / "x.safetensors"
    )
    merged = {"weight": torch.ones(2).half(), "steps": torch.tensor(3)}
    save(tmp_path / "merge", tmp_path / "x.safetensors", merged, prefix="a.", dtype=torch.float16)
    expected = {"a.weight": torch.ones(2).half(), "a.steps": torch.tensor(3), "b.weight": torch.ones(1)}
    assert_equal(load_state_dict(tmp_path / "merge"), expected)


# Failures


def test_what_exists_is_not_overwritten(base, tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"precious")
    for path in (file, base):
        with pytest.raises(CheckpointError, match=f"{path.name}: exists already"):
            save(path, base)
    assert file.read_bytes() == b"precious"


def test_an_empty_directory_is_taken(base, tmp_path):
    (tmp_path / "merge").mkdir()
    save(tmp_path / "merge", base)
    assert_equal(load_state_dict(tmp_path / "merge"), doubled(load_state_dict(base)))


@pytest.mark.parametrize("name", ["merge", "merge.safetensors"])
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_a_merge_that_fails_leaves_nothing_and_its_own_error(base, tmp_path, name, failure):
    def merge():
        with saving(tmp_path / name, str(base), stored, {there: there for there in stored}) as writer:
            writer.write("transformer.wpe.weight", stored["transformer.wpe.weight"])
            raise failure("mine")

    stored = load_state_dict(base)
    with pytest.raises(failure, match="mine"):
        merge()
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("name", ["merge", "merge.safetensors"])
def test_a_tensor_that_never_came(base, tmp_path, name):
    merged = doubled(load_state_dict(base))
    del merged["transformer.wpe.weight"]
    with pytest.raises(CheckpointError, match=rf"{name}: 1 tensors were not given: transformer\.wpe\.weight"):
        save(tmp_path / name, base, merged)
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("name", ["merge", "merge.safetensors"])
def test_a_place_that_cannot_be_written(base, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=f"cannot write .*file/{name}: Not a directory"):
        save(tmp_path / "file" / name, base)


def test_a_damaged_configuration_is_found_before_the_merge(base, tmp_path):
    (base / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: damaged: no JSON"):
        save(tmp_path / "merge", base, merged={}, dtype=torch.float16)
    assert not (tmp_path / "merge").exists()


HALF_A_MERGE = """
import sys, time, torch
from fusion_eval.models.saving import saving
stored, names = {"a": torch.ones(1000), "b": torch.ones(1000)}, {"a": "a", "b": "b"}
with saving(sys.argv[1], "nowhere", stored, names) as one, saving(sys.argv[2], "nowhere", stored, names) as other:
    one.write("a", stored["a"])
    other.write("a", stored["a"])
    print("half-way", flush=True)
    time.sleep(60)
"""


def test_killed_half_way(tmp_path):
    targets = [str(tmp_path / name) for name in ("merge", "merge.safetensors")]
    with subprocess.Popen([sys.executable, "-c", HALF_A_MERGE, *targets], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half-way\n"
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(file.name.startswith(".") for file in tmp_path.iterdir())


@pytest.fixture
def small_disk():
    """A disk on which no file grows beyond 50 kB."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("name", ["merge", "merge.safetensors"])
def test_no_space(tmp_path, name):
    def merge():
        with saving(tmp_path / name, "nowhere", {"a": tensor}, {"a": "a"}) as writer:
            writer.write("a", tensor)

    tensor = torch.ones(100_000)
    with pytest.raises(CheckpointError, match=rf"cannot write {tmp_path / name}: File too large"):
        merge()
    assert list(tmp_path.iterdir()) == []
