"""compare_estimators asks both questions of anything that has fit and predict, and its numbers are right."""

import re
import sys
from contextlib import nullcontext

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import BayesianRidge, LinearRegression, Ridge, RidgeCV
from sklearn.metrics import max_error, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder

import hbsk.model_selection
from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.datasets import make_grouped_regression
from hbsk.model_selection import WithinGroupKFold, _folds, _scores, compare_estimators, make_group_scorer

KNOWN, NEW = "new rows of known groups", "new groups"
METRICS = ["rmse", "mae", "crps", "log_score", "coverage", "width", "fit_seconds", "predict_seconds"]


@pytest.fixture(scope="module")
def data():
    X, y = make_grouped_regression(
        11, 4, 2, max_per_group=15, intercept=7.3, coef=[1.2, -0.4], group_sd=[2.5], residual_sd=0.8, as_frame=True,
        random_state=71,
    )  # fmt: skip
    return X.assign(group=[f"g{label}" for label in X["group"]]), y


def value(comparison, question, estimator, metric, column="mean"):
    chosen = (
        (comparison["question"] == question) & (comparison["estimator"] == estimator) & (comparison["metric"] == metric)
    )
    (found,) = comparison.loc[chosen, column]
    return found


class Noted(RegressorMixin, BaseEstimator):
    """Predicts 0.25 with an sd of 1.5; appends what it was given to a list of the test."""

    calls = None

    def fit(self, X, y, groups=None):
        self.calls.append(("fit", len(X), None if groups is None else sorted(set(groups))))
        return self

    def predict(self, X, groups=None, *, return_std=False):
        self.calls.append(("predict", len(X), None if groups is None else sorted(set(groups))))
        mean = np.full(len(X), 0.25)
        return (mean, np.full(len(X), 1.5)) if return_std else mean


@pytest.fixture
def noted():
    return type("Noted", (Noted,), {"calls": []})


# ---------------------------------------------------------------------------------------------------------------------
# The comparison


@pytest.fixture(scope="module")
def comparison(data):
    X, y = data
    features = ["x0", "x1"]
    encoded = make_column_transformer((TargetEncoder(), ["group"]), remainder="passthrough")
    return compare_estimators(
        {
            "mean": DummyRegressor(),
            "bayes": make_pipeline(make_column_transformer(("passthrough", features)), BayesianRidge()),
            "encoded": make_pipeline(encoded, Ridge(alpha=0.3)),
            "trees": HistGradientBoostingRegressor(
                categorical_features=["group"], max_iter=20, min_samples_leaf=3, random_state=0
            ),
            "column": PartialPoolingRegressor(group_features="group"),
            "keyword": make_pipeline(make_column_transformer((StandardScaler(), features)), PartialPoolingRegressor()),
            "shrunken": JamesSteinEstimator(group_features="group", method="empirical-bayes"),
        },
        X.astype({"group": "category"}),
        y,
        groups=X["group"],
    )


def test_table_is_tidy(comparison):
    assert list(comparison.columns) == [
        "question", "estimator", "metric", "mean", "standard_error", "difference", "difference_standard_error",
    ]  # fmt: skip
    assert len(comparison) == 2 * 7 * 8
    assert list(comparison["question"].unique()) == [KNOWN, NEW]
    assert list(comparison["estimator"].unique()) == [
        "mean", "bayes", "encoded", "trees", "column", "keyword", "shrunken",
    ]  # fmt: skip
    assert list(comparison["metric"].unique()) == METRICS
    pivot = comparison.pivot(index=["question", "estimator"], columns="metric", values="mean")
    assert list(pivot.columns) == METRICS
    assert list(pivot.index.get_level_values("estimator")[:3]) == ["mean", "bayes", "encoded"]


def test_groups_help_with_known_groups_only(comparison):
    for metric in ("rmse", "mae", "crps", "log_score"):
        assert value(comparison, KNOWN, "column", metric) < 0.75 * value(comparison, KNOWN, "bayes", metric)
        assert value(comparison, NEW, "column", metric) > 0.85 * value(comparison, NEW, "bayes", metric)
    assert value(comparison, NEW, "column", "width") > 1.5 * value(comparison, KNOWN, "column", "width")
    assert 0.8 < value(comparison, KNOWN, "column", "coverage") < 0.98
    assert (comparison.loc[comparison["metric"] == "fit_seconds", "mean"] > 0).all()


