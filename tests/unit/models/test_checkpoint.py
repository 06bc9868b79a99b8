"""Every form of checkpoint, written by the tool that users write it with, and every way one can be broken."""

import argparse
import json
import pickle
import sys

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from fusion_eval.errors import CheckpointError
from fusion_eval.models import load_state_dict


@pytest.fixture
def weights():
    return {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3).half(), "steps": torch.tensor(4)}


@pytest.fixture(scope="module")
def bert():
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, dtype="float32"
    )
    return BertModel(config)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(actual[name].dtype == expected[name].dtype for name in expected)


def test_safetensors(tmp_path, weights):
    save_file(weights, tmp_path / "model.safetensors")
    assert_same(load_state_dict(tmp_path / "model.safetensors"), weights)
    assert_same(load_state_dict(str(tmp_path / "model.safetensors")), weights)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, weights, suffix, zipped):
    path = tmp_path / f"model{suffix}"
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert_same(load_state_dict(path), weights)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "module"])
def test_wrapped_state_dicts(tmp_path, weights, wrapper):
    torch.save({"epoch": 3, wrapper: weights, "optimizer": {"lr": 0.1}}, tmp_path / "last.pt")
    assert_same(load_state_dict(tmp_path / "last.pt"), weights)


def test_parameters_come_without_grad(tmp_path):
    torch.save(dict(nn.Linear(2, 2).named_parameters()), tmp_path / "parameters.pt")
    loaded = load_state_dict(tmp_path / "parameters.pt")
    assert not any(tensor.requires_grad for tensor in loaded.values())


def test_lightning_checkpoint(tmp_path):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": 2})
            self.model = nn.Linear(2, 2)

        def training_step(self, batch, index):
            return self.model(batch).sum()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module = Module()
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(2, 2)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert_same(load_state_dict(tmp_path / "last.ckpt"), module.state_dict())


@pytest.mark.parametrize("shard_size", ["1GB", "1KB"])
def test_hugging_face_directories(tmp_path, bert, shard_size):
    bert.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "1KB")
    assert_same(load_state_dict(tmp_path), bert.state_dict())


def test_pytorch_model_bin_in_one_file_and_in_shards(tmp_path, weights):
    (tmp_path / "one").mkdir()
    torch.save(weights, tmp_path / "one" / "pytorch_model.bin")
    assert_same(load_state_dict(tmp_path / "one"), weights)
    shards = {name: f"pytorch_model-0000{i}-of-00003.bin" for i, name in enumerate(weights, 1)}
    for name, shard in shards.items():
        torch.save({name: weights[name]}, tmp_path / shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert_same(load_state_dict(tmp_path), weights)


def test_inside_a_package(tmp_path, weights, monkeypatch):
    package = tmp_path / "some_zoo_of_weights" / "inner"
    (package / "folder").mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    save_file(weights, package / "folder" / "model.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    assert_same(load_state_dict("pkg://some_zoo_of_weights.inner/folder/model.safetensors"), weights)
    assert_same(load_state_dict("pkg://some_zoo_of_weights.inner/folder"), weights)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such file"):
        load_state_dict("pkg://some_zoo_of_weights/absent.safetensors")
    sys.modules.pop("some_zoo_of_weights.inner")
    sys.modules.pop("some_zoo_of_weights")


@pytest.mark.parametrize(
    "path", ["pkg://no_such_package/x.safetensors", "pkg:///x.safetensors", "pkg://", "pkg://.a/b"]
)
def test_packages_that_are_not_there(path):
    with pytest.raises(CheckpointError, match=path):
        load_state_dict(path)


def test_home_is_expanded(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(weights, tmp_path / "model.safetensors")
    assert_same(load_state_dict("~/model.safetensors"), weights)


def test_a_pickle_is_never_executed(tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w')",))

    for suffix in (".pt", ".bin", ".ckpt"):
        torch.save({"state_dict": {"w": torch.zeros(1)}, "x": Evil()}, tmp_path / f"evil{suffix}")
        with pytest.raises(CheckpointError, match=r"evil.*would run code"):
            load_state_dict(tmp_path / f"evil{suffix}")
        (tmp_path / f"plain{suffix}").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match="plain"):
            load_state_dict(tmp_path / f"plain{suffix}")
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_needs_code_says_what_it_holds(tmp_path, zipped):
    content = {"state_dict": {"w": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"old\.pt: it holds Python objects \(argparse\.Namespace\)"):
        load_state_dict(tmp_path / "old.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"module\.pt: it holds Python objects \(torch\.nn"):
        load_state_dict(tmp_path / "module.pt")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.bin", "model.ckpt"])
def test_files_that_are_missing_empty_or_garbage(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
        load_state_dict(path)
    path.touch()
    with pytest.raises(CheckpointError, match=rf"{name}: the file is empty"):
        load_state_dict(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 12345\n")
    with pytest.raises(CheckpointError, match=rf"{name}: .*git lfs pull"):
        load_state_dict(path)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 7, 8, 9, 100, 10_000):
        path.write_bytes(bytes(torch.randint(256, (size,), generator=generator).tolist()))
        with pytest.raises(CheckpointError, match=rf"{name}: damaged"):
            load_state_dict(path)
    path.write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match=rf"{name}: damaged"):
        load_state_dict(path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "legacy.bin"])
def test_truncated_files(tmp_path, weights, name):
    path = tmp_path / name
    if name == "model.safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=name == "model.pt")
    whole = path.read_bytes()
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: max(1, int(share * len(whole)))])
        with pytest.raises(CheckpointError, match=rf"{name}: damaged"):
            load_state_dict(path)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "model.onnx").write_text("ONNX")
    with pytest.raises(
        CheckpointError, match=r"unknown kind of checkpoint '\.onnx'; known: \.safetensors, \.gguf, \.pt"
    ):
        load_state_dict(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({"epoch": 3, "weights": {"w": torch.zeros(1)}}, "'epoch' is no named tensor"),
        ({"w": torch.zeros(1), "name": "x"}, "'name' is no named tensor"),
        ({"state_dict": {"w": {"deeper": torch.zeros(1)}}}, "'w' is no named tensor"),
        ({1: torch.zeros(1), "1": torch.zeros(1)}, "1 is no named tensor"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
    ],
)
def test_pickles_without_a_state_dict(tmp_path, content, text):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=rf"odd\.pt: {text}"):
        load_state_dict(tmp_path / "odd.pt")


def test_directories_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"the directory has no weights; expected one of model\.safetensors"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["", "{", "[]", "{}", '"x"', *({"weight_map": bad} for bad in (3, {"w": 3}, {"w": ""}, {"w": "../x.safetensors"}))],
)
def test_a_damaged_index(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json: damaged"):
        load_state_dict(tmp_path)


def test_shards_that_are_missing_or_lack_a_tensor(tmp_path, bert):
    bert.save_pretrained(tmp_path, max_shard_size="1KB")
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    save_file({"other": torch.zeros(1)}, first)
    with pytest.raises(CheckpointError, match=rf"{first.name}: lacks tensor .*, which model\.safetensors\.index\.json"):
        load_state_dict(tmp_path)
    second.unlink()
    with pytest.raises(CheckpointError, match=rf"{second.name}: no such file"):
        load_state_dict(tmp_path)
