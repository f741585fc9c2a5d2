"""JamesSteinEstimator: predictions, regression targets, life without groups, and manners."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import stats
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbsk._shrinkage.linear_predictor import shrink_regression
from hbsk.datasets import load_eight_schools
from hbsk.exceptions import NoGroupsWarning, ShrinkageWarning
from hbsk.james_stein import JamesSteinEstimator
from tests.grouped_data import by_label, grouped

METHODS = ("james-stein", "empirical-bayes", "sure")
TARGETS = ("mean", "zero", "regression", 0.5)


# Predictions


@pytest.mark.parametrize("method", METHODS)
def test_sd_of_a_new_observation(method, rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator(group_features="g", method=method).fit(X, y)
    sd = by_label(estimator, "theta_sd_")
    _, std = estimator.predict(X, return_std=True)
    np.testing.assert_allclose(std, [np.hypot(sd[g], estimator.sigma2_**0.5) for g in X["g"]], rtol=1e-12)
    mean, std = estimator.predict(X.assign(g="new"), return_std=True)
    np.testing.assert_allclose(mean, estimator.target_)
    n, sigma2, tau2 = estimator.group_sizes_, estimator.sigma2_, estimator.between_group_variance_
    total = tau2 + sigma2 / n
    by_sure = getattr(estimator, "sure_variance_", np.nan)
    w = {"james-stein": n, "empirical-bayes": 1 / total, "sure": 1 / (1 + n * by_sure / sigma2) ** 2}[method]
    mean_variance = np.sum(sigma2 / n / total) / np.sum(1 / total)
    new = ((7 - 1) * tau2 + 2 * mean_variance) / (7 - 1 - 2)
    np.testing.assert_allclose(std**2, sigma2 + new + np.sum(w**2 * total) / np.sum(w) ** 2, rtol=1e-10)


def test_sd_of_new_groups_with_a_given_variance(rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator(
        group_features="g", target=0.3, method="empirical-bayes", between_group_variance=0.7
    ).fit(X, y)
    mean, std = estimator.predict(X.iloc[:1].assign(g="new"), return_std=True)
    assert mean == [0.3]
    assert std**2 == pytest.approx([0.7 + estimator.sigma2_])


def test_intervals_stand_around_the_means_and_agree_with_the_tables(rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator(group_features="g", method="empirical-bayes").fit(X, y)
    X = X.assign(g=["new", *X["g"][1:]])
    mean = estimator.predict(X)
    for kind in ("prediction", "mean"):  # widths: test_james_stein_known_groups.py
        for coverage in (0.5, 0.9):
            ours = estimator.predict_interval(X, coverage=coverage, kind=kind)
            assert ours.shape == (len(y), 2)
            np.testing.assert_allclose(ours.mean(axis=1), mean, rtol=1e-12)
    table = estimator.group_effects(coverage=0.9).set_index("group").loc[X["g"][1:], ["eti90_lb", "eti90_ub"]]
    np.testing.assert_allclose(estimator.predict_interval(X, kind="mean")[1:], table, rtol=1e-12)
    np.testing.assert_array_equal(estimator.predict_interval(X), estimator.predict_interval(X, coverage=0.9))


def test_bad_options_of_intervals(rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator(group_features="g")
    with pytest.raises(NotFittedError):
        estimator.predict_interval(X)
    estimator.fit(X, y)
    for coverage in (0, 1, -0.1, "0.9", np.nan):
        with pytest.raises(
            ValueError, match=rf"coverage must be a fraction between 0 and 1 \(0.9 for 90 %\), got {coverage!r}"
        ):
            estimator.predict_interval(X, coverage=coverage)
    with pytest.raises(ValueError, match="kind must be 'prediction' or 'mean', got 'median'"):
        estimator.predict_interval(X, kind="median")


def test_known_errors_are_needed_for_new_observations():
    schools = load_eight_schools(as_frame=True)
    estimator = JamesSteinEstimator(group_features="school")
    estimator.fit(schools.data, schools.target, standard_error=schools.standard_error)
    X = schools.data.iloc[:2]
    for ask in (
        lambda **k: estimator.predict(X, return_std=True, **k),
        lambda **k: estimator.predict_interval(X, **k),
    ):
        with pytest.raises(ValueError, match="needs standard_error= for these rows"):
            ask()
        ask(standard_error=[10.0, 12.0])
    _, std = estimator.predict(X, return_std=True, standard_error=[10.0, 12.0])
    np.testing.assert_allclose(std, np.hypot(estimator.theta_sd_[:2], [10.0, 12.0]))
    np.testing.assert_array_equal(estimator.predict(X), estimator.predict(X, standard_error=3.0))
    assert np.isfinite(estimator.predict_interval(X, kind="mean")).all()
    with pytest.raises(ValueError, match="standard_error must be positive"):
        estimator.predict(X, return_std=True, standard_error=[10.0, 0.0])


def test_errors_that_were_estimated_cannot_be_given(rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator(group_features="g").fit(X, y)
    with pytest.raises(ValueError, match="standard_error= was given, but the model was fitted without"):
        estimator.predict(X, return_std=True, standard_error=1.0)


@pytest.mark.parametrize("target", ["mean", "regression"])
def test_policies_for_groups_not_seen_in_fit(target, rng):
    X, y = grouped(rng)
    new = X.iloc[:4].assign(g=[X["g"].iloc[0], "new", None, "new"])
    fit = {
        policy: JamesSteinEstimator(group_features="g", target=target, unknown_groups=policy).fit(X, y)
        for policy in ("population", "nan", "error")
    }
    known = [True, False, False, False]
    population = fit["population"].predict(new, return_std=True)
    expected = (
        fit["population"].intercept_ + new[["a", "b"]] @ fit["population"].coef_ if target == "regression" else None
    )
    np.testing.assert_allclose(population[0][1:], fit["population"].target_ if target == "mean" else expected[1:])
    for ours, theirs in zip(fit["nan"].predict(new, return_std=True), population, strict=True):
        np.testing.assert_array_equal(ours, np.where(known, theirs, np.nan))
    assert np.isnan(fit["nan"].predict_interval(new)[1:]).all()
    with pytest.raises(ValueError, match=r"2 groups not seen in fit: 'new', NaN \(missing\)"):
        fit["error"].predict(new)
    for policy in fit:
        np.testing.assert_array_equal(fit[policy].predict(X), fit["population"].predict(X))


def test_score_is_r_squared(rng):
    X, y = grouped(rng)
    weight = rng.uniform(0.5, 2.0, len(y))
    estimator = JamesSteinEstimator(group_features="g").fit(X, y)
    assert estimator.score(X, y, weight) == r2_score(y, estimator.predict(X), sample_weight=weight)


# Regression target


def test_regression_target_in_predictions(rng):
    X, y = grouped(rng, n_groups=12)
    estimator = JamesSteinEstimator(group_features="g", target="regression", method="empirical-bayes").fit(X, y)
    assert estimator.coef_names_ == ["a", "b"]
    np.testing.assert_allclose(estimator.predict(X), [by_label(estimator)[g] for g in X["g"]], rtol=1e-10)
    per_group = X.groupby("g").first()
    np.testing.assert_allclose(
        estimator.target_, estimator.intercept_ + per_group.to_numpy() @ estimator.coef_, rtol=1e-10
    )
    moved = X.assign(a=X["a"] + 2.0)
    np.testing.assert_allclose(estimator.predict(moved) - estimator.predict(X), 2.0 * estimator.coef_[0], rtol=1e-9)


def test_other_targets_do_not_use_the_columns(rng):
    X, y = grouped(rng)
    X["text"] = "word"
    for target in ("mean", "zero", 2.0):
        estimator = JamesSteinEstimator(group_features="g", target=target).fit(X, y)
        np.testing.assert_array_equal(estimator.predict(X), estimator.predict(X.assign(a=7.0)))
        assert not hasattr(estimator, "coef_")
    with pytest.raises(TypeError, match=r"'text' of X holds text .*OneHotEncoder"):
        JamesSteinEstimator(group_features="g", target="regression").fit(X, y)
    with pytest.raises(ValueError, match="'a' of X: Input X contains NaN"):
        JamesSteinEstimator(group_features="g").fit(X.assign(a=np.nan), y)


# Without groups


def test_without_groups_slopes_are_shrunken(rng):
    X = rng.normal(size=(40, 4))
    y = X @ [0.5, -0.3, 0.2, 0.4] + rng.normal(size=40)
    estimator = JamesSteinEstimator()
    with pytest.warns(NoGroupsWarning, match="group_features="):
        estimator.fit(X, y)
    expected = shrink_regression(list(X.T), y, None, None, positive_part=True)
    least_squares = LinearRegression().fit(X, y)
    assert 0 < estimator.slope_shrinkage_ < 1
    assert estimator.slope_shrinkage_ == expected.factor
    np.testing.assert_allclose(estimator.coef_, expected.factor * least_squares.coef_, rtol=1e-9)
    np.testing.assert_allclose(estimator.predict(X).mean(), y.mean())
    np.testing.assert_allclose(estimator.predict(X), estimator.intercept_ + X @ estimator.coef_, rtol=1e-9)
    assert estimator.coef_names_ == ["x0", "x1", "x2", "x3"]
    assert estimator.sigma2_ == pytest.approx(expected.sigma2)
    assert len(estimator.groups_) == len(estimator.theta_) == 0
    _, std = estimator.predict(X, return_std=True)
    variance = expected.predictor.variance(list(X.T), 40)
    np.testing.assert_allclose(std**2, variance + expected.sigma2, rtol=1e-10)
    width = np.diff(estimator.predict_interval(X, kind="mean"))[:, 0]
    np.testing.assert_allclose(width, 2 * stats.t.ppf(0.95, 35) * np.sqrt(variance), rtol=1e-9)


def test_without_groups_and_with_too_few_columns(rng):
    X, y = rng.normal(size=(10, 2)), rng.normal(size=10)
    with pytest.warns(NoGroupsWarning), pytest.warns(ShrinkageWarning, match="fewer than 3 slopes"):
        estimator = JamesSteinEstimator().fit(X, y)
    np.testing.assert_allclose(estimator.coef_, LinearRegression().fit(X, y).coef_)
    with pytest.warns(NoGroupsWarning), pytest.warns(ShrinkageWarning, match="no degrees of freedom"):
        JamesSteinEstimator().fit(rng.normal(size=(4, 6)), y[:4])


def test_without_groups_and_with_known_errors(rng):
    X, error = rng.normal(size=(15, 3)), rng.uniform(0.5, 1.5, 15)
    y = X @ [1.0, 2.0, -1.0] + error * rng.normal(size=15)
    with pytest.warns(NoGroupsWarning):
        estimator = JamesSteinEstimator().fit(X, y, standard_error=error)
    assert np.isnan(estimator.sigma2_)
    with pytest.raises(ValueError, match="needs standard_error="):
        estimator.predict(X, return_std=True)
    assert np.isfinite(estimator.predict(X, return_std=True, standard_error=1.0)).all()


# Manners


def test_groups_that_got_lost(rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator().fit(X[["a", "b"]], y, groups=X["g"])
    with pytest.raises(ValueError, match="was fitted with groups=, and here groups= is missing"):
        estimator.predict(X[["a", "b"]])
    with pytest.raises(ValueError, match="was fitted with groups=, and here groups= is missing"):
        estimator.score(X[["a", "b"]], y)


def test_one_grouping_only(rng):
    X, y = grouped(rng)
    with pytest.raises(ValueError, match=r"shrinks the means of one grouping; got 2 \('g', 'a'\)"):
        JamesSteinEstimator(group_features=["g", "a"]).fit(X, y)


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "stein"},
        {"target": "median"},
        {"target": np.nan},
        {"between_group_variance": -1.0},
        {"positive_part": 2},
    ],
)
def test_bad_parameters_are_named(bad, rng):
    X, y = grouped(rng)
    (name,) = bad
    with pytest.raises(ValueError, match=f"The '{name}' parameter of JamesSteinEstimator must be"):
        JamesSteinEstimator(**bad).fit(X, y)


def test_fit_does_not_touch_parameters_nor_data(rng):
    X, y = grouped(rng)
    X0, y0 = X.copy(), y.copy()
    estimator = JamesSteinEstimator(group_features=["g"], target="regression")
    before = estimator.get_params()
    estimator.fit(X, y, sample_weight=np.ones(len(y))).predict(X, return_std=True)
    assert estimator.get_params() == before
    pd.testing.assert_frame_equal(X, X0)
    np.testing.assert_array_equal(y, y0)


def test_pickles_hold_groups_and_not_rows(rng):
    n = 20_000
    X = pd.DataFrame({"g": rng.integers(0, 50, n), "a": rng.normal(size=n)})
    estimator = JamesSteinEstimator(group_features="g", target="regression").fit(X, X["a"] + rng.normal(size=n))
    stored = pickle.dumps(estimator)
    assert len(stored) < 10_000
    np.testing.assert_array_equal(pickle.loads(stored).predict(X), estimator.predict(X))


def test_inside_scikit_learn(rng):
    X, y = grouped(rng, n_groups=20)
    estimator = JamesSteinEstimator(group_features="g")
    assert np.isfinite(cross_val_score(estimator, X, y, cv=3)).all()
    scaled = make_pipeline(
        ColumnTransformer([("scale", StandardScaler(), ["a", "b"])], remainder="passthrough").set_output(
            transform="pandas"
        ),
        clone(estimator),
    )
    search = GridSearchCV(
        scaled, {"jamessteinestimator__method": METHODS, "jamessteinestimator__target": ["mean", "regression"]}, cv=3
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    importance = permutation_importance(clone(estimator).fit(X, y), X, y, n_repeats=3, random_state=0)
    assert importance.importances_mean.argmax() == 2
    with sklearn.config_context(enable_metadata_routing=True):
        cross_validate(estimator, X, y, cv=GroupKFold(3), params={"groups": X["g"]}, error_score="raise")
        keyword = JamesSteinEstimator().set_fit_request(groups=True).set_score_request(groups=True)
        result = cross_validate(keyword, X[["a", "b"]], y, cv=3, params={"groups": X["g"]}, error_score="raise")
        np.testing.assert_allclose(result["test_score"], cross_val_score(estimator, X, y, cv=3))


def test_no_warnings_where_all_is_well(rng):
    X, y = grouped(rng, n_groups=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            for target in TARGETS:
                JamesSteinEstimator(group_features="g", method=method, target=target).fit(X, y).predict_interval(X)


# scikit-learn's own checks

# It removes rows by weight 0 and then predicts their groups, which this policy answers with the error it reports.
CONTRADICTIONS = {
    "check_sample_weight_equivalence_on_dense_data": "predicts groups whose rows all had weight 0",
}
# Each method, each target and both ways of groups; all of them together walk through the same reading of the input.
SETTINGS = [
    JamesSteinEstimator(),
    JamesSteinEstimator(target="regression", group_features=-1),
    JamesSteinEstimator(method="empirical-bayes", target="zero", group_features=-1),
    JamesSteinEstimator(method="empirical-bayes", target="regression"),
    JamesSteinEstimator(method="sure", target=0.5, group_features=-1),
    JamesSteinEstimator(method="empirical-bayes", group_features=0, unknown_groups="error"),
    JamesSteinEstimator(method="gamma-poisson"),
    JamesSteinEstimator(method="gamma-poisson", group_features=-1),
]


@pytest.mark.filterwarnings(
    # The checks pass measurements where groups belong, or no groups at all.
    "ignore::hbsk.exceptions.NoGroupsWarning",
    "ignore::hbsk.exceptions.NonIntegerCountWarning",
    "ignore::hbsk.exceptions.RedundantColumnsWarning",
    "ignore::hbsk.exceptions.ShrinkageWarning",
    "ignore::hbsk.exceptions.SuspiciousGroupsWarning",
)
@parametrize_with_checks(
    SETTINGS, expected_failed_checks=lambda e: CONTRADICTIONS if e.unknown_groups == "error" else {}
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# Few groups, and no noise


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("twin", [False, True], ids=["one column", "and its double"])
def test_rows_far_along_a_column_within_groups_are_known_where_groups_tell_nothing(seed, twin):
    # four groups cannot tell the slope of a column between groups; that of a column within them rows tell alone
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(4), rng.integers(2, 6, 4))
    n = len(group)
    X = pd.DataFrame({"x": rng.normal(size=n) + 1e3 * (seed % 2), "c": rng.normal(size=4)[group], "g": group})
    y, error = 2.0 * X["x"] + rng.normal(size=n), rng.uniform(0.3, 1.0, n)
    if twin:
        X["double"] = 2.0 * X["x"]
    model = JamesSteinEstimator(group_features="g", target="regression", method=["james-stein", "sure"][seed % 2])
    with pytest.warns(ShrinkageWarning):
        model.fit(X, y, standard_error=error)
    precision = error**-2.0
    total = np.bincount(group, precision)
    own = (np.bincount(group, precision * X["x"]) / total)[group]
    information = np.sum(precision * (X["x"] - own) ** 2)
    for distance in (1.0, 1e2, 1e5):
        far = X.assign(x=X["x"] + distance * rng.normal(size=n))
        if twin:
            far["double"] = 2.0 * far["x"]
        _, sd = model.predict(far, standard_error=error, return_std=True)
        wanted = 1.0 / total[group] + (far["x"] - own) ** 2 / information + error**2
        np.testing.assert_allclose(sd, np.sqrt(wanted), rtol=1e-6)
    _, sd = model.predict(X.assign(c=X["c"] + 0.01), standard_error=error, return_std=True)
    assert np.isinf(sd).all()


@pytest.mark.parametrize("method", ["james-stein", "empirical-bayes", "sure"])
@pytest.mark.parametrize("target", ["mean", "regression"])
def test_the_target_of_groups_without_noise_is_that_of_next_to_none(method, target, rng):
    group = np.repeat(np.arange(9), [2, 2, 4, 4, 4, 8, 8, 16, 16])
    X = pd.DataFrame({"c": rng.normal(size=9)[group], "g": group})
    y = np.round(16 * rng.normal(size=9))[group] / 4  # averages without rounding
    model = JamesSteinEstimator(group_features="g", method=method, target=target)
    none = clone(model).fit(X, y)
    little = clone(model).fit(X, y + 1e-7 * rng.normal(size=len(y)))
    new = X[:1].assign(g=99)
    np.testing.assert_allclose(none.predict(new), little.predict(new), rtol=1e-5)
    np.testing.assert_allclose(
        none.predict(new, return_std=True)[1], little.predict(new, return_std=True)[1], rtol=1e-5
    )
    assert none.sigma2_ == 0


def test_the_share_of_variance_of_a_constant_response_is_not_known():
    X = pd.DataFrame({"g": np.repeat(np.arange(6), 3)})
    table = JamesSteinEstimator(group_features="g", method="empirical-bayes").fit(X, np.full(18, 4.0)).summary()
    assert np.isnan(table.loc["variance_share[g]", "mean"])
