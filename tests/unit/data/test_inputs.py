from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils._pytree import tree_map

from fusion_eval.data.inputs import ModelInputs, columns_of

INPUTS = ModelInputs({"input_ids": torch.zeros(2, 3)}, {"truncated": torch.tensor([True, False])})


@pytest.mark.parametrize(
    "again",
    [
        lambda inputs: inputs.to(torch.device("cpu")),
        lambda inputs: pickle.loads(pickle.dumps(inputs)),
        copy.deepcopy,
        lambda inputs: tree_map(lambda tensor: tensor, inputs),
    ],
    ids=["moved", "pickled", "copied", "mapped"],
)
def test_columns_stay_with_their_inputs(again):
    found = again(INPUTS)
    assert type(found) is ModelInputs
    assert list(found) == ["input_ids"]
    assert columns_of(found)["truncated"].tolist() == [True, False]


@pytest.mark.parametrize(("device", "non_blocking"), [("cuda", True), ("cpu", False)])
def test_a_batch_goes_to_a_gpu_while_it_computes_and_comes_back_once_it_is_there(device, non_blocking):
    class Part:
        def to(self, device, **how):
            self.how = how
            return self

    moved = ModelInputs({"input_ids": Part()}, {"truncated": Part()}).to(torch.device(device))
    assert moved["input_ids"].how == moved.columns["truncated"].how == {"non_blocking": non_blocking}
