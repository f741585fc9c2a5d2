"""JamesSteinEstimator with target="regression" over rows: columns that vary within groups, known errors, far rows.

The references work on rows with dense covariance matrices (Henderson 1975), where the estimator works on group means
and sums of squares within groups.
"""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar
from sklearn.base import clone

from hbsk import from_json, to_json
from hbsk.exceptions import RedundantColumnsWarning, ShrinkageWarning
from hbsk.james_stein import JamesSteinEstimator
from tests.own_weights import own_weights

METHODS = ("james-stein", "empirical-bayes", "sure")
N_GROUPS = 12


def rows_of_groups(rng, n_rows=44, n_groups=N_GROUPS):
    """Two columns that vary within groups, one that does not, and groups of one row among the groups."""
    group = np.concatenate([np.arange(n_groups), rng.integers(2, n_groups, n_rows - n_groups)])
    x = rng.normal(size=n_rows) + 0.6 * group
    X = pd.DataFrame({"x": x, "c": rng.normal(size=n_groups)[group], "w": rng.normal(size=n_rows), "g": group})
    return X, 1.0 + X[["x", "c", "w"]].to_numpy() @ [2.0, -1.0, 0.5] + rng.normal(size=n_groups)[group]


def far_rows(rng):
    """Rows of known groups near and far from their own points, and of groups not seen."""
    return pd.DataFrame({name: 3.0 * rng.normal(size=9) for name in "xcw"} | {"g": [0, 1, 2, 3, 3, 5, 99, 98, 97]})


def dense(X, y, noise, tau2, at):
    """Generalised least squares on rows, best linear unbiased predictions of x'beta + u_j and their error variances."""
    design = np.column_stack([np.ones(len(y)), X[["x", "c", "w"]]])
    same = tau2 * (X["g"].to_numpy()[:, None] == X["g"].to_numpy())
    precision = np.linalg.inv(same + np.diag(noise))
    covariance = np.linalg.inv(design.T @ precision @ design)
    beta = covariance @ design.T @ precision @ y
    share = tau2 * (at["g"].to_numpy()[:, None] == X["g"].to_numpy()) @ precision
    d = np.column_stack([np.ones(len(at)), at[["x", "c", "w"]]]) - share @ design
    mean = d @ beta + share @ y
    left = tau2 - tau2 * np.sum(share * (at["g"].to_numpy()[:, None] == X["g"].to_numpy()), axis=1)
    return beta, mean, left + np.sum((d @ covariance) * d, axis=1)


def variance_of_mean(estimator, X):
    """Variance of the true mean of each row, read off an interval."""
    low, high = estimator.predict_interval(X, kind="mean", coverage=0.9).T
    degrees = estimator._learnt.means.nu
    return np.square((high - low) / 2 / stats.t.ppf(0.95, degrees))


def within_residuals(X, y, weight):
    """Columns x and w, and y, less their weighted group means."""
    table = X[["x", "w"]].assign(y=y)
    means = table.mul(weight, axis=0).groupby(X["g"]).sum().div(pd.Series(weight).groupby(X["g"]).sum(), axis=0)
    left = table - means.loc[X["g"]].to_numpy()
    return left[["x", "w"]].to_numpy(), left["y"].to_numpy()


# Against dense algebra on rows


@pytest.mark.parametrize("weighted", [False, True])
def test_known_errors_and_a_given_variance_are_generalised_least_squares_on_rows(weighted, rng):
    X, y = rows_of_groups(rng)
    error, weight = rng.uniform(0.3, 2.0, len(y)), rng.integers(1, 4, len(y)) if weighted else np.ones(len(y))
    y, at = y + error * rng.normal(size=len(y)), far_rows(rng)
    estimator = JamesSteinEstimator(
        group_features="g", target="regression", method="empirical-bayes", between_group_variance=0.8
    ).fit(X, y, standard_error=error, sample_weight=weight)
    beta, mean, variance = dense(X, y, error**2 / weight, 0.8, at)
    np.testing.assert_allclose(estimator.coef_, beta[1:], rtol=1e-10)
    assert estimator.intercept_ == pytest.approx(beta[0], rel=1e-9)
    np.testing.assert_allclose(estimator.predict(at), mean, rtol=1e-10)
    np.testing.assert_allclose(variance_of_mean(estimator, at), variance, rtol=1e-9)
    assert not hasattr(estimator, "sure_variance_")


