"""X of every container as named columns, and scikit-learn's checks of X, y, weights and standard errors."""

import datetime
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning

from hbsk._data.checks import check_standard_error, check_target, check_weights
from hbsk._data.table import Table, plain_column, read_table


class Reader(BaseEstimator):
    """An estimator that does nothing but read."""


def read(X, **options):
    return read_table(Reader(), X, reset=True, **options)


# Containers


def test_array_columns_are_views_named_by_position():
    X = np.arange(12.0).reshape(4, 3)
    table = read(X)
    assert table.names == ("x0", "x1", "x2")
    assert table.n_rows == 4
    for j in range(3):
        np.testing.assert_array_equal(table.column(f"x{j}"), X[:, j])
        assert np.shares_memory(table.column(f"x{j}"), X)


def test_frame_columns_keep_names_and_are_not_copied():
    X = pd.DataFrame({"a": np.arange(4.0), "b": np.arange(4), "c": [True, False, True, True]})
    table = read(X)
    assert table.names == ("a", "b", "c")
    assert [table.column(name).dtype.kind for name in table.names] == ["f", "i", "b"]
    assert np.shares_memory(table.column("a"), X["a"].to_numpy())


@pytest.mark.parametrize("names", [range(3), [2019, 2020, 2021]])
def test_frames_without_string_names_are_named_like_arrays(names):
    table = read(pd.DataFrame(np.ones((2, 3)), columns=list(names)))
    assert table.names == ("x0", "x1", "x2")


def test_names_of_fit_are_used_for_an_array_at_predict():
    estimator = Reader()
    read_table(estimator, pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), reset=True)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        table = read_table(estimator, np.array([[5.0, 6.0]]), reset=False)
    assert table.names == ("a", "b")


def test_polars_frames_read_like_pandas_frames():
    data = {"number": [1.5, 2.5, 4.0], "count": [3, 1, 2], "flag": [True, False, True], "text": ["u", "v", "u"]}
    ours, theirs = read(pl.DataFrame(data)), read(pd.DataFrame(data))
    assert ours.names == theirs.names
    for name in ("number", "count", "flag"):
        np.testing.assert_array_equal(ours.column(name), theirs.column(name))
        assert ours.column(name).dtype == theirs.column(name).dtype
    assert ours.column("text").tolist() == theirs.column("text").tolist()


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["v", "u", "w"])])
def test_polars_categories(dtype):
    table = read(pl.DataFrame({"c": pl.Series(["u", "v", None, "u"], dtype=dtype)}))
    column = table.column("c")
    assert isinstance(column.dtype, pd.CategoricalDtype)
    assert column.isna().tolist() == [False, False, True, False]
    assert set(column.cat.categories) >= {"u", "v"}
    assert table.labels("c").tolist() == ["u", "v", None, "u"]


def test_lists_of_mixed_rows_keep_numbers_as_numbers():
    table = read([["a", 1], ["b", 2.5]])
    assert table.column("x0").tolist() == ["a", "b"]
    np.testing.assert_array_equal(table.column("x1"), [1.0, 2.5])


def test_object_array_as_a_column_transformer_makes_it():
    table = read(np.array([["a", 1.5, True], ["b", 2, False]], dtype=object))
    assert table.is_numeric("x1")
    np.testing.assert_array_equal(table.column("x1"), [1.5, 2.0])
    assert table.column("x2").dtype == bool
    assert not table.is_numeric("x0")


def test_text_digits_stay_text():
    column = plain_column(np.array(["01", "02"], dtype=object), "zip")
    assert column.tolist() == ["01", "02"]


def test_array_of_text_that_held_numbers_is_refused():
    X = np.array([["a", 1.5], ["b", 2.5]])  # NumPy has made text of it
    table = read(X)
    assert table.column("x0").tolist() == ["a", "b"]
    with pytest.raises(ValueError, match=r"'x1' of X holds numbers written as text"):
        table.column("x1")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.array([1, 2, 4], dtype="Int64"), np.array([1, 2, 4])),
        (pd.array([1.5, 2.0, 4.0], dtype="Float64"), np.array([1.5, 2.0, 4.0])),
        (pd.array([True, False, False], dtype="boolean"), np.array([True, False, False])),
        (pd.array([1, None, 4], dtype="Int64"), np.array([1.0, np.nan, 4.0])),
        (pd.arrays.SparseArray([0.0, 0.0, 2.5]), np.array([0.0, 0.0, 2.5])),
    ],
)
def test_nullable_and_sparse_columns(values, expected):
    column = read(pd.DataFrame({"a": values})).column("a")
    np.testing.assert_array_equal(column, expected)
    assert column.dtype == expected.dtype


