"""The README is true: its commands run, its Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def files(tmp_path):
    """The files that the README's commands read, made by the blocks that show them."""
    for name, text in re.findall(r"`(\S+\.yaml)`:\n\n```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", [line for line in commands() if line.split()[0] == "fusion-eval"])
def test_a_command_runs(command, fusion_eval, tmp_path):
    arguments = shlex.split(command)[1:]
    if "merged.safetensors" in command:
        fusion_eval("taskpool=dummy", "taskpool.save_path=merged.safetensors", "model=average")
    quick = [] if arguments in ([], ["--help"]) or "--cfg" in arguments else ["limit=41", "bootstrap=0"]
    done = fusion_eval(*arguments, *quick)
    assert done.stdout


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_a_command_that_downloads_composes(command, fusion_eval):
    assert "taskpool:" in fusion_eval(*shlex.split(command)[1:], "--cfg", "job").stdout


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, forks, clean_environment):
    """A directory in which the sweep of the README ran."""
    [command] = [line for line in commands() if "hydra.sweep.dir=sweep" in line]
    directory = tmp_path_factory.mktemp("readme")
    environment = {**clean_environment, "FUSION_EVAL_CACHE": str(directory / "cache")}
    program = ["-m", "fusion_eval", *shlex.split(command)[1:], "limit=41", "bootstrap=0"]
    forks.run(program, directory, environment).check_returncode()
    return directory


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("fusion-eval-report")])
def test_a_command_on_reports_runs(command, sweep, forks, environment):
    program = ["-c", "from fusion_eval.report_cli import main; main()", *shlex.split(command)[1:]]
    done = forks.run(program, sweep, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_what_is_not_fusion_eval_is_tested_elsewhere_or_here():
    others = [line for line in commands() if not line.startswith("fusion-eval")]
    assert set(others) <= {"make run", "make test", 'pip install "fusion-eval[embedded]"'} | {
        line for line in others if line.startswith("python -m fusion_eval.zoo.train")
    }


@pytest.mark.skipif(not (Path(sys.prefix) / ".run").exists(), reason="not in the environment that make sets up")
def test_make_run(environment):
    done = subprocess.run(
        ["make", "run", f"VENV={sys.prefix}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mean.accuracy" in done.stdout


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, tmp_path, environment, forks):
    done = forks.run(["-c", code], tmp_path, environment)
    assert done.returncode == 0, done.stderr


def test_the_table_is_what_the_run_prints(started_alone):
    shown = next(block for block in blocks("text") if "mean_of_ratios" in block)
    printed = started_alone().stdout
    rows, printed_rows = ([line.split() for line in text.splitlines() if line.strip()] for text in (shown, printed))
    assert len(rows) == len(printed_rows) - 1  # the last line says where the report is
    for row, printed_row in zip(rows, printed_rows[:-1], strict=True):
        assert len(row) == len(printed_row)
        assert all(map(alike, row, printed_row)), (row, printed_row)


def alike(shown, printed):
    """Equal words; numbers within what another processor's order of addition can move (a sample or two)."""
    try:
        return float(shown.replace(",", "")) == pytest.approx(float(printed.replace(",", "")), abs=0.005)
    except ValueError:
        return shown == printed


@pytest.mark.parametrize("row", ["base", "average", "task arithmetic", "TIES", "experts"])
def test_the_table_of_the_zoo_is_the_one_that_is_checked(row):
    zoo = (ROOT / "fusion_eval/zoo/README.md").read_text(encoding="utf-8")
    [line] = [line for line in zoo.splitlines() if line.startswith(f"| {row}") and "±" in line]
    assert line in README.splitlines()
