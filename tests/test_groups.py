"""Group labels by both routes, and the errors for labels that got lost."""

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

from hbsk._base import GroupRoutingMixin, read_training_table
from hbsk._data.rows import FactorSource, read_rows, read_training_rows
from hbsk._data.table import read_table
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
            read_training_table(self, X),
            y,
            groups,
            name="Reader",
            group_features=self.group_features,
            standard_error=standard_error,
            sample_weight=sample_weight,
        )
        self.factors_ = self._rows.factors
        return self

    def read(self, X, groups=None):
        return read_rows(
            read_table(self, X, reset=False),
            groups,
            name="Reader",
            factors=self.factors_,
            unknown_groups=self.unknown_groups,
        )

    def predict(self, X, groups=None, *, standard_error=None):
        return self.read(X, groups).codes[0].astype(float)

    def score(self, X, y, sample_weight=None, *, groups=None):
        return float(len(self.predict(X, groups)))


def table_of(X):
    return read_table(Reader(), X, reset=True)


def names_of(reader):
    return [factor.name for factor in reader.factors_]


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
    (factor,) = reader.factors_
    assert factor.labels.tolist() == ["a", "b", "c"]
    assert reader._rows.codes[0].tolist() == [1, 0, 2, 0, 1]
    assert reader.n_features_in_ == 2
    assert len(reader._rows.feature_names) == 1
    assert reader.predict(X).tolist() == [1, 0, 2, 0, 1]


def test_names_of_factors():
    renamed = frame().rename(columns={"school": "remainder__school"})
    assert names_of(Reader("school").fit(renamed, RESPONSE)) == ["school"]
    assert names_of(Reader(-1).fit(renamed, RESPONSE)) == ["remainder__school"]
    assert names_of(Reader(-1).fit(FEATURES, RESPONSE)) == ["x1"]


def test_several_columns_are_several_factors():
    X = frame(teacher=[2, 2, 1, 1, 3])
    reader = Reader(["teacher", "school"]).fit(X, RESPONSE)
    assert names_of(reader) == ["teacher", "school"]
    assert reader._rows.codes[0].tolist() == [1, 1, 0, 0, 2]
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
        ([np.float64(1.0)], TypeError, r"got 1\.0\.$"),
        (np.array(["class", "x"]), ValueError, "X has no column 'class'"),
        ([np.str_("x"), np.str_("x")], ValueError, r"group_features=\['x', 'x'\] names a column"),
        ({"school"}, TypeError, r"group_features=\{'school'\} is a set, which has no order.*a list of these"),
        (frozenset([1]), TypeError, r"group_features=frozenset\(\{1\}\) is a frozenset"),
        ({"school": "x"}, TypeError, r"group_features=\{'school': 'x'\} is a dict"),
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
    rows = read_training_rows(table_of(X), RESPONSE, group_features="school", used_columns=["x"], name="Reader")
    assert rows.feature_names == ("x", "when", "hole")
    with pytest.raises(TypeError, match="'when' of X has dtype datetime64"):
        read_training_rows(table_of(X), RESPONSE, group_features="school", used_columns=["x", "when"], name="Reader")


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
    assert names_of(reader) == ["groups"]
    assert reader.factors_[0].labels.tolist() == ["a", "b", "c"]
    assert reader.predict(FEATURES, groups=groups).tolist() == [1, 0, 2, 0, 1]
    assert reader._rows.feature_names == ("x0", "x1")


def test_several_factors_by_keyword():
    two = np.array([[1, 5], [2, 5], [1, 6], [2, 6], [3, 6]])
    reader = Reader().fit(FEATURES, RESPONSE, groups=two)
    assert dict(zip(names_of(reader), [codes.tolist() for codes in reader._rows.codes], strict=True)) == {
        "groups_0": [0, 1, 0, 1, 2],
        "groups_1": [0, 0, 1, 1, 1],
    }
    for named in (pd.DataFrame(two, columns=["class", "town"]), pl.DataFrame({"class": two[:, 0], "town": two[:, 1]})):
        reader = Reader().fit(FEATURES, RESPONSE, groups=named)
        assert names_of(reader) == ["class", "town"]
        assert reader.read(FEATURES, named).codes[1].tolist() == [0, 0, 1, 1, 1]
        with pytest.raises(ValueError, match=r"the same factors as in fit \('class', 'town'\); got 'groups'"):
            reader.predict(FEATURES, groups=two[:, 0])


