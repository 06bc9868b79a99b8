"""Every merging method there is, each option of conf/model, and models with tensors of every kind to merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.resources import files
from pydoc import locate

import torch
import yaml
from calibrated import CLASSES, calibration
from torch import nn

from fusion_eval.merging import MethodWithData, PerTaskMethod

__all__ = ["KINDS", "METHODS", "Network", "make_methods", "models"]

CONF = files("fusion_eval.conf").joinpath("model")

READ_FILES = {"checkpoint", "mergekit_recipe"}  # tests/unit/models
GIVEN = {"name": "one", "start": "two", "end": "one", "steps": 2}  # what a config asks for, and fewer gradient steps


class Network(nn.Module):
    """Tensors of every kind and form, some that no layer uses; each larger than what a thread takes for itself."""

    def __init__(self, width=8, long=5, phase=False):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, width), nn.Linear(width, width)])
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, CLASSES)
        self.tied = self.head
        self.kernel = nn.Parameter(torch.zeros(4, 3, 2, 2))
        self.scale = nn.Parameter(torch.zeros(()))
        self.long = nn.Parameter(torch.zeros(long))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("mask", torch.tensor([True, False]))
        if phase:
            self.register_buffer("phase", torch.tensor([1j]))

    def forward(self, inputs):
        return self.head(self.blocks[1](self.norm(self.blocks[0](inputs).tanh())))


def weights(seed, start=None, architecture=Network):
    """Random ones around those that are given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture()
    if start is not None:
        model.load_state_dict(start)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        model.norm.running_var.clamp_(min=0.3)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def models(experts=("one", "two", "three"), architecture=Network):
    """A base, and experts fine-tuned from it."""
    base = weights(0, architecture=architecture)
    return base, {name: weights(seed, base, architecture) for seed, name in enumerate(experts, start=1)}


def calibration_of(experts=("one", "two", "three"), architecture=Network):
    generator = torch.Generator().manual_seed(9)
    return calibration({name: torch.randn(4, 6, generator=generator) for name in experts}, architecture)


def read(option):
    """A config with the methods that its defaults put into it, as in `/model@method: ties`."""
    config = yaml.safe_load(CONF.joinpath(f"{option}.yaml").read_text())
    for default in config.pop("defaults", []):
        if isinstance(default, Mapping):
            ((place, inner),) = default.items()
            field = place.removeprefix("/model@")
            config[field] = read(inner) | config.get(field, {})
    return config


def make(config, samples):
    """What a config describes, with `samples` for its calibration and `GIVEN` for what it leaves to the user."""
    arguments = {key: GIVEN[key] if value == "???" or key == "steps" else value for key, value in config.items()}
    nested = {key: make(value, samples) for key, value in config.items() if key == "method"}
    data = {"calibration": samples} if "calibration" in config else {}
    return locate(arguments.pop("_target_"))(**arguments | nested | data)


def all_methods(samples):
    """Option to method as its config describes it; some of them also with options that take other paths."""
    options = sorted(path.name.removesuffix(".yaml") for path in CONF.iterdir() if path.name.endswith(".yaml"))
    methods = {option: make(read(option), samples) for option in options if option not in READ_FILES}
    per_task = {name: one for name, one in methods.items() if isinstance(one, PerTaskMethod)}
    weighted = {name: one for name, one in methods.items() if "weights" in {field.name for field in fields(one)}}
    methods |= {f"{name} of one": method.variant("one") for name, method in per_task.items()}
    methods |= {f"{name} weighted": replace(method, weights={"one": 0.3}) for name, method in weighted.items()}
    return methods | {"ties by tensor": replace(methods["ties"], trim="tensor")}


def make_methods(experts=("one", "two", "three"), architecture=Network):
    return all_methods(calibration_of(experts, architecture))


METHODS = make_methods()
KINDS = {
    "option": METHODS,
    "data_free": [name for name, method in METHODS.items() if not isinstance(method, MethodWithData)],
    "scaled": [name for name, method in METHODS.items() if hasattr(method, "scaling")],
    "seeded": [name for name, method in METHODS.items() if hasattr(method, "seed")],
}
