"""Group labels by both routes, and the errors for labels that got lost."""

import datetime
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from hbsk._groups import FactorSource, GroupFactor, read_rows, read_training_rows
from hbsk._labels import factorize
from hbsk._routing import GroupRoutingMixin
from hbsk.exceptions import SuspiciousGroupsWarning

TEXT = np.array(["b", "a", "c", "a", "b"], dtype=object)
FEATURES = np.array([[1.5, 3], [2.5, 1], [0.5, 2], [4.5, 1], [3.5, 3]])
RESPONSE = np.array([1.0, 2.0, 3.0, 4.0, 5.0])


class Reader(GroupRoutingMixin, RegressorMixin, BaseEstimator):
    """The least estimator with groups: it predicts the code of each row."""

    def __init__(self, group_features=None, unknown_groups="population"):
        self.group_features = group_features
        self.unknown_groups = unknown_groups

    def fit(self, X, y, groups=None, *, standard_error=None, sample_weight=None):
        self._rows = read_training_rows(
            self,
            X,
            y,
            groups,
            group_features=self.group_features,
            standard_error=standard_error,
            sample_weight=sample_weight,
        )
        self.sources_, self.factors_ = self._rows.sources, self._rows.factors
        return self

    def read(self, X, groups=None):
        return read_rows(
            self, X, groups, sources=self.sources_, factors=self.factors_, unknown_groups=self.unknown_groups
        )

    def predict(self, X, groups=None, *, standard_error=None):
        return next(iter(self.read(X, groups).codes.values())).astype(float)

    def score(self, X, y, sample_weight=None, *, groups=None):
        return float(len(self.predict(X, groups)))


def naive_codes(values):
    """Codes and labels by comparing every label with every other."""
    labels, codes = [], []
    for value in values:
        for code, label in enumerate(labels):  # noqa: B007
            if label == value:
                break
        else:
            code = len(labels)
            labels.append(value)
        codes.append(code)
    try:
        order = sorted(range(len(labels)), key=labels.__getitem__)
    except TypeError:
        order = list(range(len(labels)))
    return [order.index(code) for code in codes], [labels[code] for code in order]


# Labels to codes and back

