"""The marginal posterior of the variance parameters against dense matrices, quadrature and numeric differences."""

import numpy as np
import pytest
from scipy.special import erfinv

from hbsk._engine import group_passes
from hbsk._engine.fit import engine_common_prior, marginal_model
from hbsk._engine.group_algebra import (
    congruences,
    marginal_inverse,
    nonnegative,
    relative_inverse,
    rotate_groups,
    unpack_symmetric,
)
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.priors import EnginePriors
from hbsk._engine.scaling import standardise
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.variance_parameters import RESIDUAL_SD_FLOOR, VarianceParameters
from tests import dense
from tests.dense import engine_covariance, make_priors, make_problem, random_covariance

KINDS = pytest.mark.parametrize(
    ("weights", "errors"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["plain", "f", "se", "f+se"],
)
UNIFORM = SdPrior("Uniform", {"lower": 0.1, "upper": 3.0})


# The likelihood


@KINDS
@pytest.mark.parametrize("q", [1, 2, 3, 4])
@pytest.mark.parametrize("has_intercept", [True, False])
def test_likelihood_is_the_dense_multivariate_normal(rng, q, has_intercept, weights, errors):
    problem = make_problem(rng, q=q, has_intercept=has_intercept, weights=weights, errors=errors)
    priors = make_priors(rng, problem)
    model, scaling = marginal_model(problem.collect(), priors)
    factors, sigmas, wanted = [], [], []
    for scale in (0.2, 1.0, 30.0):
        sigma = 1.0 if errors else rng.uniform(0.2, 2.0)
        *_, Sigma = random_covariance(rng, q, scale)
        factor, engine_sigma = engine_covariance(scaling, sigma, Sigma)
        if errors:  # the unit of the noise is the standard error itself
            factor, engine_sigma = factor * engine_sigma, 1.0
        factors.append(factor)
        sigmas.append(engine_sigma)
        # y / y_scale has a density larger by y_scale^n
        wanted.append(dense.log_marginal(problem, priors, sigma, Sigma) + model.sums.n * np.log(scaling.y_scale))
    found = model.log_marginal_likelihood(np.array(factors), np.array(sigmas))
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-9)


def test_fractional_weights_are_powers_of_densities(rng):
    problem = make_problem(rng, weights=True)
    priors = make_priors(rng, problem)
    weight, sigma = rng.uniform(0.2, 2.5, problem.n_rows), 0.7
    problem = dense.replace(problem, weight=weight)
    *_, Sigma = random_covariance(rng, 2)
    # N(y; eta, s^2)^f = N(y; eta, s^2 / f) sqrt(2 pi s^2 / f) (2 pi s^2)^(-f / 2)
    as_errors = dense.replace(problem, weight=None, standard_error=sigma / np.sqrt(weight))
    centred = dense.replace(as_errors, X=problem.centred(), has_intercept=False)
    wanted = dense.log_marginal(centred, priors, np.nan, Sigma)
    wanted += 0.5 * np.sum(np.log(2 * np.pi * sigma**2 / weight) - weight * np.log(2 * np.pi * sigma**2))
    model, scaling = marginal_model(problem.collect(), priors)
    factor, engine_sigma = engine_covariance(scaling, sigma, Sigma)
    found = model.log_marginal_likelihood(factor[None], np.array([engine_sigma]))
    assert found[0] == pytest.approx(wanted + weight.sum() * np.log(scaling.y_scale), rel=1e-10)


@pytest.mark.parametrize("q", [1, 3])
def test_flat_priors_give_the_restricted_likelihood(rng, q):
    problem = make_problem(rng, q=q)
    priors = make_priors(rng, problem, flat=(0, 1, 2))
    _, scaling = standardise(problem.collect())
    model, _ = marginal_model(problem.collect(), priors)
    assert not model.prior_precision.any()
    X = problem.centred()
    X[:, 1:] /= scaling.x_scale[1:]
    sigma, (*_, Sigma) = 0.9, random_covariance(rng, q)
    factor, engine_sigma = engine_covariance(scaling, sigma, Sigma)
    wanted = dense.log_restricted(problem, sigma, Sigma, X)
    # y and b in the engine are in units of y_scale
    wanted += (model.sums.n - 3) * np.log(scaling.y_scale)
    assert model.log_marginal_likelihood(factor[None], np.array([engine_sigma]))[0] == pytest.approx(wanted, rel=1e-10)


