"""compare_estimators, scorers and searches where rows belong to groups of several factors."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from hbsk import PartialPoolingRegressor
from hbsk.model_selection import compare_estimators, make_group_scorer
from hbsk.model_selection._splitters import WithinGroupKFold, split_known

# sds fixed: folds are what is looked at, and such fits are one evaluation
FIXED = {"sigma": 1.0, "1|school": ("Normal", {"mu": 0, "sigma": 1.0})}
NESTED = FIXED | {"1|school:class": ("Normal", {"mu": 0, "sigma": 0.8})}


@pytest.fixture(scope="module")
def schools():
    """Ten schools of three classes with four pupils; labels of classes recur in every school."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"school": np.repeat(np.arange(10), 12), "class": np.tile(np.repeat(list("abc"), 4), 10)})
    X["x"] = rng.normal(size=120)
    room = X["school"].to_numpy() * 3 + np.tile(np.repeat(np.arange(3), 4), 10)
    y = rng.normal(size=120) + 2.0 * rng.normal(size=10)[X["school"]] + 1.5 * rng.normal(size=30)[room] + X["x"]
    return X, y.to_numpy(), room


class Recorder(DummyRegressor):
    """Notes the labels of the training and test rows of each fold."""

    folds = []  # noqa: RUF012 - emptied by the tests

    def fit(self, X, y):
        self.seen_ = X
        return super().fit(X, y)

    def predict(self, X):
        self.folds.append((self.seen_, X))
        return super().predict(X)


def pairs(X):
    return X["school"].astype(str) + X["class"]


def test_the_questions_are_those_of_the_factors_that_estimators_read(schools):
    X, y, _ = schools
    Recorder.folds.clear()
    models = {
        "mean": Recorder(),
        "nested": PartialPoolingRegressor("x + (1 | school/class)", priors=NESTED),
        "schools": PartialPoolingRegressor("x + (1 | school)", priors=FIXED),
    }
    table = compare_estimators(models, X, y, scoring=["rmse", "coverage"])
    assert list(table["question"].cat.categories) == ["rows", "new school", "new school:class"]
    rows, schools_, classes = (Recorder.folds[5 * i : 5 * i + 5] for i in range(3))
    for train, test in rows:
        assert set(pairs(test)) <= set(pairs(train))
    for train, test in schools_:
        assert not set(test["school"]) & set(train["school"])
        assert not set(pairs(test)) & set(pairs(train))  # children go with their parents
    for train, test in classes:
        assert not set(pairs(test)) & set(pairs(train))
    rmse = table[table["metric"] == "rmse"].set_index(["question", "estimator"])["mean"]
    assert rmse["rows", "nested"] < rmse["rows", "schools"] < rmse["rows", "mean"]
    assert rmse["new school:class", "nested"] < rmse["new school", "nested"]


def test_one_factor_that_estimators_read_has_the_questions_of_one(schools):
    X, y, _ = schools
    model = PartialPoolingRegressor("x + (1 | school)", priors=FIXED)
    by_column = compare_estimators({"m": model}, X, y, scoring=["rmse"])
    given = compare_estimators({"m": model}, X, y, groups=X["school"], scoring=["rmse"])
    pd.testing.assert_frame_equal(by_column, given)


@pytest.mark.parametrize("kind", ["frame", "array", "polars"])
def test_several_factors_by_keyword_and_a_baseline_that_takes_none(schools, kind):
    X, y, room = schools
    groups = pd.DataFrame({"school": X["school"], "class": room})
    if kind == "array":
        groups = groups.to_numpy()
    if kind == "polars":
        groups = pytest.importorskip("polars").DataFrame({name: groups[name].to_numpy() for name in groups})
    names = ["groups_0", "groups_1"] if kind == "array" else ["school", "class"]
    priors = {"sigma": 1.0} | {f"1|{name}": ("Normal", {"mu": 0, "sigma": 1.0}) for name in names}
    models = {"ridge": BayesianRidge(), "ours": PartialPoolingRegressor(priors=priors)}
    table = compare_estimators(models, X[["x"]], y, groups=groups, scoring=["rmse", "log_score"])
    assert list(table["question"].cat.categories) == ["rows", *(f"new {name}" for name in names)]
    rmse = table[table["metric"] == "rmse"].set_index(["question", "estimator"])["mean"]
    assert rmse["rows", "ours"] < 0.8 * rmse["rows", "ridge"]


def test_single_questions(schools):
    X, y, _ = schools
    model = {"m": PartialPoolingRegressor("x + (1 | school/class)", priors=NESTED)}
    for cv, expected in {"known": ["rows"], "new": ["new school", "new school:class"]}.items():
        table = compare_estimators(model, X, y, cv=cv, scoring=["mae"])
        assert list(table["question"].cat.categories) == expected