def test_reml_is_that_of_rows(rng):
    X, y = rows_of_groups(rng)
    error = rng.uniform(0.3, 1.5, len(y))
    y = y + error * rng.normal(size=len(y))
    design = np.column_stack([np.ones(len(y)), X[["x", "c", "w"]]])
    same = X["g"].to_numpy()[:, None] == X["g"].to_numpy()

    def criterion(tau2):
        total = tau2 * same + np.diag(error**2)
        precision = np.linalg.inv(total)
        gram = design.T @ precision @ design
        residual = y - design @ np.linalg.solve(gram, design.T @ precision @ y)
        return np.linalg.slogdet(total)[1] + np.linalg.slogdet(gram)[1] + residual @ precision @ residual

    best = minimize_scalar(criterion, bounds=(1e-6, 20), method="bounded", options={"xatol": 1e-11}).x
    for method in METHODS:
        estimator = JamesSteinEstimator(group_features="g", target="regression", method=method)
        estimator.fit(X, y, standard_error=error)
        assert estimator.between_group_variance_ == pytest.approx(best, rel=1e-6)
        # Columns that vary within groups have these slopes under every method.
        np.testing.assert_allclose(
            estimator.coef_[[0, 2]], dense(X, y, error**2, best, X)[0][[1, 3]], rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("between", ["dersimonian-laird", "paule-mandel"])
def test_methods_of_moments_equate_the_residuals_of_rows_to_their_degrees_of_freedom(between, rng):
    X, y = rows_of_groups(rng)
    error = rng.uniform(0.3, 1.0, len(y))
    y = y + error * rng.normal(size=len(y))
    design = np.column_stack([np.ones(len(y)), X[["x", "c", "w"]]])
    same = (X["g"].to_numpy()[:, None] == X["g"].to_numpy()).astype(float)
    estimator = JamesSteinEstimator(
        group_features="g", target="regression", method="empirical-bayes", between_group_variance=between
    ).fit(X, y, standard_error=error)
    tau2 = estimator.between_group_variance_
    # Rows less their averages have rows - J of the degrees of freedom, of which two slopes leave rows - J - 2.
    weights = np.linalg.inv(np.diag(error**2) + (tau2 * same if between == "paule-mandel" else 0.0))
    keep = weights - weights @ design @ np.linalg.solve(design.T @ weights @ design, design.T @ weights)
    inside, _ = within_residuals(X, y, 1 / error**2)
    own = within_residuals(X, y, 1 / error**2)[1]
    scaled = inside / error[:, None]
    left_within = own / error - scaled @ np.linalg.lstsq(scaled, own / error, rcond=None)[0]
    excess = y @ keep @ y - left_within @ left_within - (N_GROUPS + 2 - 4)
    slope = np.trace(keep @ same) if between == "dersimonian-laird" else 0.0
    assert excess == pytest.approx(tau2 * slope, rel=1e-7, abs=1e-8)
    assert tau2 > 0


@pytest.mark.parametrize("method", METHODS)
def test_noise_is_measured_around_the_slopes_within_groups(method, rng):
    X, y = rows_of_groups(rng)
    weight = rng.integers(1, 4, len(y))
    y = y + rng.normal(size=len(y))
    estimator = JamesSteinEstimator(group_features="g", target="regression", method=method)
    estimator.fit(X, y, sample_weight=weight)
    inside, own = within_residuals(X, y, weight)
    root = np.sqrt(weight)
    left = root * own - (root[:, None] * inside) @ np.linalg.lstsq(root[:, None] * inside, root * own, rcond=None)[0]
    assert estimator.sigma2_ == pytest.approx(left @ left / (weight.sum() - N_GROUPS - 2), rel=1e-10)
    assert estimator._learnt.means.nu == weight.sum() - N_GROUPS - 2
    copies = np.repeat(np.arange(len(y)), weight)
    repeated = clone(estimator).fit(X.iloc[copies], y[copies])
    at = far_rows(rng)
    np.testing.assert_allclose(repeated.predict(at, return_std=True), estimator.predict(at, return_std=True), rtol=1e-8)


def test_the_factor_of_james_and_stein_counts_what_the_means_have_to_tell(rng):
    X, y = rows_of_groups(rng)
    y = y + rng.normal(size=len(y))
    estimator = JamesSteinEstimator(group_features="g", target="regression").fit(X, y)
    tau2, sigma2 = estimator.between_group_variance_, estimator.sigma2_
    averages = X.groupby("g").mean()
    z = np.column_stack([np.ones(N_GROUPS), averages])
    weights = 1 / (tau2 + sigma2 / estimator.group_sizes_)
    inside, _ = within_residuals(X, y, np.ones(len(y)))
    information = np.zeros((4, 4))
    information[np.ix_([1, 3], [1, 3])] = inside.T @ inside / sigma2
    gram = z.T @ (weights[:, None] * z)
    told = np.trace(np.linalg.solve(gram + information, gram))
    assert 2 < told < 4
    assert estimator._learnt.means.n_target == pytest.approx(told, rel=1e-9)
    deviations = estimator.group_means_ - estimator.target_
    distance = np.sum(deviations**2 * estimator.group_sizes_) / sigma2
    nu = estimator._learnt.means.nu
    assert own_weights(estimator)[0] == pytest.approx(1 - (N_GROUPS - told - 2) * nu / (nu + 2) / distance, rel=1e-9)


# Cases of FAULTS


def test_an_exact_line_is_found_with_unequal_errors_within_groups():
    x = np.array([0.0, 5.0, 1.0, 3.0, 2.0, 9.0, 4.0, 6.0, 7.0, 0.5])
    group = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    error = np.array([0.1, 3.0, 2.0, 0.2, 0.1, 1.0, 3.0, 0.3, 0.2, 2.0])
    for method in METHODS:
        estimator = JamesSteinEstimator(group_features=1, target="regression", method=method)
        estimator.fit(np.column_stack([x, group]), 1.0 + 2.0 * x, standard_error=error)
        np.testing.assert_allclose([estimator.intercept_, *estimator.coef_], [1.0, 2.0], rtol=1e-10)
        at = np.column_stack([[-4.0, 20.0, 8.0], [0, 3, 77]])
        np.testing.assert_allclose(estimator.predict(at), 1.0 + 2.0 * at[:, 0], rtol=1e-9)


def test_a_column_that_explains_rows_leaves_the_variance_of_what_is_left(rng):
    group, x = np.repeat(np.arange(6), 4), 4.0 * rng.normal(size=24)
    u = 0.5 * rng.normal(size=6)
    y = 3.0 * x + u[group] + 0.1 * rng.normal(size=24)
    for method in METHODS:
        estimator = JamesSteinEstimator(group_features=1, target="regression", method=method)
        estimator.fit(np.column_stack([x, group]), y)
        assert estimator.sigma2_ == pytest.approx(0.01, rel=0.6)
        assert np.all(own_weights(estimator) > 0.95)
        truth = 3.0 * x + u[group]
        assert np.sqrt(np.mean((estimator.predict(np.column_stack([x, group])) - truth) ** 2)) < 0.1


def test_a_column_with_equal_averages_has_the_slope_within_groups(rng):
    """A balanced time: averages say nothing of it, and least squares with a level for each group says all."""
    group, time = np.repeat(np.arange(8), 5), np.tile(np.arange(5.0), 8)
    y = rng.normal(size=8)[group] - 1.5 * time + rng.normal(size=40)
    levels = np.linalg.lstsq(np.column_stack([np.eye(8)[group], time]), y, rcond=None)[0]
    for method in METHODS:
        estimator = JamesSteinEstimator(group_features=0, target="regression", method=method)
        estimator.fit(np.column_stack([group, time]), y)
        assert estimator.coef_[0] == pytest.approx(levels[-1], rel=1e-10)
    plain = JamesSteinEstimator(group_features=0, method="sure").fit(np.column_stack([group, time]), y + 1.5 * time)
    assert plain.between_group_variance_ > 0


@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_too_few_groups_leave_levels_of_their_own(n_groups, rng):
    """Least squares with a level for each group: its predictions, and its intervals for rows anywhere."""
    group, x = np.repeat(np.arange(n_groups), 6), rng.normal(size=6 * n_groups)
    y = 2.0 * group + 0.7 * x + rng.normal(size=len(x))
    estimator = JamesSteinEstimator(group_features=1, target="regression")
    with pytest.warns(ShrinkageWarning, match="at least 4 groups are needed"):
        estimator.fit(np.column_stack([x, group]), y)
    design = np.column_stack([np.eye(n_groups)[group], x])
    at = np.column_stack([np.eye(n_groups)[[0, n_groups - 1]], [-3.0, 0.4]])
    gram = np.linalg.inv(design.T @ design)
    coef = gram @ design.T @ y
    nu = len(y) - n_groups - 1
    sigma2 = np.sum((y - design @ coef) ** 2) / nu
    reach = stats.t.ppf(0.95, nu) * np.sqrt(sigma2 * np.sum((at @ gram) * at, axis=1))
    ask = np.column_stack([[-3.0, 0.4], [0, n_groups - 1]])
    np.testing.assert_allclose(estimator.predict(ask), at @ coef, rtol=1e-9)
    np.testing.assert_allclose(
        estimator.predict_interval(ask, kind="mean"), (at @ coef)[:, None] + np.column_stack([-reach, reach]), rtol=1e-8
    )
    assert np.isinf(estimator.predict([[0.0, 99]], return_std=True)[1]).all()


def test_columns_between_groups_that_the_groups_cannot_tell_are_infinitely_uncertain(rng):
    """Three groups, and a target of three coefficients: their own points are known, all others are not."""
    X, y = rows_of_groups(rng, n_rows=12, n_groups=3)
    X = X.assign(w=[0.3, -1.0, 2.0, *np.array([0.3, -1.0, 2.0])[X["g"][3:]]])[["c", "w", "g"]]
    estimator = JamesSteinEstimator(group_features="g", target="regression")
    with pytest.warns(ShrinkageWarning, match="3 groups and a target with 3 estimated coefficients.*at least 6"):
        estimator.fit(X, y)
    assert np.isfinite(estimator.predict(X, return_std=True)).all()
    assert np.isinf(estimator.predict(X.assign(c=X["c"] + 1.0), return_std=True)[1]).all()
    assert np.isinf(estimator.predict(X.assign(g=-1), return_std=True)[1]).all()


def test_slopes_that_use_up_the_rows_within_groups(rng):
    X = pd.DataFrame({name: rng.normal(size=8) for name in "abcd"} | {"g": np.repeat(np.arange(4), 2)})
    estimator = JamesSteinEstimator(group_features="g", target="regression")
    with pytest.warns(ShrinkageWarning, match="the 4 slopes of columns that vary within groups take all 4 degrees"):
        estimator.fit(X, rng.normal(size=8))
    assert np.isnan(estimator.sigma2_)
    np.testing.assert_array_equal(estimator.theta_sd_, np.inf)
    np.testing.assert_array_equal(estimator.predict(X, return_std=True)[1], np.inf)


@pytest.mark.parametrize("method", METHODS)
def test_noise_free_lines_with_levels(method, rng):
    group, x = np.repeat(np.arange(7), 3), rng.normal(size=21)
    levels = rng.normal(size=8)
    estimator = JamesSteinEstimator(group_features=1, target="regression", method=method)
    estimator.fit(np.column_stack([x, group]), levels[group] - 2.0 * x)
    at = np.column_stack([x + 5.0, group])
    mean, std = estimator.predict(at, return_std=True)
    np.testing.assert_allclose(mean, levels[group] - 2.0 * at[:, 0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, 0.0, atol=1e-9)
    assert 0 < estimator.predict([[0.0, 99]], return_std=True)[1][0] < 5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shift", "scale"), [(1e8, 1.0), (0.0, 1e60), (0.0, 1e-60)])
def test_columns_and_responses_far_away(method, shift, scale, rng):
    X, y = rows_of_groups(rng)
    y, at = y + rng.normal(size=len(y)), far_rows(rng)
    estimator = JamesSteinEstimator(group_features="g", target="regression", method=method)
    plain = clone(estimator).fit(X, y).predict(at, return_std=True)
    names = ["x", "c", "w"]
    moved = clone(estimator).fit(X.assign(**{k: scale * X[k] + shift for k in names}), scale * y + shift)
    mean, std = moved.predict(at.assign(**{k: scale * at[k] + shift for k in names}), return_std=True)
    np.testing.assert_allclose([(mean - shift) / scale, std / scale], plain, rtol=2e-6, atol=2e-6)


# SURE


def test_sure_takes_the_variance_of_new_groups_from_reml(rng):
    label, error = np.arange(9)[:, None], rng.uniform(0.5, 2.0, 9)
    y = 3.0 * rng.normal(size=9) + error * rng.normal(size=9)
    for between in ("reml", "paule-mandel", 2.5):
        params = {"group_features": 0, "between_group_variance": between}
        sure = JamesSteinEstimator(method="sure", **params).fit(label, y, standard_error=error)
        plain = JamesSteinEstimator(method="empirical-bayes", **params).fit(label, y, standard_error=error)
        assert sure.between_group_variance_ == plain.between_group_variance_
        assert sure.sure_variance_ != pytest.approx(sure.between_group_variance_, rel=1e-3)
        np.testing.assert_allclose(own_weights(sure), sure.sure_variance_ / (sure.sure_variance_ + error**2))
        tau2 = sure.between_group_variance_
        totals = tau2 + error**2
        w = np.square(1 - own_weights(sure))
        vbar = np.average(error**2, weights=1 / totals)
        new = (8 * tau2 + 2 * vbar) / 6 if isinstance(between, str) else tau2
        expected = new + np.sum(w**2 * totals) / np.sum(w) ** 2
        _, std = sure.predict([[99]], return_std=True, standard_error=2.0)
        np.testing.assert_allclose(std**2 - 4.0, [expected], rtol=1e-10)


# Arguments


@pytest.mark.parametrize("target", [1e16, -3e40, 1e74])
@pytest.mark.parametrize("method", METHODS)
def test_a_far_target_moves_means_by_what_is_left_of_the_distance(target, method, rng):
    y, error = np.array([2.0, 4.5, 5.0, 7.5]), 0.7
    estimator = JamesSteinEstimator(group_features=0, target=target, method=method)
    estimator.fit(np.arange(4)[:, None], y, standard_error=error)
    # With equal variances each method takes for v + tau^2 the mean square distance, times J / (J - 2) for James-Stein.
    mean_square = np.mean((y - target) ** 2) * (2.0 if method == "james-stein" else 1.0)
    np.testing.assert_allclose(estimator.theta_, y + error**2 / mean_square * (target - y), rtol=1e-9)
    assert estimator.predict([[9]])[0] == target
    given = JamesSteinEstimator(group_features=0, target=target, method="empirical-bayes", between_group_variance=0.3)
    given.fit(np.arange(4)[:, None], y, standard_error=error)
    np.testing.assert_allclose(given.theta_, y + 0.49 / 0.79 * (target - y), rtol=1e-12)


@pytest.mark.parametrize(
    "value", [True, False, np.bool_(True), np.inf, -np.inf, np.nan, "1.0", 1e200, 10**400, [1.0], None]
)
@pytest.mark.parametrize("name", ["target", "between_group_variance"])
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of JamesSteinEstimator must be"):
        JamesSteinEstimator(group_features=0, **{name: value}).fit(np.arange(6)[:, None], np.arange(6.0))


@pytest.mark.parametrize("value", [True, np.bool_(False), "a", np.nan, np.inf, [np.nan] * 6])
@pytest.mark.parametrize("name", ["standard_error", "sample_weight"])
def test_errors_and_weights_that_are_no_numbers_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        JamesSteinEstimator(group_features=0).fit(np.arange(6)[:, None], np.arange(6.0), **{name: value})


def test_numbers_of_other_kinds_are_numbers(rng):
    X, y = np.repeat(np.arange(6), 3)[:, None], rng.normal(size=18)
    for two in (2, np.int8(2), np.float32(2.0)):
        estimator = JamesSteinEstimator(
            group_features=0, method="empirical-bayes", target=two, between_group_variance=two
        ).fit(X, y)
        assert (estimator.target_, estimator.between_group_variance_) == (2.0, 2.0)


def test_columns_that_add_up_are_named_and_constant_ones_are_not(rng):
    X, y = rows_of_groups(rng, n_rows=60)
    kind = rng.integers(0, 3, 60)
    X = X.assign(constant=4.0, **{f"kind_{k}": (kind == k).astype(float) for k in range(3)})
    estimator = JamesSteinEstimator(group_features="g", target="regression")
    with pytest.warns(RedundantColumnsWarning, match="Columns 'kind_0', 'kind_1', 'kind_2' of X are linear comb"):
        estimator.fit(X, y + rng.normal(size=60))
    fewer = clone(estimator).fit(X.drop(columns="kind_2"), y + np.zeros(60))
    assert fewer.coef_[fewer.coef_names_.index("constant")] == 0.0
    with pytest.warns(RedundantColumnsWarning):
        estimator.fit(X, y)
    np.testing.assert_allclose(estimator.predict(X), fewer.predict(X.drop(columns="kind_2")), rtol=1e-8)


def test_a_constant_column_in_large_groups_is_seen_to_be_constant():
    """Ten thousand times 0.1 does not add up to a thousand."""
    group = np.repeat(np.arange(6), 10_000)
    x = np.array([0.1, 0.7, 1e6 + 0.3, 3.3, 1.9, 0.2])[group]
    y = np.random.default_rng(4).normal(size=len(x)) + group
    estimator = JamesSteinEstimator(group_features=1, target="regression").fit(np.column_stack([x, group]), y)
    assert estimator._learnt.means.n_target == 2.0
    np.testing.assert_allclose(estimator.predict(np.column_stack([x, group])), estimator.theta_[group], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_documents_and_policies(method, rng):
    X, y = rows_of_groups(rng)
    y, at = y + rng.normal(size=len(y)), far_rows(rng)
    estimator = JamesSteinEstimator(group_features="g", target="regression", method=method, unknown_groups="nan")
    estimator.fit(X, y)
    np.testing.assert_array_equal(
        from_json(to_json(estimator)).predict(at, return_std=True), estimator.predict(at, return_std=True)
    )
    known = at["g"] < N_GROUPS
    everyone = clone(estimator).set_params(unknown_groups="population").fit(X, y)
    for ours, theirs in zip(estimator.predict(at, return_std=True), everyone.predict(at, return_std=True), strict=True):
        np.testing.assert_array_equal(ours, np.where(known, theirs, np.nan))
    np.testing.assert_allclose(
        everyone.predict(at)[~known], everyone.intercept_ + at[["x", "c", "w"]][~known] @ everyone.coef_, rtol=1e-10
    )
    refusing = clone(estimator).set_params(unknown_groups="error").fit(X, y)
    with pytest.raises(ValueError, match="3 groups not seen in fit"):
        refusing.predict(at)
    assert refusing.score(X, y) == everyone.score(X, y)


@pytest.mark.parametrize("precise", range(6))
def test_errors_may_differ_by_any_factor(precise):
    """Weighted least squares in exact fractions: one group is known a billion times as well as the others."""
    z, y = np.array([0.0, 1.0, 2.5, 4.0, 4.5, 7.0]), np.array([1.0, 3.0, 4.0, 4.5, 6.0, 5.0])
    error = np.ones(6)
    error[precise] = 1e-9
    X = pd.DataFrame({"z": z, "g": list("abcdef")})
    model = JamesSteinEstimator(group_features="g", target="regression", method="empirical-bayes")
    found = clone(model).set_params(between_group_variance=0.0).fit(X, y, standard_error=error)
    weight, z, means = ([Fraction(value) for value in values] for values in (error**-2, z, y))
    w, wz, wzz = (sum(a * b**k for a, b in zip(weight, z, strict=True)) for k in range(3))
    wy, wzy = (sum(a * b**k * c for a, b, c in zip(weight, z, means, strict=True)) for k in range(2))
    slope = (w * wzy - wz * wy) / (w * wzz - wz**2)
    line = [float((wy - slope * wz) / w + slope * at) for at in z]
    np.testing.assert_allclose(found.theta_, line, rtol=1e-9)
    np.testing.assert_allclose(found.predict(X.assign(g="new")), line, rtol=1e-9)
    assert np.isfinite(found.theta_sd_).all()
    assert np.isfinite(model.fit(X, y, standard_error=error).heterogeneity().tau2)
