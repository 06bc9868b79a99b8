"""Threads that change no bit: each does whole slices by itself, and what must not be split runs on one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["for_each", "one_thread"]

_Item = TypeVar("_Item")


def for_each(work: Callable[[_Item], None], items: Sequence[_Item]) -> None:
    """Call a function with each item, on as many threads as torch would compute with.

    Torch shares an operation on a slice that fits into a core's cache among threads badly, or not at all. Here a thread
    takes a slice through all operations, and while it waits for memory another one computes.

    Args:
        work: May be called by several threads at once, in any order. What it computes with torch it computes on one
            thread, without gradients.
        items: What it is called with.
    """
    threads = min(torch.get_num_threads(), len(items))
    waiting = iter(items)  # shared: each item is taken once

    @torch.inference_mode(torch.is_inference_mode_enabled())  # of this thread: a new one would be in no mode
    @torch.no_grad()
    def work_off() -> None:
        try:
            for item in waiting:
                work(item)
        finally:
            deque(waiting, maxlen=0)  # after an error nothing is left for the others

    if threads <= 1:
        work_off()
        return
    with one_thread(), ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work_off) for _ in range(threads - 1)]
        work_off()
        for other in others:
            other.result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: matrix products and decompositions do not depend on how many there are then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
