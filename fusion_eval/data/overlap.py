"""Samples that are in two splits at once: what was trained, calibrated or chosen on must not be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.data.transform import TransformedSamples
from fusion_eval.errors import FusionEvalError

__all__ = ["Overlap", "describe_overlaps", "find_overlap", "scan_overlaps"]


@dataclass(frozen=True)
class Overlap:
    """What is known of the samples of one split that are in another one too.

    Attributes:
        shared: How many samples of the split are in the other one.
        count: How many it has.
        examples: The first of them, at most five: index in this split and index in the other one.
        unknown: Why the other split could not be searched; empty if it was.
    """

    shared: int = 0
    count: int = 0
    examples: tuple[tuple[int, int], ...] = ()
    unknown: str = ""


def find_overlap(samples: Samples, other: Samples) -> Overlap:
    """Search the inputs of samples among those of others.

    Inputs are compared as they are before any transform (decoded pixels, numbers, text) by a digest of their content,
    whatever their targets. So the same pixels are found in another file format, but an image that was compressed or
    resized once more is another image.

    Example:
        >>> import torch
        >>> from fusion_eval.data import TensorSamples
        >>> test, train = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[5.0], [2.0]])
        >>> find_overlap(TensorSamples(test, torch.zeros(3)), TensorSamples(train, torch.zeros(2)))
        Overlap(shared=1, count=3, examples=((1, 1),), unknown='')
    """
    return _compare(_digests(samples), _digests(other))


def scan_overlaps(
    evaluated: Mapping[str, DataSource], others: Mapping[str, Mapping[str, DataSource]]
) -> dict[str, dict[str, Overlap]]:
    """Search the evaluated samples of each task among its other data. Everything is read and decoded once.

    Args:
        evaluated: Task name to the data that it is evaluated on.
        others: Task name to other data by name, such as the split.

    Returns:
        Task name and name of the other data to what they share.
    """
    return {task: _scan(evaluated[task], named) for task, named in others.items()}


def describe_overlaps(overlaps: Mapping[str, Mapping[str, Overlap]]) -> list[str]:
    """A sentence for each overlap, and for each that is not known.

    Example:
        >>> describe_overlaps({"mnist": {"train": Overlap(2, 1000, ((3, 8), (5, 1))), "val": Overlap(0, 1000)}})
        ["mnist: 2 of 1,000 evaluated samples (0.2%) are also in 'train' (samples 3, 5)"]
    """
    sentences = []
    for task, named in overlaps.items():
        for name, found in named.items():
            if found.unknown:
                sentences.append(f"{task}: whether evaluated samples are also in {name!r} is unknown: {found.unknown}")
            elif found.shared:
                which = ", ".join(str(index) for index, _ in found.examples)
                sentences.append(
                    f"{task}: {found.shared:,} of {found.count:,} evaluated samples ({found.shared / found.count:.1%}) "
                    f"are also in {name!r} (samples {which}{', ...' if found.shared > len(found.examples) else ''})"
                )
    return sentences


def _scan(evaluated: DataSource, others: Mapping[str, DataSource]) -> dict[str, Overlap]:
    try:
        digests = _digests(evaluated.load())
    except FusionEvalError as error:
        return dict.fromkeys(others, Overlap(unknown=str(error)))
    return {name: _search(digests, other) for name, other in others.items()}


def _search(digests: list[str], source: DataSource) -> Overlap:
    try:
        return _compare(digests, _digests(source.load()))
    except FusionEvalError as error:  # there may be no such split: that is to be said, and no reason to stop
        return Overlap(unknown=str(error))


def _compare(digests: list[str], others: list[str]) -> Overlap:
    place = {digest: index for index, digest in reversed(list(enumerate(others)))}
    shared = [(index, place[digest]) for index, digest in enumerate(digests) if digest in place]
    return Overlap(len(shared), len(digests), tuple(shared[:5]))


def _digests(samples: Samples) -> list[str]:
    while isinstance(samples, TransformedSamples):
        samples = samples.untransformed
    return [digest_content([samples[index][0]]) for index in range(len(samples))]