def test_both_routes_give_the_same_numbers(comparison):
    for question in (KNOWN, NEW):
        for metric in METRICS[:6]:
            column, keyword = (value(comparison, question, name, metric) for name in ("column", "keyword"))
            assert keyword == pytest.approx(column, rel=0.02)


def test_estimators_without_a_distribution_have_nan(comparison):
    distribution = comparison["metric"].isin(["crps", "log_score", "coverage", "width"])
    pointless = comparison["estimator"].isin(["mean", "encoded", "trees"])
    numbers = ["mean", "standard_error", "difference", "difference_standard_error"]
    assert comparison.loc[distribution & pointless, numbers].isna().all(axis=None)
    assert comparison.loc[~(distribution & pointless), "mean"].notna().all()


def test_numbers_equal_those_of_a_loop(data):
    X, y = data[0][["x0", "x1"]], data[1]
    groups = data[0]["group"]
    splitter = GroupKFold(4)
    estimators = {"bayes": BayesianRidge(), "line": LinearRegression(fit_intercept=False)}
    scoring = {"rmse": "rmse", "worst": lambda model, X, y: max_error(y, model.predict(X)), "crps": "crps", "r2": "r2"}
    comparison = compare_estimators(estimators, X, y, groups, cv=splitter, scoring=scoring)
    rows = {(name, metric): [] for name in estimators for metric in scoring}
    for train, test in splitter.split(X, y, groups):
        for name, model in estimators.items():
            model.fit(X.iloc[train], y.iloc[train])
            residual = y.iloc[test] - model.predict(X.iloc[test])
            rows[name, "rmse"].append(np.sqrt(np.mean(residual**2)))
            rows[name, "worst"].append(np.abs(residual).max())
            rows[name, "r2"].append(model.score(X.iloc[test], y.iloc[test]))
        mean, sd = estimators["bayes"].predict(X.iloc[test], return_std=True)
        rows["bayes", "crps"].append(_scores.crps(y.iloc[test].to_numpy(), mean, sd))
    assert list(comparison["question"].unique()) == ["GroupKFold"]
    assert list(comparison["metric"].unique()) == list(scoring)
    for (name, metric), values in rows.items():
        if values:
            found = value(comparison, "GroupKFold", name, metric)
            assert found == pytest.approx(np.mean(values))
            error = value(comparison, "GroupKFold", name, metric, "standard_error")
            assert error == pytest.approx(np.std(values, ddof=1) / 2)
            difference = np.subtract(values, rows["bayes", metric])
            found = value(comparison, "GroupKFold", name, metric, "difference")
            assert found == pytest.approx(difference.mean(), abs=1e-12)
            error = value(comparison, "GroupKFold", name, metric, "difference_standard_error")
            assert error == pytest.approx(difference.std(ddof=1) / 2, abs=1e-12)


def test_interval_of_the_estimator_comes_before_that_of_its_sd(data):
    class Wide(BayesianRidge):
        def predict_interval(self, X, coverage=0.5):
            return np.column_stack([np.full(len(X), -50.0), np.full(len(X), 1000 * coverage)])

    class Other(BayesianRidge):
        def predict_interval(self, X):  # of another kind
            raise AssertionError

    X, y = data[0][["x0", "x1"]], data[1]
    estimators = {"plain": BayesianRidge(), "wide": Wide(), "other": Other()}
    comparison = compare_estimators(estimators, X, y, cv=3, scoring=["width", "crps"])
    assert value(comparison, "KFold", "wide", "width") == pytest.approx(950.0)
    assert value(comparison, "KFold", "other", "width") == value(comparison, "KFold", "plain", "width")
    assert value(comparison, "KFold", "wide", "crps") == value(comparison, "KFold", "plain", "crps")


def test_only_what_the_metrics_need_is_asked_for(data):
    class Asked(BayesianRidge):
        def predict(self, X, return_std=False):
            asked.add("sd" if return_std else "mean")
            return super().predict(X, return_std=return_std)

        def predict_interval(self, X, coverage=0.5):
            asked.add("interval")
            return np.zeros((len(X), 2))

    for scoring, expected in ((["rmse"], {"mean"}), (["crps"], {"mean", "sd"}), (["width"], {"mean", "interval"})):
        asked = set()
        compare_estimators({"a": Asked()}, data[0][["x0"]], data[1], cv=3, scoring=scoring)
        assert asked == expected