def test_one_flat_prior_is_the_limit_of_wide_ones(rng):
    problem = make_problem(rng)
    priors = make_priors(rng, problem)
    wide, flat = priors.common_sd.copy(), priors.common_sd.copy()
    wide[1], flat[1] = 1e7, np.inf
    found = []
    for sd in (wide, flat):
        model, scaling = marginal_model(problem.collect(), dense.replace(priors, common_sd=sd))
        found.append(model.log_marginal_likelihood(0.7 * np.eye(2)[None], np.array([0.6]))[0])
    _, precision = engine_common_prior(dense.replace(priors, common_sd=wide), scaling, True)
    # the density of the wide prior at its centre; a flat one has density 1
    assert found[0] - found[1] == pytest.approx(0.5 * np.log(precision[1] / (2 * np.pi)), abs=1e-8)


def test_constant_columns_change_nothing(rng):
    problem = make_problem(rng)
    priors = make_priors(rng, problem)
    model, _ = marginal_model(problem.collect(), priors)
    wider = dense.replace(problem, X=np.insert(problem.X, 1, 5.25, axis=1))
    priors = dense.replace(
        priors, common_mean=np.insert(priors.common_mean, 1, 3.0), common_sd=np.insert(priors.common_sd, 1, 0.1)
    )
    other, _ = marginal_model(wider.collect(), priors)
    point = (0.7 * np.eye(2)[None], np.array([0.6]))
    assert other.log_marginal_likelihood(*point)[0] == pytest.approx(
        model.log_marginal_likelihood(*point)[0], rel=1e-12
    )


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_blocks_and_threads_change_nothing(rng, monkeypatch, kept, n_threads):
    problem = make_problem(rng, q=3, n_groups=150, n_rows=400)
    priors = make_priors(rng, problem)
    model, _ = marginal_model(problem.collect(), priors)
    theta = 0.5 * rng.normal(size=(3, model.parameters.n_dim))
    value, gradient = model.value_and_gradient(theta)
    monkeypatch.setattr(group_passes, "BLOCK_CELLS", 7)
    monkeypatch.setattr(group_passes, "KEPT_PRODUCTS", kept)
    monkeypatch.setattr(group_passes, "BLOCKS_FOR_THREADS", 2)
    monkeypatch.setattr(group_passes, "n_threads", lambda: n_threads)
    first, second = (marginal_model(problem.collect(), priors)[0].value_and_gradient(theta) for _ in range(2))
    np.testing.assert_allclose(first[0], value, rtol=1e-12)
    np.testing.assert_allclose(first[1], gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("q", [1, 2, 4])
def test_relative_inverse_is_the_inverse(rng, q):
    roots = rng.normal(size=(6, q, q))
    zz = np.einsum("jki,jli->klj", roots, roots)
    zz[:, :, 2] = 0.0  # a group without rows
    factor = np.array([np.linalg.cholesky(random_covariance(rng, q, scale)[2]) for scale in (0.1, 3.0)])
    inverse = unpack_symmetric(relative_inverse(zz, factor), q)
    for m in range(2):
        prior_precision = np.linalg.inv(factor[m] @ factor[m].T)
        for j in range(6):
            np.testing.assert_allclose(inverse[m, :, :, j], np.linalg.inv(zz[:, :, j] + prior_precision), rtol=1e-9)


@pytest.mark.parametrize("q", [1, 2, 4])
def test_marginal_inverse_and_rotated_sums(rng, q):
    roots = rng.normal(size=(6, q + 1, q))
    roots[1, 1:] = 0.0  # one row
    roots[2] = 0.0  # a group without rows
    others = rng.normal(size=(6, q + 1, 3))
    zz, zx = np.einsum("jki,jkl->ilj", roots, roots), np.einsum("jki,jka->iaj", roots, others)
    lower, rotated = rotate_groups(zz, zx)
    covariance = np.array([random_covariance(rng, q, scale)[2] for scale in (0.1, 3.0)])
    packed, determinant = marginal_inverse(congruences(lower), covariance)
    inverse = unpack_symmetric(packed, q)
    for m in range(2):
        for j in range(6):
            np.testing.assert_allclose(lower[:, :, j] @ lower[:, :, j].T, zz[:, :, j], atol=1e-12)
            full = np.eye(q + 1) + roots[j] @ covariance[m] @ roots[j].T  # of the rows of the group
            wanted = others[j].T @ np.linalg.inv(full) @ others[j]
            within = others[j].T @ others[j] - rotated[:, :, j].T @ rotated[:, :, j]
            found = within + rotated[:, :, j].T @ inverse[m, :, :, j] @ rotated[:, :, j]
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)
            assert determinant[m, j] == pytest.approx(np.linalg.det(full), rel=1e-11)


