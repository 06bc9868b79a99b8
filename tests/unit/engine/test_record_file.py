from __future__ import annotations

import zipfile

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion_eval.engine.record_file import DamagedRecordError, Record, read_record, write_record
from fusion_eval.errors import FusionEvalError
from fusion_eval.report import TaskResult

DTYPES = st.sampled_from(["<i8", "<i4", "|u1", "|b1", "<f4", "<f8", "<f2"])
FLOATS = st.floats(allow_nan=False)


def record(result):
    return Record({"weights": "abc", "settings": {"seed": 0, "share": 0.1}}, "merged on mnist", result)


def result(count=3, **fields):
    samples = {"index": np.arange(count), "loss": np.linspace(0, 1, count, dtype=np.float32)}
    return TaskResult(
        **{"metrics": {"loss": 0.5}, "standard_errors": {}, "primary": "loss", "count": count, "seconds": 1.5}
        | {"samples": samples, "scores": samples["loss"], "evaluated_at": "2026-11-23T12:00:00+00:00"}
        | fields
    )


def write(directory, written):
    path = directory / f"{written.key}.zip"
    write_record(path, written)
    return path


def plain(result):
    return {name: value for name, value in vars(result).items() if name not in ("samples", "scores")}


def same_bits(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(0, 5))
def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path_factory, data, count):
    column = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, count))
    written = result(
        count,
        metrics={"a": data.draw(FLOATS), "b": data.draw(FLOATS)},
        standard_errors=data.draw(st.dictionaries(st.text(), FLOATS)),
        primary="b",
        seconds=data.draw(FLOATS),
        samples=data.draw(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), column, max_size=4)),
        scores=data.draw(st.none() | column),
        fingerprints={"data": "ä"},
        higher_is_better=data.draw(st.booleans()),
    )
    path = write(tmp_path_factory.mktemp("store"), record(written))
    read = read_record(path)
    assert (read.depends_on, read.label) == (record(written).depends_on, "merged on mnist")
    assert plain(read.result) == plain(written)
    assert list(read.result.samples) == list(written.samples)
    assert all(same_bits(read.result.samples[name], column) for name, column in written.samples.items())
    assert read.result.scores is written.scores is None or same_bits(read.result.scores, written.scores)


def test_strings_come_back_as_they_were(tmp_path):
    names = np.array(["a", "", "ä b"])
    read = read_record(write(tmp_path, record(result(samples={"name": names}, scores=None))))
    assert same_bits(read.result.samples["name"], names)


def test_other_tools_open_it(tmp_path):
    path = write(tmp_path, record(result()))
    with zipfile.ZipFile(path) as archive:
        archive.extract("samples.parquet", tmp_path)
        assert b"merged on mnist" in archive.read("result.json")
    assert pyarrow.parquet.read_table(tmp_path / "samples.parquet")["index"].to_pylist() == [0, 1, 2]


def test_no_damage_goes_unnoticed(tmp_path):
    """Any byte: either the content is the same all the same (a time stamp in the archive, say), or it is refused."""
    written = result()
    path = write(tmp_path, record(written))
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        try:
            read = read_record(path)
        except DamagedRecordError:
            refused += 1
            continue
        assert plain(read.result) == plain(written)
        assert all(same_bits(read.result.samples[name], column) for name, column in written.samples.items())
        assert same_bits(read.result.scores, written.scores)
    assert refused > 0.8 * len(content) / 3


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path, length):
    path = write(tmp_path, record(result()))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedRecordError, match=rf"{path.name} is damaged: "):
        read_record(path)


def test_a_result_under_the_name_of_another_is_refused(tmp_path):
    path = write(tmp_path, record(result())).rename(tmp_path / f"{'0' * 32}.zip")
    with pytest.raises(DamagedRecordError, match="holds the result of another key"):
        read_record(path)


def test_a_missing_file_and_one_that_cannot_be_written_are_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none.zip")
    (tmp_path / "file").touch()
    with pytest.raises(FusionEvalError, match="cannot write"):
        write(tmp_path / "file", record(result()))