ONE = np.random.default_rng(7)
COLUMNS = {
    "int64": np.array([7, -3, 7, 100, -3]),
    "int8 of full span": np.array([127, -128, 127, 0, -128], dtype=np.int8),
    "int8 whose differences overflow": np.array([100, -100, 0, 100], dtype=np.int8),
    "uint64 all beyond int64": np.array([2**63 + 5, 2**63 + 9, 2**63 + 5], dtype=np.uint64),
    "uint64 beyond int64": np.array([2**63 + 5, 3, 2**63 + 5, 2**63 + 6], dtype=np.uint64),
    "int64 of full span": np.array([2**63 - 1, -(2**63), 2**63 - 1]),
    "wide ints": np.array([10**15, 5, -(10**15), 5]),
    "bool": np.array([True, False, True]),
    "float integers": np.array([2.0, -1.0, 2.0, 40.0]),
    "float fractions": np.array([0.25, -1.5, 0.25, 40.0]),
    "float32": np.array([0.1, 0.7, 0.1], dtype=np.float32),
    "large floats": np.array([1e300, -1e300, 1e300, 2.0**53, 2.0**53 + 2]),
    "text": TEXT,
    "numpy text": np.array(["b", "a", "b"]),
    "bytes": np.array([b"b", b"a", b"b"], dtype=object),
    "equal numbers of different types": np.array([1, 1.0, True, 0, False, "1"], dtype=object),
    "ints and floats": np.array([2, 1.5, 1, 2.0], dtype=object),
    "mixed, no order": np.array(["b", 3, "a", 3, "b"], dtype=object),
    "sets, which compare and have no order": np.array(
        [frozenset({2}), frozenset({1, 2}), frozenset({1}), frozenset({1, 2})], dtype=object
    ),
    "empty text": np.array(["", "a", ""], dtype=object),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_codes_and_labels_against_pairwise_comparison(name):
    values = COLUMNS[name]
    factor, codes = GroupFactor.learn("g", [values])
    expected_codes, expected_labels = naive_codes(values.tolist())
    if "no order" in name:
        expected_codes = pd.factorize(np.array(values, dtype=object))[0].tolist()
        expected_labels = list(dict.fromkeys(values.tolist()))
    assert codes.dtype == np.int64
    assert codes.tolist() == expected_codes
    assert factor.labels.tolist() == expected_labels
    assert factor.encode(values).tolist() == codes.tolist()
    assert [factor.encode(values[i : i + 1]).item() for i in range(len(values))] == codes.tolist()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("other", COLUMNS)
def test_labels_of_another_kind_are_equal_when_python_says_so(name, other):
    factor, _ = GroupFactor.learn("g", [COLUMNS[name]])
    labels = factor.labels.tolist()
    # Longer than the short cut for few rows.
    for values in (COLUMNS[other], np.tile(COLUMNS[other], 30)):
        codes = factor.encode(values)
        new = {}
        for value, code in zip(values.tolist(), codes.tolist(), strict=True):
            if value in labels:
                assert code == labels.index(value)
            else:
                assert code == new.setdefault(value, code)
                assert code >= factor.n_groups
        assert sorted(new.values()) == list(range(factor.n_groups, factor.n_groups + len(new)))


def test_integers_that_no_float_can_tell_apart():
    factor, _ = GroupFactor.learn("g", [np.array([2**53, 2**53 + 2], dtype=np.float64)])
    assert factor.encode(np.array([2**53, 2**53 + 1, 2**53 + 2])).tolist() == [0, 2, 1]
    factor, _ = GroupFactor.learn("g", [np.array([2**53, 2**53 + 1])])
    assert factor.encode(np.array([2.0**53, 2.0**53 + 2])).tolist() == [0, 2]
    factor, _ = GroupFactor.learn("g", [np.array([0.5, 2.0**53])])
    assert factor.encode(np.array([2**53, 2**53 + 1])).tolist() == [1, 2]
    factor, _ = GroupFactor.learn("g", [np.array([0.5, 2.0**60])])
    assert factor.encode(np.array([2**60, 2**60 + 1, 2**63 - 1])).tolist() == [1, 2, 3]


def test_unobserved_categories_are_unknown():
    values = pd.Series(pd.Categorical(["b", "a", "b"], categories=["z", "b", "a"]))
    factor, codes = GroupFactor.learn("g", [values])
    assert factor.labels.tolist() == ["a", "b"]
    assert codes.tolist() == [1, 0, 1]
    later = pd.Series(pd.Categorical(["z", "a", "z", None], categories=["z", "b", "a"]))
    assert factor.encode(later).tolist() == [2, 0, 2, 3]


@pytest.mark.parametrize("categories", [[3, 1, 2], [0.5, 2.0, 1.0], ["c", "a", "b"], [True, False, "x"]])
def test_categories_are_the_labels_they_stand_for(categories):
    values = [categories[i] for i in (2, 0, 2, 1)]
    plain, plain_codes = GroupFactor.learn("g", [np.array(values, dtype=object)])
    factor, codes = GroupFactor.learn("g", [pd.Series(pd.Categorical(values, categories=categories))])
    assert factor.labels.tolist() == plain.labels.tolist()
    assert codes.tolist() == plain_codes.tolist()


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(pd.to_datetime(["2021-01-01", "2020-01-01", "2021-01-01"])),
        pd.Series(pd.to_datetime(["2021-01-01", "2020-01-01", "2021-01-01"]).tz_localize("Europe/Berlin")),
        np.array(["2021-01-01", "2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
        pd.Series(pd.to_timedelta([5, 1, 5], unit="h")),
        pd.Series(pd.period_range("2021", periods=2, freq="Y")).iloc[[1, 0, 1]],
        pd.Series([datetime.date(2021, 1, 1), datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)]),
    ],
)
def test_dates_as_labels(values):
    factor, codes = GroupFactor.learn("g", [values])
    assert codes.tolist() == [1, 0, 1]
    assert factor.encode(values).tolist() == [1, 0, 1]
    if isinstance(values, np.ndarray):
        assert factor.encode(pd.Series(values.astype("datetime64[ns]"))).tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "string", "str", "category"])
def test_nullable_labels(dtype):
    values = {"boolean": [True, False, True], "string": ["b", "a", "b"], "str": ["b", "a", "b"]}.get(dtype, [5, 2, 5])
    factor, codes = GroupFactor.learn("g", [pd.Series(values, dtype=dtype)])
    assert codes.tolist() == [1, 0, 1]
    later = pd.Series([values[1], None, values[0], None], dtype=dtype)
    assert factor.encode(later).tolist() == [0, 2, 1, 3]
    assert factorize(later)[0].tolist() == [0, -1, 1, -1]
    assert factorize(later)[1].dtype == factor.labels.dtype


