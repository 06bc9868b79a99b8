"""The diagonal of the Fisher information of a classifier, measured on samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fusion_eval.merging.calibration import Calibration
from fusion_eval.merging.state_dict import StateDict, named_parameters

__all__ = ["Labels", "fisher_information"]

Labels = Literal["model", "data"]
"""Where the classes come from: the expectation over the model's own predictions, or the labels of the samples."""

_GRADIENTS_AT_ONCE = 2**27
"""Elements: as many classes' gradients of a sample are kept at once, 0.5 GB."""


def fisher_information(
    calibration: Calibration, expert: str, weights: StateDict, labels: Labels = "model"
) -> dict[str, Tensor]:
    """The mean over samples `x` of the expectation over classes `y` of `(d log p(y | x) / d parameter) ** 2`.

    This is `F` of Fisher merging (arXiv 2111.09832); with the labels it is called the empirical one.

    Args:
        calibration: The samples.
        expert: By whose name they are known.
        weights: Of the expert.
        labels: Where `y` comes from.

    Returns:
        Parameter names, the first of tied ones, to tensors of their shape, float32, on the CPU.
    """
    with torch.inference_mode(False), torch.enable_grad():
        backbone = calibration.backbone()
        backbone.load_state_dict(weights)
        parameters: dict[str, Tensor] = dict(named_parameters(backbone))
        total = {key: torch.zeros_like(parameter) for key, parameter in parameters.items()}
        count = 0
        for inputs, target in calibration.batches(expert, size=1):
            logs = calibration.logits(expert, backbone, (inputs, target))[0].log_softmax(dim=0)
            classes = torch.eye(len(logs), device=logs.device)
            chances = logs.detach().exp()
            if labels == "data":
                classes, chances = classes[target], torch.ones_like(chances[:1])
            for key, squares in _expected_squares(logs, classes, chances, parameters).items():
                total[key] += squares
            count += 1
        return {key: one.cpu() / count for key, one in total.items()}


def _expected_squares(
    logs: Tensor, classes: Tensor, chances: Tensor, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The expectation over classes of the squared gradients of one sample.

    Args:
        logs: Log-probabilities, shape `(c,)`.
        classes: Of which the gradients are taken, one-hot, shape `(k, c)`.
        chances: Of these classes, shape `(k,)`.
        parameters: Names to what the gradients are taken by.
    """
    at_once = max(1, _GRADIENTS_AT_ONCE // sum(parameter.numel() for parameter in parameters.values()))
    total: dict[str, Tensor] = {}
    for some, their_chances in zip(torch.split(classes, at_once), torch.split(chances, at_once), strict=True):
        gradients = torch.autograd.grad(
            logs,
            list(parameters.values()),
            some,
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
        )
        for key, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                squares = torch.tensordot(their_chances, gradient.square(), dims=1)
                total[key] = total[key] + squares if key in total else squares
    return total
