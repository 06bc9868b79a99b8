"""Batch sizes: the fastest is found, nothing that does not fit ends a run, and no number depends on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import Classification, Runner
from fusion_eval.data import DataCache, DataSource, TensorSamples
from fusion_eval.engine import batch_size
from fusion_eval.engine import kind as kind_module
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.batch_size import BatchSize, is_out_of_memory
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import TaskError
from fusion_eval.tasks import CrossEntropy

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clouds(DataSource):
    n: int = 300

    def load(self):
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(3, (self.n,), generator=generator)
        return TensorSamples(torch.randn(self.n, 5, generator=generator), targets, ("a", "b", "c"))


class Greedy(nn.Linear):
    """Runs out of memory above a number of samples; remembers how many it was given."""

    seen: ClassVar = []

    def __init__(self, at_most, error=None):
        torch.manual_seed(0)
        super().__init__(5, 3)
        self.at_most, self.error = at_most, error or MemoryError()

    def forward(self, inputs):
        self.seen.append(len(inputs))
        if len(inputs) > self.at_most:
            raise self.error
        return super().forward(inputs)


TASK = Classification(Clouds(), {"accuracy": partial(MulticlassAccuracy, average="micro"), "loss": CrossEntropy})


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(runner_module, "process_store", ResultStore())
    monkeypatch.setattr(kind_module, "_sizes", {})
    Greedy.seen.clear()


@pytest.fixture
def search(monkeypatch):
    """Lets batches take what `costs` says a sample takes at each size; returns the size found and those tried."""

    def run(costs, memory=None, device=CPU):
        now, tried, size = [0.0], [], BatchSize(None, device, memory)
        monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        while not size.settled:
            tried.append(size.size)
            with size.timed(tried[-1], torch.zeros(tried[-1], 7)):
                now[0] += costs(tried[-1], len(tried)) * tried[-1]
        return size.size, tried

    return run


@pytest.mark.parametrize(
    ("costs", "best"),
    [
        (lambda size, turn: 1 + size / 128, 32),  # on a CPU whose caches are full
        (lambda size, turn: 1 + 100 / size, 2048),  # launches rule, up to where they do not matter any more
        (lambda size, turn: 1 + abs(size - 64), 64),
        (lambda size, turn: 1.0, 32),
        (lambda size, turn: 1 - 0.01 * (size > 32), 32),  # noise
    ],
    ids=["small", "large", "middle", "equal", "noise"],
)
def test_the_fastest_size_is_found(search, costs, best):
    assert search(costs)[0] == best


def test_the_first_batch_of_a_size_does_not_count(search):
    tried = set()
    assert search(lambda size, turn: 1 + 100 / size + 1000 * (size not in tried and not tried.add(size)))[0] == 2048


def test_on_a_cpu_a_slower_size_costs_a_few_hundredths_of_what_ran_before(search):
    _, tried = search(lambda size, turn: 1 + size / 320)  # 64 takes 1.1 times as long as 32
    larger = [size for size in tried if size > 32]
    assert larger == [64] * 3
    assert 0.1 * sum(larger) / sum(tried) < 0.05


def test_a_gpu_tries_larger_sizes_at_once_and_passes_over_one_that_is_slower(search, monkeypatch):
    monkeypatch.setattr(BatchSize, "_wait", lambda size: None)
    cuda = torch.device("cuda")
    best, tried = search(lambda size, turn: {64: 2, 128: 3, 256: 1}.get(size, 2), device=cuda)
    assert (best, tried) == (256, [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3 + [1024] * 3)


def test_samples_of_different_length_are_compared_by_their_length():
    size = BatchSize(None, CPU)
    with size.timed(32, {"ids": torch.zeros(32, 100), "mask": torch.zeros(32, 100)}):
        pass
    with size.timed(32, {"ids": torch.zeros(32, 100), "mask": torch.zeros(32, 100)}):
        time.sleep(0.02)
    [[_, cost]] = size._costs.values()
    assert cost * 32 * 200 == pytest.approx(0.02, abs=0.015)


def test_what_was_found_is_remembered(search, tmp_path):
    memory = tmp_path / "sizes" / "vit.json"
    assert search(lambda size, turn: 1 + size / 64, memory) == (32, [32] * 8 + [64] * 3)
    assert BatchSize(None, CPU, memory).settled
    for damaged in ("", "[]", '{"batch_size": "x"}', '{"batch_size": -1}', "\x00"):
        memory.write_text(damaged)
        assert not BatchSize(None, CPU, memory).settled


def test_the_search_runs_on_the_samples_of_the_evaluation_and_goes_on_in_the_next_task(tmp_path):
    runner, model = Runner(batch_size="auto", cache=DataCache("disk", str(tmp_path))), Greedy(10**6)
    small = Classification(Clouds(40), TASK.metrics)
    runner.run("small", small, model)
    assert model.seen == [32, 8]
    large = Classification(Clouds(400), TASK.metrics)
    runner.run("large", large, model)
    assert model.seen[2:11] == [32] * 8 + [64]  # the last of 32 had been read ahead
    assert sum(model.seen) == 440
    model.seen.clear()
    runner.run("large", large, Greedy(10**5))  # another attribute: another architecture, of which nothing is known
    assert model.seen[:10] == [32] * 9 + [64]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["MemoryError", "CUDA", "CPU", "cuBLAS"],
)
@pytest.mark.parametrize("batch_size", [128, "auto"])
def test_what_does_not_fit_is_halved_and_every_sample_is_evaluated_once(error, batch_size, caplog, monkeypatch):
    monkeypatch.setattr("fusion_eval.engine.batch_size._SEEN_ON_CPU", 0)  # larger sizes are tried at once
    model, roomy = Greedy(20, error), Greedy(10**6)
    result = Runner(batch_size=batch_size).run("clouds", TASK, model)
    seen = list(model.seen)
    runner_module.process_store._results.clear()
    expected = Runner(batch_size=16).run("clouds", TASK, roomy)
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-6)
    assert np.array_equal(result.samples["index"], np.arange(300))
    assert np.array_equal(result.samples["prediction"], expected.samples["prediction"])
    fitting = [samples for samples in seen if samples <= 20]
    assert sum(fitting) == 300
    assert len(seen) - len(fitting) == 3 if batch_size == 128 else 1  # each size is tried once
    assert "do not fit into memory: 16 from here on" in caplog.text


def test_the_next_task_begins_with_what_fitted():
    runner, model = Runner(batch_size=128), Greedy(40)
    runner.run("clouds", TASK, model)
    model.seen.clear()
    runner.run("more", Classification(Clouds(64), TASK.metrics), model)
    assert model.seen == [32, 32]


def test_a_sample_that_does_not_fit_alone_is_named():
    with pytest.raises(TaskError, match="sample 0 alone does not fit into the memory of cpu"):
        Runner(batch_size=4).run("clouds", TASK, Greedy(0))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model = Greedy(20, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(TaskError, match="cannot be multiplied"):
        Runner().run("clouds", TASK, model)
    assert len(model.seen) == 1
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(None)