def test_infinite_spread_makes_infinite_scores(data):
    class Endless(BayesianRidge):
        def predict(self, X, return_std=False):
            mean = super().predict(X)
            return (mean, np.where(np.arange(len(mean)) == 0, np.inf, 1.0)) if return_std else mean

    X, y = data[0][["x0", "x1"]], data[1]
    comparison = compare_estimators(
        {"a": Endless(), "b": Endless()}, X, y, cv=3, scoring=["crps", "log_score", "width"]
    )
    assert (comparison["mean"] == np.inf).all()
    assert comparison["standard_error"].isna().all()
    assert comparison["difference"].isna().all()


def test_two_jobs_give_the_same_scores(data):
    X, y = data
    estimators = {"bayes": BayesianRidge(), "line": Ridge()}
    # Threads: processes would take seconds to start, and are tested in test_dropping_in.py.
    with joblib.parallel_config(backend="threading"):
        one, two = (
            compare_estimators(estimators, X[["x0"]], y, groups=X["group"], scoring=["rmse", "crps"], n_jobs=n_jobs)
            for n_jobs in (None, 2)
        )
    pd.testing.assert_frame_equal(one, two)


# ---------------------------------------------------------------------------------------------------------------------
# Folds and groups


def test_questions(noted, data):
    X, y = data
    compare_estimators({"n": noted()}, X, y, groups=X["group"], scoring=["mae"])
    fits = [groups for what, _, groups in noted.calls if what == "fit"]
    predictions = [groups for what, _, groups in noted.calls if what == "predict"]
    assert len(fits) == len(predictions) == 10
    for training, test in zip(fits[:5], predictions[:5], strict=True):
        assert set(test) <= set(training)
    for training, test in zip(fits[5:], predictions[5:], strict=True):
        assert not set(test) & set(training)


@pytest.mark.parametrize(("cv", "question", "n"), [("known", KNOWN, 5), ("new", NEW, 3)])
def test_single_questions_and_few_groups(noted, cv, question, n):
    groups = np.array(list("aabbcc") * 3)
    comparison = compare_estimators({"n": noted()}, np.zeros((18, 1)), np.arange(18.0), groups, cv=cv, scoring=["rmse"])
    assert list(comparison["question"]) == [question]
    assert sum(what == "fit" for what, *_ in noted.calls) == n


@pytest.mark.filterwarnings("error")
def test_questions_of_ones_own(noted, data):
    X, y = data
    cv = {
        "far": KFold(2),
        "same": WithinGroupKFold(3),
        "by hand": [(np.arange(20), np.arange(20, 31))],
        "four": 4,
    }
    comparison = compare_estimators({"n": noted()}, X, y, groups=X["group"], cv=cv, scoring=["mae"])
    assert list(comparison["question"]) == ["far", "same", "by hand", "four"]
    assert [what for what, *_ in noted.calls].count("fit") == 2 + 3 + 1 + 4
    assert noted.calls[2 * 5][1] == 20
    one_fold = comparison.loc[comparison["question"] == "by hand"]
    assert one_fold["standard_error"].isna().all()
    assert one_fold["mean"].item() == pytest.approx(np.abs(y.to_numpy()[20:31] - 0.25).mean())


@pytest.mark.parametrize(
    ("cv", "name"), [(3, "KFold"), (GroupKFold(3), "GroupKFold"), (list(KFold(3).split(np.empty(12))), "folds")]
)
def test_name_of_a_single_question(noted, cv, name):
    groups = np.array(list("abcabcabcabc"))
    comparison = compare_estimators({"n": noted()}, np.zeros((12, 1)), np.arange(12.0), groups, cv=cv, scoring=["mae"])
    assert list(comparison["question"]) == [name]


def test_rows_without_an_answer_make_the_coverage_nan_as_they_do_the_error(data):
    X, y = data
    model = JamesSteinEstimator(group_features="group", unknown_groups="nan")
    comparison = compare_estimators({"m": model}, X, y, groups=X["group"], scoring=["rmse", "coverage", "width"])
    for metric in ("rmse", "coverage", "width"):
        assert np.isfinite(value(comparison, KNOWN, "m", metric))
        assert np.isnan(value(comparison, NEW, "m", metric))


