"""A race on real tasks, run by the real runner."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval.data import Arrays
from fusion_eval.engine import Runner
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
    assert abs(verdict.behind - gap) < 0.15


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_good_merge_survives(pool, noise):
    verdict = Racing(last=0.2).run(pool.tasks, model(noise), Runner(), scores_of(pool, model(0.0)))
    assert not verdict.dropped
    assert verdict.samples == 240
    assert verdict.at_most >= 0


def test_seen_to_the_end_the_difference_is_the_one_of_the_reports(pool):
    best, other = model(0.0), model(0.3)
    gap = difference(pool, other, best)
    verdict = Racing(error=1e-9, first=1, last=1).run(pool.tasks, other, Runner(batch_size=7), scores_of(pool, best))
    assert verdict.behind == pytest.approx(gap)
    assert verdict.at_most >= gap - 1e-9


def test_the_order_is_that_of_the_seed_and_covers_every_sample_once(pool):
    best = scores_of(pool, model(0.0))
    one, again, other = (Racing(seed=seed)._order(best) for seed in (0, 0, 1))
    assert all(map(np.array_equal, one, again))
    assert not np.array_equal(one[0], other[0])
    assert len(set(zip(*one, strict=True))) == 1200


def test_only_the_primary_metric_is_raced_and_it_must_be_a_mean_of_hits(pool):
    with pytest.raises(ConfigError, match="task 'small'"):
        require_scores("small", None)
    with pytest.raises(ConfigError, match="racing=on"):
        require_scores("small", np.array([0.5, 3.0]))
    with pytest.raises(ConfigError, match="of which more"):
        require_scores("small", np.array([0.5, 0.3]), higher_is_better=False)


@pytest.mark.parametrize(
    ("arguments", "named"), [({"error": 0}, "error"), ({"first": 0.5, "last": 0.1}, "last"), ({"first": 0}, "first")]
)
def test_numbers_out_of_range_are_refused(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Racing(**arguments)