def test_each_missing_label_is_a_group_of_its_own_and_each_unseen_label_one_group():
    factor, _ = GroupFactor.learn("g", [TEXT])
    new = np.array([None, "new", "a", np.nan, "old", "new", pd.NA, pd.NaT], dtype=object)
    codes = factor.encode(new)
    assert codes[2] == 0
    assert codes[1] == codes[5]
    assert len(set(codes.tolist())) == 7
    assert sorted(set(codes.tolist())) == [0, *range(3, 9)]
    number, _ = GroupFactor.learn("g", [np.array([4.0, 2.0])])
    assert number.encode(np.array([np.nan, 2.0, np.nan, 9.0])).tolist() == [3, 0, 4, 2]


def test_interactions_have_tuples_for_labels():
    first = np.array(["b", "a", "b", "a", "b"], dtype=object)
    second = np.array([2, 1, 1, 1, 2])
    factor, codes = GroupFactor.learn("a:b", [first, second])
    assert factor.labels.tolist() == [("a", 1), ("b", 1), ("b", 2)]
    assert codes.tolist() == [2, 0, 1, 0, 2]
    later = factor.encode([np.array(["a", "a", None, "b"], dtype=object), np.array([1.0, 2.0, 1.0, 2.0])])
    assert later.tolist() == [0, 3, 4, 2]
    three, codes = GroupFactor.learn("a:b:c", [first, second, np.array([0.5, 0.5, 0.5, 1.5, 0.5])])
    assert three.labels.tolist() == [("a", 1, 0.5), ("a", 1, 1.5), ("b", 1, 0.5), ("b", 2, 0.5)]
    assert codes.tolist() == [3, 0, 2, 1, 3]


def test_a_great_many_labels_in_two_columns_do_not_overflow():
    n = 1000
    columns = [ONE.integers(0, 2**60, n) for _ in range(4)]
    factor, codes = GroupFactor.learn("a:b:c:d", columns)
    assert factor.n_groups == n
    assert [factor.labels[code] for code in codes[:5]] == list(zip(*(c[:5].tolist() for c in columns), strict=True))


def test_large_columns_take_the_fast_ways_and_agree_with_numpy():
    values = ONE.integers(-500, 700, 20_000)
    for column in (values, values * 10**9, values + 0.25, values.astype(float), values.astype(np.int16)):
        labels, codes = np.unique(column, return_inverse=True)
        factor, ours = GroupFactor.learn("g", [column])
        np.testing.assert_array_equal(ours, codes)
        np.testing.assert_array_equal(factor.labels, labels)
        assert factor.labels.dtype == column.dtype
        np.testing.assert_array_equal(factor.encode(column[::-1]), codes[::-1])


def test_factors_pickle_small_and_without_their_lookup():
    factor, _ = GroupFactor.learn("g", [np.array([f"label {i}" for i in range(1000)], dtype=object)])
    before = len(pickle.dumps(factor))
    factor.encode(np.array(["label 3"], dtype=object))
    assert len(pickle.dumps(factor)) == before
    again = pickle.loads(pickle.dumps(factor))
    assert again.encode(np.array(["label 3", "x"], dtype=object)).tolist() == [
        factor.labels.tolist().index("label 3"),
        1000,
    ]


def test_infinite_and_unhashable_labels():
    with pytest.raises(ValueError, match=r"infinity \(inf\)"):
        GroupFactor.learn("g", [np.array([1.0, np.inf])])
    with pytest.raises(ValueError, match="inf"):
        GroupFactor.learn("g", [np.array([1.0, -np.inf], dtype=object)])
    with pytest.raises(ValueError, match="inf"):
        GroupFactor.learn("g", [pd.Series([1.0, np.inf], dtype="category")])
    with pytest.raises(TypeError, match=r"argument must be a string, a number .* unhashable"):
        GroupFactor.learn("g", [np.array([1.0, {"foo": "bar"}], dtype=object)])


# Columns of X


def frame(**columns):
    return pd.DataFrame({"x": FEATURES[:, 0], "school": TEXT, **columns})


