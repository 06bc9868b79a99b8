"""Threads that share work: each item once, an error at once, and nothing left behind."""

import threading

import pytest
import torch

from fusion_eval.threads import for_each


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_each_item_is_taken_once():
    taken = []
    for_each(taken.append, range(1000))
    assert sorted(taken) == list(range(1000))


def test_work_within_work_stays_on_its_thread():
    seen = []

    def outer(_item):
        here = threading.get_ident()
        for_each(lambda _: seen.append(threading.get_ident() == here), range(20))

    for_each(outer, range(20))
    assert seen == [True] * 400


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_others_take_nothing_more(error):
    failed = threading.Event()
    after = []

    def work(item):
        if item == 50:
            failed.set()
            raise error("item 50")
        if failed.is_set():
            after.append(item)
            threading.Event().wait(0.01)

    threads = threading.active_count()
    with pytest.raises(error, match="item 50"):
        for_each(work, range(100_000))
    assert len(after) < 1000
    assert threading.active_count() == threads
    assert torch.get_num_threads() == 4
