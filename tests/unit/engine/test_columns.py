from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import PearsonCorrCoef, SpearmanCorrCoef

from fusion_eval import Runner
from fusion_eval.data import Arrays
from fusion_eval.engine import module
from fusion_eval.engine import runner as runner_module
from fusion_eval.engine.columns import Columns
from fusion_eval.engine.store import ResultStore
from fusion_eval.tasks import Regression


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
def test_metrics_that_keep_what_they_are_given_do_not_depend_on_how_much_waits(held, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(101, 4)).astype(np.float32)
    np.savez(tmp_path / "test.npz", inputs=inputs, targets=inputs[:, 0] + generator.normal(size=101).astype(np.float32))
    monkeypatch.setattr(module, "_HELD", held)
    monkeypatch.setattr(runner_module, "process_store", ResultStore())
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    task = Regression(Arrays(str(tmp_path / "test.npz")), {"pearson": PearsonCorrCoef, "spearman": SpearmanCorrCoef})
    result = Runner(batch_size=7, bootstrap=0).run("line", task, model)
    with torch.inference_mode():
        predicted = model(torch.from_numpy(inputs))[:, 0]
    from scipy.stats import pearsonr, spearmanr

    targets = np.load(tmp_path / "test.npz")["targets"]
    assert result.metrics["pearson"] == pytest.approx(pearsonr(predicted, targets).statistic, abs=1e-5)
    assert result.metrics["spearman"] == pytest.approx(spearmanr(predicted, targets).statistic, abs=1e-5)