@pytest.mark.parametrize(
    ("group_features", "X"),
    [
        ("school", frame()),
        (1, frame()),
        (-1, frame()),
        (["school"], frame()),
        (np.array([1]), frame()),
        (np.int64(-1), frame()),
        (pd.Index(["school"]), frame()),
        ("school", frame().rename(columns={"school": "remainder__school", "x": "remainder__x"})),
        ("school", frame().rename(columns={"x": "other__school"})),
        ("school", pl.DataFrame({"x": FEATURES[:, 0], "school": TEXT.tolist()})),
        ("school", pl.DataFrame({"x": FEATURES[:, 0], "school": pl.Series(TEXT.tolist(), dtype=pl.Categorical)})),
        (1, np.c_[FEATURES[:, :1].astype(object), TEXT]),
        (1, [[1.5, "b"], [2.5, "a"], [0.5, "c"], [4.5, "a"], [3.5, "b"]]),
        ("x1", np.c_[FEATURES[:, :1].astype(object), TEXT]),
        (1, pd.DataFrame(np.c_[FEATURES[:, :1].astype(object), TEXT], columns=[1, 0])),
    ],
)
def test_group_columns_by_name_and_position(group_features, X):
    reader = Reader(group_features).fit(X, RESPONSE)
    (name,) = reader.factors_
    assert reader.factors_[name].labels.tolist() == ["a", "b", "c"]
    assert reader._rows.codes[name].tolist() == [1, 0, 2, 0, 1]
    assert reader.n_features_in_ == 2
    assert len(reader._rows.feature_names) == 1
    assert reader.predict(X).tolist() == [1, 0, 2, 0, 1]


def test_names_of_factors():
    renamed = frame().rename(columns={"school": "remainder__school"})
    assert list(Reader("school").fit(renamed, RESPONSE).factors_) == ["school"]
    assert list(Reader(-1).fit(renamed, RESPONSE).factors_) == ["remainder__school"]
    assert list(Reader(-1).fit(FEATURES, RESPONSE).factors_) == ["x1"]


def test_several_columns_are_several_factors():
    X = frame(teacher=[2, 2, 1, 1, 3])
    reader = Reader(["teacher", "school"]).fit(X, RESPONSE)
    assert list(reader.factors_) == ["teacher", "school"]
    assert reader._rows.codes["teacher"].tolist() == [1, 1, 0, 0, 2]
    assert reader._rows.feature_names == ("x",)


@pytest.mark.parametrize(
    ("group_features", "error", "words"),
    [
        ("class", ValueError, r"X has no column 'class'. Columns that arrived: 'x', 'school'"),
        (2, ValueError, r"no column at position 2; it has 2 columns, so positions go from -2 to 1"),
        (-3, ValueError, r"no column at position -3"),
        ([], ValueError, "group_features is empty"),
        (["school", 1], ValueError, "names a column of X twice"),
        (True, TypeError, "got True"),
        (1.0, TypeError, r"got 1\.0"),
        ([None], TypeError, "got None"),
    ],
)
def test_group_features_that_are_not_there(group_features, error, words):
    with pytest.raises(error, match=words):
        Reader(group_features).fit(frame(), RESPONSE)


def test_two_renamed_columns_are_ambiguous():
    X = frame(a__school=TEXT).rename(columns={"school": "b__school"})
    with pytest.raises(ValueError, match="'school' could be any of 'b__school', 'a__school'"):
        Reader("school").fit(X, RESPONSE)


def test_names_of_an_array_are_positions():
    with pytest.raises(ValueError, match="Columns that arrived: 'x0', 'x1'"):
        Reader("school").fit(FEATURES, RESPONSE)


def test_missing_labels_in_fit_are_counted():
    X = frame()
    X["school"] = np.array(["b", None, "c", np.nan, "b"], dtype=object)
    with pytest.raises(ValueError, match=r"Group column 'school' of X contains 2 missing labels .*NaN.* in 5 rows"):
        Reader("school").fit(X, RESPONSE)
    with pytest.raises(ValueError, match="groups= contains 1 missing labels"):
        Reader().fit(FEATURES, RESPONSE, groups=[1, 2, None, 1, 2])


def test_missing_features_beside_groups():
    X = frame()
    X.loc[2, "x"] = np.nan
    reader = Reader("school")
    with pytest.raises(ValueError, match="'x' of X: Input X contains NaN"):
        reader.fit(X, RESPONSE)
    reader.fit(frame(), RESPONSE)
    with pytest.raises(ValueError, match="'x' of X: Input X contains NaN"):
        reader.predict(X)


