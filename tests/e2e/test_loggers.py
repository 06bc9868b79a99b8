"""What Lightning's loggers have of a sweep: the numbers of each job's merged model. Real runs, or skipped."""

from __future__ import annotations

import csv
import json
import struct
from importlib.util import find_spec

import pytest

TINY = ("limit=20", "bootstrap=0", "~taskpool.tasks.mnist", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")


@pytest.fixture
def logged(fusion_eval, tmp_path):
    """`logged(logger)`: run two jobs; their directories, and what must have been logged in each."""

    def run(logger, package):
        if package is not None and find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        fusion_eval("-m", *TINY, f"logger={logger}", "model.scaling=0,1", "hydra.sweep.dir=sweep")
        found = []
        for job in range(2):
            directory = tmp_path / f"sweep/{job}"
            report = json.loads((directory / "report.json").read_text())
            numbers = {f"optdigits/{name}": value for name, value in report["report"]["optdigits"].items()}
            for group, named in report["aggregates"].items():
                numbers |= {f"{group}/{name}": entry["value"] for name, entry in named.items()}
            assert numbers.keys() >= {"optdigits/accuracy", "mean/accuracy", "normalised/mean_of_ratios"}
            found.append((directory, numbers))
        assert found[0][1] != found[1][1]
        return found

    return run


def test_csv(logged):
    for scaling, (directory, numbers) in enumerate(logged("csv", None)):
        [row] = csv.DictReader((directory / "csv/metrics.csv").open(encoding="utf-8"))
        assert {name: float(value) for name, value in row.items() if name != "step"} == pytest.approx(numbers)
        assert f"scaling: {scaling}" in (directory / "csv/hparams.yaml").read_text()


def test_tensorboard(logged):
    runs = logged("tensorboard", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for directory, numbers in runs:
        events = EventAccumulator(str(directory / "tensorboard")).Reload()
        scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        assert scalars == {name: [pytest.approx(value)] for name, value in numbers.items()}


def test_wandb_offline(logged):
    runs = logged("wandb", "wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    for directory, numbers in runs:
        [file] = directory.glob("wandb/offline-run-*/run-*.wandb")
        found = [Record.FromString(entry) for entry in log_entries(file.read_bytes())]
        items = [item for record in found if record.HasField("history") for item in record.history.item]
        seen = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
        assert {name: seen[name] for name in numbers} == pytest.approx(numbers)
        assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]


def log_entries(data, header=7, block=32768):
    """The entries of a LevelDB log: pieces with a header of checksum, length and kind, none across two blocks."""
    entry, place = b"", header
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        entry += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield entry
            entry = b""


def test_mlflow(logged, tmp_path):
    runs = logged("mlflow", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fusion-eval")
    found = {run.data.params["model/scaling"]: run for run in client.search_runs([experiment.experiment_id])}
    for scaling, (_, numbers) in enumerate(runs):
        assert found[str(scaling)].data.metrics == pytest.approx(numbers)
        assert found[str(scaling)].info.status == "FINISHED"
