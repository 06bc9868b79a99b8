from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion_eval
from fusion_eval.report.provenance import provenance

PACKAGE = Path(fusion_eval.__file__).parent


def git(directory, *arguments):
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def forget():
    """Be another process: checkouts are asked for once in each."""
    module = sys.modules["fusion_eval.report.provenance"]
    module._package.cache_clear()
    module._working_directory.cache_clear()


@pytest.fixture(autouse=True)
def nothing_remembered():
    forget()
    yield
    forget()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_plain_json_and_says_what_ran(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fusion-eval", "model=ties", "x=a b"])
    config = {"seed": 1, "path": Path("data"), "nested": {"list": [1, None]}}
    found = provenance(config)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["config"] == {"seed": 1, "path": "data", "nested": {"list": [1, None]}}
    assert found["command"] == "fusion-eval model=ties 'x=a b'"
    age = datetime.now(timezone.utc) - datetime.fromisoformat(found["started"])
    assert timedelta(seconds=-1) <= age < timedelta(minutes=1)


def test_versions_are_those_of_the_imported_packages():
    versions = provenance({})["versions"]
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["fusion-eval"] == importlib.metadata.version("fusion-eval")
    assert None not in versions.values()


def test_hardware():
    hardware = provenance({})["hardware"]
    assert 1 <= hardware["cores"] <= os.cpu_count()
    assert hardware["cpu"]
    assert len(hardware["gpus"]) == torch.cuda.device_count()


def test_the_working_directory_is_a_repository_of_its_own(repository):
    state = provenance({})["git"]["working_directory"]
    assert state == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
    (repository / "new").touch()
    assert provenance({})["git"]["working_directory"] == state, "as it was when the process began"
    forget()
    assert provenance({})["git"]["working_directory"]["dirty"] is True
    (repository / "new").unlink()
    (repository / "file").write_text("2")
    forget()
    assert provenance({})["git"]["working_directory"]["dirty"] is True


def test_a_directory_without_repository_or_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert provenance({})["git"]["working_directory"] is None
    git(tmp_path, "init", "-q")
    forget()
    assert provenance({})["git"]["working_directory"] is None


def test_the_checkout_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not git(PACKAGE, "ls-files", "__init__.py"):
        pytest.skip("this package is not in a checkout")
    state = provenance({})["git"]["fusion_eval"]
    assert state["commit"] == git(PACKAGE, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert provenance({})["git"]["fusion_eval"] == state  # as it was when this process started
    monkeypatch.undo()
    monkeypatch.chdir(PACKAGE)
    assert provenance({})["git"]["working_directory"] is None


def test_git_may_be_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance({})["git"] == {"fusion_eval": None, "working_directory": None}


def test_an_installed_package_inside_somebodys_checkout_is_not_that_checkout(repository):
    site = repository / "venv"
    shutil.copytree(PACKAGE / "report", site / "fusion_eval" / "report", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "errors.py", site / "fusion_eval")
    (site / "fusion_eval" / "__init__.py").touch()
    script = (
        "import json, sys, fusion_eval.report as room;"
        "heavy = {'torch', 'lightning', 'pyarrow', 'rich'} & set(sys.modules);"
        "print(json.dumps([room.__file__, room.provenance({})['git'], sorted(heavy)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, state, heavy = json.loads(done.stdout)
    assert file.startswith(str(site))
    assert state["fusion_eval"] is None
    assert state["working_directory"]["commit"] == git(repository, "rev-parse", "HEAD")
    assert heavy == []