def test_only_used_columns_are_checked():
    X = frame(when=pd.to_datetime(["2020-01-01"] * 5), hole=[1.0, None, 3.0, 4.0, 5.0])
    rows = read_training_rows(Reader(), X, RESPONSE, group_features="school", used_columns=["x"])
    assert rows.feature_names == ("x", "when", "hole")
    with pytest.raises(TypeError, match="'when' of X has dtype datetime64"):
        read_training_rows(Reader(), X, RESPONSE, group_features="school", used_columns=["x", "when"])


def test_measurements_taken_for_groups_are_suspicious():
    X = np.random.default_rng(0).normal(size=(20, 2))
    y = np.arange(20.0)
    with pytest.warns(SuspiciousGroupsWarning, match=r"'x1' of X: every one of the 20 labels"):
        Reader(1).fit(X, y)
    X[0, 1] = X[1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Reader(1).fit(X, y)
        Reader(1).fit(np.c_[y, y], y)


# groups=


@pytest.mark.parametrize(
    "groups",
    [
        TEXT,
        TEXT.tolist(),
        TEXT.astype(str),
        pd.Series(TEXT, index=[9, 8, 7, 6, 5], name="school"),
        pd.Index(TEXT),
        pd.Series(TEXT, dtype="category"),
        pd.Categorical(TEXT),
        pl.Series(TEXT.tolist()),
        TEXT[:, None],
        pd.DataFrame(TEXT),
    ],
)
def test_one_label_per_row_by_keyword(groups):
    reader = Reader().fit(FEATURES, RESPONSE, groups=groups)
    assert list(reader.factors_) == ["groups"]
    assert reader.factors_["groups"].labels.tolist() == ["a", "b", "c"]
    assert reader.predict(FEATURES, groups=groups).tolist() == [1, 0, 2, 0, 1]
    assert reader._rows.feature_names == ("x0", "x1")


def test_several_factors_by_keyword():
    two = np.array([[1, 5], [2, 5], [1, 6], [2, 6], [3, 6]])
    reader = Reader().fit(FEATURES, RESPONSE, groups=two)
    assert {name: codes.tolist() for name, codes in reader._rows.codes.items()} == {
        "groups_0": [0, 1, 0, 1, 2],
        "groups_1": [0, 0, 1, 1, 1],
    }
    for named in (pd.DataFrame(two, columns=["class", "town"]), pl.DataFrame({"class": two[:, 0], "town": two[:, 1]})):
        reader = Reader().fit(FEATURES, RESPONSE, groups=named)
        assert list(reader.factors_) == ["class", "town"]
        assert reader.read(FEATURES, named).codes["town"].tolist() == [0, 0, 1, 1, 1]
        with pytest.raises(ValueError, match=r"the same factors as in fit \('class', 'town'\); got 'groups'"):
            reader.predict(FEATURES, groups=two[:, 0])


def test_lists_of_tuples_and_of_mixed_labels():
    reader = Reader().fit(FEATURES, RESPONSE, groups=[("b", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 1)])
    assert reader.factors_["groups"].labels.tolist() == [("a", 1), ("a", 2), ("b", 1)]
    reader = Reader().fit(FEATURES, RESPONSE, groups=[1, "1", 1.0, True, 2])
    assert reader.factors_["groups"].labels.tolist() == [1, "1", 2]


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (TEXT[:3], ValueError, "groups= has 3 labels, but X has 5 rows"),
        ([0.5, 1.0, 2.0, 1.0, 2.0], ValueError, r"not integers \('groups': .*0\.5.* Was sample_weight= meant\?"),
        ("school", TypeError, "groups= takes labels, one for each row of X; got 'school'.*group_features="),
        (3, TypeError, "got 3"),
        (np.ones((5, 1, 1)), ValueError, r"array of shape \(5, 1, 1\)"),
        (pd.DataFrame(index=range(5)), ValueError, "without columns"),
    ],
)
def test_labels_by_keyword_that_are_no_labels(groups, error, words):
    with pytest.raises(error, match=words):
        Reader().fit(FEATURES, RESPONSE, groups=groups)


def test_weights_in_the_place_of_groups_are_caught_at_predict_too():
    reader = Reader().fit(FEATURES, RESPONSE, groups=[1.0, 2.0, 1.0, 2.0, 3.0])
    assert reader.predict(FEATURES[:2], groups=[2.0, np.nan]).tolist() == [1, 3]
    with pytest.raises(ValueError, match="Was sample_weight= meant"):
        reader.predict(FEATURES[:2], groups=[2.0, 0.5])


