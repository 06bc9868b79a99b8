from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusion_eval.errors import CheckpointError
from fusion_eval.models.hub import local_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import json, sys
from fusion_eval.errors import CheckpointError
from fusion_eval.models.hub import local_path

def found(path):
    try:
        return str(local_path(path))
    except CheckpointError as error:
        return str(error)

print(json.dumps({path: found(path) for path in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """The one repository in a cache that has the form of huggingface_hub's."""
    repository = tmp_path_factory.mktemp("home") / "hub/models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "pytorch_model.bin").write_text("weights")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    return snapshot


@pytest.fixture(scope="module")
def offline(snapshot):
    """What `local_path` makes of some ids in a process without a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(snapshot.parents[3])}
    command = [sys.executable, "-c", CODE, "owner/name", f"owner/name@{COMMIT}", "owner/other@v2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_exists_is_taken_as_it_is(tmp_path):
    assert local_path(str(tmp_path)) == tmp_path
    assert local_path("~") == Path.home()


@pytest.mark.parametrize("path", ["/no/such", "no_such", "a/b/c", "models/resnet50.pth", "pkg://a/b", "https://a/b"])
def test_a_path_that_is_no_id_on_the_hub_is_not_looked_for_there(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"^{path}: no such file or directory$"):
        local_path(path)


@pytest.mark.parametrize("path", ["owner/name", f"owner/name@{COMMIT}"])
def test_what_was_downloaded_before_is_there_without_a_network(offline, snapshot, path):
    assert offline[path] == str(snapshot)


def test_offline_the_error_says_where_it_was_looked_for_and_what_to_download(offline, snapshot):
    error = offline["owner/other@v2"]
    assert error.startswith(f"owner/other@v2: there is no directory {Path('owner/other@v2').absolute()}, nor is it in ")
    assert f"the cache of the Hugging Face hub, {snapshot.parents[2]}, and it could not be downloaded: " in error
    assert "run `hf download owner/other --revision v2 --local-dir DIR` where there is a network" in error
    assert error.endswith("bring DIR here and give it instead of owner/other@v2")
