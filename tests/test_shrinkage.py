"""The maths of shrinkage, each formula against a slow twin: loops, dense matrices, brute force."""

import numpy as np
import pytest
from scipy import optimize, stats

from hbsk._shrinkage import between_group_variance as _shrinkage
from hbsk._shrinkage.averaged_variance import t_quantile
from hbsk._shrinkage.between_group_variance import (
    between_group_variance,
    james_stein_shrinkage,
    likelihood_slope,
    log_likelihood,
    sure,
    sure_risk,
    sure_slope,
    variance_of_new_groups,
)
from hbsk._shrinkage.cells import collect_cells
from hbsk._shrinkage.group_means import GroupMeans, group_averages, summarise_groups
from hbsk._shrinkage.shrunken_means import shrink_means

METHODS = ("reml", "ml", "dersimonian-laird", "paule-mandel")
N_TARGET = (0, 1, 3)


def problem(seed, n_target, n_groups=9, tau=1.3, repeat=2):
    """Means, variances (each shared by `repeat` groups, without symmetry) and a basis."""
    rng = np.random.default_rng(seed)
    variances = np.repeat(np.sort(rng.uniform(0.1, 4.0, n_groups)), repeat)[:n_groups]
    rng.shuffle(variances)
    basis = np.column_stack([np.ones(n_groups), rng.normal(size=(n_groups, 2))])[:, :n_target]
    theta = basis @ np.array([0.7, -1.1, 0.4])[:n_target] + tau * rng.normal(size=n_groups)
    return theta + np.sqrt(variances) * rng.normal(size=n_groups), variances, basis


def dense_projection(variances, basis, tau2):
    """P = W - W Z (Z' W Z)^-1 Z' W."""
    w = np.diag(1.0 / (variances + tau2))
    if not basis.shape[1]:
        return w
    return w - w @ basis @ np.linalg.inv(basis.T @ w @ basis) @ basis.T @ w


def dense_log_likelihood(means, variances, basis, tau2, restricted):
    covariance = np.diag(variances + tau2)
    value = np.linalg.slogdet(covariance)[1] + means @ dense_projection(variances, basis, tau2) @ means
    if restricted and basis.shape[1]:
        value += np.linalg.slogdet(basis.T @ np.linalg.inv(covariance) @ basis)[1]
    return -0.5 * value