def test_both_routes_at_once():
    with pytest.raises(ValueError, match="Groups were given twice: group_features='school' and groups="):
        Reader("school").fit(frame(), RESPONSE, groups=TEXT)
    with pytest.raises(ValueError, match="Groups were given twice: X has a column 'groups'"):
        Reader().fit(frame(groups=TEXT), RESPONSE, groups=TEXT)
    with pytest.raises(ValueError, match="Groups were given twice: X has a column 'school'"):
        Reader().fit(frame(), RESPONSE, groups=pd.DataFrame({"school": TEXT}))
    assert list(Reader("groups").fit(frame(groups=TEXT), RESPONSE).factors_) == ["groups"]


def test_labels_lost_between_fit_and_predict():
    by_keyword = Reader().fit(FEATURES, RESPONSE, groups=TEXT)
    with pytest.raises(ValueError, match=r"was fitted with groups=, and here groups= is missing.*group_features="):
        by_keyword.predict(FEATURES)
    without = Reader().fit(FEATURES, RESPONSE)
    with pytest.raises(ValueError, match=r"was fitted without groups and cannot use groups= here.*lost on the way"):
        without.read(FEATURES, TEXT)
    by_column = Reader("school").fit(frame(), RESPONSE)
    with pytest.raises(ValueError, match=r"takes its groups from columns of X \('school'\). Leave groups= out"):
        by_column.predict(frame(), groups=TEXT)


# Factors that a formula names


def read_sources(X, groups, *sources):
    return read_training_rows(Reader(), X, RESPONSE, groups, sources=sources)


def test_sources_of_a_formula():
    X = frame(teacher=[2, 2, 1, 1, 3])
    rows = read_sources(
        X, None, FactorSource("school", ("school",)), FactorSource("school:teacher", ("school", "teacher"))
    )
    assert rows.factors["school:teacher"].labels.tolist() == [("a", 1), ("a", 2), ("b", 2), ("b", 3), ("c", 1)]
    assert rows.feature_names == ("x",)
    rows = read_sources(FEATURES, TEXT, FactorSource("groups", None))
    assert rows.sources == (FactorSource("groups", None, keyword=True),)
    rows = read_sources(frame(groups=TEXT), None, FactorSource("groups", None))
    assert rows.sources == (FactorSource("groups", ("groups",)),)
    named = pd.DataFrame({"a": TEXT, "b": [1, 1, 1, 2, 2]})
    rows = read_sources(FEATURES, named, FactorSource("a:b", ("a", "b")))
    assert rows.factors["a:b"].labels.tolist() == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1)]
    assert rows.sources == (FactorSource("a:b", ("a", "b"), keyword=True),)
    assert rows.feature_names == ("x0", "x1")


def test_sources_of_a_formula_that_are_not_there():
    with pytest.raises(ValueError, match="grouping factor 'groups', but groups= was not given"):
        read_sources(frame(), None, FactorSource("groups", None))
    with pytest.raises(ValueError, match=r"grouping factor 'class': X has no column 'class'.*'x', 'school'"):
        read_sources(frame(), None, FactorSource("class", ("class",)))
    with pytest.raises(ValueError, match="takes one part from groups= and another from X"):
        read_sources(frame(), pd.DataFrame({"b": TEXT}), FactorSource("school:b", ("school", "b")))
    with pytest.raises(ValueError, match=r"groups= was given, but no grouping factor .* takes its labels from there"):
        read_sources(frame(), TEXT, FactorSource("school", ("school",)))


# Policies


@pytest.mark.parametrize("route", ["column", "keyword"])
def test_policies_for_unknown_groups(route):
    labels = np.array(["a", "u", "v", "u", None], dtype=object)

    def read(policy, labels=labels):
        if route == "keyword":
            return (
                Reader(unknown_groups=policy).fit(FEATURES, RESPONSE, groups=TEXT).read(FEATURES[: len(labels)], labels)
            )
        X = frame()[: len(labels)].assign(school=labels)
        return Reader("school", policy).fit(frame(), RESPONSE).read(X)

    for policy in ("population", "nan"):
        rows = read(policy)
        (name,) = rows.codes
        assert rows.unknown[name].tolist() == [False, True, True, True, True]
        assert rows.codes[name].tolist() == [0, 3, 4, 3, 5]
    where = "groups=" if route == "keyword" else "Group column 'school' of X"
    with pytest.raises(
        ValueError, match=rf"{where} has 3 groups that were not seen in fit: 'u', 'v', NaN \(missing\)\."
    ):
        read("error")
    assert not read("error", TEXT[:2]).unknown[name].any()