def test_nonnegative_leaves_what_is_semidefinite_and_clips_the_rest():
    # the second column is zero, as y is where groups explain all of it
    matrix = np.array([[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 9.0]])
    np.testing.assert_allclose(nonnegative(matrix, np.diag(matrix)), matrix, atol=1e-14)
    below = np.array([[1.0, 1.0 + 1e-10], [1.0 + 1e-10, 1.0]])
    np.testing.assert_allclose(nonnegative(below, np.diag(below)), np.ones((2, 2)), rtol=1e-9)
    assert np.linalg.eigvalsh(nonnegative(below, np.diag(below)))[0] > -1e-15


def test_zero_between_group_sd_is_complete_pooling(rng):
    problem = make_problem(rng)
    priors = make_priors(rng, problem)
    model, scaling = marginal_model(problem.collect(), priors)
    found = model.log_marginal_likelihood(np.zeros((1, 2, 2)), np.array([0.6]))[0]
    wanted = dense.log_marginal(problem, priors, 0.6 * scaling.y_scale, np.zeros((2, 2)))
    assert found == pytest.approx(wanted + model.sums.n * np.log(scaling.y_scale), rel=1e-10)


@pytest.mark.parametrize("share", [1e-3, 1e-5, 1e-6, 3e-7, 1e-7])
def test_columns_that_hardly_vary_within_groups_may_explain_y_there(rng, share):
    # what no coefficients explain within groups is a floor under residuals: it must not be put too high
    codes, inside = np.repeat(np.arange(12), 10), rng.normal(size=120)
    columns = np.column_stack([np.ones(120), rng.normal(size=12)[codes] + share * inside, rng.normal(size=120)])
    y = inside + 0.1 * rng.normal(size=120)
    problem = dense.Problem(columns, np.ones((120, 1)), codes, 12, y, None, None)
    half_t, half_normal = SdPrior("HalfStudentT", {"nu": 4.0, "sigma": 1.0}), SdPrior("HalfNormal", {"sigma": 2.0})
    flat = EnginePriors(np.zeros(3), np.full(3, np.inf), half_t, [half_normal], ((0,),), (1.0,))
    model, scaling = marginal_model(problem.collect(), flat)
    groups = (codes[:, None] == np.arange(12)).astype(float)
    both = np.column_stack([groups, inside, columns[:, 2]])  # the same space as of groups and columns
    left = np.sum((y - both @ np.linalg.lstsq(both, y, rcond=None)[0]) ** 2) / scaling.y_scale**2
    assert 0 <= model._least_residual <= left * (1 + 1e-9)
    if share > 1e-4:
        assert model._least_residual == pytest.approx(left, rel=1e-2)  # a floor worth its name