def test_rows_to_predict_are_of_known_groups_in_every_factor():
    rng = np.random.default_rng(1)
    for trial in range(20):
        codes = [rng.integers(0, n, 90) for n in (30, 29, 4)]
        codes = [np.unique(code, return_inverse=True)[1] for code in codes]
        splitter = WithinGroupKFold(5, shuffle=True, random_state=trial)
        folds = list(split_known(splitter, codes))
        np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(90))
        assert {len(test) for _, test in folds} == {18}
        for train, test in folds:
            for code in codes:
                met_again = np.bincount(code)[code[test]] > 1
                assert set(code[test][met_again]) <= set(code[train])


def test_what_has_no_answer_says_so(schools):
    X, y, room = schools
    groups = pd.DataFrame({"school": X["school"], "class": room})
    mean = {"mean": DummyRegressor()}
    with pytest.raises(ValueError, match=r"takes one label for each row, but groups has 2 columns\. Pass the one"):
        compare_estimators(mean, X[["x"]], y, groups=groups, cv=GroupKFold(3))
    with pytest.raises(ValueError, match="asks about new groups of 'all', but all rows belong to one group"):
        compare_estimators(mean, X[["x"]], y, groups=groups.assign(all=1))
    with pytest.raises(ValueError, match="class holds 1 missing labels in 120 rows"):
        compare_estimators(mean, X[["x"]], y, groups=groups.assign(**{"class": [None, *room[1:]]}))
    pipeline = make_pipeline(PartialPoolingRegressor(group_features=["school", "class"]))
    with pytest.raises(ValueError, match="needs the group of each row, but groups is None"):
        compare_estimators({"inside": pipeline}, X, y)


def test_baselines_with_dummies_and_pipelines(schools):
    X, y, room = schools
    X = X.assign(**{"class": room})
    dummies = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["school", "class"]), remainder="passthrough"
    )
    scaled = make_column_transformer((StandardScaler(), ["x"]), remainder="passthrough")
    priors = {"sigma": 1.0} | {f"1|{name}": ("Normal", {"mu": 0, "sigma": 1.0}) for name in ("school", "class")}
    ours = PartialPoolingRegressor(group_features=["school", "class"], priors=priors)
    models = {
        "ridge": make_pipeline(dummies, BayesianRidge()),
        "ours": make_pipeline(scaled.set_output(transform="pandas"), ours),
        "bare": ours,
    }
    table = compare_estimators(models, X, y, cv="known", scoring=["rmse", "log_score", "coverage"])
    means = table.set_index(["metric", "estimator"])["mean"]
    assert means.notna().all()
    assert means["rmse", "ours"] == pytest.approx(means["rmse", "bare"], rel=1e-3)


def test_scorers_get_the_groups_of_all_factors(schools):
    X, y, room = schools
    groups = pd.DataFrame({"school": X["school"], "class": room})
    priors = {"sigma": 1.0} | {f"1|{name}": ("Normal", {"mu": 0, "sigma": 1.0}) for name in groups}
    scorer = make_group_scorer(root_mean_squared_error, greater_is_better=False)

    def shape(y_true, y_pred, groups):
        assert list(groups.columns) == ["school", "class"]
        return float(len(groups) == len(y_true))

    with sklearn.config_context(enable_metadata_routing=True):
        model = PartialPoolingRegressor(priors=priors).set_fit_request(groups=True)
        scoring = {"rmse": scorer, "shape": make_group_scorer(shape)}
        folds = KFold(3, shuffle=True, random_state=0)
        scores = cross_validate(model, X[["x"]], y, cv=folds, scoring=scoring, params={"groups": groups})
        np.testing.assert_array_equal(scores["test_shape"], 1.0)
        search = GridSearchCV(model, {"unknown_groups": ["population"]}, cv=folds, scoring=scorer)
        search.fit(X[["x"]], y, groups=groups)
    assert search.best_score_ == pytest.approx(scores["test_rmse"].mean())
    columns = X.assign(**{"class": room})
    by_column = PartialPoolingRegressor(group_features=["school", "class"], priors=priors)
    plain = cross_val_score(by_column, columns, y, cv=folds, scoring="neg_root_mean_squared_error")
    np.testing.assert_allclose(plain, scores["test_rmse"], rtol=1e-9)


def test_priors_of_one_factor_are_searched(schools):
    X, y, room = schools
    X = X.assign(**{"class": room})
    model = PartialPoolingRegressor(group_features=["school", "class"])
    fixed = {"sigma": 1.0, "1|class": ("Normal", {"mu": 0, "sigma": 1.5})}
    grid = {"priors": [fixed | {"1|school": ("Normal", {"mu": 0, "sigma": sd})} for sd in (0.01, 2.0)]}
    search = GridSearchCV(model, grid, cv=GroupKFold(3), scoring="neg_mean_squared_error")
    search.fit(X, y, groups=room)
    assert search.best_params_["priors"]["1|school"][1]["sigma"] == 2.0