def brute_force_maximum(function, high):
    """The best of many starts, refined without derivatives."""
    grid = np.append(0.0, np.geomspace(1e-6 * high, high, 400))
    best = grid[np.argmax([function(point) for point in grid])]
    found = optimize.minimize_scalar(
        lambda point: -function(point),
        bounds=(0.8 * best, 1.2 * best + 1e-9),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return found.x if function(found.x) > function(0.0) else 0.0


# Group means


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_group_means_against_loops(weighted, known, rng):
    codes = np.array([0, 2, 1, 2, 2, 0, 3, 2, 0, 2])
    y = rng.normal(size=10) + codes
    weight = rng.integers(1, 4, 10).astype(float) if weighted else None
    error = rng.uniform(0.5, 2.0, 10) if known else None
    groups = summarise_groups(codes, 4, y, weight, error)
    copies = np.ones(10) if weight is None else weight
    within = 0.0
    for j in range(4):
        rows = [i for i in range(10) if codes[i] == j]
        precision = [copies[i] / (error[i] ** 2 if known else 1.0) for i in rows]
        mean = sum(p * y[i] for p, i in zip(precision, rows, strict=True)) / sum(precision)
        assert groups.counts[j] == pytest.approx(sum(copies[i] for i in rows))
        assert groups.means[j] == pytest.approx(mean, rel=1e-13)
        assert groups.relative_variances[j] == pytest.approx(1.0 / sum(precision))
        within += sum(copies[i] * (y[i] - mean) ** 2 for i in rows)
    if known:
        assert np.isnan(groups.sigma2)
        assert groups.nu == np.inf
        np.testing.assert_allclose(groups.variances, groups.relative_variances)
    else:
        assert groups.nu == copies.sum() - 4
        assert groups.sigma2 == pytest.approx(within / groups.nu, rel=1e-12)
        np.testing.assert_allclose(groups.variances, groups.sigma2 / groups.counts)


def test_group_means_far_from_zero_lose_no_digits(rng):
    codes = rng.integers(0, 5, 20_000)
    y = rng.normal(size=20_000).round(6)
    near, far = (summarise_groups(codes, 5, y + shift, None, None) for shift in (0.0, 1e8))
    assert far.sigma2 == pytest.approx(near.sigma2, rel=1e-7)
    np.testing.assert_allclose(far.means - 1e8, near.means, atol=2e-8)
    wide = summarise_groups(codes, 5, y + 1e8 * codes, None, None)
    assert wide.sigma2 == pytest.approx(near.sigma2, rel=1e-6)


def test_group_averages_against_loops(rng):
    codes, x, weight = rng.integers(0, 3, 20), rng.normal(size=20) + 1e6, rng.uniform(0.5, 2.0, 20)
    for w in (None, weight):
        expected = [np.average(x[codes == j], weights=None if w is None else w[codes == j]) for j in range(3)]
        np.testing.assert_allclose(group_averages(codes, 3, x, w), expected, rtol=1e-14)


def test_one_row_in_every_group_leaves_the_variance_unknown():
    groups = summarise_groups(np.array([0, 1, 2]), 3, np.array([1.0, 5.0, 2.0]), None, None)
    assert np.isnan(groups.sigma2)
    assert groups.nu == 0
    # Weights below 1 can make nu negative, and a single row of weight 3 is three rows.
    assert np.isnan(summarise_groups(np.array([0, 1]), 2, np.array([1.0, 5.0]), np.array([0.5, 0.9]), None).sigma2)
    assert summarise_groups(np.array([0, 1]), 2, np.array([1.0, 5.0]), np.array([3.0, 1.0]), None).sigma2 == 0.0


# James and Stein


def test_the_formula_of_1961():
    y, variance = np.array([0.4, -1.9, 2.7, 0.8, -0.3]), 1.7
    factor = james_stein_shrinkage(y, np.full(5, variance), 0, np.inf, positive_part=False)
    assert factor == pytest.approx(1 - 3 * variance / (0.4**2 + 1.9**2 + 2.7**2 + 0.8**2 + 0.3**2))


def test_estimated_variance_costs_degrees_of_freedom():
    y, nu = np.array([0.4, -1.9, 2.7, 0.8, -0.3]), 7.0
    known = 1 - james_stein_shrinkage(y, np.full(5, 1.7), 0, np.inf, positive_part=False)
    estimated = 1 - james_stein_shrinkage(y, np.full(5, 1.7), 0, nu, positive_part=False)
    assert estimated == pytest.approx(known * 7 / 9)


@pytest.mark.parametrize("n_target", N_TARGET)
def test_unequal_variances_are_standardised(n_target):
    y, v, _ = problem(3, n_target, tau=3.0)
    z = [y[j] / v[j] ** 0.5 for j in range(len(y))]
    expected = 1 - (len(y) - n_target - 2) / sum(value**2 for value in z)
    assert james_stein_shrinkage(y, v, n_target, np.inf, positive_part=False) == pytest.approx(expected)


def test_the_positive_part_cuts_at_zero_and_only_there():
    small, large, v = np.array([0.1, -0.2, 0.3, 0.1]), np.array([3.0, -4.0, 2.0, 1.0]), np.ones(4)
    assert james_stein_shrinkage(small, v, 0, np.inf, positive_part=False) < 0
    assert james_stein_shrinkage(small, v, 0, np.inf, positive_part=True) == 0.0
    plain, cut = (james_stein_shrinkage(large, v, 0, np.inf, positive_part=p) for p in (False, True))
    assert 0 < plain == cut
    assert james_stein_shrinkage(np.zeros(4), v, 0, np.inf, positive_part=False) == 0.0


# The variance between groups


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("n_target", N_TARGET)
def test_likelihood_against_dense_matrices(n_target, restricted):
    y, v, z = problem(5, n_target)
    cells = collect_cells(y, v, z)
    assert len(cells.variances) < len(v)
    for tau2 in (0.0, 0.3, 5.0):
        ours = log_likelihood(cells, tau2, restricted=restricted)
        assert ours == pytest.approx(dense_log_likelihood(y, v, z, tau2, restricted), rel=1e-11)


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("n_target", N_TARGET)
def test_slope_of_the_likelihood_against_differences(n_target, restricted):
    y, v, z = problem(6, n_target)
    cells = collect_cells(y, v, z)
    for tau2 in (0.2, 1.1, 9.0):
        step = 1e-5 * tau2
        up, down = (log_likelihood(cells, tau2 + s, restricted=restricted) for s in (step, -step))
        slope = likelihood_slope(cells, tau2, restricted=restricted)
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("n_target", N_TARGET)
@pytest.mark.parametrize("seed", range(4))
def test_likelihood_estimates_against_brute_force(seed, n_target, method):
    y, v, z = problem(seed, n_target)
    ours = between_group_variance(collect_cells(y, v, z), method)
    expected = brute_force_maximum(lambda t: dense_log_likelihood(y, v, z, t, method == "reml"), 50.0)
    assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("spread", "small_wins"), [(3.0, True), (6.0, False)])
