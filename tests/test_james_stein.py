"""JamesSteinEstimator: published numbers, other software, formulas from rows, and limits."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats
from sklearn.base import clone

from hbsk.datasets import load_baseball, load_bcg, load_eight_schools
from hbsk.exceptions import RedundantColumnsWarning, ShrinkageWarning
from hbsk.james_stein import JamesSteinEstimator
from tests.grouped_data import by_label, grouped
from tests.own_weights import own_weights
from tests.test_reference.reference import metafor_models

METHODS = ("james-stein", "empirical-bayes", "sure")
TARGETS = ("mean", "zero", "regression", 0.5)
BETWEEN = {"REML": "reml", "ML": "ml", "DL": "dersimonian-laird", "PM": "paule-mandel"}
FITTED = ("group_means_", "theta_", "theta_sd_", "target_", "sigma2_", "between_group_variance_")


# Published numbers


def test_efron_and_morris_1977():
    """Scientific American 236 (5), 119-127: c = .212, the 18 shrunken averages, 3.5 times less squared error."""
    players = load_baseball(as_frame=True)
    estimator = JamesSteinEstimator(group_features="player")
    estimator.fit(players.data, players.target, standard_error=players.standard_error)
    shrunken = estimator.predict(players.data)
    np.testing.assert_allclose(own_weights(estimator), 0.212, atol=0.0005)
    published = [
        0.294,
        0.289,
        0.285,
        0.280,
        0.275,
        0.275,
        0.270,
        0.266,
        0.261,
        0.261,
        *[0.256] * 5,
        0.252,
        0.247,
        0.242,
    ]
    np.testing.assert_allclose(shrunken, published, atol=0.0006)
    later = players.remaining_average
    ratio = np.sum((players.target - later) ** 2) / np.sum((shrunken - later) ** 2)
    assert ratio == pytest.approx(3.5, abs=0.05)


def test_efron_and_morris_1975():
    """JASA 70, 311-319, table 1: arcsine scale, unit variance; squared errors 17.56 and 5.01, efficiency 3.50.

    The later averages are known to three digits here, hence the tolerance.
    """
    players = load_baseball(as_frame=True)

    def arcsine(average):
        return np.sqrt(45) * np.arcsin(2 * average - 1)

    early, later = arcsine(players.target), arcsine(players.remaining_average)
    estimator = JamesSteinEstimator(group_features="player").fit(players.data, early, standard_error=1.0)
    shrunken = estimator.predict(players.data)
    assert own_weights(estimator)[0] == pytest.approx(0.209, abs=0.0005)
    errors = np.sum((early - later) ** 2), np.sum((shrunken - later) ** 2)
    assert errors == pytest.approx((17.56, 5.01), abs=0.02)
    assert errors[0] / errors[1] == pytest.approx(3.50, abs=0.02)
    back = (1 + np.sin(shrunken / np.sqrt(45))) / 2
    published = [
        0.290,
        0.286,
        0.281,
        0.277,
        0.273,
        0.273,
        0.268,
        0.264,
        0.259,
        0.259,
        *[0.254] * 5,
        0.249,
        0.244,
        0.239,
    ]
    np.testing.assert_allclose(back, published, atol=0.0011)


@pytest.mark.parametrize(
    "model",
    [m for m in metafor_models() if m["method"] in BETWEEN],
    ids=lambda m: f"{m['data']} {m['moderators']} {m['method']}",
)
def test_empirical_bayes_against_metafor(model):
    load, label = {
        "bcg": (load_bcg, "trial"),
        "eight_schools": (load_eight_schools, "school"),
        "baseball": (load_baseball, "player"),
    }[model["data"]]
    data = load(as_frame=True)
    regression = model["moderators"] == "~ablat"
    X = data.data[[label, "ablat"]] if regression else data.data[[label]]
    params = {"method": "empirical-bayes", "target": "regression" if regression else "mean", "group_features": label}
    estimator = JamesSteinEstimator(between_group_variance=BETWEEN[model["method"]], **params)
    estimator.fit(X, data.target, standard_error=data.standard_error)
    # metafor iterates to 1e-13, relative to nothing.
    assert estimator.between_group_variance_ == pytest.approx(model["tau2"], rel=1e-9, abs=1e-12)
    coef = [estimator.intercept_, *estimator.coef_] if regression else [estimator.target_]
    np.testing.assert_allclose(coef, model["mu"], rtol=1e-9)
    np.testing.assert_allclose(estimator.predict(X), model["blup"], rtol=1e-9)
    # blup() takes tau2 as known, and so do we when it is given.
    given = JamesSteinEstimator(between_group_variance=model["tau2"], **params)
    given.fit(X, data.target, standard_error=data.standard_error)
    sd = by_label(given, "theta_sd_")
    np.testing.assert_allclose([sd[name] for name in X[label]], model["blup_se"], rtol=1e-9)
    assert np.all(estimator.theta_sd_ > 0)


# Rows


def test_the_lessons_formula():
    """(1 - (J - 2) sigma^2 / sum y^2) y, known sigma."""
    y = np.array([1.2, -2.5, 0.3, 3.1, 0.8])
    estimator = JamesSteinEstimator(group_features=0, target="zero", positive_part=False)
    estimator.fit(np.arange(5)[:, None], y, standard_error=1.4)
    np.testing.assert_allclose(estimator.theta_, (1 - 3 * 1.4**2 / np.sum(y**2)) * y, rtol=1e-12)
    small = np.array([0.2, -0.5, 0.3, 0.1, 0.4])
    assert np.all(own_weights(estimator.fit(np.arange(5)[:, None], small, standard_error=1.4)) < 0)
    cut = clone(estimator).set_params(positive_part=True).fit(np.arange(5)[:, None], small, standard_error=1.4)
    np.testing.assert_array_equal(cut.theta_, 0.0)


def test_an_estimated_variance_costs_its_degrees_of_freedom(rng):
    """B = (J - 3) nu / (nu + 2) s^2 / n / sum (ybar_j - ybar)^2 for groups of equal size n."""
    group = np.repeat(np.arange(6), 4)
    y = 0.5 * group + rng.normal(size=24)
    estimator = JamesSteinEstimator().fit(np.zeros((24, 1)), y, groups=group)
    means = [y[group == j].mean() for j in range(6)]
    nu = 24 - 6
    s2 = sum((y[i] - means[group[i]]) ** 2 for i in range(24)) / nu
    b = (6 - 3) * nu / (nu + 2) * (s2 / 4) / np.sum((means - np.mean(means)) ** 2)
    assert 0 < b < 1
    np.testing.assert_allclose(own_weights(estimator), 1 - b, rtol=1e-12)
    np.testing.assert_allclose(estimator.theta_, np.mean(means) + (1 - b) * (means - np.mean(means)), rtol=1e-12)
    assert estimator.sigma2_ == pytest.approx(s2)


def test_empirical_bayes_from_rows(rng):
    X, y = grouped(rng)
    estimator = JamesSteinEstimator(group_features="g", method="empirical-bayes").fit(X, y)
    tau2, sigma2 = estimator.between_group_variance_, estimator.sigma2_
    n = X.groupby("g").size()
    means = pd.Series(y).groupby(X["g"].to_numpy()).mean()
    weights = 1 / (tau2 + sigma2 / n)
    target = np.sum(weights * means) / np.sum(weights)
    shrinkage = tau2 / (tau2 + sigma2 / n)
    assert next(iter(estimator.groups_.values())).tolist() == n.index.tolist()
    np.testing.assert_array_equal(estimator.group_sizes_, n)
    np.testing.assert_allclose(estimator.group_means_, means, rtol=1e-12)
    np.testing.assert_allclose(own_weights(estimator), shrinkage, rtol=1e-12)
    np.testing.assert_allclose(estimator.theta_, shrinkage * means + (1 - shrinkage) * target, rtol=1e-10)
    assert estimator.target_ == pytest.approx(target, rel=1e-12)
    np.testing.assert_array_equal(estimator.predict(X), [by_label(estimator)[label] for label in X["g"]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_weight_is_a_number_of_copies(method, target, rng):
    X, y = grouped(rng)
    weight = rng.integers(0, 4, len(y))
    copies = np.repeat(np.arange(len(y)), weight)
    estimator = JamesSteinEstimator(group_features="g", method=method, target=target)
    weighted = clone(estimator).fit(X, y, sample_weight=weight)
    repeated = clone(estimator).fit(X.iloc[copies], y[copies])
    assert next(iter(weighted.groups_.values())).tolist() == next(iter(repeated.groups_.values())).tolist()
    for name in FITTED:
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(
        weighted.predict(X, return_std=True), repeated.predict(X, return_std=True), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("method", METHODS)
def test_several_known_errors_in_a_group_are_pooled_by_precision(method, rng):
    label = np.array([0, 1, 1, 2, 3, 3, 3, 4])
    y, error = rng.normal(size=8) * 2, rng.uniform(0.5, 2.0, 8)
    precision = np.bincount(label, 1 / error**2)
    mean, pooled = np.bincount(label, y / error**2) / precision, precision**-0.5
    estimator = JamesSteinEstimator(group_features=0, method=method)
    rows = clone(estimator).fit(label[:, None], y, standard_error=error)
    groups = clone(estimator).fit(np.arange(5)[:, None], mean, standard_error=pooled)
    for name in FITTED:
        np.testing.assert_allclose(getattr(rows, name), getattr(groups, name), rtol=1e-9)
    assert np.isnan(rows.sigma2_)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["mean", "regression"])
@pytest.mark.parametrize(("shift", "scale"), [(1e8, 1.0), (0.0, 1e8), (0.0, 1e-8), (0.0, 1e74), (0.0, 1e-74)])
def test_shift_and_scale_go_through(method, target, shift, scale, rng):
    X, y = grouped(rng)
    plain = JamesSteinEstimator(group_features="g", method=method, target=target).fit(X, y)
    moved = JamesSteinEstimator(group_features="g", method=method, target=target).fit(X, shift + scale * y)
    # y + 1e8 has lost 8 digits before we see it.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if shift else {"rtol": 1e-9}
    np.testing.assert_allclose(own_weights(moved), own_weights(plain), **tolerance)
    np.testing.assert_allclose(moved.theta_ - shift, scale * plain.theta_, **tolerance)
    np.testing.assert_allclose(moved.theta_sd_, scale * plain.theta_sd_, **tolerance)
    np.testing.assert_allclose(moved.between_group_variance_, scale**2 * plain.between_group_variance_, **tolerance)


def test_columns_far_from_zero_and_collinear_ones_do_no_harm(rng):
    X, y = grouped(rng, n_groups=12)
    plain = JamesSteinEstimator(group_features="g", target="regression").fit(X, y)
    X = X.assign(a=X["a"] + 1e8, twice=2 * X["b"] + 1.0, constant=7.7)
    hard = JamesSteinEstimator(group_features="g", target="regression")
    with pytest.warns(RedundantColumnsWarning, match="Columns 'b', 'twice' of X are linear combinations"):
        hard.fit(X, y)
    np.testing.assert_allclose(hard.theta_, plain.theta_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hard.predict(X), plain.predict(X.assign(a=X["a"] - 1e8)[["a", "b", "g"]]), atol=1e-6)
    assert hard.coef_names_ == ["a", "b", "twice", "constant"]
    assert hard.coef_[3] == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_order_of_rows_and_names_of_groups_do_not_matter(method, rng):
    X, y = grouped(rng)
    plain = JamesSteinEstimator(group_features="g", method=method).fit(X, y)
    order = rng.permutation(len(y))
    shuffled = JamesSteinEstimator(group_features="g", method=method).fit(X.iloc[order], y[order])
    np.testing.assert_allclose(shuffled.theta_, plain.theta_, rtol=1e-9)
    renamed = JamesSteinEstimator(group_features="g", method=method).fit(
        X.assign(g=[f"z{9 - int(g[1])}" for g in X["g"]]), y
    )
    np.testing.assert_allclose(renamed.theta_, plain.theta_[::-1], rtol=1e-9)


def test_all_ways_to_pass_groups_agree(rng):
    X, y = grouped(rng)
    plain = JamesSteinEstimator(group_features="g").fit(X, y)
    features = X[["a", "b"]].to_numpy()
    keyword = JamesSteinEstimator().fit(features, y, groups=X["g"])
    np.testing.assert_array_equal(keyword.theta_, plain.theta_)
    np.testing.assert_array_equal(keyword.predict(features, X["g"]), plain.predict(X))
    np.testing.assert_array_equal(keyword.predict(features, groups=X["g"].tolist()), plain.predict(X))
    assert keyword.score(features, y, groups=X["g"]) == plain.score(X, y)
    for other in (pl.DataFrame(X.to_dict("list")), X.to_numpy(), X.astype({"g": "category"})):
        fitted = JamesSteinEstimator(group_features=-1, target="regression").fit(other, y)
        expected = JamesSteinEstimator(group_features="g", target="regression").fit(X, y)
        np.testing.assert_allclose(fitted.predict(other), expected.predict(X), rtol=1e-12)


# Limits


def test_a_given_variance_between_groups_and_its_limits(rng):
    X, y = grouped(rng)
    for tau2 in (0.0, 0.7, 1e12):
        estimator = JamesSteinEstimator(group_features="g", method="empirical-bayes", between_group_variance=tau2).fit(
            X, y
        )
        assert estimator.between_group_variance_ == tau2
        expected = tau2 / (tau2 + estimator.sigma2_ / estimator.group_sizes_)
        np.testing.assert_allclose(own_weights(estimator), expected, rtol=1e-12)
        if tau2 == 0.0:
            np.testing.assert_allclose(estimator.theta_, np.mean(y), rtol=1e-10)
            np.testing.assert_allclose(estimator.theta_sd_, np.sqrt(estimator.sigma2_ / len(y)), rtol=1e-9)
        if tau2 == 1e12:
            np.testing.assert_allclose(estimator.theta_, estimator.group_means_, rtol=1e-9)
            np.testing.assert_allclose(
                estimator.theta_sd_, np.sqrt(estimator.sigma2_ / estimator.group_sizes_), rtol=1e-9
            )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("target", "enough"), [("zero", 3), (1.5, 3), ("mean", 4), ("regression", 6)])
def test_too_few_groups_are_left_as_they_are(method, target, enough, rng):
    X, y = grouped(rng, n_groups=enough)
    few = X["g"] != X["g"].iloc[0]
    estimator = JamesSteinEstimator(group_features="g", method=method, target=target)
    with pytest.warns(ShrinkageWarning, match=f"at least {enough} groups are needed"):
        estimator.fit(X[few], y[few])
    np.testing.assert_array_equal(own_weights(estimator), 1.0)
    np.testing.assert_array_equal(estimator.theta_, estimator.group_means_)
    np.testing.assert_allclose(estimator.theta_sd_, np.sqrt(estimator.sigma2_ / estimator.group_sizes_))
    estimator.fit(X, y)
    assert np.all(own_weights(estimator) < 1)


def test_a_known_variance_needs_no_groups_to_be_learnt_from():
    label, y = np.array([[0], [1]]), np.array([1.0, 3.0])
    estimator = JamesSteinEstimator(
        group_features=0, method="empirical-bayes", target=0.5, between_group_variance=2.0
    ).fit(label, y, standard_error=[1.0, 2.0])
    np.testing.assert_allclose(estimator.theta_, [0.5 + 0.5 * 2 / 3, 0.5 + 2.5 * 2 / 6])
    np.testing.assert_allclose(estimator.theta_sd_, np.sqrt([2 / 3, 8 / 6]))


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_one_row_say_nothing_about_the_variance_within(method, rng):
    X, y = np.arange(8)[:, None], rng.normal(size=8)
    estimator = JamesSteinEstimator(group_features=0, method=method)
    with pytest.warns(ShrinkageWarning, match="no group has two rows.*standard_error="):
        estimator.fit(X, y)
    np.testing.assert_allclose(estimator.theta_, y)
    assert np.isnan(estimator.sigma2_)
    assert np.isnan(estimator.between_group_variance_)
    np.testing.assert_array_equal(estimator.theta_sd_, np.inf)
    mean, std = estimator.predict([[3], [99]], return_std=True)
    np.testing.assert_allclose(mean, [y[3], y.mean()])
    np.testing.assert_array_equal(std, np.inf)
    np.testing.assert_array_equal(estimator.predict_interval([[3], [99]]), [[-np.inf, np.inf]] * 2)
    estimator.fit(X, y, standard_error=0.5)
    assert np.isfinite(estimator.theta_sd_).all()


def test_weights_that_count_too_few_rows(rng):
    X, y = np.repeat(np.arange(5), 6)[:, None], rng.normal(size=30)
    estimator = JamesSteinEstimator(group_features=0)
    with pytest.warns(ShrinkageWarning, match="the weights, which count copies of rows, sum to 3 in 5 groups"):
        estimator.fit(X, y, sample_weight=np.full(30, 0.1))
    np.testing.assert_allclose(estimator.theta_, estimator.group_means_)


def test_one_group(rng):
    y = rng.normal(size=6)
    estimator = JamesSteinEstimator(group_features=0)
    with pytest.warns(ShrinkageWarning, match="with 1 group and a target with 1 estimated"):
        estimator.fit(np.zeros((6, 1)), y)
    assert estimator.theta_[0] == pytest.approx(y.mean())
    assert estimator.theta_sd_[0] == pytest.approx(y.std(ddof=1) / np.sqrt(6))
    lower, upper = estimator.predict_interval([[0]], kind="mean", coverage=0.8)[0]
    expected = stats.t.interval(0.8, 5, y.mean(), y.std(ddof=1) / np.sqrt(6))
    assert (lower, upper) == pytest.approx(expected)
    mean, std = estimator.predict([[1]], return_std=True)
    assert (mean[0], std[0]) == (pytest.approx(y.mean()), np.inf)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", TARGETS)
def test_constant_and_noise_free_responses(method, target, rng):
    X, _ = grouped(rng, n_groups=9)
    estimator = JamesSteinEstimator(group_features="g", method=method, target=target)
    constant = estimator.fit(X, np.full(len(X), 0.1))
    np.testing.assert_allclose(constant.predict(X), 0.1, rtol=1e-12)
    assert np.isfinite(constant.predict(X, return_std=True)).all()
    effect = X["g"].str[1:].astype(float).to_numpy()
    exact = estimator.fit(X, effect)
    np.testing.assert_allclose(exact.predict(X, return_std=True), [effect, np.zeros(len(X))], rtol=1e-10, atol=1e-10)
    unseen = X.assign(g="new")
    assert np.isfinite(exact.predict(unseen, return_std=True)).all()


def test_two_rows_and_one():
    with pytest.warns(ShrinkageWarning):
        assert JamesSteinEstimator(group_features=0).fit([[0], [1]], [1.0, 2.0]).predict([[1]]) == [2.0]
    with pytest.raises(ValueError, match="n_samples=1"):
        JamesSteinEstimator(group_features=0).fit([[0]], [1.0])


@pytest.mark.parametrize("error", [1e-50, 1e50])
@pytest.mark.parametrize("method", ["james-stein", "empirical-bayes", "sure"])
@pytest.mark.parametrize("target", ["mean", "zero", "regression"])
def test_standard_errors_of_any_size_that_is_taken(rng, error, method, target):
    X, means = pd.DataFrame({"g": np.arange(9), "z": rng.normal(size=9)}), rng.normal(size=9)
    errors = error * rng.uniform(0.4, 1.0, 9) ** np.sign(np.log(error))
    model = JamesSteinEstimator(group_features="g", method=method, target=target).fit(X, means, standard_error=errors)
    mean, std = model.predict(X, return_std=True, standard_error=errors)
    if error < 1:  # nothing to gain by shrinking, everything is known
        np.testing.assert_allclose(mean, means, rtol=1e-12)
        np.testing.assert_allclose(model.theta_sd_, errors, rtol=1e-9)
    else:  # nothing is known but by the target
        np.testing.assert_array_equal(own_weights(model), 0.0)
        np.testing.assert_allclose(mean, model.target_, rtol=1e-12)
        assert np.all(model.theta_sd_ < 3 * errors)
    assert np.all((errors < std) & (std < 4 * errors))