def test_error_policy_shows_five_labels():
    reader = Reader(0, "error").fit(np.array([[1, 2], [2, 3]]), [1.0, 2.0])
    new = np.array([[30 + i // 2, 1] for i in range(14)])
    with pytest.raises(ValueError, match=r"has 7 groups .*: 30, 31, 32, 33, 34 and 2 more\."):
        reader.predict(new)


# Rows


def test_rows_of_weight_zero_are_gone():
    X = frame()
    rows = read_training_rows(
        Reader("school"),
        X,
        RESPONSE,
        group_features="school",
        sample_weight=[1, 2, 0, 0, 0.5],
        standard_error=[1.0, 2.0, 3.0, 4.0, 5.0],
    )
    assert rows.factors["school"].labels.tolist() == ["a", "b"]
    assert rows.codes["school"].tolist() == [1, 0, 1]
    assert rows.y.tolist() == [1.0, 2.0, 5.0]
    assert rows.sample_weight.tolist() == [1.0, 2.0, 0.5]
    assert rows.standard_error.tolist() == [1.0, 2.0, 5.0]
    assert rows.features.column("x").tolist() == [1.5, 2.5, 3.5]
    rows = read_training_rows(
        Reader(), FEATURES, RESPONSE, pd.Series(TEXT, index=list("edcba")), sample_weight=[0, 1, 1, 1, 0]
    )
    assert rows.factors["groups"].labels.tolist() == ["a", "c"]
    with pytest.raises(ValueError, match="n_samples=1 rows have a positive sample_weight"):
        read_training_rows(Reader(), FEATURES, RESPONSE, TEXT, sample_weight=[0, 1, 0, 0, 0], min_samples=2)


def test_a_failing_fit_forgets_the_former_one():
    reader = Reader("school").fit(frame(), RESPONSE)
    with pytest.raises(ValueError, match="no column"):
        reader.set_params(group_features="class").fit(frame(), RESPONSE)
    assert not hasattr(reader, "factors_")


def test_arrays_are_not_copied_nor_changed():
    X = np.c_[FEATURES, [1.0, 2.0, 1.0, 2.0, 3.0]]
    before = X.copy()
    rows = read_training_rows(Reader(-1), X, RESPONSE, group_features=-1)
    assert np.shares_memory(rows.features.column("x0"), X)
    assert np.shares_memory(rows.y, RESPONSE)
    np.testing.assert_array_equal(X, before)


# Metadata routing


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
def test_groups_is_left_to_the_splitter_when_a_column_holds_them():
    X = frame(n=np.arange(5.0))
    y = RESPONSE
    pipeline = make_pipeline(FunctionTransformer(), Reader("school"))
    for estimator in (Reader("school"), pipeline):
        result = cross_validate(estimator, X, y, cv=GroupKFold(2), params={"groups": TEXT}, error_score="raise")
        assert len(result["test_score"]) == 2
    with pytest.raises(ValueError, match="groups"):
        cross_validate(Reader(), X, y, cv=GroupKFold(2), params={"groups": TEXT}, error_score="raise")
    asked = Reader().set_fit_request(groups=True).set_score_request(groups=True)
    cross_validate(asked, X, y, cv=GroupKFold(2), params={"groups": TEXT}, error_score="raise")


@pytest.mark.usefixtures("routing")
def test_other_requests_are_kept():
    reader = Reader("school").set_fit_request(sample_weight=True, groups=True)
    request = reader.get_metadata_routing().fit.requests
    assert request == {"groups": False, "sample_weight": True, "standard_error": None}
    assert Reader().set_fit_request(groups=True).get_metadata_routing().fit.requests["groups"] is True
    # Asking must not change what was said: without the column the keyword is wanted again.
    assert reader.set_params(group_features=None).get_metadata_routing().fit.requests["groups"] is True


def test_reading_does_not_import_the_engines():
    heavy = ("bambi", "pymc", "pytensor", "arviz", "matplotlib", "formulae")
    code = f"import hbsk._groups, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