def test_the_best_of_two_maxima_is_taken(spread, small_wins):
    # Ten precise groups close together ask for a small variance, ten vague ones far apart for a large one.
    pattern = np.array([-1.6, -1.1, -0.7, -0.3, -0.1, 0.2, 0.4, 0.8, 1.0, 1.4])
    y, v = np.append(0.03 * pattern, spread * pattern), np.repeat([1e-4, 1.0], 10)
    cells = collect_cells(y, v, np.ones((20, 1)))
    slopes = likelihood_slope(cells, np.geomspace(1e-7, 1e4, 2000), restricted=True)
    assert np.count_nonzero((slopes[:-1] > 0) & (slopes[1:] <= 0)) == 2
    expected = brute_force_maximum(lambda t: dense_log_likelihood(y, v, np.ones((20, 1)), t, True), 100.0)
    assert (expected < 0.01) == small_wins
    assert between_group_variance(cells, "reml") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_target", N_TARGET)
@pytest.mark.parametrize("seed", range(4))
def test_moment_estimates_against_dense_matrices(seed, n_target):
    y, v, z = problem(seed, n_target)
    cells, degrees = collect_cells(y, v, z), len(y) - n_target
    p = dense_projection(v, z, 0.0)
    expected = max(0.0, (y @ p @ y - degrees) / np.trace(p))
    assert between_group_variance(cells, "dersimonian-laird") == pytest.approx(expected, rel=1e-11)
    paule_mandel = between_group_variance(cells, "paule-mandel")
    if y @ p @ y > degrees:
        assert y @ dense_projection(v, z, paule_mandel) @ y == pytest.approx(degrees, rel=1e-11)
    else:
        assert paule_mandel == 0.0


@pytest.mark.parametrize("excess", [-0.4, 0.0, 0.4, 1.0])
def test_moment_estimates_just_above_and_below_what_errors_alone_give(excess):
    y, v, z = problem(8, 1)
    p, degrees = dense_projection(v, z, 0.0), len(y) - 1
    y = y * np.sqrt((degrees + excess) / (y @ p @ y))
    cells = collect_cells(y, v, z)
    assert between_group_variance(cells, "dersimonian-laird") == pytest.approx(max(excess, 0) / np.trace(p), abs=1e-12)
    paule_mandel = between_group_variance(cells, "paule-mandel")
    if excess > 0:
        assert y @ dense_projection(v, z, paule_mandel) @ y == pytest.approx(degrees, rel=1e-11)
        assert paule_mandel > 0.1 * excess / np.trace(p)
    else:
        assert paule_mandel < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_means_closer_than_their_errors_have_no_variance_between(method):
    y, v = np.array([0.1, -0.2, 0.15, 0.0, 0.05]), np.array([1.0, 2.0, 0.5, 1.5, 3.0])
    assert between_group_variance(collect_cells(y, v, np.ones((5, 1))), method) == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_variance_between_scales_and_does_not_depend_on_order(method, scale):
    y, v, z = problem(8, 1)
    plain = between_group_variance(collect_cells(y, v, z), method)
    assert plain > 0
    assert between_group_variance(collect_cells(scale * y, scale**2 * v, z), method) == pytest.approx(
        scale**2 * plain, rel=1e-10
    )
    order = np.random.default_rng(1).permutation(len(y))
    assert between_group_variance(collect_cells(y[order], v[order], z[order]), method) == pytest.approx(
        plain, rel=1e-12
    )
    assert between_group_variance(collect_cells(y + 3.0, v, z), method) == pytest.approx(plain, rel=1e-10)