# The density of theta: sigma integrated out


@pytest.mark.parametrize(("n_rows", "n_groups", "p"), [(2, 1, 1), (5, 3, 2), (12, 4, 5), (31, 5, 3), (400, 9, 3)])
def test_sigma_is_integrated_as_a_fine_rule_does(rng, n_rows, n_groups, p):
    problem = make_problem(rng, q=2, p=p, n_rows=max(n_rows, 5), n_groups=n_groups).take(np.arange(n_rows))
    model, _ = marginal_model(problem.collect(), make_priors(rng, problem))
    assert model.parameters.integrated
    theta = np.vstack([np.zeros(3), rng.normal(size=(4, 3)) * [1.5, 1.5, 1.0]])
    points = model.evaluate(theta)
    # the trapezoid rule over the whole line is exact to rounding for a smooth density that falls exponentially
    grid = np.linspace(np.log(RESIDUAL_SD_FLOOR), 9.0, 6_001)
    sigma = RESIDUAL_SD_FLOOR + np.exp(grid)
    for i in range(len(theta)):
        factor, relative_sd = points.variance.relative_factor[i], points.variance.prior_sd[i]
        log_joint = model.log_marginal_likelihood(np.repeat(factor[None], len(grid), axis=0), sigma)
        log_joint += model.parameters.sd_log_prior(theta[i : i + 1], sigma[None], relative_sd[None])[0]
        joint = np.exp(log_joint - log_joint.max())
        assert joint[0] + joint[-1] < 1e-5
        log_total = np.log(joint.sum() * (grid[1] - grid[0])) + log_joint.max()
        log_total += model.parameters.correlation_log_prior(theta[i : i + 1])[0]
        log_total += model.parameters.location_log_prior(model.parameters.points(theta[i : i + 1]))[0]
        assert points.log_density[i] == pytest.approx(log_total, abs=2e-6)
        x = np.log(np.exp(points.log_sigma[i]) - RESIDUAL_SD_FLOOR)
        mean = grid @ joint / joint.sum()
        sd = np.sqrt((grid - mean) ** 2 @ joint / joint.sum())
        assert points.weight[i] @ x == pytest.approx(mean, abs=1e-4 * sd)
        assert np.sqrt(points.weight[i] @ (x - mean) ** 2) == pytest.approx(sd, rel=1e-4)
    np.testing.assert_allclose(points.weight.sum(axis=1), 1.0, rtol=1e-12)


def test_density_where_some_sd_is_fixed_is_prior_times_likelihood(rng):
    problem = make_problem(rng)
    priors = make_priors(rng, problem, residual_sd=0.8)
    model, scaling = marginal_model(problem.collect(), priors)
    theta = rng.normal(size=(4, 3))
    points = model.evaluate(theta)
    np.testing.assert_allclose(np.exp(points.log_sigma), 0.8 / scaling.y_scale, rtol=1e-13)
    likelihood = model.log_marginal_likelihood(points.variance.relative_factor, np.full(4, 0.8 / scaling.y_scale))
    sigma = np.full((4, 1), 0.8 / scaling.y_scale)
    prior = model.parameters.sd_log_prior(theta, sigma, points.variance.prior_sd)[:, 0]
    prior = prior + model.parameters.correlation_log_prior(theta)
    prior = prior + model.parameters.location_log_prior(points.variance)
    np.testing.assert_allclose(points.log_density, likelihood + prior, rtol=1e-12)


# The gradient