def test_lists_of_tuples_and_of_mixed_labels():
    reader = Reader().fit(FEATURES, RESPONSE, groups=[("b", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 1)])
    assert reader.factors_[0].labels.tolist() == [("a", 1), ("a", 2), ("b", 1)]
    reader = Reader().fit(FEATURES, RESPONSE, groups=[1, "1", 1.0, True, 2])
    assert reader.factors_[0].labels.tolist() == [1, "1", 2]


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (TEXT[:3], ValueError, "groups= has 3 labels, but X has 5 rows"),
        ([0.5, 1.0, 2.0, 1.0, 2.0], ValueError, r"not integers \('groups': 0\.5, .* Was sample_weight= meant\?"),
        ("school", TypeError, "groups= takes labels, one for each row of X; got 'school'.*group_features="),
        (3, TypeError, "got 3"),
        (np.str_("school"), TypeError, "got 'school'"),
        ({3}, TypeError, r"one for each row of X; got \{3\}"),
        (iter("abcab"), TypeError, "one for each row of X; got <"),
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
    assert names_of(Reader("groups").fit(frame(groups=TEXT), RESPONSE)) == ["groups"]


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
    return read_training_rows(table_of(X), RESPONSE, groups, sources=sources, name="Reader")


def test_sources_of_a_formula():
    X = frame(teacher=[2, 2, 1, 1, 3])
    rows = read_sources(
        X, None, FactorSource("school", ("school",)), FactorSource("school:teacher", ("school", "teacher"))
    )
    assert rows.factors[1].labels.tolist() == [("a", 1), ("a", 2), ("b", 2), ("b", 3), ("c", 1)]
    assert rows.feature_names == ("x",)
    rows = read_sources(FEATURES, TEXT, FactorSource("groups", None))
    assert rows.factors[0].source == FactorSource("groups", None, keyword=True)
    rows = read_sources(frame(groups=TEXT), None, FactorSource("groups", None))
    assert rows.factors[0].source == FactorSource("groups", ("groups",))
    named = pd.DataFrame({"a": TEXT, "b": [1, 1, 1, 2, 2]})
    rows = read_sources(FEATURES, named, FactorSource("a:b", ("a", "b")))
    assert rows.factors[0].labels.tolist() == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1)]
    assert rows.factors[0].source == FactorSource("a:b", ("a", "b"), keyword=True)
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
        assert len(rows.codes) == 1
        assert rows.unknown[0].tolist() == [False, True, True, True, True]
        assert rows.codes[0].tolist() == [0, 3, 4, 3, 5]
    where = "groups=" if route == "keyword" else "Group column 'school' of X"
    with pytest.raises(ValueError, match=rf"{where} has 3 groups not seen in fit: 'u', 'v', NaN \(missing\)\."):
        read("error")
    assert not read("error", TEXT[:2]).unknown[0].any()


def test_error_policy_shows_five_labels():
    reader = Reader(0, "error").fit(np.array([[1, 2], [2, 3]]), [1.0, 2.0])
    new = np.array([[30 + i // 2, 1] for i in range(14)])
    with pytest.raises(ValueError, match=r"has 7 groups .*: 30, 31, 32, 33, 34 and 2 more\."):
        reader.predict(new)


# Rows


def test_rows_of_weight_zero_are_gone():
    X = frame()
    rows = read_training_rows(
        table_of(X),
        RESPONSE,
        name="Reader",
        group_features="school",
        sample_weight=[1, 2, 0, 0, 0.5],
        standard_error=[1.0, 2.0, 3.0, 4.0, 5.0],
    )
    assert rows.factors[0].labels.tolist() == ["a", "b"]
    assert rows.codes[0].tolist() == [1, 0, 1]
    assert rows.y.tolist() == [1.0, 2.0, 5.0]
    assert rows.sample_weight.tolist() == [1.0, 2.0, 0.5]
    assert rows.standard_error.tolist() == [1.0, 2.0, 5.0]
    assert rows.features.column("x").tolist() == [1.5, 2.5, 3.5]
    rows = read_training_rows(
        table_of(FEATURES), RESPONSE, pd.Series(TEXT, index=list("edcba")), sample_weight=[0, 1, 1, 1, 0], name="Reader"
    )
    assert rows.factors[0].labels.tolist() == ["a", "c"]
    with pytest.raises(ValueError, match="n_samples=1 rows have a positive sample_weight"):
        read_training_rows(
            table_of(FEATURES), RESPONSE, TEXT, sample_weight=[0, 1, 0, 0, 0], min_samples=2, name="Reader"
        )


def test_a_failing_fit_forgets_the_former_one():
    reader = Reader("school").fit(frame(), RESPONSE)
    with pytest.raises(ValueError, match="no column"):
        reader.set_params(group_features="class").fit(frame(), RESPONSE)
    assert not hasattr(reader, "factors_")


def test_arrays_are_not_copied_nor_changed():
    X = np.c_[FEATURES, [1.0, 2.0, 1.0, 2.0, 3.0]]
    before = X.copy()
    rows = read_training_rows(table_of(X), RESPONSE, group_features=-1, name="Reader")
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