def test_group_sizes_from_one_to_a_million():
    rng = np.random.default_rng(0)
    v = 1.0 / np.array([1, 1, 3, 10, 1e2, 1e3, 1e4, 1e5, 1e6, 1e6])
    y = 0.02 * rng.normal(size=10) + np.sqrt(v) * rng.normal(size=10)
    z = np.ones((10, 1))
    for method in ("reml", "ml"):
        ours = between_group_variance(collect_cells(y, v, z), method)
        expected = brute_force_maximum(lambda t, method=method: dense_log_likelihood(y, v, z, t, method == "reml"), 1.0)
        assert ours == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("tau", [0.0, 0.05, 2.0])
def test_many_different_variances_take_a_short_cut_to_the_same_answer(tau, monkeypatch):
    y, v, z = problem(11, 1, n_groups=400, tau=tau, repeat=1)
    cells = collect_cells(y, v, z)
    exact = [between_group_variance(cells, method) for method in ("reml", "ml")] + [sure(cells)[0]]
    monkeypatch.setattr(_shrinkage, "_MOST_CELLS", 20)
    assert len(_shrinkage._merge_cells(cells).variances) <= 20
    assert _shrinkage._merge_cells(cells).n_groups == 400
    short = [between_group_variance(cells, method) for method in ("reml", "ml")] + [sure(cells)[0]]
    np.testing.assert_allclose(short, exact, rtol=1e-10, atol=0)


def test_merged_cells_are_of_nearly_equal_variance(monkeypatch):
    y, v, z = problem(13, 1, n_groups=900, repeat=1)
    cells = collect_cells(y, v, z)
    monkeypatch.setattr(_shrinkage, "_MOST_CELLS", 50)
    few = _shrinkage._merge_cells(cells)
    assert 40 < len(few.variances) <= 50
    ends = np.append(0, np.cumsum(few.counts)).astype(int)
    width = np.exp(np.log(cells.variances[-1] / cells.variances[0]) / 50) * (1 + 1e-12)
    for k in range(len(few.variances)):
        part = slice(ends[k], ends[k + 1])
        assert cells.variances[part].max() / cells.variances[part].min() <= width
        assert few.variances[k] == pytest.approx(cells.variances[part].mean())
        np.testing.assert_allclose(few.products[k], cells.products[part].sum(axis=0))


@pytest.mark.parametrize("guess", [0.9, 4.9, 5.0, 5.1, 40.0])
def test_a_good_guess_is_polished_to_the_root_beside_it(guess):
    # Negative below 1, positive from 1 to 5, negative beyond: 0 and 5 are maxima of what this is the slope of.
    found = _shrinkage._polish(lambda tau2: (tau2 - 1.0) * (5.0 - tau2), guess, 1e-3)
    assert found == pytest.approx(5.0 if guess > 1 else 0.0, rel=1e-12)
    assert _shrinkage._polish(lambda tau2: 3e-7 - tau2, 0.0, 1e-3) == pytest.approx(3e-7, rel=1e-9)
    assert _shrinkage._polish(lambda tau2: -tau2, 0.0, 1e-3) == 0.0


# Stein's unbiased risk estimate


def naive_sure(y, v, target, tau2):
    return sum(
        (v[j] / (v[j] + tau2)) ** 2 * (y[j] - target[j]) ** 2 + v[j] * (tau2 - v[j]) / (tau2 + v[j])
        for j in range(len(y))
    )