def configurations():
    half_normal, half_cauchy = SdPrior("HalfNormal", {"sigma": 1.7}), SdPrior("HalfCauchy", {"beta": 0.6})
    gamma, inverse_gamma = (
        SdPrior("Gamma", {"alpha": 2.2, "beta": 1.1}),
        SdPrior("InverseGamma", {"alpha": 2.1, "beta": 0.7}),
    )
    exponential, student = SdPrior("Exponential", {"lam": 0.8}), SdPrior("HalfStudentT", {"nu": 3.0, "sigma": 1.1})
    every = [half_normal, half_cauchy, gamma, student]
    for q in (1, 2, 3, 4):
        blocks = (tuple(range(q)),)
        yield f"integrated q={q}", q, student, every[:q], blocks
        yield f"fixed sigma q={q}", q, 0.8, every[:q], blocks
        yield f"bounded sigma q={q}", q, UNIFORM, every[:q], blocks
    yield "independent", 3, gamma, [exponential, inverse_gamma, half_normal], ((0,), (1,), (2,))
    yield "blocks", 4, half_normal, every, ((0, 2), (1, 3))
    yield "block and singles", 4, half_normal, every, ((3,), (0, 1, 2))
    yield "fixed tau", 2, student, [half_normal, 0.9], ((0, 1),)
    yield "all tau fixed", 2, student, [0.4, 0.9], ((0, 1),)
    yield "bounded tau", 2, student, [UNIFORM, half_normal], ((0, 1),)
    yield "all bounded", 2, UNIFORM, [UNIFORM, UNIFORM], ((0, 1),)
    yield "only correlation", 2, 0.8, [0.4, 0.9], ((0, 1),)


@pytest.mark.parametrize(
    ("q", "residual", "group", "blocks"), [c[1:] for c in configurations()], ids=[c[0] for c in configurations()]
)
@pytest.mark.parametrize("errors", [False, True])
def test_gradient_equals_numeric_differences(rng, q, residual, group, blocks, errors):
    problem = make_problem(rng, q=q, weights=True, errors=errors)
    priors = EnginePriors(
        rng.normal(size=3),
        np.array([2.0, np.inf, 1.3]),
        None if errors else residual,
        group,
        blocks,
        (1.4,) * len(blocks),
    )
    model, _ = marginal_model(problem.collect(), priors)
    n_dim = model.parameters.n_dim
    for scale in (0.3, 1.2):
        theta = scale * rng.normal(size=(3, n_dim))
        _, gradient = model.value_and_gradient(theta)
        step = 1e-4
        numeric = np.empty_like(gradient)
        for k in range(n_dim):
            shift = step * np.eye(n_dim)[k]
            near = model.evaluate(theta + shift).log_density - model.evaluate(theta - shift).log_density
            far = model.evaluate(theta + 2 * shift).log_density - model.evaluate(theta - 2 * shift).log_density
            numeric[:, k] = (8 * near - far) / (12 * step)
        # the integral over sigma is itself only good to 1e-6
        tolerance = 1e-5 if model.parameters.integrated else 1e-7
        np.testing.assert_allclose(gradient, numeric, rtol=tolerance, atol=tolerance * max(1, np.abs(numeric).max()))


# The conditional law of the common coefficients


