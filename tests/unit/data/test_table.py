import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris, load_wine
from sklearn.preprocessing import LabelEncoder

from fusion_eval.config import build, compose_option
from fusion_eval.data import Table
from fusion_eval.errors import ConfigError, DataError


def write(frame, path, **options):
    if path.suffix == ".parquet":
        frame.to_parquet(path, **options)
    else:
        frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", **{"index": False, **options})
    return str(path)


def species():
    bunch = load_iris(as_frame=True)
    return bunch.data.assign(species=np.array(bunch.target_names)[bunch.target], note="text")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_real_data_equals_pandas_and_sklearn(tmp_path, suffix):
    frame = species().sample(frac=1, random_state=0)
    samples = Table(write(frame, tmp_path / f"iris{suffix}", index=suffix == ".parquet"), target="species").load()
    encoder = LabelEncoder().fit(frame.species)
    assert samples.inputs.dtype == torch.float32
    assert samples.targets.dtype == torch.int64
    assert np.array_equal(samples.inputs.numpy(), frame.select_dtypes("number").to_numpy(dtype=np.float32))
    assert samples.targets.tolist() == encoder.transform(frame.species).tolist()
    assert samples.class_names == tuple(encoder.classes_)


def test_the_format_does_not_change_the_fingerprint(tmp_path):
    bunch = load_wine(as_frame=True)
    paths = [write(bunch.frame, tmp_path / f"wine{suffix}") for suffix in (".csv", ".tsv", ".parquet")]
    assert len({Table(path, target="target").load().fingerprint() for path in paths}) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-(2**40), 2**40),
            st.floats(-1e30, 1e30),
            st.booleans(),
            st.sampled_from(["b", "a", "Ä", "two words", 'quo"te', "x,y"]),
        ),
        min_size=1,
        max_size=8,
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".parquet"]),
)
def test_any_table_equals_pandas(tmp_path, rows, suffix):
    frame = pd.DataFrame(rows, columns=["whole", "real", "flag", "class"])
    samples = Table(write(frame, tmp_path / f"any{suffix}"), target="class").load()
    expected = frame[["whole", "real", "flag"]].astype(float).to_numpy().astype(np.float32)
    assert np.array_equal(samples.inputs.numpy(), expected)
    assert [samples.class_names[i] for i in samples.targets] == frame["class"].tolist()


def test_features_keep_the_order_given(tmp_path):
    frame = species()
    names = ["petal width (cm)", "sepal length (cm)"]
    samples = Table(write(frame, tmp_path / "iris.csv"), target="species", features=names).load()
    assert np.array_equal(samples.inputs.numpy(), frame[names].to_numpy(dtype=np.float32))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_index_that_pandas_writes_is_no_feature(tmp_path, suffix):
    frame = species().sample(frac=1, random_state=0)
    samples = Table(write(frame, tmp_path / f"iris{suffix}", index=True), target="species").load()
    assert samples.inputs.shape == (150, 4)


def test_a_split_keeps_the_class_numbers_of_the_whole_file(tmp_path):
    frame = species().assign(part=["train", "test", "val"] * 50)
    frame = frame[(frame.part != "test") | (frame.species != "setosa")]  # the test split lacks the first class
    path = write(frame, tmp_path / "iris.csv")
    samples = Table(path, target="species", split_column="part", split="test").load()
    chosen = frame[frame.part == "test"]
    assert samples.class_names == ("setosa", "versicolor", "virginica")
    assert samples.targets.tolist() == LabelEncoder().fit(frame.species).transform(chosen.species).tolist()
    assert np.array_equal(samples.inputs.numpy(), chosen.iloc[:, :4].to_numpy(dtype=np.float32))
    with pytest.raises(DataError, match=r"no split 'tset' in part; did you mean 'test'\? Known: test, train, val"):
        Table(path, target="species", split_column="part", split="tset").load()


def test_a_numeric_split_column_is_matched_as_text_and_is_no_feature(tmp_path):
    path = write(pd.DataFrame({"x": [1.0, 2.0, 3.0], "fold": [0, 1, 0], "y": [1, 0, 1]}), tmp_path / "folds.csv")
    samples = Table(path, target="y", split_column="fold", split="0").load()
    assert samples.inputs.tolist() == [[1.0], [3.0]]


