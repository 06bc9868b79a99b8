from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fusion_eval.tasks import ClassF1

classes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(classes, st.integers(0, 2))
def test_it_is_scikit_learns_f1_of_that_class_in_any_number_of_batches(pairs, positive):
    predicted, target = torch.tensor(pairs).T
    expected = f1_score(target == positive, predicted == positive, zero_division=0)
    for outputs in (predicted, torch.eye(3)[predicted]):
        metric = ClassF1(num_classes=3, positive=positive)
        for rows in np.array_split(np.arange(len(pairs)), min(3, len(pairs))):
            metric.update(outputs[rows], target[rows])
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("positive", [-1, 2])
def test_a_class_that_does_not_exist_is_refused(positive):
    with pytest.raises(ValueError, match=f"index of one of 2 classes, found {positive}"):
        ClassF1(num_classes=2, positive=positive)
