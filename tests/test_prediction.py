"""Predictions of rows: moments, quantiles of mixtures, draws; against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hbsk._engine.propriety import GrowingSds, Tails
from hbsk._model import design
from hbsk._posterior import prediction as _prediction
from hbsk._posterior.draws import DrawsPosterior
from hbsk._posterior.integrated import fit_marginal
from hbsk._posterior.no_pooling import fit_no_pooling
from hbsk._posterior.nodes import RowMixture
from hbsk._posterior.prediction import (
    PredictedRows,
    mixture_quantiles,
    predict_interval,
    predict_mean,
    sample_observations,
)
from tests.dense import make_priors, make_problem
from tests.stand_ins import Design

LEVELS = np.array([0.05, 0.5, 0.95])


def fitted(rng, **kinds):
    problem = make_problem(rng, n_rows=40, **kinds)
    return problem, fit_marginal(problem.collect(), make_priors(rng, problem))


def rows_of(rng, problem, n=8, offset=None, errors=False):
    x, z = rng.normal(size=(n, problem.X.shape[1])), rng.normal(size=(n, problem.Z.shape[1]))
    x[:, 0], z[:, 0] = 1.0, 1.0
    codes = np.array([0, 1, 4, 4, 5, 6, 5, 2, 3, 0, 7, 7])[:n]
    standard_error = rng.uniform(0.2, 1.5, n) if errors else None
    return PredictedRows(Design(x, [z], offset), [codes], standard_error)


# Quantiles


def test_quantiles_of_mixtures_solve_their_equation(rng):
    weight = rng.dirichlet(np.ones(40))
    mean, variance = 5 * rng.normal(size=(40, 6)), rng.gamma(0.5, 2.0, size=(40, 6))
    variance[:, 1] *= 1e-10  # nearly points, far apart
    mean[:, 2] = 3.0  # one place, many widths
    mean[:, 3] += 1e8
    quantiles = mixture_quantiles(RowMixture(weight, mean, variance), LEVELS)
    for r in range(6):
        for k, level in enumerate(LEVELS):
            below = weight @ stats.norm.cdf(quantiles[r, k], mean[:, r], np.sqrt(variance[:, r]))
            # at 1e8 the roots are multiples of 1.5e-8, and so are steps of the narrow components
            assert below == pytest.approx(level, abs=1e-6 if r in (1, 3) else 1e-11)
    assert np.all(np.diff(quantiles, axis=1) > 0)
    np.testing.assert_allclose(quantiles[2, 1], 3.0, atol=1e-9)


def test_quantiles_of_one_normal_are_its_own():
    mixture = RowMixture(np.ones(1), np.array([[2.0, -1e6]]), np.array([[9.0, 1e-8]]))
    wanted = stats.norm.ppf(LEVELS[:, None], [2.0, -1e6], [3.0, 1e-4]).T
    np.testing.assert_allclose(mixture_quantiles(mixture, LEVELS), wanted, rtol=1e-10)


def test_far_tails_and_narrow_levels(rng):
    weight = np.array([1 - 1e-6, 1e-6])
    mixture = RowMixture(weight, np.array([[0.0], [0.0]]), np.array([[1.0], [1e8]]))
    levels = np.array([1e-9, 1 - 1e-9])
    quantiles = mixture_quantiles(mixture, levels)[0]
    assert quantiles[0] == pytest.approx(-quantiles[1], rel=1e-6)
    assert weight @ stats.norm.cdf(quantiles[0], 0.0, [1.0, 1e4]) == pytest.approx(1e-9, rel=1e-2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [1e-6, 0.05, 0.4, 0.9, 1 - 1e-6])
def test_odd_mixtures_solve_their_equation_to_the_last_digits(level, rng):
    weight = rng.dirichlet(np.full(60, 0.3))
    mean = 10.0 ** rng.uniform(-3, 3, 8) * rng.normal(size=(60, 8))
    variance = 10.0 ** rng.uniform(-3, 3, 8) * rng.gamma(0.3, 1.0, size=(60, 8)) + 1e-9
    quantiles = mixture_quantiles(RowMixture(weight, mean, variance), np.array([level]))[:, 0]
    tail = stats.norm.cdf if level < 0.5 else stats.norm.sf
    outside = weight @ tail(quantiles, mean, np.sqrt(variance))
    np.testing.assert_allclose(outside, min(level, 1 - level), rtol=1e-7)


@pytest.mark.filterwarnings("error")
def test_quantiles_of_points_among_normals():
    mixture = RowMixture(np.array([0.5, 0.5]), np.array([[2.0], [2.0]]), np.array([[0.0], [1.0]]))
    quantiles = mixture_quantiles(mixture, np.array([0.05, 0.4, 0.5, 0.95]))[0]
    np.testing.assert_allclose(quantiles, [2 + stats.norm.ppf(0.1), 2.0, 2.0, 2 + stats.norm.ppf(0.9)], atol=1e-9)


def test_quantiles_of_points_interpolate_them(rng):
    points = rng.normal(size=(4001, 1))
    quantiles = mixture_quantiles(RowMixture(np.full(4001, 1 / 4001), points, np.zeros_like(points)), LEVELS)
    np.testing.assert_allclose(quantiles[0], np.quantile(points[:, 0], LEVELS), atol=5e-3)


def test_infinite_variance_has_infinite_ends():
    variance = np.array([[1.0, 1.0, 0.0], [1.0, np.inf, 0.0]])
    mixture = RowMixture(np.array([0.3, 0.7]), np.array([[0.0, 5.0, 1.0], [0.0, 6.0, 1.0]]), variance)
    quantiles = mixture_quantiles(mixture, LEVELS)
    assert np.all(np.isfinite(quantiles[[0, 2]]))
    np.testing.assert_array_equal(quantiles[1, [0, 2]], [-np.inf, np.inf])
    assert quantiles[1, 1] == pytest.approx(5.7)


# Means and sds


@pytest.mark.parametrize("errors", [False, True])
def test_std_is_that_of_a_new_observation(rng, errors):
    problem, fit = fitted(rng, errors=errors)
    rows = rows_of(rng, problem, errors=errors)
    mean, std = predict_mean(fit.posterior, rows, return_std=True)
    x, [z], _ = rows.design.block(0, 8)
    wanted_mean, variance = fit.posterior.row_moments(x, [z], rows.codes)
    noise = rows.standard_error**2 if errors else fit.posterior.weight @ fit.posterior.variance_nodes().sigma ** 2
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-12)
    np.testing.assert_allclose(std**2, variance + noise, rtol=1e-12)
    assert predict_mean(fit.posterior, rows, return_std=False)[1] is None


@pytest.mark.parametrize("width", [1, 3])
def test_blocks_and_offsets(rng, monkeypatch, width):
    problem, fit = fitted(rng)
    offset = 10 * rng.normal(size=12)
    plain, moved = (
        rows_of(np.random.default_rng(1), problem, 12),
        rows_of(np.random.default_rng(1), problem, 12, offset),
    )
    mean, std = predict_mean(fit.posterior, plain, return_std=True)
    interval = predict_interval(fit.posterior, plain, coverage=0.8, kind="mean")
    monkeypatch.setattr(design, "ROWS_PER_BLOCK", width)
    monkeypatch.setattr(_prediction, "CACHED_NUMBERS", fit.posterior.n_nodes * width)
    other_mean, other_std = predict_mean(fit.posterior, moved, return_std=True)
    np.testing.assert_allclose(other_mean, mean + offset, rtol=1e-10)
    np.testing.assert_allclose(other_std, std, rtol=1e-10)
    other = predict_interval(fit.posterior, moved, coverage=0.8, kind="mean")
    np.testing.assert_allclose(other, interval + offset[:, None], rtol=1e-9)
    draws = sample_observations(fit.posterior, plain, 3, np.random.default_rng(5))
    moved_draws = sample_observations(fit.posterior, moved, 3, np.random.default_rng(5))
    np.testing.assert_allclose(moved_draws, draws + offset[:, None], rtol=1e-12)


def test_std_of_new_groups_is_infinite_where_tau2_has_no_mean(rng):
    _, fit = fitted(rng)
    # as if the second sd had a tail of 1.5 degrees; the slopes of known groups are told by their rows
    # (the prior's columns are those at zero; the engine has them at their means)
    to_prior = fit.model.parameters.location.prior_columns
    tails = Tails((GrowingSds((1,), False, 1.5),), np.zeros(3, dtype=bool), to_prior)
    endless = replace(fit.posterior, tails=tails)
    x, z = np.ones((4, 3)), np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 2.0], [1.0, 0.0]])
    rows = PredictedRows(Design(x, [z]), [np.array([5, 5, 0, 1])], None)
    _, std = predict_mean(endless, rows, return_std=True)
    np.testing.assert_array_equal(np.isinf(std), [False, True, False, False])
    assert np.all(np.isfinite(predict_interval(endless, rows, coverage=0.9, kind="prediction")))


# Work done


@pytest.mark.parametrize("errors", [False, True])
def test_intervals_are_found_once_for_each_distinct_row_and_group(rng, monkeypatch, errors):
    problem, fit = fitted(rng, errors=errors)
    few = rows_of(rng, problem, 12, errors=errors)
    x, [z], _ = few.design.block(0, 12)
    at = rng.integers(0, 12, 500)
    codes = few.codes[0][at]
    codes = np.where(codes >= 5, 5 + rng.integers(0, 40, 500), codes)  # every new group has the same law
    many = PredictedRows(Design(x[at], [z[at]]), [codes], few.standard_error[at] if errors else None)
    asked = []
    row_mixture = type(fit.posterior).row_mixture
    monkeypatch.setattr(
        type(fit.posterior),
        "row_mixture",
        lambda self, x, z, codes: asked.append(len(x)) or row_mixture(self, x, z, codes),
    )
    for kind in ("prediction", "mean"):
        asked.clear()
        found = predict_interval(fit.posterior, many, coverage=0.8, kind=kind)
        assert sum(asked) <= 12
        np.testing.assert_allclose(
            found, predict_interval(fit.posterior, few, coverage=0.8, kind=kind)[at], rtol=1e-10, atol=1e-12
        )


def test_rows_of_equal_keys_are_told_apart(monkeypatch):
    columns = [np.array([1.0, 2.0, 1.0, 3.0, 2.0]), np.array([0.0, 0.0, -0.0, 1.0, 5.0])]
    honest, position = _prediction.distinct_rows(columns)
    np.testing.assert_array_equal(position, [0, 1, 0, 2, 3])
    np.testing.assert_array_equal(honest, [0, 1, 3, 4])
    monkeypatch.setattr(_prediction.pd.util, "hash_array", lambda column: np.zeros(len(column), dtype=np.uint64))
    first, position = _prediction.distinct_rows(columns)
    for column in columns:
        np.testing.assert_array_equal(column[first][position], column)


def test_quantiles_near_a_normal_take_one_look_at_the_distribution_function(rng, monkeypatch):
    weight = rng.dirichlet(np.ones(60))
    mixture = RowMixture(weight, 0.05 * rng.normal(size=(60, 200)), rng.uniform(0.9, 1.1, size=(60, 200)))
    looked = []
    ndtr = _prediction.ndtr
    monkeypatch.setattr(_prediction, "ndtr", lambda z: looked.append(z.size) or ndtr(z))
    quantiles = mixture_quantiles(mixture, np.array([0.05, 0.95]))
    assert sum(looked) == 2 * mixture.mean.size
    for k, level in enumerate([0.05, 0.95]):
        below = weight @ stats.norm.cdf(quantiles[:, k], mixture.mean, np.sqrt(mixture.variance))
        np.testing.assert_allclose(below, level, rtol=1e-12)


def test_blocks_of_many_columns_have_fewer_rows():
    rows = PredictedRows(Design(np.ones((3, 2_000)), [np.ones((3, 48))]), [np.zeros(3, dtype=int)], None)
    assert [at for at, *_ in rows.blocks()] == [slice(0, 3)]
    assert design.block_rows(2_048) * 2_048 <= design.NUMBERS_PER_BLOCK
    assert design.block_rows(4) == design.ROWS_PER_BLOCK


# Intervals against simulation from the nodes


@pytest.mark.parametrize("kind", ["mean", "prediction"])
@pytest.mark.parametrize("errors", [False, True])
def test_intervals_against_simulation(rng, kind, errors):
    problem, fit = fitted(rng, errors=errors)
    rows = rows_of(rng, problem, errors=errors)
    interval = predict_interval(fit.posterior, rows, coverage=0.83, kind=kind)
    x, [z], _ = rows.design.block(0, 8)
    mixture = fit.posterior.row_mixture(x, [z], rows.codes)
    n = 400_000
    at = rng.choice(fit.posterior.n_nodes, n, p=fit.posterior.weight)
    sigma = fit.posterior.variance_nodes().sigma[at]
    for r in range(8):
        draws = mixture.mean[at, r] + np.sqrt(mixture.variance[at, r]) * rng.standard_normal(n)
        if kind == "prediction":
            draws += rng.standard_normal(n) * (rows.standard_error[r] if errors else sigma)
        share = np.mean(draws <= interval[r, 0]), np.mean(draws <= interval[r, 1])
        np.testing.assert_allclose(share, [0.085, 0.915], atol=5 * np.sqrt(0.085 * 0.915 / n))


def test_intervals_of_draws_are_quantiles_of_draws(rng):
    draws, J, n = 2000, 3, 4
    posterior = DrawsPosterior(
        common=rng.normal(size=(draws, 2)),
        sigma=rng.gamma(5.0, 0.2, draws),
        group_sd=[rng.gamma(5.0, 0.2, (draws, 1))],
        correlation=[np.ones((draws, 1, 1))],
        effects=[rng.normal(size=(draws, J, 1))],
        n_chains=1,
    )
    x, z, codes = rng.normal(size=(n, 2)), rng.normal(size=(n, 1)), np.array([0, 2, 2, 3])
    rows = PredictedRows(Design(x, [z]), [codes], None)
    interval = predict_interval(posterior, rows, coverage=0.9, kind="mean")
    predictor = posterior.common @ x[:3].T + posterior.effects[0][:, codes[:3], 0] * z[:3, 0]
    np.testing.assert_allclose(interval[:3], np.quantile(predictor, [0.05, 0.95], axis=0).T, atol=0.01)
    # a new group has normal effects given each draw: smooth
    mean = posterior.common @ x[3]
    sd = posterior.group_sd[0][:, 0] * abs(z[3, 0])
    below = stats.norm.cdf(interval[3, :, None], mean, sd).mean(axis=1)
    np.testing.assert_allclose(below, [0.05, 0.95], atol=1e-8)


# Draws


def test_draws_have_the_moments_and_quantiles_of_predictions(rng):
    problem, fit = fitted(rng)
    rows = rows_of(rng, problem)
    draws = sample_observations(fit.posterior, rows, 60_000, rng)
    assert draws.shape == (8, 60_000)
    mean, std = predict_mean(fit.posterior, rows, return_std=True)
    np.testing.assert_allclose((draws.mean(axis=1) - mean) / std, 0.0, atol=0.03)
    np.testing.assert_allclose(draws.std(axis=1) / std, 1.0, atol=0.04)
    interval = predict_interval(fit.posterior, rows, coverage=0.9, kind="prediction")
    outside = np.mean((draws < interval[:, :1]) | (draws > interval[:, 1:]), axis=1)
    np.testing.assert_allclose(outside, 0.1, atol=0.01)


def test_two_new_groups_differ_by_two_taus_and_two_sigmas(rng):
    _, fit = fitted(rng, q=1)
    x = np.ones((3, 3))
    rows = PredictedRows(Design(x, [np.ones((3, 1))]), [np.array([5, 6, 5])], None)
    draws = sample_observations(fit.posterior, rows, 100_000, rng)
    nodes, weight = fit.posterior.variance_nodes(), fit.posterior.weight
    tau2, sigma2 = weight @ nodes.group_sd[0][:, 0] ** 2, weight @ nodes.sigma**2
    assert np.var(draws[0] - draws[1]) == pytest.approx(2 * tau2 + 2 * sigma2, rel=0.05)
    # rows of one new group share its effect, not the noise
    assert np.var(draws[0] - draws[2]) == pytest.approx(2 * sigma2, rel=0.05)


def test_columns_are_joint_draws(rng):
    # the covariance of two rows of a known group, and of rows of different groups through the common coefficients
    problem, fit = fitted(rng)
    rows = rows_of(rng, problem)
    draws = sample_observations(fit.posterior, rows, 40_000, rng)
    x, [z], _ = rows.design.block(0, 8)
    for a, b in ((2, 3), (0, 1), (4, 6), (4, 5)):
        # through contrasts: Var(a + b) - Var(a - b) = 4 Cov(a, b)
        codes = rows.codes[0]
        if codes[a] == codes[b]:
            together = fit.posterior.row_mixture(x[[a]] + x[[b]], [z[[a]] + z[[b]]], [codes[[a]]]).moments()[1][0]
            apart = fit.posterior.row_mixture(x[[a]] - x[[b]], [z[[a]] - z[[b]]], [codes[[a]]]).moments()[1][0]
            wanted = (together - apart) / 4
        else:
            variance = fit.posterior.common_moments()[1]
            effects = fit.posterior.group_moments()
            wanted = x[a] @ variance @ x[b]
            for known, other in ((a, b), (b, a)):
                if codes[known] < problem.n_groups:
                    wanted += x[other] @ effects.with_common[codes[known]] @ z[known]
            if max(codes[[a, b]]) < problem.n_groups:
                wanted += z[a] @ between_groups(fit.posterior, codes[a], codes[b]) @ z[b]
        scale = draws[a].std() * draws[b].std()
        assert np.cov(draws[a], draws[b])[0, 1] / scale == pytest.approx(wanted / scale, abs=0.03)


def between_groups(posterior, i, j):
    """Posterior covariance of the effects of two groups, by many exact draws of other routines."""
    effects = posterior.joint_draws(50_000, np.random.default_rng(9), [np.array([i, j])]).effects[0]
    q = effects.shape[2]
    return np.cov(effects[:, 0].T, effects[:, 1].T)[:q, q:]


@pytest.mark.parametrize("pooling", ["partial", "none"])
def test_mixing_seen_and_unseen_rows_changes_nothing(rng, pooling):
    problem, fit = fitted(rng)
    posterior = fit.posterior
    if pooling == "none":
        posterior = fit_no_pooling(fit.model, fit.posterior.scaling, True)
    rows = rows_of(rng, problem, 12)
    x, [z], _ = rows.design.block(0, 12)
    mean, std = predict_mean(posterior, rows, return_std=True)
    interval = predict_interval(posterior, rows, coverage=0.9, kind="prediction")
    for r in range(12):
        alone = PredictedRows(Design(x[r : r + 1], [z[r : r + 1]]), [rows.codes[0][r : r + 1]], None)
        alone_mean, alone_std = predict_mean(posterior, alone, return_std=True)
        np.testing.assert_allclose(alone_mean, mean[r], rtol=1e-9)
        np.testing.assert_allclose(alone_std, std[r], rtol=1e-7)
        np.testing.assert_allclose(
            predict_interval(posterior, alone, coverage=0.9, kind="prediction")[0], interval[r], rtol=1e-8
        )


def test_draws_of_nuts_share_the_interface(rng):
    draws, J = 50, 3
    correlation = np.array([[1.0, 0.4], [0.4, 1.0]])
    posterior = DrawsPosterior(
        common=rng.normal(size=(draws, 2)),
        sigma=rng.gamma(5.0, 0.2, draws),
        group_sd=[rng.gamma(5.0, 0.2, (draws, 2))],
        correlation=[np.tile(correlation, (draws, 1, 1))],
        effects=[rng.normal(size=(draws, J, 2))],
        n_chains=2,
    )
    n = 5
    x, z, codes = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)), np.array([0, 2, 3, 4, 3])
    mean, variance = posterior.row_moments(x, [z], [codes])
    known = posterior.common @ x[:2].T + np.einsum("srk,rk->sr", posterior.effects[0][:, codes[:2]], z[:2])
    np.testing.assert_allclose(mean[:2], known.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance[:2], known.var(axis=0), rtol=1e-12)
    Sigma = np.mean([correlation * np.outer(sd, sd) for sd in posterior.group_sd[0]], axis=0)
    wanted = np.var(posterior.common @ x[2]) + z[2] @ Sigma @ z[2]
    assert variance[2] == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(posterior.row_moments(x, [z], [codes], need_variance=False)[0], mean, rtol=1e-12)
    moments = posterior.group_moments()
    np.testing.assert_allclose(moments.covariance[1], np.cov(posterior.effects[0][:, 1].T, bias=True), rtol=1e-12)
    cross = np.cov(posterior.common.T, posterior.effects[0][:, 1].T, bias=True)[:2, 2:]
    np.testing.assert_allclose(moments.with_common[1], cross, rtol=1e-10, atol=1e-14)
    predictor, sigma = posterior.row_draws(x, [z], [codes], 40_000, rng)
    assert np.var(predictor[:, 2]) == pytest.approx(wanted, rel=0.05)
    np.testing.assert_array_equal(sigma > 0, True)
    assert len(np.unique(posterior.joint_draws(draws, rng, [np.array([0])]).variance.sigma)) == draws