@KINDS
def test_common_coefficients_given_the_variances(rng, weights, errors):
    problem = make_problem(rng, weights=weights, errors=errors)
    priors = make_priors(rng, problem, residual_sd=0.9)
    (tau, root, Sigma) = random_covariance(rng, 2)
    priors = dense.replace(priors, group_sd=list(tau))
    model, scaling = marginal_model(problem.collect(), priors)
    partial = root[1, 0]
    points = model.evaluate(np.array([[np.sqrt(2) * erfinv(partial)]]))
    _, eigenvalue, coordinate = points.common.at(points.log_sigma)
    mean = points.common.basis[0] @ coordinate[0, 0]
    covariance = points.common.basis[0] / eigenvalue[0, 0] @ points.common.basis[0].T
    wanted = dense.condition(problem, priors, 0.9, Sigma)
    unit = scaling.y_scale / scaling.x_scale
    found_mean = mean * unit
    found_mean[0] += scaling.y_centre
    np.testing.assert_allclose(found_mean, wanted.mean[:3], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(covariance * np.outer(unit, unit), wanted.covariance[:3, :3], rtol=1e-8, atol=1e-12)


# Invariance


@pytest.mark.parametrize("errors", [False, True])
def test_order_of_rows_and_labels_does_not_matter(rng, errors):
    problem = make_problem(rng, q=3, weights=True, errors=errors)
    priors = make_priors(rng, problem)
    theta = rng.normal(size=(3, 6))
    model, _ = marginal_model(problem.collect(), priors)
    order = rng.permutation(problem.n_groups)
    shuffled = dense.replace(problem, codes=order[problem.codes]).take(rng.permutation(problem.n_rows))
    other, _ = marginal_model(shuffled.collect(), priors)
    # independent of the sums only up to what small residual sds magnify
    np.testing.assert_allclose(
        other.evaluate(theta).log_density, model.evaluate(theta).log_density, rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize("factor", [1e-8, 1e8])
@pytest.mark.parametrize("errors", [False, True])
def test_units_of_y_and_of_columns_do_not_matter(rng, factor, errors):
    problem = make_problem(rng, errors=errors)
    priors = make_priors(rng, problem)
    X = problem.X * np.append(1.0, np.full(2, factor))
    other_unit = factor**0.5  # of y
    scaled = dense.replace(
        problem,
        X=X,
        Z=problem.Z * [1.0, factor],
        y=problem.y * other_unit,
        standard_error=None if not errors else problem.standard_error * other_unit,
    )
    unit = other_unit / np.append(1.0, np.full(2, factor))
    scaled_priors = EnginePriors(
        priors.common_mean * unit,
        priors.common_sd * unit,
        None if errors else priors.residual_sd.scaled(other_unit),
        [priors.group_sd[0].scaled(other_unit), priors.group_sd[1].scaled(other_unit / factor)],
        priors.blocks,
        priors.lkj_eta,
    )
    model, _ = marginal_model(problem.collect(), priors)
    other, _ = marginal_model(scaled.collect(), scaled_priors)
    theta = rng.normal(size=(3, model.parameters.n_dim))
    np.testing.assert_allclose(other.evaluate(theta).log_density, model.evaluate(theta).log_density, rtol=1e-9)


# Where digits are scarce


@pytest.mark.parametrize("relative_sd", [1e2, 1e4, 1e6])
def test_likelihood_stays_right_where_groups_explain_nearly_everything(rng, relative_sd):
    problem = make_problem(rng, q=1, p=2, n_rows=40)
    y = rng.normal(size=problem.n_groups)[problem.codes] + rng.normal(size=40) / relative_sd
    problem = dense.replace(problem, y=y)
    priors = make_priors(rng, problem)
    model, scaling = marginal_model(problem.collect(), priors)
    sigma = 1.3 / relative_sd
    factor, engine_sigma = engine_covariance(scaling, sigma, np.array([[0.8]]))
    found = model.log_marginal_likelihood(factor[None], np.array([engine_sigma]))[0]
    # n x n matrices lose digits here: the twin turns the rows into group means and contrasts within groups
    wanted = log_marginal_by_groups(problem, priors, sigma, 0.8)
    # squares within groups are 1 / relative_sd^2 of those in all: that share of their sixteen digits is gone
    assert found == pytest.approx(wanted + 40 * np.log(scaling.y_scale), abs=1e-14 * relative_sd**2 + 1e-8)


def log_marginal_by_groups(problem, priors, sigma, variance):
    """log p(y) of a varying-intercept model through orthogonal contrasts within groups."""
    X, contrasts, means = problem.centred(), [], []
    for group in range(problem.n_groups):
        rows = np.flatnonzero(problem.codes == group)
        basis = np.linalg.qr(np.column_stack([np.ones(len(rows)), np.eye(len(rows))[:, 1:]]))[0]
        full = np.zeros((len(rows), problem.n_rows))
        full[:, rows] = basis.T
        means.append(full[0] * np.sign(full[0, rows[0]]))
        contrasts.append(full[1:])
    contrasts, means = np.vstack(contrasts), np.array(means)
    size = np.bincount(problem.codes, minlength=problem.n_groups)
    K, m = np.diag(priors.common_sd**-2.0), priors.common_mean
    noise = np.concatenate([sigma**2 + variance * size, np.full(len(contrasts), sigma**2)])
    turned = np.vstack([means, contrasts])
    residual, XT = turned @ (problem.y - X @ m), turned @ X
    information = K + XT.T @ (XT / noise[:, None])
    moment = XT.T @ (residual / noise)
    square = np.sum(residual**2 / noise) - moment @ np.linalg.solve(information, moment)
    log_det = np.sum(np.log(noise)) + np.linalg.slogdet(information)[1] - np.linalg.slogdet(K)[1]
    return -0.5 * (problem.n_rows * np.log(2 * np.pi) + log_det + square)


def test_a_perfect_fit_is_finite_everywhere(rng):
    problem = make_problem(rng, q=2, p=2, n_rows=24, n_groups=4)
    problem = dense.replace(problem, y=np.array([0.3, -1.0, 2.2, 0.7])[problem.codes])
    model, _ = marginal_model(problem.collect(), make_priors(rng, problem))
    theta = np.vstack([np.array([14.0, 0.0, 0.0]), np.array([14.0, 14.0, 1.0]), 6 * rng.normal(size=(20, 3))])
    value, gradient = model.value_and_gradient(theta)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))