def test_column_forms_of_text_and_categories():
    X = pd.DataFrame({"s": ["u", "v"], "c": pd.Categorical(["b", "a"], categories=["b", "a", "z"])})
    table = read(X)
    assert not table.is_numeric("s")
    assert list(table.column("c").cat.categories) == ["b", "a", "z"]


# Slices


def test_rows_that_a_mask_keeps():
    X = pd.DataFrame({"a": np.arange(6.0), "s": list("uvwxyz"), "b": np.arange(6) * 10}, index=list("fedcba"))
    some = read(X).where(np.array([True, False, False, True, False, True]))
    assert (some.n_rows, some.names) == (3, ("a", "s", "b"))
    np.testing.assert_array_equal(some.column("b"), [0, 30, 50])
    assert some.labels("s").tolist() == ["u", "x", "z"]
    assert some.where(np.array([False, True, True])).column("s").tolist() == ["x", "z"]


def test_object_columns_have_one_dtype_whatever_rows_are_kept():
    X = np.array([[True], [False], [2.5], [3]], dtype=object)
    assert read(X).where(np.array([True, True, False, False])).column("x0").dtype == np.float64


# Checks of X


def test_missing_and_infinite_features_are_refused_by_name():
    X = np.ones((5, 3))
    for value, word in ((np.nan, "NaN"), (np.inf, "inf")):
        X[3, 1] = value
        table = read(X)
        table.check_features(["x0", "x2"], "Reader")
        with pytest.raises(ValueError, match=rf"'x1' of X: Input X contains {word}"):
            table.check_features(table.names, "Reader")


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a", None], dtype=object),
        pd.array([1, None], dtype="Int64"),
        pd.Categorical(["a", None]),
        np.array([1.0, None], dtype=object),
        pd.array(["a", None], dtype="string"),
    ],
)
def test_missing_features_of_every_dtype(column):
    table = read(pd.DataFrame({"good": [1, 2], "bad": column}))
    with pytest.raises(ValueError, match=r"(?s)'bad'.*NaN|NaN.*'bad'"):
        table.check_features(table.names, "Reader")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), "datetime64"),
        (pd.array(pd.to_timedelta([1, 2], unit="s")), "timedelta64"),
        (np.array([datetime.date(2020, 1, 1)] * 2, dtype=object), "date"),
        (np.array(["a", 1.5], dtype=object), "mixes text and numbers"),
        (np.array([1.5, {"foo": "bar"}], dtype=object), r"argument must be a string or a real number, not 'dict'"),
        (pd.period_range("2020", periods=2, freq="Y"), "Period|period"),
    ],
)
def test_columns_that_cannot_be_features(column, words):
    table = read(pd.DataFrame({"good": [1, 2], "bad": column}))
    with pytest.raises(TypeError, match=words) as caught:
        table.check_features(table.names, "Reader")
    assert "'bad'" in str(caught.value)
    assert "numbers, booleans, strings or categories" in str(caught.value)


@pytest.mark.parametrize("X", [np.ones((2, 2)) + 1j, pd.DataFrame({"a": [1 + 1j, 2.0]})])
def test_complex_x(X):
    with pytest.raises(ValueError, match="Complex data not supported"):
        read(X).check_features(["a"], "Reader")


def test_shapes_scikit_learn_refuses():
    with pytest.raises(ValueError, match="Reshape your data"):
        read(np.ones(3))
    with pytest.raises(ValueError, match="2-dimensional container"):
        read(pd.Series([1.0, 2.0]))
    with pytest.raises(ValueError, match="dim 3"):
        read(np.ones((2, 2, 2)))
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        read(sparse.csr_array(np.eye(3)))
    for empty in (np.empty((0, 3)), pd.DataFrame({"a": []}), pl.DataFrame({"a": []})):
        with pytest.raises(ValueError, match="0 sample"):
            read(empty)
    for empty in (np.empty((12, 0)), pd.DataFrame(index=range(12))):
        with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is required"):
            read(empty)
    for one in (np.ones((1, 3)), pd.DataFrame({"a": [1.0]})):
        with pytest.raises(ValueError, match="n_samples=1"):
            read(one, min_samples=2)