def test_groups_go_to_the_last_step_whether_routing_is_on_or_off(noted, data):
    X, y = data
    for routing in (False, True):
        with sklearn.config_context(enable_metadata_routing=routing):
            model = noted().set_fit_request(groups=True) if routing else noted()
            pipeline = make_pipeline(StandardScaler(), model)
            compare_estimators({"n": pipeline}, X[["x0"]], y, groups=X["group"], cv="new", scoring=["crps", "r2"])
    assert all(groups is not None for _, _, groups in noted.calls)


def test_groups_go_through_transformed_targets(noted, data):
    X, y = data
    model = TransformedTargetRegressor(noted(), func=np.sqrt, inverse_func=np.square)
    comparison = compare_estimators({"n": model}, X[["x0"]], np.exp(y / 9), groups=X["group"], cv="new")
    assert all(groups is not None for _, _, groups in noted.calls)
    assert np.isnan(value(comparison, NEW, "n", "crps"))  # the sd is one of the transformed target


def test_search_gets_groups_for_its_splitter_and_answers_by_its_best(data):
    X, y = data
    search = GridSearchCV(
        PartialPoolingRegressor(group_features="group"), {"pooling": ["none", "partial"]}, cv=GroupKFold(2)
    )
    folds = {"one": [next(GroupKFold(4).split(X, groups=X["group"]))]}
    comparison = compare_estimators({"s": search}, X, y, groups=X["group"], cv=folds, scoring=["rmse", "coverage"])
    assert comparison["mean"].notna().all()


def test_scorers_get_groups(noted, data):
    def n_groups(y_true, y_pred, groups):
        assert len(groups) == len(y_true)
        return float(len(set(groups)))

    X, y = data
    scoring = {"groups": make_group_scorer(n_groups), "r2": "r2", "rmse": "rmse"}
    model = PartialPoolingRegressor()
    comparison = compare_estimators(
        {"n": noted(), "keyword": model}, X[["x0", "x1"]], y, groups=X["group"], cv="known", scoring=scoring
    )
    assert 9 < value(comparison, KNOWN, "n", "groups") <= 11
    assert value(comparison, KNOWN, "keyword", "r2") > 0.8
    folds = WithinGroupKFold(5, shuffle=True, random_state=0).split(X, y, X["group"])
    expected = []
    for train, test in folds:
        model.fit(X[["x0", "x1"]].iloc[train], y.iloc[train], X["group"].iloc[train])
        expected.append(r2_score(y.iloc[test], model.predict(X[["x0", "x1"]].iloc[test], X["group"].iloc[test])))
    assert value(comparison, KNOWN, "keyword", "r2") == pytest.approx(np.mean(expected))


def test_estimator_that_cannot_be_asked_for_its_routing_where_routing_is_off(data):
    model = RidgeCV([0.1, 1.0])
    with pytest.raises(RecursionError):  # of scikit-learn 1.9; when it is gone, config_context in _responses.py may go
        model.get_metadata_routing()
    X, y = data
    pipeline = make_pipeline(StandardScaler(), model)
    comparison = compare_estimators({"m": pipeline}, X[["x0"]], y, groups=X["group"], cv="new", scoring=["rmse"])
    assert np.isfinite(comparison["mean"]).all()


def test_polars_and_lists(data):
    X, y = data
    # BayesianRidge itself cannot give an sd for polars frames.
    estimators = {"m": make_pipeline(StandardScaler(), BayesianRidge())}
    scoring = ["rmse", "crps"]
    plain = compare_estimators(estimators, X[["x0", "x1"]], y, groups=X["group"], scoring=scoring)
    columns = pl.DataFrame({name: X[name].to_numpy() for name in ("x0", "x1")})
    other = compare_estimators(estimators, columns, y.tolist(), groups=X["group"].tolist(), scoring=scoring)
    pd.testing.assert_frame_equal(plain, other)


def test_first_import_of_bambi_is_not_timed(monkeypatch):
    monkeypatch.setitem(sys.modules, "bambi", None)  # importing it is now an error
    _folds._import_before_timing(make_pipeline(StandardScaler(), Ridge()))
    for model in (PartialPoolingRegressor(inference="nuts"), PartialPoolingRegressor()):
        for estimator in (model, make_pipeline(StandardScaler(), model)):
            with pytest.raises(ImportError) if model.inference == "nuts" else nullcontext():
                _folds._import_before_timing(estimator)


