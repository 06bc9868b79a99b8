from __future__ import annotations

import subprocess
import sys

import pytest

from fusion_eval.errors import FusionEvalError
from fusion_eval.report.atomic import atomic_file


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_others_may_read_it_as_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_file(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_directory_in_the_way_is_named(tmp_path):
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(FusionEvalError, match=r"cannot write .*file: "), atomic_file(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file"]


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(FusionEvalError, match=r"cannot write .*report\.json: "),
        atomic_file(tmp_path / "file" / "report.json"),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_when_the_kernel_takes_no_more_bytes_the_old_file_stays(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    script = """
import resource, sys
from pathlib import Path
from fusion_eval.errors import FusionEvalError
from fusion_eval.report.atomic import atomic_file
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic_file(Path(sys.argv[1])) as file:
        file.write(bytes(100_000))
except FusionEvalError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["report.json"]
