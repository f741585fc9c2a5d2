"""Intervals of new groups of JamesSteinEstimator against exact laws, quadrature on a grid, and simulation."""

import numpy as np
import pytest
from scipy import stats

from hbsk import JamesSteinEstimator
from hbsk._shrinkage.averaged_variance import inverse_trigamma


def test_where_means_are_known_intervals_are_exact():
    """y_j known to 1e-4: theta_new - mean(y) over s sqrt(1 + 1/J) is Student's t on J - 1 degrees of freedom."""
    y = np.random.default_rng(1).normal(2.0, 3.0, 6)
    for method in ("james-stein", "empirical-bayes", "sure"):
        fitted = JamesSteinEstimator(group_features=0, method=method)
        fitted.fit(np.arange(6)[:, None], y, standard_error=1e-4)
        for coverage in (0.5, 0.9, 0.99):
            low, high = fitted.predict_interval([[9]], kind="mean", coverage=coverage)[0]
            reach = stats.t.ppf(0.5 + coverage / 2, 5) * y.std(ddof=1) * np.sqrt(1 + 1 / 6)
            assert (high - low) / 2 == pytest.approx(reach, rel=2e-3)
            assert (high + low) / 2 == pytest.approx(y.mean(), rel=1e-6)


def brute_force_law(y, variances, grid):
    """Weights over a grid of tau^2 (known errors, common mean), by dense algebra; means and variances of theta_new."""
    weight, mean, variance = np.empty((3, len(grid)))
    for k, tau2 in enumerate(grid):
        precision = np.diag(1 / (variances + tau2))
        ones = np.ones(len(y))
        of_mean = 1 / (ones @ precision @ ones)
        mean[k] = of_mean * (ones @ precision @ y)
        residual = y - mean[k]
        log_density = (
            0.5 * np.linalg.slogdet(precision)[1] + 0.5 * np.log(of_mean) - 0.5 * residual @ precision @ residual
        )
        weight[k] = np.exp(log_density) * np.trace(precision @ precision)
        variance[k] = tau2 + of_mean
    return weight, mean, variance


@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_new_groups_by_brute_force(tau):
    """The interval holds what it says under the law averaged over tau^2 on a fine grid."""
    rng = np.random.default_rng(int(10 * tau))
    error = rng.uniform(0.5, 1.5, 12)
    y = tau * rng.normal(size=12) + error * rng.normal(size=12)
    fitted = JamesSteinEstimator(group_features=0, method="empirical-bayes")
    fitted.fit(np.arange(12)[:, None], y, standard_error=error)
    grid = np.geomspace(1e-6, 1e5, 2000)
    weight, mean, variance = brute_force_law(y, error**2, grid)
    weight *= np.gradient(grid)
    for coverage in (0.5, 0.9, 0.95):
        for noise in (0.0, 0.7):
            kind = {"kind": "prediction", "standard_error": noise} if noise else {"kind": "mean"}
            low, high = fitted.predict_interval([[99]], coverage=coverage, **kind)[0]
            total = variance + noise**2
            law = stats.norm(mean, np.sqrt(total))
            held = np.average(law.cdf(high) - law.cdf(low), weights=weight * total)
            assert held == pytest.approx(coverage, abs=0.002)


def test_a_variance_that_is_given_is_not_averaged_over():
    y = np.random.default_rng(2).normal(size=8)
    fitted = JamesSteinEstimator(group_features=0, method="empirical-bayes", between_group_variance=0.8)
    fitted.fit(np.arange(8)[:, None], y, standard_error=0.5)
    low, high = fitted.predict_interval([[9]], kind="mean")[0]
    assert (high - low) / 2 == pytest.approx(stats.norm.ppf(0.95) * np.sqrt(0.8 + (0.8 + 0.25) / 8), rel=1e-9)


@pytest.mark.parametrize("varies", [False, True])
def test_draws_have_the_margins_of_intervals(varies):
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(15), 4)
    x = rng.normal(size=15)[group] + varies * rng.normal(size=60)
    y = 1 + 2 * x + rng.normal(size=15)[group] + rng.normal(size=60)
    fitted = JamesSteinEstimator(group_features=1, target="regression").fit(np.column_stack([x, group]), y)
    ask = np.array([[0.2, 99.0], [4.0, 98.0]])
    draws = fitted.sample_y(ask, n_samples=20_000, random_state=0)
    for coverage in (0.5, 0.9):
        low, high = fitted.predict_interval(ask, coverage=coverage).T
        held = np.mean((draws >= low[:, None]) & (draws <= high[:, None]), axis=1)
        np.testing.assert_allclose(held, coverage, atol=0.025)


def test_distinct_rows_are_answered_each_by_itself():
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(9), 3)
    x = rng.normal(size=27)
    fitted = JamesSteinEstimator(group_features=1, target="regression").fit(
        np.column_stack([x, group]), x + rng.normal(size=9)[group] + rng.normal(size=27)
    )
    ask = np.column_stack([[0.1, 3.0, 0.1, -5.0], [70, 71, 72, 2]])
    together = fitted.predict_interval(ask)
    alone = np.concatenate([fitted.predict_interval(ask[[i]]) for i in range(4)])
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_inverse_of_trigamma():
    x = np.array([1e-3, 0.5, 1.0, 7.3, 1e3, 1e8])
    from scipy.special import polygamma

    np.testing.assert_allclose(inverse_trigamma(polygamma(1, x)), x, rtol=1e-8)


@pytest.mark.parametrize(("n_groups", "tau"), [(5, 3.0), (20, 1.0)])
def test_intervals_of_new_groups_cover(n_groups, tau):
    """A small version of tests/slow/test_james_stein_regression_coverage.py: not below .9 by more than chance."""
    rng = np.random.default_rng(n_groups)
    error = rng.uniform(0.5, 1.0, n_groups)
    fitted, held = JamesSteinEstimator(group_features=0, method="sure"), []
    for _ in range(60):
        y = tau * rng.normal(size=n_groups) + error * rng.normal(size=n_groups)
        fitted.fit(np.arange(n_groups)[:, None], y, standard_error=error)
        low, high = fitted.predict_interval([[99]], kind="mean")[0] / tau
        held.append(stats.norm.cdf(high) - stats.norm.cdf(low))
    assert np.mean(held) > 0.9 - 3 * np.std(held, ddof=1) / np.sqrt(len(held))