def test_estimators_are_not_changed(data):
    X, y = data
    model = BayesianRidge()
    compare_estimators({"m": model}, X[["x0"]], y, cv=2, scoring=["rmse"])
    assert not hasattr(model, "coef_")


# ---------------------------------------------------------------------------------------------------------------------
# Errors


LINE = {"line": LinearRegression()}
TABLE = (np.arange(12.0)[:, None], np.arange(12.0) ** 2, list("aabbccaabbcc"))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (
            ([LinearRegression()], *TABLE),
            {},
            TypeError,
            "estimators must be a dict that maps names to estimators, got [LinearRegression()].",
        ),
        (
            ({"line": LinearRegression}, *TABLE),
            {},
            TypeError,
            "estimators['line'] must be an estimator with fit and predict (an instance, not a class), got <class "
            "'sklearn.linear_model._base.LinearRegression'>.",
        ),
        (
            (LINE, *TABLE),
            {"cv": "groups"},
            ValueError,
            "cv must be 'both', 'known', 'new', a splitter, or a dict of splitters; got 'groups'.",
        ),
        (
            (LINE, *TABLE[:2]),
            {},
            ValueError,
            "compare_estimators with cv='both' needs the group of each row, but groups is None. Pass groups=, for "
            "example the column of X that holds them; with metadata routing on, scikit-learn's functions take it in "
            "params={'groups': ...}.",
        ),
        (
            (LINE, *TABLE[:2], ["a"] * 12),
            {},
            ValueError,
            "cv='both' asks about new groups, but all rows belong to one group. Use cv='known'.",
        ),
        (
            (LINE, *TABLE[:2], "school"),
            {},
            TypeError,
            "compare_estimators takes the group of each row in groups=, but got 'school'. Where that is a column of X, "
            "pass the column: groups=X['school'].",
        ),
        (
            (LINE, *TABLE),
            {"scoring": "rmse"},
            TypeError,
            "scoring must be a list of names or a dict of scorers, got 'rmse'. A single one goes in a list: "
            "scoring=['rmse'].",
        ),
        (
            (LINE, *TABLE),
            {"scoring": ["RMSE"]},
            ValueError,
            "scoring names 'RMSE', which is neither one of "
            f"{sorted([*METRICS, 'poisson_deviance', 'log_loss', 'brier'])} nor a scorer of scikit-learn "
            "(sklearn.metrics.get_scorer_names() lists those).",
        ),
        (
            (LINE, *TABLE),
            {"scoring": {"a": 3}},
            TypeError,
            "scoring['a'] must be a name or a function scorer(estimator, X, y), got 3.",
        ),
        (
            (LINE, *TABLE),
            {"scoring": []},
            ValueError,
            "scoring is empty. Name at least one metric, or leave it out (None).",
        ),
    ],
)
def test_bad_arguments(arguments, options, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        compare_estimators(*arguments, **options)


def test_errors_say_where(data):
    X, y = data
    model = PartialPoolingRegressor(group_features="school")
    with pytest.raises(ValueError, match="X has no column 'school'") as caught:
        compare_estimators({"mean": DummyRegressor(), "ours": model}, X, y, groups=X["group"])
    assert caught.value.__notes__ == ["This is estimators['ours'] in fold 0 of 'new rows of known groups'."]


def test_without_scoringrules(monkeypatch, data):
    monkeypatch.setattr(_scores, "crps_is_available", lambda: False)
    X, y = data
    comparison = compare_estimators({"bayes": BayesianRidge()}, X[["x0"]], y, cv=2)
    assert np.isnan(value(comparison, "KFold", "bayes", "crps"))
    assert np.isfinite(value(comparison, "KFold", "bayes", "log_score"))
    text = (
        "scoring names 'crps', which needs the package scoringrules: pip install scoringrules. Without it leave 'crps' "
        "out; 'log_score' judges distributions too."
    )
    with pytest.raises(ImportError, match=f"^{re.escape(text)}$"):
        compare_estimators({"bayes": BayesianRidge()}, X[["x0"]], y, cv=2, scoring=["crps"])


def test_public_names():
    assert {"WithinGroupKFold", "compare_estimators", "make_group_scorer"} <= set(hbsk.model_selection.__all__)
