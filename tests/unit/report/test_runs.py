"""Reading runs back, whatever is on the disk."""

from __future__ import annotations

import json

import pytest

from fusion_eval.errors import ConfigError, DataError
from fusion_eval.report.runs import Run, find_runs, label_runs, read_run
from fusion_eval.report.seal import open_sealed, seal


def test_a_run_is_read_back(make_run):
    run = read_run(make_run("run", 0.7, density=0.2))
    assert (run.status, run.selected_on, run.tasks, run.splits) == (
        "complete",
        "not recorded",
        ["mnist", "svhn"],
        ["test"],
    )
    value, error = run.value("mnist.accuracy")
    assert value == run.scores("mnist").mean()
    assert error == run.document["standard_errors"]["mnist"]["accuracy"]
    assert run.value("mean.accuracy")[0] == pytest.approx(sum(run.scores(task).mean() for task in run.tasks) / 2)
    assert run.value("normalised.share_of_gap")[0] is not None
    assert run.value("nothing.here") == (None, None)
    assert len(run.samples("svhn", "base")["target"]) == 250
    assert {"mean.loss", "svhn.accuracy", "worst.normalised"} <= set(run.names())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "no digest"),
        (b'{"status": "complete"}', "no digest"),
        (b'{"digest": NaN}', "report.json"),
        (b'{"digest": "ab", "schema_version": 1}', "changed after"),
        (seal({"schema_version": 99}), "schema_version 99"),
    ],
)
def test_garbage_is_named_and_does_not_hide_the_others(make_run, tmp_path, content, says):
    make_run("good", 0.7)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/report.json").write_bytes(content)
    runs, unread = find_runs([tmp_path])
    assert [run.directory.name for run in runs] == ["good"]
    assert len(unread) == 1
    assert "bad/report.json" in unread[0]
    assert says in unread[0]


def test_every_changed_byte_of_a_report_is_noticed(make_run):
    path = make_run("run", 0.7) / "report.json"
    data = path.read_bytes()
    assert seal(open_sealed(path)) == data
    for position in range(0, len(data), 97):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DataError):
            read_run(path)


def test_a_report_with_any_text_survives(tmp_path):
    path = tmp_path / "report.json"
    document = {"ü": 'a\udc80\u2028\n"\\', "numbers": [1e-300, 0.1, 10**30], "null": None}
    path.write_bytes(seal(document))
    assert open_sealed(path) == document
    assert json.loads(path.read_bytes())["numbers"] == document["numbers"]


def test_runs_are_found_once_in_the_order_of_their_numbers(make_run, tmp_path):
    for job in (10, 2, 1):
        make_run(f"sweep/{job}", 0.5)
    runs, _ = find_runs([tmp_path / "sweep", tmp_path, tmp_path / "sweep/2"])
    assert [run.directory.name for run in runs] == ["1", "2", "10"]
    with pytest.raises(ConfigError, match="nowhere: no such directory"):
        find_runs([tmp_path / "nowhere"])


def test_labels_tell_what_differs_and_nothing_else(make_run, tmp_path):
    make_run("0", 0.5, density=0.2, trim="global")
    make_run("1", 0.5, density=0.5, trim="global")
    make_run("2", 0.5, _target_="fusion_eval.merging.Average", scaling=1.0)
    make_run("3", 0.5, _target_="m.Lines", method={"_target_": "m.Ties", "density": 0.1})
    make_run("4", 0.5, _target_="m.Lines", method={"_target_": "m.Sum"})
    labels = label_runs(find_runs([tmp_path])[0])
    assert labels == [
        "Ties density=0.2",
        "Ties density=0.5",
        "Average",
        "Lines method=Ties method.density=0.1",
        "Lines method=Sum",
    ]


def test_equal_runs_are_told_apart_by_their_directories(make_run, tmp_path):
    make_run("first/0", 0.5)
    make_run("second/0", 0.6)
    assert label_runs(find_runs([tmp_path])[0]) == ["Ties [first/0]", "Ties [second/0]"]


def test_labels_name_the_experts_left_out_and_no_place_to_log_to(tmp_path):
    def run(job, *experts, **settings):
        pool = {"experts": {name: f"{name}.safetensors" for name in experts}}
        logger = {"save_dir": str(tmp_path / job)}
        config = {"model": {"_target_": "Average"}, "modelpool": pool, "trainer": {"logger": logger}, **settings}
        return Run(tmp_path / job, {"provenance": {"config": config}})

    runs = [run("0", "a", "b"), run("1", "b"), run("2", "a", "b", seed=1), run("3")]
    assert label_runs(runs)[1::2] == ["Average ~experts.a", "Average ~experts.a ~experts.b"]
    moved = Run(tmp_path, json.loads(json.dumps(runs[0].document).replace("a.safe", "c.safe")))
    assert label_runs([runs[0], moved]) == [
        "Average modelpool.experts.a=a.safetensors",
        "Average modelpool.experts.a=c.safetensors",
    ]


def test_the_split_of_the_whole_run_is_what_it_was_measured_on(make_run):
    run = read_run(make_run("run", 0.7))
    run.document["provenance"]["config"]["split"] = "val"
    assert run.splits == ["val"]
