"""How many samples go through the model at once: as many as were asked for, or as many as prove fastest."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from fusion_eval.errors import FusionEvalError
from fusion_eval.report.atomic import atomic_file

__all__ = ["BatchSize", "is_out_of_memory"]

_FIRST, _FIRST_ON_CPU = 64, 32
"""Where the search starts: a GPU has more to fill."""

_LARGEST = 4096
"""Where it ends, at the latest."""

_TIMED = 2
"""Batches of one size that are timed, after one that is not: the first of a size allocates, and picks algorithms."""

_FASTER = 0.97
"""Part of the time a sample that a larger batch has to come down to; less is noise, and costs memory."""

_PATIENCE, _PATIENCE_ON_CPU = 2, 1
"""Sizes in a row that are not faster, after which the search ends."""

_SEEN, _SEEN_ON_CPU = 0, 4
"""Times a size is tried for how many samples have gone through the model before. On a CPU larger may be slower: this
bounds what the search costs to a few hundredths, however few samples there are. On a GPU it seldom is."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What torch's allocators and CUDA's libraries say."""

_log = logging.getLogger(__name__)


class BatchSize:
    """The size of the next batch of one model on one device.

    The fastest size is searched on the batches of the evaluation itself, so that no forward is in vain: sizes double
    until they are not faster than the best one any more. It goes on from task to task until it is found.

    Args:
        asked: Samples a batch; None: what is fastest.
        device: That the model runs on.
        memory: File in which the fastest size is remembered; None: nowhere.

    Attributes:
        size: Samples of the next batch.
        settled: Whether all batches to come are of this size, unless they do not fit.
        limit: How many samples may fit into memory, as far as it is known.
    """

    def __init__(self, asked: int | None, device: torch.device, memory: Path | None = None) -> None:
        known = asked or _recall(memory)
        self.size = known or (_FIRST_ON_CPU if device.type == "cpu" else _FIRST)
        self.settled = known is not None
        self.limit: float = math.inf
        self._device = device
        self._memory = memory
        on_cpu = device.type == "cpu"
        self._patience = _PATIENCE_ON_CPU if on_cpu else _PATIENCE
        self._worth = _SEEN_ON_CPU if on_cpu else _SEEN
        self._seen = 0
        self._costs: dict[int, list[float]] = {}

    @contextmanager
    def timed(self, samples: int, data: Any) -> Iterator[None]:
        """Run a batch; while the search lasts, the device is waited for.

        Args:
            samples: How many there are in it.
            data: Them. The time is taken by the number in their tensors, as samples may differ in length.
        """
        if self.settled or samples != self.size:  # the last batch of a task, or one that was read ahead
            yield
            return
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        costs = self._costs.setdefault(samples, [])
        costs.append((time.perf_counter() - started) / _numbers_in(data))
        self._seen += samples
        if len(costs) > _TIMED:
            self._choose_next()

    def halve(self, samples: int) -> None:
        """Go on with less, as this many samples do not fit into memory."""
        self.limit = half = (samples + 1) // 2
        measured = {size: costs for size, costs in self._costs.items() if size <= self.limit and len(costs) > _TIMED}
        if self.size > self.limit:
            self.size, self.settled = self._fastest(measured) if measured else half, True
        _log.warning("%d samples at once do not fit into memory: %d from here on", samples, self.size)

    def _choose_next(self) -> None:
        best = self._fastest(self._costs)
        if self.size < _LARGEST and sum(size > best for size in self._costs) < self._patience:
            if self._seen >= self._worth * 2 * self.size:
                self.size *= 2
            return
        self.size, self.settled = best, True
        if self._memory is not None:
            with suppress(FusionEvalError), atomic_file(self._memory) as file:  # else it is found again
                file.write(json.dumps({"batch_size": best}).encode())

    def _fastest(self, costs: dict[int, list[float]]) -> int:
        best, *larger = sorted(costs)
        for size in larger:
            if min(costs[size][-_TIMED:]) < _FASTER * min(costs[best][-_TIMED:]):
                best = size
        return best

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that memory ran out, on any device."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def _numbers_in(data: Any) -> int:
    return sum(part.numel() for part in tree_leaves(data) if isinstance(part, torch.Tensor))


def _recall(memory: Path | None) -> int | None:
    if memory is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        size = json.loads(memory.read_text())["batch_size"]
        return size if isinstance(size, int) and size > 0 else None
    return None
