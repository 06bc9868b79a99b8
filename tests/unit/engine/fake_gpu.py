"""What `test_no_waiting.py` runs in a process of its own, as a device is there for good once it is made.

No GPU is needed: fake tensors have a device, a shape and a type, and no values. What asks for values, or for a shape
that depends on them, fails on them; so does what mixes devices.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torchmetrics import MeanMetric

from fusion_eval.data import Arrays, TensorSamples, transform
from fusion_eval.data.inputs import ModelInputs
from fusion_eval.engine.access import _DeviceReader
from fusion_eval.engine.assignment import Assignment
from fusion_eval.engine.batch_size import BatchSize
from fusion_eval.engine.module import TaskModule
from fusion_eval.engine.placement import Placement
from fusion_eval.engine.reading import Batch, Feed, TensorReader
from fusion_eval.engine.subject import Subject
from fusion_eval.tasks import (
    Classification,
    DepthEstimation,
    MultiLabel,
    Regression,
    Segmentation,
    SurfaceNormals,
)

GPU = "fakegpu:0"

DATA = Arrays("nowhere.npz")
METRICS = {"mean": MeanMetric}  # what waits for a metric is held back
NORMALISE = partial(transform.normalise_pixels, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module", autouse=True)
def device():
    """Made here, as whoever looks for doctests imports this file."""
    _setup_privateuseone_for_python_backend("fakegpu")


class NothingCrosses(TorchDispatchMode):
    """Refuses what brings a tensor from the GPU to the CPU, or there: one or the other waits for what is under way."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        given, found = (
            {part.device.type for part in tree_leaves(tensors) if isinstance(part, torch.Tensor)}
            for tensors in (args, made)
        )
        assert given <= found or not found or not given, f"{function} waits for the GPU"
        return made


class Convolution(nn.Module):
    """Pixels to a map, or to features."""

    def __init__(self, channels, pooled):
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 3)
        self.pooled = pooled

    def forward(self, pixels):
        found = self.convolution(pixels)
        return found.mean(dim=(2, 3)) if self.pooled else found


def evaluate(task, head, channels, pooled, targets, precision=None):
    """Batches of data that lies on the GPU, all that a test loop does with them; returns the columns."""
    samples = TensorSamples(torch.zeros(12, 1), torch.zeros(12), tuple("abcdefghi"))
    precision = precision or Precision()
    with FakeTensorMode(), torch.inference_mode():
        with torch.device(GPU), precision.module_init_context():
            model, head = Convolution(channels, pooled), head and head()
            whole = torch.zeros(12, 3, 16, 16, dtype=torch.uint8), targets()
        reader = _DeviceReader(TensorReader(samples), whole, np.arange(12))
        reader.finish = lambda data: (NORMALISE(data[0]), data[1])
        assignment = Assignment("task", task, {}, Subject(model, head), samples, np.arange(12), {}, None)
        feed = Feed(reader, BatchSize(5, torch.device(GPU)), 0, pin_memory=True)
        module = TaskModule(assignment, feed, Placement(), keep_updates=True)
        module._trainer = SimpleNamespace(global_rank=0, world_size=1, precision_plugin=precision)
        transform._of_channels.cache_clear()
        with precision.forward_context():
            for indices in (np.arange(5), np.arange(5, 10), np.arange(10, 12)):
                with NothingCrosses() if indices[0] else nullcontext():  # the first brings what stays
                    batch = Batch(indices, reader.read(indices))
                    batch = module.on_before_batch_transfer(batch, 0)
                    batch = module.transfer_batch_to_device(batch, torch.device(GPU), 0)
                    module.test_step(module.on_after_batch_transfer(batch, 0))
        return module._kept.rows()


def classes():
    return torch.zeros(12, dtype=torch.int64)


def maps(*channels, dtype=torch.float32):
    return partial(torch.zeros, 12, *channels, 20, 20, dtype=dtype)


TASKS = {
    "classification": (Classification(DATA, METRICS), partial(nn.Linear, 4, 9), 4, True, classes),
    "without a head": (Classification(DATA, METRICS), None, 9, True, classes),
    "multi-label": (MultiLabel(DATA, METRICS, num_labels=5), None, 5, True, lambda: torch.zeros(12, 5).long()),
    "regression": (Regression(DATA, METRICS), None, 1, True, lambda: torch.zeros(12)),
    "several numbers": (Regression(DATA, METRICS), None, 3, True, lambda: torch.zeros(12, 3)),
    "segmentation": (Segmentation(DATA, METRICS), None, 13, False, maps(dtype=torch.int64)),
    "depth": (DepthEstimation(DATA, METRICS), None, 1, False, maps(1)),
    "normals": (SurfaceNormals(DATA, METRICS), None, 3, False, maps(3)),
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "precision",
    [Precision(), HalfPrecision("bf16-true"), HalfPrecision("16-true"), MixedPrecision("bf16-mixed", "cpu")],
    ids=["32-true", "bf16-true", "16-true", "bf16-mixed"],
)
def test_the_cpu_never_waits_for_a_batch(name, precision):
    columns = evaluate(*TASKS[name], precision)
    assert all(len(column) == 12 and column.device.type == "fakegpu" for column in columns.values())


class Copies(TorchDispatchMode):
    """Notes of each copy to the GPU whether it waits."""

    def __init__(self):
        super().__init__()
        self.wait = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default:
            self.wait.append(not kwargs.get("non_blocking", False))
        return function(*args, **kwargs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (torch.zeros(2, 3), torch.zeros(2)),
        lambda: ({"input_ids": torch.zeros(2, 3)}, torch.zeros(2)),
        lambda: (ModelInputs({"input_ids": torch.zeros(2, 3)}, {"truncated": torch.zeros(2)}), torch.zeros(2)),
    ],
    ids=["tensors", "mapping", "inputs with columns"],
)
def test_a_batch_is_fetched_without_waiting(make):
    with FakeTensorMode(), Copies() as copies:
        moved = Batch(np.arange(2), make()).to(torch.device(GPU))
        assert all(part.device.type == "fakegpu" for part in tree_leaves(moved.data))
    assert copies.wait
    assert not any(copies.wait)


class Asks(Classification):
    """A task that wants to know something of each batch."""

    def predict(self, model, head, batch, samples):
        prediction = super().predict(model, head, batch, samples)
        self.ask(prediction.outputs)
        return prediction


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda outputs: outputs.max().item(), DataDependentOutputException),
        (lambda outputs: bool((outputs > 0).any()), DataDependentOutputException),
        (lambda outputs: outputs[outputs > 0], DynamicOutputShapeException),
        (lambda outputs: outputs.cpu(), AssertionError),
        (lambda outputs: outputs + torch.ones(outputs.shape), Exception),
    ],
    ids=["item", "bool", "mask", "cpu", "two devices"],
)
def test_what_waits_is_found(ask, error):
    task = type("Waits", (Asks,), {"ask": staticmethod(ask)})(DATA, METRICS)
    with pytest.raises(error):
        evaluate(task, *TASKS["without a head"][1:])