def test_names_and_number_of_features_are_compared_with_fit():
    estimator = Reader()
    X = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    read_table(estimator, X, reset=True)
    assert estimator.n_features_in_ == 2
    assert estimator.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="must be in the same order"):
        read_table(estimator, X[["b", "a"]], reset=False)
    read_table(estimator, X.to_numpy(), reset=True)
    assert not hasattr(estimator, "feature_names_in_")
    with pytest.raises(ValueError, match="X has 1 features, but Reader is expecting 2 features"):
        read_table(estimator, X.to_numpy()[:, :1], reset=False)


def test_names_that_are_no_names():
    with pytest.raises(ValueError, match="more than one column named 'a'"):
        read(pd.DataFrame(np.ones((2, 3)), columns=["a", "b", "a"]))
    with pytest.raises(TypeError, match="Feature names are only supported"):
        read(pd.DataFrame(np.ones((2, 2)), columns=["a", 1]))


def test_read_only_and_fortran_arrays():
    X = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    X.flags.writeable = False
    np.testing.assert_array_equal(read(X).column("x1"), X[:, 1])


def test_tables_pickle():
    table = pickle.loads(
        pickle.dumps(read(pd.DataFrame({"a": [1.0, 2.0], "s": ["u", "v"]})).where(np.array([False, True])))
    )
    assert table.column("s").tolist() == ["v"]
    assert isinstance(table, Table)


# Checks of what stands beside X


def test_target():
    np.testing.assert_array_equal(check_target([1, 2], 2, "R"), [1.0, 2.0])
    assert check_target(np.array([1, 2], dtype=np.float32), 2, "R").dtype == np.float64
    np.testing.assert_array_equal(check_target(np.array([1, 2.5], dtype=object), 2, "R"), [1.0, 2.5])
    np.testing.assert_array_equal(check_target(pl.Series([1.5, 2.5]), 2, "R"), [1.5, 2.5])
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        assert check_target(np.ones((3, 1)), 3, "R").shape == (3,)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        check_target(None, 3, "R")
    with pytest.raises(ValueError, match=r"X has 4 rows, y has 3 values"):
        check_target([1, 2, 3], 4, "R")
    with pytest.raises(ValueError, match=r"y should be a 1d array, got an array of shape \(3, 2\)"):
        check_target(np.ones((3, 2)), 3, "R")
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="Input y contains"):
            check_target([1.0, value], 2, "R")
    with pytest.raises(ValueError, match="not numbers"):
        check_target(["a", "b"], 2, "R")
    with pytest.raises(ValueError, match="Complex data not supported"):
        check_target([1j, 2.0], 2, "R")
    with pytest.raises(TypeError, match="datetime64"):
        check_target(np.array(["2020"], dtype="datetime64[Y]"), 1, "R")


def test_weights():
    assert check_weights(None, 3, "R") is None
    np.testing.assert_array_equal(check_weights([0, 2, 1], 3, "R"), [0.0, 2.0, 1.0])
    np.testing.assert_array_equal(check_weights(2.5, 2, "R"), [2.5, 2.5])
    for bad, words in (
        ([1, -2.5], r"Negative values in sample_weight \(smallest .*-2.5"),
        ([0, 0], "sample_weight is zero everywhere"),
        ([1, np.nan], "sample_weight contains NaN"),
        ([1, np.inf], "sample_weight contains inf"),
        ([1, 2, 3], "sample_weight has 3 values, but X has 2 rows"),
        ([[1], [2]], r"sample_weight must be 1-D.*\(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            check_weights(bad, 2, "R")


def test_standard_errors():
    assert check_standard_error(None, 3, "R") is None
    np.testing.assert_array_equal(check_standard_error([0.5, 2], 2, "R"), [0.5, 2.0])
    np.testing.assert_array_equal(check_standard_error(0.5, 2, "R"), [0.5, 0.5])
    for bad, words in (
        ([1, 0], r"standard_error must be positive; row 1 has 0\.0\."),
        ([-1, 3], "standard_error must be positive; row 0"),
        ([1, np.nan], "standard_error contains NaN"),
        ([1], "standard_error has 1 values, but X has 2 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            check_standard_error(bad, 2, "R")
