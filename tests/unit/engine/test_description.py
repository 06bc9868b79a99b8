"""What an object does, told in a way that holds in another process."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fusion_eval.engine.code import UndescribableError, code_name, code_versions
from fusion_eval.engine.description import Description

MODELS = """
import sys, torch, transformers
from torch import nn
from fusion_eval.engine.description import Description

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.choices = {"alpha", "beta", "gamma", "delta"}
        self.act = torch.tanh
        self.register_buffer("one", torch.zeros(1), persistent=False)
        self.register_buffer("two", torch.zeros(1), persistent=False)

small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
models = [
    Mine(),
    nn.TransformerEncoderLayer(8, 2, activation=nn.functional.gelu),
    transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**small, projection_dim=8)),
    transformers.BertModel(transformers.BertConfig(**small)),
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, vocab_size=9)),
]
def described():
    description = Description()
    return [*map(description.add, models), description.code["transformers"]]
"""


def describe(*values):
    return Description().add(*values)


def inverted(inputs):
    return -inputs


@dataclass
class Setting:
    value: int = 1


class Plain:
    def __init__(self, value):
        self.value = value


class Wrapped(nn.Module):
    """Attributes of all kinds."""

    def __init__(self, **attributes):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        for name, value in attributes.items():
            object.__setattr__(self, name, value)


def test_a_process_with_other_hashes_describes_library_models_alike(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    here = importlib.import_module("models").described()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", "import models; print(models.described())"]
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert there == f"{here}\n"
    assert len(set(here)) == len(here) == 6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        (1, 1.0),
        (1, "1"),
        (None, False),
        ([1, 2], (1, 2)),
        ([1, [2]], [[1], 2]),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, OrderedDict(a=1)),
        ({1, 2}, {1, 3}),
        (b"a", b"b"),
        (torch.float32, torch.bfloat16),
        (torch.zeros(3000), torch.zeros(3000).index_fill(0, torch.tensor([1500]), 1.0)),
        (np.zeros(3000), np.ones(3000)),
        (functional.relu, functional.gelu),
        (torch.tanh, torch.sin),
        (nn.ReLU, nn.GELU),
        (functools.partial(inverted), functools.partial(inverted, inputs=1)),
        (Setting(1), Setting(2)),
        (Plain(1), Plain(2)),
        (SimpleNamespace(a=1), SimpleNamespace(a=2)),
        (nn.Linear(2, 2).eval().requires_grad_(False), nn.Linear(2, 2)),
    ],
)
def test_attributes_that_differ_are_told_apart(one, other):
    assert describe(Wrapped(attribute=one)) == describe(Wrapped(attribute=one))
    assert describe(Wrapped(attribute=one)) != describe(Wrapped(attribute=other))


def test_weights_mode_and_device_are_not_what_a_model_does_but_its_parts_are():
    assert describe(nn.Linear(2, 2)) == describe(nn.Linear(2, 2).eval())
    assert describe(nn.Linear(2, 2)) != describe(nn.Linear(2, 3))
    assert describe(nn.Linear(2, 2)) != describe(nn.Bilinear(2, 2, 2))
    assert describe(nn.Sequential(nn.ReLU())) != describe(nn.Sequential(nn.GELU()))
    assert describe(nn.Sequential(nn.ReLU(), nn.GELU())) != describe(nn.Sequential(nn.GELU(), nn.ReLU()))
    assert describe(Wrapped(where=torch.device("cpu"))) == describe(Wrapped(where=torch.device("cuda:1")))


def test_weights_that_pytorch_does_not_see_are_described():
    hidden, changed = nn.Linear(2, 2), nn.Linear(2, 2)
    changed.load_state_dict(hidden.state_dict())
    assert describe(Wrapped(hidden=[hidden])) == describe(Wrapped(hidden=[changed]))
    changed.bias.data += 1
    assert describe(Wrapped(hidden=[hidden])) != describe(Wrapped(hidden=[changed]))


def test_a_model_may_refer_to_itself():
    def circular(value):
        torch.manual_seed(0)
        model = Wrapped(value=value)
        object.__setattr__(model, "parents", {"self": model, "method": model.extra_repr})
        object.__setattr__(model.inner, "parent", [model])
        return model

    assert describe(circular(1)) == describe(circular(1)) != describe(circular(2))


def test_hooks_are_described():
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(inverted)
    assert describe(hooked) != describe(nn.Linear(2, 2))


def test_what_means_something_here_only_is_refused(monkeypatch):
    class Local(nn.Linear):
        pass

    lambdas = nn.Linear(2, 2)
    lambdas.register_forward_hook(lambda module, inputs, output: -output)
    patched = nn.Linear(2, 2)
    patched.forward = lambda inputs: inputs
    for value in (Local(2, 2), lambdas, patched, Wrapped(lock=object()), [Local]):
        with pytest.raises(UndescribableError):
            describe(value)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, inputs: inputs)
    with pytest.raises(UndescribableError):
        describe(nn.Linear(2, 2))


def load(directory, monkeypatch, **files):
    """Import `main.py` of some user's files."""
    directory.mkdir()
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(directory)
    return importlib.import_module("mainfile")


HELPER = "def scale(x): return {} * x\n"
MAIN = "import torch\n{}\nclass Model(torch.nn.Linear):\n    def forward(self, x): return super().forward(x)\n"


@pytest.mark.parametrize("importing", ["import helperfile", "from helperfile import scale", "import middlefile"])
def test_a_change_anywhere_in_the_users_files_is_seen_and_a_file_not_used_is_not(tmp_path, monkeypatch, importing):
    versions = []
    for name, factor in (("a", 1), ("b", 1), ("c", 2)):
        files = {"helperfile": HELPER.format(factor), "middlefile": "import helperfile\n", "unused": f"X = '{name}'\n"}
        module = load(tmp_path / name, monkeypatch, mainfile=MAIN.format(importing), **files)
        versions.append(code_versions(module.Model))
    assert versions[0] == versions[1] != versions[2]
    assert {"mainfile", "helperfile", "torch"} <= versions[0].keys()
    assert "unused" not in versions[0]


def test_installed_packages_count_by_version_without_the_build():
    assert code_versions(nn.Linear, functional.relu) == {"torch": torch.__version__.partition("+")[0]}


def test_names_are_those_one_can_import():
    assert code_name(nn.Linear) == "torch.nn.modules.linear.Linear"
    assert code_name(Path.exists) == f"{Path.exists.__module__}.Path.exists"
    with pytest.raises(UndescribableError, match="not importable by name"):
        code_name(lambda: None)


def test_what_was_typed_at_a_prompt_comes_from_no_file(monkeypatch):
    module = type(sys)("prompt")
    exec("class Typed: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "prompt", module)
    assert code_name(module.Typed) == "prompt.Typed"
    with pytest.raises(UndescribableError, match="comes from no file"):
        code_versions(module.Typed)
