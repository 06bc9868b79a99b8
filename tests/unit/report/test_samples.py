from __future__ import annotations

from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_eval.errors import DataError, FusionEvalError
from fusion_eval.report.samples import decode_samples, encode_samples, read_samples, samples_path, write_samples

SAMPLES = {
    "index": np.arange(5),
    "target": np.array([0, 1, 2, 1, 0], dtype=np.int64),
    "prediction": np.array([0, 1, 1, 1, 0], dtype=np.int32),
    "loss": np.array([0.1, np.nan, np.inf, -0.0, 1e-30], dtype=np.float32),
    "confidence": np.linspace(0, 1, 5),
    "correct": np.array([True, True, False, True, True]),
}


def test_what_is_written_is_read_back_in_order_with_its_types(tmp_path):
    write_samples(tmp_path, "mnist", encode_samples(SAMPLES))
    read = read_samples(tmp_path, "mnist")
    assert list(read) == list(SAMPLES)
    for name, column in SAMPLES.items():
        assert read[name].dtype == column.dtype
        np.testing.assert_array_equal(read[name], column)


@given(n=st.integers(0, 40), dtype=st.sampled_from(["?", "i1", "u2", "i8", "f2", "f4", "f8"]), seed=st.integers(0, 99))
def test_columns_of_any_length_and_type_are_read_back(n, dtype, seed):
    column = np.random.default_rng(seed).integers(0, 2, n).astype(dtype)
    read = decode_samples(encode_samples({"x": column}))["x"]
    assert read.dtype == column.dtype
    np.testing.assert_array_equal(read, column)


def test_others_can_read_it(tmp_path):
    parquet = encode_samples({**SAMPLES, "text": np.array(["ä", "", "c", "d", "e"])})
    table = pd.read_parquet(write_samples(tmp_path, "mnist", parquet))
    assert list(table.text) == ["ä", "", "c", "d", "e"]
    pd.testing.assert_frame_equal(table.drop(columns="text"), pd.DataFrame(SAMPLES))


def test_no_samples(tmp_path):
    write_samples(tmp_path, "empty", encode_samples({"index": np.empty(0, dtype=np.int64)}))
    assert read_samples(tmp_path, "empty")["index"].shape == (0,)


def test_equal_samples_give_equal_bytes(tmp_path):
    first = encode_samples(SAMPLES)
    assert write_samples(tmp_path, "mnist", first).read_bytes() == first == encode_samples(dict(SAMPLES))
    assert first != encode_samples({**SAMPLES, "index": np.arange(1, 6)})


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_task_name_is_one_file_and_can_be_told_from_it(tmp_path_factory, task):
    directory = tmp_path_factory.getbasetemp()
    path = samples_path(directory, task)
    assert path.resolve().parent == (directory / "samples").resolve()
    assert path.name.isascii()
    assert unquote(path.name.removesuffix(".parquet")) == task


@pytest.mark.parametrize("task", ["a/b", "../../etc/passwd", "..", ".", "a b", "50%", "a%2Fb", "ä", "C:\\x", "a\nb"])
def test_awkward_task_names_stay_in_the_directory(tmp_path, task):
    write_samples(tmp_path, task, encode_samples(SAMPLES))
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "samples"]
    np.testing.assert_array_equal(read_samples(tmp_path, task)["index"], SAMPLES["index"])


def test_a_name_too_long_for_a_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FusionEvalError, match=r"cannot write .*xxx\.parquet: File name too long"):
        write_samples(tmp_path, "x" * 300, encode_samples(SAMPLES))
    assert list((tmp_path / "samples").iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"PAR1garbagePAR1"])
def test_what_is_no_samples_file_is_named(tmp_path, content):
    path = samples_path(tmp_path, "mnist")
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read the samples of mnist from .*mnist\.parquet"):
        read_samples(tmp_path, "mnist")
