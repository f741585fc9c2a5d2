"""Answers of the marginal posterior against conditioning of one big normal law on y."""

import numpy as np
import pytest
from scipy.special import erfinv

from hbsk._engine import node_algebra as _node_algebra
from hbsk._posterior import group_moments as _group_moments
from hbsk._posterior import nodes as _posterior
from hbsk._posterior import parts as _posterior_parts
from hbsk._posterior.integrated import fit_marginal
from tests import dense
from tests.dense import make_priors, make_problem, random_covariance

KINDS = pytest.mark.parametrize(
    ("weights", "errors"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["plain", "f", "se", "f+se"],
)


def fixed_fit(rng, *, correlated=True, sigma=0.9, q=2, **kinds):
    """A fit in which every variance parameter is fixed (independent effects), and the dense law."""
    problem = make_problem(rng, q=q, **kinds)
    tau = rng.uniform(0.5, 1.8, q)
    priors = make_priors(rng, problem, residual_sd=sigma, blocks=tuple((k,) for k in range(q)))
    priors = dense.replace(priors, group_sd=list(tau))
    posterior = fit_marginal(problem.collect(), priors).posterior
    law = dense.condition(problem, priors, sigma, np.diag(tau**2)).raw(problem)
    return problem, posterior, law


@pytest.fixture(params=["plain", "f", "se", "f+se", "no intercept", "q=1", "q=4"])
def nodes_fit(request, rng):
    """A fit with unknown variance parameters, and the dense law at each of its nodes."""
    kinds = {
        "plain": {},
        "f": {"weights": True},
        "se": {"errors": True},
        "f+se": {"weights": True, "errors": True},
        "no intercept": {"has_intercept": False},
        "q=1": {"q": 1},
        "q=4": {"q": 4},
    }[request.param]
    problem = make_problem(rng, n_rows=24, **kinds)
    priors = make_priors(rng, problem)
    fit = fit_marginal(problem.collect(), priors)
    nodes = fit.posterior.variance_nodes()
    # the heaviest nodes carry nearly all; a posterior of their own keeps the dense side short
    keep = np.argsort(-fit.posterior.weight)[:12]
    weight = fit.posterior.weight[keep] / fit.posterior.weight[keep].sum()
    fields = {name: getattr(fit.posterior, name)[keep] for name in ("replicate", "sigma", "factor", "common_mean")}
    posterior = dense.replace(fit.posterior, weight=weight, **fields)
    laws = []
    for m in keep:
        tau = nodes.group_sd[0][m]
        Sigma = nodes.correlation[0][m] * np.outer(tau, tau)
        laws.append(dense.condition(problem, priors, nodes.sigma[m], Sigma).raw(problem))
    return problem, posterior, laws


def mixture(weight, laws):
    """Mean and covariance of a mixture of laws."""
    mean = sum(w * law.mean for w, law in zip(weight, laws, strict=True))
    covariance = sum(
        w * (law.covariance + np.outer(law.mean - mean, law.mean - mean)) for w, law in zip(weight, laws, strict=True)
    )
    return dense.Conditional(mean, covariance, laws[0].p, laws[0].q)


def new_rows(rng, problem, n=9):
    """Rows of known groups, each several times, and of two new groups."""
    x = rng.normal(size=(n, problem.X.shape[1])) * 2 + 0.3
    if problem.has_intercept:
        x[:, 0] = 1.0
    z = rng.normal(size=(n, problem.Z.shape[1]))
    codes = np.array([0, 1, 2, 4, 4, 5, 6, 5, 0])[:n]
    return x, z, codes


# Moments


@KINDS
def test_moments_of_coefficients_at_fixed_variances(rng, weights, errors):
    problem, posterior, law = fixed_fit(rng, weights=weights, errors=errors)
    mean, covariance = posterior.common_moments()
    np.testing.assert_allclose(mean, law.mean[:3], rtol=1e-9)
    np.testing.assert_allclose(covariance, law.covariance[:3, :3], rtol=1e-9, atol=1e-12)
    moments = posterior.group_moments()
    for j in range(problem.n_groups):
        at = slice(3 + 2 * j, 5 + 2 * j)
        np.testing.assert_allclose(moments.mean[j], law.mean[at], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(moments.covariance[j], law.covariance[at, at], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.with_common[j], law.covariance[:3, at], rtol=1e-8, atol=1e-11)


def test_moments_of_coefficients_average_over_nodes(nodes_fit):
    problem, posterior, laws = nodes_fit
    law = mixture(posterior.weight, laws)
    p, q = law.p, law.q
    mean, covariance = posterior.common_moments()
    np.testing.assert_allclose(mean, law.mean[:p], rtol=1e-8)
    np.testing.assert_allclose(covariance, law.covariance[:p, :p], rtol=1e-7, atol=1e-10)
    moments = posterior.group_moments()
    for j in range(problem.n_groups):
        at = slice(p + q * j, p + q * (j + 1))
        np.testing.assert_allclose(moments.mean[j], law.mean[at], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(moments.covariance[j], law.covariance[at, at], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(moments.with_common[j], law.covariance[:p, at], rtol=1e-6, atol=1e-8)


def test_mixture_of_coefficients(nodes_fit):
    _, posterior, laws = nodes_fit
    mean, sd = posterior.common_mixture()
    for m, law in enumerate(laws):
        np.testing.assert_allclose(mean[m], law.mean[: law.p], rtol=1e-8)
        np.testing.assert_allclose(sd[m], np.sqrt(np.diag(law.covariance))[: law.p], rtol=1e-7)


def test_rows_node_by_node(nodes_fit, rng):
    problem, posterior, laws = nodes_fit
    x, z, codes = new_rows(rng, problem)
    found = posterior.row_mixture(x, [z], [codes])
    for m, law in enumerate(laws):
        for r in range(len(x)):
            weights = law.row(x[r], z[r], min(codes[r], problem.n_groups))
            assert found.mean[m, r] == pytest.approx(weights @ law.mean, rel=1e-8, abs=1e-9)
            assert found.variance[m, r] == pytest.approx(weights @ law.covariance @ weights, rel=1e-7)


@pytest.mark.parametrize("n_rows", [3, 9], ids=["through the mixture", "through moments of groups"])
def test_moments_of_rows_by_both_routes(nodes_fit, rng, n_rows):
    problem, posterior, laws = nodes_fit
    law = mixture(posterior.weight, laws)
    x, z, codes = new_rows(rng, problem, n_rows)
    assert (len(x) <= problem.n_groups) == (n_rows == 3)
    mean, variance = posterior.row_moments(x, [z], [codes])
    mean_only, _ = posterior.row_moments(x, [z], [codes], need_variance=False)
    rows = [law.row(x[r], z[r], min(codes[r], problem.n_groups)) for r in range(n_rows)]
    np.testing.assert_allclose(mean, [weights @ law.mean for weights in rows], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(mean_only, mean, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(variance, [weights @ law.covariance @ weights for weights in rows], rtol=1e-7)


def test_rows_that_are_contrasts(nodes_fit, rng):
    problem, posterior, laws = nodes_fit
    law = mixture(posterior.weight, laws)
    x, z, codes = new_rows(rng, problem)
    x[:, 0] = [0.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 0.5, 0.0]
    mixed = posterior.row_mixture(x, [z], [codes])
    mean, variance = mixed.moments()
    rows = [law.row(x[r], z[r], min(codes[r], problem.n_groups)) for r in range(len(x))]
    np.testing.assert_allclose(mean, [weights @ law.mean for weights in rows], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(variance, [weights @ law.covariance @ weights for weights in rows], rtol=1e-7)


@pytest.mark.parametrize("elements", [1, 300])
def test_blocks_change_nothing(rng, monkeypatch, elements):
    problem = make_problem(rng, n_groups=40, n_rows=150)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    x, z = problem.X[:60], problem.Z[:60]
    codes = problem.codes[:60]
    moments, rows, shrinkage = posterior.group_moments(), posterior.row_moments(x, [z], [codes]), posterior.shrinkage()
    few = posterior.row_moments(x[:5], [z[:5]], [codes[:5]])
    for module in (_posterior, _posterior_parts, _group_moments):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", elements)
    other = posterior.group_moments()
    for name in ("mean", "covariance", "with_common"):
        np.testing.assert_allclose(getattr(other, name), getattr(moments, name), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(posterior.row_moments(x, [z], [codes]), rows, rtol=1e-12)
    np.testing.assert_allclose(posterior.row_moments(x[:5], [z[:5]], [codes[:5]]), few, rtol=1e-12)
    np.testing.assert_allclose(posterior.shrinkage(), shrinkage, rtol=1e-12)


def test_seen_and_unseen_rows_do_not_touch_each_other(rng):
    problem = make_problem(rng)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    x, z, codes = new_rows(rng, problem)
    together = posterior.row_mixture(x, [z], [codes])
    at = posterior.weight > 1e-15  # one node has tau = 268 sigma, the weight 1e-164 and fewer digits
    assert at.mean() > 0.9
    for r in range(len(x)):
        alone = posterior.row_mixture(x[r : r + 1], [z[r : r + 1]], [codes[r : r + 1]])
        np.testing.assert_allclose(together.mean[at, r], alone.mean[at, 0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(together.variance[at, r], alone.variance[at, 0], rtol=1e-12)


# Variance parameters and shrinkage


def test_variance_nodes_are_in_the_users_units(rng):
    tau, sigma = np.array([1.3, 0.4]), 0.9
    problem = make_problem(rng)
    priors = make_priors(rng, problem, residual_sd=sigma)
    posterior = fit_marginal(problem.collect(), dense.replace(priors, group_sd=list(tau))).posterior
    nodes = posterior.variance_nodes()
    np.testing.assert_allclose(nodes.sigma, sigma, rtol=1e-12)
    np.testing.assert_allclose(nodes.group_sd[0], np.tile(tau, (posterior.n_nodes, 1)), rtol=1e-12)
    correlation = nodes.correlation[0]
    np.testing.assert_allclose(correlation[:, [0, 1], [0, 1]], 1.0, rtol=1e-14)
    np.testing.assert_array_equal(correlation[:, 0, 1], correlation[:, 1, 0])
    assert np.ptp(correlation[:, 0, 1]) > 0.5
    assert np.all(np.abs(correlation) <= 1)
    # rho = L[1, 0] and relative factor = diag(tau / sigma) L, in engine units
    relative = posterior.factor[:, 1] / np.linalg.norm(posterior.factor[:, 1], axis=1)[:, None]
    np.testing.assert_allclose(correlation[:, 0, 1], relative[:, 0], rtol=1e-12)


def test_shrinkage_of_varying_intercepts_is_lambda(rng):
    problem = make_problem(rng, q=1, weights=True)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    nodes = posterior.variance_nodes()
    copies = np.bincount(problem.codes, problem.weight)
    tau2, sigma2 = nodes.group_sd[0][:, :1] ** 2, nodes.sigma[:, None] ** 2
    wanted = posterior.weight @ (tau2 / (tau2 + sigma2 / copies))
    np.testing.assert_allclose(posterior.shrinkage()[:, 0], wanted, rtol=1e-9)


def test_shrinkage_is_the_share_of_variance_that_the_data_take(rng):
    problem, posterior, _ = fixed_fit(rng, q=3, weights=True)
    tau = posterior.variance_nodes().group_sd[0][0]
    Sigma = np.diag(tau**2)
    found = posterior.shrinkage()
    copied = problem.copied()
    for j in range(problem.n_groups):
        Z = copied.Z[copied.codes == j]
        conditional = np.linalg.inv(Z.T @ Z / 0.9**2 + np.linalg.inv(Sigma))
        np.testing.assert_allclose(found[j], 1 - np.diag(conditional) / tau**2, rtol=1e-9)


# Draws


def test_joint_draws_have_the_moments_of_the_posterior(rng):
    problem = make_problem(rng, q=2, n_rows=40)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    n = 40_000
    draws = posterior.joint_draws(n, rng, [np.array([4, 0, 7, 5])])
    assert draws.common.shape == (n, 3)
    assert draws.effects[0].shape == (n, 4, 2)
    mean, covariance = posterior.common_moments()
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(draws.common.mean(axis=0) - mean), 5 * sd / np.sqrt(n))
    moments = posterior.group_moments()
    for place, group in ((0, 4), (1, 0)):
        effects = draws.effects[0][:, place]
        np.testing.assert_array_less(
            np.abs(effects.mean(axis=0) - moments.mean[group]), 5 * effects.std(axis=0) / np.sqrt(n)
        )
        scale = np.sqrt(np.diag(moments.covariance[group]))
        np.testing.assert_allclose(
            np.cov(effects.T) / np.outer(scale, scale), moments.covariance[group] / np.outer(scale, scale), atol=0.05
        )
        cross = np.cov(draws.common.T, effects.T)[:3, 3:] / np.outer(sd, scale)
        np.testing.assert_allclose(cross, moments.with_common[group] / np.outer(sd, scale), atol=0.05)
    # new groups: mean 0, the posterior mean of Sigma, independent of each other given the variance parameters
    nodes = posterior.variance_nodes()
    tau2 = posterior.weight @ nodes.group_sd[0] ** 2
    for place in (2, 3):
        effects = draws.effects[0][:, place]
        np.testing.assert_array_less(np.abs(effects.mean(axis=0)), 5 * np.sqrt(tau2 / n))
        np.testing.assert_allclose(effects.var(axis=0), tau2, rtol=0.15)
    between = np.corrcoef(draws.effects[0][:, 2].T, draws.effects[0][:, 3].T)[:2, 2:]
    np.testing.assert_allclose(between, 0.0, atol=0.03)
    # variance parameters come with the effects that they shape
    assert draws.variance.sigma.mean() == pytest.approx(posterior.weight @ nodes.sigma, rel=0.01)
    size = np.abs(draws.effects[0][:, 3, 0]) / draws.variance.group_sd[0][:, 0]
    assert size.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)
    slope = draws.effects[0][:, 3, 0] * draws.effects[0][:, 3, 1] / np.prod(draws.variance.group_sd[0], axis=1)
    correlation = draws.variance.correlation[0][:, 0, 1]
    assert np.mean(slope) == pytest.approx(correlation.mean(), abs=0.03)
    assert np.mean(slope * correlation) == pytest.approx(np.mean(correlation**2), abs=0.03)


def test_row_draws_have_the_law_of_rows(rng):
    problem = make_problem(rng)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    x, z, codes = new_rows(rng, problem)
    predictor, sigma = posterior.row_draws(x, [z], [codes], 20_000, rng)
    mean, variance = posterior.row_moments(x, [z], [codes])
    np.testing.assert_allclose(predictor.mean(axis=0), mean, atol=0.04 * np.sqrt(variance).max())
    np.testing.assert_allclose(predictor.std(axis=0), np.sqrt(variance), rtol=0.06)
    assert sigma.shape == (20_000, 1)


def test_rows_of_one_new_group_share_its_effects(rng):
    problem = make_problem(rng)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    x, z = np.repeat(problem.X[:1], 3, axis=0), np.array([[1.0, 0.0]] * 3)
    predictor, _ = posterior.row_draws(x, [z], [np.array([5, 6, 5])], 20_000, rng)
    np.testing.assert_array_equal(predictor[:, 0], predictor[:, 2])
    tau2 = posterior.weight @ posterior.variance_nodes().group_sd[0][:, 0] ** 2
    assert np.var(predictor[:, 0] - predictor[:, 1]) == pytest.approx(2 * tau2, rel=0.1)


def test_a_row_asked_for_twice_has_one_draw(rng):
    problem = make_problem(rng)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    x, z, codes = new_rows(rng, problem)
    twice = [np.concatenate([part, part]) for part in (x, z, codes)]
    predictor, _ = posterior.row_draws(twice[0], [twice[1]], [twice[2]], 50, rng)
    np.testing.assert_array_equal(predictor[:, : len(x)], predictor[:, len(x) :])


def test_draws_are_determined_by_the_generator(rng):
    problem = make_problem(rng)
    posterior = fit_marginal(problem.collect(), make_priors(rng, problem)).posterior
    first, second, third = (
        posterior.joint_draws(20, np.random.default_rng(seed), [np.array([0, 6])]) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.effects[0], second.effects[0])
    assert not np.array_equal(first.effects[0], third.effects[0])


def test_resampling_takes_each_node_as_often_as_its_weight_says(rng):
    weight = rng.dirichlet(np.full(30, 0.5))
    at = _node_algebra.systematic_resample(weight, 1000, rng)
    times = np.bincount(at, minlength=30)
    assert np.all(np.abs(times - 1000 * weight) < 1 + 1e-9)
    assert np.any(np.diff(at) < 0)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_factors_of_semidefinite_matrices_multiply_to_them(rng, size, rank):
    root = size * rng.normal(size=(20, 3, 3)) * (np.arange(3) < rank)
    matrices = root @ root.swapaxes(1, 2)
    lower = _node_algebra.semidefinite_cholesky(matrices[:, :rank, :rank])
    np.testing.assert_allclose(lower, np.linalg.cholesky(matrices[:, :rank, :rank]), rtol=1e-8, atol=1e-9 * size)
    matrices[:, 0] = matrices[:, :, 0] = 0.0
    lower = _node_algebra.semidefinite_cholesky(matrices[:, :2, :2])
    np.testing.assert_allclose(lower @ lower.swapaxes(1, 2), matrices[:, :2, :2], atol=1e-9 * size**2)


def test_resampling_never_takes_a_node_without_weight(rng):
    for _ in range(20):
        assert set(_node_algebra.systematic_resample(np.array([0.0, 0.3, 0.7]), 10, rng)) == {1, 2}


@pytest.mark.parametrize("n_points", [4, 17])
def test_finer_grids_interpolate_cubics_from_end_to_end(n_points):
    at = np.arange(n_points)
    finer = np.linspace(0, n_points - 1, _node_algebra.FINER * (n_points - 1) + 1)
    for power in range(4):
        found = _node_algebra._cubic_interpolation(n_points) @ at.astype(float) ** power
        np.testing.assert_allclose(found, finer**power, rtol=1e-9, atol=1e-9)


def test_sigma_is_drawn_from_its_law_given_theta(rng):
    # a grid of few points stands for a smooth law; its quantiles at even levels must have the moments of the grid
    problem = make_problem(rng)
    fit = fit_marginal(problem.collect(), make_priors(rng, problem))
    points = fit.model.evaluate(rng.normal(size=(4, 3)))
    level = (np.arange(4000) + 0.5) / 4000
    for log_sigma, weight in zip(points.log_sigma, points.weight, strict=True):
        drawn = _node_algebra.conditional_quantile(np.tile(log_sigma, (4000, 1)), np.tile(weight, (4000, 1)), level)
        assert np.all(np.diff(drawn) >= 0)
        # moments of the grid are spectrally exact, as test_marginal.py shows
        mean = weight @ log_sigma
        sd = np.sqrt(weight @ (log_sigma - mean) ** 2)
        assert drawn.mean() == pytest.approx(mean, abs=2e-3 * sd)
        assert drawn.std() == pytest.approx(sd, rel=5e-3)
        skewness = weight @ (log_sigma - mean) ** 3 / sd**3
        assert np.mean((drawn - drawn.mean()) ** 3) / drawn.std() ** 3 == pytest.approx(skewness, abs=0.02)


def test_several_levels_have_the_quantiles_of_each(rng):
    grid = np.sort(rng.normal(size=(5, 17)), axis=1)
    weight, levels = rng.dirichlet(np.ones(17), size=5), rng.random((5, 3))
    together = _node_algebra.conditional_quantile(grid, weight, levels)
    each = [_node_algebra.conditional_quantile(grid, weight, level) for level in levels.T]
    np.testing.assert_array_equal(together, np.stack(each, axis=1))


def test_one_correlation_at_its_true_place(rng):
    # a fixed correlation by way of theta: what is stored must be what was evaluated
    problem = make_problem(rng)
    tau, root, Sigma = random_covariance(rng, 2)
    priors = dense.replace(make_priors(rng, problem, residual_sd=0.7), group_sd=list(tau))
    fit = fit_marginal(problem.collect(), priors)
    theta = np.array([[np.sqrt(2) * erfinv(root[1, 0])]])
    points = fit.model.evaluate(theta)
    posterior = _posterior.marginal_posterior(
        points, np.ones(1), np.zeros(1, int), 0.0, np.array([0.5]), fit.model, fit.posterior.scaling, True
    )
    law = dense.condition(problem, priors, 0.7, Sigma).raw(problem)
    moments = posterior.group_moments()
    np.testing.assert_allclose(moments.mean.ravel(), law.mean[3:-2], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(moments.covariance[4], law.covariance[11:13, 11:13], rtol=1e-8)


def test_no_groups(rng):
    problem = make_problem(rng)
    bare = dense.collect(dense.Design(problem.X, []), None, 0, problem.y, has_intercept=True)
    priors = dense.replace(make_priors(rng, problem, residual_sd=0.8), group_sd=[], blocks=(), lkj_eta=())
    posterior = fit_marginal(bare, priors).posterior
    law = dense.condition(problem, priors, 0.8, np.zeros((2, 2))).raw(problem)
    mean, covariance = posterior.common_moments()
    np.testing.assert_allclose(mean, law.mean[:3], rtol=1e-9)
    np.testing.assert_allclose(covariance, law.covariance[:3, :3], rtol=1e-8)
    assert posterior.n_groups == ()
    x = problem.X[:4]
    found_mean, variance = posterior.row_moments(x, [], [])
    np.testing.assert_allclose(found_mean, x @ mean, rtol=1e-9)
    np.testing.assert_allclose(variance, np.einsum("ri,ij,rj->r", x, covariance, x), rtol=1e-9)
    draws = posterior.joint_draws(3, rng, [])
    assert draws.effects == []
