"""The package as others get it: sdist, wheel, a venv that has never seen the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build an sdist from the tracked files, and the wheel from that sdist."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel], [sdist] = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_and_sdist_hold_every_config_and_checkpoint(built):
    wheel, sdist = built
    configs = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    weights = {path.name for path in (ROOT / "fusion_eval/zoo").glob("*.safetensors")}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {f"fusion_eval/conf/{name}" for name in configs} <= in_wheel
    assert {f"fusion_eval/zoo/{name}" for name in weights} <= in_wheel
    assert "fusion_eval/py.typed" in in_wheel
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in in_wheel)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    in_sdist = {name.partition("/")[2] for name in names}
    assert {f"conf/{name}" for name in configs} <= in_sdist


def test_the_installed_wheel_runs_in_an_empty_directory(built, tmp_path, environment):
    wheel, _ = built
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    # Only the dependencies come from here: a .pth file inside a directory that a .pth file adds is not read, so an
    # editable install of the checkout stays out of sight.
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty = tmp_path / "empty"
    empty.mkdir()
    run = [tmp_path / "venv/bin/fusion-eval", "limit=41", "bootstrap=0", "references=false", "hydra.run.dir=run"]
    done = subprocess.run(run, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((empty / "run/report.json").read_text())["status"] == "complete"
    where = subprocess.run(
        [python, "-c", "import fusion_eval.conf; print(fusion_eval.conf.__file__)"],
        cwd=empty,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(where.strip()).is_relative_to(site)
