"""Models of one architecture as if they were one: their weights are stacked, and one call predicts for all of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fusion_eval.data import Samples
from fusion_eval.tasks import Prediction, Task

__all__ = ["OutputBytes", "Stack", "of_model", "tensors_of"]


class Stack:
    """What a task makes of a batch with each of `k` models, by `torch.func.vmap` over their weights.

    Tensors that are equal in all models are not stacked: position ids stay what they are, and nothing that only depends
    on them, or on the batch, is computed more than once.

    Args:
        task: The task.
        models: Of one architecture, on one device, in eval mode.
        samples: The loaded data.

    Raises:
        Exception: the first model cannot be copied, or the tensors of the others have other names or shapes.
    """

    def __init__(self, task: Task, models: Sequence[nn.Module], samples: Samples) -> None:
        first, *others = map(tensors_of, models)
        stacked = {name: torch.stack([tensor, *(other[name] for other in others)]) for name, tensor in first.items()}
        same = torch.stack([(rows == rows[0]).all() for rows in stacked.values()]).tolist()  # the device waits once
        self._weights = {
            f"model.{name}": rows[0] if equal else rows
            for (name, rows), equal in zip(stacked.items(), same, strict=True)
        }
        self._axes = {name: None if equal else 0 for name, equal in zip(self._weights, same, strict=True)}
        self._predictor = _Predictor(task, copy.deepcopy(models[0]), samples)  # what goes wrong leaves no trace in it

    def predict(self, head: nn.Module | None, data: Any) -> Prediction:
        """`Task.predict` with every model: its tensors, with the models as their first axis.

        Raises:
            Exception: what the task or the models do cannot be vectorised, as a branch on a value or a random number.
        """

        def one(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            found: tuple[Tensor, Tensor, dict[str, Tensor]] = functional_call(self._predictor, weights, (head, data))
            return found

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # that is measured
            outputs, targets, columns = vmap(one, in_dims=(self._axes,))(self._weights)
        return Prediction(outputs, targets, {**columns, **self._predictor.texts})


class _Predictor(nn.Module):
    """The task's `predict` as the `forward` of a module, whose weights `functional_call` replaces."""

    def __init__(self, task: Task, model: nn.Module, samples: Samples) -> None:
        super().__init__()
        self.model = model
        self.texts: dict[str, list[str]] = {}
        self._task = task
        self._samples = samples

    def forward(self, head: nn.Module | None, data: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Outputs, targets and the columns that are tensors; texts cannot depend on weights that are vectorised."""
        prediction = self._task.predict(self.model, head, data, self._samples)
        self.texts = {name: column for name, column in prediction.columns.items() if isinstance(column, list)}
        columns = {name: column for name, column in prediction.columns.items() if isinstance(column, Tensor)}
        return prediction.outputs, prediction.targets, columns


class OutputBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up the bytes of all that operations return: no less than what lies in memory of it at any time.

    Example:
        >>> with OutputBytes() as outputs:
        ...     _ = torch.zeros(4) + 1
        >>> outputs.total
        32
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.total += sum(leaf.nbytes for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        return made


def of_model(stacked: Prediction, number: int) -> Prediction:
    """The prediction of one model of a stack."""
    columns = {name: column if isinstance(column, list) else column[number] for name, column in stacked.columns.items()}
    return Prediction(stacked.outputs[number], stacked.targets[number], columns)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; of tied ones the first name."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