def test_class_names_fix_the_order(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": ["low", "high", "medium"]})
    path = write(frame, tmp_path / "levels.csv")
    samples = Table(path, target="y", class_names=["low", "medium", "high"]).load()
    assert samples.targets.tolist() == [0, 2, 1]
    with pytest.raises(DataError, match=r"column 'y', row 2: no class 'medium'"):
        Table(path, target="y", class_names=["low", "high"]).load()


def test_integer_targets_are_class_indices(tmp_path):
    path = write(pd.DataFrame({"x": [1.0, 2.0], "y": [3, 0]}), tmp_path / "t.csv")
    samples = Table(path, target="y").load()
    assert (samples.targets.tolist(), samples.class_names) == ([3, 0], None)
    assert Table(path, target="y", class_names=list("abcd")).load().class_names == ("a", "b", "c", "d")
    with pytest.raises(DataError, match=r"target 3 of row 0; a class index should be in \[0, 2\)"):
        Table(path, target="y", class_names=["a", "b"]).load()


def test_booleans_and_categories_are_named_classes(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [True, False], "z": pd.Categorical(["b", "a"], categories=["b", "a"])})
    path = write(frame, tmp_path / "t.parquet")
    booleans = Table(path, target="y", features=["x"]).load()
    assert (booleans.targets.tolist(), booleans.class_names) == ([1, 0], ("false", "true"))
    categories = Table(path, target="z", features=["x"]).load()
    assert (categories.targets.tolist(), categories.class_names) == ([1, 0], ("a", "b"))


def test_a_late_decimal_does_not_break_the_column(tmp_path):
    lines = ["x,y", *["1,0"] * 400_000, "1.5,0"]  # 1.6 MB: more than one block of pyarrow's
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert Table(str(tmp_path / "t.csv"), target="y").load().inputs[-1].item() == 1.5


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "null", "inf"])
def test_a_missing_feature_is_named_by_column_and_row(tmp_path, missing):
    (tmp_path / "t.csv").write_text(f"a,b,y\n1,2,x\n1,{missing},x\n")
    with pytest.raises(DataError, match=r"t\.csv: column 'b', row 1 is missing or not finite \(the first row after"):
        Table(str(tmp_path / "t.csv"), target="y").load()


@pytest.mark.parametrize("labels", ["x,,x", "0,,1"])
def test_a_missing_target_is_named_by_column_and_row(tmp_path, labels):
    rows = "\n".join(f"1,{label}" for label in labels.split(","))
    (tmp_path / "t.csv").write_text(f"a,y\n{rows}\n")
    with pytest.raises(DataError, match="column 'y', row 1 is missing"):
        Table(str(tmp_path / "t.csv"), target="y").load()


def test_rows_of_other_splits_may_have_gaps(tmp_path):
    (tmp_path / "t.csv").write_text("a,s,y\n,unlabelled,\n2,test,x\n,test,x\n")
    source = Table(str(tmp_path / "t.csv"), target="y", split_column="s", split="test")
    with pytest.raises(DataError, match="column 'a', row 2"):
        source.load()
    (tmp_path / "t.csv").write_text("a,s,y\n,unlabelled,\n2,test,x\n3,test,x\n")
    assert source.load().inputs.tolist() == [[2.0], [3.0]]


