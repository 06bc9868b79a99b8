from __future__ import annotations

import os

import pytest

from fusion_eval import cpus
from fusion_eval.cpus import usable_cpus


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Writes the files of a control group, on a machine of 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)

    def write(**files):
        for name, text in files.items():
            file = tmp_path / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


QUOTAS = {
    "none": ({}, 16),
    "no limit": ({"cpu_max": "max 100000\n"}, 16),
    "two": ({"cpu_max": "200000 100000\n"}, 2),
    "one and a half": ({"cpu_max": "150000 100000\n"}, 2),
    "a tenth": ({"cpu_max": "10000 100000\n"}, 1),
    "more than there are": ({"cpu_max": "6400000 100000\n"}, 16),
    "nonsense": ({"cpu_max": "nonsense"}, 16),
    "version 1, no limit": ({"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, 16),
    "version 1, four": ({"cpu__cpu_cfs_quota_us": "400000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 4),
}


@pytest.mark.parametrize(("files", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_a_quota_counts_as_processors(cgroup, files, expected):
    assert usable_cpus(cgroup(**files)) == expected


def test_what_the_system_lets_the_process_run_on_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert usable_cpus(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.usable_cpus(tmp_path) == 1
