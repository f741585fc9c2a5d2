"""Sds and intervals of known groups of JamesSteinEstimator against laws averaged on grids, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from hbsk import JamesSteinEstimator
from hbsk._shrinkage.averaged_variance import Mixtures

METHODS = ("james-stein", "empirical-bayes", "sure")


def dense_laws(y, group, error, grid, columns):
    """Means and variances of theta, restricted log likelihood without residuals, and these, at tau^2 on a grid."""
    n_groups = group.max() + 1
    Z = (group[:, None] == np.arange(n_groups)).astype(float)
    X = Z @ columns
    means, variances, log_density, squares = [], [], [], []
    for tau2 in grid:
        V = np.diag(error**2) + tau2 * Z @ Z.T
        inverse = np.linalg.inv(V)
        of_coef = np.linalg.inv(X.T @ inverse @ X)
        coef = of_coef @ X.T @ inverse @ y
        weight = tau2 * Z.T @ inverse  # theta less the target, given the residuals
        means.append(columns @ coef + weight @ (y - X @ coef))
        left = columns - weight @ X
        variances.append(tau2 - np.diag(tau2 * weight @ Z) + np.einsum("jk,kl,jl->j", left, of_coef, left))
        residual = y - X @ coef
        squares.append(residual @ inverse @ residual)
        log_density.append(0.5 * np.linalg.slogdet(of_coef)[1] - 0.5 * np.linalg.slogdet(V)[1])
    return tuple(np.array(part) for part in (means, variances, log_density, squares))


def prior(grid, v, variance, noise):
    """The prior of tau^2 of each group, shape (K, J): T / T' times the sum of (v_j + tau^2)^-2."""
    total = v + grid[:, None]
    return (variance + noise) * (total / v) ** 2 * np.sum(total**-2, axis=1, keepdims=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("regression", [False, True])
def test_known_groups_by_brute_force(method, regression):
    rng = np.random.default_rng(int(regression))
    error, x = rng.uniform(0.5, 2.0, 14), rng.normal(size=14)
    y = 2 + 1.5 * x * regression + 0.7 * rng.normal(size=14) + error * rng.normal(size=14)
    X = np.column_stack([x, np.arange(14)])
    fitted = JamesSteinEstimator(group_features=1, method=method, target="regression" if regression else "mean")
    fitted.fit(X, y, standard_error=error)
    grid = np.geomspace(1e-6, 1e6, 1500)
    columns = np.column_stack([np.ones(14), x]) if regression else np.ones((14, 1))
    mean, variance, log_density, squares = dense_laws(y, np.arange(14), error, grid, columns)
    likelihood = np.exp(log_density - 0.5 * squares)[:, None] * np.gradient(grid)[:, None]
    weight = likelihood * prior(grid, error**2, variance, 0.0)
    weight /= weight.sum(axis=0)
    second = np.sum(weight * (variance + (mean - fitted.theta_) ** 2), axis=0)
    # With a regression target the covariance of the slopes goes with that of the height.
    np.testing.assert_allclose(fitted.theta_sd_, np.sqrt(second), rtol=0.02 if regression else 1e-4)
    for noise in (0.0, 0.6):
        weight = likelihood * prior(grid, error**2, variance, noise**2)
        weight /= weight.sum(axis=0)
        law = stats.norm(mean, np.sqrt(variance + noise**2))
        kind = {"kind": "prediction", "standard_error": noise} if noise else {"kind": "mean"}
        for coverage in (0.5, 0.9, 0.95):
            low, high = fitted.predict_interval(X, coverage=coverage, **kind).T
            held = np.sum(weight * (law.cdf(high) - law.cdf(low)), axis=0)
            np.testing.assert_allclose(held, coverage, atol=0.006 if regression else 0.003)


def test_known_groups_of_rows_by_brute_force():
    rng = np.random.default_rng(4)
    size = rng.integers(1, 6, 10)
    group = np.repeat(np.arange(10), size)
    y = rng.normal(size=10)[group] + 1.3 * rng.normal(size=len(group))
    fitted = JamesSteinEstimator(group_features=0, method="empirical-bayes").fit(group[:, None], y)
    grid = np.geomspace(1e-5, 1e4, 600)  # of tau^2 / sigma^2
    mean, variance, log_density, squares = dense_laws(y, group, np.ones(len(group)), grid, np.ones((10, 1)))
    degrees = len(y) - 1 - 2  # what stands beside the likelihood goes with 1 / sigma^2 less by one than for new groups
    scale2 = (squares / degrees)[:, None]
    likelihood = np.exp(log_density)[:, None] * scale2 ** (-degrees / 2) * np.gradient(grid)[:, None]
    for noise, kind in ((0.0, "mean"), (1.0, "prediction")):
        weight = likelihood * prior(grid, 1 / size, variance, noise)
        weight /= weight.sum(axis=0)
        law = stats.t(degrees, mean, np.sqrt(scale2 * (variance + noise)))
        for coverage in (0.5, 0.9, 0.95):
            low, high = fitted.predict_interval(np.arange(10)[:, None], coverage=coverage, kind=kind).T
            held = np.sum(weight * (law.cdf(high) - law.cdf(low)), axis=0)
            np.testing.assert_allclose(held, coverage, atol=0.003)


def test_where_nothing_is_shrunken_intervals_are_those_of_the_means():
    """tau far above the errors: Student's t on the degrees within groups, about the group's own mean."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(12), 3)
    y = 1e4 * rng.normal(size=12)[group] + rng.normal(size=36)
    for method in METHODS:
        fitted = JamesSteinEstimator(group_features=0, method=method).fit(group[:, None], y)
        low, high = fitted.predict_interval(np.arange(12)[:, None], kind="mean").T
        reach = stats.t.ppf(0.95, 24) * np.sqrt(fitted.sigma2_ / 3)
        np.testing.assert_allclose((high - low) / 2, reach, rtol=0.01)
        np.testing.assert_allclose(fitted.theta_sd_, np.sqrt(fitted.sigma2_ / 3), rtol=0.01)


@pytest.mark.parametrize("method", ["empirical-bayes", "sure"])
def test_intervals_of_known_groups_cover(method):
    """A small version of tests/slow/test_james_stein_coverage.py, where tau^2 put in as known gives .86."""
    rng = np.random.default_rng(7)
    error = rng.uniform(0.5, 2.0, 150)
    fitted, held = JamesSteinEstimator(group_features=0, method=method), []
    for _ in range(60):
        theta = 0.5 * rng.normal(size=150)
        fitted.fit(np.arange(150)[:, None], theta + error * rng.normal(size=150), standard_error=error)
        low, high = fitted.predict_interval(np.arange(150)[:, None], kind="mean").T
        held.append(np.mean((low <= theta) & (theta <= high)))
    assert 0.9 - 3 * np.std(held, ddof=1) / np.sqrt(60) < np.mean(held) < 0.95


@pytest.mark.parametrize("shift", [0.0, 1e-17, -1e-20, 1e-12])
@pytest.mark.parametrize("degrees", [3.0, np.inf])
def test_a_shift_of_next_to_nothing_makes_no_interval_missing(shift, degrees):
    scales = np.geomspace(1e-16, 1e3, 40)
    ones = np.ones((40, 1))
    reach = Mixtures(scales[:, None] ** 2, shift * scales[:, None], ones, degrees).reach(0.9)
    np.testing.assert_allclose(
        reach, (stats.norm if np.isinf(degrees) else stats.t(degrees)).ppf(0.95) * scales, rtol=1e-8
    )