@pytest.mark.parametrize("n_target", N_TARGET)
@pytest.mark.parametrize("seed", range(3))
def test_sure_against_a_search_over_everything(seed, n_target):
    y, v, z = problem(seed, n_target, tau=0.8)
    cells = collect_cells(y, v, z)
    tau2, coef = sure(cells)
    assert sure_risk(cells, tau2) == pytest.approx(naive_sure(y, v, z @ coef, tau2), rel=1e-11)
    found = min(
        (
            optimize.minimize(
                lambda p: naive_sure(y, v, z @ p[1:], np.exp(p[0])),
                np.append(np.log(start), np.zeros(n_target)),
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000},
            )
            for start in (1e-4, 0.1, 3.0)
        ),
        key=lambda result: result.fun,
    )
    assert sure_risk(cells, tau2) <= found.fun + 1e-9 * abs(found.fun)
    if tau2 > 0:
        assert tau2 == pytest.approx(np.exp(found.x[0]), rel=1e-4)
        np.testing.assert_allclose(coef, found.x[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_target", N_TARGET)
def test_slope_of_sure_against_differences(n_target):
    y, v, z = problem(12, n_target)
    cells = collect_cells(y, v, z)
    for tau2 in (0.2, 1.1, 9.0):
        step = 1e-5 * tau2
        difference = (sure_risk(cells, tau2 + step) - sure_risk(cells, tau2 - step)) / (2 * step)
        assert sure_slope(cells, tau2) == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_sure_with_equal_variances_has_a_closed_form():
    y = np.array([3.1, -0.4, 2.2, 5.0, 1.3])
    tau2, coef = sure(collect_cells(y, np.full(5, 0.8), np.ones((5, 1))))
    assert coef[0] == pytest.approx(y.mean())
    assert tau2 == pytest.approx(np.sum((y - y.mean()) ** 2) / 5 - 0.8)


# Standard deviations


@pytest.mark.parametrize("n_target", N_TARGET)
def test_variances_with_a_given_variance_are_those_of_a_flat_prior_on_the_target(n_target):
    y, v, z = problem(13, n_target)
    tau2 = 0.9
    # theta = Z beta + u with beta flat: the posterior precision of (beta, u) from y = theta + e.
    design = np.hstack([z, np.eye(len(y))])
    prior = np.diag(np.append(np.zeros(n_target), np.full(len(y), 1.0 / tau2)))
    covariance = np.linalg.inv(design.T @ np.diag(1.0 / v) @ design + prior)
    mean = design @ covariance @ design.T @ (y / v)
    for method in ("empirical-bayes", "sure", "james-stein"):
        ours = shrink_means(known(y, v), z, 0.0, method=method, between_group_variance=tau2, positive_part=True)
        # Of methods that shrink by another number the mean square of what they are off by, too.
        expected = np.diag(design @ covariance @ design.T) + (ours.theta - mean) ** 2
        np.testing.assert_allclose(ours.variances(), expected, rtol=1e-10)


def test_covariance_of_a_target_estimated_with_other_weights():
    y, v, z = problem(15, 3, n_groups=9)
    estimator = np.linalg.inv(z.T @ np.diag(1 / v) @ z) @ z.T @ np.diag(1 / v)
    expected = estimator @ np.diag(v + 0.4) @ estimator.T
    ours = shrink_means(known(y, v), z, 0.0, method="james-stein", between_group_variance=0.4, positive_part=True)
    np.testing.assert_allclose(ours.target_covariance, expected, rtol=1e-9)


def test_variance_of_new_groups_has_the_mean_shrinkage_of_morris():
    v, a, r = 0.8, 0.5, 1
    new = variance_of_new_groups(np.full(9, v), a, r)
    assert v / (v + new) == pytest.approx((8 - 2) / 8 * v / (v + a))
    # A flat prior on A: V + A given the residual sum of squares S is inverse gamma, cut at V; far above V nothing is.
    squares = 8 * (v + 1e4)
    grid = np.geomspace(v, 1e8, 400_001)
    density = grid**-4.0 * np.exp(-squares / (2 * grid))
    mean_b = np.trapezoid(density * v / grid, grid) / np.trapezoid(density, grid)
    assert v / (v + variance_of_new_groups(np.full(9, v), 1e4, r)) == pytest.approx(mean_b, rel=1e-4)
    unequal = np.array([0.3, 0.9, 2.0, 5.0, 1.1])
    mean_v = sum(x / (x + a) for x in unequal) / sum(1 / (x + a) for x in unequal)
    assert variance_of_new_groups(unequal, a, r) == pytest.approx((4 * a + 2 * mean_v) / 2)
    assert variance_of_new_groups(unequal[:3], a, r) == np.inf
    assert variance_of_new_groups(np.zeros(5), 0.0, r) == 0.0


def test_quantiles_for_each_row():
    ours = t_quantile(0.95, np.array([3.0, np.inf, 0.0, 3.0, -1.0]))
    np.testing.assert_allclose(ours[[0, 1, 3]], [stats.t.ppf(0.95, 3), stats.norm.ppf(0.95), stats.t.ppf(0.95, 3)])
    assert ours[2] == ours[4] == np.inf


# Shrunken means


def known(y, v):
    return GroupMeans(np.ones(len(y)), y, v, np.nan, np.inf)


@pytest.mark.parametrize("method", ["james-stein", "empirical-bayes", "sure"])
@pytest.mark.parametrize("n_target", N_TARGET)
def test_shrunken_means_against_the_formulas_in_words(n_target, method):
    y, v, z = problem(16, n_target, n_groups=10, tau=1.0)
    ours = shrink_means(known(y, v), z, 0.4, method=method, between_group_variance="reml", positive_part=True)
    if method == "james-stein":
        weights = 1.0 / v
    elif method == "empirical-bayes":
        weights = 1.0 / (v + ours.tau2)
        assert ours.tau2 == pytest.approx(between_group_variance(collect_cells(y - 0.4, v, z), "reml"), rel=1e-12)
    else:
        weights = (v / (v + ours.sure_tau2)) ** 2
        assert ours.sure_tau2 == sure(collect_cells(y - 0.4, v, z))[0]
        assert ours.tau2 == pytest.approx(between_group_variance(collect_cells(y - 0.4, v, z), "reml"), rel=1e-12)
    w = np.diag(weights)
    beta = np.linalg.inv(z.T @ w @ z) @ z.T @ w @ (y - 0.4) if n_target else np.empty(0)
    for j in range(10):
        target = 0.4 + sum(z[j, k] * beta[k] for k in range(n_target))
        tau2 = ours.sure_tau2 if method == "sure" else ours.tau2
        weight = tau2 / (tau2 + v[j])
        if method == "james-stein":
            residuals = y - 0.4 - z @ beta
            weight = max(0.0, 1 - (10 - n_target - 2) / sum(residuals**2 / v))
        assert ours.shrinkage[j] == pytest.approx(weight, rel=1e-10)
        assert ours.theta[j] == pytest.approx(target + weight * (y[j] - target), rel=1e-9)
    np.testing.assert_allclose(ours.target_coef, beta, rtol=1e-8)
    assert not ours.why_not


def test_means_that_do_not_move_keep_their_digits_whatever_the_target():
    groups = GroupMeans(np.full(4, 3.0), np.array([1.0, 3.0, 2.0, 9.1]), np.full(4, 1 / 3), 0.0, 8.0)
    still = shrink_means(
        groups, np.empty((4, 0)), 1e17, method="james-stein", between_group_variance="reml", positive_part=True
    )
    np.testing.assert_array_equal(still.theta, groups.means)


def test_no_noise_no_shrinkage():
    groups = GroupMeans(
        np.array([2.0, 3.0, 4.0, 2.0]), np.array([1.0, 3.0, 2.0, 9.0]), np.array([0.5, 1 / 3, 0.25, 0.5]), 0.0, 7.0
    )
    for method in ("james-stein", "empirical-bayes", "sure"):
        for between in METHODS:
            ours = shrink_means(
                groups, np.ones((4, 1)), 0.0, method=method, between_group_variance=between, positive_part=True
            )
            np.testing.assert_array_equal(ours.theta, groups.means)
            np.testing.assert_array_equal(ours.variances(), 0.0)
            spread = np.var(groups.means, ddof=0 if between == "ml" else 1)
            assert ours.tau2 == pytest.approx(spread, rel=1e-6)