def test_an_empty_column_is_missing_not_dropped(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n1,,x\n2,,x\n")
    with pytest.raises(DataError, match="column 'b', row 0"):
        Table(str(tmp_path / "t.csv"), target="y").load()


def test_a_quoted_na_is_a_class(tmp_path):
    (tmp_path / "t.csv").write_text('a,country\n1,"NA"\n2,"FR"\n')
    assert Table(str(tmp_path / "t.csv"), target="country").load().class_names == ("FR", "NA")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .csv file"),
        (b"a,y\n1\n", "Expected 2 columns, got 1"),
        (b"a,a,y\n1,2,x\n", "more than one column is named 'a'"),
        (b"a,y\n", "t.csv: no rows"),
        (b"t,y\nu,x\n", "no numeric column beside 'y'"),
        (b"a,y\n1,0.5\n", "holds double; it should hold integers or strings"),
        (b"a,Y\n1,x\n", r"no column 'y'; did you mean|no column 'y'; Known: Y, a"),
        (b"\xff\xfe\x00a,y\n1,x\n", "t.csv"),
        (b"a,y\n1,-1\n", "target -1 of row 0"),
        (b"a,y\n1e39,0\n", "row 0"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Table(str(tmp_path / "t.csv"), target="y").load()


def test_garbage_parquet_and_missing_files(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match=r"t\.parquet: not a readable \.parquet file"):
        Table(str(tmp_path / "t.parquet"), target="y").load()
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        Table(str(tmp_path / "gone.csv"), target="y").load()


def test_a_feature_that_is_no_number_or_unknown(tmp_path):
    path = write(species(), tmp_path / "iris.csv")
    with pytest.raises(DataError, match="column 'note' holds string; it should hold numbers"):
        Table(path, target="species", features=["note"]).load()
    with pytest.raises(DataError, match=r"no column 'petal width'; did you mean 'petal width \(cm\)'"):
        Table(path, target="species", features=["petal width"]).load()


def test_arguments_are_checked_at_construction():
    with pytest.raises(ConfigError, match=r"path='t\.xlsx'; it should end in \.csv"):
        Table("t.xlsx", target="y")
    with pytest.raises(ConfigError, match="give both or none"):
        Table("t.csv", target="y", split="test")
    with pytest.raises(ConfigError, match="target 'y' is among the features"):
        Table("t.csv", target="y", features=["x", "y"])


def test_the_config_describes_the_defaults():
    config = {**compose_option("dataset", "table"), "path": "t.csv", "target": "y"}
    assert build(config) == Table("t.csv", target="y")


@pytest.mark.parametrize(
    ("target", "target_type", "expected"),
    [
        ("price", "number", [2.5, 3.0]),
        (["price", "size"], "vector", [[2.5, 1.0], [3.0, 2.0]]),
        (["wet", "warm"], "labels", [[1.0, 0.0], [1.0, 1.0]]),
        (["price"], "vector", [[2.5], [3.0]]),
    ],
)
def test_targets_that_are_numbers(tmp_path, target, target_type, expected):
    frame = pd.DataFrame({"x": [7, 8], "price": [2.5, 3], "size": [1, 2], "wet": [True, True], "warm": [0, 1]})
    path = write(frame, tmp_path / "t.parquet", index=False)
    samples = Table(path, target=target, target_type=target_type, features=["x"]).load()
    assert torch.equal(samples.targets, torch.tensor(expected))
    assert samples.class_names == (("wet", "warm") if target_type == "labels" else None)
    others = Table(path, target=target, target_type=target_type).load().inputs.shape[1]
    assert others == 5 - (1 if isinstance(target, str) else len(target))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "y", "target_type": "float"}, "target_type='float'; Known: class"),
        ({"target": ["y", "z"]}, r"target=\['y', 'z'\]; several columns go with target_type vector or labels"),
        ({"target": ["y", "x"], "target_type": "vector", "features": ["x"]}, "the target 'x' is among the features"),
    ],
)
def test_target_types_that_do_not_fit_are_refused_at_construction(options, message):
    with pytest.raises(ConfigError, match=message):
        Table("t.csv", **options)


def test_numbers_and_labels_that_are_none_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("x,y,z\n1,2.5,a\n2,,b\n")
    for options, message in (
        ({"target": "y", "target_type": "number"}, "column 'y', row 1 is missing"),
        ({"target": "z", "target_type": "number"}, "column 'z' holds string; it should hold numbers"),
        ({"target": ["x"], "target_type": "labels", "features": ["y"]}, "2 in row 1; labels should be 0 or 1"),
    ):
        with pytest.raises(DataError, match=message):
            Table(str(tmp_path / "t.csv"), **options).load()
