"""A race on real tasks, run by the real runner."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays
from fusion_eval.engine import Runner, SampleMemory
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import ConfigError
from fusion_eval.racing import Racing, Scores, require_scores
from fusion_eval.taskpool import TaskPool
from fusion_eval.tasks import Classification, CrossEntropy

METRICS = {"accuracy": partial(MulticlassAccuracy, average="micro"), "loss": CrossEntropy}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two tasks of different size: which of three numbers is the largest, with some labels wrong."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    tasks = {}
    for name, count in {"small": 300, "large": 900}.items():
        inputs = rng.normal(size=(count, 3)).astype(np.float32)
        targets = np.where(rng.random(count) < 0.1, rng.integers(0, 3, count), inputs.argmax(axis=1))
        np.savez(folder / f"{name}.npz", inputs=inputs, targets=targets)
        tasks[name] = Classification(Arrays(str(folder / f"{name}.npz")), METRICS, num_classes=3)
    return TaskPool(tasks)


def model(noise):
    """Right but for noise in its weights."""
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3) + noise * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    return layer


def scores_of(pool, evaluated):
    report = pool.evaluate(evaluated, Runner(bootstrap=0))
    return {
        name: Scores("accuracy", result.samples["index"], result.scores.astype(float))
        for name, result in report.results.items()
    }


@pytest.fixture(autouse=True)
def fresh_results(monkeypatch):
    """Nothing is known of the tests before."""
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", ResultStore())


def difference(pool, first, second):
    one, other = (scores_of(pool, evaluated) for evaluated in (first, second))
    return np.mean([one[name].score.mean() - other[name].score.mean() for name in one])


def test_a_bad_merge_is_dropped_after_few_samples(pool):
    best, bad = model(0.0), model(3.0)
    gap = difference(pool, bad, best)
    assert gap < -0.2
    verdict = Racing().run(pool.tasks, bad, Runner(), scores_of(pool, best))
    assert verdict.dropped
    assert verdict.of == 1200
    assert verdict.samples <= 0.32 * 1200
    assert gap <= verdict.at_most < 0
    assert abs(verdict.behind - gap) < 0.25  # 46 samples: three standard errors


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_good_merge_survives(pool, noise):
    verdict = Racing(last=0.2).run(pool.tasks, model(noise), Runner(), scores_of(pool, model(0.0)), finished=3)
    assert not verdict.dropped
    assert verdict.samples == 240
    assert verdict.at_most >= 0


def test_seen_nearly_to_the_end_the_difference_is_the_one_of_the_reports(pool):
    best, other = model(0.0), model(0.3)
    gap = difference(pool, other, best)
    verdict = Racing(error=1e-99, last=1).run(pool.tasks, other, Runner(batch_size=7), scores_of(pool, best))
    assert verdict.samples >= 1150  # by then the rest cannot change it any more
    assert verdict.behind == pytest.approx(gap, abs=0.01)
    assert verdict.at_most >= gap - 1e-9


class Counting(nn.Module):
    """A model that notes how many samples it saw."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.seen = 0

    def forward(self, inputs):
        self.seen += len(inputs)
        return self.inner(inputs)


def test_what_was_raced_on_is_not_evaluated_again_and_the_report_is_the_same(pool):
    best, runner = scores_of(pool, model(0.0)), Runner()
    plain = pool.evaluate(Counting(model(0.02)), Runner())
    raced, memory = Counting(model(0.02)), SampleMemory()
    verdict = Racing(last=0.5).run(pool.tasks, raced, runner, best, memory=memory)
    assert raced.seen == verdict.samples == 600
    report = pool.evaluate(raced, runner, memory=memory)
    assert raced.seen == 1200
    for name, result in report.results.items():
        expected = plain.results[name]
        assert result.metrics["accuracy"] == expected.metrics["accuracy"]
        assert result.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-6)
        assert list(result.samples) == list(expected.samples)
        for column in ("index", "target", "prediction"):
            assert np.array_equal(result.samples[column], expected.samples[column])
        assert np.allclose(result.samples["loss"], expected.samples["loss"], rtol=1e-5, atol=1e-6)


class TwoProcesses(Runner):
    """One process that says it is two."""

    processes = 2


@pytest.mark.parametrize("runner", [Runner(), TwoProcesses()], ids=["one", "two"])
def test_no_look_is_so_early_that_a_task_cannot_be_shared_by_the_processes(pool, runner, monkeypatch):
    counts, original, best = [], Runner.run, scores_of(pool, model(0.0))

    def run(self, name, task, model, **settings):
        counts.append(len(settings["indices"]))
        return original(self, name, task, model, **settings)

    monkeypatch.setattr(Runner, "run", run)
    verdict = Racing(first=0.001, last=0.01).run(pool.tasks, model(0.02), runner, best)
    assert min(counts) >= runner.processes
    assert verdict.samples == 12
    assert Racing(first=0.0009, last=0.0009).run(pool.tasks, model(0.3), runner, best).samples == 1200


def test_a_race_gets_harder_to_lose_as_merges_are_finished(pool):
    levels = [Racing(error=0.1).level(finished) for finished in range(1, 2000)]
    assert levels == sorted(levels, reverse=True)
    assert sum(levels) == pytest.approx(0.1, rel=1e-3)
    assert sum(levels) < 0.1
    best, bad = scores_of(pool, model(0.0)), model(1.0)
    early, late = (Racing().run(pool.tasks, bad, Runner(), best, finished=finished) for finished in (1, 1000))
    assert early.samples <= late.samples
    assert early.dropped


def test_another_seed_is_another_order(pool):
    best, other = scores_of(pool, model(0.0)), model(0.3)
    one, again, third = (
        Racing(seed=seed, last=0.1).run(pool.tasks, other, Runner(), best).behind for seed in (0, 0, 1)
    )
    assert one == again != third


def test_only_the_primary_metric_is_raced_and_it_must_be_a_mean_of_hits(pool):
    with pytest.raises(ConfigError, match="task 'small'"):
        require_scores("small", None)
    with pytest.raises(ConfigError, match="racing=on"):
        require_scores("small", np.array([0.5, 3.0]))
    with pytest.raises(ConfigError, match="of which more"):
        require_scores("small", np.array([0.5, 0.3]), higher_is_better=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"error": 0}, "error"),
        ({"first": 0.5, "last": 0.1}, "last"),
        ({"first": 0}, "first"),
        ({"growth": 1}, "growth"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Racing(**arguments)
