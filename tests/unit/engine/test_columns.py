from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from torchmetrics import PearsonCorrCoef, SpearmanCorrCoef

from fusion_eval import Runner
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.engine import module
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.columns import Columns
from fusion_eval.engine.store import ResultStore
from fusion_eval.tasks import Regression


@dataclass(frozen=True)
class Line(DataSource):
    def load(self):
        inputs, noise = torch.randn(101, 5, generator=torch.Generator().manual_seed(0)).split([4, 1], dim=1)
        return TensorSamples(inputs, inputs[:, 0] + noise[:, 0])


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_rows_are_those_of_the_batches_joined(sizes):
    batches = [{"x": torch.randn(n, 3), "y": torch.arange(n), "t": [f"{n} {i}" for i in range(n)]} for n in sizes]
    columns = Columns(sum(sizes))
    for batch in batches:
        columns.add(batch)
    rows = columns.rows()
    assert len(columns) == sum(sizes)
    assert torch.equal(rows["x"], torch.cat([batch["x"] for batch in batches]))
    assert torch.equal(rows["y"], torch.cat([batch["y"] for batch in batches]))
    assert rows["t"].tolist() == [text for batch in batches for text in batch["t"]]


@pytest.mark.parametrize("held", [1, 40, 10**6])
def test_metrics_that_keep_what_they_are_given_do_not_depend_on_how_much_waits(held, monkeypatch):
    monkeypatch.setattr(module, "_HELD", held)
    monkeypatch.setattr(runner_module, "process_store", ResultStore())
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    task = Regression(Line(), {"pearson": PearsonCorrCoef, "spearman": SpearmanCorrCoef})
    result = Runner(batch_size=7, bootstrap=0).run("line", task, model)
    samples = Line().load()
    with torch.inference_mode():
        predicted = model(samples.inputs)[:, 0]
    assert result.metrics["pearson"] == pytest.approx(pearsonr(predicted, samples.targets).statistic, abs=1e-5)
    assert result.metrics["spearman"] == pytest.approx(spearmanr(predicted, samples.targets).statistic, abs=1e-5)