def test_more_columns_than_rows(rng):
    problem = make_problem(rng, q=1, p=9, n_rows=7, n_groups=3)
    priors = make_priors(rng, problem)
    model, scaling = marginal_model(problem.collect(), priors)
    sigma = 0.05
    factor, engine_sigma = engine_covariance(scaling, sigma, np.array([[0.8]]))
    found = model.log_marginal_likelihood(factor[None], np.array([engine_sigma]))[0]
    wanted = dense.log_marginal(problem, priors, sigma, np.array([[0.8]]))
    assert found == pytest.approx(wanted + 7 * np.log(scaling.y_scale), rel=1e-8)


def test_no_array_has_the_size_of_rows_times_groups(rng):
    import tracemalloc

    n_rows, n_groups = 40_000, 5_000
    codes = rng.integers(0, n_groups, n_rows)
    problem = dense.Problem(
        np.column_stack([np.ones(n_rows), rng.normal(size=n_rows)]),
        np.ones((n_rows, 1)),
        codes,
        n_groups,
        rng.normal(size=n_rows),
    )
    tracemalloc.start()
    model, _ = marginal_model(problem.collect(), make_priors(rng, problem))
    model.value_and_gradient(np.zeros((3, 1)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a byte for each row and group would be 200 MB
    assert peak < 40e6


def test_model_is_free_of_state(rng):
    problem = make_problem(rng)
    model, _ = marginal_model(problem.collect(), make_priors(rng, problem))
    theta = rng.normal(size=(4, 3))
    value, gradient = model.value_and_gradient(theta)
    again = MarginalModel(model.sums, model.parameters, model.prior_mean, model.prior_precision)
    np.testing.assert_array_equal(again.evaluate(theta).log_density, value)
    np.testing.assert_array_equal(model.gradient(model.evaluate(theta)), gradient)


def test_parameters_without_groups(rng):
    problem = make_problem(rng, p=3)
    sums, _ = standardise(dense.replace(problem, Z=np.zeros((problem.n_rows, 0))).collect())
    parameters = VarianceParameters(SdPrior("HalfStudentT", {"nu": 4.0, "sigma": 1.0}), (), (), ())
    model = MarginalModel(sums, parameters, np.zeros(3), np.full(3, 0.2))
    points = model.evaluate(np.zeros((1, 0)))
    assert np.isfinite(points.log_density[0])
    assert points.weight.sum() == pytest.approx(1.0)
